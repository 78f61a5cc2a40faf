//! Bringing up a container's main process: room, sources, plan, streams.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Instant, SystemTime},
};

use conti_runtime::{
    journal::{self, Mode},
    own,
    plan::{NsType, Plan},
    protocol::KillCause,
    sys::socket,
};
use rustix::event::{EventfdFlags, eventfd};
use tokio::time::timeout;
use tracing::{Instrument as _, debug_span};

use super::{
    Engine,
    assemble::{self, Joined},
    bounds,
    container::{Container, HOST, PidNamespace},
    error::{Error, Result},
    facts,
    holdings::size,
    id, io_error,
    monitor::{Monitor, RunFds},
    mounts::made::Made,
    recording::{About, Wanted, tape::Tape},
    session::{
        self, Session, State,
        store::{self, Record},
    },
    slots::Slot,
    spec::{Namespace, Namespaces, Rootfs, SessionIo},
};

/// How a container's main process begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    /// It stops before its command.
    pub paused: bool,
    /// A client drives it from the first byte on.
    pub streamed: bool,
    /// Whether and how it is recorded, by the policy of the moment.
    pub record: Option<Wanted>,
    /// When it was asked for: its deadline counts from then.
    pub since: Instant,
}

impl Begin {
    fn recorded(&self, mut io: SessionIo) -> SessionIo {
        io.policy.record = self.record;
        io
    }

    /// Takes off the deadline what has passed of it. One that is paused is started by another request.
    fn shorten_deadline(&self, plan: &mut Plan) {
        if !self.paused {
            shorten_deadline(plan, self.since);
        }
    }
}

/// Takes off the deadline of a plan what has passed of it since it was asked for.
pub(super) fn shorten_deadline(plan: &mut Plan, since: Instant) {
    let passed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    plan.deadline_ms = plan.deadline_ms.map(|deadline| deadline.saturating_sub(passed));
}

/// A session whose monitor has its plan, and whom nobody follows yet.
#[derive(Debug)]
pub(super) struct Opened {
    /// The session.
    pub session: Arc<Session>,
    /// Its monitor.
    pub monitor: Arc<Monitor>,
    /// The bell that the monitor rings.
    pub to_agent: OwnedFd,
}

/// The namespaces of other containers that a container joins: their types, the containers, and what that is called.
fn joins(namespaces: &Namespaces) -> impl Iterator<Item = (NsType, &str, &'static str)> {
    [
        (NsType::Pid, &namespaces.pid, "join the pid namespace of"),
        (NsType::Uts, &namespaces.uts, "join the uts namespace of"),
        (NsType::Ipc, &namespaces.ipc, "join the ipc namespace of"),
        (NsType::Net, &namespaces.net, "join the net namespace of"),
        (NsType::Cgroup, &namespaces.cgroup, "join the cgroup namespace of"),
        (NsType::User, &namespaces.user, "join the user namespace of"),
        (NsType::Time, &namespaces.time, "join the time namespace of"),
    ]
    .into_iter()
    .filter_map(|(kind, namespace, action)| match namespace {
        Namespace::Container(key) => Some((kind, key.as_str(), action)),
        _ => None,
    })
}

impl Engine {
    /// Brings up the main process of a container that has none. Where it fails, the container is as
    /// it was before.
    pub(super) async fn begin(
        self: &Arc<Self>,
        container: &Arc<Container>,
        begin: Begin,
    ) -> Result<()> {
        match self.bring_up(container, begin).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.explain_joined(container, error).await),
        }
    }

    async fn bring_up(self: &Arc<Self>, container: &Arc<Container>, begin: Begin) -> Result<()> {
        let Slot { cgroup, monitor } = self.slots.take().await?;
        let session_id = id::new();
        let (joined, pid_namespace) = match self.joined(container).await {
            Ok(joined) => joined,
            Err(error) => {
                self.release(Arc::new(cgroup), true).await;
                return Err(error);
            }
        };
        let assembled = {
            let (engine, container, session_id) =
                (self.clone(), container.clone(), session_id.clone());
            bounds::foreign(bounds::SOURCES, "cannot open or mount a source", move || {
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
            .instrument(debug_span!("plan"))
            .await
            .flatten()
        };
        let assembled = match assembled {
            Ok(mut assembled) => {
                let locked = self.lock_in(&mut assembled.fds, &assembled.of_host).await;
                locked.map(|()| assembled)
            }
            Err(error) => Err(error),
        };
        let mut assembled = match assembled {
            Ok(assembled) => assembled,
            Err(error) => {
                self.counts.source_failed(&error);
                drop(monitor);
                self.release(Arc::new(cgroup), true).await;
                return Err(error);
            }
        };
        assembled.warnings.extend(self.shared_layer(container));
        let ready = (|| {
            if let Some(policy) = &assembled.devices {
                cgroup
                    .set_devices(policy.as_deref())
                    .map_err(io_error("cannot set the device policy"))?;
            }
            let fd = cgroup.birth_fd().map_err(io_error("cannot open the container's cgroup"))?;
            assembled.plan.cgroup = fd.map(|fd| assembled.fds.add(fd));
            Ok(())
        })();
        let cgroup = Arc::new(cgroup);
        cgroup.note_container(&container.id);
        // Before anything of it runs, or is said to: what it reaches is told by this.
        let before = {
            let mut now = container.now();
            now.pid_namespace = pid_namespace;
            let opened = std::mem::take(&mut assembled.opened);
            let opened = opened.after(now.opened.as_ref(), &container.spec.rootfs);
            now.opened.replace(opened)
        };
        let ready = ready.and_then(|()| self.note_start(container));
        let process = &assembled.plan.process;
        let record = Record {
            id: session_id.clone(),
            container: Some(container.reference()),
            labels: container.spec.labels.clone(),
            maker: container.spec.maker.clone(),
            main: true,
            confinement: Some((process.confinement, process.oom_score_adj)),
            surroundings: self.surroundings(container),
            host_tools: false,
            argv: container.spec.process.argv.clone(),
            io: begin.recorded(container.spec.io.clone()),
            start_time: SystemTime::now(),
            request_id: None,
            request_digest: None,
            streamed: begin.streamed,
            monitor: None,
            cgroup: Some(cgroup.name.clone()),
            unknown: false,
        };
        begin.shorten_deadline(&mut assembled.plan);
        let opened = ready.and_then(|()| {
            let _handed_over = debug_span!("clone").entered();
            self.open_session(
                record,
                monitor,
                &assembled.plan,
                assembled.fds.into_inner(),
                |session| {
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
                },
            )
        });
        let session = match opened {
            Ok(opened) => self.follow_main(container.clone(), opened, begin.paused),
            Err(error) => {
                {
                    let mut now = container.now();
                    (now.cgroup, now.opened) = (None, before);
                    now.pid_namespace = PidNamespace::None;
                }
                self.release(cgroup, true).await;
                return Err(error);
            }
        };
        let reached = async {
            if begin.paused { session.assembled().await } else { session.started().await }
        };
        let reached = session.set_up(reached, &self.cgroups, || container.check_thawed());
        match reached.instrument(debug_span!("ready")).await {
            Ok(State::Ended(_, Some(failure))) => {
                Err(self.explained(failure, &container.spec).await)
            }
            Err(error) => {
                // Nothing of it is to come up later, when nobody asks for it any more.
                self.kill_all(container, &session, KillCause::ContainerGone).await;
                session.kill_monitor();
                let _ = timeout(bounds::GONE, session.wait()).await;
                Err(error)
            }
            Ok(_) => {
                self.refill_spare(container);
                Ok(())
            }
        }
    }

    /// Warns where what a container wrote before is still mounted elsewhere: two overlays with one upper directory do
    /// not see what the other writes, and the kernel promises nothing (Documentation/filesystems/overlayfs.rst).
    fn shared_layer(&self, container: &Container) -> Vec<String> {
        if matches!(container.spec.rootfs, Rootfs::Dir { overlay: false, .. }) {
            return Vec::new();
        }
        // Whoever starts it need not see what others have.
        let place = |made: &Made| {
            let id = made.container_id.as_ref()?;
            let of = self.registry.container(id).ok()?;
            let own = of.spec.maker == container.spec.maker;
            own.then(|| format!("on {} in {}", made.mount.target, of.spec.name))
        };
        let warning = |made: Arc<Made>| {
            format!(
                "its files of before are still mounted {}: what is written there and here may be lost; unmount them \
                 there, and start it again",
                place(&made).unwrap_or_else(|| "elsewhere".to_owned()),
            )
        };
        self.made_mounts.from(&container.id).into_iter().map(warning).collect()
    }

    /// The processes of the containers whose namespaces are joined, and the pid namespace that it comes into.
    async fn joined(&self, container: &Container) -> Result<(Joined, PidNamespace)> {
        let wanted = &container.spec.namespaces;
        let mut joined = Joined::default();
        let mut pid_namespace = PidNamespace::Of(match &wanted.pid {
            Namespace::Host => HOST.to_owned(),
            _ => container.id.clone(),
        });
        for (kind, key, action) in joins(wanted) {
            let other = self.registry.container(key).map_err(|error| match error {
                // Where it was there the name was exchanged for the id.
                Error::NoSuchContainer(_) if id::is_one(key) => Error::WrongState {
                    container: key.to_owned(),
                    action,
                    state: "removed",
                    because: None,
                    wanted: "running",
                },
                other => other,
            })?;
            let process = other.running_process(action)?;
            joined.processes.push((kind, process));
            if kind == NsType::Pid {
                pid_namespace = match other.now().pid_namespace.clone() {
                    // It has ended meanwhile.
                    PidNamespace::None => PidNamespace::Unknown,
                    known => known,
                };
            }
            // A new user namespace has no right to a new proc of a pid namespace that it does not own.
            let is_made = wanted.user != Namespace::Private && facts::proc_of_namespace();
            if kind == NsType::Pid && !is_made {
                joined.proc = Some(self.proc_of(process).await?);
            }
            if kind == NsType::User {
                joined.owner = assemble::owner_of(&other.spec.namespaces);
            }
        }
        Ok((joined, pid_namespace))
    }

    /// Why a container did not come up: that another whose namespaces it joins has ended meanwhile, where that is so.
    async fn explain_joined(&self, container: &Container, mut error: Error) -> Error {
        for (_, key, action) in joins(&container.spec.namespaces) {
            if let Ok(other) = self.registry.container(key) {
                error = other.explain_gone(action, error).await;
            }
        }
        error
    }

    /// Makes the directory, the journal and the sockets of a session and hands its plan to a monitor.
    /// `known` is called before the plan is handed over: what must be recorded first.
    pub(super) fn open_session(
        &self,
        mut record: Record,
        monitor: Monitor,
        plan: &Plan,
        fds: Vec<OwnedFd>,
        known: impl FnOnce(&Arc<Session>) -> Result<()>,
    ) -> Result<Opened> {
        let exhausted = io_error("cannot make the streams of a session");
        self.check_files(record.maker.as_deref())?;
        let holding = self.holdings.take(record.maker.as_deref(), size(&record))?;
        record.monitor = monitor.process();
        let (id, streamed, wanted) = (record.id.clone(), record.streamed, record.io.policy.record);
        let dir = store::create(&self.sessions_dir, &record)
            .map_err(io_error("cannot make a session's directory"))?;
        let result = (|| {
            let directory = own::open_dir(&dir).map_err(&exhausted)?;
            let memory = journal::create(journal::Sizes::default()).map_err(&exhausted)?;
            let bell = || {
                eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                    .map_err(|e| exhausted(e.into()))
            };
            let (to_agent, to_monitor) = (bell()?, bell()?);
            let listener =
                socket::listen(&directory, store::SOCKET.as_ref()).map_err(&exhausted)?;
            let reader = journal::Reader::map(memory.try_clone().map_err(&exhausted)?)
                .map_err(&exhausted)?;
            reader.set_mode(match (streamed, wanted) {
                (true, _) => Mode::Wait,
                (false, Some(_)) => Mode::Record,
                (false, None) => Mode::Drop,
            });
            let tape = match wanted {
                Some(wanted) => {
                    let about = About::new(&record);
                    let tape = Tape::create(&self.recordings, about, wanted, &dir);
                    Some(tape.map_err(io_error("cannot begin the recording of a session"))?)
                }
                None => None,
            };
            let monitor = Arc::new(monitor);
            let session = Arc::new(Session::new(
                record,
                dir.clone(),
                session::Journal::Live(reader),
                Some(monitor.clone()),
                Some(to_monitor.try_clone().map_err(&exhausted)?),
                State::Assembling,
                self.counts.clone(),
            ));
            session.hold(holding);
            self.registry.open_session(session.clone());
            self.catch_up(&session).map_err(io_error("cannot write the record of a session"))?;
            known(&session)?;
            let run = RunFds {
                journal: memory.as_fd(),
                to_agent: to_agent.as_fd(),
                to_monitor: to_monitor.as_fd(),
                listener: listener.as_fd(),
                directory: directory.as_fd(),
            };
            monitor
                .run(plan, &run, &fds)
                .map_err(io_error("cannot hand the plan to the monitor"))?;
            if let Some(tape) = tape {
                session.record_on(tape);
            }
            Ok(Opened { session, monitor, to_agent })
        })();
        if result.is_err() {
            self.registry.close_session(&id);
            store::remove(&dir);
            if wanted.is_some() {
                self.recordings.remove(&id);
            }
        }
        result
    }
}
