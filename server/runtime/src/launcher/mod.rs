//! The launcher: a small process that forks monitors and inspectors for the agent.
//!
//! It is single-threaded and allocates next to nothing, so that a fork of it is cheap and stays small. It
//! never sees a plan: the agent talks with each monitor over a socket of its own, which
//! passes through here as an fd. When the agent's socket closes, it exits; monitors stay.
//!
//! - this file: how it starts, and its loop;
//! - `namespace`: the mount namespace that it lives in;
//! - `start`: how the agent starts it; `version`: how it asks the program first what it is.

mod namespace;
mod start;
mod version;

use std::{
    fs,
    io::{self, Read},
    os::fd::OwnedFd,
};

use rustix::process::{DumpableBehavior, Signal, set_child_subreaper, set_dumpable_behavior};

pub use self::{
    namespace::NEW_ROOT,
    start::{Launcher, start},
    version::{VERSION, version_of},
};
use crate::{
    host, inspect, monitor,
    protocol::{LauncherReply, LauncherRequest},
    sys::{
        clone::exit_now,
        process::{Fork, close_from, fork, unshare_mounts},
        signal::{Disposition, set_disposition, unblock_all},
        socket::{Packet, Wait, recv_packet, send_packet},
        title,
    },
};

/// What the launcher would like: killed last when memory runs out, but still before a kernel panic.
const OOM_SCORE_ADJ: i32 = -999;

/// The longest request.
const MAX_REQUEST: usize = 256;

/// Runs the launcher on the socket that is its stdin, until that closes. Returns in the launcher
/// only: monitors end inside.
pub fn run() -> io::Result<()> {
    let socket = take_socket().map_err(said("take over the agent's socket"))?;
    let oom_score_adj = settle().map_err(said("set the launcher up"))?;
    leave_mounts()?;
    // From here on nothing is reported: a monitor that outlives the agent must not hold its stderr.
    rustix::stdio::dup2_stderr(rustix::stdio::stdin())?;
    serve(socket, oom_score_adj)
}

/// Moves this process, or this one of its threads, into a small mount namespace of its own, away from the agent's mounts.
pub fn leave_mounts() -> io::Result<()> {
    unshare_mounts().map_err(said("make a mount namespace"))?;
    namespace::build()
}

/// Adds what was tried to an error.
fn said(tried: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("cannot {tried}: {error}"))
}

/// The agent hands its socket over as stdin, because a plain spawn places only fds 0 to 2. It moves away
/// from there, and nothing else that was inherited stays.
fn take_socket() -> io::Result<OwnedFd> {
    close_from(3)?;
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    // fs::File opens close-on-exec, which dup2 takes away again.
    let null = host::open_with(fs::File::options().read(true).write(true), "/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(socket)
}

/// Makes the process what it is to be, and tells which oom_score_adj the sessions get.
fn settle() -> io::Result<i32> {
    // Not dumpable: nobody attaches to it, and its /proc entries belong to root.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // What monitors leave behind comes to it, and with SIGCHLD ignored it is reaped by itself.
    set_child_subreaper(Some(rustix::process::getpid()))?;
    set_disposition(Signal::CHILD, Disposition::Ignore)?;
    set_disposition(Signal::PIPE, Disposition::Ignore)?;
    unblock_all()?;
    // A child of a spawn leads no process group, so that this cannot fail but for an odd start by hand.
    let _ = rustix::process::setsid();
    rustix::thread::set_name(c"conti-launcher")?;
    title::find()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));

    let mut present = String::new();
    let path = "/proc/self/oom_score_adj";
    host::open(path)?.read_to_string(&mut present)?;
    // Without CAP_SYS_RESOURCE it cannot be lowered, and stays as it is.
    let _ = host::write(path, OOM_SCORE_ADJ.to_string());
    // A session is never protected because its agent is.
    Ok(present.trim().parse::<i32>().unwrap_or(0).max(0))
}

/// The loop. It owns the socket, so that a monitor can close its copy of it.
fn serve(socket: OwnedFd, oom_score_adj: i32) -> io::Result<()> {
    loop {
        let reply = match request(&socket)? {
            Request::Closed => return Ok(()),
            Request::Refused { errno } => LauncherReply::Failed { errno },
            Request::Fork(child) => match fork() {
                Ok(Fork::Parent(pid)) => LauncherReply::Spawned { pid },
                Ok(Fork::Child) => {
                    drop(socket);
                    match child {
                        Child::Monitor(fds) => monitor::run(fds, oom_score_adj),
                        Child::Inspector(fd) => inspect::run(fd),
                    }
                    exit_now(0)
                }
                Err(error) => {
                    LauncherReply::Failed { errno: error.raw_os_error().unwrap_or(libc::EAGAIN) }
                }
            },
        };
        send_packet(&socket, &serde_json::to_vec(&reply)?, &[], Wait::Yes)?;
    }
}

/// What came from the agent, checked.
enum Request {
    /// Fork.
    Fork(Child),
    /// It cannot be carried out.
    Refused { errno: i32 },
    /// The agent has gone.
    Closed,
}

/// What a fork becomes.
enum Child {
    /// A monitor that gets these fds: at least its control socket.
    Monitor(Vec<OwnedFd>),
    /// An inspector that gets its socket.
    Inspector(OwnedFd),
}

fn request(socket: &OwnedFd) -> io::Result<Request> {
    let mut buffer = [0; MAX_REQUEST];
    match recv_packet(socket, &mut buffer, Wait::Yes) {
        Ok(Packet { len: 0, .. }) => Ok(Request::Closed),
        Ok(Packet { len, mut fds }) => match serde_json::from_slice(&buffer[..len]) {
            Ok(LauncherRequest::Spawn) if !fds.is_empty() => Ok(Request::Fork(Child::Monitor(fds))),
            Ok(LauncherRequest::Inspect) if fds.len() == 1 => {
                Ok(Request::Fork(Child::Inspector(fds.remove(0))))
            }
            _ => Ok(Request::Refused { errno: libc::EINVAL }),
        },
        Err(error) => match error.raw_os_error() {
            Some(errno @ (libc::EMFILE | libc::EMSGSIZE)) => Ok(Request::Refused { errno }),
            Some(libc::ECONNRESET) => Ok(Request::Closed),
            _ => Err(error),
        },
    }
}
