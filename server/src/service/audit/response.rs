//! The answer of a recorded call: counted, and the call's end written when the last of it has gone.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use conti_shared::reason::Reason;
use http::Response;
use http_body::{Frame, SizeHint};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt;

use super::{Ticket, first::Came};
use crate::{audit::Outcome, service::status::code_name};

/// Has the end of a call written when its answer has ended, one way or another.
pub fn watched(response: Response<Body>, ticket: Ticket, came: Came) -> Response<Body> {
    let mut end = End { ticket: Some(ticket), came, went: 0 };
    if let Some(status) = Status::from_header_map(response.headers()) {
        end.write(&status);
        return response;
    }
    response.map(|body| Body::new(Watched { body, end }))
}

struct End {
    ticket: Option<Ticket>,
    came: Came,
    went: u64,
}

impl End {
    fn write(&mut self, status: &Status) {
        let Some(ticket) = self.ticket.take() else { return };
        let (code, message) = (code_name(status.code()), status.message());
        // One that was let in and is cut later was carried out, and what it has started has an end.
        let refused = matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated);
        if refused && self.went == 0 {
            return ticket.denied(code, message);
        }
        let mut outcome = Outcome::of(code, message);
        outcome.bytes_in = Some(self.came.bytes());
        outcome.bytes_out = Some(self.went);
        outcome.done_in_part = is_done_in_part(status);
        ticket.end(outcome);
    }
}

/// Whether a call failed on its way: a process that was told to end did not, or the kernel refused a later step.
fn is_done_in_part(status: &Status) -> bool {
    let reasons = [Reason::ProcessStuck, Reason::Refused];
    let info = status.get_details_error_info();
    info.is_some_and(|info| reasons.iter().any(|reason| reason.as_str() == info.reason))
}

impl Drop for End {
    fn drop(&mut self) {
        self.write(&Status::cancelled(""));
    }
}

struct Watched {
    body: Body,
    end: End,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => self.end.went += data.len() as u64,
                (None, Some(trailers)) => {
                    let status = Status::from_header_map(trailers);
                    self.end.write(&status.unwrap_or_else(|| Status::ok("")));
                }
                (None, None) => {}
            },
            Some(Err(status)) => self.end.write(status),
            None => self.end.write(&Status::ok("")),
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
