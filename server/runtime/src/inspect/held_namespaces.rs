//! The namespaces of a process, held from the look at them until they are joined.
//!
//! A process may leave its namespaces at any moment, and anybody may make a user and a mount namespace and go there.
//! Whoever looks at namespaces by name and later joins them by the process follows it into those that it has chosen,
//! and with rights that were meant for others. So they are opened once: what is decided is decided of what was
//! opened, and that is joined. Numbers alone would not do: that of a namespace that is gone is the next one's, but
//! not while it is held.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    thread::move_into_thread_name_spaces,
};

use super::{
    process::{self, Pinned, inode, namespace_of},
    question::Failure,
};
use crate::{plan::NsType, sys::ns};

/// The inode numbers of the namespaces that this process is in and stays in, of each type that the kernel knows.
#[derive(Debug)]
pub struct OwnNamespaces(Vec<(NsType, u64)>);

impl OwnNamespaces {
    /// Looks at them.
    pub fn look() -> Result<OwnNamespaces, Failure> {
        let pid = rustix::process::getpid().as_raw_pid();
        let links = links(pid)?;
        let number = |kind: NsType| Some((kind, namespace_of(&links, kind.file_name())?));
        Ok(OwnNamespaces(NsType::ALL.into_iter().filter_map(number).collect()))
    }
}

/// The namespaces of a process as they were when it was looked at.
#[derive(Debug)]
pub struct HeldNamespaces(Vec<Held>);

#[derive(Debug)]
struct Held {
    kind: NsType,
    fd: OwnedFd,
    inode: u64,
    /// Whether this process is in it.
    is_own: bool,
}

impl HeldNamespaces {
    /// Opens them. Those of the same moment they are if [`HeldNamespaces::still_of`] says so afterwards.
    pub fn of(process: &Pinned, own: &OwnNamespaces) -> Result<HeldNamespaces, Failure> {
        let links = links(process.pid())?;
        let gone = |errno: Errno| process::gone(process.pid(), &errno.into());
        let open = |(kind, own): &(NsType, u64)| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let fd = openat(&links, kind.file_name(), flags, Mode::empty()).map_err(gone)?;
            let inode = inode(&fd).map_err(gone)?;
            Ok(Held { kind: *kind, fd, inode, is_own: inode == *own })
        };
        own.0.iter().map(open).collect::<Result<_, _>>().map(HeldNamespaces)
    }

    /// Checks that the process lives and is in all of them still. A process that has gone into another user namespace
    /// does not come back: what was read of it since they were opened is true of it in these.
    pub fn still_of(&self, process: &Pinned) -> Result<(), Failure> {
        let links = links(process.pid())?;
        let now = |kind: NsType| namespace_of(&links, kind.file_name());
        let moved = self.0.iter().any(|held| now(held.kind) != Some(held.inode));
        process.still_there()?;
        match moved {
            true => Err(Failure::Gone {
                pid: process.pid(),
                problem: "it has gone to other namespaces meanwhile; repeat the call".to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// Whether this process is in one of them itself, or the kernel knows none of this type.
    pub fn is_own(&self, kind: NsType) -> bool {
        self.get(kind).is_none_or(|held| held.is_own)
    }

    /// The inode number of one.
    pub fn inode(&self, kind: NsType) -> Option<u64> {
        self.get(kind).map(|held| held.inode)
    }

    /// Whether this is so of the pid namespace, or of one above it: what is there sees all that is in this one.
    pub fn sees_pid_namespace(&self, is_one: impl Fn(u64) -> bool) -> bool {
        let Some(held) = self.get(NsType::Pid) else { return false };
        if is_one(held.inode) {
            return true;
        }
        let mut above = ns::parent(&held.fd);
        // The agent's own has none above it that the agent may see.
        while let Ok(at) = above {
            if inode(&at).is_ok_and(&is_one) {
                return true;
            }
            above = ns::parent(&at);
        }
        false
    }

    /// One of them.
    pub fn fd(&self, kind: NsType) -> Option<BorrowedFd<'_>> {
        self.get(kind).map(|held| held.fd.as_fd())
    }

    /// Takes one of them out.
    pub fn take(&mut self, kind: NsType) -> Option<OwnedFd> {
        let at = self.0.iter().position(|held| held.kind == kind)?;
        Some(self.0.swap_remove(at).fd)
    }

    /// Joins those of these types that this process is not in already: these need not, and the user namespace must
    /// not, be joined (setns(2)).
    pub fn join(&self, kinds: &[NsType]) -> Result<(), Errno> {
        let all = NsType::to_join().filter(|kind| kinds.contains(kind));
        for held in all.filter_map(|kind| self.get(kind)).filter(|held| !held.is_own) {
            move_into_thread_name_spaces(held.fd.as_fd(), held.kind.set())?;
        }
        Ok(())
    }

    /// The mounts of the mount namespace, all of them: what /proc/PID/mountinfo shows begins at the root directory of
    /// the process, which it may have changed (chroot(2)).
    pub fn all_mounts(&self) -> io::Result<Vec<u8>> {
        let look = || {
            ns::unshare_root()?;
            // In there, no /proc can be relied on.
            let own = process::own_thread()?;
            self.join(&[NsType::Mount])?;
            process::mountinfo(own)
        };
        // A thread that has joined it is good for nothing else. Nothing in there is looked up by path.
        let looked = thread::scope(|scope| scope.spawn(look).join());
        looked.unwrap_or_else(|_| Err(io::Error::other("the thread that looked has panicked")))
    }

    /// Whether the mount namespace belongs to a user namespace or to one above it. Root of any other could have
    /// mounted there what it likes, and has no rights in this one otherwise.
    pub fn mounts_belong_to(&self, user_namespace: impl AsFd) -> Result<bool, Errno> {
        let mounts = self.fd(NsType::Mount).ok_or(Errno::NOENT)?;
        let owner = match ns::owner(mounts) {
            Ok(owner) => owner,
            // It is not this process's user namespace, nor below that.
            Err(Errno::PERM) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        let owner_inode = inode(&owner)?;
        if inode(&user_namespace)? == owner_inode {
            return Ok(true);
        }
        let mut above = ns::parent(&user_namespace);
        loop {
            match above {
                Ok(at) if inode(&at)? == owner_inode => return Ok(true),
                Ok(at) => above = ns::parent(&at),
                // None above it that this process may see.
                Err(Errno::PERM) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn get(&self, kind: NsType) -> Option<&Held> {
        self.0.iter().find(|held| held.kind == kind)
    }
}

/// The directory of the namespaces of a process.
fn links(pid: i32) -> Result<OwnedFd, Failure> {
    process::namespaces(process::directory(pid)?).map_err(|errno| process::gone(pid, &errno.into()))
}
