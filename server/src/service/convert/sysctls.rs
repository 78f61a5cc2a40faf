//! Kernel parameters: only such as belong to a namespace of the container's own.

use std::collections::BTreeMap;

use super::{Field, Violations, text};
use crate::engine::spec::{Namespace, Namespaces};

const VALUE_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// Checks the kernel parameters of a container with these namespaces.
pub fn check(
    v: &mut Violations,
    at: Field<'_>,
    sysctls: &BTreeMap<String, String>,
    namespaces: &Namespaces,
) {
    for (name, value) in sysctls {
        let at = at.key(name);
        if let Some(problem) = name_problem(name) {
            v.add(at, problem);
        } else if let Some(problem) = owner_problem(name, namespaces) {
            v.add(at, problem);
        }
        text::no_nul(v, at, value);
        if value.is_empty() || value.len() > VALUE_MAX {
            v.add(at, format_args!("has a value that is empty or longer than {VALUE_MAX} bytes"));
        }
    }
}

/// The name becomes a path below /proc/sys, where `.` separates and `/` stands for a dot: no part
/// of it may be empty, as `..` would make it.
fn name_problem(name: &str) -> Option<&'static str> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-/".contains(c);
    if name.len() > NAME_MAX || !name.chars().all(good) {
        Some("is no name of a kernel parameter: it has up to 255 of a-z, 0-9, `_`, `.`, `-`, `/`")
    } else if name.split(['.', '/']).any(str::is_empty) {
        Some("is no name of a kernel parameter: one of its parts is empty")
    } else {
        None
    }
}

fn owner_problem(name: &str, namespaces: &Namespaces) -> Option<&'static str> {
    let dotted = name.replace('/', ".");
    let below = |prefix: &str| dotted.strip_prefix(prefix).is_some();
    let ipc = below("kernel.shm") || below("kernel.msg") || dotted == "kernel.sem";
    let (owner, problem) = if below("net.") {
        (&namespaces.net, "needs a private net namespace")
    } else if ipc || below("fs.mqueue.") {
        (&namespaces.ipc, "needs a private ipc namespace")
    } else if dotted == "kernel.hostname" || dotted == "kernel.domainname" {
        return Some("is set with the fields hostname and domainname");
    } else {
        return Some(
            "belongs to the whole host: only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* can be set",
        );
    };
    (*owner != Namespace::Private).then_some(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(name: &str, namespaces: &Namespaces) -> bool {
        let mut v = Violations::default();
        let sysctls = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        check(&mut v, Field::root("sysctls"), &sysctls, namespaces);
        v.is_empty()
    }

    #[test]
    fn only_parameters_of_private_namespaces_can_be_set() {
        let private = Namespaces::default();
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/ip_forward",
            "net.ipv4.conf.eth0/100.rp_filter",
            "kernel.shmmax",
            "kernel.msgmni",
            "kernel.sem",
            "fs.mqueue.msg_max",
        ] {
            assert!(allowed(name, &private), "{name}");
        }
        for name in [
            "",
            "net",
            "net.",
            "net..ipv4",
            "net.ipv4/../../kernel/core_pattern",
            "net/../kernel/core_pattern",
            "/net/ipv4",
            "net.ipv4.\n",
            "netx.a",
            "kernel.core_pattern",
            "kernel.semaphore",
            "kernel.hostname",
            "kernel.domainname",
            "vm.swappiness",
            "fs.mqueuex",
            "fs.file-max",
        ] {
            assert!(!allowed(name, &private), "{name}");
        }
        let shared = Namespaces {
            net: Namespace::Host,
            ipc: Namespace::Container("a".into()),
            ..Namespaces::default()
        };
        for name in ["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max"] {
            assert!(!allowed(name, &shared), "{name}");
        }
    }
}
