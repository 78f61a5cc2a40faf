//! The proc of a container whose pid namespace another one joins.
//!
//! A proc shows the pid namespace of the process that makes it, and nothing of ours with the rights to make
//! one is let into a namespace that others live in. From Linux 6.17 on the mount option `pidns` does
//! without, and init makes it. Before, and where the new container's user namespace has no right to one,
//! the new container gets the proc of the one that it joins.

use std::os::{fd::OwnedFd, unix::ffi::OsStrExt as _};

use conti_runtime::{inspect::question::Question, own, protocol::ProcessId};
use rustix::{
    fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, openat2, readlinkat},
    io::Errno,
};

use super::failed;
use crate::engine::{
    Engine,
    error::{Error, Result},
    process,
};

impl Engine {
    /// A detached copy of what is mounted on the process's /proc. Nothing that is mounted below it comes along.
    pub(in crate::engine) async fn proc_of(&self, process: ProcessId) -> Result<OwnedFd> {
        let path = b"/proc".to_vec();
        let question = Question::Tree { of: process, path, recursive: false, plain: false };
        let mut inspection = self.inspect(&question, &[]).await?;
        inspection.next().await?;
        let copy = inspection
            .take_fd()
            .ok_or_else(|| Error::Internal("the inspector gave no copy of /proc".into()))?;
        let pinned = process::Pinned::open(process.pid, Some(process.start_ticks))?;
        let namespace = own::read_link(format!("/proc/{}/ns/pid", process.pid))
            .map_err(|error| process::gone(process.pid, &error))?;
        pinned.still_there()?;
        match shows(&copy, namespace.as_os_str().as_bytes()) {
            Ok(true) => Ok(copy),
            Ok(false) => Err(unusable(Errno::NODEV)),
            Err(errno) => Err(unusable(errno)),
        }
    }
}

/// Whether a mount is the root of a proc that shows this pid namespace. What lies there is the other
/// container's, and could be anything.
fn shows(mount: &OwnedFd, namespace: &[u8]) -> std::result::Result<bool, Errno> {
    if fstatfs(mount)?.f_type != PROC_SUPER_MAGIC {
        return Ok(false);
    }
    // In the root of a proc, `1` is the init of the pid namespace that it shows.
    let plain = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let init = openat2(mount, "1/ns", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), plain)?;
    Ok(readlinkat(&init, "pid", Vec::new())?.as_bytes() == namespace)
}

fn unusable(errno: Errno) -> Error {
    failed(
        "mount",
        "could not share the proc of the container whose pid namespace is joined,",
        "/proc",
        errno,
        "that container must have its own proc there",
    )
}
