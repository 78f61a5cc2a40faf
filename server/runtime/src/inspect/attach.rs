//! Putting a mount into a living mount namespace.
//!
//! The place is found below the target's root and held by fds, so that nothing that is renamed meanwhile
//! can lead elsewhere; the mount itself was prepared before and is moved there in one step.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fstat, mkdirat, openat, unlinkat},
    io::Errno,
    mount::{MoveMountFlags, move_mount},
    thread::{CapabilitySet, capabilities, set_capabilities},
};

use super::{
    answers::Answers,
    joined::{Joined, Point},
    process::{self, mount_id},
    question::{Answer, Failure},
};
use crate::{
    fault,
    kernel_fs::{self, Tree},
    plan::IdMap,
    protocol::ProcessId,
    sys::cred::set_file_ids,
};

/// What is to be attached, see [`super::question::Question::Attach`].
pub(super) struct Wanted<'a> {
    pub point: &'a [u8],
    pub dir: bool,
    pub create: bool,
    pub root_ids: Option<(u32, u32)>,
    pub guarded: bool,
    pub dry_run: bool,
}

/// Answers [`super::question::Question::Attach`].
pub(super) fn attach(
    (to, namespace): (ProcessId, u64),
    wanted: &Wanted<'_>,
    mount: BorrowedFd<'_>,
    answers: &mut Answers<'_>,
) -> Result<(), Failure> {
    let failed = |tried: &'static str| move |errno| Failure::refused(tried, wanted.point, errno);
    let maps = id_maps(to.pid)?;
    let joined = Joined::enter(to, Some(namespace))?;
    let place = Point::find(&joined.root, wanted.point)?;
    // Before anything is made there.
    let in_kernel = is_kernels(&joined, &place.parent).map_err(failed("cannot look at"))?;
    if wanted.guarded && in_kernel {
        return Err(guarded(wanted.point));
    }
    let (target, made) = match place.open() {
        Err(Errno::NOENT) if wanted.create => {
            make(&place, wanted.dir, wanted.root_ids, &maps)
                .map_err(|errno| refusal(wanted.point, errno))?;
            (place.open().map_err(failed("cannot open what was made at"))?, true)
        }
        Err(errno) => return Err(place.refusal("cannot mount on", wanted.point, errno)),
        Ok(target) => (target, false),
    };
    let result = attach_to(&joined, &target, wanted, mount);
    drop(target);
    if made && (result.is_err() || wanted.dry_run) {
        unmake(&place, wanted.dir);
    }
    let kernel = result? || in_kernel;
    answers.add(&Answer::Attached { kernel })
}

/// Attaches it, and tells whether the place or what was attached is of the kernel's.
fn attach_to(
    joined: &Joined,
    target: &OwnedFd,
    wanted: &Wanted<'_>,
    mount: BorrowedFd<'_>,
) -> Result<bool, Failure> {
    let failed = |tried: &'static str| move |errno| Failure::refused(tried, wanted.point, errno);
    let stat = fstat(target).map_err(failed("cannot look at"))?;
    let unfit = |problem| Err(Failure::unfit(problem, wanted.point));
    // The kernel says EINVAL to both, which could mean anything.
    match (wanted.dir, FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
        (true, false) => return unfit("cannot mount a directory on a file:"),
        (false, true) => return unfit("cannot mount a file on a directory:"),
        _ => {}
    }
    let in_kernel = is_kernels(joined, target).map_err(failed("cannot look at"))?;
    if wanted.guarded && in_kernel {
        return Err(guarded(wanted.point));
    }
    if wanted.dry_run {
        return Ok(in_kernel);
    }
    fault::point("attach.checked");
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).map_err(failed("cannot mount on"))?;
    fault::point("attach.attached");
    // It is in its place: what cannot be looked at any more counts as the kernel's.
    let holds = || {
        let text = joined.mountinfo().ok()?;
        Some(Tree::of(&text).kernels_at_or_below(mount_id(mount).ok()?.id).is_some())
    };
    Ok(in_kernel || holds().unwrap_or(true))
}

/// Whether an open file lies where the kernel shows itself, or among the devices of the target.
fn is_kernels(joined: &Joined, file: &OwnedFd) -> Result<bool, Errno> {
    if kernel_fs::holds(file)? {
        return Ok(true);
    }
    let text = joined.mountinfo().map_err(|_| Errno::SRCH)?;
    Ok(Tree::of(&text).lies_in_places(mount_id(file)?.id))
}

fn guarded(point: &[u8]) -> Failure {
    let problem = "it lies in /proc, /sys or /dev, which belong to the container's confinement:";
    Failure::Refused { tried: problem.to_owned(), argument: point.to_owned(), errno: libc::EPERM }
}

/// Makes the place, as the root of the target's user namespace (others may have no id there), or else as the
/// owner of the directory that it is made in.
fn make(
    place: &Point<'_>,
    dir: bool,
    root: Option<(u32, u32)>,
    (users, groups): &(Vec<IdMap>, Vec<IdMap>),
) -> Result<(), Errno> {
    let stat = fstat(&place.parent)?;
    set_file_ids(root.unwrap_or((stat.st_uid, stat.st_gid)));
    let known = IdMap::inside(users, stat.st_uid).is_some();
    if known && IdMap::inside(groups, stat.st_gid).is_some() {
        // What belongs to an id of the target, its root may change (capable_wrt_inode_uidgid() in the kernel's
        // kernel/capability.c). Other ids for files have taken this right away (capabilities(7)).
        let mut own = capabilities(None)?;
        own.effective |= CapabilitySet::DAC_OVERRIDE & own.permitted;
        set_capabilities(None, own)?;
    }
    let made = if dir {
        mkdirat(&place.parent, place.name, Mode::from_raw_mode(0o755))
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o644);
        openat(place.parent.as_fd(), place.name, flags | OFlags::CLOEXEC, mode).map(drop)
    };
    set_file_ids((0, 0));
    made
}

/// The ids of users and of groups that the user namespace of a process has.
fn id_maps(pid: i32) -> Result<(Vec<IdMap>, Vec<IdMap>), Failure> {
    let directory = process::directory(pid)?;
    let map = |name| process::id_map(&directory, name).map_err(|error| process::gone(pid, &error));
    Ok((map("uid_map")?, map("gid_map")?))
}

fn refusal(point: &[u8], errno: Errno) -> Failure {
    match errno {
        // Linux fs/namei.c: neither the maker nor what it makes has an id there.
        Errno::OVERFLOW => Failure::unfit(
            "the filesystem has no id for the target's root, nor for the owner of the directory; make it inside the target first:",
            point,
        ),
        errno => Failure::refused("cannot make", point, errno),
    }
}

/// Takes back what was made. Only what is empty and unused goes.
fn unmake(place: &Point<'_>, dir: bool) {
    let flags = if dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    let _ = unlinkat(&place.parent, place.name, flags);
}
