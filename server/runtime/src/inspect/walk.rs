//! Following a path below the root of a target, name by name.
//!
//! openat2(2) alone cannot do it: `/proc/self` is a link whose text depends on who reads it, and here it
//! must stand for the target's main process. The rest is as with RESOLVE_IN_ROOT and
//! RESOLVE_NO_MAGICLINKS. Each name is opened in a directory that is held, and `..` leads to a path below
//! the root that has no links: nothing that is renamed meanwhile leads out.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat, openat2, readlinkat},
    io::Errno,
};

use super::{
    files::{kind, look_at},
    process::{self, Root},
    status::Status,
    viewer::Main,
};

/// As many links as the kernel follows (path_resolution(7)).
const LINKS_MAX: u32 = 40;
/// The inode number of a proc's root (PROC_ROOT_INO of include/linux/proc_ns.h).
const PROC_ROOT: u64 = 1;

/// include/uapi/linux/magic.h
const PROC: u64 = 0x9fa0;
/// The filesystems through which the kernel shows itself and is told what to do.
const KERNELS: [u64; 19] = [
    PROC,
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x5a3c_69f0, // apparmorfs
    0x6165_676c, // pstore
    0x6573_5543, // fusectl
    0x4249_4e4d, // binfmt_misc
    0x6e73_6673, // nsfs
    0x0765_5821, // resctrl
    0xabba_1974, // xenfs
];

/// Where a path leads.
#[derive(Debug)]
pub enum Walked {
    /// To a file of any kind, but no link.
    Found(OwnedFd),
    /// Through a filesystem of the kernel's, which this walk is not to enter.
    Kernel,
    /// Through a magic link (proc_pid_root(5), proc_pid_fd(5)).
    Magic,
}

/// A walk on its way.
#[derive(Debug)]
pub struct Walk<'a> {
    root: &'a Root,
    main: &'a Main,
    /// Whether filesystems of the kernel's are entered.
    enters: bool,
    at: Place,
    /// The names that lead to it from the root, none of them a link.
    done: Vec<Vec<u8>>,
    /// The names that are left, the next one last.
    rest: Vec<Vec<u8>>,
    links: u32,
}

/// What was opened, and what filesystem it is of.
#[derive(Debug)]
struct Place {
    file: OwnedFd,
    device: (u32, u32),
    inode: u64,
    is_link: bool,
    filesystem: u64,
}

impl<'a> Walk<'a> {
    /// Begins at the root of a target.
    pub fn new(root: &'a Root, main: &'a Main, path: &[u8], enters: bool) -> Result<Self, Errno> {
        let at = Place::of(open(root.as_fd(), b".", OFlags::DIRECTORY)?, None)?;
        let mut walk =
            Walk { root, main, enters, at, done: Vec::new(), rest: Vec::new(), links: 0 };
        walk.prepend(path);
        Ok(walk)
    }

    /// Follows the path to its end.
    pub fn run(mut self) -> Result<Walked, Errno> {
        if self.at.is_the_kernels() && !self.enters {
            return Ok(Walked::Kernel);
        }
        while let Some(name) = self.rest.pop() {
            match name.as_slice() {
                b".." => {
                    self.done.pop();
                    self.reopen()?;
                }
                // The last one says that a directory must be there.
                b"." if !self.rest.is_empty() => {}
                _ => {
                    let found = self.open(&name)?;
                    if found.is_the_kernels() && !self.enters {
                        return Ok(Walked::Kernel);
                    }
                    if !found.is_link {
                        self.at = found;
                        self.done.push(name);
                    } else if !self.follow(&name, &found)? {
                        return Ok(Walked::Magic);
                    }
                }
            }
        }
        Ok(Walked::Found(self.at.file))
    }

    /// Opens a name in the directory where the walk is.
    fn open(&self, name: &[u8]) -> Result<Place, Errno> {
        let within = if self.rest.is_empty() { OFlags::empty() } else { OFlags::DIRECTORY };
        let file = match open(&self.at.file, name, within) {
            // A link, or no directory after all, as the next step will tell.
            Err(Errno::NOTDIR) if !within.is_empty() => open(&self.at.file, name, OFlags::empty())?,
            other => other?,
        };
        Place::of(file, Some(&self.at))
    }

    /// Puts what a link stands for in its place. `false`: it is a magic one.
    fn follow(&mut self, name: &[u8], link: &Place) -> Result<bool, Errno> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        if link.filesystem == PROC {
            let in_root = self.at.filesystem == PROC && self.at.inode == PROC_ROOT;
            match name {
                b"self" if in_root => {
                    let number = self.number()?;
                    self.prepend(number.to_string().as_bytes());
                    return Ok(true);
                }
                b"thread-self" if in_root => {
                    let number = self.number()?;
                    self.prepend(format!("{number}/task/{number}").as_bytes());
                    return Ok(true);
                }
                _ if is_magic(&self.at.file, name) => return Ok(false),
                _ => {}
            }
        }
        let text = readlinkat(&link.file, "", Vec::new())?.into_bytes();
        if text.is_empty() {
            return Err(Errno::NOENT);
        }
        if text.starts_with(b"/") {
            self.done.clear();
            self.reopen()?;
        }
        self.prepend(&text);
        Ok(true)
    }

    fn prepend(&mut self, path: &[u8]) {
        let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        if names.last().is_some_and(|last| last.is_empty()) {
            names.push(b".");
        }
        let names = names.into_iter().filter(|name| !name.is_empty());
        self.rest.extend(names.rev().map(<[u8]>::to_vec));
    }

    /// Goes to where the names lead that are done.
    fn reopen(&mut self) -> Result<(), Errno> {
        let path = self.done.join(&b'/');
        let path = if path.is_empty() { b"." } else { path.as_slice() };
        let resolve =
            ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve)?;
        self.at = Place::of(file, None)?;
        Ok(())
    }

    /// The pid of the main process in the proc whose root the walk is at. ENOENT where it has none there, as
    /// the kernel says it.
    fn number(&self) -> Result<i32, Errno> {
        let started = self.main.start_time();
        let is_it = |pids: &[i32]| {
            let pid = pids.first()?;
            let directory =
                open(&self.at.file, pid.to_string().as_bytes(), OFlags::DIRECTORY).ok()?;
            let same = Status::read(&directory).ok()?.numbers("NSpid:");
            let same =
                same.iter().map(|pid| i32::try_from(*pid)).eq(pids.iter().map(|pid| Ok(*pid)));
            let stat = process::read(&directory, "stat", 4096).ok()?;
            let start = process::start_time_in(&stat);
            (same && start.is_some() && start == started).then_some(*pid)
        };
        let pids = &self.main.pids;
        (0..pids.len()).find_map(|level| is_it(&pids[level..])).ok_or(Errno::NOENT)
    }
}

impl Place {
    /// Looks at what was opened. What is on the same device as `before` is of the same filesystem: asking what
    /// it is can take long where others serve it.
    fn of(file: OwnedFd, before: Option<&Place>) -> Result<Place, Errno> {
        let about = look_at(&file, c"")?;
        let device = (about.stx_dev_major, about.stx_dev_minor);
        let filesystem = match before.filter(|before| before.device == device) {
            Some(before) => before.filesystem,
            // The kernel's own always answer.
            None => rustix::fs::fstatfs(&file).map_or(0, |found| found.f_type as u64 & 0xffff_ffff),
        };
        let is_link = kind(&about) == rustix::fs::FileType::Symlink;
        Ok(Place { file, device, inode: about.stx_ino, is_link, filesystem })
    }

    fn is_the_kernels(&self) -> bool {
        KERNELS.contains(&self.filesystem)
    }
}

fn open(at: impl AsFd, name: &[u8], more: OFlags) -> Result<OwnedFd, Errno> {
    openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | more, Mode::empty())
}

/// Whether a link of proc does not lead where its text says: the kernel follows the others, unless they lead to
/// nothing or out of the directory.
fn is_magic(at: &OwnedFd, name: &[u8]) -> bool {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let followed = openat2(at, name, flags, Mode::empty(), resolve);
    matches!(followed, Err(Errno::LOOP | Errno::ACCESS | Errno::PERM))
}
