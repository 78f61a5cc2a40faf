//! A living mount namespace that this process has joined, and places in it.
//!
//! The kernel lets nobody change another mount namespace, so it is joined; but nothing in it is executed, and
//! no path of it is looked up but the one that was asked for. Whatever is found is held by its fd.

use std::{
    ffi::CString,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2, readlinkat},
    io::Errno,
    mount::{UnmountFlags, unmount},
    process::{chroot, fchdir},
};

use super::{
    held_namespaces::{HeldNamespaces, OwnNamespaces},
    process::{self, Pinned, Root},
    question::Failure,
};
use crate::{fault, plan::NsType, protocol::ProcessId};

/// The mount namespace of a process, which this process is in.
pub(super) struct Joined {
    /// The root of the process, which is this one's as well: whatever is looked up ends below it.
    pub root: Root,
    /// What /proc says of this process. In here, no /proc can be relied on.
    own: OwnedFd,
}

impl Joined {
    /// Joins the mount namespace of a process. `namespace`: the inode number that it must have, and that whoever asks
    /// for it keeps from being another's.
    pub(super) fn enter(of: ProcessId, namespace: Option<u64>) -> Result<Joined, Failure> {
        let pinned = Pinned::same(of)?;
        let gone = |errno: Errno| process::gone(of.pid, &errno.into());
        let held = HeldNamespaces::of(&pinned, &OwnNamespaces::look()?)?;
        let root = process::root(process::directory(of.pid)?).map_err(gone)?;
        let own = process::directory(std::process::id() as i32)?;
        // The root is one of these mounts.
        held.still_of(&pinned)?;
        if namespace.is_some_and(|wanted| held.inode(NsType::Mount) != Some(wanted)) {
            let problem = "it has gone to another mount namespace meanwhile".to_owned();
            return Err(Failure::Gone { pid: of.pid, problem });
        }
        fault::point("joined.looked");
        let refused = |tried, errno| Failure::refused(tried, of.pid.to_string(), errno);
        held.join(&[NsType::Mount])
            .map_err(|errno| refused("cannot join the mount namespace of process", errno))?;
        fchdir(root.as_fd())
            .and_then(|()| chroot("."))
            .map_err(|errno| refused("cannot enter the root of process", errno))?;
        Ok(Joined { root, own })
    }

    /// The mounts that this process sees.
    pub(super) fn mountinfo(&self) -> Result<Vec<u8>, Failure> {
        let own = std::process::id() as i32;
        process::mountinfo(&self.own).map_err(|error| process::gone(own, &error))
    }

    /// Where an open file lies, as this process sees it.
    pub(super) fn path_of(&self, file: &OwnedFd) -> Result<Vec<u8>, Errno> {
        let link = format!("fd/{}", file.as_raw_fd());
        readlinkat(&self.own, link, Vec::new()).map(CString::into_bytes)
    }

    /// Unmounts lazily what is mounted where an fd is open: that very mount, whatever leads to it by now. What
    /// was mounted on top of its root meanwhile would go in its place (path_umount of Linux fs/namespace.c).
    pub(super) fn unmount(&self, mounted: &OwnedFd) -> Result<(), Errno> {
        fchdir(&self.own)?;
        unmount(format!("fd/{}", mounted.as_raw_fd()), UnmountFlags::DETACH)
    }
}

/// A place for a mount: a name in a directory. Both are held, whatever they are called later.
pub(super) struct Point<'a> {
    pub parent: OwnedFd,
    pub name: &'a [u8],
}

impl<'a> Point<'a> {
    pub(super) fn find(root: &Root, path: &'a [u8]) -> Result<Point<'a>, Failure> {
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
    pub(super) fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let parent = self.parent.as_fd();
        openat2(parent, self.name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    }

    /// Says that it is a link, where it is: the kernel's words for that speak of loops.
    pub(super) fn refusal(&self, tried: &str, path: &[u8], errno: Errno) -> Failure {
        match errno {
            Errno::LOOP => Failure::unfit("the path must not be a symbolic link:", path),
            errno => Failure::refused(tried, path, errno),
        }
    }
}
