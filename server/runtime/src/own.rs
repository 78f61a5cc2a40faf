//! Plain paths, for what no container and no other user can write: the agent's own directories, the kernel's
//! filesystems, and the host's /etc, /dev and program directories.
//!
//! These are the functions of [`std::fs`] of the same names. They follow links and open whatever is there,
//! FIFOs and devices too; so `server/clippy.toml` bans them everywhere else, and each use of this module says
//! that its path is one of those above. Everything else goes through [`crate::beneath`]. Nothing here recurses.

#![allow(clippy::disallowed_methods, reason = "the one place for paths that others cannot write")]

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, ReadDir},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// [`File::open`].
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    File::open(path)
}

/// [`File::create`].
pub fn create(path: impl AsRef<Path>) -> io::Result<File> {
    File::create(path)
}

/// [`OpenOptions::open`].
pub fn open_with(options: &OpenOptions, path: impl AsRef<Path>) -> io::Result<File> {
    options.open(path)
}

/// [`fs::read`].
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// [`fs::read_to_string`].
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read_to_string(path)
}

/// [`fs::write`].
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    fs::write(path, bytes)
}

/// [`fs::copy`].
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<u64> {
    fs::copy(from, to)
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

/// Makes a directory with a mode, which is subject to the umask.
pub fn make_dir(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)
}

/// The same with those above it that are missing. One that is there is left as it is.
pub fn make_dirs(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// [`fs::set_permissions`].
pub fn set_permissions(path: impl AsRef<Path>, permissions: Permissions) -> io::Result<()> {
    fs::set_permissions(path, permissions)
}

/// [`fs::read_dir`].
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<ReadDir> {
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
