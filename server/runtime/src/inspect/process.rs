//! A process of the host: pinning it, and what /proc says of it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{
        AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, readlinkat_raw,
        statx,
    },
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    question::{Brief, Failure, MountId},
    status::{self, Status, number},
};
use crate::{
    host,
    plan::{IdMap, NsType},
    protocol::ProcessId,
};

/// How much of a command line is told, in bytes.
const COMMAND_MAX: usize = 4096;

/// A process that cannot be exchanged for another while this is held.
#[derive(Debug)]
pub struct Pinned {
    pid: i32,
    start_ticks: u64,
    pidfd: OwnedFd,
}

impl Pinned {
    /// Pins a process, which must have been started at `start_ticks` where that is known.
    pub fn open(pid: i32, start_ticks: Option<u64>) -> Result<Pinned, Failure> {
        let number = Pid::from_raw(pid).filter(|_| pid > 0);
        let number = number.ok_or_else(|| gone(pid, &io::ErrorKind::NotFound.into()))?;
        let pidfd =
            pidfd_open(number, PidfdFlags::empty()).map_err(|errno| gone(pid, &errno.into()))?;
        // Read after it was pinned: what is read is true of the pinned process, if that is still there.
        let found = start_time(pid).map_err(|error| gone(pid, &error))?;
        let pinned = Pinned { pid, start_ticks: found, pidfd };
        pinned.still_there()?;
        match start_ticks {
            Some(wanted) if wanted != found => Err(Failure::Gone {
                pid,
                problem: format!(
                    "the process that was started at tick {wanted} is gone; its pid is now that of another, started at {found}"
                ),
            }),
            _ => Ok(pinned),
        }
    }

    /// Pins a process that was seen before.
    pub fn same(process: ProcessId) -> Result<Pinned, Failure> {
        Pinned::open(process.pid, Some(process.start_ticks))
    }

    /// Checks that it has not been reaped, so that all that was read below /proc/PID is its own.
    pub fn still_there(&self) -> Result<(), Failure> {
        // A pidfd becomes readable when its process has ended (pidfd_open(2)).
        let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut polled, Some(&Timespec::default())) {
            Ok(0) => Ok(()),
            _ => Err(gone(self.pid, &io::ErrorKind::NotFound.into())),
        }
    }

    /// What names it for good.
    pub fn id(&self) -> ProcessId {
        ProcessId { pid: self.pid, start_ticks: self.start_ticks }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The pidfd itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The pidfd itself.
    pub fn into_fd(self) -> OwnedFd {
        self.pidfd
    }
}

/// When a process was started, in clock ticks since the boot.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = host::read_line(format!("/proc/{pid}/stat"))?;
    start_time_in(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// When a process was started: field 22 of /proc/PID/stat.
pub fn start_time_in(stat: &[u8]) -> Option<u64> {
    let (_, fields) = name_and_fields(stat)?;
    number(fields.get(22 - 3)?)
}

/// The name of a process, and what stands behind it, in the text of /proc/PID/stat: the first of these is
/// field 3 of proc_pid_stat(5). The name may hold any bytes, blanks and parentheses among them.
pub fn name_and_fields(stat: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = stat.get(close + 2..)?.trim_ascii_end().split(|byte| *byte == b' ').collect();
    Some((stat.get(open + 1..close)?, fields))
}

/// The failure for a process that is not there.
pub fn gone(pid: i32, error: &io::Error) -> Failure {
    let problem = match error.raw_os_error() {
        None | Some(libc::ESRCH | libc::ENOENT) => "there is no such process".to_owned(),
        _ => format!("it cannot be looked at: {error}"),
    };
    Failure::Gone { pid, problem }
}

/// The directories of processes below /proc, in the order of pids.
pub fn all() -> Result<impl Iterator<Item = (i32, OwnedFd)>, Failure> {
    let failed = |errno| Failure::refused("cannot list", "/proc", errno);
    let proc =
        openat(CWD, "/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
    let entries = Dir::read_from(&proc).map_err(failed)?;
    Ok(entries.filter_map(move |entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str().ok()?.parse().ok()?;
        // One that is gone meanwhile is none of them.
        Some((pid, open_dir(&proc, entry.file_name()).ok()?))
    }))
}

fn open_dir(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// The directory of one process below /proc.
pub fn directory(pid: i32) -> Result<OwnedFd, Failure> {
    open_dir(CWD, format!("/proc/{pid}")).map_err(|errno| gone(pid, &errno.into()))
}

/// The directory of the thread that asks.
pub fn own_thread() -> Result<OwnedFd, Errno> {
    open_dir(CWD, "/proc/thread-self")
}

/// The inode number of a namespace, as the links below /proc/PID/ns name it: `mnt:[4026531841]`. `None` also
/// where the process may not be looked at.
pub fn namespace_of(ns: impl AsFd, file: &str) -> Option<u64> {
    readable_namespace(ns, file).ok()?
}

/// The same where somebody has asked for this very process, and is to hear that it may not be looked at. `None`:
/// the kernel has no namespaces of this type, or the process has ended.
pub fn readable_namespace(ns: impl AsFd, file: &str) -> Result<Option<u64>, Errno> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
    match readlinkat_raw(ns, file, &mut buffer) {
        Ok((link, _)) => Ok(parse_namespace(link).map(|(_, inode)| inode)),
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The kind and inode number in the text of a link to a namespace.
pub fn parse_namespace(link: &[u8]) -> Option<(NsType, u64)> {
    let (kind, rest) = link.split_at(link.iter().position(|b| *b == b':')?);
    let number = rest.strip_prefix(b":[")?.strip_suffix(b"]")?;
    let kind = NsType::ALL.into_iter().find(|ns| ns.file_name().as_bytes() == kind)?;
    Some((kind, status::number(number)?))
}

/// The directory of its namespaces.
pub fn namespaces(directory: impl AsFd) -> Result<OwnedFd, Errno> {
    open_dir(directory, "ns")
}

/// What a list tells of a process in few words.
pub fn brief(pid: i32, directory: impl AsFd) -> io::Result<Brief> {
    let status = Status::read(&directory)?;
    let mut command = read(&directory, "cmdline", COMMAND_MAX)?;
    while command.last() == Some(&0) {
        command.pop();
    }
    for byte in &mut command {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    if command.is_empty() {
        command = [b"[", status.field("Name:").unwrap_or_default(), b"]"].concat();
    }
    Ok(Brief { pid, uid: status.id("Uid:").unwrap_or(0), command })
}

/// The kernel gives a page at a time, and few files of a process have more.
const READ_AT_ONCE: usize = 8192;

/// A file below a directory of /proc, at most `limit` bytes of it.
pub fn read(directory: impl AsFd, name: &str, limit: usize) -> io::Result<Vec<u8>> {
    // Files of /proc do not say how long they are, and reading them in small pieces takes longest.
    let mut content = Vec::with_capacity(limit.min(READ_AT_ONCE));
    open(directory, name)?.take(limit as u64).read_to_end(&mut content)?;
    Ok(content)
}

/// Opens a file below a directory of /proc.
pub fn open(directory: impl AsFd, name: &str) -> io::Result<File> {
    Ok(openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// A map of ids, `uid_map` or `gid_map` of user_namespaces(7).
pub fn id_map(directory: impl AsFd, name: &str) -> io::Result<Vec<IdMap>> {
    // A page is the kernel's limit.
    Ok(id_map_in(&read(directory, name, 1 << 16)?))
}

/// What stands in the text of such a map: lines of the first id inside, the first one outside, and how many. Those
/// that are none are left out.
pub(crate) fn id_map_in(text: &[u8]) -> Vec<IdMap> {
    let range = |line: &[u8]| {
        let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let numbers = words.map(number).collect::<Option<Vec<u32>>>()?;
        let [inside, outside, count] = numbers.try_into().ok()?;
        Some(IdMap { inside, outside, count })
    };
    text.split(|byte| *byte == b'\n').filter_map(range).collect()
}

/// The ids that root of a process's user namespace has in the agent's. `None`: root has none there.
pub fn root_ids(pid: i32) -> Option<(u32, u32)> {
    let id = |map: &str| {
        let lines = directory(pid).ok().and_then(|directory| id_map(directory, map).ok());
        let root = lines.unwrap_or_default().into_iter().find(|range| range.inside == 0);
        root.map(|range| range.outside)
    };
    Some((id("uid_map")?, id("gid_map")?))
}

/// How much of a mountinfo is read, in bytes: 100,000 mounts, the kernel's limit, with long lines.
const MOUNTINFO_MAX: usize = 64 << 20;

/// The mounts that a process sees.
pub fn mountinfo(directory: impl AsFd) -> io::Result<Vec<u8>> {
    read(directory, "mountinfo", MOUNTINFO_MAX)
}

/// The root directory of a process. What lies below it is reached without entering its mount namespace,
/// and no link leads out of it.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// The root of the process that a directory below /proc is of.
pub fn root(directory: impl AsFd) -> Result<Root, Errno> {
    open_dir(directory, "root").map(Root)
}

impl Root {
    /// What a path leads to; links are followed below the root, but for the magic ones of /proc.
    pub fn below(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        // How often a lookup is repeated that a rename has disturbed: far more than chance needs.
        const MAX_TRIES: u32 = 128;
        let path = if path.iter().all(|byte| *byte == b'/') { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..MAX_TRIES {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            match openat2(&self.0, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => continue,
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The root itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// What lies at a path that has no links in it, as that of a mount point.
    pub fn point(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        openat2(&self.0, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
    }
}

/// STATX_MNT_ID_UNIQUE of include/uapi/linux/stat.h, Linux 6.8.
const MNT_ID_UNIQUE: u32 = 0x4000;

/// What names the mount that an fd lies on.
pub fn mount_id(fd: impl AsFd) -> Result<MountId, Errno> {
    let fd = fd.as_fd();
    let stat = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let unique = StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
    let again = statx(fd, "", AtFlags::EMPTY_PATH, unique)?;
    let has_unique = again.stx_mask & MNT_ID_UNIQUE != 0;
    Ok(MountId { id: stat.stx_mnt_id, unique: if has_unique { again.stx_mnt_id } else { 0 } })
}

/// The inode number of an open file.
pub fn inode(fd: impl AsFd) -> Result<u64, Errno> {
    let stat = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok(stat.stx_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_pinned_only_with_its_own_start_time() {
        let pid = std::process::id() as i32;
        let ticks = start_time(pid).expect("own stat");
        Pinned::open(pid, Some(ticks)).expect("pinned");
        assert!(matches!(Pinned::open(pid, Some(ticks + 1)), Err(Failure::Gone { .. })));
    }

    #[test]
    fn a_start_time_is_found_behind_any_name() {
        let behind = " S 1".to_owned() + &" 7".repeat(17) + " 4242 0\n";
        for name in [&b"sh"[..], b"\xff\xfe)", b") S 1 2 3 (", b"a b\nc", b""] {
            let stat = [b"12 (", name, b")", behind.as_bytes()].concat();
            assert_eq!(start_time_in(&stat), Some(4242), "{name:?}");
            assert_eq!(name_and_fields(&stat).map(|(name, _)| name), Some(name));
        }
        for bad in [&b""[..], b"1 (a", b"1 a)", b"1 (a)", b"1 (a) S", b")("] {
            assert_eq!(start_time_in(bad), None);
        }
    }

    #[test]
    fn namespaces_of_a_process_that_may_not_be_looked_at_are_an_error_and_not_none() {
        use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
        let links_of = |pid| namespaces(directory(pid).expect("a directory")).expect("links");
        let own = links_of(std::process::id() as i32);
        assert!(readable_namespace(&own, "mnt").expect("it may").is_some());
        assert_eq!(readable_namespace(&own, "nonesuch"), Ok(None));
        // Rights are those of a thread. Without any, nobody looks at the first process of the machine.
        let without = std::thread::spawn(move || {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).expect("rights can be given up");
            let links = links_of(1);
            (readable_namespace(&links, "mnt"), namespace_of(&links, "mnt"))
        });
        assert_eq!(without.join().expect("a thread"), (Err(Errno::ACCESS), None));
    }

    #[test]
    fn links_to_namespaces_are_understood() {
        assert_eq!(parse_namespace(b"mnt:[4026531841]"), Some((NsType::Mount, 4_026_531_841)));
        for other in [&b"socket:[1234]"[..], b"mnt:[]", b"mnt:[1", b"/etc/passwd", b"", b"net:1"] {
            assert_eq!(parse_namespace(other), None);
        }
    }
}
