//! Signals: dispositions and the mask.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// PIDFD_SIGNAL_PROCESS_GROUP of pidfd_send_signal(2), since Linux 6.9.
const PROCESS_GROUP: libc::c_uint = 1 << 2;

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

/// Signals the process group that a child of this process leads. Fails with ESRCH while it leads none.
///
/// The child must not have been reaped: before Linux 6.9 the group is named by its number, which only then is
/// certain to be its own.
pub fn signal_group(leader: impl AsFd, pid: Pid, signal: Signal) -> io::Result<()> {
    let fd = leader.as_fd().as_raw_fd();
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the fd is open for as long as it is borrowed; without a siginfo the kernel reads no memory.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd, signal.as_raw(), info, PROCESS_GROUP)
    };
    if sent == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(kill_process_group(pid, signal)?),
        error => Err(error),
    }
}

/// Stops this process (SIGSTOP). The calling thread has stopped before this returns; a signal to the process would
/// let it go on until another thread has taken it.
pub fn stop_here() {
    // SAFETY: raise takes a number alone, and no handler can be set for SIGSTOP.
    unsafe { libc::raise(libc::SIGSTOP) };
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
