//! The monitor: the parent of one session's process. It holds the process's stdio, fills its journal,
//! records its end, and outlives agent and launcher.
//!
//! ```text
//!   run      prepare (attach a forker to cgroups) -> receive the plan -> spawn -> serve -> exit
//! ```
//!
//! - this file: that sequence;
//! - `forker`: a child that lives in the session's cgroups and clones on the monitor's behalf;
//! - `order`: the plan and what comes with it;
//! - `stdio`: pipes or a terminal for the process;
//! - `session`: the event loop, and what happens in which state;
//! - `process`: the process, from its set-up to its end;
//! - `group`: what ends together with it;
//! - `look`: what /proc says of it where its parent is not told;
//! - `streams`: between stdio and the journal;
//! - `agent`: the connection to the agent that is there, or to the next one;
//! - `record`: what is left in the session's directory.

mod agent;
mod forker;
#[cfg(test)]
mod fuzz;
mod group;
mod look;
mod order;
mod process;
pub mod record;
mod session;
mod stdio;
mod streams;

use std::{io, os::fd::OwnedFd};

use rustix::process::Signal;

use self::{forker::Forker, session::Session};
use crate::{
    init::{self, PlanFds, Spawn},
    plan::{Plan, SetupFailure, Step},
    protocol::{FromMonitor, ProcessId},
    sys::{
        process::release_free_memory,
        signal::{Disposition, set_disposition},
        socket::{Wait, send_packet},
    },
};

/// Runs a monitor to its end. The first fd is its control socket; the others are `cgroup.procs` files.
/// `oom_score_adj` is that of a session whose plan names none.
pub fn run(fds: Vec<OwnedFd>, oom_score_adj: i32) {
    let mut fds = fds.into_iter();
    let Some(control) = fds.next() else { return };
    let cgroups: Vec<OwnedFd> = fds.collect();
    if let Err(error) = settle() {
        return refuse(&control, &error);
    }
    let forker = if cgroups.is_empty() { None } else { Some(forker::fork_off()) };
    let forker = match forker {
        None => None,
        Some(Ok(forker::Side::Forker(socket, report))) => {
            // Only the monitor holds its control socket: the agent sees the monitor's end by it.
            drop(control);
            forker::serve(socket, &report, cgroups, oom_score_adj)
        }
        Some(Ok(forker::Side::Monitor(forker))) => match forker.attached(&control) {
            Ok(()) => Some(forker),
            Err(error) => {
                // One that is stopped would stay.
                forker.kill();
                return refuse(&control, &error);
            }
        },
        Some(Err(error)) => return refuse(&control, &error),
    };
    drop(cgroups);
    let prepared =
        FromMonitor::Prepared { forker: forker.as_ref().map(Forker::id), monitor: own_id() };
    if tell(&control, &prepared).is_err() {
        forker.iter().for_each(Forker::kill);
        return;
    }
    if forker.is_some() {
        // Such a monitor is made in advance and may wait for long; others get their order at once.
        release_free_memory();
    }
    // Without a whole order nothing was begun: the agent sees this socket close, the forker its own.
    let Ok(Some(order)) = order::receive(&control) else { return };
    let mut session = Session::new(control, order.links, order.journal);
    if let Err(failure) = carry_out(order.plan, order.fds, forker, oom_score_adj, &mut session) {
        session.fail(failure);
    }
    session.serve();
}

/// Makes the fork of the launcher a monitor.
fn settle() -> io::Result<()> {
    // A session of its own: no signal to the launcher's process group reaches it.
    rustix::process::setsid()?;
    rustix::thread::set_name(c"conti-monitor")?;
    // The launcher ignores it, which would reap children before their end is known.
    set_disposition(Signal::CHILD, Disposition::Default)
}

/// What names this process for good.
fn own_id() -> ProcessId {
    let pid = rustix::process::getpid().as_raw_pid();
    ProcessId { pid, start_ticks: process::start_ticks(pid) }
}

fn refuse(control: &OwnedFd, error: &io::Error) {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    // An agent that is gone need not be told.
    let _ = tell(control, &FromMonitor::NotPrepared { errno });
}

/// Starts the process of a plan.
fn carry_out(
    plan: io::Result<Plan>,
    fds: order::Fds,
    forker: Option<Forker>,
    oom_score_adj: i32,
    session: &mut Session,
) -> Result<(), SetupFailure> {
    let mut plan = plan.map_err(|error| failure(Step::Plan, "the plan", &error))?;
    plan.process.oom_score_adj.get_or_insert(oom_score_adj);
    let count = u32::try_from(fds.plan.len()).unwrap_or(u32::MAX);
    let plan_fds = PlanFds::new(fds.plan);
    let (theirs, ours) = stdio::make(&plan.stdio, &plan_fds)?;
    session.keep_devpts(stdio::devpts(&plan.place, &plan_fds)?);
    let (status, process_ends) =
        init::pipes().map_err(|errno| failure(Step::Stdio, "the status pipe", &errno.into()))?;
    session.limit(&plan);
    match forker {
        None => {
            let child = Spawn::new(&plan, &plan_fds, &theirs, &process_ends)?.as_child()?;
            session.begin(plan, child, status, ours);
        }
        Some(forker) => {
            forker.order(&fds.memfd, &plan_fds, count, &theirs, &process_ends)?;
            session.expect(forker, plan, status, ours);
        }
    }
    Ok(())
}

/// A failure of the monitor's own: a step, what it was tried on, and the kernel's answer.
fn failure(step: Step, argument: &str, error: &io::Error) -> SetupFailure {
    match error.raw_os_error() {
        Some(errno) => SetupFailure { step, argument: argument.to_owned(), errno },
        None => SetupFailure { step, argument: format!("{argument}: {error}"), errno: 0 },
    }
}

fn tell(socket: &OwnedFd, message: &FromMonitor) -> io::Result<()> {
    send_packet(socket, &serde_json::to_vec(message)?, &[], Wait::Yes)
}
