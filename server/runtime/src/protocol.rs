//! What agent, launcher and monitor say to one another.
//!
//! ```text
//!  agent --[LauncherRequest::Spawn, fds: control, cgroup.procs...]--> launcher --fork--> monitor
//!        <-[LauncherReply]----------------------------------------
//!  agent <-[FromMonitor::Prepared]--------------------------------------------------- monitor
//!        --[ToMonitor::Run, fds: plan, journal, wakeups, listener, directory, plan's fds]--->
//!        <-[FromMonitor::Created]- (init is assembled) -------------------------------
//!        --[ToMonitor::Start]---- (only where the plan says paused) ----------------->
//!        <-[FromMonitor::Started]- (execve has succeeded) ----------------------------
//!        <-[FromMonitor::Ended]---  or, in place of any of the three, Failed --------
//!        --[ToMonitor::Release]-- (the agent has the end: the monitor exits) -------->
//! ```
//!
//! All sockets are AF_UNIX SOCK_SEQPACKET; each message is one packet of JSON with fds beside it
//! (SCM_RIGHTS). A list of fds that does not fit into one packet (253) goes on in further
//! packets that hold [`ToMonitor::MoreFds`].
//!
//! An agent that was started again connects to the monitor's listening socket; the first thing it
//! gets is [`FromMonitor::State`] with the journal's fds. One agent is connected at a time: a new
//! connection replaces the one before.

use serde::{Deserialize, Serialize};

use crate::plan::SetupFailure;

/// The version of this protocol. A monitor outlives its agent, so that an agent must understand
/// the monitors of the versions before it.
pub const VERSION: u32 = 1;

/// The largest packet, in bytes.
pub const MAX_PACKET: usize = 32 * 1024;

/// The most fds in one packet (SCM_MAX_FD in the kernel).
pub const MAX_PACKET_FDS: usize = 253;

/// Asks the launcher.
#[derive(Debug, Serialize, Deserialize)]
pub enum LauncherRequest {
    /// Fork a monitor. Fds: the monitor's end of its control socket; then the `cgroup.procs` files
    /// of the version 1 hierarchies that the session's process is to live in, opened for writing. With
    /// any of these the monitor makes a forker, which attaches itself and clones on its behalf.
    Spawn,
    /// Fork an inspector. Fd: its end of a socket, where its question comes from, see
    /// [`crate::inspect::question`].
    Inspect,
}

/// The launcher's answer, in the order of the requests.
#[derive(Debug, Serialize, Deserialize)]
pub enum LauncherReply {
    /// The monitor or inspector runs.
    Spawned {
        /// Its pid.
        pid: i32,
    },
    /// It could not be forked.
    Failed {
        /// Why.
        errno: i32,
    },
}

/// Asks a monitor.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToMonitor {
    /// Carry out a plan. Once only. Fds: the plan (a sealed memfd with the JSON of a
    /// [`crate::plan::Plan`]), the journal (memfd), the eventfd that tells the agent of data, the eventfd
    /// that tells the monitor of room or input, the listening socket for later agents, the
    /// session's directory; then the fds of the plan.
    Run {
        /// How many fds the plan has, in this and the further packets.
        plan_fds: u32,
    },
    /// Carries further fds of a plan.
    MoreFds,
    /// Let a paused init go on.
    Start,
    /// Signal the session's process; with a cause, all that it leads: its process group, and with a terminal
    /// those of its jobs.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Set where this is meant to end the session: if this signal ends it, the cause
        /// is part of its end.
        cause: Option<KillCause>,
    },
    /// Change the terminal's size.
    Resize {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// The agent has the end: exit.
    Release,
}

/// Comes from a monitor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromMonitor {
    /// Ready for a plan; its forker, where there is one, is attached to its cgroups.
    Prepared {
        /// The forker, where there is one.
        forker: Option<ProcessId>,
        /// The monitor itself.
        monitor: ProcessId,
    },
    /// It could not be made ready.
    NotPrepared {
        /// Why. ESRCH, ENODEV: what is in one of its cgroups was killed, or the cgroup was removed, meanwhile.
        errno: i32,
    },
    /// Where the session stands: the first packet of a connection by the listening socket.
    /// Fds: the journal, the agent's eventfd, the monitor's eventfd, and the root of
    /// the container's devpts where the plan had one.
    State {
        /// The protocol's version.
        version: u32,
        /// Where the session stands.
        state: MonitorState,
    },
    /// The container is assembled and init stands before its command.
    Created(ProcessId),
    /// The command runs.
    Started,
    /// The set-up failed; nothing runs.
    Failed(SetupFailure),
    /// The process has ended and all of its output is in the journal.
    Ended(End),
}

/// Where a session stands, as its monitor sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MonitorState {
    /// The plan is being carried out.
    Assembling,
    /// Paused before the command.
    Created(ProcessId),
    /// The command runs.
    Running(ProcessId),
    /// The set-up failed.
    Failed(SetupFailure),
    /// It has ended.
    Ended(End),
}

/// A process of the host, pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid in the pid namespace of the agent.
    pub pid: i32,
    /// When it started: field 22 of /proc/PID/stat, clock ticks since boot.
    pub start_ticks: u64,
}

/// Who had a session killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KillCause {
    /// A client.
    Client,
    /// The disconnect policy.
    Disconnect,
    /// The monitor itself, at the deadline.
    Deadline,
    /// The container ended under the session.
    ContainerGone,
}

/// How a session's process ended. Also the content of `end.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Its wait status, as waitpid(2) gives it.
    pub wait: WaitStatus,
    /// Who had it killed, where somebody had and it died of that.
    pub cause: Option<KillCause>,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Bytes written to stdout, or to the terminal.
    pub stdout_bytes: u64,
    /// Bytes written to stderr.
    pub stderr_bytes: u64,
    /// Bytes of the journal that were overwritten before the agent acknowledged them.
    pub dropped_bytes: u64,
    /// Whether stdout or stderr was still held when the drain timeout had passed.
    pub drain_timed_out: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitStatus {
    /// It called exit.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core dump.
        core: bool,
    },
}
