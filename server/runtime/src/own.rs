//! The agent's own files and directories, which no container and no other user can write.
//!
//! Paths are plain here. But a file that is opened is a regular one, whatever has come to its place: a FIFO is not
//! waited for, a device not read, a link not followed. There is one function for that, [`open_at`], and what is read
//! whole has a bound.
//!
//! `server/clippy.toml` bans the functions of [`std::fs`] by name. What others can write is touched through
//! [`crate::beneath`]; what the kernel shows and the host has is read through [`crate::host`]. Nothing here recurses.

#![allow(clippy::disallowed_methods, reason = "the one place for paths that others cannot write")]

use std::{
    fs::{self, DirBuilder, File, Metadata, Permissions, ReadDir},
    io::{self, Read as _, Write as _},
    os::{fd::AsFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx},
    io::Errno,
    path::Arg,
};

/// The largest file that is read whole, in bytes.
pub const READ_MAX: u64 = 16 << 20;

/// Opens a regular file below a directory that is held: never a link, and nothing that would have to be waited for.
/// One that is made has this mode, subject to the umask.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`]: something else is there.
pub fn open_at(dir: impl AsFd, name: impl Arg, flags: OFlags, mode: u32) -> io::Result<File> {
    regular(dir, name, flags | OFlags::NOFOLLOW, mode)
}

/// As [`open_at`], by a path.
pub fn open_with(path: impl AsRef<Path>, flags: OFlags, mode: u32) -> io::Result<File> {
    open_at(CWD, path.as_ref(), flags, mode)
}

/// Opens a file for reading.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    open_with(path, OFlags::RDONLY, 0)
}

/// Opens a file for writing, empty. It is made if it is missing.
pub fn create(path: impl AsRef<Path>) -> io::Result<File> {
    open_with(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, 0o666)
}

/// Reads a file of at most [`READ_MAX`] bytes.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    read_whole(open(path)?, READ_MAX)
}

/// As [`read`], for text.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    text(read(path)?)
}

/// Writes a file in the place of the bytes that were in it.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    create(path)?.write_all(bytes.as_ref())
}

/// Opens a file that an administrator has named, for reading. There may be links on the way to it.
pub fn open_named(path: impl AsRef<Path>) -> io::Result<File> {
    regular(CWD, path.as_ref(), OFlags::RDONLY, 0)
}

/// Reads such a file of at most `max` bytes.
pub fn read_named(path: impl AsRef<Path>, max: u64) -> io::Result<Vec<u8>> {
    read_whole(open_named(path)?, max)
}

/// As [`read_named`], for text.
pub fn read_named_to_string(path: impl AsRef<Path>, max: u64) -> io::Result<String> {
    text(read_named(path, max)?)
}

fn regular(dir: impl AsFd, name: impl Arg, flags: OFlags, mode: u32) -> io::Result<File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let other = || io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
    let file = match openat(dir, name, flags, Mode::from_raw_mode(mode)) {
        Ok(fd) => File::from(fd),
        // A FIFO that nobody reads, a socket; a link; a directory.
        Err(Errno::NXIO | Errno::LOOP | Errno::ISDIR) => return Err(other()),
        Err(errno) => return Err(errno.into()),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(other()) }
}

fn read_whole(file: File, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    file.take(max + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= max {
        true => Ok(bytes),
        false => {
            let problem = format!("it is larger than {max} bytes");
            Err(io::Error::new(io::ErrorKind::InvalidData, problem))
        }
    }
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))
}

/// Opens a directory.
pub fn open_dir(path: impl AsRef<Path>) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path.as_ref(), flags, Mode::empty())?.into())
}

/// [`fs::rename`].
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    fs::rename(from, to)
}

/// [`fs::remove_file`].
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    fs::remove_file(path)
}

/// [`fs::remove_dir`]: of an empty directory.
pub fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    fs::remove_dir(path)
}

/// [`std::os::unix::fs::symlink`].
pub fn symlink(target: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Whether a path is that of a mount, and not of what was there before (STATX_ATTR_MOUNT_ROOT of statx(2)).
pub fn is_mount_point(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Makes a directory with a mode, which is subject to the umask.
pub fn make_dir(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)
}

/// The same with those above it that are missing. One that is there is left as it is.
pub fn make_dirs(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Makes a directory with a mode, which is subject to the umask, or takes the one that is there.
///
/// # Errors
///
/// [`io::ErrorKind::NotADirectory`]: something else is there, and be it a link to a directory.
pub fn make_own_dir(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    match make_dir(&path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => no_link(path.as_ref()),
        made => made,
    }
}

fn no_link(dir: &Path) -> io::Result<()> {
    match symlink_metadata(dir)?.is_dir() {
        true => Ok(()),
        false => Err(Errno::NOTDIR.into()),
    }
}

/// [`fs::set_permissions`].
pub fn set_permissions(path: impl AsRef<Path>, permissions: Permissions) -> io::Result<()> {
    fs::set_permissions(path, permissions)
}

/// [`fs::read_dir`], of what is no link to a directory.
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<ReadDir> {
    no_link(path.as_ref())?;
    fs::read_dir(path)
}

/// [`fs::read_dir`], of a directory that an administrator has named: it may be a link.
pub fn read_named_dir(path: impl AsRef<Path>) -> io::Result<ReadDir> {
    fs::read_dir(path)
}

/// [`fs::read_link`].
pub fn read_link(path: impl AsRef<Path>) -> io::Result<PathBuf> {
    fs::read_link(path)
}

/// [`fs::metadata`].
pub fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    fs::metadata(path)
}

/// [`fs::symlink_metadata`].
pub fn symlink_metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    fs::symlink_metadata(path)
}

/// [`fs::canonicalize`].
pub fn canonicalize(path: impl AsRef<Path>) -> io::Result<PathBuf> {
    fs::canonicalize(path)
}

/// [`Path::exists`].
pub fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}

/// [`Path::is_dir`].
pub fn is_dir(path: impl AsRef<Path>) -> bool {
    path.as_ref().is_dir()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::mkfifoat;

    use super::*;

    fn problem<T>(result: io::Result<T>) -> String {
        result.err().expect("it is refused").to_string()
    }

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_written_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        mkfifoat(CWD, at("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("file"), "text").unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink("/dev/zero", at("device")).unwrap();
        symlink(at("missing"), at("dangling")).unwrap();
        for name in ["fifo", "dir", "link", "device", "dangling"] {
            assert!(read(at(name)).is_err(), "{name}");
            assert!(create(at(name)).is_err(), "{name}");
            assert!(write(at(name), "x").is_err(), "{name}");
        }
        assert!(problem(read(at("fifo"))).contains("no regular file"));
        // With somebody at the other end it could be opened for writing.
        let reader = openat(CWD, at("fifo"), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty());
        assert!(problem(write(at("fifo"), "x")).contains("no regular file"));
        drop(reader);
        assert!(!at("missing").exists());
        assert_eq!(read_to_string(at("file")).unwrap(), "text");
    }

    #[test]
    fn a_link_to_a_directory_is_not_taken_for_one_of_the_agents_own() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        make_own_dir(at("dir"), 0o700).unwrap();
        make_own_dir(at("dir"), 0o700).unwrap();
        symlink(at("dir"), at("link")).unwrap();
        fs::write(at("file"), "").unwrap();
        for name in ["link", "file"] {
            let refused = make_own_dir(at(name), 0o700).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::NotADirectory, "{name}");
            assert!(read_dir(at(name)).is_err(), "{name}");
        }
        assert!(read_dir(at("dir")).is_ok() && read_named_dir(at("link")).is_ok());
    }

    #[test]
    fn what_an_administrator_named_may_be_a_link_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "text").unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink("/dev/zero", at("device")).unwrap();
        mkfifoat(CWD, at("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        assert_eq!(read_named_to_string(at("link"), 4).unwrap(), "text");
        for name in ["device", "fifo"] {
            assert!(problem(read_named(at(name), 4)).contains("no regular file"), "{name}");
        }
    }

    #[test]
    fn what_is_larger_than_it_may_be_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap().set_len(READ_MAX).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, READ_MAX);
        File::create(&path).unwrap().set_len(READ_MAX + 1).unwrap();
        assert!(problem(read(&path)).contains("larger than"));
        assert!(problem(read_named(&path, 7)).contains("larger than 7 bytes"));
    }
}
