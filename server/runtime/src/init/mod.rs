//! The child side of a session: from a fresh clone to the user's command.
//!
//! Read in this order:
//!
//! - [`Spawn`] (`spawn.rs`): the parent's part: the clone, and the id map of a user namespace
//!   (`id_map.rs`); [`Stage`] (`stage.rs`): what is cloned last;
//! - `status.rs`: what the child tells its parent; `failure.rs`: how a failed step is named;
//! - `child.rs`: the recipe, in the order of its steps;
//! - `container.rs`: the assembly of a new container, with `mounts.rs`, `path.rs` (lookups in a root
//!   that is not trusted), `sysctl.rs` and `hide.rs`;
//! - `join.rs`: entering the namespaces of a process that exists, `tools.rs`: with tools on top; `host.rs`: the host's own root with
//!   some new namespaces;
//! - `user.rs`, `confine.rs`, `seccomp`: who the command runs as and what it may do;
//! - `command.rs`: the command itself; `reaper.rs`: the process in front of it where one was asked for.
//!
//! Between the clone and execve each step succeeds or is reported; nothing is logged, and nothing of
//! the host is looked up.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;

use crate::plan::{Fd, SetupFailure, Step};

mod child;
mod command;
mod confine;
mod container;
mod failure;
#[cfg(test)]
mod fuzz;
mod hide;
mod host;
mod id_map;
mod join;
mod mounts;
mod path;
mod reaper;
pub mod seccomp;
mod spawn;
mod stage;
mod status;
mod sysctl;
mod tools;
mod user;

pub use reaper::end_of_command;
pub use spawn::{Ends, ProcessEnds, Spawn, pipes};
pub use stage::{Outcome, Stage, ended_early};
pub use status::Status;

/// The fds that travelled with a plan, which names them by their place in this list.
#[derive(Debug, Default)]
pub struct PlanFds(Vec<OwnedFd>);

impl PlanFds {
    /// In the order in which they came.
    pub fn new(fds: Vec<OwnedFd>) -> PlanFds {
        PlanFds(fds)
    }

    /// The fd at a place. A plan that names one that did not come is at fault.
    pub fn get(&self, fd: Fd) -> Result<BorrowedFd<'_>, SetupFailure> {
        self.borrow(fd).map_err(|errno| SetupFailure {
            step: Step::Plan,
            argument: format!("fd {} of {}", fd.0, self.0.len()),
            errno: errno.raw_os_error(),
        })
    }

    fn borrow(&self, fd: Fd) -> Result<BorrowedFd<'_>, Errno> {
        self.0.get(fd.0 as usize).map(|fd| fd.as_fd()).ok_or(Errno::BADF)
    }

    fn numbers(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(|fd| fd.as_raw_fd())
    }
}

/// The child's end of its stdin, stdout and stderr.
#[derive(Debug)]
pub enum ChildStdio {
    /// Pipes; stdin may be `/dev/null`.
    Pipes {
        /// What it reads.
        stdin: OwnedFd,
        /// Where it writes.
        stdout: OwnedFd,
        /// Where it writes what went wrong.
        stderr: OwnedFd,
    },
    /// A terminal of its own, which becomes its controlling one.
    Terminal {
        /// The slave.
        slave: OwnedFd,
    },
}

/// A process on its way to its command.
#[derive(Debug)]
pub enum Child {
    /// It was cloned.
    Born {
        /// Its pid, seen from the caller.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
    /// It is cloned when all else is done.
    Staged(Stage),
}

impl Child {
    /// Readable when it has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        match self {
            Child::Born { pidfd, .. } => pidfd,
            Child::Staged(stage) => stage.pidfd(),
        }
    }
}

#[cfg(test)]
pub(crate) fn sample_plan() -> crate::plan::Plan {
    use crate::plan::*;
    Plan {
        session_id: "s".to_owned(),
        place: Place::Container(Box::new(ContainerPlan {
            namespaces: Namespaces {
                pid: NsSource::New,
                uts: NsSource::New,
                ipc: NsSource::Host,
                net: NsSource::Host,
                cgroup: NsSource::Host,
                user: NsSource::Host,
                time: NsSource::Host,
            },
            uid_maps: Vec::new(),
            gid_maps: Vec::new(),
            idmapped: Vec::new(),
            hostname: None,
            domainname: None,
            root: Root::Mount(Fd(0)),
            read_only_root: false,
            mounts: vec![Mount {
                what: MountWhat::Fresh { fs: "proc".to_owned() },
                target: "/proc".to_owned(),
                attrs: MountAttrs::default(),
            }],
            guarded_from: None,
            masked_paths: Vec::new(),
            read_only_paths: Vec::new(),
            net_defaults: Vec::new(),
            sysctls: Vec::new(),
            init: false,
            devpts: None,
        })),
        process: Process {
            argv: vec!["true".to_owned()],
            env: vec!["PATH=/bin".to_owned()],
            raw_env: Vec::new(),
            cwd: "/".to_owned(),
            create_cwd: true,
            identity: Identity::Lookup {
                user: String::new(),
                group: String::new(),
                additional_groups: vec!["wheel".to_owned()],
            },
            rlimits: Vec::new(),
            confinement: Confinement::default(),
            oom_score_adj: None,
            umask: 0o022,
        },
        stdio: Stdio::Pipes { stdin: false },
        paused: false,
        deadline_ms: None,
        drain_ms: 0,
        cgroup: None,
    }
}
