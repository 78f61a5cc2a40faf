//! Sessions: the stream, and the plain calls that do the same one by one.

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use conti_proto::v1::{
    self, CloseSessionInputRequest, CloseSessionInputResponse, GetSessionRequest,
    GetSessionResponse, ListRecordingsRequest, ListRecordingsResponse, ListSessionsRequest,
    ListSessionsResponse, ReadRecordingRequest, ReadRecordingResponse, ReadSessionRequest,
    ReadSessionResponse, ResizeSessionRequest, ResizeSessionResponse, SignalSessionRequest,
    SignalSessionResponse, StartSessionRequest, StartSessionResponse, StreamRequest,
    StreamResponse, WaitSessionRequest, WaitSessionResponse, WriteSessionRequest,
    WriteSessionResponse, session_service_server::SessionService,
};
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    call::Call,
    convert::{Field, info, process, session, text},
    page::{Page, Place},
    recordings, repeats,
    status::{self, valid},
    stopping::Stopping,
    stream::{self, Context, MESSAGE_BYTES_MAX},
};
use crate::engine::{Engine, error::Error, recording::Found, requests::Answer, session::Session};

/// Serves `conti.v1.SessionService`.
#[derive(Debug)]
pub struct Sessions {
    engine: Arc<Engine>,
    stopping: Stopping,
}

impl Sessions {
    /// Serves an engine until the agent stops.
    pub fn new(engine: Arc<Engine>, stopping: Stopping) -> Sessions {
        Sessions { engine, stopping }
    }

    /// Finds a session to look at it.
    fn see(&self, call: &Call, id: &str) -> Result<Arc<Session>, Status> {
        valid(|v| text::session_key(v, Field::root("session_id"), id))?;
        call.session(&self.engine, id)
    }

    /// Finds a session to end it.
    async fn end(&self, call: &Call, id: &str) -> Result<Arc<Session>, Status> {
        valid(|v| text::session_key(v, Field::root("session_id"), id))?;
        call.end_session(&self.engine, id).await
    }

    /// Finds a session to act on it.
    async fn drive(&self, call: &Call, id: &str) -> Result<Arc<Session>, Status> {
        valid(|v| text::session_key(v, Field::root("session_id"), id))?;
        call.drive(&self.engine, id).await
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SessionService for Sessions {
    type StreamStream = Responses<StreamResponse>;
    type ReadSessionStream = Responses<ReadSessionResponse>;
    type ReadRecordingStream = Responses<ReadRecordingResponse>;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let call = Call::of(&request)?;
        let deadline = stream::deadline(request.metadata())?;
        let requests = request.into_inner();
        let service = Context { engine: &self.engine, stopping: &self.stopping, call, deadline };
        let responses = stream::open(service, requests).await?;
        Ok(Response::new(Box::pin(responses)))
    }

    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        let call = Call::of(&request)?;
        let mut message = request.into_inner();
        let request_id = std::mem::take(&mut message.request_id);
        let digest = repeats::digest("StartSession", &message);
        let StartSessionRequest { spec, .. } = message;
        let (spec, request_id) = valid(|v| {
            let spec = session::session(v, Field::root("spec"), spec);
            (spec, text::request_id(v, Field::root("request_id"), request_id))
        })?;
        let spec = call.start(&self.engine, "spec", spec).await?;
        let request = call.request(request_id, digest);
        let started = self.engine.start_session(spec, request, false).await;
        let Answer { made: session, repeated } = started.map_err(status::of)?;
        call.answered(&self.engine, &session, repeated).await?;
        let session = Some(info::session(session.info()));
        Ok(Response::new(StartSessionResponse { session }))
    }

    async fn read_session(
        &self,
        request: Request<ReadSessionRequest>,
    ) -> Result<Response<Self::ReadSessionStream>, Status> {
        let call = Call::of(&request)?;
        let ReadSessionRequest { session_id, offset, follow } = request.into_inner();
        let session = self.see(&call, &session_id)?;
        call.check_reader(&self.engine, &session).await?;
        valid(|v| stream::reached(v, Field::root("offset"), offset, &session))?;
        let permit = stream::Permit::new(&self.engine, &call, &session);
        let viewer = session.view(offset, call.backlog.answers);
        let responses = stream::read(viewer, follow, permit, self.stopping.clone());
        Ok(Response::new(Box::pin(responses)))
    }

    async fn write_session(
        &self,
        request: Request<WriteSessionRequest>,
    ) -> Result<Response<WriteSessionResponse>, Status> {
        let call = Call::of(&request)?;
        let WriteSessionRequest { session_id, offset, data } = request.into_inner();
        let session = self.drive(&call, &session_id).await?;
        valid(|v| {
            if data.len() > MESSAGE_BYTES_MAX {
                v.add(Field::root("data"), stream::TOO_MUCH);
            }
        })?;
        let _held = stream::hold_input(&call.backlog, &call.caller.name(), data.len())?;
        let taken = self.stopping.or(session.write(offset, data)).await?;
        Ok(Response::new(WriteSessionResponse { offset: taken.map_err(status::of)? }))
    }

    async fn close_session_input(
        &self,
        request: Request<CloseSessionInputRequest>,
    ) -> Result<Response<CloseSessionInputResponse>, Status> {
        let call = Call::of(&request)?;
        let session = self.end(&call, &request.into_inner().session_id).await?;
        session.close_input().map_err(status::of)?;
        Ok(Response::new(CloseSessionInputResponse {}))
    }

    async fn resize_session(
        &self,
        request: Request<ResizeSessionRequest>,
    ) -> Result<Response<ResizeSessionResponse>, Status> {
        let call = Call::of(&request)?;
        let ResizeSessionRequest { session_id, size } = request.into_inner();
        let size = valid(|v| match size {
            Some(size) => Some(process::terminal_size(v, Field::root("size"), size)),
            None => {
                v.add(Field::root("size"), "is missing");
                None
            }
        })?;
        let session = self.drive(&call, &session_id).await?;
        if let Some(size) = size {
            session.resize(size).map_err(status::of)?;
        }
        Ok(Response::new(ResizeSessionResponse {}))
    }

    async fn signal_session(
        &self,
        request: Request<SignalSessionRequest>,
    ) -> Result<Response<SignalSessionResponse>, Status> {
        let call = Call::of(&request)?;
        let SignalSessionRequest { session_id, signal } = request.into_inner();
        let signal = valid(|v| text::signal(v, Field::root("signal"), &signal, None))?;
        let session = self.end(&call, &session_id).await?;
        self.engine.signal(&session, signal).await.map_err(status::of)?;
        Ok(Response::new(SignalSessionResponse {}))
    }

    async fn wait_session(
        &self,
        request: Request<WaitSessionRequest>,
    ) -> Result<Response<WaitSessionResponse>, Status> {
        let call = Call::of(&request)?;
        let session = self.see(&call, &request.into_inner().session_id)?;
        let end = self.stopping.or(session.wait()).await?;
        Ok(Response::new(WaitSessionResponse { end: Some(info::session_end(end)) }))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let call = Call::of(&request)?;
        let session = self.see(&call, &request.into_inner().session_id)?;
        let session = Some(info::session(session.info()));
        Ok(Response::new(GetSessionResponse { session }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let call = Call::of(&request)?;
        let ListSessionsRequest { container, states, page_size, page_token } = request.into_inner();
        let container = Some(container).filter(|key| !key.is_empty());
        let page = valid(|v| {
            if let Some(key) = &container {
                text::container_key(v, Field::root("container"), key);
            }
            let at = Field::root("states");
            for (index, &state) in states.iter().enumerate() {
                match v1::SessionState::try_from(state) {
                    Ok(known) if known != v1::SessionState::Unspecified => {}
                    _ => v.add(at.index(index), format_args!("is {state}, which is no state")),
                }
            }
            Page::parse(v, page_size, &page_token)
        })?;
        let states: BTreeSet<i32> = states.into_iter().collect();
        let wanted = |session: &Arc<Session>| {
            let state = info::session_state(session.shown_state());
            states.is_empty() || states.contains(&state.into())
        };
        let of = container.map(|key| call.see(&self.engine, &key)).transpose()?;
        let of = of.as_ref().map(|container| container.id.as_str());
        let all = self.engine.sessions(of, |session| call.sees(session));
        let place = |of: &Arc<Session>| Place::new(of.record.start_time, &of.id);
        // Told of those on the page alone: arguments may be large.
        let message = |of: Arc<Session>| info::session(of.info());
        let (sessions, next_page_token) = page.cut(all.into_iter().filter(wanted), place, message);
        Ok(Response::new(ListSessionsResponse { sessions, next_page_token }))
    }

    async fn list_recordings(
        &self,
        request: Request<ListRecordingsRequest>,
    ) -> Result<Response<ListRecordingsResponse>, Status> {
        let call = Call::of(&request)?;
        let ListRecordingsRequest { page_size, page_token } = request.into_inner();
        let page = valid(|v| Page::parse(v, page_size, &page_token))?;
        let all = recordings::list(&self.engine, call).await?;
        let place = |found: &Found| Place::new(found.about.start_time, &found.about.session);
        let (recordings, next_page_token) = page.cut(all, place, recordings::message);
        Ok(Response::new(ListRecordingsResponse { recordings, next_page_token }))
    }

    async fn read_recording(
        &self,
        request: Request<ReadRecordingRequest>,
    ) -> Result<Response<Self::ReadRecordingStream>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().session_id;
        valid(|v| text::session_key(v, Field::root("session_id"), &id))?;
        let found = recordings::find(&self.engine, &id).await?;
        let container = found.about.container.map(|of| of.id).unwrap_or_default();
        // Read again each time: what it reaches may be another by then.
        let check = || {
            let gone = || status::of(Error::NoSuchRecording(id.clone()));
            let found = self.engine.recordings().find(&id).map_err(|_| gone())?;
            call.may_read(&self.engine, &found.about).then_some(found).ok_or_else(gone)
        };
        let found = call.settled(&self.engine, &container, check).await?;
        // Of one that has gone nothing is written any more.
        let session = self.engine.session(&id).ok();
        let permit = session.map(|session| stream::Permit::new(&self.engine, &call, &session));
        Ok(Response::new(Box::pin(recordings::read(&self.engine, found, permit)?)))
    }
}
