//! Work that is carried to its end, whether its caller waits for it or has gone.
//!
//! A caller who may have so much under way at a time must not get rid of its share by hanging up: what counts as its
//! share goes along with the work, and is given back when that ends.

use std::{any::Any, sync::Arc};

use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// What is held for as long as a call, or work that it has begun, is under way.
pub type Held = Arc<dyn Any + Send + Sync>;

tokio::task_local! {
    static HELD: Held;
}

/// Handles a call, which holds something.
pub async fn holding<T>(held: Held, call: impl Future<Output = T>) -> T {
    HELD.scope(held, call).await
}

/// Carries work out in a task of its own, which holds what the call holds.
pub fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let held = HELD.try_with(Clone::clone).ok();
    let work = async move {
        let done = work.await;
        drop(held);
        done
    };
    tokio::spawn(work.in_current_span())
}
