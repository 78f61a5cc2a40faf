//! A directory that is held, and what can be done below it.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat,
        openat2, renameat, symlinkat, unlinkat,
    },
    io::Errno,
};

use super::{
    Blocked,
    names::{BUFFER, Names},
    remove,
};

/// How often a lookup is repeated that a rename has disturbed (EAGAIN, openat2(2)).
const TRIES: u32 = 128;

/// A directory that is held: whoever exchanges its name for something else changes nothing here.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    /// Where it was found; for messages only.
    path: PathBuf,
}

impl Dir {
    /// Opens a directory by a path that others cannot change, or that a user named: links are followed, but
    /// for the magic ones of /proc.
    pub fn open(path: &Path) -> Result<Dir, Blocked> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found =
            repeated(|| openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS));
        let found = found.map_err(|errno| blocked("open", path.to_owned(), errno))?;
        Ok(Dir { fd: found, path: path.to_owned() })
    }

    /// Takes an fd of a directory. `path`: where it is, for messages.
    pub fn held(fd: OwnedFd, path: impl Into<PathBuf>) -> Dir {
        Dir { fd, path: path.into() }
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory below.
    ///
    /// # Errors
    ///
    /// ELOOP or ENOTDIR: it is a link, or leads over one; EXDEV: something is mounted there.
    pub fn dir(&self, path: impl AsRef<Path>) -> Result<Dir, Blocked> {
        let path = path.as_ref();
        let found = lookup(self.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY);
        let fd = found.map_err(|errno| self.blocked("open", path, errno))?;
        Ok(Dir { fd, path: self.path.join(path) })
    }

    /// Makes a directory, with this mode whatever the umask. EEXIST: something has the name.
    pub fn make_dir(&self, name: impl AsRef<Path>, mode: u32) -> Result<Dir, Blocked> {
        let name = name.as_ref();
        let mode = Mode::from_raw_mode(mode);
        let made = plain(name.as_os_str()).and_then(|name| mkdirat(&self.fd, name, mode));
        made.map_err(|errno| self.blocked("make the directory", name, errno))?;
        let made = self.dir(name)?;
        fchmod(&made.fd, mode).map_err(|errno| self.blocked("set the mode of", name, errno))?;
        Ok(made)
    }

    /// Makes a directory, unless one is there.
    pub fn ensure_dir(&self, name: impl AsRef<Path>, mode: u32) -> Result<Dir, Blocked> {
        match self.make_dir(&name, mode) {
            Err(Blocked { errno: Errno::EXIST, .. }) => self.dir(name),
            other => other,
        }
    }

    /// Makes a file, with this mode whatever the umask, and opens it for writing. EEXIST: something has the
    /// name.
    pub fn make_file(&self, name: impl AsRef<Path>, mode: u32) -> Result<File, Blocked> {
        let name = name.as_ref();
        let failed = |errno| self.blocked("make the file", name, errno);
        let mode = Mode::from_raw_mode(mode);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let made = plain(name.as_os_str()).and_then(|name| {
            openat(&self.fd, name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
        });
        let made = made.map_err(failed)?;
        fchmod(&made, mode).map_err(failed)?;
        Ok(made.into())
    }

    /// Makes a symbolic link. Nothing here follows it.
    pub fn make_link(
        &self,
        target: impl AsRef<Path>,
        name: impl AsRef<Path>,
    ) -> Result<(), Blocked> {
        let name = name.as_ref();
        plain(name.as_os_str())
            .and_then(|name| symlinkat(target.as_ref(), &self.fd, name))
            .map_err(|errno| self.blocked("make the link", name, errno))
    }

    /// Writes a file that takes the name of whatever had it, but for a directory: a link is replaced and not
    /// followed, a FIFO or a device is not opened.
    ///
    /// # Errors
    ///
    /// EISDIR: a directory has the name, or that of the new file, `.NAME.conti-new`. The file is written whole or not at all.
    pub fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), Blocked> {
        match self.write_new(name, bytes, mode) {
            Err(Blocked { errno: Errno::EXIST, .. }) => {}
            other => return other,
        }
        let new = format!(".{name}.conti-new");
        // One that was left behind, or put there by whoever may write here: not a tree, whose removal takes as long as
        // they like.
        match unlinkat(&self.fd, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(self.blocked("write", Path::new(&new), errno)),
        }
        self.write_new(&new, bytes, mode)?;
        renameat(&self.fd, &new, &self.fd, name).map_err(|errno| {
            let _ = self.remove(&new);
            self.blocked("write", Path::new(name), errno)
        })
    }

    fn write_new(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), Blocked> {
        let mut file = self.make_file(name, mode)?;
        file.write_all(bytes).map_err(|error| {
            let _ = self.remove(name);
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            self.blocked("write", Path::new(name), errno)
        })
    }

    /// Opens a regular file for reading. Anything else is not opened: ENODEV.
    pub fn file(&self, path: impl AsRef<Path>) -> Result<File, Blocked> {
        let path = path.as_ref();
        let opened = lookup(self.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW).and_then(regular);
        opened.map_err(|errno| self.blocked("open", path, errno))
    }

    /// Gives something another name, in another directory that is held. What has that name already is
    /// replaced as rename(2) does it.
    pub fn rename(
        &self,
        name: impl AsRef<Path>,
        to: &Dir,
        new: impl AsRef<Path>,
    ) -> Result<(), Blocked> {
        let (name, new) = (name.as_ref(), new.as_ref());
        plain(name.as_os_str())
            .and_then(|name| renameat(&self.fd, name, &to.fd, plain(new.as_os_str())?))
            .map_err(|errno| to.blocked("move something to", new, errno))
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> Result<bool, Blocked> {
        let failed = |errno| blocked("read", self.path.clone(), errno);
        let mut names = Names::default();
        names.rewind(&self.fd).map_err(failed)?;
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        Ok(names.next(self.as_fd(), &mut buffer).map_err(failed)?.is_none())
    }

    /// Removes what has a name here, whatever it is, with all that is below it. Links are removed and not
    /// followed, and mounts are not entered. What is not there is removed already.
    ///
    /// Takes a bounded number of fds and a bounded amount of memory whatever the depth. Where something
    /// cannot be removed the rest is all the same.
    ///
    /// # Errors
    ///
    /// The first thing that is in the way: with EBUSY or EXDEV it is a mount point, with EPERM it may be
    /// immutable (chattr(1)). To try again later is safe.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<(), Blocked> {
        remove::tree(self, name.as_ref(), remove::Kinds::All)
    }

    fn blocked(&self, tried: &'static str, name: &Path, errno: Errno) -> Blocked {
        blocked(tried, self.path.join(name), errno)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> OwnedFd {
        dir.fd
    }
}

/// Opens a regular file that an O_PATH fd stands for.
fn regular(found: OwnedFd) -> Result<File, Errno> {
    if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(Errno::NODEV);
    }
    // This very file, whatever has its name by now: the link is one of this process.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(open(link, flags, Mode::empty())?.into())
}

/// Opens what is at a path below a directory, without a link or a mount on the way.
pub(super) fn lookup(at: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    repeated(|| openat2(at, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
}

fn repeated<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 0..TRIES {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

fn blocked(tried: &'static str, path: PathBuf, errno: Errno) -> Blocked {
    Blocked { tried, path, errno }
}

/// A name as the kernel takes it. EINVAL where it is none, or leads elsewhere.
pub(super) fn plain(name: &OsStr) -> Result<&OsStr, Errno> {
    let bytes = name.as_bytes();
    match bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        true => Err(Errno::INVAL),
        false => Ok(name),
    }
}
