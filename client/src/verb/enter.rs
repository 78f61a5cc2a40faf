//! `contictl enter`

use clap::{ArgGroup, Args};
use conti_proto::v1::{
    GetContainerRequest, NamespaceType, ProcessSpec, ProcessTarget, SessionSpec, SessionTarget,
    session_target,
};

use crate::{
    error::{Error, Result},
    flags::{
        process::{LimitFlags, add_terminal},
        session::{PolicyFlags, StreamFlags},
        value::{Pair, variable},
    },
    terminal,
    verb::{Context, exec::start_detached, missing},
};

/// Run a command in the namespaces of a container or of any process of the agent's host
///
/// As nsenter does: stdin is passed on, and the command has a terminal where this client has one.
/// Without any namespace a container is entered as a whole, with its own environment, directory, user and cgroups.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").required(true).args(["target", "container"])))]
pub struct Enter {
    /// The process to enter, by its pid on the agent's host
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    target: Option<u32>,
    /// The container to enter, by id, prefix or name
    container: Option<String>,
    /// Refuse another process that has got the pid meanwhile: field 22 of /proc/PID/stat
    #[arg(long, value_name = "TICKS", requires = "target")]
    start_ticks: Option<u64>,
    /// Enter all namespaces
    #[arg(short, long)]
    all: bool,
    /// Enter the mount namespace; one that belongs to the target's user namespace only with -U
    #[arg(short, long)]
    mount: bool,
    /// Enter the uts namespace: host name and domain name
    #[arg(short, long)]
    uts: bool,
    /// Enter the ipc namespace
    #[arg(short, long)]
    ipc: bool,
    /// Enter the network namespace
    #[arg(short, long)]
    net: bool,
    /// Enter the pid namespace
    #[arg(short, long)]
    pid: bool,
    /// Enter the cgroup namespace
    #[arg(short = 'C', long)]
    cgroup: bool,
    /// Enter the user namespace
    #[arg(short = 'U', long)]
    user: bool,
    /// Enter the time namespace
    #[arg(short = 'T', long)]
    time: bool,
    /// Join the target's cgroups
    #[arg(short = 'c', long)]
    join_cgroup: bool,
    /// Take the target's root directory; that of a target with a user namespace of its own only with -U
    #[arg(short, long)]
    root: bool,
    /// Take the target's working directory
    #[arg(short, long)]
    wd: bool,
    /// Take the target's environment
    #[arg(short, long)]
    env: bool,
    /// Take the target's user
    #[arg(short = 'S', long)]
    setuid: bool,
    /// Take the target's group and supplementary groups
    #[arg(short = 'G', long)]
    setgid: bool,
    /// Set a variable; without a value it is taken from this environment
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = variable)]
    setenv: Vec<Option<Pair>>,
    /// The working directory
    #[arg(long, value_name = "DIR", conflicts_with = "wd")]
    workdir: Option<String>,
    /// Who the command runs as, by names of the target or by ids
    #[arg(long, value_name = "USER[:GROUP]", conflicts_with_all = ["setuid", "setgid"])]
    run_as: Option<String>,
    /// Do not pass stdin on
    #[arg(long)]
    no_stdin: bool,
    /// Give the command a terminal, even where this client has none
    #[arg(long, conflicts_with = "no_tty")]
    tty: bool,
    /// Give the command no terminal
    #[arg(long)]
    no_tty: bool,
    /// Leave it running and print the session's id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    policy: PolicyFlags,
    #[command(flatten)]
    stream: StreamFlags,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Enter {
    /// Starts and streams in one call; with `-d` only starts.
    pub async fn run(mut self, context: &Context) -> Result<u8> {
        let stdin = !self.no_stdin && !self.detach;
        let spec = SessionSpec {
            target: Some(SessionTarget { target: Some(self.place(context).await?) }),
            process: Some(self.process(stdin)?),
            policy: self.policy.policy(),
        };
        if self.detach {
            return start_detached(context, spec).await;
        }
        context.stream_session(spec, self.stream.options(stdin)).await
    }

    /// Where the command runs.
    async fn place(&self, context: &Context) -> Result<session_target::Target> {
        let namespaces = self.namespaces();
        let (pid, start_ticks) = match (self.target, &self.container) {
            (Some(pid), _) => (pid, self.start_ticks.unwrap_or(0)),
            (None, Some(container)) if self.all || self.is_whole(&namespaces) => {
                return Ok(session_target::Target::Container(container.clone()));
            }
            (None, container) => {
                main_process(context, container.clone().unwrap_or_default()).await?
            }
        };
        Ok(session_target::Target::Process(ProcessTarget {
            pid,
            start_ticks,
            namespaces: namespaces.into_iter().map(i32::from).collect(),
            cgroup: self.join_cgroup,
            root: self.root,
            cwd: self.wd,
            env: self.env,
            user: self.setuid,
            groups: self.setgid,
        }))
    }

    /// Whether all of a container is meant. What else can be chosen of it comes with that: by itself it would be for a
    /// command on the host's root.
    fn is_whole(&self, namespaces: &[NamespaceType]) -> bool {
        namespaces.is_empty() && !self.root
    }

    fn namespaces(&self) -> Vec<NamespaceType> {
        let chosen = [
            (self.mount, NamespaceType::Mount),
            (self.uts, NamespaceType::Uts),
            (self.ipc, NamespaceType::Ipc),
            (self.net, NamespaceType::Net),
            (self.pid, NamespaceType::Pid),
            (self.cgroup, NamespaceType::Cgroup),
            (self.user, NamespaceType::User),
            (self.time, NamespaceType::Time),
        ];
        chosen.into_iter().filter(|(one, _)| *one || self.all).map(|(_, kind)| kind).collect()
    }

    fn process(&mut self, stdin: bool) -> Result<ProcessSpec> {
        let mut process = ProcessSpec {
            argv: std::mem::take(&mut self.command),
            env: std::mem::take(&mut self.setenv).into_iter().flatten().collect(),
            cwd: self.workdir.take().unwrap_or_default(),
            stdin,
            ..ProcessSpec::default()
        };
        let has_terminal = stdin && terminal::stdin_is_terminal() && terminal::stdout_is_terminal();
        if self.tty || has_terminal && !self.no_tty {
            add_terminal(&mut process);
        }
        std::mem::take(&mut self.limits).apply(&mut process, self.run_as.as_deref())?;
        Ok(process)
    }
}

/// The pid of the main process of a container, and when it started.
async fn main_process(context: &Context, container: String) -> Result<(u32, u64)> {
    let mut client = context.connect().await?.containers();
    let request = GetContainerRequest { container: container.clone() };
    let response = client.get_container(request).await?.into_inner();
    let found = response.container.ok_or_else(|| missing("the container"))?;
    match found.pid {
        0 => Err(Error::Usage(format!(
            "container {container:?} does not run, so it has no namespaces to enter; \
             `contictl start` starts it"
        ))),
        pid => Ok((pid, found.pid_start_ticks)),
    }
}
