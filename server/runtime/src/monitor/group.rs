//! Everything that a session's process leads: what ends together with it.
//!
//! A process that has left both its process group and its session (setsid(2)) is not found here; only a cgroup
//! of the session's own would hold it.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{
    host,
    inspect::{process::name_and_fields, status::number},
    own,
    sys::signal::signal_group,
};

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
    let stat = host::read_line(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = name_and_fields(&stat)?;
    number(fields.get(6 - 3)?)
}
