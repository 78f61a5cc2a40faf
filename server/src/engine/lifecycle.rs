//! Containers from create to delete. Every step has its undo; what fails leaves nothing.

use std::{
    os::unix::ffi::OsStringExt as _,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use conti_runtime::{beneath::Blocked, protocol::KillCause};
use futures::future::join_all;
use rustix::io::Errno;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    Engine,
    begin::{Begin, Opened},
    bounds, carry,
    cgroup::Cgroup,
    container::{Container, PidNamespace},
    error::{Error, Result},
    fault,
    info::{ContainerInfo, ContainerState, EndReason},
    io_error, name, process,
    recording::Wanted,
    requests::{Answer, Request, What},
    session::{
        Session, State, Waiting, store,
        supervise::{self, Outcome},
    },
    spec::{ContainerSpec, Namespace},
};

impl Engine {
    /// Creates a container, and starts it where `start`. `record`: whether and how it is recorded.
    pub async fn create(
        self: &Arc<Self>,
        spec: ContainerSpec,
        request: Option<Request>,
        start: bool,
        record: Option<Wanted>,
    ) -> Result<Answer<Arc<Container>>> {
        let begin = Begin { paused: !start, streamed: false, record, since: Instant::now() };
        self.create_once(spec, request, begin).await
    }

    /// Creates and starts a container whose main session is to be driven. Returns that session and
    /// the container's warnings.
    pub async fn run(
        self: &Arc<Self>,
        spec: ContainerSpec,
        request: Option<Request>,
        record: Option<Wanted>,
    ) -> Result<Answer<(Arc<Session>, Vec<String>)>> {
        let begin = Begin { paused: false, streamed: true, record, since: Instant::now() };
        let Answer { made: container, repeated } = self.create_once(spec, request, begin).await?;
        let (session, warnings) = {
            let now = container.now();
            (now.session.clone(), now.warnings.clone())
        };
        let session = session.ok_or_else(|| {
            container.wrong_state(container.state(), "attach to", "created or running")
        })?;
        Ok(Answer { made: (session, warnings), repeated })
    }

    /// Carries a request out once, however often it comes.
    pub(super) async fn once(
        &self,
        request: Option<&Request>,
        what: What,
        make: impl Future<Output = Result<String>>,
    ) -> Result<Answer<String>> {
        self.requests.once(request, what, |key| self.registry.made_by(key), make).await
    }

    /// Carries a create out in a task of its own, so that a client that goes away half way leaves
    /// either a container or nothing; and once for each request id.
    async fn create_once(
        self: &Arc<Self>,
        spec: ContainerSpec,
        request: Option<Request>,
        begin: Begin,
    ) -> Result<Answer<Arc<Container>>> {
        let engine = self.clone();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let create = async move {
            let result = engine.create_now(spec, request, begin).await;
            if let Ok(Answer { made, repeated: false }) = &result {
                carry::tell(|witness| witness.made(made));
                match made.now().session.clone() {
                    // Where it is gone already, nothing is left of it to be told.
                    Some(session) if !begin.paused => {
                        carry::tell(|witness| witness.started(&session));
                    }
                    _ => {}
                }
            }
            carry::ended(&result);
            fault::point("create.made").await;
            if let Err(Ok(Answer { made: container, repeated: false })) = answer.send(result)
                && begin.streamed
                && let Some(session) = container.now().session.clone()
            {
                // Nobody came to drive it: as if the client had gone right after.
                drop(session.drive(None, Waiting::default()));
            }
        };
        carry::to_its_end(create);
        answered.await.unwrap_or(Err(Error::Stopping))
    }

    async fn create_now(
        self: &Arc<Self>,
        spec: ContainerSpec,
        request: Option<Request>,
        begin: Begin,
    ) -> Result<Answer<Arc<Container>>> {
        // One that removes itself may have done so by now: it is still what this request made.
        let mut own = None;
        let make = async {
            let container = self.new_container(spec, request.as_ref())?;
            self.begin_new(&container, begin).await?;
            let id = container.id.clone();
            own = Some(container);
            Result::Ok(id)
        };
        let Answer { made: id, repeated } =
            self.once(request.as_ref(), What::Container, make).await?;
        let made = match own {
            Some(container) => container,
            None => self.registry.container(&id)?,
        };
        Ok(Answer { made, repeated })
    }

    /// A container that nobody knows of yet.
    fn new_container(
        &self,
        mut spec: ContainerSpec,
        request: Option<&Request>,
    ) -> Result<Arc<Container>> {
        let id = self.registry.new_id();
        if spec.name.is_empty() {
            spec.name = name::new(|name| self.registry.name_is_free(name));
        }
        if spec.hostname.is_empty() {
            spec.hostname = id[..12].to_owned();
        }
        let holding = self.hold(&spec)?;
        self.check_owners(&spec)?;
        let id_range = self.take_ids(&mut spec)?;
        let joined = self.all_joined(&spec);
        let mut container = Container::new(id, spec, &self.containers_dir, request);
        container.joined = joined;
        {
            let mut now = container.now();
            (now.id_range, now.holding) = (id_range, Some(holding));
        }
        Ok(Arc::new(container))
    }

    async fn begin_new(self: &Arc<Self>, container: &Arc<Container>, begin: Begin) -> Result<()> {
        // Before anybody can find it: who does waits until it is there or gone.
        let _turn = container.take_turn().await?;
        self.registry.add_container(container.clone())?;
        fault::point("create.registered").await;
        let begun = match container.make_dir() {
            Ok(()) => self.begin(container, begin).await,
            Err(error) => Err(io_error("cannot make the container's directory")(error)),
        };
        match begun {
            Ok(()) => {
                container.tell();
                info!(container = %container.id, name = %container.spec.name, "created");
                Ok(())
            }
            Err(error) => {
                // What is in the way is told by the container, which stays then.
                let _ = self.forget(container).await;
                self.registry.remove_session(&container.now().session_id.clone());
                Err(error)
            }
        }
    }

    pub(super) fn follow_main(
        self: &Arc<Self>,
        container: Arc<Container>,
        opened: Opened,
        paused: bool,
    ) -> Arc<Session> {
        let Opened { session, monitor, to_agent } = opened;
        self.registry.add_session(session.clone());
        let (engine, followed) = (self.clone(), session.clone());
        tokio::spawn(async move {
            let outcome = supervise::follow(&followed, &monitor, to_agent).await;
            drop(monitor);
            // Who asked for it undoes what did not come to be; of what was created the failure is the end.
            let created = paused && matches!(followed.state(), State::Created(_));
            let undone = outcome.failure.is_some() && !created;
            engine.main_ended(&container, &followed, outcome, undone).await;
        });
        session
    }

    /// Cleans up after a main process: nothing of the container runs any more when its end is told. `undone`: its set-up
    /// failed, and whoever asked for it undoes it.
    pub(super) async fn main_ended(
        self: &Arc<Self>,
        container: &Arc<Container>,
        session: &Arc<Session>,
        mut outcome: Outcome,
        undone: bool,
    ) {
        let cgroup = container.now().cgroup.clone();
        if let Some(cgroup) = &cgroup {
            let killed =
                matches!(outcome.end.reason, EndReason::Signal { number: libc::SIGKILL, .. });
            if killed && cgroup.take_oom_kill() {
                outcome.end.reason = EndReason::OutOfMemory;
            }
        }
        let spare = {
            let mut now = container.now();
            now.end = Some(outcome.end.clone());
            now.devpts = None;
            now.spare.take()
        };
        container.ended.notify_waiters();
        fault::point("end.told").await;
        drop(spare);
        let others: Vec<_> = self.registry.sessions(Some(&container.id));
        for other in others.iter().filter(|other| !other.record.main && !other.ended()) {
            let _ = other.kill(KillCause::ContainerGone);
        }
        if let Some(cgroup) = cgroup {
            // With its own pid namespace nothing outlives the main process; without its monitor, the main
            // process itself may have.
            let populated = container.spec.namespaces.pid != Namespace::Private
                || matches!(outcome.end.reason, EndReason::Lost(_));
            self.release(cgroup, populated).await;
            if !populated {
                // What was killed with it is gone.
                container.now().cgroup = None;
            }
        }
        let lives = self.check_undying(std::slice::from_ref(container)).await.is_err();
        // What the kernel holds has its ids, its mounts and its place in the pid namespace still.
        if !lives {
            let mut now = container.now();
            (now.cgroup, now.pid_namespace) = (None, PidNamespace::None);
        }
        self.made_mounts.forget_in(&container.id);
        // Those that cannot tell their end, or cannot be killed, are waited for all at once.
        let others = others.iter().filter(|other| !other.record.main);
        let ends = join_all(others.map(|other| other.wait()));
        let _ = timeout(bounds::GONE, ends).await;
        info!(container = %container.id, end = ?outcome.end.reason, "ended");
        if lives {
            warn!(container = %container.id, "a process of it lives on: the kernel holds it");
        }
        if container.spec.auto_remove && !undone && !lives {
            self.registry.keep_ended(session);
            let _ = self.forget(container).await;
        } else if !undone && let Err(error) = container.save(&self.facts.boot_id) {
            warn!(container = %container.id, %error, "the end could not be recorded");
        }
        supervise::finish(session, outcome);
    }

    /// Starts a created or stopped container. `record`: whether and how it is recorded from now on.
    pub async fn start_container(
        self: &Arc<Self>,
        id: &str,
        request: Option<Request>,
        record: Option<Wanted>,
    ) -> Result<ContainerInfo> {
        let container = self.registry.container(id)?;
        let (engine, since) = (self.clone(), Instant::now());
        let start = async move {
            let start = async {
                engine.start_now(&container, record, since).await.map(|()| container.id.clone())
            };
            let result = engine.once(request.as_ref(), What::Start, start).await;
            let session = container.now().session.clone();
            if let (Ok(Answer { repeated: false, .. }), Some(session)) = (&result, session) {
                carry::tell(|witness| witness.started(&session));
            }
            result.map(|_| container.info())
        };
        carry::change(start).await
    }

    async fn start_now(
        self: &Arc<Self>,
        container: &Arc<Container>,
        record: Option<Wanted>,
        since: Instant,
    ) -> Result<()> {
        let _turn = container.take_turn().await?;
        // Another call may have removed it meanwhile.
        self.registry.container(&container.id)?;
        match container.state() {
            ContainerState::Created => {
                let session = self.main_session(&container.id)?;
                // What could not be begun now would be given up.
                container.check_thawed()?;
                self.record_as(&session, record).await?;
                container.now().start_time = Some(SystemTime::now());
                container.save(&self.facts.boot_id)?;
                session.let_run();
                session.go()?;
                let held = || container.check_thawed();
                match session.set_up(session.started(), &self.cgroups, held).await? {
                    State::Ended(_, Some(failure)) => Err(Error::Setup(failure)),
                    _ => Ok(()),
                }
            }
            ContainerState::Stopped if !container.now().deleted => {
                self.cleaned_up(container).await?;
                let before = {
                    let now = container.now();
                    (now.session.clone(), now.session_id.clone(), now.end.clone())
                };
                let begin = Begin { paused: false, streamed: false, record, since };
                let begun = self.begin(container, begin).await;
                if begun.is_err() {
                    let failed = std::mem::take(&mut container.now().session);
                    let mut now = container.now();
                    (now.session, now.session_id, now.end) = before;
                    drop(now);
                    if let Err(error) = container.save(&self.facts.boot_id) {
                        warn!(container = %container.id, %error, "that it was not started could not be recorded");
                    }
                    self.drop_session(failed);
                } else if let Some(old) = before.0 {
                    fault::point("start.begun").await;
                    self.drop_session(Some(old));
                }
                begun
            }
            state => Err(container.wrong_state(state, "start", "created or stopped")),
        }
    }

    /// Waits until nothing is left of a main process that has ended: what is cleaned up after it, cgroups and
    /// perhaps the container itself, must not be that of the next one.
    async fn cleaned_up(&self, container: &Arc<Container>) -> Result<()> {
        let session = container.now().session.clone();
        if let Some(session) = session {
            session.wait().await;
        }
        self.kill_unattended(container).await?;
        fault::point("start.cleaned_up").await;
        match container.now().deleted {
            true => Err(Error::NoSuchContainer(container.id.clone())),
            false => Ok(()),
        }
    }

    fn drop_session(&self, session: Option<Arc<Session>>) {
        if let Some(session) = session {
            self.registry.remove_session(&session.id);
            store::remove(&session.dir);
        }
    }

    /// Stops a container: signal, grace, kill.
    pub async fn stop(
        self: &Arc<Self>,
        id: &str,
        signal: i32,
        grace: Duration,
    ) -> Result<ContainerInfo> {
        let container = self.registry.container(id)?;
        let is_set_up = container.now().session.as_ref().is_some_and(|session| !session.ended());
        if !is_set_up {
            // It may be just being started: what is stopped must not come up a moment later.
            drop(container.take_turn().await?);
        }
        let session = container.now().session.clone();
        let state = container.state();
        if state == ContainerState::Quarantined {
            // It is not stopped because nobody tells of its main process.
            container.check_idle("stop", "created or running")?;
            if session.as_ref().is_some_and(|session| !session.ended()) {
                return Err(container.wrong_state(state, "stop", "created or running"));
            }
            return Ok(container.info());
        }
        let Some(session) = session else { return Ok(container.info()) };
        match state {
            ContainerState::Quarantined | ContainerState::Stopped => {}
            ContainerState::Created => {
                // While its set-up goes on there is nothing that a signal could reach.
                let _ = timeout(bounds::SET_UP, session.assembled()).await;
                self.kill_all(&container, &session, KillCause::Client).await;
            }
            ContainerState::Running => {
                // What is frozen makes no use of its time.
                let waited = if grace.is_zero() || container.check_thawed().is_err() {
                    false
                } else {
                    let _ = session.signal(signal);
                    timeout(grace, session.wait()).await.is_ok()
                };
                if !waited {
                    self.kill_all(&container, &session, KillCause::Client).await;
                }
            }
        }
        session.wait_killed(&container.killed()).await?;
        if container.state() == ContainerState::Stopped {
            // In a pid namespace of another it may have processes that outlive its main process.
            self.check_undying(std::slice::from_ref(&container)).await?;
        }
        Ok(container.info())
    }

    /// Kills everything in a container, without anybody's help: a monitor may be stopped, a process frozen.
    pub(super) async fn kill_all(
        &self,
        container: &Container,
        session: &Session,
        cause: KillCause,
    ) {
        // The monitor is told first: it keeps the cause.
        let _ = session.kill(cause);
        if let Some(process) = container.process() {
            process::kill(process);
        }
        // What has joined its pid namespace ends with that, and does not while it is frozen.
        let own = container.now().cgroup.clone();
        let beside = self.ending_with(container);
        let beside = beside.iter().filter_map(|other| other.now().cgroup.clone());
        for cgroup in own.into_iter().chain(beside) {
            let name = cgroup.name.clone();
            let killed =
                bounds::blocking(bounds::CGROUPS, "cannot kill a cgroup", move || cgroup.kill());
            if let Err(error) = killed.await {
                warn!(cgroup = name, %error, "its processes may live on");
            }
        }
    }

    /// Kills everything in a container and waits for the end of its main session. A monitor that does not tell
    /// the end is killed too: the container is removed, and nobody will ask it any more.
    ///
    /// # Errors
    ///
    /// A process does not die: the kernel holds it. It has its files and its ids still.
    async fn kill_for_good(&self, container: &Arc<Container>, session: &Session) -> Result<()> {
        self.kill_all(container, session, KillCause::Client).await;
        if let Err(error) = session.wait_killed(&container.killed()).await {
            let mut all = self.ending_with(container);
            all.push(container.clone());
            self.check_undying(&all).await?;
            warn!(container = %container.id, %error, "its monitor is killed");
            session.kill_monitor();
            session.wait_killed(&container.killed()).await?;
        }
        self.kill_unattended(container).await
    }

    /// The containers that run in the pid namespace that a container has made, and end with it.
    fn ending_with(&self, container: &Container) -> Vec<Arc<Container>> {
        let own = PidNamespace::Of(container.id.clone());
        let is_in_own = |one: &Container| one.now().pid_namespace == own;
        if !is_in_own(container) {
            return Vec::new();
        }
        let mut beside = self.in_pid_namespace_of(container);
        beside.retain(|other| is_in_own(other));
        beside
    }

    /// Kills what is left in a container whose main session has ended, or is not known any more: nobody tells of its
    /// end.
    ///
    /// # Errors
    ///
    /// As [`Engine::kill_for_good`].
    async fn kill_unattended(&self, container: &Arc<Container>) -> Result<()> {
        let own = std::slice::from_ref(container);
        let Some(cgroup) = container.now().cgroup.clone() else {
            return self.check_undying(own).await;
        };
        let killed = cgroup.clone();
        let gone = bounds::blocking(bounds::CGROUPS, "cannot kill a cgroup", move || {
            for _ in 0..50 {
                killed.kill();
                if killed.is_empty() {
                    break;
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        if let Err(error) = gone.await {
            warn!(container = %container.id, %error, "its processes may live on");
        }
        self.check_undying(own).await?;
        container.now().cgroup = None;
        self.release(cgroup, true).await;
        Ok(())
    }

    /// Refuses to treat containers as gone whose processes were killed, while one of these lives, or what looks into them.
    async fn check_undying(&self, all: &[Arc<Container>]) -> Result<()> {
        let mut pause = Duration::from_millis(1);
        for container in all {
            self.inspectors.kill_in(&container.id);
            let undying = || -> Result<Option<(i32, &str)>> {
                let own = container.undying()?.map(|pid| (pid, "a process of it"));
                let looking = || self.inspectors.looks_into(&container.id);
                Ok(own.or_else(|| looking().map(|pid| (pid, "what looks at its files"))))
            };
            while let Some((pid, role)) = undying()? {
                // On its way out a process is in the kernel for moments, too.
                if pause > bounds::LOOK {
                    let hint = "the kernel holds it; do this again once it is gone";
                    return Err(bounds::stuck(container.killed(), role.into(), pid, hint));
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
        Ok(())
    }

    /// Sends a signal to the main process.
    pub async fn kill(&self, id: &str, signal: i32) -> Result<()> {
        let container = self.registry.container(id)?;
        container.running_process("signal")?;
        let session = self.main_session(&container.id)?;
        self.signal(&session, signal).await
    }

    /// Removes a container with all that belongs to it.
    pub async fn delete(self: &Arc<Self>, id: &str, force: bool) -> Result<()> {
        let container = self.registry.container(id)?;
        let engine = self.clone();
        let delete = async move {
            let _turn = container.take_turn().await?;
            if container.now().deleted {
                return Ok(());
            }
            fault::point("delete.locked").await;
            if !force {
                container.check_idle(
                    "delete",
                    "created or stopped, unless force is given (`contictl rm --force`)",
                )?;
            }
            let session = container.now().session.clone();
            match session.filter(|session| !session.ended()) {
                Some(session) => engine.kill_for_good(&container, &session).await?,
                None => {
                    engine.check_nothing_of(&container)?;
                    engine.kill_unattended(&container).await?;
                }
            }
            engine.forget(&container).await?;
            info!(container = %container.id, "deleted");
            Ok(())
        };
        carry::change(delete).await
    }

    /// Removes what a container has on disk and in memory. Its main process has ended. Where something is in
    /// the way the container stays, and can only be deleted again.
    pub(super) async fn forget(&self, container: &Arc<Container>) -> Result<()> {
        container.now().deleted = true;
        remove(container, Container::remove_content).await?;
        fault::point("forget.content").await;
        self.made_mounts.forget_in(&container.id);
        let main = container.now().session_id.clone();
        for session in self.registry.sessions(Some(&container.id)) {
            if session.id != main {
                // One that could not tell its end so far.
                session.kill_monitor();
            }
            store::remove(&session.dir);
            // The end of one that removed itself can still be asked for.
            if session.id != main || !container.spec.auto_remove {
                self.registry.remove_session(&session.id);
            }
        }
        fault::point("forget.sessions").await;
        // Last: what is found of its sessions without it is taken for something of which nothing is known.
        remove(container, Container::remove_dir).await?;
        self.registry.remove_container(container);
        // Nothing of it runs any more: whoever is told of its removal may count on its ids.
        container.now().id_range = None;
        Ok(())
    }

    /// Gives cgroups back: kills what is left in them where something may be, and removes them in the
    /// background. Both wait for whoever attaches processes to version 1 cgroups at this moment.
    pub(super) async fn release(&self, cgroup: Arc<Cgroup>, populated: bool) {
        // An agent that is started meanwhile does not take what is dying for a container.
        cgroup.note_over();
        if populated {
            let (cgroup, name) = (cgroup.clone(), cgroup.name.clone());
            let killed =
                bounds::blocking(bounds::CGROUPS, "cannot kill a cgroup", move || cgroup.kill());
            if let Err(error) = killed.await {
                warn!(cgroup = name, %error, "its processes may live on");
            }
        }
        self.background.spawn_blocking(move || {
            if cgroup.remove() {
                return;
            }
            cgroup.kill();
            if !cgroup.remove() {
                warn!(cgroup = cgroup.name, "cannot be removed: something in it cannot be killed");
            }
        });
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
            let Ok(monitor) = engine.slots.spare_in(&cgroup).await else { return };
            fault::point("spare.made").await;
            let mut now = container.now();
            // It may have been started again meanwhile, in other cgroups.
            let same = now.cgroup.as_ref().is_some_and(|present| Arc::ptr_eq(present, &cgroup));
            if same && now.end.is_none() && now.spare.is_none() {
                now.spare = Some(monitor);
            }
        });
    }
}

/// Removes something of the directory of a container. A want of files or of memory passes, and is no reason to leave a
/// part of it; with anything else in the way the container stays.
async fn remove(
    container: &Container,
    what: fn(&Path) -> std::result::Result<(), Blocked>,
) -> Result<()> {
    let begun = Instant::now();
    let blocked = loop {
        let dir = container.dir.clone();
        match blocking(move || what(&dir)).await {
            Ok(()) => return Ok(()),
            Err(Blocked { errno: Errno::MFILE | Errno::NFILE | Errno::NOMEM, .. })
                if begun.elapsed() < bounds::SHORTAGE =>
            {
                tokio::time::sleep(bounds::LOOK).await;
            }
            Err(blocked) => break blocked,
        }
    };
    warn!(container = %container.id, error = %blocked, "cannot be removed completely");
    container.leave(&blocked);
    Err(Error::Refused {
        tried:
            "cannot remove all of the container; clear away what is in the way and delete it again:"
                .to_owned(),
        argument: blocked.path.into_os_string().into_vec(),
        errno: blocked.errno.raw_os_error(),
    })
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
