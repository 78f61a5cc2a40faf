//! What /proc says of the session's process where its parent is not told.
//!
//! What is traced belongs to its tracer first (ptrace(2)): once it has ended, its parent's wait gives it when the
//! tracer has waited for it, let it go or ended. A tracer in the container may never do any of that, to the whole
//! process or to one thread of it:
//!
//! ```text
//!  what is traced                     pidfd     wait  /proc
//!  ---------------------------------  --------  ----  -------------------------------------------
//!  the process, ended                 readable  no    Z, and its exit code
//!  another thread, ended              not       no    Z of every thread, and the exit code
//!  a thread that is kept before its   not       no    t of that one, also after a SIGKILL; it runs
//!  end (PTRACE_EVENT_EXIT)                            nothing of its program any more
//! ```
//!
//! So the end is told as /proc has it, and what is left is left to the tracer. Nobody has to stay for that: its
//! parent is the launcher then, which reaps by itself.
//!
//! A process in its set-up can be stopped from within its pid namespace, where the kernel tells its parent nothing
//! that this one waits for.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{
    host,
    inspect::{
        process::{directory, name_and_fields, namespace_of, namespaces},
        status::{Status, number},
    },
    own,
    plan::{SetupFailure, Step},
    protocol::WaitStatus,
    sys::wait::of_raw,
};

/// How a process ended of which no thread runs any more. `None`: one does, or the end is not to be had from /proc.
///
/// `killed`: it was sent SIGKILL, which ends each stop by a tracer but the last one. The process is not reaped, so
/// that the pid is its own.
pub fn end(pid: i32, killed: bool) -> Option<WaitStatus> {
    if !Stat::read(format!("/proc/{pid}/stat"))?.is_over(killed) {
        return None;
    }
    let mut threads = 0;
    for thread in own::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // One that is gone meanwhile does not run.
        let stat = Stat::read(thread.path().join("stat"));
        if stat.is_some_and(|stat| !stat.is_over(killed)) {
            return None;
        }
        threads += 1;
    }
    let stat = Stat::read(format!("/proc/{pid}/stat"))?;
    match stat.state {
        // Another one was born behind those that were seen.
        _ if stat.threads > threads => None,
        // To others than those who may trace it the kernel shows 0 as its exit code.
        b'Z' if may_trace(pid) => Some(of_raw(stat.exit_code)),
        _ if killed => Some(WaitStatus::Signaled { signal: Signal::KILL.as_raw(), core: false }),
        _ => None,
    }
}

/// Whether the kernel shows this process what it shows to a tracer: it asks the same before it gives away which
/// user namespace a process is in, which is known as long as that is not reaped.
fn may_trace(pid: i32) -> bool {
    let namespaces = directory(pid).ok().and_then(|directory| namespaces(directory).ok());
    namespaces.is_some_and(|directory| namespace_of(directory, "user").is_some())
}

/// What is read in /proc/PID/stat, see proc_pid_stat(5).
struct Stat {
    state: u8,
    parent: i32,
    threads: usize,
    exit_code: i32,
}

impl Stat {
    fn read(path: impl AsRef<std::path::Path>) -> Option<Stat> {
        Stat::parse(&host::read_line(path).ok()?)
    }

    fn parse(stat: &[u8]) -> Option<Stat> {
        let (_, fields) = name_and_fields(stat)?;
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Stat {
            state: *field(3)?.first()?,
            parent: number(field(4)?)?,
            threads: number(field(20)?)?,
            exit_code: number(field(52)?)?,
        })
    }

    fn is_over(&self, killed: bool) -> bool {
        matches!(self.state, b'Z' | b'X') || killed && self.state == b't'
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }
}

/// A process of a set-up that is stopped.
#[derive(Debug)]
pub struct Stopped {
    pid: i32,
    pidfd: OwnedFd,
}

/// What is stopped of a set-up: its process, or the command that this one has forked as its reaper.
pub fn stopped(pid: i32) -> Option<Stopped> {
    let is_stopped = |pid: i32| Stat::read(format!("/proc/{pid}/stat")).filter(Stat::is_stopped);
    if is_stopped(pid).is_some() {
        return Stopped::pin(pid);
    }
    children(pid).into_iter().find_map(|child| {
        is_stopped(child)?;
        let pinned = Stopped::pin(child)?;
        // Its number may have become that of another before it was pinned.
        is_stopped(child).filter(|stat| stat.parent == pid).map(|_| pinned)
    })
}

fn children(pid: i32) -> Vec<i32> {
    let text = host::read(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split(u8::is_ascii_whitespace).filter_map(number).collect()
}

impl Stopped {
    fn pin(pid: i32) -> Option<Stopped> {
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Stopped { pid, pidfd })
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.send(Signal::CONT);
    }

    /// Kills it: told why the set-up has come to nothing.
    pub fn kill(self) -> SetupFailure {
        let tracer = directory(self.pid).ok().and_then(|directory| {
            let tracers = Status::read(directory).ok()?.numbers("TracerPid:");
            tracers.first().copied().filter(|pid| *pid != 0)
        });
        self.send(Signal::KILL);
        let pid = self.pid;
        let argument = match tracer {
            Some(tracer) => format!(
                "process {pid} is stopped by its tracer (t), process {tracer}, before it has become the command; it was killed"
            ),
            None => format!(
                "process {pid} is stopped (T) again whenever it is let go on, before it has become the command; it was killed. Another process of its pid namespace does that"
            ),
        };
        SetupFailure { step: Step::Init, argument, errno: 0 }
    }

    fn send(&self, signal: Signal) {
        // One that has ended meanwhile needs none.
        let _ = pidfd_send_signal(self.pidfd.as_fd(), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(state: &str) -> Stat {
        let mut fields = ["0"; 50];
        (fields[0], fields[1], fields[17], fields[49]) = (state, "5", "2", "1792");
        Stat::parse(format!("7 (a) Z (b) {}\n", fields.join(" ")).as_bytes()).unwrap()
    }

    #[test]
    fn a_thread_is_over_when_it_has_ended_or_was_killed_and_is_kept_before_its_end() {
        let z = stat("Z");
        assert_eq!((z.state, z.parent, z.threads, z.exit_code), (b'Z', 5, 2, 1792));
        let over = |state, killed| stat(state).is_over(killed);
        assert!(over("Z", false) && over("X", false) && over("t", true));
        assert!(!over("t", false) && !over("T", true) && !over("S", true) && !over("R", true));
    }

    #[test]
    fn a_wait_status_is_read_as_wait_gives_it() {
        assert_eq!(of_raw(0), WaitStatus::Exited(0));
        assert_eq!(of_raw(7 << 8), WaitStatus::Exited(7));
        assert_eq!(of_raw(255 << 8), WaitStatus::Exited(255));
        assert_eq!(of_raw(9), WaitStatus::Signaled { signal: 9, core: false });
        assert_eq!(of_raw(0x80 | 11), WaitStatus::Signaled { signal: 11, core: true });
    }

    #[test]
    fn the_end_of_a_child_that_is_not_reaped_is_read() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read _; exit 7"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        assert_eq!(end(pid, false), None);
        drop(child.stdin.take());
        let ended = loop {
            if let Some(ended) = end(pid, false) {
                break ended;
            }
            std::thread::yield_now();
        };
        assert_eq!(ended, WaitStatus::Exited(7));
        child.wait().unwrap();
        assert_eq!(end(pid, false), None);
    }
}
