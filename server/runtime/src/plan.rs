//! What is to be started: the plan that an agent makes and a monitor carries out.
//!
//! A plan is plain data. It travels as JSON in a sealed memfd, and the file descriptors that
//! it speaks of travel beside it, in one list; a plan names them by their place in that list
//! ([`Fd`]). Everything in it was validated by the agent and is checked again where it is used.

use serde::{Deserialize, Serialize};

/// The place of a file descriptor in the list that travels with a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fd(pub u32);

/// One session that is to be started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The session's id, for the monitor's name in the process list and its records.
    pub session_id: String,
    /// Where the process lives.
    pub place: Place,
    /// What is run, as whom, and how confined.
    pub process: Process,
    /// How its stdin, stdout and stderr are made.
    pub stdio: Stdio,
    /// Whether init stops just before the command until the monitor is told to go on.
    pub paused: bool,
    /// How long the session may take, in milliseconds. `None`: for ever.
    pub deadline_ms: Option<u64>,
    /// How long output is read on, in milliseconds, after the process has ended while others still
    /// hold its stdout or stderr.
    pub drain_ms: u64,
    /// The cgroup v2 directory that the process is born in (CLONE_INTO_CGROUP).
    pub cgroup: Option<Fd>,
}

/// Where the process of a session lives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Place {
    /// In a new container.
    Container(Box<ContainerPlan>),
    /// In the namespaces of a process that exists.
    Join(JoinPlan),
    /// On the host's own root, in some namespaces of its own.
    Host(HostPlan),
}

impl Place {
    /// Whether a reaper stays in front of the command.
    pub fn has_reaper(&self) -> bool {
        matches!(self, Place::Container(container) if container.init)
    }

    /// The id maps of users and of groups, where a user namespace is made.
    pub fn id_maps(&self) -> Option<(&[IdMap], &[IdMap])> {
        match self {
            Place::Container(container) if container.namespaces.user == NsSource::New => {
                Some((&container.uid_maps, &container.gid_maps))
            }
            Place::Host(host) if host.new.contains(&NsType::User) => {
                Some((&host.uid_maps, &host.gid_maps))
            }
            _ => None,
        }
    }
}

/// A process of the host with some namespaces of its own, as unshare(1) makes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostPlan {
    /// The host's mount namespace.
    pub mount_ns: Fd,
    /// The namespaces that are new.
    pub new: Vec<NsType>,
    /// The id map of users of a new user namespace; empty without one.
    pub uid_maps: Vec<IdMap>,
    /// As `uid_maps`, for groups.
    pub gid_maps: Vec<IdMap>,
    /// How mounts are passed on between a new mount namespace and the host's. `None`: as they are.
    pub propagation: Option<Propagation>,
    /// Whether a new proc is mounted on /proc. Only in a new mount namespace.
    pub mount_proc: bool,
}

/// How mounts that are made later are passed on (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
}

/// A container that is to be assembled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// The namespaces.
    pub namespaces: Namespaces,
    /// The id maps of a new user namespace; empty without one.
    pub uid_maps: Vec<IdMap>,
    /// As `uid_maps`, for groups.
    pub gid_maps: Vec<IdMap>,
    /// Mount fds that get the id map of the new user namespace before they are used.
    pub idmapped: Vec<Fd>,
    /// The host name; only with a new uts namespace.
    pub hostname: Option<String>,
    /// The NIS domain name; only with a new uts namespace.
    pub domainname: Option<String>,
    /// What becomes `/`.
    pub root: Root,
    /// Whether `/` is made read-only when all is in place.
    pub read_only_root: bool,
    /// Everything that is mounted below `/`, in this order.
    pub mounts: Vec<Mount>,
    /// From which of the mounts on those who asked for them must get at no filesystem of the kernel's own: not as
    /// the place, by whatever link, and not in what is mounted. `None`: they may.
    pub guarded_from: Option<u32>,
    /// Absolute paths that are hidden behind an empty read-only directory or file. What is missing
    /// is skipped.
    pub masked_paths: Vec<String>,
    /// Absolute paths that are made read-only, recursively. What is missing is skipped.
    pub read_only_paths: Vec<String>,
    /// Kernel parameters that a new network namespace gets before `sysctls`: dotted name and value. One that the
    /// kernel does not have, or does not let be set, is skipped.
    pub net_defaults: Vec<(String, String)>,
    /// Kernel parameters of the container's own namespaces: dotted name and value.
    pub sysctls: Vec<(String, String)>,
    /// Whether a reaper stays as PID 1 in front of the command.
    pub init: bool,
    /// The root of the container's devpts instance, which the monitor keeps: later agents make the terminals of
    /// other sessions in it. `None`: nothing is kept.
    pub devpts: Option<Fd>,
}

/// What becomes the root of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Root {
    /// A detached mount.
    Mount(Fd),
    /// An overlay that init makes itself, because its layers get the id map of the container's user
    /// namespace first.
    Overlay(Overlay),
}

/// The layers of an overlay, as fds (fsconfig(2) FSCONFIG_SET_FD, Linux 6.13).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overlay {
    /// The read-only layer: a detached mount.
    pub lower: Fd,
    /// The directory that takes what is written.
    pub upper: Fd,
    /// An empty directory on the same filesystem as `upper`.
    pub work: Fd,
    /// Whether writes need not survive a crash (`volatile`).
    pub volatile: bool,
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub what: MountWhat,
    /// Where: an absolute path inside the container. Missing parts are created; links are followed
    /// inside the container's root only.
    pub target: String,
    /// Attributes that are laid on this mount.
    pub attrs: MountAttrs,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MountWhat {
    /// A detached mount tree that the agent prepared. `dir` tells whether its root is a directory,
    /// and so what is created at a missing target.
    Detached {
        /// The mount.
        fd: Fd,
        /// Whether its root is a directory.
        dir: bool,
    },
    /// A file of the container's own, as a mount that the agent prepared. Where its target is a symbolic link, it lies
    /// on the link itself: what the link leads to may be missing, or be a part of /dev or /proc.
    OwnFile(Fd),
    /// An overlay that init makes itself, see [`Root::Overlay`].
    Overlay(Overlay),
    /// A new instance of a filesystem that belongs to a namespace of the one who opens it:
    /// `proc` (pid), `sysfs` (net), `mqueue` (ipc), `cgroup2` (cgroup).
    Fresh {
        /// The filesystem's name.
        fs: String,
    },
    /// The launcher's sysfs, bound recursively: for a user namespace that has the host's network
    /// and so may not make its own.
    HostSysfs,
    /// The terminal of the process, bound to this path; only with a terminal.
    Console,
}

impl Mount {
    /// The fd of what is mounted, where that travels with the plan.
    pub fn fd(&self) -> Option<Fd> {
        match &self.what {
            MountWhat::Detached { fd, .. } | MountWhat::OwnFile(fd) => Some(*fd),
            _ => None,
        }
    }
}

/// Attributes of a mount (mount_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAttrs {
    /// Read-only.
    pub read_only: bool,
    /// Set-user-id bits have no effect.
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
    /// Whether the attributes hold for the mounts below it as well.
    pub recursive: bool,
}

/// Which namespaces a container gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Process ids.
    pub pid: NsSource,
    /// Host name and domain name.
    pub uts: NsSource,
    /// System V IPC and POSIX message queues.
    pub ipc: NsSource,
    /// Network.
    pub net: NsSource,
    /// The view of the cgroup tree.
    pub cgroup: NsSource,
    /// Ids and capabilities.
    pub user: NsSource,
    /// Clocks.
    pub time: NsSource,
}

/// Where one namespace of a container comes from. The mount namespace is always new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NsSource {
    /// A new one.
    New,
    /// The host's: the launcher's own.
    Host,
    /// One that exists: an fd of /proc/PID/ns/TYPE.
    Join(Fd),
}

/// A range of ids of a user namespace (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdMap {
    /// The id inside that stands for one outside. `None`: there is none.
    pub fn inside(maps: &[IdMap], outside: u32) -> Option<u32> {
        let above =
            |map: &IdMap| outside.checked_sub(map.outside).filter(|above| *above < map.count);
        maps.iter().find_map(|map| Some(map.inside + above(map)?))
    }

    /// The id outside that one inside stands for. `None`: there is none.
    pub fn outside(maps: &[IdMap], inside: u32) -> Option<u32> {
        let above = |map: &IdMap| inside.checked_sub(map.inside).filter(|above| *above < map.count);
        maps.iter().find_map(|map| Some(map.outside + above(map)?))
    }
}

/// A process whose namespaces are joined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinPlan {
    /// A pidfd of the process, which must be alive.
    pub pidfd: Fd,
    /// Its namespaces that are joined, as they were when it was looked at, in this order; such as are the launcher's
    /// own are left out already.
    pub namespaces: Vec<JoinedNamespace>,
    /// The id map of users in the user namespace that is joined; empty without one.
    pub uid_maps: Vec<IdMap>,
    /// As `uid_maps`, for groups.
    pub gid_maps: Vec<IdMap>,
    /// The mount namespace to go to where `namespaces` has no `Mount`: the host's, an fd of
    /// /proc/PID/ns/mnt. The launcher's own is no place for a command.
    pub host_mount_ns: Option<Fd>,
    /// An O_PATH fd of the directory that becomes `/` (chroot(2)). `None`: the root of the
    /// mount namespace.
    pub root: Option<Fd>,
    /// An O_PATH fd of the working directory. `None`: `process.cwd`.
    pub cwd: Option<Fd>,
    /// What is put on top of the target's view, in a copy of its mount namespace. `None`: nothing, and no
    /// copy.
    pub tools: Option<ToolsRoot>,
}

/// The root directory of a set of tools, with what of the target's is shown in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolsRoot {
    /// Its entries.
    pub entries: Vec<Tool>,
    /// Whether the target's mounts are the host's, which nobody has made but the host's root: those in /proc and /sys
    /// are shown too.
    pub host_mounts: bool,
    /// Paths below that root that are hidden, as in [`ContainerPlan::masked_paths`].
    pub masked_paths: Vec<String>,
    /// Paths below that root that are read-only.
    pub read_only_paths: Vec<String>,
    /// The root of the devpts that is shown. `None`: that of the target.
    #[serde(default)]
    pub terminals: Option<Fd>,
}

impl JoinPlan {
    /// Whether a namespace of this type is joined.
    pub fn takes(&self, kind: NsType) -> bool {
        self.namespaces.iter().any(|joined| joined.kind == kind)
    }
}

/// A namespace that is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedNamespace {
    /// Its type.
    pub kind: NsType,
    /// An fd of /proc/PID/ns/TYPE.
    pub fd: Fd,
}

/// An entry of the root of a set of tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name: a single part of a path, or for a mount below an entry that comes before it several.
    pub name: String,
    /// What it is.
    pub kind: ToolKind,
}

/// What an entry of a set of tools is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToolKind {
    /// A symbolic link with this text.
    Link(String),
    /// A file or directory.
    Mount {
        /// A detached mount of it.
        fd: Fd,
        /// Whether it is a directory.
        dir: bool,
    },
}

/// A type of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NsType {
    Mount,
    Uts,
    Ipc,
    Net,
    Pid,
    Cgroup,
    User,
    Time,
}

impl NsType {
    /// All types, in the order of setns(2)'s manual page.
    pub const ALL: [NsType; 8] = [
        NsType::User,
        NsType::Cgroup,
        NsType::Ipc,
        NsType::Uts,
        NsType::Net,
        NsType::Pid,
        NsType::Mount,
        NsType::Time,
    ];

    /// All types, in an order in which they can be joined one by one: the user namespace last, as whoever is in
    /// there has no rights over the others any more.
    pub fn to_join() -> impl Iterator<Item = NsType> {
        NsType::ALL.into_iter().rev()
    }

    /// Its file below /proc/PID/ns.
    pub fn file_name(self) -> &'static str {
        match self {
            NsType::Mount => "mnt",
            NsType::Uts => "uts",
            NsType::Ipc => "ipc",
            NsType::Net => "net",
            NsType::Pid => "pid",
            NsType::Cgroup => "cgroup",
            NsType::User => "user",
            NsType::Time => "time",
        }
    }

    /// Its CLONE_NEW* flag, as clone3(2), unshare(2) and setns(2) take it.
    pub fn clone_flag(self) -> u64 {
        match self {
            NsType::Time => 0x0000_0080,
            NsType::Mount => 0x0002_0000,
            NsType::Cgroup => 0x0200_0000,
            NsType::Uts => 0x0400_0000,
            NsType::Ipc => 0x0800_0000,
            NsType::User => 0x1000_0000,
            NsType::Pid => 0x2000_0000,
            NsType::Net => 0x4000_0000,
        }
    }
}

/// A command and its confinement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// The command and its arguments; not empty, no NUL.
    pub argv: Vec<String>,
    /// The environment, each `NAME=VALUE`. PATH is among them where the command has no slash. Where
    /// HOME is missing, init adds the user's home directory.
    pub env: Vec<String>,
    /// What goes before it, of an environment that was taken over: entries that are not UTF-8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub raw_env: Vec<Vec<u8>>,
    /// The working directory: absolute, seen from the process.
    pub cwd: String,
    /// Whether a missing `cwd` is created (a container's main process).
    pub create_cwd: bool,
    /// Who it runs as.
    pub identity: Identity,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// The confinement.
    pub confinement: Confinement,
    /// What the out-of-memory killer adds, -1000..=1000.
    pub oom_score_adj: Option<i32>,
    /// The file mode creation mask.
    pub umask: u32,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// Read from the root filesystem's own /etc/passwd and /etc/group.
    Lookup {
        /// A name or a decimal id. Empty: id 0.
        user: String,
        /// A name or a decimal id. Empty: the user's group in /etc/passwd, or else 0.
        group: String,
        /// More groups, names or decimal ids.
        additional_groups: Vec<String>,
    },
    /// Exactly these ids, seen from the user namespace of the process.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The RLIMIT_* number.
    pub resource: u32,
    /// Soft limit; `u64::MAX` stands for none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` stands for none.
    pub hard: u64,
}

/// How far a process is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Bounding, permitted and effective set: bit N stands for capability N. Cut down to what the
    /// launcher has. Inheritable and ambient are empty.
    pub capabilities: u64,
    /// Whether no_new_privs is set.
    pub no_new_privs: bool,
    /// Whether the default system call filter is loaded.
    pub seccomp: bool,
    /// Whether it was asked to be privileged. The fields above say already what follows of it.
    pub privileged: bool,
}

impl Confinement {
    /// The capabilities that docker, podman and containerd grant by default: CHOWN, DAC_OVERRIDE,
    /// FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT,
    /// MKNOD, AUDIT_WRITE, SETFCAP.
    pub const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

    /// Whether it gives more rights than another: capabilities, or system calls.
    pub fn exceeds(self, other: Confinement) -> bool {
        self.capabilities & !other.capabilities != 0 || !self.seccomp && other.seccomp
    }
}

impl Default for Confinement {
    fn default() -> Self {
        Confinement {
            capabilities: Self::DEFAULT_CAPABILITIES,
            no_new_privs: true,
            seccomp: true,
            privileged: false,
        }
    }
}

/// How stdin, stdout and stderr are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Pipes. Without `stdin` the process reads /dev/null.
    Pipes {
        /// Whether stdin is a pipe that can be written to.
        stdin: bool,
    },
    /// A terminal of its own, made from `devpts`: the root of a devpts instance.
    Terminal {
        /// An fd of the root directory of a devpts instance; its `ptmx` is opened.
        devpts: Fd,
        /// Columns at the start.
        columns: u16,
        /// Rows at the start.
        rows: u16,
    },
}

/// A step of the set-up. Its name is part of the API (`StartFailedEnd.step`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Step {
    Plan = 1,
    Stdio,
    Clone,
    IdMap,
    JoinNamespace,
    Keyring,
    Session,
    Hostname,
    Domainname,
    Loopback,
    Propagation,
    Root,
    Mount,
    PivotRoot,
    MaskPath,
    ReadOnlyPath,
    Sysctl,
    User,
    Group,
    Cwd,
    Umask,
    Rlimit,
    OomScoreAdj,
    Terminal,
    Capabilities,
    Credentials,
    Groups,
    NoNewPrivs,
    Seccomp,
    CloseFds,
    Init,
    Exec,
}

/// Why a set-up failed: the step, which of its items, and the kernel's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupFailure {
    /// The step.
    pub step: Step,
    /// What it was tried on: a path, a name, a value. May be empty.
    pub argument: String,
    /// The errno. 0 where the kernel was not asked, as for an unknown user.
    pub errno: i32,
}
