//! The task that follows one monitor: its packets become the session's state.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Session, State};
use crate::engine::{
    error::setup_sentence,
    info::{self, EndReason, SessionEnd},
    monitor::Monitor,
    watched::watched,
};
use conti_runtime::{
    journal::Totals,
    plan::SetupFailure,
    protocol::{End, FromMonitor, KillCause, MonitorState, ToMonitor, WaitStatus},
};

/// What came of a session, before its container is cleaned up.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: SessionEnd,
    /// Where its set-up failed: how.
    pub failure: Option<SetupFailure>,
}

/// Follows the monitor until the session has ended. `to_agent` is the eventfd that the monitor rings
/// when the journal has changed. The session's state is not `Ended` yet afterwards: see [`finish`].
pub async fn follow(session: &Arc<Session>, monitor: &Monitor, to_agent: OwnedFd) -> Outcome {
    let bell = match watched(to_agent) {
        Ok(bell) => bell,
        Err(error) => return broken(session, &error),
    };
    loop {
        tokio::select! {
            packet = monitor.receive() => match packet {
                Ok(Some((packet, _))) => {
                    if let Some(outcome) = apply(session, packet) {
                        return outcome;
                    }
                }
                Ok(None) => return gone(session),
                Err(error) => return broken(session, &error),
            },
            ready = bell.readable() => match ready {
                Ok(mut ready) => {
                    let mut count = [0; 8];
                    let _ = rustix::io::read(bell.get_ref(), &mut count);
                    ready.clear_ready();
                    session.activity.send_replace(());
                }
                Err(error) => return broken(session, &error),
            },
        }
    }
}

/// Takes the state that a monitor tells an agent that was started again.
pub fn adopt(session: &Arc<Session>, state: MonitorState) -> Option<Outcome> {
    match state {
        MonitorState::Assembling => None,
        MonitorState::Created(process) => apply(session, FromMonitor::Created(process)),
        MonitorState::Running(process) => {
            session.state.send_replace(State::Running(process));
            None
        }
        MonitorState::Failed(failure) => apply(session, FromMonitor::Failed(failure)),
        MonitorState::Ended(end) => apply(session, FromMonitor::Ended(end)),
    }
}

/// Makes the end known, and lets the monitor go.
pub fn finish(session: &Session, outcome: Outcome) {
    let monitor = session.monitor.lock().unwrap_or_else(|e| e.into_inner()).take();
    // Of those that ended while no agent was there an earlier one may have told already.
    if let Some(monitor) = monitor {
        session.counts.session_ended(&outcome.end);
        let _ = monitor.send(&ToMonitor::Release);
    }
    session.close_journal();
    session.state.send_replace(State::Ended(outcome.end, outcome.failure));
    session.activity.send_replace(());
}

fn apply(session: &Session, packet: FromMonitor) -> Option<Outcome> {
    match packet {
        FromMonitor::Created(process) => {
            session.state.send_replace(State::Created(process));
            None
        }
        FromMonitor::Started => {
            session.state.send_modify(|state| {
                if let State::Created(process) = *state {
                    *state = State::Running(process);
                    session.counts.sessions_started.add(1);
                }
            });
            None
        }
        FromMonitor::Failed(failure) => Some(failed(session, failure)),
        FromMonitor::Ended(end) => Some(Outcome { end: translate(&end), failure: None }),
        FromMonitor::State { state, .. } => match state {
            MonitorState::Failed(failure) => Some(failed(session, failure)),
            MonitorState::Ended(end) => Some(Outcome { end: translate(&end), failure: None }),
            _ => None,
        },
        FromMonitor::Prepared { .. } | FromMonitor::NotPrepared { .. } => None,
    }
}

fn failed(session: &Session, failure: SetupFailure) -> Outcome {
    let reason = EndReason::StartFailed {
        step: serde_json::to_value(failure.step)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default(),
        argument: failure.argument.clone(),
        errno: failure.errno,
        message: setup_sentence(&failure),
    };
    Outcome { end: end_now(reason, session.journal().totals()), failure: Some(failure) }
}

fn gone(session: &Session) -> Outcome {
    // It may have written the end before it went.
    match super::store::read_end(&session.dir) {
        Ok(end) => Outcome { end: translate(&end), failure: None },
        Err(_) => {
            Outcome { end: lost("its monitor died", session.journal().totals()), failure: None }
        }
    }
}

fn broken(session: &Session, error: &io::Error) -> Outcome {
    let why = format!("its monitor cannot be reached: {error}");
    Outcome { end: lost(&why, session.journal().totals()), failure: None }
}

/// An end of which nothing is known but why.
pub fn lost(why: &str, totals: Totals) -> SessionEnd {
    end_now(EndReason::Lost(why.to_owned()), totals)
}

fn end_now(reason: EndReason, totals: Totals) -> SessionEnd {
    SessionEnd {
        reason,
        time: SystemTime::now(),
        stdout_bytes: totals.stdout,
        stderr_bytes: totals.stderr,
        dropped_bytes: totals.dropped,
        drain_timed_out: false,
    }
}

/// A monitor's end, in the engine's words. The out-of-memory killer is told apart by the engine.
pub fn translate(end: &End) -> SessionEnd {
    let reason = match (end.wait, end.cause) {
        (WaitStatus::Exited(code), None) => EndReason::Exit(code),
        (_, Some(KillCause::Deadline)) => EndReason::Deadline,
        (_, Some(KillCause::ContainerGone)) => EndReason::ContainerGone,
        (WaitStatus::Exited(code), Some(_)) => EndReason::Exit(code),
        (WaitStatus::Signaled { signal, .. }, Some(cause)) => EndReason::Killed {
            signal,
            cause: match cause {
                KillCause::Disconnect => info::KillCause::Disconnect,
                _ => info::KillCause::Client,
            },
        },
        (WaitStatus::Signaled { signal, core }, None) => {
            EndReason::Signal { number: signal, core_dumped: core }
        }
    };
    SessionEnd {
        reason,
        time: UNIX_EPOCH + Duration::from_millis(end.time_ms),
        stdout_bytes: end.stdout_bytes,
        stderr_bytes: end.stderr_bytes,
        dropped_bytes: end.dropped_bytes,
        drain_timed_out: end.drain_timed_out,
    }
}
