//! A container: what it was made from, where it stands, and its record on disk.

use std::{
    fs::Permissions,
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use conti_runtime::{
    beneath::{self, Blocked, Dir},
    own,
    plan::Step,
    protocol::ProcessId,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{
    bounds,
    cgroup::Cgroup,
    error::{Error, Result},
    holdings::Holding,
    id_ranges::IdRange,
    info::{ContainerInfo, ContainerState, SessionEnd},
    io_error,
    monitor::Monitor,
    opened::Opened,
    requests::Request,
    session::{Session, State, store::ContainerRef},
    spec::ContainerSpec,
    store::{self, Durability},
};

/// For how long the end of a container is waited for, where a process in it has gone already.
const A_MOMENT: Duration = Duration::from_millis(500);
/// The file of a container's record, in its directory.
pub const RECORD: &str = "container.json";

/// The same once its removal has begun: there is no container any more, only what is left of it.
const REMOVED: &str = "removed.json";

/// The bit in the mode of a container's directory that says that nobody was told of the container yet. It has no other
/// meaning where root alone can write.
const UNTOLD: u32 = 0o1000;

/// The version of records. One that is newer is not touched.
const VERSION: u32 = 1;

/// A container.
#[derive(Debug)]
pub struct Container {
    /// 32 hexadecimal digits.
    pub id: String,
    /// What it was made from, with name and host name filled in.
    pub spec: ContainerSpec,
    /// The ids of those whose namespaces it joins, and of those that these had joined, there or gone.
    pub joined: Vec<String>,
    /// When it was created.
    pub create_time: SystemTime,
    /// Its directory: record and private layers.
    pub dir: PathBuf,
    /// The id of the request that made it, among those of all clients.
    pub request_id: Option<String>,
    /// The digest of that request.
    pub request_digest: Option<String>,
    /// Whether it stands in for one whose record cannot be read.
    pub unknown: bool,
    /// Held while it is started, stopped or deleted: one at a time.
    turn: tokio::sync::Mutex<()>,
    /// Told when the main process has ended, before anything is cleaned up.
    pub ended: tokio::sync::Notify,
    /// What changes.
    now: Mutex<Now>,
}

/// The pid namespace that a container is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PidNamespace {
    /// None: nothing of it runs.
    #[default]
    None,
    /// That which was made for this container, or that of the [`HOST`]. The container may be gone: those that have
    /// joined it stay in the namespace, as do those that have joined them.
    Of(String),
    /// It runs, and this is not known.
    Unknown,
}

/// What stands for the host in [`PidNamespace::Of`]: no container is called so.
pub const HOST: &str = "host";

/// What changes in a container's life.
#[derive(Debug, Default)]
pub struct Now {
    /// The main session: the present one, or the last.
    pub session: Option<Arc<Session>>,
    /// Its id, also where the session itself is not known any more.
    pub session_id: String,
    /// When the main process was last started.
    pub start_time: Option<SystemTime>,
    /// How it last ended.
    pub end: Option<SessionEnd>,
    /// The cgroups, while there is a main process.
    pub cgroup: Option<Arc<Cgroup>>,
    /// A monitor that waits for the next exec.
    pub spare: Option<Monitor>,
    /// The root of its devpts instance, for the terminals of execs.
    pub devpts: Option<Arc<OwnedFd>>,
    /// What was done otherwise than asked.
    pub warnings: Vec<String>,
    /// Where on the host that lay which it was started from. `None`: it is not known.
    pub opened: Option<Opened>,
    /// The pid namespace that it is in: from before its process begins until nothing of it is left.
    pub pid_namespace: PidNamespace,
    /// The ids of its user namespace, where the agent chose them.
    pub id_range: Option<IdRange>,
    /// What it makes the agent hold.
    pub holding: Option<Holding>,
    /// Why it can only be deleted.
    pub quarantined: Option<String>,
    /// A monitor that has not said where it stands, while it is waited for.
    pub silent: Option<ProcessId>,
    /// Whether it is being deleted.
    pub deleted: bool,
    /// What its removal has left, and why. It can only be deleted, again.
    pub left: Option<String>,
}

/// The record of a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The boot in which `session_id` and `cgroup` mean something.
    pub boot_id: String,
    /// Its id.
    pub id: String,
    /// What it was made from.
    pub spec: ContainerSpec,
    /// As [`Container::joined`]. An older agent wrote none.
    #[serde(default)]
    pub joined: Vec<String>,
    /// When it was created.
    pub create_time: SystemTime,
    /// When its main process was last started.
    pub start_time: Option<SystemTime>,
    /// How it last ended. `None` while it is created or running.
    pub end: Option<SessionEnd>,
    /// The main session.
    pub session_id: String,
    /// The name of its cgroups.
    pub cgroup: Option<String>,
    /// What was done otherwise than asked.
    pub warnings: Vec<String>,
    /// Where on the host that lay which it was started from. `None`: it is not known.
    #[serde(default)]
    pub opened: Option<Opened>,
    /// As [`PidNamespace::Of`].
    #[serde(default)]
    pub pid_namespace: Option<String>,
    /// The id of the request that made it, among those of all clients.
    pub request_id: Option<String>,
    /// The digest of that request.
    #[serde(default)]
    pub request_digest: Option<String>,
}

impl Now {
    fn state(&self) -> ContainerState {
        if self.quarantined.is_some() || self.left.is_some() {
            return ContainerState::Quarantined;
        }
        // Told by `end`, and not by the session, so that a restart is seen at once.
        match (&self.session, &self.end) {
            (_, Some(_)) => ContainerState::Stopped,
            // It is being set up for the first time.
            (None, None) => ContainerState::Created,
            (Some(session), None) => match session.state() {
                State::Assembling | State::Created(_) => ContainerState::Created,
                State::Running(_) => ContainerState::Running,
                State::Ended(..) => ContainerState::Stopped,
            },
        }
    }

    fn process(&self) -> Option<ProcessId> {
        match self.session.as_ref()?.state() {
            State::Created(process) | State::Running(process) => Some(process),
            _ => None,
        }
    }
}

impl Container {
    /// A container that has nothing yet.
    pub fn new(
        id: String,
        spec: ContainerSpec,
        containers: &Path,
        request: Option<&Request>,
    ) -> Container {
        Container {
            dir: containers.join(&id),
            id,
            joined: spec.joins().cloned().collect(),
            spec,
            create_time: SystemTime::now(),
            request_id: request.map(|request| request.key.clone()),
            request_digest: request.map(|request| request.digest.clone()),
            unknown: false,
            turn: tokio::sync::Mutex::default(),
            ended: tokio::sync::Notify::new(),
            // Nothing so far, which is known.
            now: Mutex::new(Now { opened: Some(Opened::default()), ..Now::default() }),
        }
    }

    /// A container as its record tells of it.
    pub fn from_record(record: Record, containers: &Path) -> Container {
        let joined = match record.joined.is_empty() {
            true => record.spec.joins().cloned().collect(),
            false => record.joined,
        };
        Container {
            dir: containers.join(&record.id),
            id: record.id,
            spec: record.spec,
            joined,
            create_time: record.create_time,
            request_id: record.request_id,
            request_digest: record.request_digest,
            unknown: false,
            turn: tokio::sync::Mutex::default(),
            ended: tokio::sync::Notify::new(),
            now: Mutex::new(Now {
                session_id: record.session_id,
                start_time: record.start_time,
                end: record.end,
                warnings: record.warnings,
                opened: record.opened,
                ..Now::default()
            }),
        }
    }

    /// What changes; held for short sections only.
    pub fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until nobody else starts or deletes it.
    pub async fn take_turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        let turn = tokio::time::timeout(bounds::TURN, self.turn.lock()).await;
        turn.map_err(|_| Error::Exhausted {
            what: format!(
                "another call has been starting or deleting container {} for {}; try again when it has ended",
                self.spec.name,
                humantime::format_duration(bounds::TURN)
            ),
            errno: libc::EBUSY,
        })
    }

    /// What was done to it, for those who wait for its end.
    pub fn killed(&self) -> String {
        format!("all processes of container {} were killed", self.spec.name)
    }

    /// The error for a container whose monitor has not said where it stands since the agent was started.
    pub fn silent_monitor(&self) -> Option<Error> {
        let monitor = self.now().silent?;
        let tried =
            format!("the monitor of container {} was asked where it stands", self.spec.name);
        let hint = "let it go on (kill -CONT), or remove the container with force";
        Some(bounds::stuck(tried, "it".into(), monitor.pid, hint))
    }

    /// The error for a container that is frozen, where it is: nothing in it gets anywhere.
    pub fn check_thawed(&self) -> Result<()> {
        let cgroup = self.now().cgroup.clone();
        match cgroup.and_then(|cgroup| cgroup.frozen()) {
            None => Ok(()),
            Some(file) => Err(Error::Frozen {
                target: format!("container {}", self.spec.name),
                file: file.to_string_lossy().into_owned(),
                problem: "a command in it would not begin",
            }),
        }
    }

    /// Reads a record.
    pub fn read_record(dir: &Path) -> io::Result<Record> {
        Container::read_as(dir, RECORD)
    }

    /// Reads the record of a container whose removal has begun.
    pub fn read_removed(dir: &Path) -> io::Result<Record> {
        Container::read_as(dir, REMOVED)
    }

    /// Makes the directory of a container, marked until [`Container::tell`] as that of one which nobody was told of.
    pub fn make_dir(&self) -> io::Result<()> {
        own::make_dir(&self.dir, UNTOLD | 0o700)
    }

    /// Takes the mark away. It does not matter where there is a record.
    pub fn tell(&self) {
        let told = Permissions::from_mode(0o700);
        if let Err(error) = own::set_permissions(&self.dir, told) {
            tracing::warn!(container = self.id, %error, "its directory stays marked as unfinished");
        }
    }

    /// Whether nobody was told of the container of a directory without a record, or nothing is left of one. What lies
    /// below something that somebody has mounted there is not seen.
    pub fn is_untold(dir: &Path) -> bool {
        if own::is_mount_point(dir) {
            return false;
        }
        let is_marked = own::symlink_metadata(dir).is_ok_and(|found| found.mode() & UNTOLD != 0);
        is_marked || own::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Whether the removal of a container has begun.
    pub fn is_being_removed(dir: &Path) -> bool {
        own::symlink_metadata(dir.join(REMOVED)).is_ok()
    }

    fn read_as(dir: &Path, name: &str) -> io::Result<Record> {
        let record: Record = store::read(&dir.join(name))?;
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if record.version > VERSION {
            return Err(wrong(format!(
                "the record has version {}, this agent knows {VERSION}",
                record.version
            )));
        }
        if dir.file_name().is_none_or(|name| name != record.id.as_str()) {
            return Err(wrong(format!("the record is that of container {:?}", record.id)));
        }
        Ok(record)
    }

    /// Writes the record. One that removes itself is not flushed: after a crash of the host it would only
    /// be deleted.
    pub fn save(&self, boot_id: &str) -> Result<()> {
        {
            let now = self.now();
            // A record that could not be read is not written over: there is nothing to be put in its place.
            if now.left.is_some() || now.quarantined.is_some() {
                return Ok(());
            }
        }
        let record = {
            let now = self.now();
            Record {
                version: VERSION,
                boot_id: boot_id.to_owned(),
                id: self.id.clone(),
                spec: self.spec.clone(),
                joined: self.joined.clone(),
                create_time: self.create_time,
                start_time: now.start_time,
                end: now.end.clone(),
                session_id: now.session_id.clone(),
                cgroup: now.cgroup.as_ref().map(|cgroup| cgroup.name.clone()),
                warnings: now.warnings.clone(),
                opened: now.opened.clone(),
                pid_namespace: match &now.pid_namespace {
                    PidNamespace::Of(container) => Some(container.clone()),
                    PidNamespace::None | PidNamespace::Unknown => None,
                },
                request_id: self.request_id.clone(),
                request_digest: self.request_digest.clone(),
            }
        };
        let durability = if self.spec.auto_remove { Durability::Boot } else { Durability::Durable };
        store::write(&self.dir, RECORD, &record, durability).map_err(|error| Error::Exhausted {
            what: format!(
                "cannot write the record of container {} in {}",
                self.id,
                self.dir.display()
            ),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }

    /// Removes the directory of a container, which may hold anything that it has written. Where something
    /// is in the way, or the agent ends meanwhile, the record is still there, as one that only waits
    /// to be removed.
    pub fn remove_dir(dir: &Path) -> std::result::Result<(), Blocked> {
        Container::remove_content(dir)?;
        // The record last.
        beneath::remove(dir)
    }

    /// As [`Container::remove_dir`], but for the directory itself, which tells that the removal has begun.
    pub fn remove_content(dir: &Path) -> std::result::Result<(), Blocked> {
        if own::is_mount_point(dir) {
            return Err(Blocked { tried: "remove", path: dir.to_owned(), errno: Errno::BUSY });
        }
        let open = match Dir::open(dir) {
            Err(Blocked { errno: Errno::NOENT, .. }) => return Ok(()),
            other => other?,
        };
        match open.rename(RECORD, &open, REMOVED) {
            Err(Blocked { errno: Errno::NOENT, .. }) => {}
            other => other?,
        }
        open.remove("layers")?;
        open.remove("etc")
    }

    /// Keeps it for another try to remove it.
    pub fn leave(&self, blocked: &Blocked) {
        let mut now = self.now();
        now.deleted = false;
        now.left = Some(format!(
            "it is not removed completely: {blocked}; clear that away and delete it again"
        ));
    }

    /// Where it is in its life.
    pub fn state(&self) -> ContainerState {
        self.now().state()
    }

    /// One of its processes that lives, though all were killed: the kernel holds it. Not its main process while that
    /// only waits for others of its pid namespace, as long as a monitor that is stopped does not reap them.
    pub fn undying(&self) -> Result<Option<i32>> {
        let main = self.process().map(|main| main.pid);
        let Some(cgroup) = self.now().cgroup.clone() else { return Ok(None) };
        let pids =
            cgroup.processes().map_err(io_error("cannot list the processes of a container"))?;
        let pids = pids.into_iter().map(|pid| pid.as_raw_pid());
        let mut all = pids.filter_map(|pid| Some((pid, bounds::State::read(pid)?)));
        let found = all.find(|(pid, state)| match main == Some(*pid) {
            true => state.is_held(),
            false => !state.is_over(),
        });
        Ok(found.map(|(pid, _)| pid))
    }

    /// Whether something of it may run in cgroups that are not known.
    pub fn may_run_anywhere(&self) -> bool {
        let now = self.now();
        now.quarantined.is_some() && now.cgroup.is_none() && now.end.is_none()
    }

    /// The error for one that runs, or may, where it must not. What is not known of a container whose record or monitor
    /// tells nothing is not that nothing runs.
    pub fn check_idle(&self, action: &'static str, wanted: &'static str) -> Result<()> {
        let state = self.state();
        let runs = match state {
            ContainerState::Created | ContainerState::Stopped => false,
            ContainerState::Running => true,
            ContainerState::Quarantined => {
                let now = self.now();
                match (&now.session, &now.end, &now.cgroup) {
                    (_, Some(_), _) => false,
                    (Some(session), None, _) => {
                        !matches!(session.state(), State::Created(_) | State::Ended(..))
                    }
                    (None, None, Some(cgroup)) => !cgroup.is_empty(),
                    (None, None, None) => now.left.is_none(),
                }
            }
        };
        match runs {
            true => {
                let wrong_state = || self.wrong_state(state, action, wanted);
                Err(self.silent_monitor().unwrap_or_else(wrong_state))
            }
            false => Ok(()),
        }
    }

    /// Its main process, where there is one.
    pub fn process(&self) -> Option<ProcessId> {
        self.now().process()
    }

    /// Its main process, which must run for `action`.
    pub fn running_process(&self, action: &'static str) -> Result<ProcessId> {
        match (self.state(), self.process()) {
            (ContainerState::Running, Some(process)) => Ok(process),
            (state, _) => Err(self.wrong_state(state, action, "running")),
        }
    }

    /// Refuses to go on with what was begun when `process` was its main process: what it may show was judged then.
    pub fn check_run(&self, process: ProcessId, action: &'static str) -> Result<()> {
        if self.running_process(action)? == process {
            return Ok(());
        }
        Err(Error::WrongState {
            container: self.spec.name.clone(),
            action,
            state: "running",
            because: Some("it was started again meanwhile".to_owned()),
            wanted: "as it was when this was begun",
        })
    }

    /// Waits for its end, where a process in it has gone already: whether it came.
    pub async fn ends_soon(&self) -> bool {
        let end = async {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Registered before it is looked at: what comes later is told.
            ended.as_mut().enable();
            if self.now().end.is_none() {
                ended.await;
            }
        };
        tokio::time::timeout(A_MOMENT, end).await.is_ok()
    }

    /// Why `action` failed: that it has ended, where that was in the way. Its processes may have gone, or its pid
    /// namespace takes no more (ENOMEM, clone(2)).
    pub async fn explain_gone(&self, action: &'static str, error: Error) -> Error {
        let at_its_end = match &error {
            Error::TargetGone { .. } => true,
            Error::Setup(failure) => {
                matches!(failure.step, Step::Clone | Step::JoinNamespace | Step::Init)
            }
            _ => false,
        };
        if !at_its_end {
            return error;
        }
        self.ends_soon().await;
        match (self.running_process(action), error) {
            (Err(ended), _) => ended,
            // Others of its processes keep it from its end, as one whose tracer does not wait for it.
            (Ok(main), Error::TargetGone { pid, .. }) if pid == main.pid => Error::WrongState {
                container: self.spec.name.clone(),
                action,
                state: "ending",
                because: None,
                wanted: "running",
            },
            (Ok(_), error) => error,
        }
    }

    /// An error that says that it must be in another state than the one in which it was found. It may have come to
    /// another meanwhile.
    pub fn wrong_state(
        &self,
        found: ContainerState,
        action: &'static str,
        wanted: &'static str,
    ) -> Error {
        let now = self.now();
        let problem = now.quarantined.as_ref().or(now.left.as_ref());
        Error::WrongState {
            container: self.spec.name.clone(),
            action,
            state: if now.deleted { "being removed" } else { found.as_str() },
            because: problem.filter(|_| found == ContainerState::Quarantined).cloned(),
            wanted,
        }
    }

    /// The name of its cgroups, where it has any.
    pub fn cgroup_name(&self) -> Option<String> {
        self.now().cgroup.as_ref().map(|cgroup| cgroup.name.clone())
    }

    /// Its id and name.
    pub fn reference(&self) -> ContainerRef {
        ContainerRef { id: self.id.clone(), name: self.spec.name.clone() }
    }

    /// What is known of it.
    pub fn info(&self) -> ContainerInfo {
        let now = self.now();
        let state = now.state();
        // The session of its main process is told of the end when all is cleaned up.
        let process = now.process().filter(|_| state != ContainerState::Stopped);
        let mut warnings = now.warnings.clone();
        warnings.extend(now.quarantined.clone().into_iter().chain(now.left.clone()));
        ContainerInfo {
            id: self.id.clone(),
            spec: (!self.unknown).then(|| self.spec.clone()),
            state,
            create_time: (!self.unknown).then_some(self.create_time),
            start_time: now.start_time,
            end_time: now.end.as_ref().map(|end| end.time),
            end: now.end.clone(),
            pid: process.map_or(0, |process| process.pid),
            pid_start_ticks: process.map_or(0, |process| process.start_ticks),
            session_id: now.session_id.clone(),
            cgroup: now.cgroup.as_ref().map(|cgroup| cgroup.name.clone()).unwrap_or_default(),
            warnings,
        }
    }
}
