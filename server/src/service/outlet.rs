//! What a call answers, as it goes: bytes that wait for a client which does not take them are counted for its
//! identity. Where those are many, each call of it has one piece under way at a time, and pieces are small.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::engine::session::{Held, Waiting};

/// The body of an answer.
#[derive(Debug)]
pub struct Outlet<H> {
    body: Body,
    own: Arc<Own<H>>,
}

/// What waits of one answer.
#[derive(Debug)]
struct Own<H> {
    /// What its call holds until all is sent: the last piece may wait when its body is long gone.
    _held: H,
    bytes: AtomicUsize,
    gone: AtomicWaker,
    /// What waits of all answers to the same identity.
    all: Waiting,
}

/// A piece that waits until the connection has written it, or was closed.
struct Piece<H> {
    bytes: Bytes,
    own: Arc<Own<H>>,
    held: Option<Held>,
}

impl<H> Outlet<H> {
    /// The body of an answer to somebody for whom so much waits already, with what its call holds.
    pub fn new(body: Body, all: Waiting, held: H) -> Outlet<H> {
        let (bytes, gone) = (AtomicUsize::new(0), AtomicWaker::new());
        Outlet { body, own: Arc::new(Own { _held: held, bytes, gone, all }) }
    }
}

impl<H> Own<H> {
    fn is_enough(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > 0 && self.all.is_much()
    }
}

impl<H: Send + Sync + 'static> Piece<H> {
    fn of(bytes: Bytes, own: &Arc<Own<H>>) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        own.bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        let held = Some(own.all.hold(bytes.len()));
        Bytes::from_owner(Piece { bytes, own: own.clone(), held })
    }
}

impl<H> AsRef<[u8]> for Piece<H> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<H> Drop for Piece<H> {
    fn drop(&mut self) {
        drop(self.held.take());
        self.own.bytes.fetch_sub(self.bytes.len(), Ordering::AcqRel);
        self.own.gone.wake();
    }
}

impl<H: Send + Sync + 'static> http_body::Body for Outlet<H> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.own.is_enough() {
            this.own.gone.register(context.waker());
            // It may have gone in between.
            if this.own.is_enough() {
                return Poll::Pending;
            }
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        let own = &this.own;
        Poll::Ready(frame.map(|frame| frame.map(|it| it.map_data(|bytes| Piece::of(bytes, own)))))
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
    use futures::{StreamExt as _, poll, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn pieces(size: usize) -> Body {
        let piece = move |_| Ok::<_, Status>(Frame::data(Bytes::from(vec![7; size])));
        Body::new(StreamBody::new(stream::iter(0..100).map(piece)))
    }

    #[tokio::test]
    async fn where_much_waits_each_answer_has_one_piece_under_way() {
        let all = Waiting::default();
        let large = all.piece();
        let mut first = Outlet::new(pieces(1 << 20), all.clone(), ());
        let mut held = Vec::new();
        while let std::task::Poll::Ready(frame) = poll!(first.frame()) {
            held.push(frame);
        }
        assert!(all.is_much() && held.len() < 100);
        let small = all.piece();
        assert!(small < large);
        let mut second = Outlet::new(pieces(small), all.clone(), ());
        let one = second.frame().await;
        assert!(poll!(second.frame()).is_pending(), "one waits");
        drop(one);
        assert!(poll!(second.frame()).is_ready(), "it has gone");
        drop(second);
        drop(held);
        assert_eq!(all.piece(), large, "all is given back");
        assert!(poll!(first.frame()).is_ready());
    }

    #[tokio::test]
    async fn what_a_call_holds_is_given_back_with_its_last_piece() {
        let place = Arc::new(());
        let mut outlet = Outlet::new(pieces(10), Waiting::default(), place.clone());
        let piece = outlet.frame().await;
        drop(outlet);
        assert_eq!(Arc::strong_count(&place), 2, "a piece waits");
        drop(piece);
        assert_eq!(Arc::strong_count(&place), 1);
    }
}
