//! Signals to the processes of sessions: they are heard, or it is said that they are not.

use std::path::PathBuf;

use super::{
    Engine,
    bounds::{self, blocking},
    error::{Error, Result},
    session::{Session, State},
};

impl Engine {
    /// Sends a signal to the process of a session on a client's behalf. One that is frozen is thawed to be killed,
    /// with its container; any other signal it would hear some time later or never, and that is refused.
    pub async fn signal(&self, session: &Session, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.kill_session(session).await;
        }
        let pid = pid(session);
        match pid.and_then(|pid| self.cgroups.frozen_process(pid).ok()?) {
            None => session.signal(signal),
            Some(file) => Err(frozen(session, file, "the signal would not be heard")),
        }
    }

    async fn kill_session(&self, session: &Session) -> Result<()> {
        session.signal(libc::SIGKILL)?;
        let held = || pid(session).and_then(|pid| self.cgroups.holds_killed(pid).ok()?);
        if held().is_none() {
            return Ok(());
        }
        let container = session.record.container.as_ref();
        let container = container.and_then(|of| self.registry.container(&of.id).ok());
        if let Some(cgroup) = container.and_then(|container| container.now().cgroup.clone()) {
            blocking(bounds::CGROUPS, "cannot thaw a cgroup", move || cgroup.thaw()).await?;
        }
        // A cgroup above that of a container, or that of a process of the host, is not Conti's to thaw.
        match held() {
            None => Ok(()),
            Some(file) => Err(frozen(session, file, "it was killed, and does not die before")),
        }
    }
}

/// The process of a session.
fn pid(session: &Session) -> Option<i32> {
    match session.state() {
        State::Created(process) | State::Running(process) => Some(process.pid),
        State::Assembling | State::Ended(..) => None,
    }
}

fn frozen(session: &Session, file: PathBuf, problem: &'static str) -> Error {
    let target = match &session.record.container {
        Some(container) => format!("container {}", container.name),
        None => format!("the process of session {}", session.id),
    };
    Error::Frozen { target, file: file.to_string_lossy().into_owned(), problem }
}
