//! Files and directories of the host, as detached mounts of their own.

use std::{
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use conti_runtime::{
    host, inspect::process::mount_id, kernel_fs, mountinfo::left_out, own, sys::mount,
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
    mount::{MountAttrFlags, MountPropagationFlags, OpenTreeFlags, open_tree},
};

use super::failed;
use crate::engine::{error::Result, scope, spec::Propagation};

/// A detached clone of a part of the host's tree.
#[derive(Debug)]
pub struct Bind {
    /// The mount.
    pub fd: OwnedFd,
    /// Whether its root is a directory.
    pub dir: bool,
    /// Where on the host that lies which was asked for by a path, links followed. Without those of which it is not
    /// known, and without the kernel's own filesystems, which an admin alone may have.
    pub sources: Vec<PathBuf>,
}

/// What a bind mount is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether the mounts below come along.
    pub recursive: bool,
    /// Whether it can only be read.
    pub read_only: bool,
    /// Whether the mounts below can only be read as well.
    pub recursive_read_only: bool,
    /// Whether device nodes on it cannot be opened.
    pub nodev: bool,
    /// Whether mounts made later are passed on.
    pub propagation: Propagation,
}

impl Options {
    /// A part of the agent's own, alone.
    pub const OWN: Options =
        Options { recursive: false, read_only: false, recursive_read_only: false, ..Options::VIEW };

    /// The same as [`Options::VIEW`] of one mount, without those below.
    pub const ONE: Options = Options { recursive: false, ..Options::VIEW };

    /// A private, recursive view that cannot be written.
    pub const VIEW: Options = Options {
        recursive: true,
        read_only: true,
        recursive_read_only: true,
        nodev: false,
        propagation: Propagation::Private,
    };
}

/// What fails where the source of a mount cannot be opened.
const SOURCE: &str = "cannot open the source of the mount";

/// A path of the host, and what it must not lead out of.
#[derive(Debug, Clone, Copy)]
pub struct HostPath<'a> {
    /// The path, absolute.
    pub path: &'a Path,
    /// The directories that it must stay in, whatever links are on the way. `None`: anywhere.
    pub within: Option<&'a [PathBuf]>,
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for HostPath<'a> {
    fn from(path: &'a P) -> Self {
        HostPath { path: path.as_ref(), within: None }
    }
}

/// Opens a path of the host. Links are followed, as a person who names it expects, but not such as
/// /proc/PID/root, whose meaning depends on the agent itself.
pub fn open<'a>(
    source: impl Into<HostPath<'a>>,
    step: &'static str,
    what: &'static str,
) -> Result<OwnedFd> {
    let HostPath { path, within } = source.into();
    let resolve = |from: BorrowedFd<'_>, path: &Path, how| {
        openat2(from, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how)
    };
    let opened = match within.map(|directories| scope::within(directories, path)) {
        None => resolve(CWD, path, ResolveFlags::NO_MAGICLINKS),
        Some(None) => Err(Errno::XDEV),
        // Who was granted what lies around a directory could put a link in its place.
        Some(Some((directory, rest))) => resolve(CWD, directory, ResolveFlags::NO_SYMLINKS)
            .and_then(|directory| {
                let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
                let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                resolve(directory.as_fd(), rest, how)
            }),
    };
    opened.map_err(|errno| {
        let hint = match errno {
            // openat2(2): the path would lead out of the directory.
            Errno::XDEV => "it leads out of the directories that the policy grants to its owner",
            _ => {
                "the path must be there on the agent's host and must not lead through /proc/PID links"
            }
        };
        failed(step, what, path.to_string_lossy(), errno, hint)
    })
}

/// Opens a layer of an overlay. The kernel's own filesystems are refused, for admins too: overlayfs uses its layers with the
/// credentials of its mounter (Documentation/filesystems/overlayfs.rst), and shows them without their covers.
pub fn open_layer<'a>(
    source: impl Into<HostPath<'a>>,
    step: &'static str,
    what: &'static str,
) -> Result<OwnedFd> {
    let source = source.into();
    let opened = open(source, step, what)?;
    let refused = |errno, hint| failed(step, what, source.path.to_string_lossy(), errno, hint);
    if kernel_fs::holds(&opened).map_err(|errno| refused(errno, hint(errno)))? {
        return Err(refused(Errno::PERM, "the kernel's own filesystems cannot be layers"));
    }
    match source.within.is_some() && leaves_out(&opened, false) {
        true => Err(refused(Errno::PERM, LEFT_OUT)),
        false => Ok(opened),
    }
}

const LEFT_OUT: &str = "what is mounted below it on the host would be left out (an overlay and non-recursive leave all of it, \
                        and nothing takes an unbindable mount), and may hide or protect what lies there: that is for admins";

/// Whether something is mounted below an open directory, as the agent sees it, which a bind leaves out. Where that cannot
/// be told: yes.
fn leaves_out(opened: &OwnedFd, recursive: bool) -> bool {
    let found = || {
        let on = mount_id(opened).ok()?.id;
        let at = own::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).ok()?;
        let text = host::read("/proc/self/mountinfo").ok()?;
        Some(left_out(&text, on, at.as_os_str().as_bytes(), recursive).is_some())
    };
    found().unwrap_or(true)
}

/// Opens what is at a path itself, without a link on the way.
pub fn open_itself(path: &Path, step: &'static str, what: &'static str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(|errno| {
        let hint = match errno {
            Errno::LOOP => "a link leads to it: only an admin is led anywhere",
            _ => "the path must be there on the agent's host",
        };
        failed(step, what, path.to_string_lossy(), errno, hint)
    })
}

/// Clones what is at a path.
pub fn clone<'a>(source: impl Into<HostPath<'a>>, options: Options) -> Result<Bind> {
    let source = source.into();
    let opened = open(source, "mount", SOURCE)?;
    let refused =
        |errno, hint| failed("mount", "cannot bind", source.path.to_string_lossy(), errno, hint);
    // By whatever way it was come to. What lies below is looked at where it is attached.
    let kernel = kernel_fs::holds(&opened).map_err(|errno| refused(errno, hint(errno)))?;
    if source.within.is_some() && kernel {
        let hint = "what the kernel shows of itself is bound by an admin alone";
        return Err(refused(Errno::PERM, hint));
    }
    if source.within.is_some() && leaves_out(&opened, options.recursive) {
        return Err(refused(Errno::PERM, LEFT_OUT));
    }
    let bound = clone_fd(opened.as_fd(), options).map_err(|errno| refused(errno, hint(errno)))?;
    let sources = real_path(&opened).filter(|_| !kernel).into_iter().collect();
    Ok(Bind { sources, ..bound })
}

/// Where an open file lies. `None`: nothing tells, or it is not UTF-8.
pub fn real_path(opened: &OwnedFd) -> Option<PathBuf> {
    let link = own::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).ok()?;
    link.to_str().is_some().then_some(link)
}

/// Clones the tree at an O_PATH fd.
pub fn clone_fd(source: BorrowedFd<'_>, options: Options) -> std::result::Result<Bind, Errno> {
    let stat = fstat(source)?;
    let dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, options.recursive);
    let fd = open_tree(source, c"", flags)?;
    let bound = Bind { fd, dir, sources: Vec::new() };
    restrict(&bound, options)?;
    Ok(bound)
}

/// Makes a detached clone what `options` say, but for what belongs to it.
pub fn restrict(bound: &Bind, options: Options) -> std::result::Result<(), Errno> {
    let fd = &bound.fd;
    // A clone of a shared mount is still its peer: what is mounted inside would appear on the host.
    let propagation = match options.propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Shared => MountPropagationFlags::SHARED,
    };
    mount::set_propagation(fd.as_fd(), propagation, true)?;
    if options.nodev {
        mount::set_attributes(fd.as_fd(), MountAttrFlags::MOUNT_ATTR_NODEV, true)?;
    }
    if options.read_only {
        mount::set_attributes(
            fd.as_fd(),
            MountAttrFlags::MOUNT_ATTR_RDONLY,
            options.recursive_read_only,
        )?;
    }
    Ok(())
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::INVAL => "a mount that is marked unbindable cannot be bound",
        Errno::PERM => "the agent lacks CAP_SYS_ADMIN",
        _ => "see the agent's log",
    }
}
