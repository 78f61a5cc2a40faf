//! The process in front of the command, where one was asked for: as PID 1 it reaps what is left behind
//! and passes signals on. It never returns and needs nothing but its child, and a pipe to tell how that ended.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::{
    io::{read, write},
    process::{Pid, WaitOptions, WaitStatus, kill_process, set_child_subreaper, wait},
};

use crate::{
    protocol,
    sys::{
        clone::{OnlyThread, exit_now},
        fds::close_all_but,
        signal::from_number,
        sigwait,
        wait::of_raw,
    },
};

/// Stays as the parent of `child` until it has ended, tells how, and ends with its exit code. All signals are
/// blocked already, so that none is lost between the fork and the first wait.
pub(super) fn stay(proof: &OnlyThread, child: i32, monitor: BorrowedFd<'_>) -> ! {
    // Held fds would keep pipes, terminals and mounts busy after the command has let go of them.
    let _ = close_all_but(proof, &mut [monitor.as_raw_fd()]);
    // Only matters where this is not PID 1, in a pid namespace that it was not the first in.
    let _ = set_child_subreaper(Pid::from_raw(1));
    loop {
        match sigwait::next() {
            Ok(libc::SIGCHLD) => {
                if let Some(end) = reap_all(child) {
                    // Where nobody is left who could read it, the code alone tells.
                    let _ = write(monitor, &end.as_raw().to_le_bytes());
                    exit_now(code_of(end));
                }
            }
            Ok(signal) => {
                if let (Some(pid), Some(signal)) = (Pid::from_raw(child), from_number(signal)) {
                    let _ = kill_process(pid, signal);
                }
            }
            // Interrupted by a stop and a continue: nothing was taken.
            Err(_) => {}
        }
    }
}

/// Reaps whoever has ended. How `child` did, where it was among them.
fn reap_all(child: i32) -> Option<WaitStatus> {
    let mut end = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == child {
            end = Some(status);
        }
    }
    end
}

/// PID 1 cannot die of a signal that it sends itself: the shell's 128 + n stands for it.
fn code_of(end: WaitStatus) -> i32 {
    let killed = || end.terminating_signal().map(|n| 128 + n);
    end.exit_status().or_else(killed).unwrap_or(1)
}

/// How the command ended whose reaper ended so. What the reaper has told is taken only where it goes with that: in its
/// pid namespace others may have traced it.
pub fn end_of_command(reaper: protocol::WaitStatus, told: impl AsFd) -> protocol::WaitStatus {
    let protocol::WaitStatus::Exited(code) = reaper else { return reaper };
    let mut raw = [0; 4];
    match read(told, &mut raw).map(|_| of_raw(i32::from_le_bytes(raw))) {
        Ok(killed @ protocol::WaitStatus::Signaled { signal, .. })
            if code == 128 + signal && from_number(signal).is_some() =>
        {
            killed
        }
        _ => reaper,
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::protocol::WaitStatus::{Exited, Signaled};

    #[test]
    fn a_reaper_tells_of_a_signal_only_what_its_exit_code_says_too() {
        let killed = Signaled { signal: 15, core: false };
        for (end, told, wanted) in [
            (Exited(143), Some(15), killed),
            (Exited(143), Some(15 | 0x80), Signaled { signal: 15, core: true }),
            (Exited(143), Some(143 << 8), Exited(143)),
            (Exited(143), Some(9), Exited(143)),
            (Exited(0), Some(9), Exited(0)),
            (Exited(143), None, Exited(143)),
            (Exited(128), None, Exited(128)),
            (Exited(128), Some(0x7f), Exited(128)),
            (Exited(255), Some(0x7f), Exited(255)),
            (Signaled { signal: 9, core: false }, Some(15), Signaled { signal: 9, core: false }),
        ] {
            let (from, to) = pipe_with(PipeFlags::NONBLOCK).unwrap();
            if let Some(raw) = told {
                write(&to, &i32::to_le_bytes(raw)).unwrap();
            }
            assert_eq!(end_of_command(end, &from), wanted, "{end:?}, told {told:?}");
        }
    }
}
