//! The caller's own tools on top of a target's view, for a command that the target has not.
//!
//! A copy of the target's mount namespace, of which the target sees nothing, gets a new root:
//!
//! ```text
//!  /usr, /bin, /lib …   the tools', read-only; so are programs and the libraries they need
//!  /etc, /var, /app …   the target's own, live: each entry of its root, with all that is mounted there
//!  /target              the target's root as a whole
//! ```

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    ffi::CStr,
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, readlinkat, statat, symlinkat,
    },
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
    process::{chdir, fchdir, pivot_root},
};

use super::{
    PlanFds,
    failure::{At as _, Fail},
    mounts::{INERT, attach, make_private, make_root_read_only},
};
use crate::{
    plan::{Step, Tool, ToolKind},
    sys::ns::unshare_mounts,
};

/// Where the target's root is.
const TARGET: &CStr = c"target";
/// Entries that programs count on.
const FIRST: [&CStr; 7] = [c"proc", c"sys", c"dev", c"etc", c"tmp", c"run", c"var"];
/// How many entries of the target's root are shown beside the tools. All of them are below /target.
const ENTRIES_MAX: usize = 256;

/// Puts the tools on top of what this process sees. Afterwards `/` is the new root.
pub(super) fn settle(tools: &[Tool], fds: &PlanFds) -> Result<(), Fail> {
    unshare_mounts().at(Step::Clone)?;
    // Before the first mount, or it would show in the target.
    make_private().at(Step::Propagation)?;
    let old = open_dir(CWD, c"/").at(Step::Root)?;
    let root = new_root().at(Step::Root)?;
    for (index, tool) in tools.iter().enumerate().filter(|(_, tool)| tool.always) {
        place(tool, fds, root.as_fd()).at_item(Step::Mount, index)?;
    }
    show_entries(old.as_fd(), root.as_fd()).at(Step::Root)?;
    for (index, tool) in tools.iter().enumerate().filter(|(_, tool)| !tool.always) {
        match place(tool, fds, root.as_fd()) {
            // The target's own counts.
            Err(Errno::EXIST) => {}
            placed => placed.at_item(Step::Mount, index)?,
        }
    }
    pivot(root.as_fd()).at(Step::PivotRoot)?;
    make_root_read_only(root.as_fd()).at(Step::Root)
}

/// A small empty filesystem, attached on top of everything.
fn new_root() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "755")?;
    fsconfig_set_string(&context, "size", "1m")?;
    fsconfig_create(&context)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, INERT)?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(root)
}

/// Puts one entry of the tools' root into the new one.
fn place(tool: &Tool, fds: &PlanFds, root: BorrowedFd<'_>) -> Result<(), Errno> {
    match &tool.kind {
        ToolKind::Link(text) => symlinkat(text.as_str(), root, tool.name.as_str()),
        ToolKind::Mount { fd, dir } => {
            let point = make_point(root, &tool.name, *dir)?;
            attach(fds.borrow(*fd)?, point.as_fd())
        }
    }
}

/// Shows the entries of the target's root in the new one, but for those that the tools have.
fn show_entries(old: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<(), Errno> {
    let listed =
        openat(old, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let entries = Dir::read_from(&listed)?;
    let names = entries.filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name();
        name != c"." && name != c".." && name != TARGET
    });
    let names = names.map(|entry| entry.file_name().to_owned()).take(ENTRIES_MAX);
    // Those first that a target with very many others must not push out.
    for name in FIRST.map(CStr::to_owned).into_iter().chain(names) {
        // The tools' or shown already; gone meanwhile; or a mount that has lost its server: a target that
        // is sick is one to be debugged. All of it is below /target.
        let _ = show(old, &name, root);
    }
    Ok(())
}

fn show(old: BorrowedFd<'_>, name: &CStr, root: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = statat(old, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        return symlinkat(readlinkat(old, name, Vec::new())?, root, name);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    let part = open_tree(old, name, flags)?;
    let point = make_point(root, name, kind == FileType::Directory)?;
    attach(part.as_fd(), point.as_fd())
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
    mkdirat(root, TARGET, Mode::from_raw_mode(0o755))?;
    fchdir(root)?;
    pivot_root(".", TARGET)?;
    chdir("/")
}
