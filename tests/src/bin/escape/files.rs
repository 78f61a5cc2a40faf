//! Files of the host, by what this process was given and by what proc shows.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::{Host, list, say, secrets, sys::told_io};

/// What would do something on the host when it is written.
const WRITTEN: [&str; 22] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/proc/mtrr",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/oops_count",
    "/sys/power/state",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/release_agent",
    "/sys/fs/cgroup/devices/release_agent",
    "/sys/fs/cgroup/devices/devices.allow",
];

/// What tells of the host.
const READ: [&str; 12] = [
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/keys",
    "/proc/key-users",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/acpi",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/kernel/debug",
];

/// The processes that this one sees.
pub fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub fn attempts(host: &Host) {
    say("fds", &list(open_files()));
    say("stdio", &stdio());
    say("cwd", &fs::read_link("/proc/self/cwd").map_or("?".into(), |p| p.display().to_string()));
    say("canary", &list(read_canary("", &host.canary)));
    say("canary-above", &list(read_canary("/../../../../..", &host.canary)));
    say("canary-by-proc", &list(by_links_of_proc(&host.canary)));
    say("secrets-in-environ", &list(in_files_of_proc("environ")));
    say("secrets-in-cmdline", &list(in_files_of_proc("cmdline")));
    say("secrets-in-memory", &list(pids().into_iter().flat_map(in_memory).collect()));
    say("programs-written", &list(programs_written()));
    for path in WRITTEN {
        // As O_WRONLY alone: nothing is cut off, nothing is written.
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
        say(&format!("write:{path}"), &told_io(opened));
    }
    for path in READ {
        say(&format!("read:{path}"), &read(path));
    }
    say("writable:/proc/sys", &writable(Path::new("/proc/sys"), 9));
    say("writable:/sys", &writable(Path::new("/sys"), 3));
}

/// What was left open for this process besides its streams. The directory that is read is gone by then.
fn open_files() -> Vec<String> {
    let names: Vec<_> = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().collect();
    let open = names.iter().filter(|e| !["0", "1", "2"].iter().any(|n| e.file_name() == *n));
    let links =
        open.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()));
    links.filter(|link| *link != format!("/proc/{}/fd", std::process::id())).collect()
}

fn stdio() -> String {
    let kinds = [0, 1, 2].map(|fd| {
        let path = format!("/proc/self/fd/{fd}");
        let link = fs::read_link(&path).map_or(String::new(), |p| p.display().to_string());
        let kind = fs::metadata(&path).map(|meta| meta.file_type());
        match kind {
            Ok(kind) if kind.is_fifo() => "pipe".to_owned(),
            Ok(kind) if kind.is_socket() => "socket".to_owned(),
            Ok(kind) if kind.is_char_device() && link.starts_with("/dev/pts/") => "tty".to_owned(),
            Ok(kind) if kind.is_char_device() && link.ends_with("/null") => "null".to_owned(),
            _ => link,
        }
    });
    kinds.join("-")
}

/// The secrets in the beginning of a regular file. Pipes and terminals are left alone: what is read from them is
/// lost to whom it is for.
pub fn secrets_of_file(path: &str) -> Vec<String> {
    if !fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        return Vec::new();
    }
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut bytes = Vec::new();
    let read = opened.and_then(|file| file.take(1 << 16).read_to_end(&mut bytes));
    if read.is_ok() { secrets(&bytes) } else { Vec::new() }
}

fn read_canary(before: &str, canary: &str) -> Vec<String> {
    secrets_of_file(&format!("{before}{canary}"))
}

/// CVE-2024-21626 and its like: a directory of the host that some process has still, and all that lies below it.
fn by_links_of_proc(canary: &str) -> Vec<String> {
    let mut found = Vec::new();
    for pid in pids() {
        let mut ways = vec![format!("/proc/{pid}/root"), format!("/proc/{pid}/cwd")];
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        ways.extend(fds.map(|fd| fd.path().display().to_string()));
        for way in ways {
            for up in ["", "/..", "/../..", "/../../../../../.."] {
                found.extend(read_canary(&format!("{way}{up}"), canary));
            }
            found.extend(read_canary(&way, ""));
        }
    }
    found
}

fn in_files_of_proc(name: &str) -> Vec<String> {
    let of = |pid| secrets_of_file(&format!("/proc/{pid}/{name}"));
    pids().into_iter().flat_map(of).collect()
}

/// Secrets in what a process has written to its memory. This process is left out: it has what it found.
fn in_memory(pid: i32) -> Vec<String> {
    if pid == std::process::id() as i32 {
        return Vec::new();
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let Ok(mut memory) = File::open(format!("/proc/{pid}/mem")) else { return Vec::new() };
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text| u64::from_str_radix(text, 16).ok();
        let Some((Some(from), Some(to))) = range.map(|(a, b)| (number(a), number(b))) else {
            continue;
        };
        let mut bytes = vec![0; (to - from).min(4 << 20) as usize];
        if memory.seek(SeekFrom::Start(from)).is_ok() && memory.read(&mut bytes).is_ok() {
            found.extend(secrets(&bytes));
        }
    }
    found
}

/// The programs of processes that can be written through proc (CVE-2019-5736).
fn programs_written() -> Vec<String> {
    let mut found = Vec::new();
    for pid in pids() {
        let path = format!("/proc/{pid}/exe");
        if OpenOptions::new().write(true).open(&path).is_ok() {
            let link = fs::read_link(&path).unwrap_or_default();
            found.push(format!("{pid}={}", link.display()));
        }
    }
    found
}

/// `empty` for a file or a directory that shows nothing.
fn read(path: &str) -> String {
    if fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
        let entries = fs::read_dir(path).map(Iterator::count);
        return if matches!(entries, Ok(0)) { "empty".to_owned() } else { told_io(entries) };
    }
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    if path.ends_with("kmsg") {
        // What is read from it is lost to whoever keeps the kernel's log.
        return told_io(opened);
    }
    match opened.and_then(|mut file| file.read(&mut [0; 64])) {
        Ok(0) => "empty".to_owned(),
        other => told_io(other),
    }
}

/// Whether anything below a directory can be written: what, or none.
fn writable(dir: &Path, depth: usize) -> String {
    let mut found = Vec::new();
    let mut queue = vec![(dir.to_owned(), depth)];
    while let Some((dir, depth)) = queue.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth > 0 {
                queue.push((entry.path(), depth - 1));
            } else if kind.is_file()
                && accessat(CWD, entry.path(), Access::WRITE_OK, AtFlags::EACCESS).is_ok()
            {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found.sort();
    found.truncate(4);
    list(found)
}
