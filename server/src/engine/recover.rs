//! What an agent that was started again finds: records of containers, directories of sessions, and
//! monitors that went on without it.
//!
//! - [`monitors`]: monitors that live, by what they hold;
//! - [`places`]: where what runs belongs, whatever tells it.

mod monitors;
mod places;

use std::{
    collections::HashSet,
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
    protocol::{FromMonitor, MonitorState, ProcessId, VERSION},
    sys::socket,
};
use futures::future::join_all;
use tracing::{info, warn};

use super::{
    Engine,
    bounds::{self, answered},
    cgroup::Cgroup,
    container::{self, Container, PidNamespace},
    error::Result,
    holdings::size,
    id,
    info::EndReason,
    monitor::Monitor,
    process,
    recording::tape::Tape,
    session::{
        Journal, Session, State,
        store::{self, Record},
        supervise::{self, Outcome},
    },
    spec::OnDisconnect,
    unlisted,
};
use monitors::{MONITOR, Monitors};
use places::{Containers, Home, Places, name_of};

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
    /// Rebuilds the registry. What cannot be understood is set aside and told, and what runs because of it runs on.
    ///
    /// # Errors
    ///
    /// What there is cannot be listed.
    pub(super) async fn recover(self: &Arc<Self>) -> Result<()> {
        let mut records: Vec<(PathBuf, io::Result<container::Record>)> =
            directories(&self.containers_dir)?
                .into_iter()
                .map(|dir| (dir.clone(), Container::read_record(&dir)))
                .collect();
        // The older one keeps a name that was given twice.
        records.sort_by_key(|(_, record)| record.as_ref().ok().map(|record| record.create_time));
        self.finish_removals_of_sessions()?;
        let dirs = directories(&self.sessions_dir)?.into_iter();
        let sessions: Vec<(PathBuf, io::Result<Record>)> =
            dirs.map(|dir| (dir.clone(), store::read(&dir))).collect();
        let monitors = sessions.iter().filter_map(|(_, record)| record.as_ref().ok()?.monitor);
        self.check_files_for(monitors.filter(|monitor| lives(*monitor)).count())?;
        let places = self.places(&records, &sessions);
        let found = self.find_sessions(sessions, &records, &places).await;
        let mut left = Vec::new();
        for (dir, record) in records {
            let ran = found.iter().any(|found| found.ran_in(&dir))
                || record.is_err() && self.runs(&places, name_of(&dir));
            let Some(container) = self.container_from(&dir, record, ran, &mut left) else {
                continue;
            };
            self.take_in(container);
        }
        self.represent(&found, &places, &left);
        let (main, others): (Vec<Found>, Vec<Found>) =
            found.into_iter().partition(|f| f.session().record.main);
        let homeless = main.iter().chain(&others).any(Found::is_homeless);
        let (mut keep, mut owned) = (Vec::new(), Vec::new());
        for session in self.without_earlier(main).into_iter().chain(others) {
            self.take_over(session, &mut keep).await;
        }
        for container in self.registry.containers() {
            self.settle(&container).await;
            self.find_cgroup(&container, &places);
            if let Some(cgroup) = container.now().cgroup.clone() {
                // An older agent has not noted it.
                cgroup.note_container(&container.id);
            }
            owned.extend(container.cgroup_name());
        }
        self.find_pid_namespaces();
        self.made_mounts.suspect(|| {
            let all = self.registry.containers().into_iter();
            let living = all.filter(|one| one.now().end.is_none());
            living.map(|one| (one.id.clone(), one.now().cgroup.clone())).collect()
        });
        self.find_out_what_was_attached();
        let in_doubt =
            homeless || self.registry.containers().iter().any(|one| one.may_run_anywhere());
        self.finish_removals(left.clone()).await;
        // Slots of the agent before, what a crash left, and what runs in no container that is known.
        for name in self.cgroups.names().into_iter().filter(|name| !owned.contains(name)) {
            let cgroup = self.cgroups.open(&name);
            let kept = in_doubt || keep.contains(&name);
            match !kept && self.may_be_killed(&cgroup, &places, &left) {
                true => drop(self.background.spawn_blocking(move || insist(&cgroup))),
                false => self.leave_alone(cgroup),
            }
        }
        Ok(())
    }

    /// Main sessions without those of earlier runs, which are removed: the agent died while it started their containers
    /// again.
    fn without_earlier(&self, main: Vec<Found>) -> Vec<Found> {
        let ids: HashSet<String> = main.iter().map(|found| found.session().id.clone()).collect();
        let is_earlier = |found: &Found| {
            let session = found.session();
            let of = session.record.container.as_ref();
            let container = of.and_then(|of| self.registry.container(&of.id).ok());
            let current = container.map(|container| container.now().session_id.clone());
            matches!(found, Found::Ended(..))
                && current.is_some_and(|current| current != session.id && ids.contains(&current))
        };
        let (earlier, main): (Vec<Found>, Vec<Found>) = main.into_iter().partition(is_earlier);
        for session in earlier.iter().map(Found::session) {
            info!(session = session.id, "is of an earlier run of its container, and is removed");
            store::remove(&session.dir);
        }
        main
    }

    /// The container of a directory. `None`: it never came to be one, or its removal has begun; it is `left` then.
    /// `ran`: a main process of it is known to have run.
    fn container_from(
        &self,
        dir: &Path,
        record: io::Result<container::Record>,
        ran: bool,
        left: &mut Vec<PathBuf>,
    ) -> Option<Container> {
        let container = match record {
            Ok(record) => {
                let (boot_id, ended) = (record.boot_id.clone(), record.end.is_some());
                let (cgroup, pid_namespace) = (record.cgroup.clone(), record.pid_namespace.clone());
                let container = Container::from_record(record, &self.containers_dir);
                if Container::is_untold(dir) {
                    container.tell();
                }
                let (maker, size) = (container.spec.maker.as_deref(), size(&container.spec));
                container.now().holding = Some(self.holdings.note(maker, size));
                container.now().id_range = self.id_ranges.claim(&container.spec);
                match (boot_id == self.facts.boot_id, ended) {
                    // Also one that has ended, where something of it lives still.
                    (true, _) => {
                        let cgroup = cgroup.map(|name| Arc::new(self.cgroups.open(&name)));
                        let mut now = container.now();
                        now.cgroup = cgroup;
                        now.pid_namespace =
                            pid_namespace.map_or(PidNamespace::Unknown, PidNamespace::Of);
                    }
                    (false, false) => {
                        container.now().end =
                            Some(supervise::lost("the host was started again", Totals::default()));
                    }
                    (false, true) => {}
                }
                container
            }
            // The agent ended before it wrote one: nobody was told of this container. Or while it removed it.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && (!ran && Container::is_untold(dir) || Container::is_being_removed(dir)) =>
            {
                left.push(dir.to_owned());
                return None;
            }
            Err(error) => {
                let problem = format!(
                    "its record in {} cannot be read: {error}; it can only be deleted, with what runs in it (`contictl rm -f`)",
                    dir.display()
                );
                warn!(problem, "a container is set aside");
                self.unknown(dir, problem)
            }
        };
        Some(container)
    }

    /// Adds a container to the registry. An agent that could not read its record, an older one say, may have given its
    /// name to another: then it has its id for one.
    fn take_in(&self, container: Container) {
        let container = Arc::new(container);
        let Err(error) = self.registry.add_container(container.clone()) else { return };
        let Some(mut container) = Arc::into_inner(container) else { return };
        let warning = format!("it is called by its id from now on: {error}");
        warn!(container = %container.id, problem = warning, "a container has lost its name");
        container.spec.name = container.id.clone();
        container.now().warnings.push(warning);
        if let Err(error) = self.registry.add_container(Arc::new(container)) {
            warn!(%error, "a container cannot be taken over");
        }
    }

    /// Removes what an earlier agent left of sessions that it removed, with monitors that do not know it yet.
    fn finish_removals_of_sessions(&self) -> Result<()> {
        let all =
            own::read_dir(&self.sessions_dir).and_then(|all| all.collect::<io::Result<Vec<_>>>());
        let all = all.map_err(|error| unlisted(&self.sessions_dir, &error))?;
        let left =
            all.into_iter().map(|entry| entry.path()).filter(|dir| store::is_being_removed(dir));
        let left: Vec<PathBuf> = left.collect();
        if left.is_empty() {
            return Ok(());
        }
        let monitors = Monitors::look();
        for dir in left {
            if let Some(monitor) = monitors.of(&dir) {
                process::kill(monitor);
            }
            store::finish_removal(&dir);
        }
        Ok(())
    }

    /// Looks at the directories of all sessions.
    async fn find_sessions(
        &self,
        sessions: Vec<(PathBuf, io::Result<Record>)>,
        containers: &Containers,
        places: &Places,
    ) -> Vec<Found> {
        let unknown = |record: &io::Result<Record>| {
            record.as_ref().map_or(true, |record| record.monitor.is_none())
        };
        let some_unknown = sessions.iter().any(|(_, record)| unknown(record));
        let monitors = if some_unknown { Monitors::look() } else { Monitors::default() };
        let records = sessions.into_iter().map(|(dir, record)| {
            let mut record = record.unwrap_or_else(|error| {
                warn!(dir = %dir.display(), %error, "the record of a session cannot be read: it is for admins");
                self.unknown_session(&dir, containers)
            });
            record.monitor = record.monitor.or_else(|| monitors.of(&dir));
            self.found_in(dir, record, places)
        });
        // All monitors at once: some may be stopped, and each is waited for as long as all of them.
        join_all(records).await.into_iter().flatten().collect()
    }

    /// Looks at one session's directory. `None`: it tells nothing, and is removed.
    async fn found_in(&self, dir: PathBuf, mut record: Record, places: &Places) -> Option<Found> {
        let home = |cgroup: &str| places.home(cgroup);
        match answered(bounds::STANDING, record.monitor, ask(&record, &dir)).await {
            Some(Asked::Stands(standing)) => {
                self.complete(&mut record, &standing, home);
                return Some(Found::Alive(self.alive(record, &dir, *standing)));
            }
            Some(Asked::Gone) => {}
            Some(Asked::Silent) | None => {
                let process = record.monitor.and_then(monitors::command_of);
                if let Some(process) = process.filter(|_| record.unknown) {
                    self.place(&mut record, process.pid, home);
                }
                let state = process.map_or(State::Assembling, State::Running);
                let counts = self.counts.clone();
                let session = Session::new(record, dir, Journal::Lost, None, None, state, counts);
                return Some(Found::Silent(Arc::new(session)));
            }
        }
        if record.unknown && !store::tells_something(&dir) {
            store::remove(&dir);
            return None;
        }
        Some(self.ended(record, &dir))
    }

    /// Adds what the kernel tells of a session whose record cannot be read: its monitor, and the container in whose
    /// cgroups it lives.
    fn complete(
        &self,
        record: &mut Record,
        standing: &Standing,
        home: impl FnOnce(&str) -> Option<Home>,
    ) {
        let (MonitorState::Created(process) | MonitorState::Running(process)) = standing.state
        else {
            return;
        };
        if record.unknown {
            record.monitor = process::parent_named(process, MONITOR);
            self.place(record, process.pid, home);
        }
    }

    /// The record of a session whose own cannot be read. If it is the main process of a container, that one's record
    /// tells so much.
    fn unknown_session(&self, dir: &Path, containers: &Containers) -> Record {
        let unknown = Record::unknown(dir);
        let mut readable = containers.iter().filter_map(|(_, record)| record.as_ref().ok());
        let of = readable.find(|record| record.session_id == unknown.id && self.is_of_boot(record));
        let Some(of) = of else { return unknown };
        let Home { container, labels } = Home::new(&of.id, &of.spec);
        Record {
            container: Some(container),
            labels,
            maker: of.spec.maker.clone(),
            main: true,
            argv: of.spec.process.argv.clone(),
            io: of.spec.io.clone(),
            start_time: of.start_time.unwrap_or(unknown.start_time),
            cgroup: of.cgroup.clone(),
            ..unknown
        }
    }

    /// A session whose monitor is gone, with or without an end.
    fn ended(&self, record: Record, dir: &Path) -> Found {
        let journal = store::read_journal(dir).map_or(Journal::Lost, Journal::Saved);
        let outcome = match store::read_end(dir) {
            Ok(end) => Outcome { end: supervise::translate(&end), failure: None },
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::NotFound => {
                        "its monitor died while the agent was away".to_owned()
                    }
                    _ => format!("what its monitor left of its end cannot be read: {error}"),
                };
                Outcome { end: supervise::lost(&why, Totals::default()), failure: None }
            }
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
        let maker = session.record.maker.as_deref();
        session.hold(self.holdings.note(maker, size(&session.record)));
        self.registry.add_session(session.clone());
        if let Some(note) = store::read_note(&session.dir) {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.push((session.clone(), note));
        }
        self.resume_recording(&session);
        // Where it lives is told by the kernel, or else by its record.
        let cgroup = match session.state() {
            State::Created(process) | State::Running(process) => self.cgroups.name_of(process.pid),
            State::Assembling | State::Ended(..) => None,
        };
        let cgroup = cgroup.or_else(|| session.record.cgroup.clone());
        // That of a container whose removal has begun goes.
        if !matches!(found, Found::Ended(..)) && (container.is_some() || !session.record.main) {
            keep.extend(cgroup.clone());
        }
        match (found, container) {
            (found, Some(container)) if session.record.main => {
                {
                    let mut now = container.now();
                    now.session = Some(session.clone());
                    now.session_id.clone_from(&session.id);
                    if now.cgroup.is_none() && now.end.is_none() {
                        now.cgroup = cgroup.map(|name| Arc::new(self.cgroups.open(&name)));
                    }
                }
                match found {
                    Found::Silent(session) => self.wait_for_monitor(session, Some(container)),
                    Found::Alive(mut alive) => {
                        info!(container = %container.id, "goes on");
                        container.now().devpts = alive.devpts.take().map(Arc::new);
                        self.resume_policy(&session);
                        if container.now().quarantined.is_none() {
                            self.refill_spare(&container);
                        }
                        let engine = self.clone();
                        tokio::spawn(async move {
                            let outcome = alive.follow().await;
                            // Who asked for it was a client of the agent before, or has it as a created one.
                            engine.main_ended(&container, &session, outcome, false).await;
                        });
                    }
                    Found::Ended(session, mut outcome) => {
                        let noted = container.now().end.clone();
                        // The state is rebuilt before the registry is served to anybody.
                        if let Some(end) = noted {
                            // Of a set-up that failed a monitor leaves nothing.
                            outcome.end = end;
                            supervise::finish(&session, outcome);
                        } else if container.spec.auto_remove {
                            // A large tree takes its time to be removed: nobody waits for that.
                            let mut now = container.now();
                            (now.end, now.deleted) = (Some(outcome.end.clone()), true);
                            drop(now);
                            let engine = self.clone();
                            tokio::spawn(async move {
                                engine.main_ended(&container, &session, outcome, false).await;
                            });
                        } else {
                            self.main_ended(&container, &session, outcome, false).await;
                        }
                    }
                }
            }
            (Found::Silent(session), container) => self.wait_for_monitor(session, container),
            (Found::Alive(alive), container) => {
                self.resume_policy(&session);
                // Of one whose container is not known the ids are not given away while it runs.
                let process = match session.state() {
                    State::Created(process) | State::Running(process) => Some(process.pid),
                    State::Assembling | State::Ended(..) => None,
                };
                let homeless = session.record.unknown && container.is_none();
                let ids = self.ids_of(process.filter(|_| homeless));
                let engine = self.clone();
                tokio::spawn(async move {
                    let _until_it_ends = ids;
                    let outcome = alive.follow().await;
                    engine.exec_ended(container.as_ref(), &session, outcome).await;
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
                self.registry.keep_ended(&session);
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
        // What is not known of it otherwise stays so when its monitor is heard.
        let mut only_silent = false;
        if let Some(container) = &of {
            let mut now = container.now();
            only_silent = now.quarantined.is_none();
            now.quarantined.get_or_insert(problem);
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
            let (mut record, dir) = (silent.record.clone(), silent.dir.clone());
            // With what was mounted meanwhile.
            record.surroundings = silent.surroundings();
            let found = match asked {
                Asked::Stands(standing) => {
                    let all = engine.registry.containers();
                    engine.complete(&mut record, &standing, |cgroup| {
                        let of = all.iter().find(|of| of.cgroup_name().as_deref() == Some(cgroup));
                        of.map(|of| Home::new(&of.id, &of.spec))
                    });
                    Found::Alive(engine.alive(record, &dir, *standing))
                }
                Asked::Gone | Asked::Silent => engine.ended(record, &dir),
            };
            if let Some(container) = &of {
                let mut now = container.now();
                now.silent = None;
                if only_silent {
                    now.quarantined = None;
                }
            }
            let end = supervise::lost("its monitor was not heard", Totals::default());
            info!(session = silent.id, "its monitor was heard");
            engine.take_over(found, &mut Vec::new()).await;
            engine.find_pid_namespaces();
            // Whoever waits for what was there in its place looks again.
            supervise::finish(&silent, Outcome { end, failure: None });
        });
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

    /// Looks in which pid namespaces those containers are of which that is not known, by their processes.
    fn find_pid_namespaces(&self) {
        let own = process::pid_namespace(std::process::id() as i32);
        let of = |container: &Container| {
            if let Some(process) = container.process() {
                return process::pid_namespace(process.pid);
            }
            // Beside its own it may have some that wait for a command, and are nowhere yet.
            let processes = container.now().cgroup.as_ref()?.processes().ok()?;
            let mut all =
                processes.into_iter().filter_map(|pid| process::pid_namespace(pid.as_raw_pid()));
            all.find(|found| Some(*found) != own)
        };
        let all = self.registry.containers();
        let known = |one: &Container| match one.now().pid_namespace.clone() {
            PidNamespace::Of(container) => Some(container),
            PidNamespace::None | PidNamespace::Unknown => None,
        };
        // If it is not known where a session belongs, it may belong to any.
        let in_doubt = self.registry.sessions(None).iter().any(|session| {
            let record = &session.record;
            record.unknown && record.container.is_none() && !session.ended()
        });
        let runs = |one: &Container| {
            let now = one.now();
            let session = now.session.as_ref().is_some_and(|session| !session.ended());
            session || now.cgroup.as_ref().is_some_and(|cgroup| !cgroup.is_empty())
        };
        for one in all.iter().filter(|one| one.now().pid_namespace == PidNamespace::Unknown) {
            let Some(found) = of(one) else {
                if !in_doubt && !runs(one) {
                    one.now().pid_namespace = PidNamespace::None;
                }
                continue;
            };
            let mut same = all.iter().filter(|other| of(other) == Some(found));
            let found = same.find_map(|other| known(other)).unwrap_or_else(|| one.id.clone());
            one.now().pid_namespace = PidNamespace::Of(found);
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
        let cgroup = container.now().cgroup.clone();
        if cgroup.as_ref().is_some_and(|cgroup| !cgroup.is_empty()) {
            let problem = format!(
                "the directory of its session {} is gone, and its processes run on; it can only be deleted, with what runs in it (`contictl rm -f`)",
                container.now().session_id
            );
            warn!(container = %container.id, problem, "a container is set aside");
            container.now().quarantined = Some(problem);
            return;
        }
        // With nothing in it, it is one of those that are removed.
        {
            let mut now = container.now();
            (now.cgroup, now.pid_namespace) = (None, PidNamespace::None);
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

    /// Whether it runs, or may, and nobody can tell where: its record cannot be read, and its monitor names no process.
    fn is_homeless(&self) -> bool {
        let session = self.session();
        let nowhere = session.record.unknown && session.record.container.is_none();
        let is_there = !matches!(self, Found::Ended(..));
        nowhere && is_there && matches!(session.state(), State::Assembling)
    }

    /// Whether it is, or was, the main process of the container in this directory.
    fn ran_in(&self, container: &Path) -> bool {
        let record = &self.session().record;
        let of = record.container.as_ref().filter(|_| record.main);
        let ran = match self {
            Found::Alive(_) | Found::Silent(_) => true,
            Found::Ended(_, outcome) => !matches!(outcome.end.reason, EndReason::Lost(_)),
        };
        ran && of.is_some_and(|of| container.file_name().is_some_and(|name| name == of.id.as_str()))
    }
}

/// Asks a monitor where its session stands. Waits for as long as it says nothing.
async fn ask(record: &Record, dir: &Path) -> Asked {
    let socket = match socket::connect_path(&dir.join(store::SOCKET)) {
        Ok(socket) => socket,
        // The monitor has gone, with or without an end. Or its socket has.
        Err(error) if nobody_listens(&error) && !record.monitor.is_some_and(lives) => {
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
            Err(error) if nobody_listens(&error) => Asked::Gone,
            Ok(_) | Err(_) => Asked::Silent,
        },
        Err(error) => {
            warn!(session = record.id, %error, "its monitor does not answer as it should");
            Asked::Silent
        }
    }
}

/// Whether it is that, and not that this agent is out of files, say.
fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn lives(process: ProcessId) -> bool {
    bounds::State::of(process).is_some_and(|state| !state.is_over())
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

impl Alive {
    /// Follows it to its end.
    async fn follow(self) -> Outcome {
        match self.outcome {
            Some(outcome) => outcome,
            None => supervise::follow(&self.session, &self.monitor, self.to_agent).await,
        }
    }
}

/// Removes a cgroup whose processes take their time to die: on a busy host that may be seconds.
fn insist(cgroup: &Cgroup) {
    for _ in 0..50 {
        cgroup.kill();
        if cgroup.remove() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    warn!(cgroup = cgroup.name, "a cgroup of an earlier agent could not be removed");
}

/// The directories of containers or sessions. What is no id is none of them: somebody has put it there.
fn directories(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for entry in own::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                continue;
            }
            match id::is_one(name_of(&path)) {
                true => all.push(path),
                false => warn!(dir = %path.display(), "its name is no id: it is left alone"),
            }
        }
        Ok(all)
    };
    list().map_err(|error| unlisted(dir, &error))
}
