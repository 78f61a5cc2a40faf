//! What a call is sent, as it comes: a message that has begun is to be there in time, and large ones are counted until
//! their service has taken them. Between the messages of a stream may lie days.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};
use tonic::{Status, body::Body};

use super::status;

/// How long a message may take, and the first one until it begins.
const TIME: Duration = Duration::from_secs(20);
/// The least bytes a second, beyond that time, of a large message.
const SLOWEST: u32 = 64 * 1024;
/// A message up to this size is not counted: calls are.
const SMALL: usize = 16 * 1024;
/// The head of a message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// The body of a request.
#[derive(Debug)]
pub struct Intake {
    body: Body,
    /// Whose call it is.
    name: String,
    /// Bytes of large messages that its caller may still begin.
    large: Arc<Semaphore>,
    head: Vec<u8>,
    /// Bytes of the message under way that are not there yet.
    missing: usize,
    held: Option<OwnedSemaphorePermit>,
    /// How long the message under way may still be waited for.
    left: Option<Duration>,
    /// Since when it is waited for. While its service does something else, nobody waits.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Intake {
    /// The body of a call by `name`, which may have `large` bytes of large messages under way.
    pub fn new(body: Body, name: String, large: Arc<Semaphore>) -> Intake {
        let left = Some(TIME);
        Intake { body, name, large, head: Vec::new(), missing: 0, held: None, left, waiting: None }
    }

    /// Follows the messages through more of their bytes.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.missing > 0 {
                let part = bytes.len().min(self.missing);
                self.missing -= part;
                bytes = &bytes[part..];
            } else {
                self.left.get_or_insert(TIME);
                let part = bytes.len().min(HEAD - self.head.len());
                self.head.extend_from_slice(&bytes[..part]);
                bytes = &bytes[part..];
                if let [_, length @ ..] = self.head.as_slice()
                    && let Ok(length) = <[u8; 4]>::try_from(length)
                {
                    self.begin(u32::from_be_bytes(length))?;
                } else {
                    return Ok(());
                }
            }
            if self.missing == 0 {
                self.left = None;
            }
        }
        Ok(())
    }

    fn begin(&mut self, length: u32) -> Result<(), Status> {
        self.head.clear();
        self.missing = length as usize;
        if self.missing > SMALL {
            // One that is larger than all is refused by its size when it is read.
            let counted = length.min(super::edge::DECODE_MAX as u32);
            let held = self.large.clone().try_acquire_many_owned(counted);
            let held = held.map_err(|_| status::too_large_together(&self.name))?;
            self.held = Some(held);
            let more = Duration::from_secs(u64::from(counted / SLOWEST));
            self.left = Some(TIME + more);
        }
        Ok(())
    }
}

impl http_body::Body for Intake {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.missing == 0 {
            // Whoever asks for more has taken what was there.
            this.held = None;
        }
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            let Some(left) = this.left else { return Poll::Pending };
            let waiting = || (Instant::now(), Box::pin(sleep(left)));
            let (_, limit) = this.waiting.get_or_insert_with(waiting);
            ready!(limit.as_mut().poll(context));
            (this.left, this.waiting) = (None, None);
            return Poll::Ready(Some(Err(status::too_slow(&this.name))));
        };
        if let Some((since, _)) = this.waiting.take() {
            this.left = this.left.map(|left| left.saturating_sub(since.elapsed()));
        }
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
            && let Err(status) = this.follow(bytes)
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn intake() -> Intake {
        Intake::new(Body::empty(), "a".into(), Arc::new(Semaphore::new(100_000)))
    }

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(HEAD + length as usize, 1);
        bytes
    }

    #[tokio::test]
    async fn messages_are_followed_however_they_are_cut() {
        let bytes = [message(0), message(7), message(40_000), message(1)].concat();
        for size in [1, 3, 5, 6, 1000, 100_000] {
            let mut intake = intake();
            for part in bytes.chunks(size) {
                intake.follow(part).unwrap();
            }
            let idle = intake.left.is_none() && intake.head.is_empty();
            assert!(idle && intake.missing == 0, "in parts of {size}");
        }
    }

    #[tokio::test]
    async fn large_messages_are_counted_until_they_are_taken() {
        let mut first = intake();
        first.follow(&message(60_000)[..100]).unwrap();
        assert_eq!(first.large.available_permits(), 40_000);
        let mut second = Intake::new(Body::empty(), "a".into(), first.large.clone());
        let refused = second.follow(&message(60_000)[..5]).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let mut small = Intake::new(Body::empty(), "a".into(), first.large.clone());
        small.follow(&message(SMALL as u32)[..5]).unwrap();
        first.follow(&message(60_000)[100..]).unwrap();
        assert_eq!(first.large.available_permits(), 40_000);
        assert!(first.frame().await.is_none());
        assert_eq!(first.large.available_permits(), 100_000);
    }
}
