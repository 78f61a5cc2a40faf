//! The end of the agent, for those who wait for something.

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::status;

/// Tells all calls that wait that the agent stops, so that they end with UNAVAILABLE and their
/// clients ask again later.
#[derive(Debug, Clone, Default)]
pub struct Stopping(CancellationToken);

impl Stopping {
    /// Says that the agent stops.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether the agent stops.
    pub fn begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when the agent stops.
    pub fn wait(&self) -> WaitForCancellationFutureOwned {
        self.0.clone().cancelled_owned()
    }

    /// Waits for something, but not beyond the end of the agent.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, Status> {
        tokio::select! {
            biased;
            value = work => Ok(value),
            () = self.0.cancelled() => Err(status::stopping()),
        }
    }
}
