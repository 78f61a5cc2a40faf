//! The end of a child.

use std::{io, os::fd::AsFd};

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};

use crate::protocol::WaitStatus;

/// __WALL of wait(2): also a child whose end sends no SIGCHLD. One that was cloned by a forker with
/// CLONE_PARENT can be such a child until it has called execve.
const WAIT_ALL: u32 = 0x4000_0000;

/// How the child behind a pidfd ended; it is reaped. `None` while it runs.
pub fn try_reap(pidfd: impl AsFd) -> io::Result<Option<WaitStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    Ok(wait(WaitId::PidFd(pidfd.as_fd()), options)?.and_then(|status| decode(&status)))
}

/// As [`try_reap`], but waits for the end.
pub fn reap(pidfd: impl AsFd) -> io::Result<WaitStatus> {
    wait(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?
        .and_then(|status| decode(&status))
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))
}

/// As [`reap`], by the pid of a child that was not reaped yet.
pub fn reap_pid(pid: i32) -> io::Result<WaitStatus> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))?;
    wait(WaitId::Pid(pid), WaitIdOptions::EXITED)?
        .and_then(|status| decode(&status))
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ECHILD))
}

fn wait(id: WaitId<'_>, options: WaitIdOptions) -> io::Result<Option<WaitIdStatus>> {
    let options = options | WaitIdOptions::from_bits_retain(WAIT_ALL);
    loop {
        match waitid(id.clone(), options) {
            Err(rustix::io::Errno::INTR) => continue,
            other => return Ok(other?),
        }
    }
}

/// A status of wait(2), of a process that has ended.
pub fn of_raw(status: i32) -> WaitStatus {
    match status & 0x7f {
        0 => WaitStatus::Exited(status >> 8 & 0xff),
        signal => WaitStatus::Signaled { signal, core: status & 0x80 != 0 },
    }
}

fn decode(status: &WaitIdStatus) -> Option<WaitStatus> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(WaitStatus::Exited(code)),
        (None, Some(signal)) => Some(WaitStatus::Signaled { signal, core: status.dumped() }),
        (None, None) => None,
    }
}
