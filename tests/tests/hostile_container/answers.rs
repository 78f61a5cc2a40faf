//! What each attempt may answer.

use crate::places::{Kind, Place};

/// What a container may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    Confined,
    Privileged,
}

/// A name (with `*` at its end: all that begin so), and its answers, parted by `|`: in a confined container, in a
/// privileged one with ids of its own, and in a privileged one with the host's ids, which is root of the host.
/// `*` is any answer, `!ok` any that does not tell of success.
type Row = (&'static str, &'static str, &'static str, &'static str);

const REFUSED: &str = "EPERM|EACCES|EROFS|ENOENT";
const HIDDEN: &str = "empty|ENOENT|EACCES|EPERM";
/// What the kernel gives to the capabilities of its first user namespace alone, or has not.
const OF_ROOT: &str = "EPERM|ENOSYS";
const DEFAULT: &str = "00000000a80425fb";
const NO_CAPABILITY: &str = "0000000000000000";

/// The first row whose name fits counts.
const TABLE: &[Row] = &[
    // What is the host's is reached by nobody, and what the agent had is not passed on.
    ("fds", "none", "none", "none"),
    ("cwd", "/", "/", "/"),
    ("canary*", "none", "none", "none"),
    ("secrets*", "none", "none", "none"),
    ("programs-written", "none", "none", "none"),
    ("abstract-socket", "ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED"),
    ("session", "own", "own", "own"),
    ("stronger", "none", "none", "none"),
    ("chroot-breakout", "none", "none", "none"),
    ("status:CapInh", NO_CAPABILITY, NO_CAPABILITY, NO_CAPABILITY),
    ("status:CapAmb", NO_CAPABILITY, NO_CAPABILITY, NO_CAPABILITY),
    // Its own group alone: none of those that the agent has.
    ("status:Groups", "0", "0", "0"),
    ("status:SigBlk", NO_CAPABILITY, NO_CAPABILITY, NO_CAPABILITY),
    ("status:Uid", "0,0,0,0", "0,0,0,0", "0,0,0,0"),
    ("status:Gid", "0,0,0,0", "0,0,0,0", "0,0,0,0"),
    ("status:Umask", "0022", "0022", "0022"),
    // Alike however a process was started.
    ("status:Cap*", DEFAULT, "*", "*"),
    ("status:NoNewPrivs", "1", "0", "0"),
    ("status:Seccomp", "2", "0", "0"),
    ("status:Seccomp_filters", "1", "0", "0"),
    // Files of proc and sysfs. Those of its own namespaces a privileged container may write.
    ("write:/proc/sys/kernel/ns_last_pid", REFUSED, "ok|ENOENT", "*"),
    ("write:/proc/sys/net/*", REFUSED, "ok", "*"),
    ("write:/sys/fs/cgroup/*", REFUSED, "*", "*"),
    ("write:*", REFUSED, REFUSED, "*"),
    ("writable:/proc/sys", "none", "*", "*"),
    ("writable:/sys", "none", "none", "*"),
    ("read:/proc/key*", HIDDEN, "*", "*"),
    ("read:/sys/firmware", HIDDEN, "*", "*"),
    ("read:*", HIDDEN, HIDDEN, "*"),
    // Devices. A privileged container has those of the host.
    ("device:*", "ENOENT", "*", "*"),
    ("node:*", "!ok", "!ok", "*"),
    ("host-disk", "EPERM", "EPERM", "*"),
    ("tiocsti*", "EPERM", "*", "*"),
    ("tioclinux", "EPERM", "*", "*"),
    // Other processes: of the container itself, and PID 1 cannot be killed from inside.
    ("prlimit:init", "ok", "ok", "ok"),
    ("prlimit:parent", "outside|ok", "outside", "outside"),
    ("kcmp", "EPERM", "*", "*"),
    ("pidfd-getfd", "EPERM", "*", "*"),
    ("kill-init", "ok", "ok", "ok"),
    ("rights-raised", "EPERM", "*", "*"),
    ("ambient", "EPERM", "EPERM", "EPERM"),
    ("new-privs", "EINVAL", "EINVAL", "EINVAL"),
    ("undumpable", "EINVAL", "EINVAL", "EINVAL"),
    ("setuid-program", "1000:0000000000000000", "*", "*"),
    // Keyrings.
    ("key-of-session", "EPERM", "ENOKEY", "ENOKEY"),
    ("key-of-*", "EPERM", "ENOKEY", "*"),
    ("keyctl-*", "EPERM", "*", "*"),
    ("request-key", "EPERM", "ENOKEY", "*"),
    ("add-key", "EPERM", "*", "*"),
    // Doors to the kernel.
    ("bpf", "EPERM", "*", "*"),
    ("perf-event-open", "EPERM", "*", "*"),
    ("io-uring-setup", "EPERM", "*", "*"),
    ("userfaultfd", "EPERM", "*", "*"),
    ("kexec-*", "EPERM", OF_ROOT, "*"),
    ("init-module", "EPERM", OF_ROOT, "*"),
    ("finit-module", "EPERM", OF_ROOT, "*"),
    ("delete-module", "EPERM", OF_ROOT, "*"),
    ("swap*", "EPERM", OF_ROOT, "*"),
    ("acct", "EPERM", OF_ROOT, "*"),
    ("syslog", "EPERM", OF_ROOT, "*"),
    ("adjtimex", "EPERM", OF_ROOT, "*"),
    ("fanotify-init", "EPERM", OF_ROOT, "*"),
    ("vhangup", "EPERM", OF_ROOT, "*"),
    ("io*", "EPERM", OF_ROOT, "*"),
    ("reboot", "EPERM", "*", "*"),
    ("clock-settime", "EPERM", "*", "*"),
    ("settimeofday", "EPERM", "*", "*"),
    ("quotactl", "EPERM", "*", "*"),
    ("nfsservctl", "EPERM", "*", "*"),
    ("lookup-dcookie", "EPERM", "*", "*"),
    ("move-pages", "EPERM", "*", "*"),
    ("migrate-pages", "EPERM", "*", "*"),
    ("process-madvise", "EPERM", "*", "*"),
    ("personality:*", "EPERM", "*", "*"),
    ("vsock", "EPERM", "*", "*"),
    ("alg", "EPERM", "*", "*"),
    // A kernel that has no 32-bit programs answers with a fault.
    ("32-bit", "killed-by-31|killed-by-11", "*", "*"),
    ("x32", "ENOSYS", "*", "*"),
    // Mounts and namespaces. A privileged container has a mount namespace of its own to do it in.
    ("mount:devtmpfs:", "EPERM", "EPERM|ENODEV", "*"),
    ("mount:debugfs:", "EPERM", "EPERM|ENODEV", "*"),
    ("mount:securityfs:", "EPERM", "EPERM|ENODEV", "*"),
    ("mount*", "EPERM", "*", "*"),
    ("bind:*", "EPERM", "*", "*"),
    ("remount:*", "EPERM", "*", "*"),
    ("umount:*", "EPERM", "*", "*"),
    ("open-tree*", "EPERM", "*", "*"),
    ("open-by-handle", "EPERM", "!ok", "*"),
    ("move-mount", "EPERM", "*", "*"),
    ("fsopen", "EPERM", "*", "*"),
    ("fspick", "EPERM", "*", "*"),
    ("pivot-root", "EPERM", "!ok", "!ok"),
    ("unshare:*", "EPERM", "*", "*"),
    ("clone:*", "EPERM", "*", "*"),
    ("setns:*", "EPERM", "*", "*"),
    ("clone3", "ENOSYS", "*", "*"),
    ("user-namespace-then-mount", "EPERM", "*", "*"),
];

/// The namespaces that a container has for itself.
const NAMESPACES: [&str; 6] = ["mnt", "uts", "ipc", "net", "pid", "cgroup"];

/// Whether an answer is one that may be given there. `None`: the table does not know the attempt.
pub fn may_answer(name: &str, answer: &str, place: &Place) -> Option<bool> {
    if let Some(kind) = name.strip_prefix("ns:") {
        let own = NAMESPACES.contains(&kind) || place.own_ids;
        return Some((answer != conti_tests::host::namespace("self", kind)) == own);
    }
    let by_place = match name {
        "stdio" if place.tty => "tty-tty-tty",
        "stdio" => "null-pipe-pipe|pipe-pipe-pipe",
        "terminals" if place.tty => "0",
        "terminals" => "none",
        "uid-map" if place.own_ids => {
            return Some(answer.starts_with("0,") && answer.ends_with(",65536"));
        }
        "uid-map" => "0,0,4294967295",
        // The container's own command, and never what Conti has put there.
        "traced" | "memory-read" => match (place.kind, place.init) {
            (Kind::Run, _) => "none",
            (_, true) => "sleep",
            (_, false) => "init=sleep",
        },
        _ => {
            let row = TABLE.iter().find(|row| fits(row.0, name))?;
            match (place.rights, place.own_ids) {
                (Rights::Confined, _) => row.1,
                (Rights::Privileged, true) => row.2,
                (Rights::Privileged, false) => row.3,
            }
        }
    };
    Some(by_place.split('|').any(|one| match one {
        "*" => true,
        "!ok" => !answer.split(',').any(|part| part == "ok"),
        one => one == answer,
    }))
}

/// The rows that stand for nothing that was tried.
pub fn unused<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Vec<&'static str> {
    let mut used = vec![false; TABLE.len()];
    for name in names {
        if let Some(row) = TABLE.iter().position(|row| fits(row.0, name)) {
            used[row] = true;
        }
    }
    TABLE.iter().zip(used).filter(|(_, used)| !used).map(|(row, _)| row.0).collect()
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}
