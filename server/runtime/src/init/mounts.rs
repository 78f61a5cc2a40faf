//! What is mounted in a container: its root, the mounts below it, the pivot.
//!
//! A mount is made or taken as an fd, gets its attributes while nobody can see it, and is then moved
//! onto its target's fd.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::{
    fs::{CWD, fstat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
    },
    process::{chdir, fchdir, pivot_root},
};

use super::{
    PlanFds,
    path::{Kind, is_dir, open_name_or_create, open_or_create},
};
use crate::{
    host,
    inspect::process::mount_id,
    kernel_fs::{self, Tree},
    launcher::NEW_ROOT,
    plan::{ContainerPlan, Fd, Mount, MountAttrs, MountWhat, Overlay, Root},
    sys::mount::set_attributes,
};

/// Says that a mount would get at what the kernel shows of itself. The kernel gives no such answer to a mount.
pub const GUARDED: Errno = Errno::XDEV;

/// Nothing in a filesystem that the kernel fills is a program, a device or set-user-id.
pub(super) const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Cuts this mount namespace off: no mount or unmount passes in or out of it.
pub(super) fn make_private() -> Result<(), Errno> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// Attaches the layers of overlays that are made in a user namespace. A mount that is attached nowhere
/// belongs to the user namespace of whoever made it, and overlayfs takes no layer from another one;
/// attached, it belongs to this mount namespace. It is out of sight below the root, and goes at the pivot.
pub(super) fn attach_layers(container: &ContainerPlan, fds: &PlanFds) -> Result<(), Errno> {
    let overlays = container.mounts.iter().filter_map(|mount| match &mount.what {
        MountWhat::Overlay(overlay) => Some(overlay),
        _ => None,
    });
    let root = match &container.root {
        Root::Overlay(overlay) => Some(overlay),
        Root::Mount(_) => None,
    };
    let lowers: Vec<Fd> = overlays.chain(root).map(|overlay| overlay.lower).collect();
    if lowers.is_empty() {
        return Ok(());
    }
    // The mount that upper and work lie in is only named where it gets the id map. Mounts with a
    // target of their own are not layers.
    let has_target = |fd: &Fd| {
        let is = |mount: &Mount| mount.fd() == Some(*fd);
        container.root == Root::Mount(*fd) || container.mounts.iter().any(is)
    };
    let mut layers: Vec<Fd> = lowers.iter().chain(&container.idmapped).copied().collect();
    layers.sort_unstable_by_key(|fd| fd.0);
    layers.dedup();
    for layer in layers.into_iter().filter(|fd| !has_target(fd)) {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(fds.borrow(layer)?, "", CWD, NEW_ROOT, flags)?;
    }
    Ok(())
}

/// Attaches what becomes `/` at the launcher's place for it: an fd of its root.
pub(super) fn attach_root(root: &Root, fds: &PlanFds, user_ns: bool) -> Result<OwnedFd, Errno> {
    let mount = match root {
        Root::Mount(fd) => fds.borrow(*fd)?.try_clone_to_owned().map_err(|_| Errno::MFILE)?,
        Root::Overlay(overlay) => make_overlay(overlay, fds, user_ns)?,
    };
    if !is_dir(mount.as_fd())? {
        return Err(Errno::NOTDIR);
    }
    move_mount(mount.as_fd(), "", CWD, NEW_ROOT, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(mount)
}

/// Where a mount finds what it needs.
pub(super) struct Scene<'a> {
    /// The attached root of the container.
    pub root: BorrowedFd<'a>,
    /// The fds of the plan.
    pub fds: &'a PlanFds,
    /// The pid namespace of others that the container is in: this process is not.
    pub pid_ns: Option<BorrowedFd<'a>>,
    /// Whether the container has a user namespace of its own.
    pub user_ns: bool,
    /// The slave of the terminal, where there is one.
    pub terminal: Option<BorrowedFd<'a>>,
}

/// Whether a mount may have to do with what the kernel shows of itself.
pub(super) enum Guard<'a> {
    /// It may.
    Off,
    /// It must not, and these are the mounts that it must not lie on.
    On(Vec<BorrowedFd<'a>>),
}

impl Guard<'_> {
    /// Checks where something is to be mounted: what was opened, as any path may be a link to anywhere.
    fn check_place(&self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        let Guard::On(places) = self else { return Ok(()) };
        let id = |fd| mount_id(fd).map(|id| id.id);
        let target_id = id(target)?;
        let mut inside = kernel_fs::holds(target)?;
        for place in places {
            inside |= id(*place)? == target_id;
        }
        if inside { Err(GUARDED) } else { Ok(()) }
    }

    /// Checks what was mounted, with all that came along below it.
    fn check_mounted(&self, mount: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            Guard::Off => Ok(()),
            Guard::On(_) => holds_no_kernel_fs(mount),
        }
    }
}

/// Refuses an attached mount that brings a filesystem of the kernel's own along.
pub(super) fn holds_no_kernel_fs(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    // The launcher's /proc is in sight, and nobody else is in this mount namespace.
    let text = host::read("/proc/self/mountinfo");
    let text = text.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    match Tree::of(&text).kernels_at_or_below(mount_id(mount)?.id) {
        Some(_) => Err(GUARDED),
        None => Ok(()),
    }
}

/// Mounts one thing below the root. Returns its fd: by its path it might not be found again.
pub(super) fn mount(mount: &Mount, scene: &Scene<'_>, guard: &Guard<'_>) -> Result<OwnedFd, Errno> {
    let attrs = attributes(&mount.attrs);
    let detached = |fd: &Fd| {
        let source = scene.fds.borrow(*fd)?;
        if !attrs.is_empty() {
            set_attributes(source, attrs, mount.attrs.recursive)?;
        }
        source.try_clone_to_owned().map_err(|_| Errno::MFILE)
    };
    let (source, kind) = match &mount.what {
        MountWhat::Detached { fd, dir } => {
            (detached(fd)?, if *dir { Kind::Dir } else { Kind::File })
        }
        MountWhat::OwnFile(fd) => (detached(fd)?, Kind::File),
        MountWhat::Overlay(overlay) => {
            let made = make_overlay(overlay, scene.fds, scene.user_ns)?;
            set_attributes_of_new(made.as_fd(), attrs)?;
            (made, Kind::Dir)
        }
        MountWhat::Fresh { fs } => (make_fresh(fs, attrs, scene.pid_ns)?, Kind::Dir),
        MountWhat::HostSysfs => {
            let made = clone_tree(CWD, "/sys", OpenTreeFlags::AT_RECURSIVE)?;
            let attrs = attrs | INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
            set_attributes(made.as_fd(), attrs, true)?;
            (made, Kind::Dir)
        }
        MountWhat::Console => {
            let terminal = scene.terminal.ok_or(Errno::NOTTY)?;
            let made = clone_tree(terminal, "", OpenTreeFlags::AT_EMPTY_PATH)?;
            set_attributes_of_new(made.as_fd(), attrs)?;
            (made, Kind::File)
        }
    };
    let target = match mount.what {
        // The kernel mounts on a link that is named by an fd of its own (tried on Linux 6.1 and 6.18).
        MountWhat::OwnFile(_) => open_name_or_create(scene.root, &mount.target)?,
        _ => open_or_create(scene.root, &mount.target, kind)?,
    };
    if same_place(target.as_fd(), scene.root)? {
        // It would hide the root, and with it all that was mounted before.
        return Err(Errno::BUSY);
    }
    // The kernel says EINVAL to both, which could mean anything.
    match (kind, is_dir(target.as_fd())?) {
        (Kind::Dir, false) => return Err(Errno::NOTDIR),
        (Kind::File, true) => return Err(Errno::ISDIR),
        _ => {}
    }
    guard.check_place(target.as_fd())?;
    attach(source.as_fd(), target.as_fd())?;
    guard.check_mounted(source.as_fd())?;
    Ok(source)
}

/// Puts a detached mount onto an open target.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// A detached copy of what is mounted at an open path: a bind mount that is not attached yet.
pub(super) fn clone_tree(
    at: BorrowedFd<'_>,
    path: &str,
    flags: OpenTreeFlags,
) -> Result<OwnedFd, Errno> {
    open_tree(at, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | flags)
}

/// Makes the attached root `/` and lets go of the launcher's.
pub(super) fn pivot(root: BorrowedFd<'_>) -> Result<(), Errno> {
    fchdir(root)?;
    // Old and new at one place: the old root then lies on top of the new one, and "." is what lies on
    // top (pivot_root(2)).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

/// Makes the root itself read-only, not what is mounted below it.
pub(super) fn make_root_read_only(root: BorrowedFd<'_>) -> Result<(), Errno> {
    set_attributes(root, MountAttrFlags::MOUNT_ATTR_RDONLY, false)
}

/// A new filesystem of this kind, detached, of which nothing can be executed. A proc shows the pid namespace
/// that is given, else that of this process. A given one takes Linux 6.17 (the mount option `pidns`).
pub(super) fn make_fresh(
    fs: &str,
    attrs: MountAttrFlags,
    pid_ns: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Errno> {
    // A plan may name these and nothing else: each belongs to a namespace of the container.
    if !["proc", "sysfs", "mqueue", "cgroup2"].contains(&fs) {
        return Err(Errno::NODEV);
    }
    let context = fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(pid_ns) = pid_ns.filter(|_| fs == "proc") {
        fsconfig_set_fd(&context, "pidns", pid_ns)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attrs | INERT)
}

fn make_overlay(overlay: &Overlay, fds: &PlanFds, user_ns: bool) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let lower = fds.borrow(overlay.lower)?;
    let (upper, work) = (fds.borrow(overlay.upper)?, fds.borrow(overlay.work)?);
    match fsconfig_set_fd(&context, "lowerdir+", lower) {
        Ok(()) => {
            fsconfig_set_fd(&context, "upperdir", upper)?;
            fsconfig_set_fd(&context, "workdir", work)?;
        }
        // Before Linux 6.13 a layer is named by a path, and before 6.5 overlayfs knows no fds at all. The path of an
        // fd leads to the layer: it is attached by now.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {
            for (key, layer) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
                fsconfig_set_string(&context, key, format!("/proc/self/fd/{}", layer.as_raw_fd()))?;
            }
        }
        Err(errno) => return Err(errno),
    }
    if user_ns {
        // A user namespace may not write the trusted.* attributes that overlayfs uses otherwise.
        fsconfig_set_flag(&context, "userxattr")?;
    }
    if overlay.volatile {
        fsconfig_set_flag(&context, "volatile")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn set_attributes_of_new(mount: BorrowedFd<'_>, attrs: MountAttrFlags) -> Result<(), Errno> {
    if attrs.is_empty() { Ok(()) } else { set_attributes(mount, attrs, false) }
}

fn attributes(attrs: &MountAttrs) -> MountAttrFlags {
    let mut flags = MountAttrFlags::empty();
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, attrs.read_only);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, attrs.nosuid);
    flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, attrs.nodev);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, attrs.noexec);
    flags
}

fn same_place(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool, Errno> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}
