//! Sessions in what exists: a container, or the namespaces of any process of the host.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};

use conti_runtime::{
    host,
    inspect::status::Status,
    plan::{HostPlan, IdMap, Identity, JoinPlan, NsType, Place, Process, ToolKind, ToolsRoot},
};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use tracing::{Instrument as _, debug_span};

use super::{
    Engine, assemble,
    begin::shorten_deadline,
    bounds::{self, blocking},
    carry,
    container::Container,
    error::{Error, Result},
    fault, id,
    info::ContainerState,
    io_error,
    joining::Joining,
    monitor::Monitor,
    process::{self, Pinned},
    requests::{Answer, Request, What},
    session::{
        Session, State, Waiting,
        store::Record,
        supervise::{self, Outcome},
    },
    sources::{self, FdList},
    spec::{ProcessTarget, SessionSpec, SessionTarget, Target, Tools, UnshareTarget},
};

/// The environment of tools, beside PATH and TERM.
const TOOLS_ENV: [&str; 2] = ["HOME=/root", "LANG=C.UTF-8"];

/// A session that is ready to be handed to its monitor.
struct Prepared {
    place: Place,
    process: Process,
    fds: FdList,
    monitor: Monitor,
    /// The unified cgroup that it is born in.
    cgroup: Option<OwnedFd>,
    devpts: OwnedFd,
    container: Option<Arc<Container>>,
}

/// What was seen of a process that is to be entered.
struct Looked {
    plan: JoinPlan,
    process: Process,
    fds: FdList,
    /// The unified cgroup that it is born in, or the `cgroup.procs` files for a forker.
    cgroup: Option<OwnedFd>,
    procs: Vec<OwnedFd>,
}

impl Prepared {
    /// Takes the terminal of a command that has more rights than its container out of the container: whoever may open
    /// the terminals in there would read what is typed, and write to who looks at it.
    fn guard_terminal(&mut self) -> Result<()> {
        let (Some(container), Place::Join(join)) = (&self.container, &mut self.place) else {
            return Ok(());
        };
        if !self.process.confinement.exceeds(container.spec.process.confinement) {
            return Ok(());
        }
        self.devpts = assemble::devpts(&join.uid_maps, &join.gid_maps)?;
        if let Some(tools) = &mut join.tools {
            let shown = self.devpts.try_clone();
            let shown = shown.map_err(io_error("cannot duplicate a file descriptor"))?;
            tools.terminals = Some(self.fds.add(shown));
        }
        Ok(())
    }
}

impl Engine {
    /// Starts a session that is to be driven, once for each request id.
    pub async fn start_session(
        self: &Arc<Self>,
        spec: SessionSpec,
        request: Option<Request>,
        streamed: bool,
    ) -> Result<Answer<Arc<Session>>> {
        let (engine, since) = (self.clone(), Instant::now());
        let (answer, answered) = tokio::sync::oneshot::channel();
        let start = async move {
            // One that ends at once may be forgotten by now: it is still what this request started.
            let mut own = None;
            let start = async {
                let started =
                    engine.start_now_in(spec, request.as_ref(), (streamed, since)).await?;
                let id = started.id.clone();
                own = Some(started);
                Result::Ok(id)
            };
            let answered = engine.once(request.as_ref(), What::Session, start).await;
            if let (Ok(Answer { repeated: false, .. }), Some(session)) = (&answered, &own) {
                carry::tell(|witness| witness.started(session));
            }
            carry::ended(&answered);
            fault::point("enter.started").await;
            let result = answered.and_then(|Answer { made, repeated }| {
                let made = own.map_or_else(|| engine.registry.session(&made), Ok)?;
                Ok(Answer { made, repeated })
            });
            if let Err(Ok(Answer { made: session, repeated: false })) = answer.send(result)
                && streamed
            {
                // Its client went away before it had it.
                drop(session.drive(None, Waiting::default()));
            }
        };
        carry::to_its_end(start);
        answered.await.unwrap_or(Err(Error::Stopping))
    }

    async fn start_now_in(
        self: &Arc<Self>,
        spec: SessionSpec,
        request: Option<&Request>,
        (streamed, since): (bool, Instant),
    ) -> Result<Arc<Session>> {
        let target = spec.target.clone();
        match self.start_prepared(spec, request, (streamed, since)).await {
            Err(error) => Err(self.ended_meanwhile(&target, error).await),
            started => started,
        }
    }

    async fn start_prepared(
        self: &Arc<Self>,
        spec: SessionSpec,
        request: Option<&Request>,
        (streamed, since): (bool, Instant),
    ) -> Result<Arc<Session>> {
        let _until_it_is_started = self.hold_command(&spec)?;
        let prepare = async {
            match &spec.target {
                SessionTarget::Container(id) => self.in_container(id, &spec).await,
                SessionTarget::Process(target) => self.in_process(target, &spec).await,
                SessionTarget::Unshare(target) => self.on_host(target, &spec).await,
                SessionTarget::Debug(target, tools) => self.with_tools(target, tools, &spec).await,
            }
        };
        let prepared = prepare.instrument(debug_span!("plan")).await;
        let mut prepared = prepared.inspect_err(|error| self.counts.source_failed(error))?;
        if spec.io.terminal.is_some() {
            prepared.guard_terminal()?;
        }
        let Prepared { place, mut process, mut fds, monitor, cgroup, devpts, container } = prepared;
        process::complete(&mut process, &spec.io);
        let confinement = Some((process.confinement, process.oom_score_adj));
        let session_id = id::new();
        let devpts = fds.add(devpts);
        let mut plan = assemble::plan(&session_id, place, process, &spec.io, devpts, false);
        plan.cgroup = cgroup.map(|fd| fds.add(fd));
        shorten_deadline(&mut plan, since);
        let host_tools = matches!(spec.target, SessionTarget::Debug(_, Tools::Dir(_)));
        let known = container.as_ref().filter(|_| !host_tools);
        let record = Record {
            id: session_id,
            container: container.as_ref().map(|container| container.reference()),
            labels: container.as_ref().map(|c| c.spec.labels.clone()).unwrap_or_default(),
            maker: spec.maker.clone(),
            main: false,
            confinement,
            surroundings: known.and_then(|container| self.surroundings(container)),
            host_tools,
            argv: spec.process.argv.clone(),
            io: spec.io.clone(),
            start_time: SystemTime::now(),
            request_id: request.map(|request| request.key.clone()),
            request_digest: request.map(|request| request.digest.clone()),
            streamed,
            monitor: None,
            cgroup: container.as_ref().and_then(|container| container.cgroup_name()),
            unknown: false,
        };
        let opened = debug_span!("clone")
            .in_scope(|| self.open_session(record, monitor, &plan, fds.into_inner(), |_| Ok(())))?;
        let session = opened.session.clone();
        self.registry.add_session(session.clone());
        let engine = self.clone();
        let of = container.clone();
        let followed = session.clone();
        tokio::spawn(async move {
            let outcome = supervise::follow(&followed, &opened.monitor, opened.to_agent).await;
            drop(opened.monitor);
            engine.exec_ended(of.as_ref(), &followed, outcome).await;
        });
        if let Some(container) = &container {
            self.refill_spare(container);
        }
        let held = || container.as_ref().map_or(Ok(()), |container| container.check_thawed());
        let started = session.set_up(session.started(), &self.cgroups, held);
        match started.instrument(debug_span!("ready")).await? {
            State::Ended(_, Some(failure)) => {
                self.registry.remove_session(&session.id);
                super::session::store::remove(&session.dir);
                // Where the container ended meanwhile, that is the reason, and not the step that met it.
                match &container {
                    Some(container) if container.process().is_none() => Err(container.wrong_state(
                        ContainerState::Stopped,
                        "run a command in",
                        "running",
                    )),
                    Some(container) => Err(self.explained(failure, &container.spec).await),
                    None => Err(Error::Setup(failure)),
                }
            }
            _ => Ok(session),
        }
    }

    /// Why a command cannot be run in a container that has ended meanwhile: that, whatever step has met it.
    async fn ended_meanwhile(&self, target: &SessionTarget, error: Error) -> Error {
        let (SessionTarget::Container(id) | SessionTarget::Debug(Target::Container(id), _)) =
            target
        else {
            return error;
        };
        let container = match self.registry.container(id) {
            Ok(container) => container,
            Err(gone) => return gone,
        };
        let error = container.explain_gone("run a command in", error).await;
        let runs = container.running_process("run a command in");
        runs.err().unwrap_or(error)
    }

    /// Tells the end of a session that is no main session.
    pub(super) async fn exec_ended(
        self: &Arc<Self>,
        container: Option<&Arc<Container>>,
        session: &Arc<Session>,
        mut outcome: Outcome,
    ) {
        use super::info::EndReason;

        let killed = matches!(outcome.end.reason, EndReason::Signal { number: libc::SIGKILL, .. });
        if let (Some(container), true) = (container, killed) {
            // The kernel kills what is in a pid namespace just before its init is reaped: that end
            // arrives a moment later.
            if container.ends_soon().await {
                outcome.end.reason = EndReason::ContainerGone;
            } else if container.now().cgroup.as_ref().is_some_and(|cgroup| cgroup.take_oom_kill()) {
                outcome.end.reason = EndReason::OutOfMemory;
            }
        }
        if let (EndReason::Lost(_), State::Running(process) | State::Created(process)) =
            (&outcome.end.reason, session.state())
        {
            // Nobody reads what it writes any more, and nobody would ever end it.
            process::kill(process);
        }
        supervise::finish(session, outcome);
        self.registry.keep_ended(session);
    }

    async fn in_container(self: &Arc<Self>, id: &str, spec: &SessionSpec) -> Result<Prepared> {
        let container = self.registry.container(id)?;
        let main = container.running_process("run a command in")?;
        container.check_thawed()?;
        let pinned = Pinned::open(main.pid, Some(main.start_ticks))?;
        let mut fds = FdList::default();
        let plan = Joining::look(pinned, &self.own_namespaces, &NsType::ALL)?.settle(&mut fds)?;
        fault::point("enter.looked").await;
        let (spare, cgroup, devpts) = {
            let mut now = container.now();
            (now.spare.take(), now.cgroup.clone(), now.devpts.clone())
        };
        let born_in = match &cgroup {
            Some(cgroup) => {
                cgroup.birth_fd().map_err(io_error("cannot open the container's cgroup"))?
            }
            None => None,
        };
        // One that somebody has stopped or killed would keep the command from running.
        let spare = match spare {
            Some(spare) if !spare.is_able(&self.cgroups) => {
                spare.discard();
                None
            }
            spare => spare,
        };
        let monitor = match spare {
            Some(monitor) => monitor,
            None => {
                let made = self.slots.monitor_in(cgroup.as_deref()).await;
                // Where it was frozen meanwhile, that is the reason.
                made.or_else(|error| container.check_thawed().and(Err(error)))?
            }
        };
        let devpts = match devpts {
            Some(devpts) => devpts.try_clone(),
            None => self.host_devpts.try_clone(),
        };
        let mut process = spec.process.inside(&container.spec.process);
        self.withhold(&mut process);
        Ok(Prepared {
            place: Place::Join(plan),
            process,
            fds,
            monitor,
            cgroup: born_in,
            devpts: devpts.map_err(io_error("cannot duplicate a file descriptor"))?,
            container: Some(container),
        })
    }

    /// Takes from a command in a container what nothing else withholds there.
    fn withhold(&self, process: &mut Process) {
        if !self.cgroups.enforces_devices() {
            process::withhold_mknod(process);
        }
    }

    async fn in_process(
        self: &Arc<Self>,
        target: &ProcessTarget,
        spec: &SessionSpec,
    ) -> Result<Prepared> {
        let (engine, of, process) = (self.clone(), target.clone(), spec.process.clone().alone());
        // Its environment lies in its memory, and one that is stuck in the kernel may have that locked.
        let looked = blocking(bounds::PROCESS, "cannot look at the process", move || {
            engine.look_at(&of, process)
        });
        let Looked { plan, process, fds, cgroup, procs } = looked.await??;
        fault::point("enter.looked").await;
        let monitor = self.slots.monitor_with(procs).await?;
        let devpts =
            self.host_devpts.try_clone().map_err(io_error("cannot duplicate a file descriptor"))?;
        let place = Place::Join(plan);
        Ok(Prepared { place, process, fds, monitor, cgroup, devpts, container: None })
    }

    /// Looks at a process that is to be entered by another, as `process` says.
    fn look_at(&self, target: &ProcessTarget, mut process: Process) -> Result<Looked> {
        let pid = target.pid;
        let pinned = Pinned::open(pid, target.start_ticks)?;
        let at = |error| process::gone(pid, &error);
        let mut fds = FdList::default();
        let joining = Joining::look(pinned, &self.own_namespaces, &target.namespaces)?;
        conti_runtime::fault::point("enter.looking");
        let is_beside = joining.is_beside(|pid_namespace| {
            let mains = self.registry.containers().into_iter().filter_map(|one| one.process());
            let mut all = mains.map(|main| process::pid_namespace(main.pid));
            all.any(|of| of == Some(pid_namespace))
        });
        if is_beside {
            joining.check_reach()?;
            if !target.cgroup {
                // Nothing enforces the container's device policy outside of its cgroups.
                process::withhold_mknod(&mut process);
            }
        }
        if target.root {
            joining.check_root()?;
        }
        let host_mount_ns = match joining.takes(NsType::Mount) {
            true => None,
            false => {
                let own = self.host_mount_ns.try_clone();
                Some(fds.add(own.map_err(io_error("cannot duplicate a file descriptor"))?))
            }
        };
        let root = target.root.then(|| open_dir(pid, "root")).transpose()?.map(|fd| fds.add(fd));
        let cwd = target.cwd.then(|| open_dir(pid, "cwd")).transpose()?.map(|fd| fds.add(fd));
        if target.env {
            process::lay_over(&mut process, &environment(pid).map_err(at)?);
        }
        if target.user || target.groups {
            process.identity = identity(target, joining.maps()).map_err(at)?;
        }
        if target.cgroup
            && let Some(file) = self.cgroups.frozen_process(pid).map_err(at)?
        {
            let file = file.to_string_lossy().into_owned();
            let target = format!("the cgroup of process {pid}");
            let problem = "a command in it would not begin";
            return Err(Error::Frozen { target, file, problem });
        }
        let (cgroup, procs) = match target.cgroup {
            true => self.cgroups.of_process(pid).map_err(at)?,
            false => (None, Vec::new()),
        };
        // All of the above was read of this very process, and while it was in these namespaces.
        let plan = JoinPlan { host_mount_ns, root, cwd, ..joining.settle(&mut fds)? };
        Ok(Looked { plan, process, fds, cgroup, procs })
    }

    /// As [`Engine::in_container`] and [`Engine::in_process`], with tools on top.
    async fn with_tools(
        self: &Arc<Self>,
        target: &Target,
        tools: &Tools,
        spec: &SessionSpec,
    ) -> Result<Prepared> {
        let whole = |pid, start_ticks| ProcessTarget {
            pid,
            start_ticks,
            namespaces: NsType::ALL.to_vec(),
            cgroup: false,
            root: false,
            cwd: false,
            env: false,
            user: false,
            groups: false,
        };
        let mut prepared = match target {
            Target::Container(id) => self.in_container(id, spec).await?,
            Target::Process { pid, start_ticks } => {
                self.in_process(&whole(*pid, *start_ticks), spec).await?
            }
            Target::Host => {
                let own = Pinned::open(std::process::id() as i32, None)?.id();
                self.in_process(&whole(own.pid, Some(own.start_ticks)), spec).await?
            }
        };
        if let Some(container) = &prepared.container {
            prepared.process = spec.process.beside(&container.spec.process);
            self.withhold(&mut prepared.process);
        }
        prepared.process.env =
            process::overlay_env(&TOOLS_ENV.map(str::to_owned), &spec.process.env);
        let (tools, mut fds) = (tools.clone(), std::mem::take(&mut prepared.fds));
        let engine = self.clone();
        let opened = bounds::foreign(bounds::SOURCES, "cannot open the tools", move || {
            sources::tools::prepare(&tools, &engine.view, &mut fds).map(|tools| (tools, fds))
        });
        let (entries, mut fds) = opened.await??;
        if let Place::Join(join) = &mut prepared.place {
            if join.takes(NsType::User) {
                let mounts = entries.iter().filter_map(|tool| match tool.kind {
                    ToolKind::Mount { fd, .. } => Some(fd),
                    ToolKind::Link(_) => None,
                });
                self.lock_in(&mut fds, &mounts.collect::<Vec<_>>()).await?;
            }
            let joined = join.namespaces.iter().find(|joined| joined.kind == NsType::Mount);
            let mounts = joined.and_then(|joined| fstat(fds.get(joined.fd)?).ok());
            let host = fstat(&self.host_mount_ns).ok();
            let host_mounts = mounts.zip(host).is_some_and(|(own, host)| own.st_ino == host.st_ino);
            let around = self.container_with(mounts.map_or(0, |own| own.st_ino), target)?.0;
            let around = around.map(|id| self.registry.container(&id)).transpose()?;
            let (masked_paths, read_only_paths) =
                around.map(|container| assemble::covers(&container.spec)).unwrap_or_default();
            join.tools = Some(ToolsRoot {
                entries,
                host_mounts,
                masked_paths,
                read_only_paths,
                terminals: None,
            });
        }
        prepared.fds = fds;
        Ok(prepared)
    }

    async fn on_host(
        self: &Arc<Self>,
        target: &UnshareTarget,
        spec: &SessionSpec,
    ) -> Result<Prepared> {
        let duplicate =
            |fd: &OwnedFd| fd.try_clone().map_err(io_error("cannot duplicate a file descriptor"));
        let mut fds = FdList::default();
        let plan = HostPlan {
            mount_ns: fds.add(duplicate(&self.host_mount_ns)?),
            new: target.namespaces.clone(),
            uid_maps: target.uid_maps.clone(),
            gid_maps: target.gid_maps.clone(),
            propagation: target.propagation,
            mount_proc: target.mount_proc,
        };
        let devpts = duplicate(&self.host_devpts)?;
        let monitor = self.slots.monitor_with(Vec::new()).await?;
        let (place, process) = (Place::Host(plan), spec.process.clone().alone());
        Ok(Prepared { place, process, fds, monitor, cgroup: None, devpts, container: None })
    }
}

fn open_dir(pid: i32, link: &str) -> Result<OwnedFd> {
    let path = PathBuf::from(format!("/proc/{pid}/{link}"));
    openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| process::gone(pid, &errno.into()))
}

/// The environment of a process, each entry ended by NUL.
fn environment(pid: i32) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    const LIMIT: u64 = 4 << 20;
    let mut bytes = Vec::new();
    match host::open(format!("/proc/{pid}/environ")) {
        Ok(file) => file.take(LIMIT).read_to_end(&mut bytes)?,
        // A thread of the kernel has none, and newer kernels say so in the words for one that is gone
        // (proc_mem_open() in fs/proc/base.c). Whether it is gone is seen when all was looked at.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => 0,
        Err(error) => return Err(error),
    };
    Ok(bytes)
}

/// What is wanted of the effective ids of a process, and root's for the rest. `maps`: of the user namespace in which
/// they are taken, if it is not the agent's own.
fn identity(
    target: &ProcessTarget,
    maps: Option<(&[IdMap], &[IdMap])>,
) -> std::io::Result<Identity> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, format!("/proc/{}", target.pid), flags, Mode::empty())?;
    let status = Status::read(&directory)?;
    let user = |id| maps.map_or(Some(id), |(users, _)| IdMap::inside(users, id));
    let group = |id| maps.map_or(Some(id), |(_, groups)| IdMap::inside(groups, id));
    let missing = || {
        std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "its ids are not mapped in its user namespace",
        )
    };
    let mut ids = (0, 0, Vec::new());
    if target.user {
        ids.0 = status.id("Uid:").and_then(user).ok_or_else(missing)?;
    }
    if target.groups {
        ids.1 = status.id("Gid:").and_then(group).ok_or_else(missing)?;
        ids.2 = status.numbers("Groups:").into_iter().filter_map(group).collect();
    }
    let (uid, gid, groups) = ids;
    Ok(Identity::Ids { uid, gid, groups })
}
