//! Sessions: processes with their stdio, their journal and their end.
//!
//! - [`Session`]: what is known of one, and what can be asked of its process;
//! - [`stream`]: those who read the journal: one driver, any number of viewers;
//! - [`handled`]: what both a driver and a recorder have done with, whose room alone is free;
//! - [`overdue`]: one that does not end at its deadline;
//! - [`record`]: the task that records one;
//! - [`supervise`]: the task that follows one monitor until the end;
//! - [`waiting`]: how much waits for clients and processes that do not take it;
//! - [`store`]: its directory, from which an agent that was started again finds it.

mod handled;
mod overdue;
pub mod record;
pub mod store;
pub mod stream;
pub mod supervise;
pub mod waiting;

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use conti_runtime::{
    journal::{ReadResult, Reader, Saved, Totals},
    plan::SetupFailure,
    protocol::{self, ProcessId, ToMonitor},
};
use tokio::{sync::watch, time::timeout};
use tracing::warn;

use super::{
    bounds::{self, answered},
    cgroup::Cgroups,
    counts::Counts,
    error::{Error, Result, Stuck},
    holdings::{Holding, Shares},
    info::{SessionEnd, SessionInfo, SessionState},
    monitor::Monitor,
    process,
    spec::{OnDisconnect, SessionIo, TerminalSize},
    surroundings::Surroundings,
};

use handled::Handled;
pub use stream::{Driver, Event, Hold, Viewer};
pub use waiting::{Held, Waiting};

/// One process that Conti started, with all that belongs to it.
#[derive(Debug)]
pub struct Session {
    /// 32 hexadecimal digits.
    pub id: String,
    /// What it was started as.
    pub record: store::Record,
    /// Its directory.
    pub dir: PathBuf,
    /// What it can reach: those of its record, and what was mounted since.
    reached: Mutex<Surroundings>,
    /// Changes whenever that has.
    pub(super) surroundings_changes: watch::Sender<()>,
    /// Shared with the monitor until the end; a copy of what is left from then on.
    journal: RwLock<Journal>,
    /// What it makes the agent hold.
    shares: OnceLock<Mutex<Shares>>,
    /// The process that starts the session's own for the monitor, where there is one.
    forker: Option<ProcessId>,
    /// The monitor, as long as there is one.
    monitor: Mutex<Option<Arc<Monitor>>>,
    /// Wakes the monitor when there is room for output, or input.
    to_monitor: Mutex<Option<OwnedFd>>,
    /// Where it stands.
    state: watch::Sender<State>,
    /// Changes whenever the journal has: new output, or new room for input.
    activity: watch::Sender<()>,
    /// Counts those who drove it: the last one is its driver.
    drivers: watch::Sender<u64>,
    /// The one who drives it now; 0: nobody.
    driver: AtomicU64,
    /// How many clients there are that drive it, or did until another took over.
    clients: AtomicUsize,
    /// Whether one of them has left it running: it is there without any from then on.
    left: AtomicBool,
    /// Up to where input was taken, once it has ended.
    input_end: AtomicU64,
    /// Whether a driver was told the end.
    end_told: AtomicBool,
    /// Held while input is written, so that two writers do not mix.
    input: tokio::sync::Mutex<()>,
    /// Up to where output was handled.
    handled: Handled,
    /// What its recorder is told besides the journal.
    recorder: record::Inbox,
    /// Where its start, its bytes and its end are counted.
    counts: Arc<Counts>,
}

/// Where a session stands.
#[derive(Debug, Clone)]
pub enum State {
    /// Its plan is being carried out.
    Assembling,
    /// Paused before its command.
    Created(ProcessId),
    /// Its command runs.
    Running(ProcessId),
    /// It has ended. With the failure where its set-up failed.
    Ended(SessionEnd, Option<SetupFailure>),
}

/// What a session wrote.
#[derive(Debug)]
pub enum Journal {
    /// Shared with the monitor, or kept after it.
    Live(Reader),
    /// Read back from the file that the monitor left.
    Saved(Saved),
    /// Nothing is left of it.
    Lost,
}

impl Journal {
    fn read(&self, offset: u64, max: usize) -> ReadResult {
        match self {
            Journal::Live(reader) => reader.read(offset, max),
            Journal::Saved(saved) => saved.read(offset, max),
            Journal::Lost => ReadResult::Empty,
        }
    }

    fn head(&self) -> u64 {
        match self {
            Journal::Live(reader) => reader.head(),
            Journal::Saved(saved) => saved.head(),
            Journal::Lost => 0,
        }
    }

    fn tail(&self) -> u64 {
        match self {
            Journal::Live(reader) => reader.tail(),
            Journal::Saved(saved) => saved.tail(),
            Journal::Lost => 0,
        }
    }

    fn totals(&self) -> Totals {
        match self {
            Journal::Live(reader) => reader.totals(),
            Journal::Saved(saved) => saved.totals(),
            Journal::Lost => Totals::default(),
        }
    }

    fn live(&self) -> Option<&Reader> {
        match self {
            Journal::Live(reader) => Some(reader),
            _ => None,
        }
    }
}

impl Session {
    pub(super) fn reached(&self) -> MutexGuard<'_, Surroundings> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts it to what its maker makes the agent hold.
    pub(super) fn hold(&self, holding: Holding) {
        // Once.
        let _ = self.shares.set(Mutex::new(Shares::new(holding)));
    }

    /// Its record takes so much now. `by`: who brought what came since, if not whoever started it.
    pub(super) fn count(&self, bytes: usize, by: Option<&str>) {
        if let Some(shares) = self.shares.get() {
            shares.lock().unwrap_or_else(PoisonError::into_inner).set(bytes, by);
        }
    }

    /// Puts a session together. `monitor` and `to_monitor` are missing where it has ended already.
    pub fn new(
        record: store::Record,
        dir: PathBuf,
        journal: Journal,
        monitor: Option<Arc<Monitor>>,
        to_monitor: Option<OwnedFd>,
        state: State,
        counts: Arc<Counts>,
    ) -> Session {
        let recorded = record.io.policy.record;
        let left = store::is_left_running(&dir);
        Session {
            handled: Handled::new(&journal, recorded.is_some()),
            recorder: record::Inbox::new(recorded),
            id: record.id.clone(),
            reached: Mutex::new(record.surroundings.clone()),
            surroundings_changes: watch::Sender::new(()),
            record,
            dir,
            journal: RwLock::new(journal),
            shares: OnceLock::new(),
            forker: monitor.as_ref().and_then(|monitor| monitor.forker()),
            monitor: Mutex::new(monitor),
            to_monitor: Mutex::new(to_monitor),
            state: watch::Sender::new(state),
            activity: watch::Sender::new(()),
            drivers: watch::Sender::new(0),
            driver: AtomicU64::new(0),
            clients: AtomicUsize::new(0),
            left: AtomicBool::new(left),
            input_end: AtomicU64::new(0),
            end_told: AtomicBool::new(false),
            input: tokio::sync::Mutex::new(()),
            counts,
        }
    }

    /// Held for one thing at a time, and never twice at once: a second reader waits for a writer that waits for the
    /// first, and with them the whole agent.
    fn journal(&self) -> RwLockReadGuard<'_, Journal> {
        self.journal.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Where the output begins that is retained, and where it ends.
    fn retained(&self) -> (u64, u64) {
        let journal = self.journal();
        (journal.tail(), journal.head())
    }

    /// Lets go of what is shared with the monitor, and of all fds. What is retained can still be read.
    fn close_journal(&self) {
        let mut journal = self.journal.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Journal::Live(reader) = &*journal {
            self.input_end.store(reader.input_head(), Ordering::Release);
            *journal = Journal::Saved(Saved::of(reader));
        }
        self.to_monitor.lock().unwrap_or_else(|e| e.into_inner()).take();
    }

    /// Leaves a note beside it: an agent that is started again finds it, see
    /// [`Engine::take_noted`](super::Engine::take_noted).
    pub fn leave_note(&self, note: &[u8]) -> std::io::Result<()> {
        store::leave_note(&self.dir, note)
    }

    /// Removes the note.
    pub fn remove_note(&self) {
        store::remove_note(&self.dir);
    }

    /// What is known of it.
    pub fn info(&self) -> SessionInfo {
        let (state, pid, end) = match &*self.state.borrow() {
            State::Assembling => (SessionState::Created, 0, None),
            State::Created(process) => (SessionState::Created, process.pid, None),
            State::Running(process) => (SessionState::Running, process.pid, None),
            State::Ended(end, _) => (SessionState::Ended, 0, Some(end.clone())),
        };
        let container = self.record.container.as_ref();
        let (retained_offset, output_offset) = self.retained();
        SessionInfo {
            id: self.id.clone(),
            container_id: container.map(|c| c.id.clone()),
            container_name: container.map(|c| c.name.clone()),
            main: self.record.main,
            state,
            argv: self.record.argv.clone(),
            terminal: self.io().terminal.is_some(),
            pid,
            start_time: (!self.record.unknown).then_some(self.record.start_time),
            end,
            output_offset,
            retained_offset,
            input_offset: self.input_taken(),
            attached: self.driver.load(Ordering::Acquire) != 0,
            recorded: self.recorded().is_some(),
        }
    }

    /// Waits until it has ended.
    pub async fn wait(&self) -> SessionEnd {
        let mut states = self.state.subscribe();
        loop {
            if let State::Ended(end, _) = &*states.borrow_and_update() {
                return end.clone();
            }
            if states.changed().await.is_err() {
                // Cannot be: `self` holds the sender. A session that nobody follows is lost.
                return supervise::lost("nobody follows this session any more", Totals::default());
            }
        }
    }

    /// Waits for its end after all of its processes were killed; says what is in the way where it does not come.
    /// `tried`: what was done, e.g. `container c was killed`.
    pub async fn wait_killed(&self, tried: &str) -> Result<SessionEnd> {
        let end = answered(bounds::END, self.record.monitor, self.wait()).await;
        end.ok_or_else(|| self.obstacle(tried))
    }

    /// What is in the way of its end: its process, as long as that lives, or else its monitor.
    fn obstacle(&self, tried: &str) -> Error {
        if let State::Created(process) | State::Running(process) = self.state()
            && bounds::State::of(process).is_some_and(|state| !state.is_over())
        {
            let hint = "it is held by the kernel, or by a frozen cgroup above its own; try again once it is gone";
            return bounds::stuck(tried.to_owned(), "its process".into(), process.pid, hint);
        }
        if let Some(pid) = self.being_set_up() {
            let role = format!("the process that is set up for session {}", self.id);
            let hint = "it is stopped, or waits for a filesystem or a device; try again";
            return bounds::stuck(tried.to_owned(), role, pid, hint);
        }
        let pid = self.record.monitor.map_or(0, |monitor| monitor.pid);
        let hint =
            "let the monitor go on (kill -CONT) and try again, or remove the container with force";
        bounds::stuck(tried.to_owned(), format!("the monitor of session {}", self.id), pid, hint)
    }

    /// The process that its monitor waits for before it can tell of any: a child of the monitor, or its forker, which
    /// goes to where the command is to run before it makes that, or a child of it.
    fn being_set_up(&self) -> Option<i32> {
        let monitor = self.record.monitor.filter(|_| matches!(self.state(), State::Assembling))?;
        let able = |process: &ProcessId| {
            bounds::State::of(*process).is_some_and(|state| !state.is_stopped())
        };
        let monitor = Some(monitor).filter(able)?;
        let forker = self.forker.filter(able);
        let mut children = [Some(monitor), forker].into_iter().flatten().flat_map(bounds::children);
        let own = children.find(|pid| self.forker.is_none_or(|forker| forker.pid != *pid));
        own.or(forker.map(|forker| forker.pid))
    }

    /// What keeps its forker from starting its process.
    fn held_forker(&self, cgroups: &Cgroups) -> Option<Error> {
        let forker = self.forker.filter(|_| matches!(self.state(), State::Assembling))?;
        let state = bounds::held(forker, cgroups)?;
        Some(Error::Stuck(Box::new(Stuck {
            tried: "the command was to be set up".to_owned(),
            role: format!("the forker of session {}, which starts it", self.id),
            pid: forker.pid,
            state,
            hint: "try again: that forker is given up, and another one does it",
        })))
    }

    /// Waits for what its set-up comes to, and says what is in the way where it comes to nothing. `held` is asked
    /// now and then whether something holds it. It is told to end then.
    pub async fn set_up(
        &self,
        reached: impl Future<Output = State>,
        cgroups: &Cgroups,
        held: impl Fn() -> Result<()>,
    ) -> Result<State> {
        let watched = async {
            tokio::pin!(reached);
            let mut before = false;
            loop {
                match timeout(bounds::LOOK, &mut reached).await {
                    Ok(state) => return Ok(state),
                    Err(_) => held()?,
                }
                // Twice in a row, as with a monitor: it may be stopped for a moment.
                match self.held_forker(cgroups) {
                    Some(error) if before => return Err(error),
                    found => before = found.is_some(),
                }
            }
        };
        let state = answered(bounds::SET_UP, self.record.monitor, watched).await;
        let state = state.unwrap_or_else(|| Err(self.obstacle("the command was to be set up")));
        if state.is_err() {
            // A monitor that is stopped hears it when it goes on.
            let _ = self.kill(protocol::KillCause::ContainerGone);
        }
        state
    }

    /// Kills its monitor, and with that gives up whatever it has not told yet.
    pub fn kill_monitor(&self) {
        if let Some(monitor) = self.record.monitor.filter(|_| !self.ended()) {
            process::kill(monitor);
        }
    }

    /// Waits until its set-up is past `Assembling`: what it has come to.
    pub async fn assembled(&self) -> State {
        self.until(|state| !matches!(state, State::Assembling)).await
    }

    /// Waits until its command runs, or has ended, or never will.
    pub async fn started(&self) -> State {
        self.until(|state| matches!(state, State::Running(_) | State::Ended(..))).await
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) -> State {
        let mut states = self.state.subscribe();
        match states.wait_for(|state| reached(state)).await {
            Ok(state) => state.clone(),
            Err(_) => self.state.borrow().clone(),
        }
    }

    /// Where it stands now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Where it is in its life, as it is shown.
    pub fn shown_state(&self) -> SessionState {
        match &*self.state.borrow() {
            State::Assembling | State::Created(_) => SessionState::Created,
            State::Running(_) => SessionState::Running,
            State::Ended(..) => SessionState::Ended,
        }
    }

    /// Whether it has ended and a client that drove it knows.
    pub fn end_told(&self) -> bool {
        self.end_told.load(Ordering::Acquire)
    }

    /// Whether its process has ended, also where its end is not told yet.
    pub fn is_over(&self) -> bool {
        match self.state() {
            State::Running(process) => {
                bounds::State::of(process).is_none_or(|state| state.is_over())
            }
            State::Ended(..) => true,
            State::Assembling | State::Created(_) => false,
        }
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        matches!(&*self.state.borrow(), State::Ended(..))
    }

    /// Takes over the streams: the one who drove them before only looks from now on. Output is sent
    /// from `from` on, or else from the oldest byte that is retained, to a client for whom so much waits.
    pub fn drive(self: &Arc<Self>, from: Option<u64>, waiting: Waiting) -> Driver {
        Driver::new(self.clone(), from, waiting)
    }

    /// Looks at the output without any effect on the session.
    pub fn view(self: &Arc<Self>, from: Option<u64>, waiting: Waiting) -> Viewer {
        Viewer::new(self.clone(), from, waiting)
    }

    /// Writes input at `offset`, or else where input stands, and returns up to where it was taken
    /// then: all of it. What was taken before is skipped.
    pub async fn write(&self, offset: Option<u64>, data: Bytes) -> Result<u64> {
        self.write_as(None, offset, data).await
    }

    /// As `write`, on behalf of the driver `number`: nothing more once another has taken over.
    async fn write_as(&self, number: Option<u64>, offset: Option<u64>, data: Bytes) -> Result<u64> {
        let _turn = self.input.lock().await;
        let mut activity = self.activity.subscribe();
        let mut rest = {
            let taken = self.with_input(Reader::input_head)?;
            let offset = offset.unwrap_or(taken);
            if offset > taken {
                return Err(Error::InputOffset { offset, taken });
            }
            let known = usize::try_from(taken - offset).unwrap_or(usize::MAX);
            data.slice(known.min(data.len())..)
        };
        let mut owned = false;
        loop {
            activity.mark_unchanged();
            let room = self.recorder.room().await;
            let pushed = {
                // While this is borrowed nobody can take over: what is pushed now, the next one sees.
                let last = self.drivers.borrow();
                if number.is_some_and(|number| number != *last) {
                    return Err(self.wrong_state("another client drives it"));
                }
                self.with_input(|reader| reader.push_input(&rest))?
            };
            let taken = rest.split_to(pushed);
            if pushed > 0 {
                self.counts.input_bytes.add(pushed as u64);
                if let Some(room) = room {
                    room.send(taken);
                }
                self.wake_monitor();
            }
            if rest.is_empty() {
                // All of it was taken, also where the input is closed by now.
                return Ok(self.input_taken());
            }
            if !owned {
                // It may wait for long, and must not keep the whole buffer that it came in.
                (rest, owned) = (Bytes::copy_from_slice(&rest), true);
            }
            if pushed == 0 && activity.changed().await.is_err() {
                return Err(self.wrong_state("it has ended"));
            }
        }
    }

    /// Does something with the input ring, while it can be written to.
    fn with_input<T>(&self, work: impl FnOnce(&Reader) -> T) -> Result<T> {
        let journal = self.journal();
        let reader = journal.live().filter(|_| !self.ended());
        let reader = reader.ok_or_else(|| self.wrong_state("it has ended"))?;
        if reader.input_closed() || !self.io().takes_input() {
            return Err(self.wrong_state("its input is closed"));
        }
        if reader.input_broken() {
            return Err(self.wrong_state("its process has closed its input"));
        }
        Ok(work(reader))
    }

    /// Up to where input was taken, and whether no more will be.
    pub fn input(&self) -> (u64, bool) {
        (self.input_taken(), self.with_input(|_| ()).is_err())
    }

    fn input_taken(&self) -> u64 {
        let live = self.journal().live().map(Reader::input_head);
        live.unwrap_or_else(|| self.input_end.load(Ordering::Acquire))
    }

    /// Closes the input: the process reads end-of-file once it has read what was written.
    pub fn close_input(&self) -> Result<()> {
        if let Some(reader) = self.journal().live()
            && !self.ended()
            && !reader.input_closed()
        {
            reader.close_input();
            self.wake_monitor();
        }
        Ok(())
    }

    /// Changes the terminal's size.
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        if self.io().terminal.is_none() {
            return Err(self.wrong_state("it has no terminal"));
        }
        self.tell(&ToMonitor::Resize { columns: size.columns, rows: size.rows })?;
        self.recorder.resize(size);
        Ok(())
    }

    /// Sends a signal to the process on a client's behalf.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let cause = (signal == libc::SIGKILL).then_some(protocol::KillCause::Client);
        self.tell(&ToMonitor::Signal { signal, cause })
    }

    /// Kills the process, for a cause that becomes its end.
    pub fn kill(&self, cause: protocol::KillCause) -> Result<()> {
        self.tell(&ToMonitor::Signal { signal: libc::SIGKILL, cause: Some(cause) })
    }

    /// Sends a signal that is meant to end the session.
    pub fn end_with(&self, signal: i32, cause: protocol::KillCause) -> Result<()> {
        self.tell(&ToMonitor::Signal { signal, cause: Some(cause) })
    }

    /// Lets a paused init go on.
    pub fn go(&self) -> Result<()> {
        self.tell(&ToMonitor::Start)
    }

    /// Sends a packet to the monitor.
    fn tell(&self, message: &ToMonitor) -> Result<()> {
        if self.ended() {
            return Err(self.wrong_state("it has ended"));
        }
        let monitor = self.monitor.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let silent = "its monitor does not say where it stands";
        let monitor = monitor.ok_or_else(|| self.wrong_state(silent))?;
        match monitor.send(message) {
            Ok(()) => Ok(()),
            // The monitor has gone a moment ago: its end is on its way.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(self.wrong_state("it has ended"))
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(Error::Exhausted {
                what: format!(
                    "session {}: its monitor has more waiting for it than it can take; send less at a time",
                    self.id
                ),
                errno: libc::EAGAIN,
            }),
            Err(error) => Err(Error::Internal(format!(
                "session {}: its monitor cannot be reached: {error}",
                self.id
            ))),
        }
    }

    fn wake_monitor(&self) {
        if let Some(fd) = &*self.to_monitor.lock().unwrap_or_else(|e| e.into_inner()) {
            // Full means that a wake-up is on its way already.
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }

    fn io(&self) -> &SessionIo {
        &self.record.io
    }

    /// What happens when the last of its clients is gone.
    pub fn on_disconnect(&self) -> OnDisconnect {
        let (io, streamed) = (self.io(), self.is_its_clients());
        io.policy.on_disconnect(streamed, io.terminal.is_some())
    }

    /// Whether a client has streamed it from its start, and none has left it running.
    pub fn is_its_clients(&self) -> bool {
        self.record.streamed && !self.left.load(Ordering::Acquire)
    }

    /// Notes that a client leaves it running, for the next agent as well.
    fn leave_running(&self) {
        self.left.store(true, Ordering::Release);
        if let Err(error) = store::leave_running(&self.dir) {
            warn!(session = self.id, %error, "it cannot be noted that it was left running");
        }
    }

    fn wrong_state(&self, problem: &'static str) -> Error {
        Error::WrongSessionState { session: self.id.clone(), problem }
    }
}
