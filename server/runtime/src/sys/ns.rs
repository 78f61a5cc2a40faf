//! Namespaces: leaving one's own, and the loopback interface of a new network.

use std::os::fd::AsRawFd as _;

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

/// Makes a new time namespace for the children of this process; it stays in its own itself.
pub fn unshare_time_for_children() -> Result<(), Errno> {
    // SAFETY: as in `unshare_cgroup`: NEWTIME changes no fd table and no memory of this process.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWTIME) }
}

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
