//! The removal of trees, without recursion.
//!
//! At most [`LEVELS`] directories are open at a time, each held by its fd, so nobody can lead a removal
//! elsewhere by exchanging a directory for a link or by moving it: no path is looked up twice, and `..` is
//! never used. What lies deeper is moved up into the top directory of the tree by renameat(2), and is met
//! there in a later round: a rename moves what has the name, whatever that is by then, and follows nothing.
//!
//! Where a filesystem does not move directories (cgroups, another project quota, no room left), the removal
//! digs instead: it goes on from the deep directory alone, without those above, and begins again at the top
//! when that one is empty. That is slower, and it needs nothing of the filesystem but unlinkat(2).

use std::{
    ffi::{CStr, CString, OsStr},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, OFlags, SeekFrom, renameat, seek, unlinkat},
    io::{Errno, fcntl_dupfd_cloexec},
};

use super::{
    Blocked, Dir,
    dir::{lookup, plain},
    names::{BUFFER, Name, Names},
};

/// How many directories are open at a time.
pub(super) const LEVELS: usize = 64;
/// How often a directory is read again that is not empty after all in it was removed: somebody adds to it.
const PASSES: u32 = 8;
/// How often a tree is begun again at its top: of one that somebody else makes deeper all the time, an end.
const ROUNDS: u32 = 1 << 20;
/// How much of a path is told, in bytes.
const PATH_TOLD: usize = 4096;

/// What there is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    /// Everything.
    All,
    /// Directories alone: their files are the kernel's, and go with them.
    Cgroups,
}

/// Removes `name` in `parent`.
pub(super) fn tree(parent: &Dir, name: &OsStr, kinds: Kinds) -> Result<(), Blocked> {
    let path = parent.path().join(name);
    let blocked = |errno| Blocked { tried: "remove", path: path.clone(), errno };
    let name = plain(name).and_then(|name| CString::new(name.as_bytes()).map_err(|_| Errno::INVAL));
    let name = name.map_err(blocked)?;
    let mut rounds = 0;
    loop {
        let top = match start(parent, &name, kinds) {
            Ok(Some(top)) => top,
            Ok(None) => return Ok(()),
            Err(errno) => return Err(blocked(errno)),
        };
        let mut removal = Removal::of(&top, path.clone(), kinds);
        while removal.round()? == Round::Again {
            rounds += 1;
            if rounds >= ROUNDS {
                return Err(blocked(Errno::NOTEMPTY));
            }
        }
        // Empty by now; if not, somebody adds to it, or a process is left in the cgroup.
        let (errno, passes) = match kinds {
            Kinds::All => (Errno::NOTEMPTY, PASSES),
            Kinds::Cgroups => (Errno::BUSY, 2),
        };
        rounds += ROUNDS / passes;
        if rounds >= ROUNDS {
            return match start(parent, &name, kinds) {
                Ok(None) => Ok(()),
                _ => Err(blocked(errno)),
            };
        }
    }
}

/// Removes what needs no walk. `Some`: a directory that is not empty.
fn start(parent: &Dir, name: &CStr, kinds: Kinds) -> Result<Option<OwnedFd>, Errno> {
    match discard(parent.as_fd(), name, FileType::Unknown, kinds)? {
        Discarded::Gone => Ok(None),
        Discarded::Full => match open(parent.as_fd(), name) {
            Ok(top) => Ok(Some(top)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        },
    }
}

/// What has become of an entry.
enum Discarded {
    Gone,
    /// It is a directory that is not empty.
    Full,
}

/// Removes an entry that is not a directory with something in it.
fn discard(
    at: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    kinds: Kinds,
) -> Result<Discarded, Errno> {
    // What it is said to be is not what it must be by now: the other call is tried in any case.
    let mut as_directory = kind == FileType::Directory || kinds == Kinds::Cgroups;
    for _ in 0..PASSES {
        let flags = if as_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(at, name, flags) {
            Ok(()) | Err(Errno::NOENT) => return Ok(Discarded::Gone),
            // POSIX has EEXIST for it as well.
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Discarded::Full),
            // A cgroup with cgroups below it.
            Err(Errno::BUSY) if kinds == Kinds::Cgroups => return Ok(Discarded::Full),
            Err(Errno::NOTDIR) if as_directory && kinds == Kinds::All => as_directory = false,
            Err(Errno::ISDIR) if !as_directory => as_directory = true,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::AGAIN)
}

fn open(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    lookup(at, Path::new(OsStr::from_bytes(name.to_bytes())), OFlags::RDONLY | OFlags::DIRECTORY)
}

/// How a walk from the top has ended.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    /// Everything was removed.
    Empty,
    /// There is more by now at the top, or below what was left out.
    Again,
}

/// How the walk of one part has ended.
enum Walked {
    Whole,
    /// It is too deep: the rest begins here.
    Deeper(OwnedFd, PathBuf),
}

struct Level {
    directory: OwnedFd,
    /// Its name in the level above.
    name: CString,
    names: Names,
    passes: u32,
    /// Whether something in it cannot be removed.
    stuck: bool,
}

struct Removal<'a> {
    top: &'a OwnedFd,
    path: PathBuf,
    kinds: Kinds,
    /// Whether deep directories can be moved up.
    moves: bool,
    /// How many were.
    moved: u64,
    /// What is in the way: the first of all.
    first: Option<Blocked>,
    buffer: Box<[MaybeUninit<u8>]>,
}

impl<'a> Removal<'a> {
    fn of(top: &'a OwnedFd, path: PathBuf, kinds: Kinds) -> Removal<'a> {
        let buffer = vec![MaybeUninit::uninit(); BUFFER].into_boxed_slice();
        Removal { top, path, kinds, moves: kinds == Kinds::All, moved: 0, first: None, buffer }
    }

    /// Walks the tree once.
    fn round(&mut self) -> Result<Round, Blocked> {
        let (moved, mut dug) = (self.moved, false);
        let path = self.path.clone();
        let again = fcntl_dupfd_cloexec(self.top, 0);
        let mut part = (again.map_err(|errno| self.blocked(path.clone(), errno))?, path);
        // The place in the directory is shared with the fd that was duplicated.
        seek(&part.0, SeekFrom::Start(0)).map_err(|errno| self.blocked(part.1.clone(), errno))?;
        while let Walked::Deeper(directory, path) = self.walk(part.0, &part.1) {
            dug = true;
            part = (directory, path);
        }
        match &self.first {
            // What is stuck would be met again and again.
            Some(first) if dug || moved == self.moved => Err(first.clone()),
            _ if dug || moved != self.moved => Ok(Round::Again),
            _ => Ok(Round::Empty),
        }
    }

    /// Empties a directory, as deep as there are levels.
    fn walk(&mut self, directory: OwnedFd, path: &Path) -> Walked {
        let mut levels = vec![Level::new(directory, CString::default())];
        while let Some(level) = levels.last_mut() {
            match level.names.next(level.directory.as_fd(), &mut self.buffer) {
                Ok(Some(name)) => {
                    if let Some(deep) = self.entry(&mut levels, name, path) {
                        return deep;
                    }
                }
                Ok(None) => self.leave(&mut levels, path),
                Err(errno) => {
                    level.stuck = true;
                    let at = told(path, &levels, None);
                    self.keep(at, errno);
                    self.leave(&mut levels, path);
                }
            }
        }
        Walked::Whole
    }

    /// Removes an entry of the last level, or makes it the last level.
    fn entry(&mut self, levels: &mut Vec<Level>, entry: Name, path: &Path) -> Option<Walked> {
        let depth = levels.len();
        let level = levels.last_mut()?;
        if self.kinds == Kinds::Cgroups && entry.kind != FileType::Directory {
            return None;
        }
        let opened = match discard(level.directory.as_fd(), &entry.name, entry.kind, self.kinds) {
            Ok(Discarded::Gone) => return None,
            Ok(Discarded::Full) => open(level.directory.as_fd(), &entry.name),
            Err(errno) => Err(errno),
        };
        match opened {
            Ok(directory) if depth < LEVELS => {
                levels.push(Level::new(directory, entry.name));
            }
            Ok(directory) => return self.raise(levels, &entry.name, directory, path),
            Err(Errno::NOENT) => {}
            // Exchanged meanwhile for what is no directory: met in the next pass.
            Err(Errno::LOOP | Errno::NOTDIR) => {}
            Err(errno) => {
                level.stuck = true;
                let at = told(path, levels, Some(&entry.name));
                self.keep(at, errno);
            }
        }
        None
    }

    /// Moves a directory below the last level up to the top.
    fn raise(
        &mut self,
        levels: &[Level],
        name: &CStr,
        directory: OwnedFd,
        path: &Path,
    ) -> Option<Walked> {
        let from = &levels.last()?.directory;
        while self.moves {
            let new = format!(".conti-removed-{}", self.moved);
            self.moved += 1;
            match renameat(from, name, self.top, &new) {
                Ok(()) | Err(Errno::NOENT) => return None,
                // The new name is taken.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::ISDIR) => {}
                Err(_) => self.moves = false,
            }
        }
        Some(Walked::Deeper(directory, told(path, levels, Some(name))))
    }

    /// Removes the last level itself, which was walked.
    fn leave(&mut self, levels: &mut Vec<Level>, path: &Path) {
        let Some(mut level) = levels.pop() else { return };
        let Some(above) = levels.last_mut() else { return };
        if level.stuck {
            above.stuck = true;
            return;
        }
        let errno = match unlinkat(&above.directory, &level.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return,
            // Exchanged meanwhile: what has the name now is met in the next pass.
            Err(Errno::NOTDIR) => return,
            Err(errno) => errno,
        };
        let full = matches!(errno, Errno::NOTEMPTY | Errno::EXIST);
        level.passes += 1;
        if full && level.passes < PASSES && level.names.rewind(&level.directory).is_ok() {
            levels.push(level);
            return;
        }
        above.stuck = true;
        let at = told(path, levels, Some(&level.name));
        self.keep(at, errno);
    }

    fn keep(&mut self, path: PathBuf, errno: Errno) {
        if self.first.is_none() {
            self.first = Some(self.blocked(path, errno));
        }
    }

    fn blocked(&self, path: PathBuf, errno: Errno) -> Blocked {
        Blocked { tried: "remove", path, errno }
    }
}

impl Level {
    fn new(directory: OwnedFd, name: CString) -> Level {
        Level { directory, name, names: Names::default(), passes: 0, stuck: false }
    }
}

/// The path of an entry below a part, as much of it as is told: the end of it.
fn told(part: &Path, levels: &[Level], name: Option<&CStr>) -> PathBuf {
    let mut path = part.to_owned();
    for name in levels.iter().skip(1).map(|level| level.name.as_c_str()).chain(name) {
        path.push(OsStr::from_bytes(name.to_bytes()));
    }
    let bytes = path.as_os_str().as_bytes();
    match bytes.len().checked_sub(PATH_TOLD) {
        None => path,
        Some(beyond) => Path::new("…").join(OsStr::from_bytes(&bytes[beyond..])),
    }
}
