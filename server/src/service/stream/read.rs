//! The journal of a session as a stream: what ReadSession answers.

use conti_proto::v1::{Gap, ReadSessionResponse, read_session_response::Message};
use futures::{Stream, stream};
use tonic::Status;

use super::{output::output, permit::Permit};
use crate::{
    engine::session::{Event, Viewer},
    service::{convert::info, stopping::Stopping},
};

/// Reads on to the end of the session, or without `follow` to where the journal stands now.
pub fn read(
    viewer: Viewer,
    follow: bool,
    permit: Permit,
    stopping: Stopping,
) -> impl Stream<Item = Result<ReadSessionResponse, Status>> + Send + use<> {
    // `None`: nothing comes any more.
    let state = Some((viewer, permit, stopping));
    stream::unfold(state, move |state| async move {
        let (mut viewer, mut permit, stopping) = state?;
        match stopping.or(next(&mut viewer, follow, &mut permit)).await.flatten() {
            Ok(event) => {
                let message = Some(message(event?));
                Some((Ok(ReadSessionResponse { message }), Some((viewer, permit, stopping))))
            }
            Err(status) => Some((Err(status), None)),
        }
    })
}

async fn next(
    viewer: &mut Viewer,
    follow: bool,
    permit: &mut Permit,
) -> Result<Option<Event>, Status> {
    let mut event = viewer.try_next(usize::MAX);
    while event.is_none() && follow {
        tokio::select! {
            next = viewer.next(usize::MAX) => match next {
                None => break,
                next => event = next,
            },
            () = permit.is_due() => permit.check().await?,
        }
    }
    permit.check().await?;
    Ok(event)
}

fn message(event: Event) -> Message {
    match event {
        Event::Output { offset, stderr, data } => Message::Output(output(offset, stderr, data)),
        Event::Gap { offset, length } => Message::Gap(Gap { offset, length }),
        Event::End(end) => Message::End(info::session_end(end)),
    }
}
