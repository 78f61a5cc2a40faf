//! Ends of sessions that outlive their call, and perhaps the agent.
//!
//! The begin of a call that has started a session lies beside that session until its end is in the log, so
//! that an agent that is started again knows whose end it is. Where the agent dies between the two, or the log
//! could not be written, the next agent writes it: twice rather than not at all.

use std::sync::Arc;

use tracing::warn;

use crate::{
    audit::{Log, Open, Outcome},
    engine::{Engine, info::SessionEnd, session::Session},
};

/// Keeps the begin of a call beside the session that it has started.
pub fn keep(open: &Open, session: &Session) {
    let Some(begun) = open.saved() else { return };
    if let Err(error) = session.leave_note(&begun)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        let session = &session.id;
        warn!(session, %error, "the audit log will not have its end if the agent is started again");
    }
}

/// Writes the end of a session once it is there.
pub fn later(open: Open, session: Arc<Session>) {
    tokio::spawn(async move {
        let end = session.wait().await;
        now(open, Outcome::default(), session, &end);
    });
}

/// Writes the end of a session that is there.
pub fn now(open: Open, outcome: Outcome, session: Arc<Session>, end: &SessionEnd) {
    let written = open.end_with(outcome, end);
    tokio::spawn(async move {
        if written.await {
            session.remove_note();
        }
    });
}

/// Has the ends written of the sessions that an earlier agent has started.
pub fn resume(log: &Log, engine: &Engine) {
    for (session, begun) in engine.take_noted() {
        match log.resume(&begun) {
            Ok(open) => later(open, session),
            Err(error) => {
                warn!(session = session.id, %error, "nothing is known of who has started it");
                session.remove_note();
            }
        }
    }
}
