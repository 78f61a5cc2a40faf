//! Everything that a session's process leads: what ends together with it.
//!
//! A process that has left both its process group and its session (setsid(2)) is not found here; only a cgroup
//! of the session's own would hold it.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{own, sys::signal::signal_group};

/// How often the session is looked through again for processes that were born meanwhile.
const PASSES: usize = 8;

/// Signals the process group of a child that was not reaped. `false`: it leads none yet.
pub fn signal_job(leader: BorrowedFd<'_>, pid: i32, signal: Signal) -> bool {
    let Some(pid) = Pid::from_raw(pid).filter(|pid| !pid.is_init()) else { return false };
    signal_group(leader, pid, signal).is_ok()
}

/// Signals all process groups of the session that a child leads: with a terminal a shell makes one for each job.
/// The child was not reaped, so that the session's number is its own.
pub fn signal_jobs(leader: i32, signal: Signal) -> bool {
    let mut signalled = HashSet::new();
    for _ in 0..PASSES {
        let new = members(leader).filter(|pid| !signalled.contains(pid)).collect::<Vec<_>>();
        if new.is_empty() {
            break;
        }
        for pid in new {
            signalled.insert(pid);
            signal_member(pid, leader, signal);
        }
        // What comes later than a signal that is not the last word has not earned it.
        if signal != Signal::KILL {
            break;
        }
    }
    !signalled.is_empty()
}

fn members(leader: i32) -> impl Iterator<Item = i32> {
    let entries = own::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(move |pid| session_of(*pid) == Some(leader))
}

/// Signals a process, if it is still the one that was seen in the session.
fn signal_member(pid: i32, leader: i32, signal: Signal) {
    let Some(number) = Pid::from_raw(pid) else { return };
    // One that has ended meanwhile needs no signal.
    let Ok(pinned) = pidfd_open(number, PidfdFlags::empty()) else { return };
    if session_of(pid) == Some(leader) {
        let _ = pidfd_send_signal(pinned.as_fd(), signal);
    }
}

/// The session of a process: field 6 of /proc/PID/stat (proc(5)).
fn session_of(pid: i32) -> Option<i32> {
    let stat = own::read(format!("/proc/{pid}/stat")).ok()?;
    field(&stat, 6)?.parse().ok()
}

/// A field of /proc/PID/stat, counted from 1, beyond the name. The name, in parentheses, may hold any bytes.
pub fn field(stat: &[u8], number: usize) -> Option<&str> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_bytes_is_not_taken_for_a_field() {
        let stat = b"12 (a) S 9 \xff) R 1 12 7 0 -1";
        assert_eq!((field(stat, 3), field(stat, 6)), (Some("R"), Some("7")));
        assert_eq!((field(stat, 2), field(stat, 99), field(b"12 (a", 3)), (None, None, None));
    }

    #[test]
    fn the_session_is_that_of_the_process() {
        let own = rustix::process::getsid(None).unwrap();
        assert_eq!(session_of(std::process::id() as i32), Some(own.as_raw_pid()));
    }
}
