//! Signals: dispositions and the mask.

use std::io;

use rustix::process::Signal;

/// What a process does on a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// What the kernel does by default.
    Default,
    /// Nothing. For SIGCHLD: children are reaped by themselves.
    Ignore,
}

/// Sets what this process does on a signal.
pub fn set_disposition(signal: Signal, disposition: Disposition) -> io::Result<()> {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    };
    // SAFETY: SIG_DFL and SIG_IGN are no functions, so that no code of ours ever runs as a handler.
    if unsafe { libc::signal(signal.as_raw(), handler) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Unblocks all signals. A process inherits the mask of the one that started it.
pub fn unblock_all() -> io::Result<()> {
    // SAFETY: a sigset_t of zero bytes is a valid value, and sigemptyset then sets it up in place.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        set
    };
    // SAFETY: `set` was initialised above and lives through the call; the old mask is not asked for.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A signal by its number: 1 to 31 and 34 to 64. `None` for every other number, 32 and 33 among them,
/// which C libraries keep for themselves.
pub fn from_number(number: i32) -> Option<Signal> {
    match number {
        1..=31 => Signal::from_named_raw(number),
        // SAFETY: these are the kernel's real-time signals but for those that glibc reserves. They are
        // only sent to other processes, and no handler is ever set for them.
        34..=64 => Some(unsafe { Signal::from_raw_unchecked(number) }),
        _ => None,
    }
}
