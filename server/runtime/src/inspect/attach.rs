//! Mounts that are put into a living mount namespace, or taken out of one.
//!
//! The place is found below the target's root and held by fds, so that nothing that is renamed meanwhile
//! can lead elsewhere; the mount itself was prepared before and is moved there in one step. The mount
//! namespace is joined, as the kernel lets nobody change another one, but nothing in it is executed, and
//! no path of it is looked up but the one that was asked for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, unlinkat,
    },
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount},
    process::{chroot, fchdir},
    thread::move_into_thread_name_spaces,
};

use super::{
    answers::Answers,
    process::{self, Pinned, Root, mount_id},
    question::{Answer, Failure, MountId},
};
use crate::{plan::NsType, protocol::ProcessId, sys::cred::set_file_ids};

/// A place for a mount: a name in a directory. Both are held, whatever they are called later.
struct Point<'a> {
    parent: OwnedFd,
    name: &'a [u8],
}

/// Answers [`super::question::Question::Attach`].
pub fn attach(
    to: ProcessId,
    point: &[u8],
    (dir, create, dry_run): (bool, bool, bool),
    mount: BorrowedFd<'_>,
    answers: &mut Answers<'_>,
) -> Result<(), Failure> {
    // Asked while the host's /proc is in sight.
    let owner = if create { process::root_ids(to.pid) } else { (0, 0) };
    let root = enter(to)?;
    let failed = |tried: &'static str| move |errno| Failure::refused(tried, point, errno);
    let place = Point::find(&root, point)?;
    let (target, made) = match place.open() {
        Err(Errno::NOENT) if create => {
            place.make(dir, owner).map_err(failed("cannot make"))?;
            (place.open().map_err(failed("cannot open what was made at"))?, true)
        }
        Err(errno) => return Err(place.refusal("cannot mount on", point, errno)),
        Ok(target) => (target, false),
    };
    let result = attach_to(target.as_fd(), dir, dry_run, mount, point);
    drop(target);
    if made && (result.is_err() || dry_run) {
        place.unmake(dir);
    }
    let id = mount_id(mount).map_err(failed("cannot tell what was mounted on"))?;
    result.and_then(|()| answers.add(&Answer::Attached(id)))
}

fn attach_to(
    target: BorrowedFd<'_>,
    dir: bool,
    dry_run: bool,
    mount: BorrowedFd<'_>,
    point: &[u8],
) -> Result<(), Failure> {
    let refused = |tried, errno| Failure::refused(tried, point, errno);
    let stat = fstat(target).map_err(|errno| refused("cannot look at", errno))?;
    // The kernel says EINVAL to both, which could mean anything.
    match (dir, FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
        (true, false) => {
            return Err(Failure::unfit("cannot mount a directory on a file:", point));
        }
        (false, true) => return Err(Failure::unfit("cannot mount a file on a directory:", point)),
        _ => {}
    }
    if dry_run {
        return Ok(());
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).map_err(|errno| refused("cannot mount on", errno))
}

/// Answers [`super::question::Question::Detach`].
pub fn detach(
    from: ProcessId,
    point: &[u8],
    only: Option<MountId>,
    (lazy, dry_run): (bool, bool),
) -> Result<(), Failure> {
    let root = enter(from)?;
    let place = Point::find(&root, point)?;
    let refused = |tried, errno| Failure::refused(tried, point, errno);
    let target = place.open().map_err(|errno| place.refusal("cannot unmount", point, errno))?;
    let (top, around) = mount_id(target.as_fd())
        .and_then(|top| Ok((top, mount_id(place.parent.as_fd())?)))
        .map_err(|errno| refused("cannot look at", errno))?;
    if top == around {
        return Err(Failure::unfit("nothing is mounted on", point));
    }
    if only.is_some_and(|only| only != top) {
        return Err(Failure::unfit("another mount lies on top of", point));
    }
    // Held by nothing of ours: that would make it busy.
    drop(target);
    if dry_run {
        return Ok(());
    }
    // Relative to a directory that is held. The name cannot be given to another mount meanwhile: a
    // mount point cannot be renamed in its own namespace.
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    fchdir(&place.parent).map_err(|errno| refused("cannot enter the directory of", errno))?;
    unmount(place.name, flags).map_err(|errno| match errno {
        Errno::BUSY => Failure::unfit("in use, so that it can only be unmounted lazily:", point),
        errno => refused("cannot unmount", errno),
    })
}

/// Answers [`super::question::Question::Tree`].
pub fn tree(
    of: ProcessId,
    path: &[u8],
    (recursive, plain): (bool, bool),
    answers: &mut Answers<'_>,
) -> Result<(), Failure> {
    let root = enter(of)?;
    let refused = |tried, errno| Failure::refused(tried, path, errno);
    let found = root.below(path).map_err(|errno| refused("cannot open", errno))?;
    let stat = fstat(&found).map_err(|errno| refused("cannot look at", errno))?;
    if plain && is_of_the_kernel(&found).map_err(|errno| refused("cannot look at", errno))? {
        return Err(Failure::unfit(
            "what the kernel shows of itself is not bound elsewhere:",
            path,
        ));
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let tree = open_tree(&found, "", flags).map_err(|errno| refused("cannot bind", errno))?;
    let dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    answers.add_with_fd(&Answer::Tree { dir }, tree.as_fd())
}

/// Whether a file is of a filesystem through which the kernel is told what to do. In a container parts of
/// these are hidden by mounts of their own, which a copy would not have.
fn is_of_the_kernel(file: impl AsFd) -> Result<bool, Errno> {
    // statfs(2), linux/magic.h: proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf.
    const MAGIC: [u64; 8] = [
        0x9fa0,
        0x6265_6572,
        0x0027_e0eb,
        0x6367_7270,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0xcafe_4a11,
    ];
    Ok(MAGIC.contains(&(rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff)))
}

/// Joins the mount namespace of a process, and returns its root.
fn enter(of: ProcessId) -> Result<Root, Failure> {
    let pinned = Pinned::same(of)?;
    let gone = |errno: Errno| process::gone(of.pid, &errno.into());
    let root = process::root(process::directory(of.pid)?).map_err(gone)?;
    pinned.still_there()?;
    let refused = |tried, errno| Failure::refused(tried, of.pid.to_string(), errno);
    move_into_thread_name_spaces(pinned.as_fd(), NsType::Mount.set())
        .map_err(|errno| refused("cannot join the mount namespace of process", errno))?;
    // Whatever is looked up from here on ends below the target's root.
    fchdir(root.as_fd())
        .and_then(|()| chroot("."))
        .map_err(|errno| refused("cannot enter the root of process", errno))?;
    Ok(root)
}

impl<'a> Point<'a> {
    fn find(root: &Root, path: &'a [u8]) -> Result<Point<'a>, Failure> {
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
        let at = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let (parent, name) = (&path[..at], &path[at..end]);
        if matches!(name, b"" | b"." | b"..") {
            return Err(Failure::unfit("the root of a target stays as it is:", path));
        }
        let parent = root
            .below(parent)
            .map_err(|errno| Failure::refused("cannot open the directory of", path, errno))?;
        Ok(Point { parent, name })
    }

    /// What lies there, if it is no link.
    fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(&self.parent, self.name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    }

    /// Makes it, as the root of the target's user namespace: others may have no id there.
    fn make(&self, dir: bool, owner: (u32, u32)) -> Result<(), Errno> {
        set_file_ids(owner);
        let made = if dir {
            mkdirat(&self.parent, self.name, Mode::from_raw_mode(0o755))
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(0o644);
            openat(&self.parent, self.name, flags | OFlags::CLOEXEC, mode).map(drop)
        };
        set_file_ids((0, 0));
        made
    }

    /// Takes back what was made. Only what is empty and unused goes.
    fn unmake(&self, dir: bool) {
        let flags = if dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let _ = unlinkat(&self.parent, self.name, flags);
    }

    /// Says that it is a link, where it is: the kernel's words for that speak of loops.
    fn refusal(&self, tried: &str, path: &[u8], errno: Errno) -> Failure {
        match errno {
            Errno::LOOP => Failure::unfit("the path must not be a symbolic link:", path),
            errno => Failure::refused(tried, path, errno),
        }
    }
}
