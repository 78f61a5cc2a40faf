//! Reading the first message of a request, and giving it on as if nobody had.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Status, body::Body};

/// A flag and a length stand before each message, see gRPC over HTTP/2.
const HEAD: usize = 5;
/// How many bytes of messages have come so far.
#[derive(Debug, Clone, Default)]
pub struct Came(Arc<AtomicU64>);

impl Came {
    /// As a number.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Waits for the first message, of at most `max` bytes, and gives it with a body that still holds it. Empty:
/// there is none that can be read; its method will say why.
pub async fn read(mut body: Body, max: usize) -> (Bytes, Body, Came) {
    let (mut whole, mut last, mut failed) = (BytesMut::new(), None, None);
    loop {
        match std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            Some(Ok(frame)) => match frame.into_data() {
                // It may come byte by byte: nothing is kept of each.
                Ok(data) => whole.extend_from_slice(&data),
                Err(frame) => {
                    last = Some(frame);
                    break;
                }
            },
            Some(Err(status)) => {
                failed = Some(status);
                break;
            }
            None => break,
        }
        if let [_, a, b, c, d, ..] = whole[..] {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if length > max || whole.len() >= HEAD + length {
                break;
            }
        }
    }
    let (came, whole) = (Came::default(), whole.freeze());
    let data = (!whole.is_empty()).then(|| Frame::data(whole.clone()));
    let seen = data.into_iter().chain(last).collect();
    let rest = Rest { seen, failed, body, came: came.clone() };
    (content(whole), Body::new(rest), came)
}

pub(in crate::service) fn content(mut bytes: Bytes) -> Bytes {
    if bytes.len() < HEAD || bytes[0] != 0 {
        return Bytes::new();
    }
    bytes.advance(1);
    let length = bytes.get_u32() as usize;
    if length > bytes.len() { Bytes::new() } else { bytes.slice(..length) }
}

/// What was read, and what comes behind it.
struct Rest {
    seen: VecDeque<Frame<Bytes>>,
    failed: Option<Status>,
    body: Body,
    came: Came,
}

impl http_body::Body for Rest {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match (self.seen.pop_front(), self.failed.take()) {
            (Some(frame), failed) => {
                self.failed = failed;
                Some(Ok(frame))
            }
            (None, Some(status)) => Some(Err(status)),
            (None, None) => ready!(Pin::new(&mut self.body).poll_frame(context)),
        };
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.came.0.fetch_add(length as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.seen.is_empty() && self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
