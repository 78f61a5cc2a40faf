//! Answers that are too long for one message and come in parts.

use futures::{StreamExt as _, stream, stream::BoxStream};
use tonic::Status;

use super::stopping::Stopping;

/// What is told in parts.
pub trait Parts: Send + 'static {
    /// A message with one part.
    type Message: Send;

    /// The next part. `None`: that was all.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Message>, Status>> + Send;
}

/// The messages of an answer, one after the other as the client takes them.
pub type PartStream<T> = BoxStream<'static, Result<T, Status>>;

/// Tells all parts, but not beyond the end of the agent.
pub fn stream<P: Parts>(parts: P, stopping: Stopping) -> PartStream<P::Message> {
    stream::unfold(Some((parts, stopping)), async |state| {
        let (mut parts, stopping) = state?;
        match stopping.or(parts.next()).await {
            Ok(Ok(Some(message))) => Some((Ok(message), Some((parts, stopping)))),
            Ok(Ok(None)) => None,
            Ok(Err(status)) | Err(status) => Some((Err(status), None)),
        }
    })
    .boxed()
}
