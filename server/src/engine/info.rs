//! What the engine tells of its containers and sessions.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::spec::ContainerSpec;

/// Describes a container at one moment.
#[derive(Debug, Clone)]
pub struct ContainerInfo {
    /// 32 hexadecimal digits.
    pub id: String,
    /// What it was made from, with name and host name filled in. `None`: it is not known.
    pub spec: Option<ContainerSpec>,
    /// Where it is in its life.
    pub state: ContainerState,
    /// When it was created. `None`: it is not known.
    pub create_time: Option<SystemTime>,
    /// When its main process was last started.
    pub start_time: Option<SystemTime>,
    /// When its main process last ended.
    pub end_time: Option<SystemTime>,
    /// How its main process last ended.
    pub end: Option<SessionEnd>,
    /// The pid of its main process; 0: none.
    pub pid: i32,
    /// When that process started, in clock ticks since boot; 0: none.
    pub pid_start_ticks: u64,
    /// The session of its main process.
    pub session_id: String,
    /// The name of its cgroup below the agent's.
    pub cgroup: String,
    /// What was done otherwise than asked.
    pub warnings: Vec<String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Assembled, paused before its command.
    Created,
    /// Its main process runs.
    Running,
    /// Its main process has ended.
    Stopped,
    /// Its records are damaged: it can only be deleted.
    Quarantined,
}

impl ContainerState {
    /// All states.
    pub const ALL: [ContainerState; 4] = [
        ContainerState::Created,
        ContainerState::Running,
        ContainerState::Stopped,
        ContainerState::Quarantined,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            ContainerState::Created => "created",
            ContainerState::Running => "running",
            ContainerState::Stopped => "stopped",
            ContainerState::Quarantined => "quarantined",
        }
    }
}

/// Describes a session at one moment.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// 32 hexadecimal digits.
    pub id: String,
    /// The container it takes place in.
    pub container_id: Option<String>,
    /// That container's name.
    pub container_name: Option<String>,
    /// Whether it is the container's main process.
    pub main: bool,
    /// Where it is in its life.
    pub state: SessionState,
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The pid of its process; 0 once it has ended.
    pub pid: i32,
    /// When it was started. `None`: it is not known.
    pub start_time: Option<SystemTime>,
    /// How it ended.
    pub end: Option<SessionEnd>,
    /// Up to where the journal has been written.
    pub output_offset: u64,
    /// The oldest byte of the journal that can still be read.
    pub retained_offset: u64,
    /// Up to where input was taken.
    pub input_offset: u64,
    /// Whether a client drives it.
    pub attached: bool,
    /// Whether it is recorded.
    pub recorded: bool,
}

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Assembled, paused before its command.
    Created,
    /// Its process runs, or what it wrote is still being read.
    Running,
    /// It has ended and all it wrote is in the journal.
    Ended,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// Why.
    pub reason: EndReason,
    /// When.
    pub time: SystemTime,
    /// Bytes written to stdout, or to the terminal.
    pub stdout_bytes: u64,
    /// Bytes written to stderr.
    pub stderr_bytes: u64,
    /// Bytes of the journal that were dropped before anybody could read them.
    pub dropped_bytes: u64,
    /// Whether others still held stdout or stderr when the drain timeout had passed.
    pub drain_timed_out: bool,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// It called exit.
    Exit(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether the kernel wrote a core dump.
        core_dumped: bool,
    },
    /// The out-of-memory killer ended it.
    OutOfMemory,
    /// It took longer than its deadline.
    Deadline,
    /// It was killed on request.
    Killed {
        /// The signal that ended it.
        signal: i32,
        /// Who asked.
        cause: KillCause,
    },
    /// Its container ended under it.
    ContainerGone,
    /// Its command was never run.
    StartFailed {
        /// The step that failed.
        step: String,
        /// What it was tried on.
        argument: String,
        /// The kernel's answer.
        errno: i32,
        /// All of it in one sentence.
        message: String,
    },
    /// What became of it is not known, and why.
    Lost(String),
}

impl EndReason {
    /// The names of all reasons.
    pub const NAMES: [&'static str; 8] = [
        "exit",
        "signal",
        "out_of_memory",
        "deadline",
        "killed",
        "container_gone",
        "start_failed",
        "lost",
    ];

    /// Its name.
    pub fn name(&self) -> &'static str {
        let [exit, signal, out_of_memory, deadline, killed, container_gone, start_failed, lost] =
            EndReason::NAMES;
        match self {
            EndReason::Exit(_) => exit,
            EndReason::Signal { .. } => signal,
            EndReason::OutOfMemory => out_of_memory,
            EndReason::Deadline => deadline,
            EndReason::Killed { .. } => killed,
            EndReason::ContainerGone => container_gone,
            EndReason::StartFailed { .. } => start_failed,
            EndReason::Lost(_) => lost,
        }
    }
}

/// Who had a session killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KillCause {
    /// A client.
    Client,
    /// The disconnect policy.
    Disconnect,
}
