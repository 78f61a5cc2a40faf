//! A stage: the process that does everything for one that must be born last.
//!
//! Whoever lives in a pid namespace may be traced there, and what a tracer finds in a process is the
//! tracer's: rights, memory, files, the view of the host. So nothing with more rights than the target's own
//! is ever born in a pid namespace that others live in. A stage stays outside of it, joins everything,
//! takes the final ids, capabilities and filter, lets go of every file but stdio and the status pipe, and
//! only then clones. The clone leads a session, takes the terminal and executes; it is the monitor's child
//! (CLONE_PARENT), and what comes through its status pipe is not trusted.
//!
//! ```text
//!  monitor            stage                         clone
//!   |--clone----------->|
//!   |                   | pid namespace for children, the other namespaces, mounts
//!   |                   | user, limits, stdio, ids, capabilities, files, filter
//!   |                   |--clone, its pid into the report-->|
//!   |<-------exit-------|                                   | session, terminal, signals
//!   | reads the report                                      |
//!   |<--Ready, Executing------------------------------------|
//! ```
//!
//! A new user namespace gets its id map from a mapper, a child of the stage that stays where it was.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    io::{Errno, read, retry_on_intr},
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, waitid},
};

use super::{
    child::{self, Start},
    failure::{At as _, Fail, step_from_number},
    id_map,
    spawn::{clone_flags, enter_intermediate, new_namespaces, pipe},
    status::Status,
};
use crate::{
    plan::{ContainerPlan, NsSource, Place, Plan, SetupFailure, Step},
    protocol::WaitStatus,
    sys::{
        clone::{CloneArgs, Cloned, OnlyThread, clone_process, exit_now},
        ns::unshare_namespaces,
        shm::StageReport,
        wait,
    },
};

/// A stage at work, as its parent sees it.
#[derive(Debug)]
pub struct Stage {
    pidfd: OwnedFd,
    report: StageReport,
}

/// What became of a stage.
#[derive(Debug)]
pub enum Outcome {
    /// It cloned the process. A signal that ended the stage a moment later was meant for that one.
    Born {
        /// The process, which is the caller's child.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
        /// The signal that ended the stage.
        signal: Option<i32>,
    },
    /// Nothing was cloned.
    Failed(SetupFailure),
}

impl Stage {
    /// Of a child of the caller that reports there.
    pub fn new(pidfd: OwnedFd, report: StageReport) -> Stage {
        Stage { pidfd, report }
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// What became of it. `None` while it is at work. It is reaped.
    pub fn outcome(&self, plan: &Plan) -> Option<Outcome> {
        let end = wait::try_reap(&self.pidfd).transpose()?;
        let failed = |failure| Some(Outcome::Failed(failure));
        let Some(pid) = self.report.pid() else {
            let fail = failure(&self.report);
            return failed(fail.map_or_else(|| ended_early(&end), |fail| fail.describe(plan)));
        };
        let signal = match end {
            Ok(WaitStatus::Signaled { signal, .. }) => Some(signal),
            _ => None,
        };
        // It is the caller's child and not reaped, so that the pid is its own.
        let pidfd = Pid::from_raw(pid).ok_or(Errno::SRCH);
        match pidfd.and_then(|pid| pidfd_open(pid, PidfdFlags::empty())).at(Step::Clone) {
            Ok(pidfd) => Some(Outcome::Born { pid, pidfd, signal }),
            Err(fail) => failed(fail.describe(plan)),
        }
    }
}

/// The failure of a process that ended in the middle of the set-up without a word.
pub fn ended_early(end: &std::io::Result<WaitStatus>) -> SetupFailure {
    let argument = match end {
        Ok(WaitStatus::Exited(code)) => format!("it exited with code {code} during the set-up"),
        Ok(WaitStatus::Signaled { signal, .. }) => {
            format!("signal {signal} ended it during the set-up")
        }
        Err(error) => format!("its end is unknown: {error}"),
    };
    SetupFailure { step: Step::Init, argument, errno: 0 }
}

impl Place {
    /// Whether the process is born in a pid namespace that others live in.
    pub fn is_born_last(&self) -> bool {
        match self {
            Place::Join(_) => true,
            Place::Container(container) => matches!(container.namespaces.pid, NsSource::Join(_)),
            Place::Host(_) => false,
        }
    }
}

/// The life of a stage.
pub(super) fn run(proof: &OnlyThread, start: &mut Start<'_>, report: &StageReport) -> ! {
    let cloned = report.keep_from_children().at(Step::Clone).and_then(|()| {
        child::prepare(proof, start)?;
        proof.clone_sibling(report).at(Step::Clone)
    });
    match cloned {
        Ok(Some(_)) => exit_now(0),
        Ok(None) => child::finish(proof, start),
        Err(failed) => fail(report, failed),
    }
}

/// Reports why nothing is cloned, and ends.
pub(super) fn fail(report: &StageReport, Fail { step, index, errno }: Fail) -> ! {
    report.fail([step as i32, index as i32, errno]);
    exit_now(1)
}

/// The failure that was reported, if one was.
pub(super) fn failure(report: &StageReport) -> Option<Fail> {
    let [step, index, errno] = report.failure();
    Some(Fail { step: step_from_number(step as u32)?, index: index as u32, errno })
}

/// Moves a stage into the namespaces of a container that joins a pid namespace: those of others first,
/// while it has its rights over them.
pub(super) fn enter_namespaces(container: &ContainerPlan, start: &Start<'_>) -> Result<(), Fail> {
    let new_user = container.namespaces.user == NsSource::New;
    // Born before the pid namespace is joined, and so outside of it.
    let mapper = if new_user { Some(Mapper::start(start)?) } else { None };
    enter_intermediate(container, start.fds)?;
    unshare_namespaces(clone_flags(&new_namespaces(container))).at(Step::Clone)?;
    mapper.map_or(Ok(()), Mapper::write)
}

/// A process that writes the id map of the stage's new user namespace: the stage has no right to, once it
/// is in there.
struct Mapper {
    pidfd: OwnedFd,
    /// Closed when the namespace is there.
    made: OwnedFd,
    /// Gives one [`Status`]: ready or failed.
    answer: OwnedFd,
}

impl Mapper {
    fn start(start: &Start<'_>) -> Result<Mapper, Fail> {
        let stage = getpid().as_raw_nonzero().get();
        let (is_made, made) = pipe().at(Step::IdMap)?;
        let (answer, mapper_answer) = pipe().at(Step::IdMap)?;
        match clone_process(&CloneArgs::default()).at(Step::IdMap)? {
            Cloned::Parent { pidfd, .. } => Ok(Mapper { pidfd, made, answer }),
            Cloned::Child(_) => {
                drop(made);
                let written = wait_for_end(is_made.as_fd()).at(Step::IdMap).and_then(|()| {
                    let maps = start.plan.place.id_maps().unwrap_or_default();
                    id_map::write_maps(stage, maps, &start.plan.place, start.fds)
                });
                let told = written.map_or_else(Status::from, |()| Status::Ready);
                // A stage that is gone needs no map.
                let _ = told.send(mapper_answer.as_fd());
                exit_now(0)
            }
        }
    }

    fn write(self) -> Result<(), Fail> {
        drop(self.made);
        let mut record = [0; Status::RECORD_LEN];
        let length = retry_on_intr(|| read(&self.answer, &mut record)).at(Step::IdMap)?;
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        match Status::decode(&record[..length]) {
            Some(Status::Ready) => Ok(()),
            Some(Status::Failed { step, index, errno }) => Err(Fail { step, index, errno }),
            _ => Err(Fail::new(Step::IdMap, 0, Errno::CHILD)),
        }
    }
}

/// Waits until the other end is closed.
fn wait_for_end(pipe: BorrowedFd<'_>) -> Result<(), Errno> {
    retry_on_intr(|| read(pipe, &mut [0; 1])).map(drop)
}
