//! Containers from create to delete. Every step has its undo; what fails leaves nothing.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conti_runtime::{
    journal::Mode,
    plan::{NsType, Plan},
    protocol::KillCause,
};
use tracing::{info, warn};

use super::{
    Engine,
    assemble::{self, Joined},
    container::Container,
    error::{Error, Result},
    id,
    info::{ContainerInfo, ContainerState, EndReason},
    name,
    registry::Made,
    session::{
        Session, State,
        store::{self, Record},
        supervise::{self, Outcome},
    },
    slots::Slot,
    spec::{ContainerSpec, Namespace},
};

/// How a container's main process begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    /// It stops before its command.
    pub paused: bool,
    /// A client drives it from the first byte on.
    pub streamed: bool,
}

impl Engine {
    /// Creates a container, and starts it where `start`.
    pub async fn create(
        self: &Arc<Self>,
        spec: ContainerSpec,
        request_id: Option<String>,
        start: bool,
    ) -> Result<ContainerInfo> {
        let begin = Begin { paused: !start, streamed: false };
        Ok(self.create_once(spec, request_id, begin).await?.info())
    }

    /// Creates and starts a container whose main session is to be driven.
    pub async fn run(self: &Arc<Self>, spec: ContainerSpec, request_id: Option<String>) -> Result<Arc<Session>> {
        let container = self.create_once(spec, request_id, Begin { paused: false, streamed: true }).await?;
        let session = container.now().session.clone();
        session.ok_or_else(|| container.wrong_state("attach to", "created or running"))
    }

    /// Carries a create out in a task of its own, so that a client that goes away half way leaves
    /// either a container or nothing; and once for each request id.
    async fn create_once(
        self: &Arc<Self>,
        spec: ContainerSpec,
        request_id: Option<String>,
        begin: Begin,
    ) -> Result<Arc<Container>> {
        let engine = self.clone();
        let (answer, answered) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let result = engine.create_now(spec, request_id, begin).await;
            if let Err(Ok(container)) = answer.send(result)
                && begin.streamed
                && let Some(session) = container.now().session.clone()
            {
                // Nobody came to drive it: as if the client had gone right after.
                drop(session.drive(None));
            }
        });
        answered.await.unwrap_or(Err(Error::Stopping))
    }

    async fn create_now(
        self: &Arc<Self>,
        spec: ContainerSpec,
        request_id: Option<String>,
        begin: Begin,
    ) -> Result<Arc<Container>> {
        let made = request_id.as_deref().map_or_else(Made::default, |id| self.registry.request(id));
        // One that removes itself may have done so by now: it is still what this request made.
        let own = std::sync::Mutex::new(None);
        let make = || async {
            let container = self.new_container(spec, request_id)?;
            self.begin_new(&container, begin).await?;
            let id = container.id.clone();
            *own.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(container);
            Ok(id)
        };
        let id = made.get_or_try_init(make).await?;
        match own.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some(container) => Ok(container),
            None => self.registry.container(id),
        }
    }

    /// Registers a container: its name is taken from here on.
    fn new_container(&self, mut spec: ContainerSpec, request_id: Option<String>) -> Result<Arc<Container>> {
        let id = id::new();
        if spec.name.is_empty() {
            spec.name = name::new(|name| self.registry.name_is_free(name));
        }
        if spec.hostname.is_empty() {
            spec.hostname = id[..12].to_owned();
        }
        let container = Arc::new(Container::new(id, spec, &self.containers_dir, request_id));
        self.registry.add_container(container.clone())?;
        Ok(container)
    }

    async fn begin_new(self: &Arc<Self>, container: &Arc<Container>, begin: Begin) -> Result<()> {
        let _turn = container.turn.lock().await;
        let begun = match DirBuilder::new().mode(0o700).create(&container.dir) {
            Ok(()) => self.begin(container, begin).await,
            Err(error) => Err(super::io_error("cannot make the container's directory")(error)),
        };
        match begun {
            Ok(()) => {
                info!(container = %container.id, name = %container.spec.name, "created");
                Ok(())
            }
            Err(error) => {
                self.forget(container).await;
                Err(error)
            }
        }
    }

    /// Brings up the main process of a container that has none. Where it fails, the container is as
    /// it was before.
    async fn begin(self: &Arc<Self>, container: &Arc<Container>, begin: Begin) -> Result<()> {
        let Slot { cgroup, monitor } = self.slots.take().await.map_err(super::io_error("cannot make room for a container"))?;
        let session_id = id::new();
        let joined = match self.joined(&container.spec) {
            Ok(joined) => joined,
            Err(error) => {
                release(cgroup).await;
                return Err(error);
            }
        };
        let assembled = {
            let (engine, container, session_id) = (self.clone(), container.clone(), session_id.clone());
            blocking(move || {
                assemble::assemble(&assemble::Request {
                    spec: &container.spec,
                    session_id: &session_id,
                    dir: &container.dir,
                    paused: begin.paused,
                    joined: &joined,
                    view: &engine.view,
                    cgroup_version: engine.cgroups.version(),
                    enforces_devices: engine.cgroups.enforces_devices(),
                })
            })
            .await
        };
        let mut assembled = match assembled {
            Ok(assembled) => assembled,
            Err(error) => {
                drop(monitor);
                release(cgroup).await;
                return Err(error);
            }
        };
        let ready = (|| {
            if let Some(policy) = &assembled.devices {
                cgroup.set_devices(policy.as_deref()).map_err(super::io_error("cannot set the device policy"))?;
            }
            let fd = cgroup.unified_fd().map_err(super::io_error("cannot open the container's cgroup"))?;
            assembled.plan.cgroup = fd.map(|fd| assembled.fds.add(fd));
            Ok(())
        })();
        let cgroup = Arc::new(cgroup);
        let record = Record {
            id: session_id.clone(),
            container: Some(container.reference()),
            main: true,
            argv: container.spec.process.argv.clone(),
            io: container.spec.io.clone(),
            start_time: SystemTime::now(),
            request_id: None,
            streamed: begin.streamed,
        };
        let opened = ready.and_then(|()| {
            self.open_session(record, monitor, &assembled.plan, assembled.fds.into_inner(), |session| {
                let mut now = container.now();
                now.session = Some(session.clone());
                now.session_id.clone_from(&session_id);
                now.cgroup = Some(cgroup.clone());
                now.devpts = Some(assembled.devpts.clone());
                now.warnings.clone_from(&assembled.warnings);
                now.end = None;
                now.start_time = (!begin.paused).then(SystemTime::now);
                drop(now);
                container.save(&self.facts.boot_id)
            })
        });
        let session = match opened {
            Ok(opened) => self.follow_main(container.clone(), opened),
            Err(error) => {
                container.now().cgroup = None;
                release_shared(cgroup).await;
                return Err(error);
            }
        };
        let reached = if begin.paused { session.assembled().await } else { session.started().await };
        match reached {
            State::Ended(_, Some(failure)) => Err(Error::Setup(failure)),
            _ => {
                self.refill_spare(container);
                Ok(())
            }
        }
    }

    /// The processes of the containers whose namespaces are joined.
    fn joined(&self, spec: &ContainerSpec) -> Result<Joined> {
        let wanted = &spec.namespaces;
        let mut joined = Joined::default();
        for (kind, namespace) in [
            (NsType::Pid, &wanted.pid),
            (NsType::Uts, &wanted.uts),
            (NsType::Ipc, &wanted.ipc),
            (NsType::Net, &wanted.net),
            (NsType::Cgroup, &wanted.cgroup),
            (NsType::User, &wanted.user),
            (NsType::Time, &wanted.time),
        ] {
            let Namespace::Container(key) = namespace else { continue };
            let other = self.registry.container(key)?;
            joined.processes.push((kind, other.running_process("join a namespace of")?));
            if kind == NsType::User {
                joined.owner = assemble::owner_of(&other.spec.namespaces);
            }
        }
        Ok(joined)
    }

    fn follow_main(self: &Arc<Self>, container: Arc<Container>, opened: Opened) -> Arc<Session> {
        let Opened { session, monitor, to_agent } = opened;
        self.registry.add_session(session.clone());
        let (engine, followed) = (self.clone(), session.clone());
        tokio::spawn(async move {
            let outcome = supervise::follow(&followed, &monitor, to_agent).await;
            drop(monitor);
            engine.main_ended(&container, &followed, outcome).await;
        });
        session
    }

    /// Cleans up after a main process: nothing of the container runs any more when its end is told.
    pub(super) async fn main_ended(
        self: &Arc<Self>,
        container: &Arc<Container>,
        session: &Arc<Session>,
        mut outcome: Outcome,
    ) {
        let cgroup = container.now().cgroup.clone();
        if let Some(cgroup) = &cgroup {
            let killed = matches!(outcome.end.reason, EndReason::Signal { number: libc::SIGKILL, .. });
            if killed && cgroup.oom_kills() > 0 {
                outcome.end.reason = EndReason::OutOfMemory;
            }
        }
        let failed = outcome.failure.is_some();
        let spare = {
            let mut now = container.now();
            now.end = Some(outcome.end.clone());
            now.devpts = None;
            now.spare.take()
        };
        drop(spare);
        let others: Vec<_> = self.registry.sessions(Some(&container.id));
        for other in others.iter().filter(|other| !other.record.main && !other.ended()) {
            let _ = other.kill(KillCause::ContainerGone);
        }
        if let Some(cgroup) = cgroup {
            release_shared(cgroup).await;
            container.now().cgroup = None;
        }
        for other in others.iter().filter(|other| !other.record.main) {
            // Bounded: a process that cannot be killed (in an uninterruptible sleep) is not waited for.
            let _ = tokio::time::timeout(Duration::from_secs(5), other.wait()).await;
        }
        info!(container = %container.id, end = ?outcome.end.reason, "ended");
        // A failed set-up is undone by the one who asked for it.
        if container.spec.auto_remove && !failed {
            self.registry.keep_ended(&session.id);
            self.forget(container).await;
        } else if !failed && let Err(error) = container.save(&self.facts.boot_id) {
            warn!(container = %container.id, %error, "the end could not be recorded");
        }
        supervise::finish(session, outcome);
    }

    /// Starts a created or stopped container.
    pub async fn start_container(self: &Arc<Self>, key: &str, request_id: Option<String>) -> Result<ContainerInfo> {
        let container = self.registry.container(key)?;
        let engine = self.clone();
        let task = tokio::spawn(async move {
            let made = request_id.as_deref().map_or_else(Made::default, |id| engine.registry.request(id));
            let start = || async { engine.start_now(&container).await.map(|()| container.id.clone()) };
            made.get_or_try_init(start).await.cloned()?;
            Ok(container.info())
        });
        task.await.unwrap_or(Err(Error::Stopping))
    }

    async fn start_now(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _turn = container.turn.lock().await;
        match container.state() {
            ContainerState::Created => {
                let session = self.main_session(&container.id)?;
                container.now().start_time = Some(SystemTime::now());
                container.save(&self.facts.boot_id)?;
                session.let_run();
                session.go()?;
                match session.started().await {
                    State::Ended(_, Some(failure)) => Err(Error::Setup(failure)),
                    _ => Ok(()),
                }
            }
            ContainerState::Stopped if !container.now().deleted => {
                let before = {
                    let now = container.now();
                    (now.session.clone(), now.session_id.clone(), now.end.clone())
                };
                let begun = self.begin(container, Begin { paused: false, streamed: false }).await;
                if begun.is_err() {
                    let failed = std::mem::take(&mut container.now().session);
                    let mut now = container.now();
                    (now.session, now.session_id, now.end) = before;
                    drop(now);
                    self.drop_session(failed);
                } else if let Some(old) = before.0 {
                    self.drop_session(Some(old));
                }
                begun
            }
            _ => Err(container.wrong_state("start", "created or stopped")),
        }
    }

    fn drop_session(&self, session: Option<Arc<Session>>) {
        if let Some(session) = session {
            self.registry.remove_session(&session.id);
            store::remove(&session.dir);
        }
    }

    /// Stops a container: signal, grace, kill.
    pub async fn stop(self: &Arc<Self>, key: &str, signal: i32, grace: Duration) -> Result<ContainerInfo> {
        let container = self.registry.container(key)?;
        let session = container.now().session.clone();
        let Some(session) = session else { return Ok(container.info()) };
        match container.state() {
            ContainerState::Quarantined => return Err(container.wrong_state("stop", "created or running")),
            ContainerState::Stopped => {}
            ContainerState::Created => self.kill_all(&container, &session),
            ContainerState::Running => {
                let waited = if grace.is_zero() {
                    false
                } else {
                    let _ = session.signal(signal);
                    tokio::time::timeout(grace, session.wait()).await.is_ok()
                };
                if !waited {
                    self.kill_all(&container, &session);
                }
            }
        }
        session.wait().await;
        Ok(container.info())
    }

    /// Kills everything in a container.
    fn kill_all(&self, container: &Container, session: &Session) {
        // The monitor first: it keeps the cause. The others end with the main process.
        let _ = session.kill(KillCause::Client);
        let cgroup = container.now().cgroup.clone();
        if let Some(cgroup) = cgroup
            && matches!(session.state(), State::Running(_))
            && container.spec.namespaces.pid != Namespace::Private
        {
            cgroup.kill();
        }
    }

    /// Sends a signal to the main process.
    pub async fn kill(&self, key: &str, signal: i32) -> Result<()> {
        let container = self.registry.container(key)?;
        container.running_process("signal")?;
        self.main_session(&container.id)?.signal(signal)
    }

    /// Removes a container with all that belongs to it.
    pub async fn delete(self: &Arc<Self>, key: &str, force: bool) -> Result<()> {
        let container = self.registry.container(key)?;
        let engine = self.clone();
        let task = tokio::spawn(async move {
            let _turn = container.turn.lock().await;
            if container.now().deleted {
                return Ok(());
            }
            if container.state() == ContainerState::Running && !force {
                return Err(container.wrong_state("delete", "created or stopped (or use force)"));
            }
            let session = container.now().session.clone();
            if let Some(session) = session
                && !session.ended()
            {
                engine.kill_all(&container, &session);
                session.wait().await;
            }
            engine.forget(&container).await;
            info!(container = %container.id, "deleted");
            Ok(())
        });
        task.await.unwrap_or(Err(Error::Stopping))
    }

    /// Removes what a container has on disk and in memory. Its main process has ended.
    pub(super) async fn forget(&self, container: &Arc<Container>) {
        container.now().deleted = true;
        let dir = container.dir.clone();
        let removed = blocking(move || match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        if let Err(error) = removed.await {
            warn!(container = %container.id, %error, "the container's directory could not be removed");
        }
        let main = container.now().session_id.clone();
        for session in self.registry.sessions(Some(&container.id)) {
            store::remove(&session.dir);
            // The end of one that removed itself can still be asked for.
            if session.id != main || !container.spec.auto_remove {
                self.registry.remove_session(&session.id);
            }
        }
        self.registry.remove_container(container);
    }

    /// Makes a monitor ready for the next exec.
    pub(super) fn refill_spare(self: &Arc<Self>, container: &Arc<Container>) {
        if !self.cgroups.needs_forker() {
            return;
        }
        let (engine, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let cgroup = {
                let now = container.now();
                if now.spare.is_some() { None } else { now.cgroup.clone() }
            };
            let Some(cgroup) = cgroup else { return };
            let Ok(monitor) = engine.slots.monitor_in(Some(&cgroup)).await else { return };
            let mut now = container.now();
            if now.cgroup.is_some() && now.end.is_none() && now.spare.is_none() {
                now.spare = Some(monitor);
            }
        });
    }

    /// Makes the directory, the journal and the sockets of a session and hands its plan to a monitor.
    /// `known` is called before the plan is handed over: what must be recorded first.
    pub(super) fn open_session(
        &self,
        record: Record,
        monitor: super::monitor::Monitor,
        plan: &Plan,
        fds: Vec<std::os::fd::OwnedFd>,
        known: impl FnOnce(&Arc<Session>) -> Result<()>,
    ) -> Result<Opened> {
        use std::os::fd::AsFd as _;

        use conti_runtime::{journal, sys::socket};
        use rustix::event::{EventfdFlags, eventfd};

        let exhausted = super::io_error("cannot make the streams of a session");
        let streamed = record.streamed;
        let dir = store::create(&self.sessions_dir, &record).map_err(super::io_error("cannot make a session's directory"))?;
        let result = (|| {
            let directory = fs::File::open(&dir).map_err(&exhausted)?;
            let memory = journal::create(journal::Sizes::default()).map_err(&exhausted)?;
            let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| exhausted(e.into()));
            let (to_agent, to_monitor) = (bell()?, bell()?);
            let listener = socket::listen(&directory, store::SOCKET.as_ref()).map_err(&exhausted)?;
            let reader = journal::Reader::map(memory.try_clone().map_err(&exhausted)?).map_err(&exhausted)?;
            reader.set_mode(if streamed { Mode::Wait } else { Mode::Drop });
            let monitor = Arc::new(monitor);
            let session = Arc::new(Session::new(
                record,
                dir.clone(),
                super::session::Journal::Live(reader),
                Some(monitor.clone()),
                Some(to_monitor.try_clone().map_err(&exhausted)?),
                State::Assembling,
            ));
            known(&session)?;
            let run = super::monitor::RunFds {
                journal: memory.as_fd(),
                to_agent: to_agent.as_fd(),
                to_monitor: to_monitor.as_fd(),
                listener: listener.as_fd(),
                directory: directory.as_fd(),
            };
            monitor.run(plan, &run, &fds).map_err(super::io_error("cannot hand the plan to the monitor"))?;
            Ok(Opened { session, monitor, to_agent })
        })();
        if result.is_err() {
            store::remove(&dir);
        }
        result
    }
}

/// A session whose monitor has its plan, and whom nobody follows yet.
#[derive(Debug)]
pub(super) struct Opened {
    /// The session.
    pub session: Arc<Session>,
    /// Its monitor.
    pub monitor: Arc<super::monitor::Monitor>,
    /// The bell that the monitor rings.
    pub to_agent: std::os::fd::OwnedFd,
}

/// Runs what may block on a thread that may.
pub(super) async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
) -> std::result::Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // A panic is a defect; it is told where it was made and goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn release(cgroup: super::cgroup::Cgroup) {
    release_shared(Arc::new(cgroup)).await;
}

/// Kills what is left in a cgroup and removes it.
async fn release_shared(cgroup: Arc<super::cgroup::Cgroup>) {
    let name = cgroup.name.clone();
    let removed = blocking(move || {
        // Mostly nothing is left, and removing is all there is to do.
        if cgroup.remove_now() {
            return Ok::<_, ()>(true);
        }
        cgroup.kill();
        Ok(cgroup.remove())
    });
    if !removed.await.unwrap_or(false) {
        warn!(cgroup = name, "a cgroup could not be removed: something in it cannot be killed");
    }
}
