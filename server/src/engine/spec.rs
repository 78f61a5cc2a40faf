//! What the engine is asked for, as validated types: past the door nothing is optional that must
//! be there, and nothing is a number that has a name.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

pub use conti_runtime::plan::Propagation;
use conti_runtime::plan::{Confinement, IdMap, Identity, NsType, Process};
use serde::{Deserialize, Serialize};

use super::{inherit::Command, recording, scope::Bounds};

/// A container that is to be made. Also the part of its record that never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The name. Empty: the engine makes one.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Where the root comes from.
    pub rootfs: Rootfs,
    /// The namespaces.
    pub namespaces: Namespaces,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// The main process.
    pub process: Process,
    /// How the main process is talked to.
    pub io: SessionIo,
    /// The host name. Empty: the first 12 characters of the id.
    pub hostname: String,
    /// The NIS domain name. Empty: none.
    pub domainname: String,
    /// Devices besides the standard nodes.
    pub devices: Vec<Device>,
    /// Whether `/` is read-only.
    pub read_only_root: bool,
    /// Whether a reaper runs as PID 1.
    pub init: bool,
    /// Kernel parameters of the container's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Whether it is deleted when its main process has ended.
    pub auto_remove: bool,
    /// The directories of the host that sources must stay in, where who made it may not have all.
    #[serde(default)]
    pub bounds: Option<Bounds>,
    /// Whoever made it, by the name of its identity: it may end it. `None`: it is not known.
    #[serde(default)]
    pub maker: Option<String>,
}

impl ContainerSpec {
    /// Stands for a specification that cannot be read any more.
    pub fn unknown() -> ContainerSpec {
        ContainerSpec {
            name: String::new(),
            labels: BTreeMap::new(),
            rootfs: Rootfs::Host,
            namespaces: Namespaces::default(),
            mounts: Vec::new(),
            process: Process {
                argv: Vec::new(),
                env: Vec::new(),
                raw_env: Vec::new(),
                cwd: "/".into(),
                create_cwd: false,
                identity: Identity::Ids { uid: 0, gid: 0, groups: Vec::new() },
                rlimits: Vec::new(),
                confinement: Confinement::default(),
                oom_score_adj: None,
                umask: 0o022,
            },
            io: SessionIo {
                terminal: None,
                stdin: false,
                policy: Policy {
                    on_disconnect: Some(OnDisconnect::Detach),
                    keep: None,
                    drain: Duration::ZERO,
                    deadline: None,
                    record: None,
                },
            },
            hostname: String::new(),
            domainname: String::new(),
            devices: Vec::new(),
            read_only_root: false,
            init: false,
            sysctls: BTreeMap::new(),
            auto_remove: false,
            bounds: None,
            maker: None,
        }
    }
}

/// Where a root filesystem comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rootfs {
    /// A read-only view of the host's programs under a private layer.
    Host,
    /// A directory of the host.
    Dir {
        /// Absolute, without `..`.
        path: PathBuf,
        /// Whether writes go to a private layer.
        overlay: bool,
    },
}

/// The namespaces of a container. The mount namespace is always private.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Process ids.
    pub pid: Namespace,
    /// Host name and domain name.
    pub uts: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Network.
    pub net: Namespace,
    /// The view of the cgroup tree.
    pub cgroup: Namespace,
    /// Ids and capabilities.
    pub user: Namespace,
    /// Clocks.
    pub time: Namespace,
    /// The id map of a private user namespace, else empty.
    pub uid_maps: Vec<IdMap>,
    /// As `uid_maps`, for groups.
    pub gid_maps: Vec<IdMap>,
    /// Whose choice these maps are.
    #[serde(default)]
    pub ids: Ids,
}

/// Whose choice the ids of a container are. Stored: the pool that they are from may be another one by now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// Not known, as in a record of an older agent; or there are none.
    #[default]
    Unknown,
    /// The agent's, from its pool.
    Given,
    /// That of whoever made the container.
    Chosen,
}

/// Whose namespace is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// A new one.
    Private,
    /// The host's.
    Host,
    /// That of another container: by its id, from where the client's word for it was exchanged for that.
    Container(String),
    /// Not said; only of users, until [`crate::engine::Engine::choose_user_namespace`].
    Unspecified,
}

impl Default for Namespaces {
    /// A private one of each type but user and time.
    fn default() -> Self {
        Namespaces {
            pid: Namespace::Private,
            uts: Namespace::Private,
            ipc: Namespace::Private,
            net: Namespace::Private,
            cgroup: Namespace::Private,
            user: Namespace::Unspecified,
            time: Namespace::Host,
            uid_maps: Vec::new(),
            gid_maps: Vec::new(),
            ids: Ids::Unknown,
        }
    }
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where: an absolute path inside, without `..`.
    pub target: String,
    /// What.
    pub source: MountSource,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// Absolute, without `..`.
        source: PathBuf,
        /// Whether the mounts below come along.
        recursive: bool,
        /// Whether read-only holds for the mounts below too.
        recursive_read_only: bool,
        /// Whether later mounts are passed on.
        propagation: Propagation,
    },
    /// A filesystem in memory.
    Tmpfs {
        /// Largest size in bytes. 0: the kernel's default, half of the memory.
        size_bytes: u64,
        /// The mode of its root.
        mode: u32,
    },
    /// A block device or an image file.
    Device {
        /// Absolute, without `..`.
        source: PathBuf,
        /// The filesystem's type.
        fs_type: String,
        /// Its options, `name` or `name=value`.
        options: Vec<String>,
    },
    /// Directories laid over one another.
    Overlay {
        /// The lower ones, the topmost first; absolute, without `..`.
        lowers: Vec<PathBuf>,
        /// What takes what is written, and its work directory.
        upper: Option<(PathBuf, PathBuf)>,
    },
}

impl MountSource {
    /// The paths of the host that it names.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            MountSource::Tmpfs { .. } => Vec::new(),
            MountSource::Bind { source, .. } | MountSource::Device { source, .. } => vec![source],
            MountSource::Overlay { lowers, upper } => {
                let upper = upper.iter().flat_map(|(upper, work)| [upper, work]);
                lowers.iter().chain(upper).map(PathBuf::as_path).collect()
            }
        }
    }
}

/// A device that a container may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The node on the host.
    pub path: PathBuf,
    /// The node inside, below /dev.
    pub path_in_container: String,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be made with mknod(2).
    pub mknod: bool,
}

/// How a session's process is talked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionIo {
    /// A terminal of this size, or pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether stdin can be written to. Always so with a terminal.
    pub stdin: bool,
    /// What happens to its streams.
    pub policy: Policy,
}

impl SessionIo {
    /// Whether the process reads what a client writes.
    pub fn takes_input(&self) -> bool {
        self.stdin || self.terminal.is_some()
    }
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns, at least 1.
    pub columns: u16,
    /// Rows, at least 1.
    pub rows: u16,
}

/// What happens to the streams of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// When the driving client is gone, if its maker has said so; see [`Policy::on_disconnect`].
    pub on_disconnect: Option<OnDisconnect>,
    /// How long it is kept for a client that streams it from its start, if its maker has said no more than that.
    #[serde(default)]
    pub keep: Option<Duration>,
    /// How long output is read on after the process has ended.
    pub drain: Duration,
    /// How long the session may take.
    pub deadline: Option<Duration>,
    /// Whether and how it is recorded.
    #[serde(default)]
    pub record: Option<recording::Wanted>,
}

impl Policy {
    /// How long a session is kept without a client, where nothing was said.
    pub const KEEP: Duration = Duration::from_secs(60);

    /// What is done when the driving client is gone. Where its maker did not choose, what a client streams from its
    /// start (`streamed`) ends with that client, as a command in a shell does with its terminal. All else is there
    /// without any client, and is not ended by one that has looked at it.
    pub fn on_disconnect(&self, streamed: bool, terminal: bool) -> OnDisconnect {
        match (self.on_disconnect, self.keep) {
            (Some(chosen), _) => chosen,
            (None, _) if !streamed => OnDisconnect::Detach,
            (None, Some(time)) => OnDisconnect::Keep(time),
            (None, None) if terminal => OnDisconnect::Keep(Self::KEEP),
            (None, None) => OnDisconnect::Kill,
        }
    }
}

/// What happens when the client that drives a session is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDisconnect {
    /// Kill the process.
    Kill,
    /// Send SIGHUP.
    HangUp,
    /// Kill it when nobody has come back in this time.
    Keep(Duration),
    /// Let it run.
    Detach,
}

/// A session that is to be started in something that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionSpec {
    /// Where.
    pub target: SessionTarget,
    /// What. For [`SessionTarget::Process`] with `user`, `groups` or `env`, the engine fills these in.
    pub process: Command,
    /// How it is talked to.
    pub io: SessionIo,
    /// Whoever starts it, by the name of its identity.
    pub maker: Option<String>,
}

/// Where a session takes place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionTarget {
    /// A running container: by its id, from where the client's word for it was exchanged for that.
    Container(String),
    /// A process of the host.
    Process(ProcessTarget),
    /// The host's own root, in new namespaces.
    Unshare(UnshareTarget),
    /// What exists, with tools on top.
    Debug(Target, Tools),
}

impl SessionTarget {
    /// The container that it takes place in.
    pub fn container_mut(&mut self) -> Option<&mut String> {
        match self {
            SessionTarget::Container(key) | SessionTarget::Debug(Target::Container(key), _) => {
                Some(key)
            }
            _ => None,
        }
    }
}

/// Programs that a target may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tools {
    /// Those of the agent's host.
    Host,
    /// Those of a root directory on the agent's host.
    Dir(PathBuf),
}

/// What is looked at or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A running container: by its id, from where the client's word for it was exchanged for that.
    Container(String),
    /// A process of the host.
    Process {
        /// Its pid, at least 1.
        pid: i32,
        /// Its start time in clock ticks since boot, where the client knows it.
        start_ticks: Option<u64>,
    },
    /// The host itself: the namespaces that the agent is in.
    Host,
}

/// A process of the host, and what of it is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTarget {
    /// Its pid, at least 1.
    pub pid: i32,
    /// Its start time in clock ticks since boot, where the client knows it.
    pub start_ticks: Option<u64>,
    /// The namespaces that are entered, each once.
    pub namespaces: Vec<NsType>,
    /// Join its cgroups.
    pub cgroup: bool,
    /// Take its root directory.
    pub root: bool,
    /// Take its working directory.
    pub cwd: bool,
    /// Take its environment, under that of the request.
    pub env: bool,
    /// Take its user.
    pub user: bool,
    /// Take its group and supplementary groups.
    pub groups: bool,
}

/// The host's own root, and the namespaces that are new on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnshareTarget {
    /// The namespaces that are new, each once.
    pub namespaces: Vec<NsType>,
    /// The id map of users, with a new user namespace.
    pub uid_maps: Vec<IdMap>,
    /// The id map of groups, with a new user namespace.
    pub gid_maps: Vec<IdMap>,
    /// How mounts are passed on, with a new mount namespace. `None`: as they are.
    pub propagation: Option<Propagation>,
    /// Whether a new proc is mounted on /proc, with a new mount namespace.
    pub mount_proc: bool,
}
