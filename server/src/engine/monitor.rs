//! The agent's side of a monitor: packets to and from it.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use conti_runtime::{
    plan::Plan,
    protocol::{FromMonitor, MAX_PACKET, MAX_PACKET_FDS, ProcessId, ToMonitor},
    sys::{
        memfd,
        socket::{self, Packet, Wait},
    },
};
use tokio::io::unix::AsyncFd;

use super::{
    bounds::{self, answered, is_able},
    cgroup::Cgroups,
    error::{Error, Result},
    io_error,
    process::{self, Pinned},
    watched::watched,
};

/// A connection to a monitor.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<OwnedFd>,
    /// The monitor itself, where it is known.
    process: Option<ProcessId>,
    /// The forker that starts the process for it, where it has one and is not at work yet.
    forker: Option<ProcessId>,
}

/// The fds that every plan travels with, in the order of `ToMonitor::Run`.
#[derive(Debug)]
pub struct RunFds<'a> {
    /// The journal's memfd.
    pub journal: BorrowedFd<'a>,
    /// Tells the agent of output, and of room for input.
    pub to_agent: BorrowedFd<'a>,
    /// Tells the monitor of input, and of room for output.
    pub to_monitor: BorrowedFd<'a>,
    /// Where an agent that was started again connects.
    pub listener: BorrowedFd<'a>,
    /// The session's directory.
    pub directory: BorrowedFd<'a>,
}

impl Monitor {
    /// Takes over one end of a socket pair, or a connected socket.
    pub fn new(socket: OwnedFd, process: Option<ProcessId>) -> io::Result<Monitor> {
        Ok(Monitor { socket: watched(socket)?, process, forker: None })
    }

    /// The process itself, where it is known.
    pub fn process(&self) -> Option<ProcessId> {
        self.process
    }

    /// Its forker, which is also what the process becomes in the end, or has gone.
    pub fn forker(&self) -> Option<ProcessId> {
        self.forker
    }

    /// Whether it could carry out a plan at this moment: neither it nor its forker is dead, stopped or frozen.
    pub fn is_able(&self, cgroups: &Cgroups) -> bool {
        [self.process, self.forker].into_iter().flatten().all(|one| is_able(one, cgroups))
    }

    /// Ends one that has no plan, whatever keeps it from going by itself.
    pub fn discard(self) {
        for one in [self.process, self.forker].into_iter().flatten() {
            process::kill(one);
        }
    }

    /// Waits until a monitor that was just forked, as `pid`, is ready for a plan.
    pub async fn prepared(mut self, pid: i32) -> Result<Monitor> {
        // One that dies is seen by its socket, and not by what has its pid then.
        let process = Pinned::open(pid, None).map(|pinned| pinned.id()).ok();
        match answered(bounds::PREPARE, process, self.receive()).await {
            Some(Ok(Some((FromMonitor::Prepared { monitor, forker }, _)))) => {
                (self.process, self.forker) = (Some(monitor), forker);
                Ok(self)
            }
            Some(Ok(Some((FromMonitor::NotPrepared { errno: libc::ESRCH | libc::ENODEV }, _)))) => {
                Err(Error::TargetGone {
                    pid,
                    problem: "it was ended before it began, together with what it was to be in"
                        .into(),
                })
            }
            Some(Ok(Some((FromMonitor::NotPrepared { errno }, _)))) => {
                Err(io_error("cannot make a monitor")(io::Error::from_raw_os_error(errno)))
            }
            Some(Ok(_)) => Err(Error::Internal("a monitor died before it was ready".into())),
            Some(Err(error)) => Err(io_error("cannot hear a monitor")(error)),
            None => Err(bounds::stuck(
                "a monitor was forked for a new process".into(),
                "it".into(),
                pid,
                "it, or the process that it puts into the cgroup, may be stopped or frozen",
            )),
        }
    }

    /// Hands over a plan.
    pub fn run(&self, plan: &Plan, run: &RunFds<'_>, plan_fds: &[OwnedFd]) -> io::Result<()> {
        let sealed = memfd::sealed("conti-plan", &serde_json::to_vec(plan)?)?;
        let mut fds = vec![
            sealed.as_fd(),
            run.journal,
            run.to_agent,
            run.to_monitor,
            run.listener,
            run.directory,
        ];
        fds.extend(plan_fds.iter().map(|fd| fd.as_fd()));
        let mut parts = fds.chunks(MAX_PACKET_FDS);
        let count = u32::try_from(plan_fds.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.send_with(&ToMonitor::Run { plan_fds: count }, parts.next().unwrap_or_default())?;
        for part in parts {
            self.send_with(&ToMonitor::MoreFds, part)?;
        }
        Ok(())
    }

    /// Sends a packet. A monitor always reads: where its queue is full it hangs, and that is an error.
    pub fn send(&self, message: &ToMonitor) -> io::Result<()> {
        self.send_with(message, &[])
    }

    fn send_with(&self, message: &ToMonitor, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        socket::send_packet(&self.socket, &serde_json::to_vec(message)?, fds, Wait::No)
    }

    /// Waits for the next packet. `None`: the monitor is gone. Cancel-safe.
    pub async fn receive(&self) -> io::Result<Option<(FromMonitor, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.socket.readable().await?;
            // Only from here on: across a wait it would be part of all futures that this one is part of.
            let mut buffer = [0; MAX_PACKET];
            match ready.try_io(|fd| socket::recv_packet(fd, &mut buffer, Wait::No)) {
                Ok(Ok(Packet { len: 0, .. })) => return Ok(None),
                Ok(Ok(Packet { len, fds })) => {
                    return Ok(Some((serde_json::from_slice(&buffer[..len])?, fds)));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}
