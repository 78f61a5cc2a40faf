//! The process in front of the command, where one was asked for: as PID 1 it reaps what is left behind
//! and passes signals on. It never returns and needs nothing but its child.

use rustix::process::{Pid, WaitOptions, kill_process, set_child_subreaper, wait};

use crate::sys::{
    clone::{OnlyThread, exit_now},
    fds::close_all_but,
    signal::from_number,
    sigwait,
};

/// Stays as the parent of `child` until it has ended, and ends as it did. All signals are blocked
/// already, so that none is lost between the fork and the first wait.
pub(super) fn stay(proof: &OnlyThread, child: i32) -> ! {
    // Held fds would keep pipes, terminals and mounts busy after the command has let go of them.
    let _ = close_all_but(proof, &mut []);
    // Only matters where this is not PID 1, in a pid namespace that it was not the first in.
    let _ = set_child_subreaper(Pid::from_raw(1));
    loop {
        match sigwait::next() {
            Ok(libc::SIGCHLD) => {
                if let Some(code) = reap_all(child) {
                    exit_now(code);
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

/// Reaps whoever has ended. The exit code to end with, where `child` was among them.
fn reap_all(child: i32) -> Option<i32> {
    let mut code = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == child {
            // PID 1 cannot die of a signal that it sends itself: the shell's 128 + n stands for it.
            code = status.exit_status().or_else(|| status.terminating_signal().map(|n| 128 + n));
        }
    }
    code
}
