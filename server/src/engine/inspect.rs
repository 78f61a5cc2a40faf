//! Questions about the host or a target, each answered by an inspector of its own.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use conti_runtime::{
    inspect::question::{Answer, Failure, MAX_PACKET, Question},
    protocol::ProcessId,
    sys::socket::{self, Packet, Wait},
};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, timeout_at},
};

use super::{
    Engine, bounds,
    container::Container,
    error::{Error, Result},
    fault,
    inspectors::Turn,
    io_error,
    process::Pinned,
    spec::Target,
    watched::watched,
};

/// How long an inspector may be silent: a mount that does not answer holds it for ever.
const SILENCE: Duration = Duration::from_secs(30);

/// What is done with a container that is looked into.
const LOOK: &str = "look into";

/// A look into a container as it runs: it ends with that.
#[derive(Debug)]
pub struct Look(Option<(Arc<Container>, ProcessId)>);

impl Look {
    /// Refuses to tell more of a container that has ended, though it may have been started again.
    pub fn check(&self) -> Result<()> {
        match &self.0 {
            Some((container, process)) => container.check_run(*process, LOOK),
            None => Ok(()),
        }
    }
}

/// An inspector at work. Dropped before its end, the inspector is killed.
#[derive(Debug)]
pub struct Inspection {
    socket: AsyncFd<OwnedFd>,
    /// Its pid.
    pid: i32,
    /// The inspector itself, from its first answer on.
    process: Option<OwnedFd>,
    /// What came beside an answer and was not taken yet.
    fds: Vec<OwnedFd>,
    /// Whether the last answer has come.
    over: bool,
    turn: Turn,
    look: Look,
    /// The process whose namespaces it is in.
    of: Option<ProcessId>,
}

impl Engine {
    /// A look into a target.
    pub fn begin_look(&self, target: &Target) -> Result<Look> {
        let container = self.container_in(target);
        let process = container.as_ref().map(|container| container.running_process(LOOK));
        Ok(Look(container.zip(process.transpose()?)))
    }

    /// Asks a question about a target. Where that is a container which ends meanwhile, the answer is that it does.
    pub(super) async fn look_into(
        &self,
        target: &Target,
        question: &Question,
    ) -> Result<Inspection> {
        let container = self.container_in(target);
        fault::point("look_into.asked").await;
        let mut inspection = self.inspect(question, &[]).await?;
        inspection.look = Look(container.zip(question.process()));
        Ok(inspection)
    }

    /// The id of the container in whose cgroups a process is; their name, if it is not known any more.
    fn container_around(&self, pid: i32) -> Option<String> {
        let cgroup = self.cgroups.name_of(pid)?;
        let all = self.registry.containers().into_iter();
        let mut all = all.filter(|one| one.cgroup_name().as_ref() == Some(&cgroup));
        Some(all.next().map_or(cgroup, |one| one.id.clone()))
    }

    /// The container that a target is.
    pub(super) fn container_in(&self, target: &Target) -> Option<Arc<Container>> {
        let Target::Container(id) = target else { return None };
        self.registry.container(id).ok()
    }

    /// Asks a question, with fds beside it.
    pub(super) async fn inspect(&self, question: &Question, fds: &[OwnedFd]) -> Result<Inspection> {
        let waits = self.counts.question_waits();
        let container = question.process().and_then(|of| self.container_around(of.pid));
        let turn = self.inspectors.turn(container.as_deref()).await;
        drop(waits);
        let turn = turn?;
        let packet = postcard::to_allocvec(question)
            .map_err(|error| Error::Internal(format!("cannot encode a question: {error}")))?;
        let failed = io_error("cannot make an inspector");
        let (socket, pid) = self.launcher.spawn_inspector().await?;
        let socket = watched(socket).map_err(&failed)?;
        let mut inspection = Inspection {
            socket,
            pid,
            process: None,
            fds: Vec::new(),
            over: false,
            turn,
            look: Look(None),
            of: question.process(),
        };
        // It is known, so that it can be ended, before it has something to hang on.
        inspection.receive().await?;
        let fds: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
        let socket = inspection.socket.get_ref();
        socket::send_packet(socket, &packet, &fds, Wait::No).map_err(&failed)?;
        Ok(inspection)
    }

    /// The process that stands for a target: it is in all of its namespaces.
    pub(super) fn process_of(&self, target: &Target, action: &'static str) -> Result<ProcessId> {
        match target {
            Target::Container(id) => self.registry.container(id)?.running_process(action),
            Target::Process { pid, start_ticks } => Ok(Pinned::open(*pid, *start_ticks)?.id()),
            Target::Host => Ok(Pinned::open(std::process::id() as i32, None)?.id()),
        }
    }
}

impl Inspection {
    /// The next answers, as many as came together. `None`: that was all.
    pub async fn next(&mut self) -> Result<Option<Vec<Answer>>> {
        while !self.over {
            let answers = match self.receive().await {
                Ok(answers) => answers,
                Err(Error::Internal(problem)) => return Err(self.lost(problem).await),
                Err(error) => return Err(error),
            };
            self.look.check()?;
            let mut content = Vec::with_capacity(answers.len());
            for answer in answers {
                match answer {
                    Answer::Began => {}
                    Answer::Done => self.over = true,
                    Answer::Failed(failure) => {
                        self.over = true;
                        return Err(match &self.look.0 {
                            Some((container, _)) => {
                                container.explain_gone(LOOK, failure.into()).await
                            }
                            None => failure.into(),
                        });
                    }
                    other => content.push(other),
                }
            }
            if !content.is_empty() {
                return Ok(Some(content));
            }
        }
        Ok(None)
    }

    /// Why there is no inspector any more: it was killed with what it looked into, or has a defect.
    async fn lost(&self, problem: String) -> Error {
        let ended = match &self.look.0 {
            Some((container, _)) => {
                container.ends_soon().await;
                container.running_process(LOOK).err()
            }
            None => self.of.and_then(|of| Pinned::open(of.pid, Some(of.start_ticks)).err()),
        };
        ended.unwrap_or(Error::Internal(problem))
    }

    /// The fd that came beside the last answers.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop()
    }

    async fn receive(&mut self) -> Result<Vec<Answer>> {
        let lost = |problem: &str| Error::Internal(format!("the inspector {problem}"));
        let deadline = Instant::now() + SILENCE;
        let mut buffer = vec![0; MAX_PACKET];
        let packet = loop {
            let ready = timeout_at(deadline, self.socket.readable()).await;
            let mut ready = match ready {
                Ok(ready) => ready.map_err(io_error("cannot wait for an inspector"))?,
                Err(_) => {
                    let silence = humantime::format_duration(SILENCE);
                    return Err(bounds::stuck(
                        format!("the question was given up after {silence} without an answer"),
                        "its inspector".into(),
                        self.pid,
                        "a filesystem of the target may hang",
                    ));
                }
            };
            match ready.try_io(|fd| socket::recv_packet(fd, &mut buffer, Wait::No)) {
                Ok(Ok(Packet { len: 0, .. })) => {
                    return Err(lost("ended in the middle of its work"));
                }
                Ok(Ok(packet)) => break packet,
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(lost("ended in the middle of its work"));
                }
                Ok(Err(error)) => return Err(io_error("cannot hear an inspector")(error)),
                Err(_would_block) => {}
            }
        };
        let mut fds = packet.fds;
        if self.process.is_none() {
            // The first packet says that it runs.
            self.process = fds.pop();
            if let Some(process) = &self.process {
                self.turn
                    .began(self.pid, process)
                    .map_err(io_error("cannot keep hold of an inspector"))?;
            }
        }
        self.fds.extend(fds);
        let mut rest = &buffer[..packet.len];
        let mut answers = Vec::new();
        while !rest.is_empty() {
            let (answer, behind) = postcard::take_from_bytes(rest)
                .map_err(|error| lost(&format!("said what nobody understands: {error}")))?;
            answers.push(answer);
            rest = behind;
        }
        Ok(answers)
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        let Some(pidfd) = self.process.take() else { return };
        if self.over {
            return self.turn.answered(self.pid);
        }
        // It may be held where it does not see that nobody listens any more.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        self.turn.given_up(self.pid, pidfd);
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Gone { pid, problem } => Error::TargetGone { pid, problem },
            Failure::Refused { tried, argument, errno } => {
                Error::Refused { tried, argument, errno }
            }
        }
    }
}
