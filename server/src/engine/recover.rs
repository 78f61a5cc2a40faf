//! What an agent that was started again finds: records of containers, directories of sessions, and
//! monitors that went on without it.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    thread,
    time::Duration,
};

use conti_runtime::{
    journal::{Reader, Totals},
    own,
    protocol::{FromMonitor, MonitorState, VERSION},
    sys::socket,
};
use futures::future::join_all;
use tracing::{info, warn};

use super::{
    Engine,
    bounds::{self, answered},
    cgroup::Cgroup,
    container::Container,
    info::EndReason,
    monitor::Monitor,
    recording::tape::Tape,
    requests::{Made, What},
    session::{
        Journal, Session, State,
        store::{self, Record},
        supervise::{self, Outcome},
    },
    spec::OnDisconnect,
};

/// How often it is tried again to reach a monitor that takes no connection.
const KNOCK: Duration = Duration::from_secs(1);

/// A session whose monitor lives.
struct Alive {
    session: Arc<Session>,
    monitor: Arc<Monitor>,
    to_agent: OwnedFd,
    devpts: Option<OwnedFd>,
    outcome: Option<Outcome>,
}

/// Where a session stands, as its monitor told it.
struct Standing {
    state: MonitorState,
    monitor: Arc<Monitor>,
    journal: Reader,
    to_agent: OwnedFd,
    to_monitor: OwnedFd,
    devpts: Option<OwnedFd>,
}

enum Found {
    Alive(Alive),
    /// Its monitor is there and says nothing, or nothing that is understood.
    Silent(Arc<Session>),
    Ended(Arc<Session>, Outcome),
}

/// What came of asking a monitor.
enum Asked {
    Stands(Box<Standing>),
    Silent,
    Gone,
}

impl Engine {
    /// Rebuilds the registry. Never fails: what cannot be understood is set aside and told.
    pub(super) async fn recover(self: &Arc<Self>) {
        // All monitors at once: some may be stopped, and each is waited for as long as all of them.
        let dirs = directories(&self.sessions_dir);
        let asked = join_all(dirs.iter().map(|dir| self.found_in(dir))).await;
        let mut found = Vec::new();
        for (session, dir) in asked.into_iter().zip(&dirs) {
            match session {
                Ok(session) => found.push(session),
                Err(error) => {
                    warn!(dir = %dir.display(), %error, "a session's directory tells nothing and is removed");
                    store::remove(dir);
                }
            }
        }
        let mut left = Vec::new();
        for dir in directories(&self.containers_dir) {
            let Some(container) = self.container_from(&dir, &mut left) else { continue };
            if let Some(key) = &container.request_id {
                let (id, digest) = (container.id.clone(), container.request_digest.clone());
                self.requests.remember(key, Made { what: What::Container, id, digest });
            }
            if let Err(error) = self.registry.add_container(container) {
                warn!(dir = %dir.display(), %error, "a container cannot be taken over");
            }
        }
        let mut keep = Vec::new();
        let (main, others): (Vec<Found>, Vec<Found>) =
            found.into_iter().partition(|f| f.session().record.main);
        for session in main.into_iter().chain(others) {
            self.take_over(session, &mut keep).await;
        }
        for container in self.registry.containers() {
            self.settle(&container).await;
        }
        self.finish_removals(left).await;
        // Slots of the agent before, and what a crash left.
        for name in self.cgroups.names().into_iter().filter(|name| !keep.contains(name)) {
            let cgroup = self.cgroups.open(&name);
            self.background.spawn_blocking(move || insist(&cgroup, &name));
        }
    }

    /// The container of a directory. `None`: it never came to be one, or its removal has begun; it is `left` then.
    fn container_from(&self, dir: &Path, left: &mut Vec<PathBuf>) -> Option<Arc<Container>> {
        let container = match Container::read_record(dir) {
            Ok(record) => {
                let (boot_id, ended) = (record.boot_id.clone(), record.end.is_some());
                let container = Container::from_record(record, &self.containers_dir);
                container.now().id_range = self.id_ranges.claim(&container.spec);
                if boot_id != self.facts.boot_id && !ended {
                    container.now().end =
                        Some(supervise::lost("the host was started again", Totals::default()));
                }
                container
            }
            // The agent ended before it wrote one: nobody was told of this container. Or while it removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                left.push(dir.to_owned());
                return None;
            }
            Err(error) => {
                let problem = format!(
                    "its record {} is damaged: {error}; it can only be deleted",
                    dir.display()
                );
                warn!(problem, "a container is set aside");
                self.unknown(dir, problem)
            }
        };
        Some(Arc::new(container))
    }

    /// Looks at one session's directory.
    async fn found_in(&self, dir: &Path) -> io::Result<Found> {
        let record = store::read(dir)?;
        match answered(bounds::STANDING, record.monitor, ask(&record, dir)).await {
            Some(Asked::Stands(standing)) => {
                return Ok(Found::Alive(self.alive(record, dir, *standing)));
            }
            Some(Asked::Gone) => {}
            Some(Asked::Silent) | None => {
                let (state, counts) = (State::Assembling, self.counts.clone());
                let dir = dir.to_owned();
                let session = Session::new(record, dir, Journal::Lost, None, None, state, counts);
                return Ok(Found::Silent(Arc::new(session)));
            }
        }
        Ok(self.ended(record, dir))
    }

    /// A session whose monitor is gone, with or without an end.
    fn ended(&self, record: Record, dir: &Path) -> Found {
        let journal = store::read_journal(dir).map_or(Journal::Lost, Journal::Saved);
        let outcome = match store::read_end(dir) {
            Ok(end) => Outcome { end: supervise::translate(&end), failure: None },
            Err(_) => Outcome {
                end: supervise::lost(
                    "its monitor died while the agent was away",
                    Totals::default(),
                ),
                failure: None,
            },
        };
        let (state, counts) = (State::Assembling, self.counts.clone());
        let session = Session::new(record, dir.to_owned(), journal, None, None, state, counts);
        Found::Ended(Arc::new(session), outcome)
    }

    fn alive(&self, record: Record, dir: &Path, standing: Standing) -> Alive {
        let Standing { state, monitor, journal, to_agent, to_monitor, devpts } = standing;
        let session = Session::new(
            record,
            dir.to_owned(),
            Journal::Live(journal),
            Some(monitor.clone()),
            Some(to_monitor),
            State::Assembling,
            self.counts.clone(),
        );
        let session = Arc::new(session);
        // One that is still assembling goes on with that: it tells when it is done.
        let outcome = supervise::adopt(&session, state);
        Alive { session, monitor, to_agent, devpts, outcome }
    }

    async fn take_over(self: &Arc<Self>, found: Found, keep: &mut Vec<String>) {
        let session = found.session().clone();
        let container =
            session.record.container.as_ref().and_then(|c| self.registry.container(&c.id).ok());
        if let (Some(key), false) = (&session.record.request_id, session.record.main) {
            let (id, digest) = (session.id.clone(), session.record.request_digest.clone());
            self.requests.remember(key, Made { what: What::Session, id, digest });
        }
        self.registry.add_session(session.clone());
        if let Some(note) = store::read_note(&session.dir) {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.push((session.clone(), note));
        }
        self.resume_recording(&session);
        match (found, container) {
            (found, Some(container)) if session.record.main => {
                {
                    let mut now = container.now();
                    now.session = Some(session.clone());
                    now.session_id.clone_from(&session.id);
                }
                let cgroup =
                    Container::read_record(&container.dir).ok().and_then(|record| record.cgroup);
                if let Some(name) = cgroup {
                    container.now().cgroup = Some(Arc::new(self.cgroups.open(&name)));
                    keep.push(name);
                }
                match found {
                    Found::Silent(session) => self.wait_for_monitor(session, Some(container)),
                    Found::Alive(mut alive) => {
                        info!(container = %container.id, "goes on");
                        container.now().devpts = alive.devpts.take().map(Arc::new);
                        self.resume_policy(&session);
                        self.refill_spare(&container);
                        let engine = self.clone();
                        tokio::spawn(async move {
                            let outcome = follow(&mut alive).await;
                            let failed = outcome.failure.is_some();
                            engine.main_ended(&container, &alive.session, outcome).await;
                            if failed {
                                engine.give_up(&container).await;
                            }
                        });
                    }
                    Found::Ended(session, outcome) => {
                        // The state is rebuilt before the registry is served to anybody.
                        if container.now().end.is_some() {
                            supervise::finish(&session, outcome);
                        } else if container.spec.auto_remove {
                            // A large tree takes its time to be removed: nobody waits for that.
                            let mut now = container.now();
                            (now.end, now.deleted) = (Some(outcome.end.clone()), true);
                            drop(now);
                            let engine = self.clone();
                            tokio::spawn(async move {
                                engine.main_ended(&container, &session, outcome).await;
                            });
                        } else {
                            self.main_ended(&container, &session, outcome).await;
                        }
                    }
                }
            }
            (Found::Silent(session), container) => self.wait_for_monitor(session, container),
            (Found::Alive(mut alive), container) => {
                self.resume_policy(&session);
                let engine = self.clone();
                tokio::spawn(async move {
                    let outcome = follow(&mut alive).await;
                    engine.exec_ended(container.as_ref(), &alive.session, outcome).await;
                });
            }
            // Neither it nor its container came to be: nobody was told of it, and it has nothing to tell.
            (Found::Ended(session, outcome), None)
                if session.record.main && matches!(outcome.end.reason, EndReason::Lost(_)) =>
            {
                supervise::finish(&session, outcome);
                self.registry.remove_session(&session.id);
                store::remove(&session.dir);
            }
            (Found::Ended(session, outcome), _) => {
                supervise::finish(&session, outcome);
                self.registry.keep_ended(&session.id);
            }
        }
    }

    /// Waits in the background for a monitor that says nothing, and takes its session over when it does. What it
    /// runs goes on meanwhile: it is not lost because nobody tells of it.
    fn wait_for_monitor(self: &Arc<Self>, silent: Arc<Session>, container: Option<Arc<Container>>) {
        let problem = format!(
            "the monitor of session {} does not say where it stands{}",
            silent.id,
            silent.record.monitor.map_or(String::new(), |m| format!(
                "; it is process {}, let it go on (kill -CONT), or remove the container with force",
                m.pid
            ))
        );
        warn!(session = silent.id, problem, "a session cannot be taken over yet");
        let of = container.filter(|_| silent.record.main);
        if let Some(container) = &of {
            let mut now = container.now();
            now.quarantined = Some(problem);
            now.silent = silent.record.monitor;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            let asked = loop {
                match ask(&silent.record, &silent.dir).await {
                    Asked::Silent => tokio::time::sleep(KNOCK).await,
                    asked => break asked,
                }
            };
            let (record, dir) = (silent.record.clone(), silent.dir.clone());
            let found = match asked {
                Asked::Stands(standing) => Found::Alive(engine.alive(record, &dir, *standing)),
                Asked::Gone | Asked::Silent => engine.ended(record, &dir),
            };
            if let Some(container) = &of {
                let mut now = container.now();
                (now.quarantined, now.silent) = (None, None);
            }
            let end = supervise::lost("its monitor was not heard", Totals::default());
            info!(session = silent.id, "its monitor was heard");
            engine.take_over(found, &mut Vec::new()).await;
            // Whoever waits for what was there in its place looks again.
            supervise::finish(&silent, Outcome { end, failure: None });
        });
    }

    /// A container whose set-up failed, and the one who asked for it was a client of the agent before.
    async fn give_up(self: &Arc<Self>, container: &Arc<Container>) {
        if container.spec.auto_remove {
            let _ = self.forget(container).await;
        } else if let Err(error) = container.save(&self.facts.boot_id) {
            warn!(container = %container.id, %error, "its failure could not be recorded");
        }
    }

    /// Goes on with what the agent before recorded.
    fn resume_recording(&self, session: &Arc<Session>) {
        let Some(wanted) = session.record.io.policy.record else { return };
        match Tape::resume(&self.recordings, &session.id, wanted, &session.dir) {
            Ok(Some(tape)) => session.record_on(tape),
            Ok(None) => session.give_up_recording(),
            Err(error) => {
                warn!(session = session.id, %error, "its recording cannot be gone on with");
                session.give_up_recording();
            }
        }
    }

    /// The clients of the agent before are gone: the policies begin, with time to come back.
    fn resume_policy(&self, session: &Arc<Session>) {
        const TIME_TO_COME_BACK: Duration = Duration::from_secs(60);
        // Without its client, or one that its process waits for, it was there without any.
        if session.ended() || !(session.is_its_clients() || session.awaits_client()) {
            return;
        }
        match session.on_disconnect() {
            OnDisconnect::Detach => session.let_run_after(TIME_TO_COME_BACK, 0),
            OnDisconnect::Keep(time) => session.keep_for(time, 0),
            // It was no client's doing that the stream broke off.
            OnDisconnect::Kill | OnDisconnect::HangUp => session.keep_for(TIME_TO_COME_BACK, 0),
        }
    }

    /// A container of which no session was found.
    async fn settle(self: &Arc<Self>, container: &Arc<Container>) {
        let lost = {
            let now = container.now();
            now.quarantined.is_none() && now.left.is_none() && now.session.is_none()
        };
        if !lost {
            return;
        }
        if container.spec.auto_remove {
            info!(container = %container.id, "was to remove itself, and is removed");
            container.now().deleted = true;
            let (engine, container) = (self.clone(), container.clone());
            tokio::spawn(async move { engine.forget(&container).await });
            return;
        }
        if container.now().end.is_none() {
            container.now().end =
                Some(supervise::lost("its session's records are gone", Totals::default()));
        }
        if let Err(error) = container.save(&self.facts.boot_id) {
            warn!(container = %container.id, %error, "its state could not be recorded");
        }
    }
}

impl Found {
    fn session(&self) -> &Arc<Session> {
        match self {
            Found::Alive(alive) => &alive.session,
            Found::Silent(session) | Found::Ended(session, _) => session,
        }
    }
}

/// Asks a monitor where its session stands. Waits for as long as it says nothing.
async fn ask(record: &Record, dir: &Path) -> Asked {
    let socket = match socket::connect_path(&dir.join(store::SOCKET)) {
        Ok(socket) => socket,
        // Nobody listens: the monitor has gone, with or without an end.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            return Asked::Gone;
        }
        Err(error) => {
            warn!(session = record.id, %error, "its monitor cannot be reached");
            return Asked::Silent;
        }
    };
    match standing(record, socket).await {
        Ok(Some(standing)) => Asked::Stands(Box::new(standing)),
        // It went in the middle: asked again, nobody listens.
        Ok(None) => match socket::connect_path(&dir.join(store::SOCKET)) {
            Ok(_) => Asked::Silent,
            Err(_) => Asked::Gone,
        },
        Err(error) => {
            warn!(session = record.id, %error, "its monitor does not answer as it should");
            Asked::Silent
        }
    }
}

/// What a monitor says first. `None`: it has closed.
async fn standing(record: &Record, socket: OwnedFd) -> io::Result<Option<Standing>> {
    let monitor = Arc::new(Monitor::new(socket, record.monitor)?);
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let (state, fds) = match monitor.receive().await? {
        None => return Ok(None),
        Some((FromMonitor::State { version, state }, fds)) if version <= VERSION => (state, fds),
        Some((FromMonitor::State { .. }, _)) => {
            return Err(invalid("it speaks a newer protocol than this agent"));
        }
        Some(_) => return Err(invalid("it does not say where it stands")),
    };
    let mut fds = fds.into_iter();
    let (Some(journal), Some(to_agent), Some(to_monitor)) = (fds.next(), fds.next(), fds.next())
    else {
        return Err(invalid("it did not send the journal"));
    };
    let journal = Reader::map(journal)?;
    let devpts = fds.next();
    Ok(Some(Standing { state, monitor, journal, to_agent, to_monitor, devpts }))
}

async fn follow(alive: &mut Alive) -> Outcome {
    if let Some(outcome) = alive.outcome.take() {
        return outcome;
    }
    let to_agent = match alive.to_agent.try_clone() {
        Ok(fd) => fd,
        Err(error) => {
            let reason = EndReason::Lost(format!("its streams cannot be followed: {error}"));
            let mut end = supervise::lost("", Totals::default());
            end.reason = reason;
            return Outcome { end, failure: None };
        }
    };
    supervise::follow(&alive.session, &alive.monitor, to_agent).await
}

/// Removes a cgroup whose processes take their time to die: on a busy host that may be seconds.
fn insist(cgroup: &Cgroup, name: &str) {
    for _ in 0..50 {
        cgroup.kill();
        if cgroup.remove() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    warn!(cgroup = name, "a cgroup of an earlier agent could not be removed");
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = own::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
