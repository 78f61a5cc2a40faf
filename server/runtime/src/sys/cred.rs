//! Credentials and limits, as far as rustix has no call for them.

use rustix::io::Errno;

use super::clone::last_errno;

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Gives this process a new, empty session keyring (keyctl(2)).
pub fn new_session_keyring() -> Result<(), Errno> {
    // SAFETY: a null name asks for an anonymous keyring; no memory is read or written.
    match unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) } {
        -1 => Err(last_errno()),
        _ => Ok(()),
    }
}

/// Sets a resource limit of this process by its number (setrlimit(2)).
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` lives through the call; the old limit is not asked for; a number that is no
    // resource is EINVAL.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<u8>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Sets the ids that new files belong to and that this process is checked by at files (setfsuid(2)).
pub fn set_file_ids((uid, gid): (u32, u32)) {
    // SAFETY: both take plain numbers and have no other precondition. They report no failure: a file that
    // is made with ids that were not taken belongs to the old ones, or is refused.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}
