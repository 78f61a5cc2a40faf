//! Work that is carried to its end, whether its caller waits for it or has gone.
//!
//! A caller who may have so much under way at a time must not get rid of its share by hanging up: what counts as its
//! share goes along with the work, and is given back when that ends. Nor must it get rid of its record: so does the
//! [`Witness`], who is told what the work makes by the one who makes it, and the [`Threads`] that it may have.

use std::{any::Any, fmt::Debug, sync::Arc};

use tokio::{
    sync::Semaphore,
    task::{JoinHandle, LocalKey},
};
use tracing::Instrument as _;

use super::{
    container::Container,
    error::{Error, Result},
    session::Session,
};

/// What is held for as long as a call, or work that it has begun, is under way.
pub type Held = Arc<dyn Any + Send + Sync>;

/// Is told what comes of a call. It is dropped when the call and all its work have ended.
pub trait Witness: Debug + Send + Sync {
    /// A container was made.
    fn made(&self, container: &Container);

    /// A session was started.
    fn started(&self, session: &Arc<Session>);

    /// Work has ended, well or with a problem.
    fn ended(&self, problem: Option<&dyn std::error::Error>);
}

/// How many threads the work of one caller may have that touch what may hang.
pub type Threads = Arc<Semaphore>;

tokio::task_local! {
    static HELD: Held;
    static THREADS: Threads;
    static WITNESS: Arc<dyn Witness>;
}

/// Handles a call, which holds something and may have so many threads.
pub async fn holding<T>(held: Held, threads: Threads, call: impl Future<Output = T>) -> T {
    HELD.scope(held, THREADS.scope(threads, call)).await
}

/// The threads of the caller. `None`: it is the agent itself.
pub fn threads() -> Option<Threads> {
    THREADS.try_with(Clone::clone).ok()
}

/// Handles a call before a witness.
pub async fn before<T>(witness: Arc<dyn Witness>, call: impl Future<Output = T>) -> T {
    WITNESS.scope(witness, call).await
}

/// Tells the witness of the call, where it has one.
pub fn tell(what: impl FnOnce(&dyn Witness)) {
    let _ = WITNESS.try_with(|witness| what(&**witness));
}

/// Tells the witness of the call how work has ended.
pub fn ended<T, E: std::error::Error>(result: &std::result::Result<T, E>) {
    tell(|witness| witness.ended(result.as_ref().err().map(|error| error as _)));
}

/// Carries work out in a task of its own, which holds what the call holds, and has its witness.
pub fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let held = HELD.try_with(Clone::clone).ok();
    let work = async move {
        let done = work.await;
        drop(held);
        done
    };
    // In a box: it is large, and each layer would move all of it, on the stack of whoever began it.
    let work = Box::pin(work.in_current_span());
    let work = within(&THREADS, work);
    tokio::spawn(within(&WITNESS, work))
}

/// Work that has what the call has, where there is a call.
fn within<K: Clone + 'static, T>(
    key: &'static LocalKey<K>,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let of_call = key.try_with(Clone::clone);
    async move {
        match of_call {
            Ok(of_call) => key.scope(of_call, work).await,
            Err(_) => work.await,
        }
    }
}

/// As [`to_its_end`], of a change that somebody may wait for, and whose end the witness is told.
pub async fn change<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let change = async move {
        let result = change.await;
        ended(&result);
        result
    };
    to_its_end(change).await.unwrap_or(Err(Error::Stopping))
}
