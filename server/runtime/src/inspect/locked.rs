//! Mounts of the host that a user namespace of others is given, and cannot change.
//!
//! Root there may remount and unmount whatever its mount namespace has, if it has CAP_SYS_ADMIN: a bind mount
//! that was made read-only, or one that covers a directory of the host. The kernel locks both where a mount
//! namespace is copied for another user namespace (mount_namespaces(7), "Restrictions on mount namespaces"), and
//! nowhere else. So each tree is attached here, this mount namespace is copied for a user namespace that nobody
//! is in, and what is given away is a part of the copy.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

use super::{
    answers::Answers,
    question::{Answer, Failure},
};
use crate::{
    launcher::NEW_ROOT,
    plan::NsType,
    sys::ns::{unshare_mounts, unshare_namespaces},
};

/// Answers [`super::question::Question::Locked`].
pub(super) fn lock(trees: &[OwnedFd], answers: &mut Answers<'_>) -> Result<(), Failure> {
    let failed = |tried: &'static str| move |errno| Failure::refused(tried, "", errno);
    unshare_mounts().map_err(failed("cannot make a mount namespace"))?;
    let kinds = attach(trees).map_err(failed("cannot attach a mount"))?;
    unshare_namespaces(NsType::User.clone_flag() | NsType::Mount.clone_flag())
        .map_err(failed("cannot make a user namespace"))?;
    for (index, dir) in kinds.into_iter().enumerate() {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        // By its path: an fd would lead to what was copied, and not to the copy.
        let locked = open_tree(CWD, format!("{NEW_ROOT}/{index}"), flags);
        let locked = locked.map_err(failed("cannot copy a mount"))?;
        answers.add_with_fd(&Answer::Tree { dir }, locked.as_fd())?;
    }
    Ok(())
}

/// Attaches each tree at its number below [`NEW_ROOT`]. Returns which of them are directories.
fn attach(trees: &[OwnedFd]) -> Result<Vec<bool>, Errno> {
    let points = tmpfs()?;
    move_mount(&points, "", CWD, NEW_ROOT, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let attach_one = |(index, tree): (usize, &OwnedFd)| {
        let name = index.to_string();
        let dir = FileType::from_raw_mode(fstat(tree)?.st_mode) == FileType::Directory;
        if dir {
            mkdirat(&points, &name, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&points, &name, flags, Mode::from_raw_mode(0o644))?;
        }
        move_mount(tree, "", &points, &name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(dir)
    };
    trees.iter().enumerate().map(attach_one).collect()
}

/// A filesystem for the places that the trees are attached to.
fn tmpfs() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "755")?;
    fsconfig_set_string(&context, "size", "1m")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}
