//! What /proc and /sys say about the machine: processes, mounts, cgroups, loop devices.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::wait;

/// A process of the host, pinned by its start time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pinned {
    /// Its pid.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat.
    pub start_ticks: u64,
}

/// What /proc/PID/stat says of one process.
struct Stat {
    state: char,
    parent: u32,
    start_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold anything.
    let rest = text.rsplit_once(") ")?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        state: fields[0].chars().next()?,
        parent: fields[1].parse().ok()?,
        start_ticks: fields[19].parse().ok()?,
    })
}

/// The process that has a pid now, if it is alive and no zombie.
pub fn pinned(pid: u32) -> Option<Pinned> {
    let stat = stat(pid)?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(Pinned { pid, start_ticks: stat.start_ticks })
}

impl Pinned {
    /// Whether it is still this process, and alive.
    pub fn alive(&self) -> bool {
        pinned(self.pid).as_ref() == Some(self)
    }

    /// Waits for the end of what was killed: the kernel takes a process apart in its own time.
    pub fn wait_gone(&self) {
        wait::until_true(&format!("{} is gone", self.describe()), || !self.alive());
    }

    /// Whether it is stopped (SIGSTOP).
    pub fn is_stopped(&self) -> bool {
        stat(self.pid)
            .is_some_and(|stat| stat.start_ticks == self.start_ticks && matches!(stat.state, 'T'))
    }

    /// Its command line, for a message.
    pub fn describe(&self) -> String {
        format!("process {} ({})", self.pid, command_line(self.pid))
    }
}

/// The capabilities that this process could have, and so the agent that it starts.
pub fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("CapBnd");
    u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
}

/// The pids of all processes.
pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc can be read");
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// The command line of a process, blanks between its arguments. Empty where it is gone.
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
}

/// All living processes below `root`, without itself.
pub fn descendants(root: u32) -> BTreeSet<Pinned> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in pids() {
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut queue = vec![root];
    while let Some(pid) = queue.pop() {
        for &child in children.get(&pid).into_iter().flatten() {
            found.extend(pinned(child));
            queue.push(child);
        }
    }
    found
}

/// The living processes whose command line mentions `text`.
pub fn mentioning(text: &str) -> BTreeSet<Pinned> {
    pids().into_iter().filter(|&pid| command_line(pid).contains(text)).filter_map(pinned).collect()
}

/// The cgroups of a process, one for each hierarchy, as directories below /sys/fs/cgroup. The
/// root cgroups are left out.
pub fn cgroups(pid: u32) -> BTreeSet<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) =
            (fields.next(), fields.next().unwrap_or(""), fields.next().unwrap_or("/"));
        if path == "/" || path.starts_with("/..") {
            continue;
        }
        let names = [controllers.trim_start_matches("name="), "unified", ""];
        for name in names {
            let dir = Path::new("/sys/fs/cgroup").join(name).join(path.trim_start_matches('/'));
            if dir.is_dir() {
                found.insert(dir);
            }
        }
    }
    found
}

/// All cgroup directories whose name holds one of `names`.
pub fn cgroups_named(names: &BTreeSet<String>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if names.iter().any(|wanted| name.contains(wanted)) {
                found.push(entry.path());
            }
            queue.push(entry.path());
        }
    }
    found
}

/// The mounts of this process that mention `text`, a line of mountinfo each.
pub fn mounts_mentioning(text: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo can be read");
    table.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// The loop devices whose image lies below `dir`.
pub fn loop_devices_of(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let image = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if image.starts_with(&*dir.to_string_lossy()) {
            found.push(format!("{} on {}", entry.file_name().to_string_lossy(), image.trim()));
        }
    }
    found
}

/// How many files a process has open.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count())
}

/// The resident memory of a process that belongs to it alone, in KiB: what it has mapped and is
/// shared with others, as the journal or a program's text, is not its growth.
pub fn anonymous_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// A file below /proc/PID/ns, e.g. `mnt:[4026531841]`.
pub fn namespace(pid: &str, kind: &str) -> String {
    let path = format!("/proc/{pid}/ns/{kind}");
    fs::read_link(&path).unwrap_or_else(|e| panic!("{path}: {e}")).to_string_lossy().into_owned()
}

/// The first of these device nodes that the host has and that it lets its root open.
pub fn openable_device(candidates: &[&'static str]) -> &'static str {
    let found = candidates.iter().find(|path| fs::File::open(path).is_ok());
    found.unwrap_or_else(|| {
        panic!(
            "this host has none of {candidates:?}; scripts/test.sh leaves out the tests that need \
             one"
        )
    })
}
