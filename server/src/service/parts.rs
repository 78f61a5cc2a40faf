//! Answers that are too long for one message and come in parts.

use std::sync::Arc;

use futures::{StreamExt as _, stream, stream::BoxStream};
use tonic::Status;

use super::{call::Call, stopping::Stopping};
use crate::engine::{Engine, spec::Target};

/// What is told in parts.
pub trait Parts: Send + 'static {
    /// A message with one part.
    type Message: Send;

    /// The next part. `None`: that was all.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Message>, Status>> + Send;
}

/// Parts of which each is told only if the caller may look into the target still, once it was found: somebody may
/// have mounted something there since the call was let in.
pub struct Checked<P> {
    /// What is told.
    pub parts: P,
    /// The call that is answered.
    pub call: Call,
    /// Who knows the target.
    pub engine: Arc<Engine>,
    /// The target, with the id of its container.
    pub of: Target,
}

impl<P: Parts> Parts for Checked<P> {
    type Message = P::Message;

    async fn next(&mut self) -> Result<Option<P::Message>, Status> {
        let part = self.parts.next().await?;
        self.call.check_target(&self.engine, &self.of).await?;
        Ok(part)
    }
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
