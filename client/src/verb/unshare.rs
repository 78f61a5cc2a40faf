//! `contictl unshare`

use clap::{Args, ValueEnum};
use conti_proto::v1::{
    IdMapping, MountPropagation, NamespaceType, SessionSpec, SessionTarget, UnshareTarget,
    session_target,
};

use crate::{
    error::Result,
    flags::{
        namespace::id_map,
        process::NearFlags,
        session::{PolicyFlags, StreamFlags},
    },
    verb::{Context, exec::start_detached},
};

/// All ids, each standing for itself.
const SAME_IDS: IdMapping = IdMapping { inside: 0, outside: 0, count: u32::MAX };

/// Run a command on the host's own root, in new namespaces
///
/// Only the namespaces that are asked for are new. The command has all rights of the agent, as one of
/// unshare(1) has those of its caller, unless --confined is given.
#[derive(Debug, Args)]
pub struct Unshare {
    /// A new mount namespace
    #[arg(short, long)]
    mount: bool,
    /// A new uts namespace: host name and domain name
    #[arg(short, long)]
    uts: bool,
    /// A new ipc namespace
    #[arg(short, long)]
    ipc: bool,
    /// A new network namespace, with its loopback interface up
    #[arg(short, long)]
    net: bool,
    /// A new pid namespace, in which the command is PID 1
    #[arg(short, long)]
    pid: bool,
    /// A new cgroup namespace
    #[arg(short = 'C', long)]
    cgroup: bool,
    /// A new user namespace
    #[arg(short = 'U', long)]
    user: bool,
    /// A new time namespace
    #[arg(short = 'T', long)]
    time: bool,
    /// Mount a new proc on /proc, in a new mount namespace
    #[arg(long)]
    mount_proc: bool,
    /// How mounts are passed on between the new mount namespace and the host's
    #[arg(long, value_enum, default_value = "private")]
    propagation: Propagation,
    /// Map user ids, with --user; without it all ids stand for themselves
    #[arg(long, value_name = "INSIDE:OUTSIDE:COUNT", value_parser = id_map, requires = "user")]
    uid_map: Vec<IdMapping>,
    /// Map group ids, with --user; without it all ids stand for themselves
    #[arg(long, value_name = "INSIDE:OUTSIDE:COUNT", value_parser = id_map, requires = "user")]
    gid_map: Vec<IdMapping>,
    /// Confine the command as in a container
    #[arg(long, conflicts_with = "privileged")]
    confined: bool,
    #[command(flatten)]
    process: NearFlags,
    /// Leave it running and print the session's id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    policy: PolicyFlags,
    #[command(flatten)]
    stream: StreamFlags,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Propagation {
    Private,
    Slave,
    Shared,
    Unchanged,
}

impl Unshare {
    /// Starts and streams in one call; with `-d` only starts.
    pub async fn run(mut self, context: &Context) -> Result<u8> {
        let stdin = self.process.stdin() && !self.detach;
        let target = self.target();
        if !self.confined {
            self.process.limits.lift();
        }
        let spec = SessionSpec {
            target: Some(SessionTarget { target: Some(session_target::Target::Unshare(target)) }),
            process: Some(self.process.process(self.command, stdin)?),
            policy: self.policy.policy(),
        };
        if self.detach {
            return start_detached(context, spec).await;
        }
        context.stream_session(spec, self.stream.options(stdin)).await
    }

    fn target(&mut self) -> UnshareTarget {
        // A proc of another pid namespace on the host's /proc would be seen by the host.
        let mount = self.mount || self.mount_proc;
        let chosen = [
            (mount, NamespaceType::Mount),
            (self.uts, NamespaceType::Uts),
            (self.ipc, NamespaceType::Ipc),
            (self.net, NamespaceType::Net),
            (self.pid, NamespaceType::Pid),
            (self.cgroup, NamespaceType::Cgroup),
            (self.user, NamespaceType::User),
            (self.time, NamespaceType::Time),
        ];
        let propagation = match self.propagation {
            _ if !mount => MountPropagation::Unspecified,
            Propagation::Private => MountPropagation::Private,
            Propagation::Slave => MountPropagation::Slave,
            Propagation::Shared => MountPropagation::Shared,
            Propagation::Unchanged => MountPropagation::Unspecified,
        };
        let user = self.user;
        let maps = |given: Vec<IdMapping>| match given.is_empty() && user {
            true => vec![SAME_IDS],
            false => given,
        };
        UnshareTarget {
            namespaces: chosen.iter().filter(|(one, _)| *one).map(|(_, t)| i32::from(*t)).collect(),
            uid_mappings: maps(std::mem::take(&mut self.uid_map)),
            gid_mappings: maps(std::mem::take(&mut self.gid_map)),
            propagation: propagation.into(),
            keep_propagation: mount && self.propagation == Propagation::Unchanged,
            mount_proc: self.mount_proc,
        }
    }
}
