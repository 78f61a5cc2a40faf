//! An agent that only pretends: it speaks the API over a socket and runs nothing. The tests of the
//! client need no root with it, and a connection can be cut at any byte.
//!
//! - this file: sessions;
//! - [`access`]: who calls, and who may;
//! - [`cut`]: connections that are cut.
//!
//! What a session does is said by its command: `cat` gives back its input, `tty` does so
//! with a terminal, `out N` writes N bytes,
//! `exit N` ends, `wait` waits for a signal, `liar` claims more output than it gives, `gap` drops
//! some of it.

pub mod access;
mod cut;

use std::{
    collections::HashMap,
    os::unix::net::{UnixListener as Listener, UnixStream as Socket},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use access::Access;
use bytes::Bytes;
use conti_proto::v1::{
    agent_service_server::AgentServiceServer,
    join_service_server::JoinServiceServer,
    pki_service_server::PkiServiceServer,
    session_service_server::{SessionService, SessionServiceServer},
    *,
};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    sync::{Notify, mpsc},
};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming};

use crate::tls::{Authority, Front, Subject};

const CHUNK: usize = 200 << 10;
const WINDOW: u64 = 1 << 20;

/// The byte at an offset of what `out` writes.
pub fn pattern(offset: usize) -> u8 {
    (offset ^ (offset >> 8) ^ (offset >> 16)) as u8
}

/// A running agent.
pub struct Agent {
    dir: TempDir,
    sessions: Sessions,
    /// Who may call it.
    pub access: Access,
}

type Sessions = Arc<Mutex<HashMap<String, Arc<Fake>>>>;

#[derive(Default)]
struct Fake {
    id: String,
    argv: Vec<String>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    input: u64,
    journal: Vec<u8>,
    gap: u64,
    end: Option<SessionEnd>,
    signals: Vec<String>,
}

impl Agent {
    /// Starts one.
    pub fn start() -> Agent {
        Agent::with(Access::default())
    }

    /// Starts one that knows whom it lets in.
    pub fn with(access: Access) -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::default();
        let service = Service { sessions: Arc::clone(&sessions) };
        let (api, join) = (dir.path().join("agent.sock"), dir.path().join("join.sock"));
        let (ready, started) = std::sync::mpsc::channel();
        let known = access.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let (api, join) =
                    (UnixListener::bind(api).unwrap(), UnixListener::bind(join).unwrap());
                ready.send(()).unwrap();
                let service = SessionServiceServer::new(service).max_decoding_message_size(8 << 20);
                let api = tonic::transport::Server::builder()
                    .max_frame_size(1 << 20)
                    .add_service(service)
                    .add_service(AgentServiceServer::new(known.clone()))
                    .add_service(PkiServiceServer::new(known.clone()))
                    .serve_with_incoming(UnixListenerStream::new(api));
                let join = tonic::transport::Server::builder()
                    .add_service(JoinServiceServer::new(known))
                    .serve_with_incoming(UnixListenerStream::new(join));
                tokio::try_join!(api, join).unwrap();
            });
        });
        started.recv().unwrap();
        Agent { dir, sessions, access }
    }

    /// TLS in front of it.
    pub fn behind_tls(&self, authority: &Authority, subject: &Subject<'_>) -> Front {
        self.behind_tls_at("agent.sock", authority, subject)
    }

    /// TLS in front of a socket of [`Agent::cut_after`].
    pub fn behind_tls_and_cut(&self, authority: &Authority, subject: &Subject<'_>) -> Front {
        self.behind_tls_at("cut.sock", authority, subject)
    }

    fn behind_tls_at(&self, api: &str, authority: &Authority, subject: &Subject<'_>) -> Front {
        let (api, join) = (self.dir.path().join(api), self.dir.path().join("join.sock"));
        Front::start(authority, subject, api, join)
    }

    /// Its address.
    pub fn host(&self) -> String {
        url(&self.dir.path().join("agent.sock"))
    }

    /// An address where each connection is cut after so many bytes in both directions together,
    /// and those after the last are left alone.
    pub fn cut_after(&self, budgets: Vec<usize>) -> String {
        let path = self.dir.path().join("cut.sock");
        let target = self.dir.path().join("agent.sock");
        let listener = Listener::bind(&path).unwrap();
        thread::spawn(move || {
            let mut budgets = budgets.into_iter();
            for client in listener.incoming() {
                let agent = Socket::connect(&target).unwrap();
                cut::relay(client.unwrap(), agent, budgets.next().unwrap_or(usize::MAX));
            }
        });
        url(&path)
    }

    /// The signals that sessions were sent.
    pub fn signals(&self) -> Vec<String> {
        let sessions = self.sessions.lock().unwrap();
        sessions.values().flat_map(|s| s.state.lock().unwrap().signals.clone()).collect()
    }

    /// What sessions took as input, where they give it back.
    pub fn taken(&self) -> Vec<Vec<u8>> {
        let sessions = self.sessions.lock().unwrap();
        sessions.values().map(|s| s.state.lock().unwrap().journal.clone()).collect()
    }

    /// How many sessions were started.
    pub fn session_count(&self) -> usize {
        self.sessions.lock().unwrap().len()
    }
}

fn url(path: &Path) -> String {
    let path: PathBuf = path.into();
    format!("unix://{}", path.display())
}

struct Service {
    sessions: Sessions,
}

impl Fake {
    fn new(id: &str, argv: Vec<String>) -> Fake {
        let fake = Fake { id: id.to_owned(), argv, ..Fake::default() };
        let number = fake.argv.get(1).and_then(|n| n.parse().ok()).unwrap_or(0usize);
        let mut state = fake.state.lock().unwrap();
        match fake.argv[0].as_str() {
            "out" => {
                state.journal = (0..number).map(pattern).collect();
                state.finish(session_end::Reason::ExitCode(0));
            }
            "gap" => {
                (state.gap, state.journal) = (number as u64, vec![0; number + 3]);
                state.finish(session_end::Reason::ExitCode(0));
            }
            "liar" => {
                state.journal = vec![b'x'; number];
                state.finish(session_end::Reason::ExitCode(0));
                state.end.as_mut().unwrap().stdout_bytes += 1;
            }
            "exit" => state.finish(session_end::Reason::ExitCode(number as i32)),
            _ => {}
        }
        drop(state);
        fake
    }

    fn input(&self, input: Input) -> u64 {
        let mut state = self.state.lock().unwrap();
        assert!(input.offset <= state.input, "input has a hole");
        let known = (state.input - input.offset).min(input.data.len() as u64);
        let new = &input.data[known as usize..];
        state.input += new.len() as u64;
        state.journal.extend_from_slice(new);
        state.input
    }

    fn signal(&self, signal: &str) {
        let mut state = self.state.lock().unwrap();
        state.signals.push(signal.to_owned());
        let number = conti_shared::signal::parse(signal).unwrap();
        state.finish(session_end::Reason::Signal(SignalEnd { number, ..SignalEnd::default() }));
    }
}

impl State {
    fn finish(&mut self, reason: session_end::Reason) {
        self.end = Some(SessionEnd {
            reason: Some(reason),
            stdout_bytes: self.journal.len() as u64,
            ..SessionEnd::default()
        });
    }
}

type Responses = mpsc::Sender<Result<StreamResponse, Status>>;

async fn serve(
    fake: Arc<Fake>,
    mut requests: Streaming<StreamRequest>,
    responses: Responses,
    from: u64,
) {
    use stream_request::Message as In;
    use stream_response::Message as Out;
    let send = async |message| responses.send(Ok(StreamResponse { message: Some(message) })).await;
    let opened = StreamOpened {
        session: Some(Session {
            id: fake.id.clone(),
            argv: fake.argv.clone(),
            terminal: fake.argv[0] == "tty",
            ..Session::default()
        }),
        output_offset: from,
        input_offset: fake.state.lock().unwrap().input,
        ..StreamOpened::default()
    };
    let (mut sent, mut acked) = (from, from);
    if send(Out::Opened(opened)).await.is_err() {
        return;
    }
    loop {
        let next = {
            let state = fake.state.lock().unwrap();
            if sent < state.gap {
                Some(Out::Gap(Gap { offset: sent, length: state.gap - sent }))
            } else if sent < state.journal.len() as u64 && sent - acked < WINDOW {
                let end = state.journal.len().min(sent as usize + CHUNK);
                let data = Bytes::copy_from_slice(&state.journal[sent as usize..end]);
                Some(Out::Output(Output { offset: sent, stream: 1, data }))
            } else if sent == state.journal.len() as u64 && state.end.is_some() {
                state.end.clone().map(Out::End)
            } else {
                None
            }
        };
        let waiting = next.is_none();
        if let Some(message) = next {
            match &message {
                Out::Output(output) => sent += output.data.len() as u64,
                Out::Gap(gap) => sent += gap.length,
                _ => {}
            }
            let last = matches!(message, Out::End(_));
            if send(message).await.is_err() || last {
                return;
            }
        }
        let request = tokio::select! {
            biased;
            request = requests.next() => request,
            () = fake.changed.notified(), if waiting => continue,
            () = tokio::time::sleep(Duration::ZERO), if !waiting => continue,
        };
        let Some(Ok(StreamRequest { message: Some(message) })) = request else { return };
        match message {
            In::Input(input) => {
                let offset = fake.input(input);
                if send(Out::InputAck(InputAck { offset, closed: false })).await.is_err() {
                    return;
                }
            }
            In::InputEof(eof) => {
                let mut state = fake.state.lock().unwrap();
                assert_eq!(eof.offset, state.input, "the input is not complete");
                state.finish(session_end::Reason::ExitCode(0));
            }
            In::OutputAck(ack) => acked = ack.offset,
            In::Signal(signal) => fake.signal(&signal.signal),
            In::Detach(_) => return,
            In::Open(_) | In::Resize(_) => {}
        }
    }
}

#[tonic::async_trait]
impl SessionService for Service {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<StreamResponse, Status>> + Send>>;
    type ReadSessionStream =
        Pin<Box<dyn Stream<Item = Result<ReadSessionResponse, Status>> + Send>>;
    type ReadRecordingStream =
        Pin<Box<dyn Stream<Item = Result<ReadRecordingResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut requests = request.into_inner();
        let Some(stream_request::Message::Open(open)) =
            requests.message().await?.and_then(|request| request.message)
        else {
            return Err(Status::invalid_argument("open comes first"));
        };
        let (fake, from) = match open.open.unwrap() {
            stream_open::Open::Start(spec) => {
                let argv = spec.process.unwrap().argv;
                let mut sessions = self.sessions.lock().unwrap();
                let id = open.request_id;
                let fake =
                    sessions.entry(id.clone()).or_insert_with(|| Fake::new(&id, argv).into());
                (Arc::clone(fake), 0)
            }
            stream_open::Open::Attach(attach) => {
                let sessions = self.sessions.lock().unwrap();
                let fake = sessions.get(&attach.session_id);
                let fake = fake.ok_or_else(|| Status::not_found("no such session"))?;
                (Arc::clone(fake), attach.output_offset.unwrap_or(0))
            }
            stream_open::Open::Run(_) => return Err(Status::invalid_argument("not here")),
        };
        let (responses, receiver) = mpsc::channel(4);
        tokio::spawn(serve(fake, requests, responses, from));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn start_session(
        &self,
        _: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn read_session(
        &self,
        _: Request<ReadSessionRequest>,
    ) -> Result<Response<Self::ReadSessionStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn write_session(
        &self,
        _: Request<WriteSessionRequest>,
    ) -> Result<Response<WriteSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn close_session_input(
        &self,
        _: Request<CloseSessionInputRequest>,
    ) -> Result<Response<CloseSessionInputResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn resize_session(
        &self,
        _: Request<ResizeSessionRequest>,
    ) -> Result<Response<ResizeSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn signal_session(
        &self,
        _: Request<SignalSessionRequest>,
    ) -> Result<Response<SignalSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn wait_session(
        &self,
        _: Request<WaitSessionRequest>,
    ) -> Result<Response<WaitSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_session(
        &self,
        _: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_sessions(
        &self,
        _: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_recordings(
        &self,
        _: Request<ListRecordingsRequest>,
    ) -> Result<Response<ListRecordingsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn read_recording(
        &self,
        _: Request<ReadRecordingRequest>,
    ) -> Result<Response<Self::ReadRecordingStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
