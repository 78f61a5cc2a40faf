//! A session whose deadline has passed, and whose process is there still: the kernel ends nothing that waits for a
//! device or a filesystem which does not answer, also when it was killed.

use std::future::pending;

use tokio::time::{Instant, sleep, sleep_until};

use super::{Session, State};
use crate::engine::{
    bounds::{self, State as ProcessState},
    error::Error,
};

impl Session {
    /// Resolves where its process is there long after its deadline has passed: with what is in the way. Never, where
    /// it has no deadline. It counts from now, which is later than it began.
    pub async fn overdue(&self) -> Error {
        let deadline = self.record.io.policy.deadline;
        let due = deadline.and_then(|deadline| Instant::now().checked_add(deadline + bounds::END));
        let Some(due) = due else { return pending().await };
        sleep_until(due).await;
        loop {
            if let State::Created(process) | State::Running(process) = self.state()
                && ProcessState::of(process).is_some_and(|state| !state.is_over())
            {
                return bounds::stuck(
                    format!("the deadline of session {} has passed and it was killed", self.id),
                    "its process".to_owned(),
                    process.pid,
                    "what it waits for may be a filesystem or a device, or its monitor may be stopped; it goes when that \
                     answers",
                );
            }
            sleep(bounds::LOOK).await;
        }
    }
}
