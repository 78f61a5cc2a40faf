//! Detached copies of what lies in a living mount namespace.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    fs::{CWD, FileType, fstat},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::{
    answers::Answers,
    joined::Joined,
    process::{self, mount_id},
    question::{Answer, Failure},
};
use crate::{
    kernel_fs::{self, Tree},
    launcher::NEW_ROOT,
    mountinfo::left_out,
    protocol::ProcessId,
    sys::process::unshare_mounts,
};

/// Answers [`super::question::Question::Tree`].
pub(super) fn clone(
    of: ProcessId,
    path: &[u8],
    (recursive, plain): (bool, bool),
    answers: &mut Answers<'_>,
) -> Result<(), Failure> {
    let joined = Joined::enter(of, None)?;
    let refused = |tried, errno| Failure::refused(tried, path, errno);
    let found = joined.root.below(path).map_err(|errno| refused("cannot open", errno))?;
    let kernel = kernel_fs::holds(&found).map_err(|errno| refused("cannot look at", errno))?;
    if plain && kernel {
        return Err(not_bound(path));
    }
    if plain {
        let text = joined.mountinfo()?;
        let on = mount_id(&found).map_err(|errno| refused("cannot look at", errno))?;
        let at = joined.path_of(&found).map_err(|errno| refused("cannot look at", errno))?;
        if let Some(point) = left_out(&text, on.id, &at, recursive) {
            let problem =
                "what is mounted there would be left out, and may hide or protect what lies below:";
            return Err(Failure::unfit(problem, &point));
        }
    }
    let (tree, dir) =
        copy(found.as_fd(), recursive || kernel).map_err(|errno| refused("cannot bind", errno))?;
    answers.add_with_fd(&Answer::Tree { dir }, tree.as_fd())
}

/// Answers [`super::question::Question::Plain`]. What a detached tree holds nothing tells: so it is attached, in a
/// mount namespace that nobody else is in, where nobody can change it while it is looked at.
pub(super) fn plain(tree: BorrowedFd<'_>, answers: &mut Answers<'_>) -> Result<(), Failure> {
    let refused = |tried, errno| Failure::refused(tried, "", errno);
    unshare_mounts().map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        refused("cannot make a mount namespace", errno)
    })?;
    move_mount(tree, "", CWD, NEW_ROOT, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| refused("cannot look into the source", errno))?;
    let id = mount_id(tree).map_err(|errno| refused("cannot look at the source", errno))?;
    let own = std::process::id() as i32;
    let text = process::directory(own)
        .and_then(|own_dir| process::mountinfo(own_dir).map_err(|e| process::gone(own, &e)))?;
    if let Some(point) = Tree::of(&text).kernels_at_or_below(id.id) {
        // As the source has it.
        let below = point.strip_prefix(NEW_ROOT.as_bytes()).unwrap_or(point);
        return Err(not_bound(if below.is_empty() { b"/" } else { below }));
    }
    let (tree, dir) = copy(tree, true).map_err(|errno| refused("cannot bind", errno))?;
    answers.add_with_fd(&Answer::Tree { dir }, tree.as_fd())
}

fn not_bound(path: &[u8]) -> Failure {
    Failure::unfit("what the kernel shows of itself is not bound elsewhere:", path)
}

/// A detached copy of the mount at an fd, and whether it is a directory.
fn copy(of: BorrowedFd<'_>, recursive: bool) -> Result<(OwnedFd, bool), Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let tree = open_tree(of, "", flags)?;
    let dir = FileType::from_raw_mode(fstat(&tree)?.st_mode) == FileType::Directory;
    Ok((tree, dir))
}
