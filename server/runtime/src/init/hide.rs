//! Paths that a container must not read, or not write.
//!
//! Done when everything is mounted, so that nothing is mounted over it later, and while there is a place to keep the
//! cover at. What is missing is skipped: what the kernel does not offer needs no cover.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, mkdirat, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen,
    },
};

use super::{
    mounts::{INERT, attach, clone_tree},
    path::{is_dir, open_in},
};
use crate::sys::mount::set_attributes;

/// What masked paths disappear behind: an empty directory and an empty file of one read-only
/// filesystem. Not the container's /dev/null: a hostile image could put something else there.
pub(super) struct Cover {
    filesystem: OwnedFd,
}

impl Cover {
    /// Makes the filesystem. It is kept on a directory, which the caller sees to: only attached mounts can be
    /// cloned on every kernel.
    pub(super) fn kept_on(place: BorrowedFd<'_>) -> Result<Cover, Errno> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // Its root, the directory, the file, and the page that the kernel wants at least.
        fsconfig_set_string(&context, "nr_inodes", "4")?;
        fsconfig_set_string(&context, "size", "4096")?;
        fsconfig_set_string(&context, "mode", "0555")?;
        fsconfig_create(&context)?;
        let filesystem = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, INERT)?;
        mkdirat(&filesystem, "dir", Mode::from_raw_mode(0o555))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&filesystem, "file", flags, Mode::from_raw_mode(0o444))?;
        set_attributes(filesystem.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, false)?;
        attach(filesystem.as_fd(), place)?;
        Ok(Cover { filesystem })
    }

    /// Hides a path below `root`.
    pub(super) fn hide(&self, root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
        let Some(target) = open_present(root, path)? else { return Ok(()) };
        let name = if is_dir(target.as_fd())? { "dir" } else { "file" };
        let copy = clone_tree(self.filesystem.as_fd(), name, OpenTreeFlags::empty())?;
        attach(copy.as_fd(), target.as_fd())
    }
}

/// Makes a path below `root` read-only with all that is mounted below it, by a mount of itself onto
/// itself.
pub(super) fn make_read_only(root: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let Some(target) = open_present(root, path)? else { return Ok(()) };
    let flags = OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE;
    let copy = clone_tree(target.as_fd(), "", flags)?;
    set_attributes(copy.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, true)?;
    attach(copy.as_fd(), target.as_fd())
}

/// Opens a path; `None` where it is missing.
fn open_present(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, Errno> {
    match open_in(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
