//! The mount namespace of the launcher.
//!
//! Each container begins with a copy of it, so that it is small: a tmpfs as root, proc, sysfs, and a
//! place for the container's root. proc and sysfs are fully visible, without which the kernel
//! lets no user namespace mount its own.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, mkdirat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
        mount_change, move_mount, open_tree, unmount,
    },
};

use super::said;
use crate::{
    host,
    mountinfo::{self, unescape},
    sys::mount::set_attributes,
};

/// Where a container's root is attached before it becomes `/`: a directory of the launcher's root.
pub const NEW_ROOT: &str = "/newroot";

/// Turns the mount namespace, a copy of the agent's, into the small one.
pub fn build() -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| said("make all mounts private")(e.into()))?;
    // Both before the tmpfs hides one of them.
    let proc = tree("/proc", false).map_err(said("take hold of /proc"))?;
    let sys = tree("/sys", true).map_err(said("take hold of /sys"))?;
    let root = tmpfs().map_err(said("make a tmpfs for the launcher's root"))?;
    for directory in ["proc", "sys", NEW_ROOT.trim_start_matches('/')] {
        mkdirat(&root, directory, Mode::from_raw_mode(0o755))?;
    }
    // A mount can only be attached to a tree that is attached itself; /proc exists everywhere.
    attach(&root, CWD, "/proc").map_err(said("attach the launcher's root"))?;
    attach(&proc, &root, "proc").map_err(said("attach /proc to the launcher's root"))?;
    attach(&sys, &root, "sys").map_err(said("attach /sys to the launcher's root"))?;
    // Nothing is written to it, and a directory of a read-only mount can be mounted on all the same.
    set_attributes(root.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
    enter(&root).map_err(said("enter the launcher's root"))
}

/// A detached copy of a mount. Recursively where the mounts below it are wanted, or may not be uncovered.
fn tree(path: &str, recursive: bool) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let all = flags | OpenTreeFlags::AT_RECURSIVE;
    match open_tree(CWD, path, if recursive { all } else { flags }) {
        Err(Errno::INVAL) if !recursive => Ok(open_tree(CWD, path, all)?),
        other => Ok(other?),
    }
}

fn tmpfs() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("source", "conti"), ("size", "64k"), ("nr_inodes", "16"), ("mode", "755")]
    {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn attach(mount: &OwnedFd, directory: impl AsFd, path: &str) -> io::Result<()> {
    Ok(move_mount(mount, "", directory, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Makes the tmpfs the root and detaches what was the root before.
fn enter(root: &OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // A system that runs from its initramfs has no root that could be pivoted away.
        Err(Errno::INVAL) => cover()?,
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::process::chdir("/")?)
}

/// Moves the tmpfs, which is the working directory, over the root, after all other mounts were detached, so
/// that no copy of the namespace pays for them.
fn cover() -> io::Result<()> {
    // The tmpfs lies on /proc and has its own below it.
    let mounts = host::read("proc/thread-self/mountinfo")?;
    let points = mountinfo::Entry::all(&mounts).map(|entry| unescape(entry.point));
    for point in points.filter(|point| point != b"/" && !within(point, b"/proc")) {
        let _ = unmount(point, UnmountFlags::DETACH);
    }
    rustix::mount::mount_move(".", "/")?;
    Ok(rustix::process::chroot(".")?)
}

fn within(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_within_a_directory_by_whole_names() {
        assert!(within(b"/proc/sys", b"/proc") && !within(b"/processes", b"/proc"));
    }
}
