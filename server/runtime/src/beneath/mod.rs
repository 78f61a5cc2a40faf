//! The one way to files below what a container or another user can write: layers, root filesystems,
//! granted directories, and directories that are to be removed.
//!
//! Whoever writes there can put a link, a FIFO or a device in the place of a file at any moment, exchange a
//! directory for a link between two system calls, and make trees that are deeper than any path or stack. So:
//!
//! - everything is done from a directory that is held by its fd ([`Dir`]), never by a path from the root;
//! - lookups are openat2(2) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS and
//!   RESOLVE_NO_XDEV: a link or a mount on the way is an error, and nothing leads out;
//! - a file is opened only once it is known to be a regular file, so that no FIFO blocks and no device
//!   notices;
//! - what is written is a new file (O_EXCL) that takes the place of the old name by rename(2): what had that
//!   name is neither opened nor changed;
//! - trees are walked without recursion and with a bounded number of fds ([`Dir::remove`]);
//! - an error names what is in the way: its path and the kernel's answer ([`Blocked`]).
//!
//! `server/clippy.toml` bans the functions of `std::fs` by name, which do none of this.

mod dir;
mod names;
mod remove;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use dir::Dir;
use rustix::io::Errno;

/// What kept something from being done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {tried} {path:?}: {}", io::Error::from(*.errno))]
pub struct Blocked {
    /// What was tried, as a verb, e.g. `remove`.
    pub tried: &'static str,
    /// On what: its path as far as it is known. Of a very deep tree it may be cut off at the front.
    pub path: PathBuf,
    /// The kernel's answer.
    pub errno: Errno,
}

impl From<Blocked> for io::Error {
    fn from(blocked: Blocked) -> io::Error {
        blocked.errno.into()
    }
}

/// Removes what is at a path, whatever it is, with all that is below it. The directory that it lies in is the
/// agent's own. What is not there is removed already.
///
/// # Errors
///
/// As [`Dir::remove`].
pub fn remove(path: &Path) -> Result<(), Blocked> {
    let blocked = |errno| Blocked { tried: "remove", path: path.to_owned(), errno };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(blocked(Errno::INVAL));
    };
    match Dir::open(parent) {
        Ok(parent) => parent.remove(name),
        Err(Blocked { errno: Errno::NOENT, .. }) => Ok(()),
        Err(other) => Err(other),
    }
}

/// Removes a cgroup and those below it. The path is one of the agent's own; a container can make cgroups
/// below its own as deep as it likes.
///
/// # Errors
///
/// As [`Dir::remove`]; a cgroup in which a process is left gives EBUSY.
pub fn remove_cgroup(path: &Path) -> Result<(), Blocked> {
    let blocked = |errno| Blocked { tried: "remove", path: path.to_owned(), errno };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(blocked(Errno::INVAL));
    };
    match Dir::open(parent) {
        Ok(parent) => remove::tree(&parent, name, remove::Kinds::Cgroups),
        Err(Blocked { errno: Errno::NOENT, .. }) => Ok(()),
        Err(other) => Err(other),
    }
}
