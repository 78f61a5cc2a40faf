//! Answers that are too long for one message and come in parts.

use std::sync::Arc;

use futures::{StreamExt as _, stream, stream::BoxStream};
use tonic::{Response, Status};

use super::{call::Call, status, stopping::Stopping};
use crate::engine::{Engine, inspect::Look, spec::Target};

/// What is told in parts.
pub trait Parts: Send + 'static {
    /// A message with one part.
    type Message: Send;

    /// The next part. `None`: that was all.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Message>, Status>> + Send;
}

/// Parts of which each is told only if the caller may look into the target still, once it was found: what is there may
/// have become more since the call was let in. What a container has reached is forgotten at its end, so that all that is
/// told is of one run.
struct Checked<P> {
    parts: P,
    call: Call,
    engine: Arc<Engine>,
    of: Target,
    look: Look,
}

/// The answer to a call that looks into a target, which is named by the id of its container.
pub fn checked<P: Parts>(
    parts: P,
    (call, of): (Call, Target),
    engine: &Arc<Engine>,
    stopping: Stopping,
) -> Result<Response<PartStream<P::Message>>, Status> {
    let engine = engine.clone();
    let look = engine.begin_look(&of).map_err(status::of)?;
    Ok(Response::new(stream(Checked { parts, call, engine, of, look }, stopping)))
}

impl<P: Parts> Parts for Checked<P> {
    type Message = P::Message;

    async fn next(&mut self) -> Result<Option<P::Message>, Status> {
        let part = self.parts.next().await?;
        self.call.check_target(&self.engine, &self.of).await?;
        self.look.check().map_err(status::of)?;
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
