//! What an inspector is asked and what it answers, as plain data.
//!
//! Both travel in packets of a SOCK_SEQPACKET socket, encoded by postcard: a question is one packet with
//! its fds; a packet of answers holds one or more, end to end.

use serde::{Deserialize, Serialize};

use crate::{plan::NsType, protocol::ProcessId};

/// The largest packet of either direction, in bytes: a socket takes it whole with the kernel's default
/// buffers (212,992 bytes).
pub const MAX_PACKET: usize = 64 * 1024;

/// What an inspector is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// All namespaces, as [`Answer::Namespace`].
    Namespaces {
        /// Only those that this process is in.
        of: Option<ProcessId>,
    },
    /// The mounts that a process sees, as [`Answer::Mount`], in the order of mountinfo.
    Mounts {
        /// The process.
        of: ProcessId,
        /// Whether the filesystems are asked how full they are. One that hangs holds the inspector.
        usage: bool,
    },
    /// Processes, as one [`Answer::Moment`] and then [`Answer::Process`].
    Processes {
        /// Which of them.
        whose: Whose,
        /// The name of the directory that the agent's cgroups are in.
        agent: String,
    },
    /// What the kernel says of a network namespace, as [`Answer::Netlink`].
    Netlink(Netlink),
    /// The entries of a directory, or a single file, as [`Answer::Entry`].
    List {
        /// The process, below whose root the path is.
        of: ProcessId,
        /// An absolute path without `..`; links are followed below the root.
        path: Vec<u8>,
    },
    /// The content of a regular file, as [`Answer::File`] and [`Answer::Data`].
    Read {
        /// The process, below whose root the path is.
        of: ProcessId,
        /// An absolute path without `..`; links are followed below the root.
        path: Vec<u8>,
        /// Where to begin, in bytes.
        offset: u64,
        /// How much at most, in bytes.
        limit: u64,
    },
    /// How much directories hold, as [`Answer::Progress`] and [`Answer::Held`].
    Measure(Measure),
    /// Not a question but a change: put the detached mount, the fd beside this, into a living mount
    /// namespace. Answered by [`Answer::Attached`].
    Attach {
        /// A process in it, below whose root the path is.
        to: ProcessId,
        /// The inode number of the mount namespace that it must be in.
        namespace: u64,
        /// Where: an absolute path without `..`.
        point: Vec<u8>,
        /// Whether the mount's root is a directory.
        dir: bool,
        /// Whether the last part of the path is made where it is missing.
        create: bool,
        /// As whom: root of the target's user namespace. `None`: as the owner of the directory that it is made in.
        root_ids: Option<(u32, u32)>,
        /// Whether places where the kernel shows itself are refused, by whatever path they are come to.
        guarded: bool,
        /// Whether all is done but the attaching.
        dry_run: bool,
    },
    /// A change as well: take the mount on top of a path out of a living mount namespace.
    Detach {
        /// A process in it, below whose root the path is.
        from: ProcessId,
        /// The inode number of the mount namespace that it must be in.
        namespace: u64,
        /// Where: an absolute path without `..`.
        point: Vec<u8>,
        /// Only where it is this mount.
        only: Option<MountId>,
        /// Whether it goes when nobody uses it any more.
        lazy: bool,
        /// Whether all is done but the detaching.
        dry_run: bool,
    },
    /// A detached copy of what lies at a path, as [`Answer::Tree`].
    Tree {
        /// A process, below whose root the path is.
        of: ProcessId,
        /// An absolute path without `..`; links are followed below the root.
        path: Vec<u8>,
        /// Whether the mounts below come along. Those on a filesystem of the kernel's own always do: some of
        /// them are its covers.
        recursive: bool,
        /// Whether it must be no filesystem that the kernel shows of itself, as proc.
        plain: bool,
    },
    /// A copy of the detached tree beside this, as [`Answer::Tree`], in which there is no filesystem that the kernel
    /// shows of itself. Where there is one, it is refused.
    Plain,
    /// Copies of the detached trees beside this, as [`Answer::Tree`] in their order, which are the same for
    /// everybody but to root of another user namespace: it can neither lift their attributes nor uncover what
    /// mounts in them cover.
    Locked,
}

impl Question {
    /// The process that it is about, or in whose namespaces it is answered.
    pub fn process(&self) -> Option<ProcessId> {
        match self {
            Question::Namespaces { of } => *of,
            Question::Processes { whose, .. } => whose.member,
            Question::Netlink(netlink) => Some(netlink.of),
            Question::Measure(measure) => Some(measure.of),
            Question::Mounts { of, .. }
            | Question::List { of, .. }
            | Question::Read { of, .. }
            | Question::Tree { of, .. }
            | Question::Attach { to: of, .. }
            | Question::Detach { from: of, .. } => Some(*of),
            Question::Plain | Question::Locked => None,
        }
    }
}

/// Dumps of a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netlink {
    /// A process in it.
    pub of: ProcessId,
    /// Requests, whole messages of netlink(7), each with the number of its protocol.
    pub requests: Vec<(u8, Vec<u8>)>,
    /// Whether the sockets that the processes of the host have open are told before, as
    /// [`Answer::SocketsOf`].
    pub owners: bool,
}

/// Sockets that a process has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketsOf {
    /// Its pid.
    pub pid: i32,
    /// Its name.
    pub name: Vec<u8>,
    /// The numbers of its file descriptors, and the inode number of each socket.
    pub sockets: Vec<(i32, u64)>,
}

/// Which processes are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    /// One of them, which must be alive. `None`: all of the host.
    pub member: Option<ProcessId>,
    /// Those in the pid namespace of the member, and below it.
    pub by_namespace: bool,
    /// Those in this cgroup of the agent.
    pub group: Option<String>,
}

/// A process of the host. Pids and user ids are those of the inspector's namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What names it.
    pub id: ProcessId,
    /// The pid of its parent; 0: none.
    pub parent: i32,
    /// Its pid as the target sees it; 0: not at all.
    pub target_pid: i32,
    /// Its pid in its own pid namespace.
    pub own_pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its state, a letter of proc_pid_stat(5).
    pub state: u8,
    /// CPU time in user mode, in clock ticks.
    pub user_ticks: u64,
    /// CPU time in the kernel, in clock ticks.
    pub system_ticks: u64,
    /// Its nice value.
    pub nice: i32,
    /// How many threads it has.
    pub threads: u32,
    /// Memory in RAM, in bytes.
    pub resident: u64,
    /// Address space, in bytes.
    pub total: u64,
    /// Memory in swap, in bytes.
    pub swap: u64,
    /// Its name.
    pub name: Vec<u8>,
    /// Its arguments, NUL between them, cut at 4096 bytes.
    pub argv: Vec<u8>,
    /// The agent's cgroup that it is in; empty: in none.
    pub group: String,
}

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// The process, below whose root the paths are.
    pub of: ProcessId,
    /// Absolute paths without `..`; links are followed below the root.
    pub paths: Vec<Vec<u8>>,
    /// Whether other filesystems are left out.
    pub one_file_system: bool,
    /// How many levels below each path are told.
    pub max_depth: u32,
    /// How many of the largest are told.
    pub top: u32,
}

/// What a directory or file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its path, cut at 4096 bytes.
    pub path: Vec<u8>,
    /// How many levels it lies below a path of the question.
    pub depth: u32,
    /// What it takes, in bytes.
    pub allocated: u64,
    /// The sizes of regular files and links, in bytes.
    pub apparent: u64,
    /// Files of any kind but directories.
    pub files: u64,
    /// Directories, itself among them.
    pub directories: u64,
    /// Directories that could not be read.
    pub unreadable: u64,
    /// Whether it is told as one of the largest.
    pub top: bool,
}

/// A file of any kind. With a mode of 0 nothing is known of it but its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Type and permissions, as stat(2) has them.
    pub mode: u16,
    /// How many names it has.
    pub links: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its size in bytes.
    pub size: u64,
    /// What it takes, in bytes.
    pub allocated: u64,
    /// When it was last changed: seconds since 1970 and nanoseconds.
    pub modified: (i64, u32),
    /// Its inode number.
    pub inode: u64,
    /// What a symbolic link holds.
    pub target: Vec<u8>,
    /// The numbers of a device node.
    pub device: (u32, u32),
}

/// What names a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountId {
    /// As mountinfo has it: used again after the mount has gone.
    pub id: u64,
    /// Never used again (statx(2), STATX_MNT_ID_UNIQUE); 0 before Linux 6.8.
    pub unique: u64,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The first of all: it runs. Fd: its own pidfd.
    Began,
    /// A namespace.
    Namespace(Namespace),
    /// A mount.
    Mount(Mount),
    /// When the processes were looked at.
    Moment {
        /// CLOCK_BOOTTIME, in nanoseconds.
        boot: u64,
        /// CLOCK_REALTIME, in nanoseconds.
        real: u64,
    },
    /// A process.
    Process(Process),
    /// A message of netlink(7), whole.
    Netlink(Vec<u8>),
    /// The dump was disturbed by changes again and again: some of it may be missing or there twice.
    Disturbed,
    /// Sockets of a process.
    SocketsOf(SocketsOf),
    /// An entry of a directory.
    Entry(Entry),
    /// The file that is read.
    File {
        /// Its size in bytes, as it says itself.
        size: u64,
    },
    /// The next bytes of a file.
    Data(Vec<u8>),
    /// How far a measurement is.
    Progress {
        /// How many files were seen.
        seen: u64,
        /// What they take, in bytes.
        allocated: u64,
    },
    /// What a directory holds.
    Held(Held),
    /// The mount is in its place, or would be.
    Attached {
        /// Whether it lies in a place where the kernel shows itself, or has such a filesystem in it.
        kernel: bool,
    },
    /// A detached mount. Fd: the mount.
    Tree {
        /// Whether its root is a directory.
        dir: bool,
    },
    /// The last of all: there is no more.
    Done,
    /// The last of all: it could not be answered.
    Failed(Failure),
}

/// Why a question could not be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The process that it is about has ended, or is not the one that was meant.
    Gone {
        /// Its pid.
        pid: i32,
        /// What was found.
        problem: String,
    },
    /// The kernel refused something.
    Refused {
        /// What was tried, e.g. `cannot enter the mount namespace of`.
        tried: String,
        /// On what.
        argument: Vec<u8>,
        /// The kernel's answer; 0: it was not asked.
        errno: i32,
    },
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its type.
    pub kind: NsType,
    /// Its inode number, which names it as long as it lives.
    pub inode: u64,
    /// How many processes are in it.
    pub processes: u32,
    /// The process in it with the lowest pid.
    pub lowest: Option<Brief>,
    /// The user namespace that owns it; for a user namespace the same as its parent. `None` where the
    /// agent may not know: the owner is an ancestor of its own.
    pub owner: Option<u64>,
    /// The parent, of a user or pid namespace that has one.
    pub parent: Option<u64>,
    /// The user who made it, of a user namespace: an id of the agent's own user namespace.
    pub creator: Option<u32>,
    /// What else holds it, beside processes that are in it. At most [`Namespace::MAX_HOLDERS`].
    pub holders: Vec<Holder>,
}

impl Namespace {
    /// How many holders are told.
    pub const MAX_HOLDERS: usize = 16;
}

/// A mount, as one process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What names it. `unique` is told of what is not hidden.
    pub id: MountId,
    /// The mount that it lies on.
    pub parent: u64,
    /// The device of its files.
    pub device: (u32, u32),
    /// The directory of the filesystem that is its root.
    pub root: Vec<u8>,
    /// Where it lies.
    pub point: Vec<u8>,
    /// Its own options.
    pub options: Vec<u8>,
    /// The peer group that it is in, where it is shared.
    pub shared: Option<u64>,
    /// The peer group that it receives from.
    pub master: Option<u64>,
    /// The nearest peer group that it receives from, where its master is out of sight.
    pub propagate_from: Option<u64>,
    /// Whether it cannot be bound.
    pub unbindable: bool,
    /// The type of the filesystem.
    pub fs_type: Vec<u8>,
    /// What is mounted.
    pub source: Vec<u8>,
    /// The options of the filesystem.
    pub fs_options: Vec<u8>,
    /// Whether it cannot be reached by its path, because another mount covers it.
    pub hidden: bool,
    /// How full the filesystem is, where that was asked and it can be reached.
    pub usage: Option<Usage>,
}

/// How full a filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Its size in bytes.
    pub size: u64,
    /// What is free for root, in bytes.
    pub free: u64,
    /// What is free for others, in bytes.
    pub available: u64,
    /// How many inodes it has; 0 where it counts none.
    pub inodes: u64,
    /// How many of these are free.
    pub inodes_free: u64,
}

/// A process in few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    /// Its pid.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its command line, arguments parted by blanks and cut at 4096 bytes; its name in brackets where it
    /// has none.
    pub command: Vec<u8>,
}

/// What holds a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holder {
    /// A bind mount of its file.
    Mount {
        /// A process that sees the mount.
        pid: i32,
        /// Where it is, as that process sees it.
        path: Vec<u8>,
    },
    /// An open file.
    Fd {
        /// The process that has it open.
        pid: i32,
        /// The number of the file descriptor.
        fd: i32,
    },
    /// A process whose children will be born in it (pid and time namespaces).
    ForChildren {
        /// Its pid.
        pid: i32,
    },
    /// A namespace that it owns or is the parent of.
    Descendant {
        /// Its type.
        kind: NsType,
        /// Its inode number.
        inode: u64,
    },
}
