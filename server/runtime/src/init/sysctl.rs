//! Kernel parameters of the container's own namespaces.
//!
//! Written below a procfs that nobody else can reach: the container's /proc could be anything, and a
//! write that lands in another file of it is how runtimes were broken before.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, openat2},
    io::{Errno, write},
    mount::MountAttrFlags,
};

use super::mounts::make_fresh;

/// A procfs that is mounted nowhere.
pub(super) struct PrivateProc {
    mount: OwnedFd,
}

impl PrivateProc {
    /// Opens one. In a user namespace the kernel wants to see an unmasked /proc mounted, so that this
    /// comes before the pivot.
    /// `pid_ns`: the container's, where this process is not in it.
    pub(super) fn open(pid_ns: Option<BorrowedFd<'_>>) -> Result<PrivateProc, Errno> {
        let mount = make_fresh("proc", MountAttrFlags::empty(), pid_ns)?;
        if fstatfs(&mount)?.f_type != PROC_SUPER_MAGIC {
            return Err(Errno::NODEV);
        }
        Ok(PrivateProc { mount })
    }

    /// Sets a parameter.
    pub(super) fn set(&self, name: &str, value: &str) -> Result<(), Errno> {
        set_in(self.mount.as_fd(), name, value)
    }
}

/// Sets a parameter by way of a procfs that nothing is mounted on: a dotted name, in which a `/` stands for a dot
/// inside a part (the network interface `eth0.5` in `net.ipv4.conf.eth0/5.forwarding`), as sysctl(8) has it.
pub(super) fn set_in(proc: BorrowedFd<'_>, name: &str, value: &str) -> Result<(), Errno> {
    let path = path_of(name).ok_or(Errno::INVAL)?;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat2(proc, &path, flags, Mode::empty(), resolve)?;
    // One write, whole: the kernel takes a value at one go.
    let written = write(&file, value.as_bytes())?;
    if written == value.len() { Ok(()) } else { Err(Errno::INVAL) }
}

/// The path of a parameter below the root of a procfs. `None` where a part is empty or `..`.
fn path_of(name: &str) -> Option<String> {
    let mut path = "sys".to_owned();
    for part in name.split('.') {
        let part = part.replace('/', ".");
        if part.is_empty() || part.chars().all(|c| c == '.') || part.contains('\0') {
            return None;
        }
        path.push('/');
        path.push_str(&part);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_path_below_sys_and_cannot_leave_it() {
        assert_eq!(path_of("net.core.somaxconn").unwrap(), "sys/net/core/somaxconn");
        assert_eq!(path_of("net.ipv4.conf.eth0/5.x").unwrap(), "sys/net/ipv4/conf/eth0.5/x");
        for bad in ["", ".", "..", "a..b", "a.", "//", "kernel.//.x", "a.b\0c"] {
            assert_eq!(path_of(bad), None, "{bad:?}");
        }
    }
}
