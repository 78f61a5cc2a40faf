//! What can go wrong in the engine. `service::status` maps each variant to a gRPC status, in one
//! place; `reason` is the machine-readable name that it carries.

use conti_runtime::plan::{SetupFailure, Step};
use conti_shared::{reason::Reason, text};

use super::id;

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the engine did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such container.
    #[error("there is no container {0:?}; {short}`contictl ps -a` lists those that are there", short = too_short(.0))]
    NoSuchContainer(String),
    /// A prefix that fits several containers.
    #[error("{0:?} fits more than one container; give more characters of the id")]
    AmbiguousContainer(String),
    /// There is no such mount.
    #[error("there is no mount {0:?}; `contictl mounts TARGET` lists those that are there")]
    NoSuchMount(String),
    /// Something is being mounted, and until all is known of it nobody may have it who might not have anything.
    #[error(
        "a mount is being made in container {0} or around it, and has not ended yet; try again"
    )]
    MountUnderWay(String),
    /// There is no such session.
    #[error("there is no session {0:?}; `contictl sessions` lists those that are there")]
    NoSuchSession(String),
    /// There is no recording of the session.
    #[error(
        "there is no recording of session {0:?}; `contictl sessions recordings` lists those that are there"
    )]
    NoSuchRecording(String),
    /// The name is taken.
    #[error("{}", taken_sentence(.name, .id.as_deref()))]
    NameTaken {
        /// The name.
        name: String,
        /// The id of the container that has it, where whoever asks may know it.
        id: Option<String>,
    },
    /// The request id is that of another request.
    #[error("the request id {0:?} is that of another request; choose another id for each request")]
    RequestIdTaken(String),
    /// The container is in a state that does not allow it.
    #[error("container {container:?} is {state}{}; to {action} it, it must be {wanted}", in_brackets(.because.as_deref()))]
    WrongState {
        /// The container.
        container: String,
        /// What was to be done, e.g. `start`.
        action: &'static str,
        /// Its state.
        state: &'static str,
        /// Why it is in that, where its state alone does not say it.
        because: Option<String>,
        /// The states in which it can be done.
        wanted: &'static str,
    },
    /// The session has ended, or its input is closed, or it has no terminal.
    #[error("session {session}: {problem}")]
    WrongSessionState {
        /// The session.
        session: String,
        /// What is in the way, e.g. `its input is closed`.
        problem: &'static str,
    },
    /// The process to be entered is not there, or is not the one that was meant.
    #[error("process {pid}: {problem}")]
    TargetGone {
        /// Its pid.
        pid: i32,
        /// What was found, e.g. `there is no such process`.
        problem: String,
    },
    /// What is to be run would be frozen at once, or what is to hear a signal is.
    #[error("{target} is frozen, as {file} says: {problem}; thaw it and try again")]
    Frozen {
        /// What is frozen, e.g. `container c`.
        target: String,
        /// The file of the cgroup that says so.
        file: String,
        /// What does not come about, e.g. `a command in it would not begin`.
        problem: &'static str,
    },
    /// A process that is waited for does not answer.
    #[error("{0}")]
    Stuck(Box<Stuck>),
    /// A step of the set-up failed.
    #[error("{}", setup_sentence(.0))]
    Setup(SetupFailure),
    /// The same, where more is known than the step.
    #[error("{sentence}")]
    Explained {
        /// The step.
        failure: SetupFailure,
        /// What went wrong, for people.
        sentence: String,
    },
    /// A source on the host could not be opened or mounted.
    #[error("{what} {argument:?}: {}{}", errno_text(*.errno), source_hint(*.errno, .hint))]
    Source {
        /// The step's name, part of the API, e.g. `mount` or `rootfs`.
        step: &'static str,
        /// What was tried, e.g. `cannot open the source of a mount`.
        what: &'static str,
        /// On what.
        argument: String,
        /// The kernel's answer.
        errno: i32,
        /// What to do.
        hint: &'static str,
    },
    /// The kernel refused what was tried on a target.
    #[error("{tried} {}{}", text::quoted(.argument), reason_text(*.errno))]
    Refused {
        /// What was tried, e.g. `cannot open`.
        tried: String,
        /// On what: a path, which need not be UTF-8.
        argument: Vec<u8>,
        /// The kernel's answer; 0: it was not asked.
        errno: i32,
    },
    /// A field of the request makes no sense together with what the host or the container offers.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's path in the request, e.g. `spec.namespaces.net`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The offset of a write lies past what was taken.
    #[error("input offset {offset} lies past {taken}, up to where input was taken")]
    InputOffset {
        /// The offset of the request.
        offset: u64,
        /// Up to where input was taken.
        taken: u64,
    },
    /// The host is out of something.
    #[error("{what}: {}", errno_text(*.errno))]
    Exhausted {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
    /// What should not happen: it is logged where it is made, with its context.
    #[error("{0}")]
    Internal(String),
}

/// What is in the way of a call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{tried}, but {role}, process {pid}, does not answer: it is {state}; {hint}")]
pub struct Stuck {
    /// What was tried, e.g. `container c was killed`.
    pub tried: String,
    /// What the process is, e.g. `its monitor`.
    pub role: String,
    /// Its pid.
    pub pid: i32,
    /// Its state in words, with the letter of the kernel.
    pub state: String,
    /// What to do.
    pub hint: &'static str,
}

impl Error {
    /// The machine-readable reason, part of the API.
    pub fn reason(&self) -> Reason {
        match self {
            Error::NoSuchContainer(_) => Reason::ContainerNotFound,
            Error::AmbiguousContainer(_) => Reason::ContainerAmbiguous,
            Error::NoSuchSession(_) => Reason::SessionNotFound,
            Error::NoSuchMount(_) => Reason::MountNotFound,
            Error::MountUnderWay(_) => Reason::MountUnderWay,
            Error::NoSuchRecording(_) => Reason::RecordingNotFound,
            Error::NameTaken { .. } => Reason::NameTaken,
            Error::RequestIdTaken(_) => Reason::RequestIdTaken,
            Error::WrongState { .. } => Reason::ContainerWrongState,
            Error::WrongSessionState { .. } => Reason::SessionWrongState,
            Error::TargetGone { .. } => Reason::ProcessGone,
            Error::Frozen { .. } => Reason::TargetFrozen,
            Error::Stuck(_) => Reason::ProcessStuck,
            Error::Setup(f) | Error::Explained { failure: f, .. } => match (f.step, f.errno) {
                (Step::Exec, libc::ENOENT) => Reason::CommandNotFound,
                (Step::Exec, _) => Reason::CommandNotExecutable,
                _ => Reason::SetupFailed,
            },
            Error::Source { .. } => Reason::SetupFailed,
            Error::Refused { .. } => Reason::Refused,
            Error::Invalid { .. } => Reason::InvalidField,
            Error::InputOffset { .. } => Reason::InputOffset,
            Error::Exhausted { .. } => Reason::ResourceExhausted,
            Error::Stopping => Reason::AgentStopping,
            Error::Internal(_) => Reason::Internal,
        }
    }
}

fn in_brackets(because: Option<&str>) -> String {
    because.map(|because| format!(" ({because})")).unwrap_or_default()
}

/// What may be wrong with the beginning of an id, as the beginning of a sentence.
fn too_short(key: &str) -> String {
    match (1..id::PREFIX_MIN).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        true => format!("the beginning of an id is at least {} characters; ", id::PREFIX_MIN),
        false => String::new(),
    }
}

fn taken_sentence(name: &str, id: Option<&str>) -> String {
    match id {
        Some(id) => {
            format!(
                "the name {name:?} is taken by container {id}; choose another or remove that one"
            )
        }
        None => format!("the name {name:?} is taken; choose another"),
    }
}

/// The kernel's words for an errno, with its number, and what to do where that is the same whatever was tried.
pub fn errno_text(errno: i32) -> String {
    let words = std::io::Error::from_raw_os_error(errno);
    match errno {
        libc::EMFILE => format!(
            "{words}; that is the agent's limit (ulimit -n, LimitNOFILE), or one that was asked for (rlimits)"
        ),
        libc::ENFILE => format!("{words}; that is the host's limit (fs.file-max)"),
        _ => words.to_string(),
    }
}

/// Whether an errno says that there is too little of something, and not that what was asked for is at fault.
pub fn is_want(errno: i32) -> bool {
    matches!(errno, libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC | libc::EDQUOT)
}

/// What to do about a source, where it is the source that is at fault.
fn source_hint(errno: i32, hint: &str) -> String {
    match errno {
        libc::ENOMEM | libc::EMFILE | libc::ENFILE => String::new(),
        _ => format!("; {hint}"),
    }
}

/// The same behind a colon, where there is an errno.
fn reason_text(errno: i32) -> String {
    if errno == 0 { String::new() } else { format!(": {}", errno_text(errno)) }
}

/// What it means that the kernel starts no process (EAGAIN).
const PROCESSES: &str = "; a limit of processes is reached: that of the container (pids), of a cgroup above it, \
                         or of its user";

/// What it means that a process cannot be made for want of memory (clone(2)).
const ENDING: &str = "; if the host has memory enough, the pid namespace takes no more processes: its first one has \
                      ended, or is on its way";

/// A failed set-up as one sentence that a user can act on.
pub fn setup_sentence(failure: &SetupFailure) -> String {
    let SetupFailure { step, argument, errno } = failure;
    let (tried, hint) = match step {
        Step::Plan => ("could not read the plan", ""),
        Step::Stdio => ("could not make stdin, stdout and stderr", ""),
        Step::Clone => {
            let hint = match *errno {
                libc::EAGAIN => PROCESSES,
                libc::ENOMEM => ENDING,
                libc::ENOSPC => "; a limit of namespaces is reached, see the sysctls user.max_*",
                _ => "",
            };
            ("could not start a process in the namespaces", hint)
        }
        Step::IdMap if argument.starts_with('/') => (
            "could not map the ids of the mount on",
            "; it, and what is mounted below it, must be of filesystems that support idmapped mounts; \
             without a user namespace (--userns host) it can be used",
        ),
        Step::IdMap => ("could not set the id map", "; check that its ranges do not overlap"),
        Step::JoinNamespace => ("could not join the namespace", "; is its process still there?"),
        Step::Keyring => ("could not make a session keyring", ""),
        Step::Session => ("could not make a session (setsid)", ""),
        Step::Hostname => ("could not set the host name", ""),
        Step::Domainname => ("could not set the domain name", ""),
        Step::Loopback => ("could not bring the loopback interface up", ""),
        Step::Propagation => ("could not make the mounts private", ""),
        Step::Root if *errno == libc::EXDEV => (
            "could not attach the root filesystem",
            "; a filesystem of the kernel is mounted below it: only an admin mounts so",
        ),
        Step::Root => ("could not attach the root filesystem", ""),
        Step::Mount if *errno == libc::EXDEV => (
            "could not mount on",
            "; the path leads to /proc, /sys or /dev of the container, or a filesystem of the kernel is mounted below the source: only an admin mounts so",
        ),
        Step::Mount if *errno == libc::EISDIR => (
            "could not mount on",
            "; it is a directory in the root filesystem, and what is mounted is a file: remove the directory there",
        ),
        Step::Mount if *errno == libc::ENOTDIR => (
            "could not mount on",
            "; in the root filesystem it, or a directory of its path, is no directory: remove what is there",
        ),
        Step::Mount if *errno == libc::EROFS => (
            "could not mount on",
            "; it is missing there, and what it would be made in is read-only: make it before, or have what is made go \
             to a private layer (--overlay)",
        ),
        Step::Mount => {
            ("could not mount on", "; check the target's path and type in the root filesystem")
        }
        Step::PivotRoot => ("could not pivot to the root filesystem", ""),
        Step::MaskPath => ("could not hide", ""),
        Step::ReadOnlyPath => ("could not make read-only", ""),
        Step::Sysctl if argument.contains("ping_group_range") => (
            "could not set the kernel parameter",
            "; both are groups that the container's user namespace has: \"0 65535\" are all of those that the \
             agent gives",
        ),
        Step::Sysctl => ("could not set the kernel parameter", "; check its name and value"),
        Step::User => (
            "could not find the user",
            "; it must be a number, or in the /etc/passwd of where the command runs (with `debug`, of the tools)",
        ),
        Step::Group => (
            "could not find the group",
            "; it must be a number, or in the /etc/group of where the command runs (with `debug`, of the tools)",
        ),
        Step::Cwd => ("could not enter the working directory", ""),
        Step::Umask => ("could not set the umask", ""),
        Step::Rlimit => ("could not set the limit", "; the agent may lack the right to raise it"),
        Step::OomScoreAdj => ("could not set oom_score_adj", ""),
        Step::Terminal if *errno == libc::EXDEV => (
            "could not make the terminal",
            "; something is mounted on it in the container, where `umount /dev/pts/ptmx` takes it away",
        ),
        Step::Terminal if *errno == libc::ENOSPC => (
            "could not make the terminal",
            "; all terminals of the container (1024), or of the host (kernel.pty.max), are in use",
        ),
        Step::Terminal => ("could not make the terminal", ""),
        Step::Capabilities => ("could not set the capabilities", ""),
        Step::Credentials | Step::Groups => {
            let hint = match *errno {
                // user_namespaces(7): setgroups(2) fails so where /proc/PID/setgroups says "deny".
                libc::EPERM => {
                    "; a user namespace that denies setgroups takes no additional groups"
                }
                _ => "; is the id mapped in the user namespace?",
            };
            let tried = match step {
                Step::Groups => "could not take on the group",
                _ => "could not become the user",
            };
            (tried, hint)
        }
        Step::NoNewPrivs => ("could not set no_new_privs", ""),
        Step::Seccomp => ("could not load the system call filter", ""),
        Step::CloseFds => ("could not close inherited files", ""),
        Step::Init if *errno == libc::EAGAIN => ("could not start the init process", PROCESSES),
        Step::Init if *errno == libc::ENOMEM => ("could not start the init process", ENDING),
        Step::Init => ("could not start the init process", ""),
        Step::Exec => match *errno {
            libc::ENOENT => {
                ("could not find the command", "; is it in the root filesystem and in PATH?")
            }
            libc::EACCES => ("cannot execute the command", "; is it executable?"),
            _ => ("could not execute the command", ""),
        },
    };
    let argument = if argument.is_empty() { String::new() } else { format!(" {argument:?}") };
    format!("{tried}{argument}{}{hint}", reason_text(*errno))
}
