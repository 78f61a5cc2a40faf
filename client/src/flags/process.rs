//! The command, its identity and its confinement.

use clap::Args;
use conti_proto::v1::{Confinement, ProcessSpec, Rlimit, SeccompMode, Terminal, User};

use crate::{
    error::{Error, Result},
    flags::value::{Pair, boolean, octal, ulimit, variable},
    terminal,
};

/// How a command is started by run, create and exec.
#[derive(Debug, Clone, Default, Args)]
pub struct ProcessFlags {
    /// Pass stdin on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable; without a value it is taken from this environment
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<Option<Pair>>,
    /// The working directory
    #[arg(
        short = 'w',
        long = "workdir",
        value_name = "DIR",
        default_value = "",
        hide_default_value = true
    )]
    workdir: String,
    /// Who the command runs as, by names of the target or by ids
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    #[command(flatten)]
    limits: LimitFlags,
}

/// What confines a command, whichever verb starts it.
#[derive(Debug, Clone, Default, Args)]
pub struct LimitFlags {
    /// Add a supplementary group
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Set a resource limit, e.g. nofile=1024:2048 or core=unlimited
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    ulimit: Vec<Rlimit>,
    /// Add to the badness for the kernel's out-of-memory killer, -1000 to 1000
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// The file mode creation mask, in octal digits
    #[arg(long, value_name = "MASK", value_parser = octal)]
    umask: Option<u32>,
    /// Add a capability, or ALL; what is to be dropped is dropped first
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL; then those of --cap-add are added
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    cap_drop: Vec<String>,
    /// Lift all confinement; with false, a command in a privileged container is confined as usual
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = boolean,
        hide_possible_values = true
    )]
    privileged: Option<bool>,
    /// seccomp=default|unconfined, or no-new-privs=true|false
    #[arg(long, value_name = "KEY=VALUE", value_parser = security)]
    security: Vec<Security>,
}

/// A command that is as near as one of this machine: it has stdin, and a terminal where this client has
/// one.
#[derive(Debug, Args)]
pub struct NearFlags {
    /// Set a variable; without a value it is taken from this environment
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = variable)]
    setenv: Vec<Option<Pair>>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// Who the command runs as, by names of where it runs or by ids
    #[arg(long, value_name = "USER[:GROUP]")]
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
    #[command(flatten)]
    pub limits: LimitFlags,
}

impl NearFlags {
    /// Whether stdin is passed on.
    pub fn stdin(&self) -> bool {
        !self.no_stdin
    }

    /// The command as the API has it.
    pub fn process(self, argv: Vec<String>, stdin: bool) -> Result<ProcessSpec> {
        let mut process = ProcessSpec {
            argv,
            env: self.setenv.into_iter().flatten().collect(),
            cwd: self.workdir.unwrap_or_default(),
            stdin,
            ..ProcessSpec::default()
        };
        let has_terminal = stdin && terminal::stdin_is_terminal() && terminal::stdout_is_terminal();
        if self.tty || has_terminal && !self.no_tty {
            add_terminal(&mut process);
        }
        self.limits.apply(&mut process, self.run_as.as_deref())?;
        Ok(process)
    }
}

/// One choice of `--security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Security {
    Seccomp(SeccompMode),
    NoNewPrivs(bool),
}

fn security(text: &str) -> Result<Security, String> {
    match text.split_once('=') {
        Some(("seccomp", "default")) => Ok(Security::Seccomp(SeccompMode::Default)),
        Some(("seccomp", "unconfined")) => Ok(Security::Seccomp(SeccompMode::Unconfined)),
        Some(("no-new-privs" | "no-new-privileges", value)) => {
            boolean(value).map(Security::NoNewPrivs)
        }
        None if matches!(text, "no-new-privs" | "no-new-privileges") => {
            Ok(Security::NoNewPrivs(true))
        }
        _ => Err("write seccomp=default, seccomp=unconfined or no-new-privs=false".to_owned()),
    }
}

impl ProcessFlags {
    /// The command as the API has it.
    pub fn process(self, argv: Vec<String>) -> Result<ProcessSpec> {
        let ProcessFlags { interactive, tty, env, workdir, user, limits } = self;
        let mut process = ProcessSpec {
            argv,
            env: env.into_iter().flatten().collect(),
            cwd: workdir,
            stdin: interactive,
            ..ProcessSpec::default()
        };
        if tty {
            add_terminal(&mut process);
        }
        limits.apply(&mut process, user.as_deref())?;
        Ok(process)
    }
}

/// Asks for a terminal like the one that the user looks at.
pub fn add_terminal(process: &mut ProcessSpec) {
    process.terminal = Some(Terminal { size: terminal::size() });
    // Programs write for the terminal that is really there, not for one that the agent guesses.
    if terminal::stdout_is_terminal()
        && let Ok(term) = std::env::var("TERM")
        && !term.is_empty()
    {
        process.env.entry("TERM".to_owned()).or_insert(term);
    }
}

impl LimitFlags {
    /// Lifts all confinement, where nothing was said of it.
    pub fn lift(&mut self) {
        if self.cap_add.is_empty() && self.cap_drop.is_empty() && self.security.is_empty() {
            self.privileged.get_or_insert(true);
        }
    }

    /// Writes them, and who the command runs as, into a command.
    pub fn apply(self, process: &mut ProcessSpec, user: Option<&str>) -> Result<()> {
        process.user = identity(user, self.group_add)?;
        process.rlimits = self.ulimit;
        process.oom_score_adj = self.oom_score_adj;
        process.umask = self.umask;
        let mut confinement = Confinement {
            cap_add: self.cap_add,
            cap_drop: self.cap_drop,
            privileged: self.privileged,
            ..Confinement::default()
        };
        for choice in self.security {
            match choice {
                Security::Seccomp(mode) => confinement.set_seccomp(mode),
                Security::NoNewPrivs(set) => confinement.allow_new_privileges = Some(!set),
            }
        }
        if confinement != Confinement::default() {
            process.confinement = Some(confinement);
        }
        Ok(())
    }
}

fn identity(user: Option<&str>, additional_groups: Vec<String>) -> Result<Option<User>> {
    if user.is_none() && additional_groups.is_empty() {
        return Ok(None);
    }
    let text = user.unwrap_or_default();
    let (name, group) = text.split_once(':').unwrap_or((text, ""));
    if user.is_some() && name.is_empty() && group.is_empty() || group.contains(':') {
        return Err(Error::Usage(format!("the user {text:?} is not written as USER[:GROUP]")));
    }
    Ok(Some(User { user: name.to_owned(), group: group.to_owned(), additional_groups }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        process: ProcessFlags,
    }

    fn process(args: &[&str]) -> ProcessSpec {
        let line = Line::try_parse_from(["x"].iter().chain(args)).unwrap();
        line.process.process(vec!["true".to_owned()]).unwrap()
    }

    #[test]
    fn nothing_is_asked_for_by_default() {
        let default = ProcessSpec { argv: vec!["true".to_owned()], ..ProcessSpec::default() };
        assert_eq!(process(&[]), default);
    }

    #[test]
    fn flags_find_their_fields() {
        let process = process(&[
            "-ie",
            "A=b=c",
            "-w/tmp",
            "-u",
            "nobody:users",
            "--group-add",
            "7",
            "--umask=027",
            "--oom-score-adj=-5",
            "--cap-add=NET_ADMIN,CAP_SYS_PTRACE",
            "--cap-drop=ALL",
            "--security=seccomp=unconfined",
            "--security=no-new-privs=false",
            "--ulimit=nofile=1:2",
        ]);
        assert!(process.stdin);
        assert_eq!(process.env["A"], "b=c");
        assert_eq!(process.cwd, "/tmp");
        let user = process.user.unwrap();
        assert_eq!((user.user.as_str(), user.group.as_str()), ("nobody", "users"));
        assert_eq!(user.additional_groups, ["7"]);
        assert_eq!((process.umask, process.oom_score_adj), (Some(0o27), Some(-5)));
        let confinement = process.confinement.unwrap();
        assert_eq!(confinement.cap_add, ["NET_ADMIN", "CAP_SYS_PTRACE"]);
        assert_eq!(confinement.seccomp(), SeccompMode::Unconfined);
        assert_eq!(confinement.allow_new_privileges, Some(true));
        assert_eq!(confinement.privileged, None);
        assert_eq!(process.rlimits.len(), 1);
    }

    #[test]
    fn what_is_said_is_told_from_what_is_not() {
        let said = |args: &[&str]| process(args).confinement.unwrap_or_default();
        assert_eq!(said(&["--security=seccomp=default"]).seccomp(), SeccompMode::Default);
        assert_eq!(said(&["--security=no-new-privs"]).allow_new_privileges, Some(false));
        assert_eq!(said(&["--privileged"]).privileged, Some(true));
        assert_eq!(said(&["--privileged=false"]).privileged, Some(false));
        assert!(Line::try_parse_from(["x", "--privileged=maybe"]).is_err());
    }

    #[test]
    fn a_user_has_at_most_one_group() {
        assert!(identity(Some("a:b:c"), vec![]).is_err());
        assert!(identity(Some(""), vec![]).is_err());
        assert_eq!(identity(Some(":5"), vec![]).unwrap().unwrap().group, "5");
        assert_eq!(identity(None, vec![]).unwrap(), None);
    }
}
