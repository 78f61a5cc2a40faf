//! Other processes, and what this one may do.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    process::Command,
};

use crate::{
    files::pids,
    list, say,
    sys::{call, in_child, name, told},
};

/// The lines of /proc/self/status that say how a process is confined.
const STATUS: [&str; 13] = [
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Groups",
    "Uid",
    "Gid",
    "SigBlk",
    "Umask",
];

const PTRACE_SEIZE: usize = 0x4206;
const PR_SET_NO_NEW_PRIVS: usize = 38;
const PR_CAP_AMBIENT: usize = 47;
const PR_SET_DUMPABLE: usize = 4;
const CAP_SYS_ADMIN: usize = 21;

pub fn attempts() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for wanted in STATUS {
        let line = status.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(':'));
        let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        say(&format!("status:{wanted}"), &words.join(","));
    }
    for kind in ["mnt", "uts", "ipc", "net", "pid", "cgroup", "user"] {
        let link = fs::read_link(format!("/proc/self/ns/{kind}"));
        say(&format!("ns:{kind}"), &link.map_or("?".into(), |link| link.display().to_string()));
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    say("uid-map", &map.split_whitespace().collect::<Vec<_>>().join(","));
    say("session", if alone() { "own" } else { "shared" });
    say("stronger", &list(pids().into_iter().filter(|pid| stronger(*pid)).map(program).collect()));
    say("traced", &list(pids().into_iter().filter(|pid| trace(*pid)).map(program).collect()));
    let vm = pids().into_iter().filter(|pid| read_memory(*pid));
    say("memory-read", &list(vm.map(program).collect()));
    for pid in [1, own_parent()] {
        let who = if pid == 1 { "init" } else { "parent" };
        // getrlimit and the like of another: 0 would be this process.
        let limit = if pid == 0 { "outside".to_owned() } else { limit(pid) };
        say(&format!("prlimit:{who}"), &limit);
    }
    say("kcmp", &told(call!(libc::SYS_kcmp, 1, 1, 0, 0, 0)));
    say("pidfd-getfd", &pidfd_getfd());
    // PID 1 does not get it from inside; the test sees that the container is still there.
    say("kill-init", &told(call!(libc::SYS_kill, 1, libc::SIGKILL)));
    say("rights-raised", &in_child(raise));
    say("ambient", &told(call!(libc::SYS_prctl, PR_CAP_AMBIENT, 2, CAP_SYS_ADMIN, 0, 0)));
    say("new-privs", &told(call!(libc::SYS_prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)));
    say("undumpable", &in_child(|| told(call!(libc::SYS_prctl, PR_SET_DUMPABLE, 2, 0, 0, 0))));
    say("setuid-program", &setuid_program());
}

fn own_parent() -> i32 {
    call!(libc::SYS_getppid).map_or(0, |pid| pid as i32)
}

/// Whether neither group nor session are of somebody outside.
fn alone() -> bool {
    let group = call!(libc::SYS_getpgid, 0).unwrap_or(0);
    let session = call!(libc::SYS_getsid, 0).unwrap_or(0);
    group != 0 && session != 0
}

/// What a process runs, for a message that is the same each time.
fn program(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim().replace(' ', "_");
    if pid == 1 { format!("init={name}") } else { name }
}

fn is_self(pid: i32) -> bool {
    pid == std::process::id() as i32
}

/// Whether a process that is seen has a capability that this one has not.
fn stronger(pid: i32) -> bool {
    let of = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let sets = status.lines().filter_map(|line| {
            let set =
                ["CapPrm:", "CapBnd:", "CapInh:"].iter().find_map(|s| line.strip_prefix(s))?;
            u64::from_str_radix(set.trim(), 16).ok()
        });
        sets.fold(0, |all, set| all | set)
    };
    of(&pid.to_string()) & !of("self") != 0
}

/// PTRACE_SEIZE, which does not even stop what it traces.
fn trace(pid: i32) -> bool {
    !is_self(pid) && in_child(|| told(call!(libc::SYS_ptrace, PTRACE_SEIZE, pid, 0, 0))) == "ok"
}

/// process_vm_readv(2) of a byte that is mapped nowhere: EFAULT comes after the rights.
fn read_memory(pid: i32) -> bool {
    let mut byte = [0u8; 1];
    let local = pair(byte.as_mut_ptr() as usize, 1);
    let remote = pair(8, 1);
    let arguments = (&local[..], &remote[..]);
    let answer = call!(libc::SYS_process_vm_readv, pid, arguments.0, 1, arguments.1, 1, 0);
    !is_self(pid) && matches!(answer, Ok(_) | Err(rustix::io::Errno::FAULT))
}

/// `struct iovec`
fn pair(address: usize, length: usize) -> Vec<u8> {
    [address, length].iter().flat_map(|n| n.to_ne_bytes()).collect()
}

/// Asks for the limit of core files, and changes nothing.
fn limit(pid: i32) -> String {
    let mut old = [0u8; 16];
    told(call!(libc::SYS_prlimit64, pid, 4, 0, &mut old[..]))
}

fn pidfd_getfd() -> String {
    match call!(libc::SYS_pidfd_open, 1, 0) {
        Ok(fd) => told(call!(libc::SYS_pidfd_getfd, fd, 0, 0)),
        Err(errno) => format!("open-{}", name(errno)),
    }
}

/// capset(2) with every capability there is.
fn raise() -> String {
    // _LINUX_CAPABILITY_VERSION_3, this process; effective, permitted and inheritable, twice.
    let header: Vec<u8> = [0x2008_0522u32, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
    let data: Vec<u8> =
        [!0u32, !0, !0, 0x1ff, 0x1ff, 0x1ff].iter().flat_map(|n| n.to_ne_bytes()).collect();
    told(call!(libc::SYS_capset, &header[..], &data[..]))
}

/// A set-user-id copy of this program, started by a user who is not root: its effective id and capabilities.
fn setuid_program() -> String {
    let own = std::env::current_exe().unwrap_or_default();
    let copy = ["/target/tmp/escape-setuid", "/tmp/escape-setuid"]
        .into_iter()
        .find(|path| fs::copy(&own, path).is_ok());
    let Some(copy) = copy else { return "uncopied".to_owned() };
    let _ = chown(copy, Some(0), Some(0));
    let _ = fs::set_permissions(copy, fs::Permissions::from_mode(0o4755));
    let answer = in_child(|| {
        let _ = call!(libc::SYS_setresgid, 1000, 1000, 1000);
        let _ = call!(libc::SYS_setresuid, 1000, 1000, 1000);
        let output = Command::new(copy).arg("euid").output();
        output.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stdout).into_owned())
    });
    let _ = fs::remove_file(copy);
    answer.trim().to_owned()
}

/// What a set-user-id program has become.
pub fn print_rights() {
    let id = call!(libc::SYS_geteuid).unwrap_or(usize::MAX);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    println!("{id}:{}", set.trim());
}
