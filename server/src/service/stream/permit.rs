//! Whether a stream may go on: what its session reaches may change while it is open.

use std::{future::pending, sync::Arc};

use tokio::sync::watch;
use tonic::{Code, Status};

use crate::{
    engine::{Engine, session::Session},
    service::call::Call,
};

/// What a stream goes on by. Its caller is checked again whenever what the session reaches has changed, by the rule
/// that lets one attach; else that costs one look at a counter. Each clone checks for itself.
#[derive(Debug, Clone)]
pub struct Permit {
    engine: Arc<Engine>,
    call: Call,
    session: Arc<Session>,
    changes: watch::Receiver<()>,
}

impl Permit {
    /// For a caller that was let in.
    pub fn new(engine: &Arc<Engine>, call: &Call, session: &Arc<Session>) -> Permit {
        let mut changes = session.surroundings_changes();
        // It was let in a moment ago, and something may have changed since.
        changes.mark_changed();
        Permit { engine: engine.clone(), call: call.clone(), session: session.clone(), changes }
    }

    /// Its session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Checks the caller again, where that is due. To be asked between reading output and sending it: what has
    /// changed before it was written is seen then.
    pub async fn check(&mut self) -> Result<(), Status> {
        if !self.changes.has_changed().unwrap_or(false) {
            return Ok(());
        }
        self.changes.mark_unchanged();
        loop {
            match self.call.check_reader(&self.engine, &self.session).await {
                // Nothing goes on until it is known.
                Err(status) if status.code() == Code::Aborted => {}
                known => return known,
            }
        }
    }

    /// Resolves when a check is due.
    pub async fn is_due(&mut self) {
        match self.changes.changed().await {
            Ok(()) => self.changes.mark_changed(),
            // Cannot be: the session holds the sender.
            Err(_) => pending().await,
        }
    }
}
