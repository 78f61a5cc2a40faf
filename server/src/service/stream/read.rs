//! The journal of a session as a stream: what ReadSession answers.

use conti_proto::v1::{Gap, ReadSessionResponse, read_session_response::Message};
use futures::{Stream, stream};
use tonic::Status;

use super::output::output;
use crate::{
    engine::session::{Event, Viewer},
    service::{convert::info, stopping::Stopping},
};

/// Reads on to the end of the session, or without `follow` to where the journal stands now.
pub fn read(
    viewer: Viewer,
    follow: bool,
    stopping: Stopping,
) -> impl Stream<Item = Result<ReadSessionResponse, Status>> + Send + use<> {
    // `None`: nothing comes any more.
    let state = Some((viewer, stopping));
    stream::unfold(state, move |state| async move {
        let (mut viewer, stopping) = state?;
        let event = match viewer.try_next(usize::MAX) {
            Some(event) => event,
            None if !follow => return None,
            None => match stopping.or(viewer.next(usize::MAX)).await {
                Ok(event) => event?,
                Err(status) => return Some((Err(status), None)),
            },
        };
        let message = match event {
            Event::Output { offset, stderr, data } => Message::Output(output(offset, stderr, data)),
            Event::Gap { offset, length } => Message::Gap(Gap { offset, length }),
            Event::End(end) => Message::End(info::session_end(end)),
        };
        Some((Ok(ReadSessionResponse { message: Some(message) }), Some((viewer, stopping))))
    })
}
