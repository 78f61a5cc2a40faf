//! Recordings of sessions, as messages and as streams of their bytes.

use std::{io::Read as _, sync::Arc};

use conti_proto::v1::{self, ReadRecordingResponse, RecordingFormat};
use futures::{Stream, stream};
use tonic::Status;

use super::{call::Call, convert::info, status, stream::Permit};
use crate::engine::{
    Engine,
    error::Error,
    recording::{About, Format, Found},
};

/// How much one message carries, in bytes.
const PIECE: usize = 256 << 10;

/// A recording as a message.
pub fn message(found: Found) -> v1::Recording {
    let About { session, container, argv, start_time, format, .. } = found.about;
    let (container_id, container_name) = container.map(|of| (of.id, of.name)).unwrap_or_default();
    v1::Recording {
        session_id: session,
        container_id,
        container_name,
        argv,
        start_time: Some(info::timestamp(start_time)),
        format: match format {
            Format::Cast => RecordingFormat::Asciicast,
            Format::Frames => RecordingFormat::Frames,
        }
        .into(),
        size_bytes: found.size,
    }
}

/// The recordings that a caller may read, the oldest first. Not on the agent's own threads: there may be many, in many
/// containers, and others made them.
pub async fn list(engine: &Arc<Engine>, call: Call) -> Result<Vec<Found>, Status> {
    let (turn, engine) = (engine.recordings().turn_to_list().await, engine.clone());
    let listed = tokio::task::spawn_blocking(move || {
        // Also where the caller has hung up.
        let _turn = turn;
        let mut all = engine.recordings().list();
        all.retain(|found| call.may_read(&engine, &found.about));
        all
    });
    // A panic is a defect; it was told where it was made.
    listed.await.map_err(|_| status::of(Error::Stopping))
}

/// Finds a recording by the whole id of its session, once it is complete where that has ended.
pub async fn find(engine: &Arc<Engine>, session: &str) -> Result<Found, Status> {
    if let Ok(session) = engine.session(session)
        && session.ended()
    {
        session.recording_done().await;
    }
    let found = engine.recordings().find(session);
    found.map_err(|_| status::of(Error::NoSuchRecording(session.to_owned())))
}

/// The bytes of a recording, as far as it goes now. `permit`: of its session, which may write on meanwhile.
pub fn read(
    engine: &Arc<Engine>,
    found: Found,
    permit: Option<Permit>,
) -> Result<impl Stream<Item = Result<ReadRecordingResponse, Status>> + Send + use<>, Status> {
    let gone = |_| status::of(Error::NoSuchRecording(found.about.session.clone()));
    let file = engine.recordings().open(&found).map_err(gone)?;
    let state = Some((file, Some(message(found)), permit));
    Ok(stream::unfold(state, |state| async move {
        let (file, recording, mut permit) = state?;
        let read = tokio::task::spawn_blocking(move || {
            let mut data = Vec::new();
            let read = (&file).take(PIECE as u64).read_to_end(&mut data);
            read.map(|_| (file, data))
        });
        let read = read.await;
        if let Some(permit) = &mut permit
            && let Err(status) = permit.check().await
        {
            return Some((Err(status), None));
        }
        match read {
            Ok(Ok((_, data))) if data.is_empty() && recording.is_none() => None,
            Ok(Ok((file, data))) => {
                let message = ReadRecordingResponse { recording, data: data.into() };
                Some((Ok(message), Some((file, None, permit))))
            }
            Ok(Err(error)) => {
                let what = "cannot read a recording".to_owned();
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                Some((Err(status::of(Error::Exhausted { what, errno })), None))
            }
            // A panic is a defect; it was told where it was made.
            Err(_) => Some((Err(status::of(Error::Stopping)), None)),
        }
    }))
}
