//! Checks that wait for a mount that is being made.
//!
//! What a mount shows is known once it is attached, and until then nobody but an admin may have it. That is no answer
//! to whoever comes in between: it waits, and is checked again.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::{call::Call, status};
use crate::engine::{Engine, error::Error};

/// How long a call waits for mounts that are being made.
const PATIENCE: Duration = Duration::from_secs(10);

impl Call {
    /// Checks whether the caller may have what is in a container, or reaches it; where it may not, again for each
    /// mount around that container which is being made meanwhile.
    pub(super) async fn settled<T>(
        &self,
        engine: &Engine,
        container: &str,
        check: impl Fn() -> Result<T, Status>,
    ) -> Result<T, Status> {
        let deadline = Instant::now() + PATIENCE;
        let mut settled = engine.mounts_settled();
        loop {
            settled.mark_unchanged();
            let refused = match check() {
                Err(refused) => refused,
                allowed => return allowed,
            };
            // What was settled during the check may be what it has met.
            let meanwhile = settled.has_changed().unwrap_or(false);
            if !meanwhile && !engine.is_being_mounted_around(container) {
                return Err(refused);
            }
            tracing::debug!(container, "a call waits for a mount that is being made");
            if timeout_at(deadline, settled.changed()).await.is_err() {
                return Err(status::of(Error::MountUnderWay(container.to_owned())));
            }
        }
    }
}
