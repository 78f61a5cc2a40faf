//! The body of an answer, followed to its end: what a call came to is known only there.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame, SizeHint};
use tonic::{Code, Status, body::Body};
use tracing::Span;

use crate::metrics::Call;

/// A body that tells the metrics how the call ended, and keeps the call's span open until then.
#[derive(Debug)]
pub struct Followed {
    body: Body,
    call: Call,
    span: Span,
}

impl Followed {
    /// Follows an answer. One without a body has ended already.
    pub fn answer(response: Response<Body>, mut call: Call, span: Span) -> Response<Body> {
        if let Some(code) = code(response.headers()) {
            call.end(code);
            return response;
        }
        response.map(|body| match body.is_end_stream() {
            true => body,
            false => Body::new(Followed { body, call, span }),
        })
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Followed { body, call, span } = self.get_mut();
        let frame = {
            let _inside = span.enter();
            ready!(Pin::new(body).poll_frame(context))
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    call.end(code(trailers).unwrap_or(Code::Unknown));
                }
            }
            Some(Err(status)) => call.end(status.code()),
            None => call.end(Code::Unknown),
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

/// How a call ended, where these headers or trailers tell it.
fn code(headers: &HeaderMap) -> Option<Code> {
    Some(Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes()))
}
