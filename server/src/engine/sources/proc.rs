//! The proc of a container whose pid namespace another one joins.
//!
//! A proc shows the pid namespace of the process that makes it, and nothing of ours with the rights to make
//! one is let into a namespace that others live in. From Linux 6.17 on the mount option `pidns` does
//! without (init makes it); before, the new container gets the proc of the one that it joins.

use std::{
    fs,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use conti_runtime::protocol::ProcessId;
use rustix::{
    fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, open, openat2, readlinkat},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};

use super::failed;
use crate::engine::{
    error::Result,
    process::{self, Pinned},
};

/// A detached copy of what is mounted on the process's /proc, if it shows the pid namespace of that
/// process. Nothing that is mounted below it comes along.
pub fn of(process: ProcessId) -> Result<OwnedFd> {
    let pinned = Pinned::open(process.pid, Some(process.start_ticks))?;
    let namespace = fs::read_link(format!("/proc/{}/ns/pid", process.pid))
        .map_err(|error| process::gone(process.pid, &error))?;
    let copied = copy(process.pid, namespace.as_os_str().as_bytes());
    pinned.still_there()?;
    copied.map_err(|errno| {
        failed(
            "mount",
            "could not share the proc of the container whose pid namespace is joined",
            "/proc",
            errno,
            "; that container must have its own proc there, or the host Linux 6.17",
        )
    })
}

fn copy(pid: i32, namespace: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let path = OFlags::PATH | OFlags::CLOEXEC;
    // What lies below belongs to the container: no link is followed in it.
    let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let root = open(format!("/proc/{pid}/root"), path | OFlags::DIRECTORY, Mode::empty())?;
    let proc = openat2(&root, "proc", path | OFlags::DIRECTORY, Mode::empty(), plain)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = open_tree(proc.as_fd(), "", flags)?;
    if fstatfs(&copy)?.f_type != PROC_SUPER_MAGIC {
        return Err(Errno::NODEV);
    }
    // In the root of a proc, `1` is the init of the pid namespace that it shows.
    let init = openat2(&copy, "1/ns", path, Mode::empty(), plain | ResolveFlags::NO_XDEV)?;
    match readlinkat(&init, "pid", Vec::new())?.as_bytes() == namespace {
        true => Ok(copy),
        false => Err(Errno::NODEV),
    }
}
