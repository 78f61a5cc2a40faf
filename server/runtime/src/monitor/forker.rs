//! The forker: a child of the monitor that lives in the session's cgroups (version 1) and clones the
//! session's process on the monitor's behalf.
//!
//! A version 1 cgroup is joined by writing to its files, which can take milliseconds. A forker does
//! so before a plan is there; what it clones is born in its cgroups. With CLONE_PARENT the
//! process is the monitor's child all the same.
//!
//! ```text
//!   forker --Attached | NotAttached---------------------------------> monitor
//!          <-Spawn, fds: plan, stdio, status, gate, plan's fds; MoreFds--
//!          --Spawned, fd: pidfd | Failed | Staged------------------->  and exits
//! ```
//!
//! `Staged`: the process is born last, and the forker is its stage from here on
//! ([`crate::init::Stage`]); what became of it the monitor learns from memory that they share.
//!
//! Whoever freezes the cgroup freezes the forker. So the monitor never waits for it alone: it watches the
//! socket, and gives the forker up when the agent has gone, or time is up.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

use super::{
    failure,
    order::{gather, read_plan},
    process::start_ticks,
};
use crate::{
    fault,
    init::{Child, ChildStdio, PlanFds, ProcessEnds, Spawn, Stage},
    plan::{Fd, Plan, SetupFailure, Step},
    protocol::{MAX_PACKET, ProcessId},
    sys::{
        clone::exit_now,
        process::{Fork, fork},
        shm::StageReport,
        socket::{Packet, Wait, pair, recv_packet, send_packet, send_with_fds},
        wait::try_reap,
    },
};

/// The longest message to a forker; the plan comes as a file.
const MAX_MESSAGE: usize = 256;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToForker {
    /// Clone. Fds: the plan's memfd; the terminal, or stdin, stdout and stderr; the process's ends of the
    /// status pipe and the gate; the plan's fds.
    Spawn { terminal: bool, plan_fds: u32 },
    /// Further fds of the plan.
    MoreFds,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromForker {
    Attached,
    NotAttached {
        errno: i32,
    },
    /// Fd: its pidfd.
    Spawned {
        pid: i32,
    },
    Staged,
    Failed(SetupFailure),
}

/// The monitor's handle of its forker. When it is dropped, the forker exits; one that is not reaped by then is
/// left to the launcher.
#[derive(Debug)]
pub struct Forker {
    /// `None` once it is closed, upon which the forker exits.
    socket: Option<OwnedFd>,
    pid: i32,
    /// `None` once it belongs to a stage, which is reaped by its own handle.
    report: Option<StageReport>,
    pidfd: OwnedFd,
}

/// On which side of the fork one is.
pub enum Side {
    /// In the forker, with its socket, and with where it reports as a stage.
    Forker(OwnedFd, StageReport),
    /// In the monitor.
    Monitor(Forker),
}

/// Forks the forker.
pub fn fork_off() -> io::Result<Side> {
    let (ours, theirs) = pair()?;
    let report = StageReport::new()?;
    match fork()? {
        Fork::Child => Ok(Side::Forker(theirs, report)),
        Fork::Parent(pid) => {
            let number = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
            // It is not reaped yet, so that the pid is its own.
            let pidfd = pidfd_open(number, PidfdFlags::empty())?;
            Ok(Side::Monitor(Forker { socket: Some(ours), pid, report: Some(report), pidfd }))
        }
    }
}

impl Forker {
    /// What names it for good: it is not reaped yet.
    pub fn id(&self) -> ProcessId {
        ProcessId { pid: self.pid, start_ticks: start_ticks(self.pid) }
    }

    /// Readable when it has answered, or died. `None` once it was let go.
    pub fn socket(&self) -> Option<&OwnedFd> {
        self.socket.as_ref()
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Waits until it has joined its cgroups, but not longer than the agent does, whose socket is `control`.
    /// ESRCH: it has died, as it does where what is in one of these cgroups is killed at this moment.
    pub fn attached(&self, control: &OwnedFd) -> io::Result<()> {
        let socket = self.open_socket()?;
        loop {
            // Nothing is read from the agent here; that it has closed is told unasked.
            let mut fds =
                [PollFd::new(socket, PollFlags::IN), PollFd::new(control, PollFlags::empty())];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => break,
                Ok(_) if !fds[1].revents().is_empty() => {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let died = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                io::Error::from_raw_os_error(libc::ESRCH)
            }
            _ => error,
        };
        match self.receive().map_err(died)? {
            (FromForker::Attached, _) => Ok(()),
            (FromForker::NotAttached { errno }, _) => Err(io::Error::from_raw_os_error(errno)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks it to clone the process of a plan. It answers with [`Forker::child`].
    pub fn order(
        &self,
        plan: &OwnedFd,
        fds: &PlanFds,
        plan_fds: u32,
        stdio: &ChildStdio,
        ends: &ProcessEnds,
    ) -> Result<(), SetupFailure> {
        let mut all: Vec<BorrowedFd<'_>> = vec![plan.as_fd()];
        let terminal = match stdio {
            ChildStdio::Pipes { stdin, stdout, stderr } => {
                all.extend([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
                false
            }
            ChildStdio::Terminal { slave } => {
                all.push(slave.as_fd());
                true
            }
        };
        all.extend([ends.status.as_fd(), ends.gate.as_fd()]);
        for number in 0..plan_fds {
            all.push(fds.get(Fd(number))?);
        }
        let first = encode(&ToForker::Spawn { terminal, plan_fds }).map_err(lost)?;
        let more = encode(&ToForker::MoreFds).map_err(lost)?;
        send_with_fds(self.open_socket().map_err(lost)?, &first, &more, &all, Wait::No)
            .map_err(lost)
    }

    /// The process that it has cloned, or the stage that it has become. `None`: it has not answered yet.
    pub fn child(&mut self) -> Option<Result<Child, SetupFailure>> {
        let broken = || lost(io::ErrorKind::InvalidData.into());
        Some(match self.receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => Err(lost(error)),
            Ok((FromForker::Spawned { pid }, fds)) => match <[OwnedFd; 1]>::try_from(fds) {
                Ok([pidfd]) => Ok(Child::Born { pid, pidfd }),
                Err(_) => Err(broken()),
            },
            Ok((FromForker::Staged, _)) => self.become_stage().map(Child::Staged).map_err(lost),
            Ok((FromForker::Failed(failure), _)) => Err(failure),
            Ok(_) => Err(broken()),
        })
    }

    /// Lets it go: it exits by itself, unless it is frozen.
    pub fn let_go(&mut self) {
        self.socket = None;
    }

    /// Gives it up whatever it does: it carries nothing out any more. Its last word is still there.
    pub fn kill(&self) {
        // One that is gone already needs no signal.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for its end.
    pub fn ends_within(&self, time: Duration) -> bool {
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&time)).is_ok_and(|ready| ready > 0)
    }

    /// Ends what it has cloned, and had not told of when it was given up.
    pub fn kill_born(&mut self) {
        if let Some(Ok(child)) = self.child() {
            let _ = pidfd_send_signal(child.pidfd(), Signal::KILL);
        }
    }

    /// Whether it is a forker still, and no stage, which is reaped by its own handle.
    pub fn is_to_be_reaped(&self) -> bool {
        self.report.is_some()
    }

    /// Whether it has ended; it is reaped then.
    pub fn try_reap(&self) -> bool {
        !matches!(try_reap(&self.pidfd), Ok(None))
    }

    /// It is the stage of the process from here on.
    fn become_stage(&mut self) -> io::Result<Stage> {
        let pidfd = self.pidfd.try_clone()?;
        let report = self.report.take().ok_or(io::ErrorKind::NotFound)?;
        Ok(Stage::new(pidfd, report))
    }

    fn receive(&self) -> io::Result<(FromForker, Vec<OwnedFd>)> {
        // A failure may name a long path.
        let mut buffer = vec![0; MAX_PACKET];
        let packet = recv_packet(self.open_socket()?, &mut buffer, Wait::No)?;
        if packet.len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&buffer[..packet.len])?, packet.fds))
    }

    fn open_socket(&self) -> io::Result<&OwnedFd> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// The failure of a forker that does not answer as it should.
fn lost(error: io::Error) -> SetupFailure {
    failure(Step::Clone, "the forker in the cgroup", &error)
}

/// The forker's life. It ends with the process.
pub fn serve(
    socket: OwnedFd,
    report: &StageReport,
    cgroups: Vec<OwnedFd>,
    oom_score_adj: i32,
) -> ! {
    // For the eye only.
    let _ = rustix::thread::set_name(c"conti-forker");
    let attached = cgroups.into_iter().try_for_each(attach);
    fault::point("forker.attached");
    let told = match &attached {
        Ok(()) => send(&socket, &FromForker::Attached, &[]),
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            send(&socket, &FromForker::NotAttached { errno }, &[])
        }
    };
    crate::sys::process::release_free_memory();
    if told.is_ok()
        && let Ok(Some(order)) = Order::receive(&socket)
    {
        fault::point("forker.order");
        if let Err(failure) = order.carry_out(socket.as_fd(), report, oom_score_adj) {
            // A monitor that is gone cannot be told.
            let _ = send(&socket, &FromForker::Failed(failure), &[]);
        }
    }
    exit_now(0)
}

/// Moves this process into the cgroup of a `cgroup.procs` file.
fn attach(procs: OwnedFd) -> io::Result<()> {
    let mut file = File::from(procs);
    loop {
        // One write: the kernel takes each as a command.
        match file.write(b"0") {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a forker is asked for: how stdio comes, and all fds.
struct Order {
    terminal: bool,
    fds: Vec<OwnedFd>,
}

impl Order {
    /// `None` where the monitor has closed.
    fn receive(socket: &OwnedFd) -> io::Result<Option<Order>> {
        let mut buffer = [0; MAX_MESSAGE];
        let Packet { len, fds } = recv_packet(socket, &mut buffer, Wait::Yes)?;
        if len == 0 {
            return Ok(None);
        }
        let ToForker::Spawn { terminal, plan_fds } = serde_json::from_slice(&buffer[..len])? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let count = plan_fds as usize + if terminal { 4 } else { 6 };
        let is_more = |bytes: &[u8]| matches!(serde_json::from_slice(bytes), Ok(ToForker::MoreFds));
        Ok(Some(Order { terminal, fds: gather(socket, fds, count, is_more)? }))
    }

    /// Clones, or becomes a stage and does not return.
    fn carry_out(
        self,
        socket: BorrowedFd<'_>,
        report: &StageReport,
        oom_score_adj: i32,
    ) -> Result<(), SetupFailure> {
        let broken =
            || failure(Step::Plan, "the fds of the plan", &io::ErrorKind::InvalidData.into());
        let mut fds = self.fds.into_iter();
        let mut next = || fds.next().ok_or_else(broken);
        let memfd = next()?;
        let stdio = if self.terminal {
            ChildStdio::Terminal { slave: next()? }
        } else {
            ChildStdio::Pipes { stdin: next()?, stdout: next()?, stderr: next()? }
        };
        let ends = ProcessEnds { status: next()?, gate: next()? };
        let mut plan: Plan =
            read_plan(memfd).map_err(|error| failure(Step::Plan, "the plan", &error))?;
        plan.process.oom_score_adj.get_or_insert(oom_score_adj);
        let fds = PlanFds::new(fds.collect());
        let spawn = Spawn::new(&plan, &fds, &stdio, &ends)?;
        // What the monitor does not hear of it finds out by the forker's end.
        if plan.place.is_born_last() {
            let _ = send(socket, &FromForker::Staged, &[]);
            spawn.become_stage(report);
        }
        if let Child::Born { pid, pidfd } = spawn.as_sibling()? {
            let _ = send(socket, &FromForker::Spawned { pid }, &[pidfd.as_fd()]);
        }
        Ok(())
    }
}

fn encode(message: &ToForker) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(message)?)
}

fn send(socket: impl AsFd, message: &FromForker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_packet(socket, &serde_json::to_vec(message)?, fds, Wait::Yes)
}
