//! The event loop of a session.
//!
//! ```text
//!   Assembling --Ready--> Created --Executing, EOF--> Running --end, drained--> Ended --Release--> exit
//!        `-----------------`------ failed ---------> Failed ----Release------------------------> exit
//! ```
//!
//! The agent may go and come back in any state.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};

use super::{
    agent::{Agent, Links},
    forker::Forker,
    process::{Outcome, Process, Progress, is_end},
    record,
    stdio::Ends,
    streams::Streams,
};
use crate::{
    fault,
    init::{self, Child},
    journal::Writer,
    plan::{Plan, SetupFailure, Step},
    protocol::{End, FromMonitor, KillCause, MonitorState, ToMonitor, WaitStatus},
    sys::process::release_free_memory,
};

/// How long nothing happens before memory is given back, and the longest pause between attempts.
const IDLE: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(64);

/// How soon it is looked whether the process is held up, when there is reason to: it is being set up, was sent a
/// signal, or has closed its output; and the longest pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(10);

/// How long a forker that was killed is waited for.
const UNBORN: Duration = Duration::from_millis(200);

/// How often a monitor whose session is over looks whether anybody may still ask for it.
const ORPHAN_CHECK: Duration = Duration::from_secs(5);

/// One session.
#[derive(Debug)]
pub struct Session {
    agent: Agent,
    state: MonitorState,
    streams: Streams,
    /// The process that the forker is asked for.
    birth: Option<Birth>,
    process: Option<Process>,
    /// A forker that has done its work, or was given up, and is not reaped yet.
    left: Option<Forker>,
    limits: Limits,
    /// How the process ended, while its output is still read.
    ended: Option<Exit>,
    deadline: Option<Instant>,
    /// When memory is given back, and the pause before that.
    idle: Option<(Instant, Duration)>,
    /// When the process is looked at, and the pause before that.
    look: Option<(Instant, Duration)>,
    released: bool,
}

/// A process that a forker has not cloned yet.
#[derive(Debug)]
struct Birth {
    forker: Forker,
    plan: Plan,
    status: init::Ends,
    stdio: Ends,
}

/// What the plan says about time.
#[derive(Debug, Clone, Copy, Default)]
struct Limits {
    deadline: Option<Duration>,
    drain: Duration,
}

#[derive(Debug)]
struct Exit {
    wait: WaitStatus,
    cause: Option<KillCause>,
    time: SystemTime,
    /// When the output that others hold is given up. `None` once it was.
    drained: Option<Instant>,
}

/// What the loop waits for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Control,
    Listener,
    Wakeup,
    Forker,
    Left,
    Status,
    Process,
    Output(usize),
    Input,
}

impl Session {
    /// A session whose plan is about to be carried out.
    pub fn new(control: OwnedFd, links: Links, journal: Writer) -> Session {
        Session {
            agent: Agent::new(control, links),
            state: MonitorState::Assembling,
            streams: Streams::new(journal),
            birth: None,
            process: None,
            left: None,
            limits: Limits::default(),
            ended: None,
            deadline: None,
            idle: None,
            look: None,
            released: false,
        }
    }

    /// Keeps the root of the container's devpts for the agents to come.
    pub fn keep_devpts(&mut self, devpts: Option<OwnedFd>) {
        self.agent.devpts = devpts;
    }

    /// Holds the session to what its plan says about time, from here on. A paused one is started later, and
    /// its deadline counts from then.
    pub fn limit(&mut self, plan: &Plan) {
        self.limits = Limits {
            deadline: plan.deadline_ms.map(Duration::from_millis),
            drain: Duration::from_millis(plan.drain_ms),
        };
        if !plan.paused {
            self.begin_deadline();
        }
    }

    fn begin_deadline(&mut self) {
        // One that lies beyond the clock never comes.
        self.deadline = self.limits.deadline.and_then(|d| Instant::now().checked_add(d));
    }

    /// Waits for the process that the forker was asked for.
    pub fn expect(&mut self, forker: Forker, plan: Plan, status: init::Ends, stdio: Ends) {
        self.birth = Some(Birth { forker, plan, status, stdio });
    }

    /// Takes charge of the process that was spawned.
    pub fn begin(&mut self, plan: Plan, child: Child, status: init::Ends, stdio: Ends) {
        self.streams.connect(stdio);
        self.process = Some(Process::new(plan, child, status));
        self.look_soon();
    }

    /// There is reason to look at the process: now, and then less and less often.
    fn look_soon(&mut self) {
        let soon = Instant::now() + LOOK;
        let moment = self.look.map_or(soon, |(moment, _)| moment.min(soon));
        self.look = Some((moment, LOOK));
    }

    /// The plan could not be carried out.
    pub fn fail(&mut self, failure: SetupFailure) {
        self.process = None;
        self.look = None;
        self.deadline = None;
        self.streams.disconnect();
        self.state = MonitorState::Failed(failure.clone());
        self.agent.tell(&FromMonitor::Failed(failure));
    }

    /// Serves the session until the agent has its end.
    pub fn serve(&mut self) {
        while !self.released {
            for source in self.wait() {
                self.handle(source);
            }
            self.handle_time(Instant::now());
            if self.ended.is_some() && self.streams.ended() {
                self.finish();
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, MonitorState::Ended(_) | MonitorState::Failed(_))
    }

    /// Waits until something can be done, and tells what, in the order in which it is to be done: the
    /// set-up's progress before the process's end, output before that end too.
    fn wait(&self) -> Vec<Source> {
        let process = self.process.as_ref();
        let candidates = [
            (Source::Control, self.agent.control(), PollFlags::IN),
            (Source::Listener, Some(&self.agent.links.listener), PollFlags::IN),
            (Source::Wakeup, Some(&self.agent.links.own_wakeup), PollFlags::IN),
            (Source::Forker, self.birth.as_ref().and_then(|b| b.forker.socket()), PollFlags::IN),
            (Source::Left, self.left.as_ref().map(Forker::pidfd), PollFlags::IN),
            (Source::Status, process.and_then(Process::status), PollFlags::IN),
            (Source::Output(0), self.streams.readable(0), PollFlags::IN),
            (Source::Output(1), self.streams.readable(1), PollFlags::IN),
            (Source::Input, self.streams.writable(), PollFlags::OUT),
            (Source::Process, process.and_then(Process::end), PollFlags::IN),
        ];
        // An fd that is not wanted must not be there at all: poll reports a hangup unasked.
        let (sources, mut fds): (Vec<Source>, Vec<PollFd<'_>>) = candidates
            .into_iter()
            .filter_map(|(source, fd, flags)| Some((source, PollFd::new(fd?, flags))))
            .unzip();

        let timeout = self.next_moment().map(|moment| {
            let left = moment.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        // An interrupted wait is one without events.
        let _ = poll(&mut fds, timeout.as_ref());
        let ready = sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|(source, _)| source).collect()
    }

    fn next_moment(&self) -> Option<Instant> {
        let drained = self.ended.as_ref().and_then(|exit| exit.drained);
        let idle = self.idle.map(|(moment, _)| moment);
        let orphan = (self.is_over() && self.agent.control().is_none())
            .then(|| Instant::now() + ORPHAN_CHECK);
        let look = self.look.map(|(moment, _)| moment);
        [self.deadline, drained, idle, look, orphan].into_iter().flatten().min()
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Control => self.handle_agent(),
            Source::Listener => {
                self.agent.accept(&self.state, self.streams.journal.file().as_fd());
            }
            Source::Wakeup => {
                self.agent.awake();
                if self.streams.write() {
                    self.moved();
                }
                // Room may have been made, which the next wait takes into account; so may an end.
                self.idle.get_or_insert((Instant::now() + IDLE, IDLE));
            }
            Source::Forker => self.handle_forker(),
            Source::Left => {
                if let Some(mut forker) = self.left.take_if(|forker| forker.try_reap()) {
                    forker.kill_born();
                }
            }
            Source::Status => self.handle_status(),
            Source::Output(index) => {
                if self.streams.read(index) {
                    self.moved();
                } else if self.streams.ended() {
                    self.look_soon();
                }
            }
            Source::Input => {
                if self.streams.write() {
                    self.moved();
                }
            }
            Source::Process => self.handle_end(),
        }
    }

    /// Something went into the journal, or input was taken.
    fn moved(&mut self) {
        self.agent.wake();
        self.idle = Some((Instant::now() + IDLE, IDLE));
    }

    fn handle_agent(&mut self) {
        while let Some(message) = self.agent.receive() {
            match message {
                ToMonitor::Start => {
                    if let (MonitorState::Created(_), Some(process)) =
                        (&self.state, &mut self.process)
                    {
                        process.open_gate();
                        self.look_soon();
                        if self.deadline.is_none() {
                            self.begin_deadline();
                        }
                    }
                }
                ToMonitor::Signal { signal, cause } => self.signal(signal, cause),
                ToMonitor::Resize { columns, rows } => self.streams.resize(columns, rows),
                // Before the end it makes no sense, and would lose it.
                ToMonitor::Release => self.released = self.is_over(),
                ToMonitor::Run { .. } | ToMonitor::MoreFds => {}
            }
            if self.released {
                return;
            }
        }
    }

    fn signal(&mut self, signal: i32, cause: Option<KillCause>) {
        if let Some(process) = &mut self.process {
            process.signal(signal, cause);
            self.look_soon();
        } else if signal == Signal::KILL.as_raw() && self.birth.is_some() {
            self.kill_unborn(cause);
        }
    }

    /// Ends what the forker was asked for, which it may have cloned by now.
    fn kill_unborn(&mut self, cause: Option<KillCause>) {
        // It may have answered.
        self.handle_forker();
        if let Some(mut birth) = self.birth.take() {
            birth.forker.kill();
            // A frozen forker ends when it is thawed, and what it has cloned then.
            let last_word =
                birth.forker.ends_within(UNBORN).then(|| birth.forker.child()).flatten();
            let Some(Ok(child)) = last_word else {
                self.left = Some(birth.forker);
                return self.killed_before_birth(cause);
            };
            self.left = Some(birth.forker).filter(Forker::is_to_be_reaped);
            self.begin(birth.plan, child, birth.status, birth.stdio);
        }
        if let Some(process) = &mut self.process {
            process.signal(Signal::KILL.as_raw(), cause);
            self.look_soon();
        }
    }

    fn killed_before_birth(&mut self, cause: Option<KillCause>) {
        if is_end(cause) {
            let wait = WaitStatus::Signaled { signal: Signal::KILL.as_raw(), core: false };
            return self.end(wait, cause);
        }
        let argument = "it was killed before it was born".to_owned();
        self.fail(SetupFailure { step: Step::Clone, argument, errno: 0 });
    }

    fn handle_forker(&mut self) {
        let Some(mut birth) = self.birth.take() else { return };
        let Some(born) = birth.forker.child() else {
            self.birth = Some(birth);
            return;
        };
        birth.forker.let_go();
        self.left = Some(birth.forker).filter(Forker::is_to_be_reaped);
        match born {
            Ok(child) => self.begin(birth.plan, child, birth.status, birth.stdio),
            Err(failure) => self.fail(failure),
        }
    }

    fn handle_status(&mut self) {
        let progress = self.process.as_mut().map(Process::advance).unwrap_or_default();
        progress.into_iter().for_each(|step| self.progress(step));
    }

    fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Created(id) => {
                self.state = MonitorState::Created(id);
                self.agent.tell(&FromMonitor::Created(id));
            }
            Progress::Started => {
                if let MonitorState::Created(id) = self.state {
                    self.state = MonitorState::Running(id);
                }
                self.agent.tell(&FromMonitor::Started);
                self.idle.get_or_insert((Instant::now() + IDLE, IDLE));
            }
        }
    }

    /// The process has ended, or the stage before it. What the status pipe still holds comes first.
    fn handle_end(&mut self) {
        // Whoever killed it has said so before, and may not be heard yet: poll(2) looks at one fd after the other.
        self.handle_agent();
        match self.process.as_mut().and_then(Process::leave_stage) {
            Some(Ok(())) => return self.look_soon(),
            Some(Err(outcome)) => return self.conclude(outcome),
            None => {}
        }
        self.handle_status();
        if let Some(progress) = self.process.as_mut().and_then(Process::conclude) {
            self.progress(progress);
        }
        let Some(outcome) = self.process.as_mut().and_then(Process::try_reap) else { return };
        self.conclude(outcome);
    }

    fn conclude(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Failed(failure) => self.fail(failure),
            Outcome::Ended(wait, cause) => self.end(wait, cause),
        }
    }

    fn end(&mut self, wait: WaitStatus, cause: Option<KillCause>) {
        self.process = None;
        self.look = None;
        self.deadline = None;
        let now = Instant::now();
        self.ended = Some(Exit {
            wait,
            cause,
            time: SystemTime::now(),
            // One that lies beyond the clock never comes.
            drained: now.checked_add(self.limits.drain),
        });
    }

    fn handle_time(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            fault::point("monitor.deadline");
            self.signal(Signal::KILL.as_raw(), Some(KillCause::Deadline));
        }
        if let Some((moment, pause)) = self.look
            && moment <= now
        {
            self.look_at_process(now, pause);
        }
        if let Some(exit) = &mut self.ended
            && exit.drained.is_some_and(|drained| drained <= now)
        {
            exit.drained = None;
            self.streams.limit_to_present();
            self.agent.wake();
        }
        if let Some((moment, pause)) = self.idle
            && moment <= now
        {
            let done = self.streams.journal.trim();
            release_free_memory();
            // Output that nobody acknowledges keeps its memory; a look now and then finds when it is not
            // needed any more.
            let pause = (pause * 2).min(IDLE_MAX);
            self.idle = (!done).then_some((now + pause, pause));
        }
        if self.is_over() && self.agent.never_returns() {
            self.released = true;
        }
    }

    /// Looks whether the process is held up: stopped in its set-up, or ended in a way of which only its tracer is
    /// told.
    fn look_at_process(&mut self, now: Instant, pause: Duration) {
        self.look = None;
        let Some(process) = &mut self.process else { return };
        process.resume();
        let pause = if process.is_setting_up() { LOOK } else { (pause * 2).min(LOOK_MAX) };
        self.look = Some((now + pause, pause));
        if process.is_over() {
            self.handle_end();
        }
    }

    /// All output is in the journal: the end is recorded, then told.
    fn finish(&mut self) {
        let Some(exit) = self.ended.take() else { return };
        let cut_off = self.streams.cut_off();
        self.streams.disconnect();
        let totals = self.streams.journal.totals();
        let since_1970 = exit.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let end = End {
            wait: exit.wait,
            cause: exit.cause,
            time_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            stdout_bytes: totals.stdout,
            stderr_bytes: totals.stderr,
            dropped_bytes: totals.dropped,
            drain_timed_out: cut_off,
        };
        // A full disk must not cost the agent the end: it is in this process's memory as well, which
        // stays until the agent has it.
        let _ = record::write(&self.agent.links.directory, &end, &self.streams.journal);
        self.state = MonitorState::Ended(end.clone());
        self.agent.tell(&FromMonitor::Ended(end));
        self.agent.wake();
    }
}
