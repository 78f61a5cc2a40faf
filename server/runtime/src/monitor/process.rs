//! The session's process, from its set-up to its end.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::{
    io::Errno,
    process::{Signal, pidfd_send_signal},
};

use super::{group, look};
use crate::{
    init::{self, Child, Ends, Stage, Status, ended_early},
    inspect,
    plan::{Plan, SetupFailure, Stdio},
    protocol::{KillCause, ProcessId, WaitStatus},
    sys::{signal, wait},
};

/// The numbers of signals are below it.
const SIGNALS: usize = 65;

/// How often a set-up is let go on that somebody stops: over some seconds, each time for as long as the other one
/// takes to stop it again. It needs less than a millisecond in all.
const MOST_STOPS: u32 = 250;

/// What the status pipe tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// All is assembled.
    Created(ProcessId),
    /// The command runs.
    Started,
}

/// What came of a process that was reaped.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The set-up failed; nothing runs.
    Failed(SetupFailure),
    /// It ended, and who had it killed where that is why.
    Ended(WaitStatus, Option<KillCause>),
}

/// A process that was spawned and not reaped yet.
#[derive(Debug)]
pub struct Process {
    whom: Whom,
    /// While init has not become the command: the pipe, the gate, and the plan that gives names to what
    /// fails.
    setup: Option<Setup>,
    /// Where a reaper tells how the command ended, once that runs.
    reaper: Option<OwnedFd>,
    /// Its set-up is over without a command, and why, where init could say so.
    failed: Option<Option<SetupFailure>>,
    /// Whether it leads a session with a terminal, in which a shell makes a process group for each job.
    has_jobs: bool,
    /// Who wanted it killed, by signal.
    causes: [Option<KillCause>; SIGNALS],
    /// Whether it was sent SIGKILL.
    killed: bool,
    /// It has ended, and nobody but its tracer can reap it: its pidfd is readable for ever.
    held: bool,
    /// The last signal sent to the stage, or SIGKILL if that was sent: the stage may have ended before.
    unheard: Option<i32>,
}

/// Who is waited for.
#[derive(Debug)]
enum Whom {
    /// The process itself.
    Process { id: ProcessId, pidfd: OwnedFd },
    /// The stage that is about to clone it.
    Stage(Stage),
}

impl Whom {
    fn process(pid: i32, pidfd: OwnedFd) -> Whom {
        Whom::Process { id: ProcessId { pid, start_ticks: start_ticks(pid) }, pidfd }
    }
}

#[derive(Debug)]
struct Setup {
    /// From a process that others may trace: whatever comes may come from them.
    status: OwnedFd,
    gate: OwnedFd,
    plan: Plan,
    /// A record that has come in part.
    partial: Vec<u8>,
    created: bool,
    executing: bool,
    /// Whether its gate was opened.
    released: bool,
    /// How often it was found to be stopped.
    stops: u32,
}

impl Setup {
    fn new(plan: Plan, Ends { status, gate }: Ends) -> Setup {
        Setup {
            status,
            gate,
            plan,
            partial: Vec::new(),
            created: false,
            executing: false,
            released: false,
            stops: 0,
        }
    }

    fn is_paused(&self) -> bool {
        self.created && self.plan.paused && !self.released
    }
}

/// Whether it is an end, and no failure of the set-up: that a client ended it, or that its time was up, says more than
/// how far the set-up was by then.
pub fn is_end(cause: Option<KillCause>) -> bool {
    matches!(cause, Some(KillCause::Client | KillCause::Deadline))
}

impl Process {
    pub fn new(plan: Plan, child: Child, ends: Ends) -> Process {
        let whom = match child {
            Child::Born { pid, pidfd } => Whom::process(pid, pidfd),
            Child::Staged(stage) => Whom::Stage(stage),
        };
        let has_jobs = matches!(plan.stdio, Stdio::Terminal { .. });
        Process {
            whom,
            setup: Some(Setup::new(plan, ends)),
            reaper: None,
            failed: None,
            has_jobs,
            causes: [None; SIGNALS],
            killed: false,
            held: false,
            unheard: None,
        }
    }

    /// Takes the process in place of a stage that has ended. An error where it cloned none, `None` where
    /// there is no such stage.
    pub fn leave_stage(&mut self) -> Option<Result<(), Outcome>> {
        let (Whom::Stage(stage), Some(setup)) = (&self.whom, &self.setup) else { return None };
        match stage.outcome(&setup.plan)? {
            init::Outcome::Failed(failure) => {
                self.setup = None;
                let kill = Signal::KILL.as_raw();
                let killed = WaitStatus::Signaled { signal: kill, core: false };
                let cause = self.cause_of(kill);
                Some(Err(match is_end(cause) {
                    true => Outcome::Ended(killed, cause),
                    false => Outcome::Failed(failure),
                }))
            }
            init::Outcome::Born { pid, pidfd, signal } => {
                self.whom = Whom::process(pid, pidfd);
                // It was meant for the process, which was born a moment before. A stage that had ended by then took it
                // all the same.
                if let Some(number) = signal.or(self.unheard) {
                    self.signal(number, self.cause_of(number));
                }
                Some(Ok(()))
            }
        }
    }

    /// Readable when it, or its stage, has ended. `None` once it is known that it has, and yet is held.
    pub fn end(&self) -> Option<&OwnedFd> {
        (!self.held).then(|| self.pidfd())
    }

    fn pidfd(&self) -> &OwnedFd {
        match &self.whom {
            Whom::Process { pidfd, .. } => pidfd,
            Whom::Stage(stage) => stage.pidfd(),
        }
    }

    /// Readable when the set-up has come further; `None` once the command runs, and while nobody can tell
    /// yet whose set-up it is.
    pub fn status(&self) -> Option<&OwnedFd> {
        let Whom::Process { .. } = self.whom else { return None };
        self.setup.as_ref().map(|setup| &setup.status)
    }

    /// Lets a paused init go on.
    pub fn open_gate(&mut self) {
        if let Some(setup) = &mut self.setup {
            setup.released = true;
            // An init that is gone is told of by the status pipe.
            let _ = rustix::io::write(&setup.gate, &[1]);
        }
    }

    /// Reads the status pipe until it is empty.
    pub fn advance(&mut self) -> Vec<Progress> {
        let mut progress = Vec::new();
        let Whom::Process { id, .. } = self.whom else { return progress };
        let mut bytes = [0; 4 * Status::RECORD_LEN];
        while let Some(setup) = &mut self.setup {
            match rustix::io::read(&setup.status, &mut bytes) {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Ok(n) if n > 0 => setup.partial.extend_from_slice(&bytes[..n]),
                Ok(_) | Err(_) => {
                    progress.extend(self.settle());
                    break;
                }
            }
            while let Some(setup) = &mut self.setup
                && setup.partial.len() >= Status::RECORD_LEN
            {
                let record: Vec<u8> = setup.partial.drain(..Status::RECORD_LEN).collect();
                match Status::decode(&record) {
                    Some(Status::Ready) if !setup.created => {
                        setup.created = true;
                        progress.push(Progress::Created(id));
                    }
                    Some(Status::Executing) if setup.created && !setup.executing => {
                        setup.executing = true;
                    }
                    Some(Status::Failed { step, index, errno }) => {
                        let argument = setup.plan.argument(step, index);
                        let failure = SetupFailure { step, argument, errno };
                        self.abandon(Some(failure));
                    }
                    // Each comes once and in order: more of them would keep the monitor busy for ever.
                    _ => self.abandon(None),
                }
            }
        }
        progress
    }

    /// The status pipe is closed: either the command runs or init has died.
    fn settle(&mut self) -> Option<Progress> {
        if let Some(setup) = self.setup.take_if(|setup| setup.executing) {
            self.reaper = setup.plan.place.has_reaper().then_some(setup.gate);
            return Some(Progress::Started);
        }
        self.abandon(None);
        None
    }

    /// Has a process end whose set-up failed. That is told once it is reaped: nothing of it stays then. Nobody
    /// waits for it here, since one that is frozen or deep in the kernel takes its time.
    fn abandon(&mut self, failure: Option<SetupFailure>) {
        self.setup = None;
        self.failed = Some(failure);
        self.signal(Signal::KILL.as_raw(), None);
    }

    /// Whether the set-up is not over although the process has ended: its pipe is held by another.
    /// What is known then decides.
    pub fn conclude(&mut self) -> Option<Progress> {
        self.setup.as_ref()?;
        self.settle()
    }

    /// Sends a signal; what is no signal is ignored. With a cause it is meant to end the session, and goes to
    /// all that the process leads; without, to the process alone.
    pub fn signal(&mut self, number: i32, cause: Option<KillCause>) {
        let Some(signal) = signal::from_number(number) else { return };
        let group = cause.is_some() && self.signal_group(signal);
        // It may have ended a moment ago.
        let sent = group || pidfd_send_signal(self.pidfd(), signal).is_ok();
        // A stage that was killed may have cloned before.
        let is_process = matches!(self.whom, Whom::Process { .. });
        if !is_process && self.unheard != Some(Signal::KILL.as_raw()) {
            self.unheard = Some(number);
        }
        self.killed |= sent && signal == Signal::KILL && is_process;
        if sent
            && let Some(slot) = usize::try_from(number).ok().and_then(|n| self.causes.get_mut(n))
        {
            *slot = slot.or(cause);
        }
    }

    /// Signals all that the process leads, itself among it. `false`: it leads nothing yet. It is not reaped, so
    /// that the numbers of its group and its session are its own.
    fn signal_group(&self, signal: Signal) -> bool {
        match &self.whom {
            Whom::Process { id, .. } if self.has_jobs => group::signal_jobs(id.pid, signal),
            Whom::Process { id, pidfd } => group::signal_job(pidfd.as_fd(), id.pid, signal),
            Whom::Stage(_) => false,
        }
    }

    /// Whether its set-up is to go on now: it waits for nothing of the agent's.
    pub fn is_setting_up(&self) -> bool {
        let is_process = matches!(self.whom, Whom::Process { .. });
        is_process && self.setup.as_ref().is_some_and(|setup| !setup.is_paused())
    }

    /// Lets a set-up go on that another process of the pid namespace has stopped, and gives it up where that
    /// happens again and again.
    pub fn resume(&mut self) {
        if !self.is_setting_up() {
            return;
        }
        let (Whom::Process { id, .. }, Some(setup)) = (&self.whom, &mut self.setup) else { return };
        let Some(stopped) = look::stopped(id.pid) else { return };
        setup.stops += 1;
        if setup.stops < MOST_STOPS {
            stopped.resume();
        } else {
            let failure = stopped.kill();
            self.abandon(Some(failure));
        }
    }

    /// Whether nothing of it runs any more, as far as /proc says. Its parent may not be told.
    pub fn is_over(&self) -> bool {
        self.held_end().is_some()
    }

    fn held_end(&self) -> Option<WaitStatus> {
        let Whom::Process { id, .. } = &self.whom else { return None };
        look::end(id.pid, self.killed)
    }

    /// How it ended, where it cannot be reaped; it is left as it is.
    fn leave_held(&mut self) -> Option<WaitStatus> {
        self.held = true;
        let status = self.held_end()?;
        // Threads may have come and gone while they were looked at: none is left behind.
        let _ = pidfd_send_signal(self.pidfd(), Signal::KILL);
        Some(status)
    }

    /// What came of it. `None` while it runs. It is reaped, unless its tracer holds it.
    pub fn try_reap(&mut self) -> Option<Outcome> {
        // No child, against all reason: nothing is known but that it is gone.
        let gone = WaitStatus::Signaled { signal: Signal::KILL.as_raw(), core: false };
        let status = match wait::try_reap(self.pidfd()).unwrap_or(Some(gone)) {
            Some(status) => status,
            None => self.leave_held()?,
        };
        let status = match &self.reaper {
            Some(reaper) => init::end_of_command(status, reaper),
            None => status,
        };
        let cause = match status {
            WaitStatus::Exited(_) => None,
            WaitStatus::Signaled { signal, .. } => self.cause_of(signal),
        };
        Some(match self.failed.take() {
            None => Outcome::Ended(status, cause),
            Some(None) if is_end(cause) => Outcome::Ended(status, cause),
            Some(failure) => Outcome::Failed(failure.unwrap_or_else(|| ended_early(&Ok(status)))),
        })
    }

    /// Who sent a signal that was meant to end it.
    fn cause_of(&self, signal: i32) -> Option<KillCause> {
        usize::try_from(signal).ok().and_then(|n| *self.causes.get(n)?)
    }
}

/// When a process was started. It is not reaped, so that the pid is its own.
pub fn start_ticks(pid: i32) -> u64 {
    inspect::process::start_time(pid).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_that_of_the_process() {
        let mine = start_ticks(std::process::id() as i32);
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let later = start_ticks(child.id() as i32);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(mine > 0 && later >= mine);
        assert_eq!(start_ticks(-1), 0);
    }
}
