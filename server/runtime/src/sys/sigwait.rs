//! Taking signals one by one in place of handlers.

use std::ptr;

use rustix::io::Errno;

use super::clone::last_errno;

/// Blocks every signal, so that each waits until [`next`] takes it. As PID 1 this is also what keeps
/// the kernel from dropping those that have no handler.
pub fn block_all() -> Result<(), Errno> {
    let set = full_set();
    // SAFETY: `set` is a valid set and lives through the call; the old mask is not asked for.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Waits for the next signal: its number.
pub fn next() -> Result<i32, Errno> {
    let set = full_set();
    // SAFETY: `set` is a valid set and lives through the call; no siginfo is asked for.
    match unsafe { libc::sigwaitinfo(&set, ptr::null_mut()) } {
        -1 => Err(last_errno()),
        signal => Ok(signal),
    }
}

fn full_set() -> libc::sigset_t {
    // SAFETY: a sigset_t of zero bytes is a valid value, and sigfillset then fills it in place.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        set
    }
}
