//! The engine: containers and sessions, without gRPC and without generated messages.
//!
//! Read in this order:
//!
//! - [`spec`], [`info`], [`error`]: what it is asked, what it tells, what goes wrong;
//! - [`lifecycle`]: containers from create to delete; [`container`]: one of them; [`requests`] that are repeated;
//! - [`begin`]: bringing up a main process; [`assemble`]: from a specification to a plan, with the [`sources`] of the host
//!   and the [`net_defaults`]; [`opened`]: where those lay;
//! - [`enter`]: sessions in containers and in processes of the host; [`joining`]: of which namespaces;
//! - [`session`]: streams, ends, and the task that follows a monitor; [`signals`]: what a frozen one hears;
//! - [`recording`]: sessions on disk;
//! - [`launcher`], [`monitor`], [`slots`]: the agent's side of the runtime's processes;
//! - [`cgroup`]: cgroups and device policies;
//! - [`inspect`]: questions about the host or a target, answered by inspectors: [`namespaces`],
//!   [`mounts`], [`files`], [`processes`], [`network`]; [`users`]; [`inspectors`]: how many of them there are;
//! - [`rootfs`]: root filesystems from programs of the host;
//! - [`recover`], [`left`]: what an agent that was started again finds;
//! - [`scope`]: what of it one client sees; [`capability`]: their names;
//! - [`carry`]: work that goes on when its caller has gone;
//! - [`bounds`]: how long is waited for others, and what is said where they do not answer;
//! - [`counts`]: what was done, and what there is, in numbers;
//! - [`dirs`]: the directories that all of it lies in;
//! - [`registry`], [`kept`], [`holdings`], [`store`], [`facts`], [`id`], [`name`], [`watched`], [`fault`]: what the others stand on.

pub mod assemble;
pub mod begin;
pub mod bounds;
pub mod capability;
pub mod carry;
pub mod cgroup;
pub mod container;
pub mod counts;
mod dirs;
pub mod enter;
pub mod error;
mod explain;
pub mod facts;
pub mod fault;
pub mod files;
#[cfg(test)]
mod fuzz;
mod holdings;
pub mod id;
pub mod id_ranges;
pub mod info;
pub mod inherit;
pub mod inspect;
mod inspectors;
mod joining;
mod kept;
pub mod launcher;
mod left;
pub mod lifecycle;
mod locked;
pub mod monitor;
pub mod mounts;
pub mod name;
pub mod namespaces;
mod net_defaults;
pub mod network;
pub mod opened;
mod owners;
pub mod process;
pub mod processes;
pub mod recording;
pub mod recover;
pub mod registry;
pub mod requests;
pub mod rootfs;
pub mod scope;
pub mod session;
pub mod signals;
pub mod slots;
pub mod sources;
pub mod spec;
pub mod store;
mod subordinate_ids;
pub mod surroundings;
pub mod userns;
pub mod users;
pub mod watched;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cgroup::Cgroups;
use container::Container;
use conti_runtime::{host, inspect::held_namespaces::OwnNamespaces, own};
use counts::Counts;
use error::{Error, Result};
pub use facts::Facts;
use holdings::Holdings;
use id_ranges::IdRanges;
use info::SessionEnd;
use inspectors::Inspectors;
use launcher::Launcher;
use mounts::{lock::Locks, made::MadeMounts};
use recording::Recordings;
use registry::Registry;
use requests::Requests;
use rustix::process::Rlimit;
use scope::Scope;
use session::Session;
use slots::Slots;
use sources::host_view::HostView;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::warn;
use userns::Userns;

use crate::reserve;

/// Where an engine keeps what it has.
#[derive(Debug, Clone)]
pub struct Config {
    /// Runtime state: sessions, sockets. Goes with the boot.
    pub state_dir: PathBuf,
    /// Container records and private layers.
    pub data_dir: PathBuf,
    /// Room for records that is kept on the filesystem of each directory, in bytes.
    pub reserve_bytes: u64,
    /// The program of the launcher.
    pub runtime: PathBuf,
    /// The limit of open files of what the engine starts: the agent's own may be higher.
    pub open_files: Rlimit,
    /// Whose user namespace containers get whose maker does not say.
    pub userns: userns::Default,
    /// The ids that user namespaces of containers get.
    pub userns_pool: id_ranges::Pool,
}

/// The engine of one agent.
#[derive(Debug)]
pub struct Engine {
    facts: Facts,
    counts: Arc<Counts>,
    registry: Registry,
    /// What repeated requests are answered by.
    requests: Requests,
    /// What identities make the agent hold.
    holdings: Arc<Holdings>,
    launcher: Arc<Launcher>,
    cgroups: Arc<Cgroups>,
    slots: Arc<Slots>,
    view: HostView,
    /// Whose user namespace containers get.
    userns: Userns,
    /// The ids of user namespaces.
    id_ranges: Arc<IdRanges>,
    /// Sessions of an earlier agent with the notes that were left beside them, until somebody takes them.
    noted: Mutex<Vec<(Arc<Session>, Vec<u8>)>>,
    /// What was mounted into living targets.
    made_mounts: Arc<MadeMounts>,
    /// One change of a mount namespace at a time.
    mount_locks: Locks,
    /// Who may have an inspector.
    inspectors: Inspectors,
    /// `DATA/containers`
    containers_dir: PathBuf,
    /// `STATE/sessions`
    sessions_dir: PathBuf,
    /// `DATA/recordings`
    recordings: Recordings,
    /// The agent's own mount namespace: the host's.
    host_mount_ns: OwnedFd,
    /// The namespaces that the agent is in.
    own_namespaces: OwnNamespaces,
    /// The agent's own devpts, for terminals in processes of the host.
    host_devpts: OwnedFd,
    /// What is being removed.
    background: TaskTracker,
    /// Hold the locks of both directories and of the cgroups.
    _locks: Vec<File>,
}

impl Engine {
    /// Starts an engine: takes its directories, finds what an earlier one left, and makes ready.
    pub async fn start(config: Config) -> Result<Arc<Engine>> {
        if conti_runtime::fault::is_on() {
            tracing::warn!(
                "calls are delayed at random, as {} asks for",
                conti_runtime::fault::VARIABLE
            );
        }
        // Modes that are given are meant as they are.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let counts = Arc::new(Counts::default());
        // Before anything is touched: without it, nothing can be started.
        let launcher = Arc::new(load_runtime(&config, counts.clone()).await?);
        let mut locks = dirs::take(&config.state_dir, &config.data_dir)?;
        let cgroups = Arc::new(Cgroups::detect(&name::tag(&config.state_dir)));
        for dir in cgroups.agent_dirs() {
            locks.extend(dirs::lock(dir)?);
        }
        reserve::keep(&config.state_dir, config.reserve_bytes);
        reserve::keep(&config.data_dir, config.reserve_bytes);
        let containers_dir = sub_dir(&config.data_dir, "containers")?;
        let sessions_dir = sub_dir(&config.state_dir, "sessions")?;
        let recordings = Recordings::new(sub_dir(&config.data_dir, "recordings")?);
        let mounts_dir = sub_dir(&config.state_dir, "mounts")?;
        let open = |path: &str| {
            host::open(path).map(OwnedFd::from).map_err(io_error("cannot open a part of the host"))
        };
        let id_ranges = IdRanges::new(config.userns_pool);
        let try_in = |dir: &Path| {
            let view = HostView::make(&sub_dir(dir, "host-view")?)?;
            let programs = view.programs.iter().map(|name| Path::new("/").join(name));
            let layers = [containers_dir.clone(), view.template.clone()];
            let dirs: Vec<PathBuf> = programs.chain(layers).collect();
            let userns = Userns::probe(config.userns, launcher.image(), &id_ranges, &dirs);
            Ok::<_, Error>((view, userns))
        };
        let (mut view, mut userns) = try_in(&config.state_dir)?;
        if userns.problem.is_some() {
            // The state directory is on a tmpfs mostly, which takes no id map before Linux 6.3. A data directory
            // without room for a template is no reason not to start.
            if let Ok((elsewhere, otherwise)) = try_in(&config.data_dir)
                && otherwise.problem.is_none()
            {
                (view, userns) = (elsewhere, otherwise);
            }
        }
        if let (userns::Default::Auto, Some(problem)) = (userns.wanted, &userns.problem) {
            warn!(
                problem,
                "containers get no user namespace of their own: root in them is the host's root"
            );
        }
        let boot_id = facts::boot_id().map_err(io_error("cannot read the id of this boot"))?;
        let made_mounts = MadeMounts::open(mounts_dir.clone(), &boot_id, cgroups.clone())
            .map_err(|error| unlisted(&mounts_dir, &error))?;
        let facts = Facts::gather(&config, &cgroups, &userns, (id::new(), boot_id));
        let engine = Arc::new(Engine {
            inspectors: Inspectors::default(),
            noted: Mutex::default(),
            mount_locks: Locks::new(mounts_dir),
            made_mounts: Arc::new(made_mounts),
            facts,
            counts,
            registry: Registry::default(),
            requests: Requests::default(),
            holdings: Arc::default(),
            slots: Arc::new(Slots::new(launcher.clone(), cgroups.clone())),
            launcher,
            cgroups,
            view,
            userns,
            id_ranges,
            containers_dir,
            sessions_dir,
            recordings,
            host_mount_ns: open("/proc/self/ns/mnt")?,
            own_namespaces: OwnNamespaces::look()?,
            host_devpts: open("/dev/pts")?,
            background: TaskTracker::new(),
            _locks: locks,
        });
        engine.recover().await?;
        let slots = engine.slots.clone();
        engine.background.spawn(async move { slots.keep_filled().await });
        Ok(engine)
    }

    /// Lets go of what only a running agent needs. Containers and sessions stay.
    pub async fn shutdown(&self) {
        for container in self.registry.containers() {
            container.now().spare.take();
        }
        self.background.close();
        let removals = async {
            self.slots.close().await;
            self.background.wait().await;
        };
        if timeout(bounds::LAST_REMOVALS, removals).await.is_err() {
            warn!("not all cgroups could be removed in time; the next agent removes them");
        }
        // In any case: a launcher that is stopped would not see that the agent is gone.
        self.launcher.stop().await;
        // What nobody will ask for again. Ends that nobody was told wait for the next agent.
        for session in self.registry.sessions(None) {
            let container = session.record.container.as_ref();
            let kept = container.is_some_and(|c| self.registry.container(&c.id).is_ok());
            // Of those whose record could not be read nobody knows who would ask.
            let unknown = session.record.unknown && session.ended();
            if (session.end_told() || unknown) && !kept {
                session::store::remove(&session.dir);
            }
        }
        if self.registry.containers().is_empty() {
            self.cgroups.remove_if_empty();
        }
    }

    /// What the host is.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Finds the container that a client names, by id, name or a prefix of its id, where a scope sees it. All other
    /// functions of the engine take ids.
    pub fn find(&self, scope: &Scope, key: &str) -> Result<Arc<Container>> {
        self.registry.named(scope, key)
    }

    /// Finds a container by an id that was stored, where a scope sees it.
    pub fn stored(&self, scope: &Scope, id: &str) -> Result<Arc<Container>> {
        let found = self.registry.container(id)?;
        match scope.sees(&found.spec.labels) {
            true => Ok(found),
            false => Err(Error::NoSuchContainer(id.to_owned())),
        }
    }

    /// Describes all containers that a scope sees, the oldest first.
    pub fn containers(&self, scope: &Scope) -> Vec<Arc<Container>> {
        let mut all = self.registry.containers_by_age();
        all.retain(|container| scope.sees(&container.spec.labels));
        all
    }

    /// Waits until the main process of a container has ended.
    pub async fn wait(&self, id: &str) -> Result<SessionEnd> {
        let container = self.registry.container(id)?;
        let (session, end) = {
            let now = container.now();
            (now.session.clone(), now.end.clone())
        };
        match (session, end) {
            (_, Some(end)) => Ok(end),
            (Some(session), None) => Ok(session.wait().await),
            (None, None) => {
                Err(container.wrong_state(container.state(), "wait for", "created or running"))
            }
        }
    }

    /// Finds a session.
    pub fn session(&self, id: &str) -> Result<Arc<Session>> {
        self.registry.session(id)
    }

    /// Finds the main session of a container.
    pub fn main_session(&self, id: &str) -> Result<Arc<Session>> {
        let container = self.registry.container(id)?;
        let session = container.now().session.clone();
        session.ok_or_else(|| {
            container.wrong_state(container.state(), "attach to", "created or running")
        })
    }

    /// The sessions of an earlier agent that a note was left beside ([`Session::leave_note`]), and the notes.
    /// Once only.
    pub fn take_noted(&self) -> Vec<(Arc<Session>, Vec<u8>)> {
        std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The recordings of sessions.
    pub fn recordings(&self) -> &Recordings {
        &self.recordings
    }

    /// Describes those sessions, of a container or of all, that are wanted, the oldest first.
    pub fn sessions(
        &self,
        container: Option<&str>,
        wanted: impl Fn(&Session) -> bool,
    ) -> Vec<Arc<Session>> {
        let mut all = self.registry.sessions(container);
        all.retain(|session| wanted(session));
        let place = |of: &Session| (of.record.start_time, of.id.clone());
        all.sort_by_cached_key(|session| place(session));
        all
    }
}

/// Takes the program of the launcher, if it is that of this agent.
async fn load_runtime(config: &Config, counts: Arc<Counts>) -> Result<Launcher> {
    let path = config.runtime.display();
    let tag = config.state_dir.to_string_lossy();
    let launcher = Launcher::new(&config.runtime, &tag, config.open_files, counts);
    let launcher = launcher.map_err(|error| Error::Exhausted {
        what: format!("cannot load the runtime {path}; --runtime names it"),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    })?;
    match launcher.check().await {
        Ok(()) => Ok(launcher),
        Err(problem) => Err(Error::Invalid {
            field: "--runtime".to_owned(),
            problem: format!("{path} is not the conti-runtime of this contid: {problem}"),
        }),
    }
}

/// An error of the host, with what was tried.
fn io_error(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Exhausted {
        what: what.to_owned(),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// The error for a directory of the agent's that cannot be listed: what is in it is not known then, and it must not be
/// taken for empty.
fn unlisted(dir: &Path, error: &io::Error) -> Error {
    Error::Exhausted {
        what: format!("cannot list the directory {}", dir.display()),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Makes a directory in one of the agent's, or takes the one that is there.
fn sub_dir(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    match own::make_own_dir(&path, 0o700) {
        Ok(()) => Ok(path),
        Err(error) => {
            let in_the_way = match error.kind() {
                io::ErrorKind::NotADirectory => " (something else is there, or a link)",
                _ => "",
            };
            Err(Error::Exhausted {
                what: format!("cannot make the directory {}{in_the_way}", path.display()),
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            })
        }
    }
}
