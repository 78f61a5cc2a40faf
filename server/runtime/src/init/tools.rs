//! The caller's own tools on top of a target's view, for a command that the target has not.
//!
//! A copy of the target's mount namespace, of which the target sees nothing, gets a new root:
//!
//! ```text
//!  /usr, /bin, /lib, /etc …   the tools', read-only
//!  /root, /tmp, /run, /var    empty, the session's own, where the tools have none
//!  /proc, /sys                the target's, if they are what the kernel shows, without what the target has
//!                             mounted in them, and covered anew
//!  /dev                       the standard nodes and terminals of the target, if that is what they are
//!  /target                    the target's root as a whole, live
//! ```
//!
//! The command may have more rights than the target. So nothing that the target's files say is where a
//! program looks for its libraries, its configuration or its plugins: all of that is below /target.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    ffi::CStr,
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstat, fstatfs, makedev,
        mkdirat, openat, openat2, statx, symlinkat,
    },
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
    },
    process::{chdir, fchdir, pivot_root},
};

use super::{
    PlanFds,
    failure::{At as _, Fail},
    hide::{Cover, make_read_only},
    mounts::{INERT, attach, clone_tree, make_fresh, make_private, make_root_read_only},
};
use crate::{
    plan::{Step, Tool, ToolKind, ToolsRoot},
    sys::ns::unshare_mounts,
};

/// Where the target's root is.
const TARGET: &CStr = c"target";
/// What the tools may not have, and programs write to. The first is the home of all users.
const OWN: [&CStr; 4] = [c"root", c"tmp", c"run", c"var"];
/// What the kernel shows, and by which number its filesystem is known (include/uapi/linux/magic.h).
const KERNELS: [(&str, u64); 3] =
    [("proc", 0x9fa0), ("sys", 0x6265_6572), ("sys/fs/cgroup", 0x6367_7270)];
const DEVPTS: u64 = 0x1cd1;
/// The inode number of the root of a proc and of a sysfs.
const ROOT_INODE: u64 = 1;
/// Device nodes, and their numbers (Documentation/admin-guide/devices.txt).
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Puts the tools on top of what this process sees. Afterwards `/` is the new root.
/// `pid_ns`: the pid namespace that the command will be in; `None`: that of this process.
pub(super) fn settle(
    tools: &ToolsRoot,
    pid_ns: Option<BorrowedFd<'_>>,
    fds: &PlanFds,
) -> Result<(), Fail> {
    unshare_mounts().at(Step::Clone)?;
    // Before the first mount, or it would show in the target.
    make_private().at(Step::Propagation)?;
    let old = open_dir(CWD, c"/").at(Step::Root)?;
    let root = filesystem(INERT).at(Step::Root)?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).at(Step::Root)?;
    for (index, tool) in tools.entries.iter().enumerate() {
        place(tool, fds, root.as_fd()).at_item(Step::Mount, index)?;
    }
    fill(root.as_fd()).at(Step::Root)?;
    for (name, magic) in KERNELS {
        // A target that is sick, or lies, is one to be debugged: what is not as it should be is missing.
        let _ = show_kernels(old.as_fd(), (name, magic), (tools, pid_ns), root.as_fd());
    }
    let terminals = tools.terminals.map(|fd| fds.borrow(fd)).transpose().at(Step::Root)?;
    make_dev(old.as_fd(), terminals, root.as_fd()).at(Step::Root)?;
    mkdirat(&root, TARGET, Mode::from_raw_mode(0o755)).at(Step::Root)?;
    cover(tools, root.as_fd())?;
    pivot(root.as_fd()).at(Step::PivotRoot)?;
    make_root_read_only(root.as_fd()).at(Step::Root)
}

/// Hides of proc and sysfs what a container does not see, and makes read-only what it does not write.
fn cover(tools: &ToolsRoot, root: BorrowedFd<'_>) -> Result<(), Fail> {
    if !tools.masked_paths.is_empty() {
        let kept_on = open_dir(root, TARGET).and_then(|at| Cover::kept_on(at.as_fd()));
        let cover = kept_on.at(Step::MaskPath)?;
        for (index, path) in tools.masked_paths.iter().enumerate() {
            cover.hide(root, path).at_item(Step::MaskPath, index)?;
        }
        fchdir(root)
            .and_then(|()| unmount(TARGET, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW))
            .at(Step::MaskPath)?;
    }
    for (index, path) in tools.read_only_paths.iter().enumerate() {
        make_read_only(root, path).at_item(Step::ReadOnlyPath, index)?;
    }
    Ok(())
}

/// A small empty filesystem.
fn filesystem(attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "755")?;
    fsconfig_set_string(&context, "size", "1m")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Puts one entry of the tools' root into the new one.
fn place(tool: &Tool, fds: &PlanFds, root: BorrowedFd<'_>) -> Result<(), Errno> {
    match &tool.kind {
        ToolKind::Link(text) => symlinkat(text.as_str(), root, tool.name.as_str()),
        ToolKind::Mount { fd, dir } => {
            let point = match tool.name.contains('/') {
                false => make_point(root, &tool.name, *dir)?,
                true => match open_plain(root, &tool.name) {
                    // It went meanwhile on the host, where it was looked for.
                    Err(Errno::NOENT) => return Ok(()),
                    point => point?,
                },
            };
            attach(fds.borrow(*fd)?, point.as_fd())
        }
    }
}

/// Makes what the tools do not have. All of it is the session's: no other sees this root.
fn fill(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let missing = |made: Result<(), Errno>| match made {
        Err(Errno::EXIST) => Ok(false),
        other => other.map(|()| true),
    };
    missing(mkdirat(root, c"etc", Mode::from_raw_mode(0o755)))?;
    for name in OWN {
        if missing(mkdirat(root, name, Mode::from_raw_mode(0o755)))? {
            own_directory(root, name)?;
        }
    }
    Ok(())
}

/// A filesystem that can be written, by whomever the command runs as.
fn own_directory(at: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "1777")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let made = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    attach(made.as_fd(), open_dir(at, name)?.as_fd())
}

/// Opens a path of the target that has no links in it.
fn open_plain(old: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    openat2(old, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn is_of(file: &OwnedFd, magic: u64) -> Result<bool, Errno> {
    Ok(fstatfs(file)?.f_type as u64 & 0xffff_ffff == magic)
}

/// Shows the root of a filesystem of the kernel's. What a target has mounted in it would lead tools astray: by a
/// mount on /proc/self whatever starts itself again by /proc/self/exe would run a program of the target's.
fn show_kernels(
    old: BorrowedFd<'_>,
    (name, magic): (&str, u64),
    (tools, pid_ns): (&ToolsRoot, Option<BorrowedFd<'_>>),
    root: BorrowedFd<'_>,
) -> Result<(), Errno> {
    // In one that is shown already.
    let below = name.contains('/');
    if below && tools.host_mounts {
        return Ok(());
    }
    let point = if below { open_plain(root, name)? } else { make_point(root, name, true)? };
    let found = open_plain(old, name)?;
    let inode = statx(&found, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?.stx_ino;
    if !is_of(&found, magic)? || !below && inode != ROOT_INODE {
        return Err(Errno::INVAL);
    }
    let alone = OpenTreeFlags::empty();
    let flags = if tools.host_mounts { OpenTreeFlags::AT_RECURSIVE } else { alone };
    match (show(&found, point.as_fd(), flags), name) {
        // Mounts are locked in it (mount_namespaces(7)): it is not to be had without them.
        (Err(Errno::INVAL), "proc") => {
            let fresh = make_fresh("proc", MountAttrFlags::empty(), pid_ns)?;
            attach(fresh.as_fd(), point.as_fd())
        }
        // No program is looked for in there.
        (Err(Errno::INVAL), "sys") => show(&found, point.as_fd(), OpenTreeFlags::AT_RECURSIVE),
        (shown, _) => shown,
    }
}

fn show(found: &OwnedFd, point: BorrowedFd<'_>, flags: OpenTreeFlags) -> Result<(), Errno> {
    let part = clone_tree(found.as_fd(), "", flags | OpenTreeFlags::AT_EMPTY_PATH)?;
    attach(part.as_fd(), point)
}

/// A /dev with those nodes of the target that are what their names say, and with its terminals or others.
fn make_dev(
    old: BorrowedFd<'_>,
    terminals: Option<BorrowedFd<'_>>,
    root: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let dev = make_point(root, "dev", true)?;
    let dev = dev.as_fd();
    for (name, major, minor) in NODES {
        let _ = show_node(old, name, makedev(major, minor), dev);
    }
    match terminals {
        Some(terminals) => attach(terminals, make_point(dev, "pts", true)?.as_fd())?,
        None => drop(show_terminals(old, dev)),
    }
    for (text, name) in LINKS {
        symlinkat(text, dev, name)?;
    }
    mkdirat(dev, c"shm", Mode::from_raw_mode(0o755))?;
    own_directory(dev, c"shm")
}

fn show_node(
    old: BorrowedFd<'_>,
    name: &str,
    number: u64,
    dev: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let found = open_plain(old, &format!("dev/{name}"))?;
    let stat = fstat(&found)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::CharacterDevice || stat.st_rdev != number {
        return Err(Errno::INVAL);
    }
    show(&found, make_point(dev, name, false)?.as_fd(), OpenTreeFlags::empty())
}

fn show_terminals(old: BorrowedFd<'_>, dev: BorrowedFd<'_>) -> Result<(), Errno> {
    let point = make_point(dev, "pts", true)?;
    let found = open_plain(old, "dev/pts")?;
    if !is_of(&found, DEVPTS)? {
        return Err(Errno::INVAL);
    }
    show(&found, point.as_fd(), OpenTreeFlags::empty())
}

/// Makes what something is mounted on. It is an error where there is something already.
fn make_point(
    root: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    dir: bool,
) -> Result<OwnedFd, Errno> {
    if dir {
        mkdirat(root, name, Mode::from_raw_mode(0o755))?;
        open_dir(root, name)
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::RDONLY;
        openat(root, name, flags, Mode::from_raw_mode(0o600))
    }
}

fn open_dir(at: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(at, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes the new root `/`, with the old one at [`TARGET`].
fn pivot(root: BorrowedFd<'_>) -> Result<(), Errno> {
    fchdir(root)?;
    pivot_root(".", TARGET)?;
    chdir("/")
}
