//! Tells a stream at once that another stream has taken its session over.
//!
//! Every driver of this agent is made here, under one lock: so the order in which streams hear of
//! it is the order in which they took over.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::engine::session::{Driver, Session};

/// The streams that drive a session now, by the session's id.
#[derive(Debug, Clone, Default)]
pub struct Takeovers(Arc<Mutex<HashMap<String, Hold>>>);

/// A stream's hold of a session. It ends when another takes the session over.
#[derive(Debug, Clone)]
pub struct Hold {
    over: CancellationToken,
}

impl Hold {
    /// Whether another drives the session.
    pub fn is_lost(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Resolves when another drives the session.
    pub fn lost(&self) -> WaitForCancellationFutureOwned {
        self.over.clone().cancelled_owned()
    }
}

impl Takeovers {
    /// Drives a session from `from` on, in the place of the stream that did.
    pub fn drive(&self, session: &Arc<Session>, from: Option<u64>) -> (Driver, Hold) {
        self.take(&session.id, || session.drive(from))
    }

    fn take<D>(&self, session: &str, drive: impl FnOnce() -> D) -> (D, Hold) {
        let hold = Hold { over: CancellationToken::new() };
        let mut holds = self.lock();
        let driver = drive();
        if let Some(before) = holds.insert(session.to_owned(), hold.clone()) {
            before.over.cancel();
        }
        (driver, hold)
    }

    /// Forgets a stream that is over, where none has taken its place.
    pub fn leave(&self, session: &str, hold: &Hold) {
        let mut holds = self.lock();
        if !hold.is_lost() {
            holds.remove(session);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_before_hears_of_it_and_the_one_after_does_not() {
        let takeovers = Takeovers::default();
        let (_, first) = takeovers.take("a", || ());
        let (_, other) = takeovers.take("b", || ());
        let (_, second) = takeovers.take("a", || ());
        first.lost().await;
        assert!(first.is_lost() && !second.is_lost() && !other.is_lost());
        // Gone later than its successor came: it must not take that one with it.
        takeovers.leave("a", &first);
        let (_, third) = takeovers.take("a", || ());
        assert!(second.is_lost());
        takeovers.leave("a", &third);
        takeovers.leave("b", &other);
        assert!(takeovers.lock().is_empty());
    }
}
