//! Namespaces: how they are related, leaving one's own, and the loopback interface of a new network.

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::UnshareFlags,
};

use super::clone::last_errno;

/// Moves this process into a new cgroup namespace, rooted at the cgroup that it is in.
pub fn unshare_cgroup() -> Result<(), Errno> {
    // SAFETY: rustix marks unshare as unsafe because CLONE_FILES would let threads disagree on fds;
    // NEWCGROUP changes no fd table and no memory.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }
}

/// Moves this process into a new ipc namespace, whose message queues belong to the present user.
pub fn unshare_ipc() -> Result<(), Errno> {
    // SAFETY: as in `unshare_cgroup`: NEWIPC changes no fd table and no memory. It forgets the adjustments of
    // System V semaphores, of which this process has none.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWIPC) }
}

/// Moves this process into a copy of its mount namespace.
pub fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: as in `unshare_cgroup`: NEWNS changes no fd table and no memory. It implies CLONE_FS, which
    // takes root and working directory from no other thread: the caller has none.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
}

/// Gives this thread a root and a working directory of its own, apart from those of the other threads.
pub fn unshare_root() -> Result<(), Errno> {
    // SAFETY: as in `unshare_cgroup`: FS changes no fd table and no memory.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
}

/// Moves this process into new namespaces: CLONE_NEW* flags but CLONE_NEWPID and CLONE_NEWTIME, which would
/// hold for its children only. With a user namespace among them the others belong to that.
pub fn unshare_namespaces(flags: u64) -> Result<(), Errno> {
    let flags = UnshareFlags::from_bits_retain(flags as u32);
    let allowed = UnshareFlags::NEWNS
        | UnshareFlags::NEWCGROUP
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUSER
        | UnshareFlags::NEWNET;
    if !allowed.contains(flags) {
        return Err(Errno::INVAL);
    }
    // SAFETY: as in `unshare_mounts`; none of these flags changes an fd table or memory.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Makes a new time namespace for the children of this process; it stays in its own itself.
pub fn unshare_time_for_children() -> Result<(), Errno> {
    // SAFETY: as in `unshare_cgroup`: NEWTIME changes no fd table and no memory of this process.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWTIME) }
}

/// The user namespace that owns the namespace of a file (ioctl_nsfs(2), NS_GET_USERNS); of a user
/// namespace its parent.
pub fn owner(namespace: impl AsFd) -> Result<OwnedFd, Errno> {
    related(namespace, NS_GET_USERNS)
}

/// The parent of a user or pid namespace (NS_GET_PARENT). EPERM where the caller may not see it.
pub fn parent(namespace: impl AsFd) -> Result<OwnedFd, Errno> {
    related(namespace, NS_GET_PARENT)
}

/// The user who made a user namespace, as an id of the caller's (NS_GET_OWNER_UID).
pub fn creator(user_namespace: impl AsFd) -> Result<u32, Errno> {
    let mut uid: libc::uid_t = 0;
    let fd = user_namespace.as_fd().as_raw_fd();
    // SAFETY: NS_GET_OWNER_UID writes one uid_t, and `uid` lives through the call; a file of another
    // kind answers with an error.
    let result = unsafe { libc::ioctl(fd, NS_GET_OWNER_UID, &raw mut uid) };
    if result == 0 { Ok(uid) } else { Err(last_errno()) }
}

fn related(namespace: impl AsFd, request: libc::c_ulong) -> Result<OwnedFd, Errno> {
    // SAFETY: both requests take no argument and return a new fd, close on exec, or an error.
    let fd = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), request) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the kernel has just made this fd, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// _IO(0xb7, 1) of include/uapi/linux/nsfs.h
const NS_GET_USERNS: libc::c_ulong = 0xb701;
/// _IO(0xb7, 2)
const NS_GET_PARENT: libc::c_ulong = 0xb702;
/// _IO(0xb7, 4)
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;

/// struct ifreq with its flags.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    /// The rest of the union in struct ifreq, which is 24 bytes.
    rest: [u8; 22],
}

/// Brings the interface `lo` of this network namespace up.
pub fn loopback_up() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request =
        InterfaceFlags { name: [0; libc::IFNAMSIZ], flags: libc::IFF_UP as i16, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, whose layout and size `request` has; it lives through
    // the call, and its name ends with a NUL.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
