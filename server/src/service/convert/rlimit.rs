//! Resource limits by name (getrlimit(2)).

use std::collections::BTreeSet;

use conti_proto::v1;
use conti_runtime::plan::Rlimit;

use super::{Field, Violations, violation::quote};

/// Their names, in the order of the RLIMIT_* numbers of x86_64 and aarch64.
const NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// Checks the limits of a process: known names, each once, the soft limit not above the hard.
pub fn rlimits(v: &mut Violations, at: Field<'_>, messages: &[v1::Rlimit]) -> Vec<Rlimit> {
    let mut seen = BTreeSet::new();
    let mut limits = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let at = at.index(index);
        let Some(resource) = NAMES.iter().position(|name| *name == message.name) else {
            let known = NAMES.join(", ");
            v.add(at.name("name"), format_args!("{} is none of {known}", quote(&message.name)));
            continue;
        };
        if !seen.insert(resource) {
            v.add(at.name("name"), format_args!("{} is given twice", quote(&message.name)));
        }
        if message.soft > message.hard {
            let (soft, hard) = (message.soft, message.hard);
            v.add(at.name("soft"), format_args!("is {soft}, above the hard limit {hard}"));
        }
        limits.push(Rlimit { resource: resource as u32, soft: message.soft, hard: message.hard });
    }
    limits
}

/// A limit as a message.
pub fn rlimit_back(limit: Rlimit) -> v1::Rlimit {
    let name = NAMES.get(limit.resource as usize).copied().unwrap_or("unknown");
    v1::Rlimit { name: name.to_owned(), soft: limit.soft, hard: limit.hard }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernel() {
        for (name, number) in [
            ("cpu", libc::RLIMIT_CPU),
            ("core", libc::RLIMIT_CORE),
            ("nofile", libc::RLIMIT_NOFILE),
            ("as", libc::RLIMIT_AS),
            ("memlock", libc::RLIMIT_MEMLOCK),
            ("rttime", libc::RLIMIT_RTTIME),
        ] {
            assert_eq!(NAMES[number as usize], name);
        }
    }

    #[test]
    fn faults_of_limits_are_named() {
        let limit = |name: &str, soft, hard| v1::Rlimit { name: name.into(), soft, hard };
        let mut v = Violations::default();
        let at = Field::root("rlimits");
        let good = [limit("nofile", 1, 2), limit("core", 0, u64::MAX)];
        assert_eq!(rlimits(&mut v, at, &good).len(), 2);
        assert!(v.is_empty());
        let bad = [limit("RLIMIT_NOFILE", 1, 2), limit("core", 2, 1), limit("core", 1, 1)];
        rlimits(&mut v, at, &bad);
        let fields: Vec<&str> = v.named().iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["rlimits[0].name", "rlimits[1].soft", "rlimits[2].name"]);
    }
}
