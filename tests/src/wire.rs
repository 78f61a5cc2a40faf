//! One bidirectional stream of a session, message by message.

use std::time::Duration;

use conti_proto::v1::{
    AttachSession, ContainerSpec, Gap, Input, InputAck, InputEof, Output, OutputAck, OutputStream,
    RunContainer, Session, SessionEnd, SessionSpec, Signal, StreamOpen, StreamOpened,
    StreamRequest, StreamResponse, TerminalSize, stream_open, stream_request::Message as Send,
    stream_response::Message as Receive,
};
use tokio::{sync::mpsc, time::timeout};
use tonic::{Status, Streaming};

use crate::{api::Api, wait::PATIENCE};

/// An open stream.
pub struct Wire {
    /// What the agent said first.
    pub opened: StreamOpened,
    requests: mpsc::Sender<StreamRequest>,
    responses: Streaming<StreamResponse>,
    input: u64,
}

/// What a session wrote and how it ended.
#[derive(Debug, Default)]
pub struct Collected {
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: Vec<u8>,
    /// The pieces as they came.
    pub pieces: Vec<Output>,
    /// What was missing.
    pub gaps: Vec<Gap>,
    /// The last acknowledgement of input.
    pub input_ack: Option<InputAck>,
    /// How it ended.
    pub end: SessionEnd,
}

/// Opens with a new session.
pub fn start(spec: SessionSpec) -> StreamOpen {
    StreamOpen { open: Some(stream_open::Open::Start(spec)), ..Default::default() }
}

/// Opens with a new container.
pub fn run(spec: ContainerSpec) -> StreamOpen {
    let run = RunContainer { spec: Some(spec) };
    StreamOpen { open: Some(stream_open::Open::Run(run)), ..Default::default() }
}

/// Opens with a session that exists.
pub fn attach(session_id: &str, output_offset: Option<u64>) -> StreamOpen {
    let attach =
        AttachSession { session_id: session_id.to_owned(), output_offset, ..Default::default() };
    StreamOpen { open: Some(stream_open::Open::Attach(attach)), ..Default::default() }
}

/// Opens with a session that exists, only to look.
pub fn view(session_id: &str) -> StreamOpen {
    let attach =
        AttachSession { session_id: session_id.to_owned(), view_only: true, ..Default::default() };
    StreamOpen { open: Some(stream_open::Open::Attach(attach)), ..Default::default() }
}

/// A message that opens a stream.
pub fn opening(open: StreamOpen) -> StreamRequest {
    StreamRequest { message: Some(Send::Open(open)) }
}

/// Sends these messages as they are and returns how the call ended: for messages that the agent
/// should refuse.
pub async fn refused(api: &mut Api, messages: Vec<StreamRequest>) -> Status {
    let (requests, receiver) = mpsc::channel(messages.len().max(1));
    for message in messages {
        requests.send(message).await.expect("the channel has room");
    }
    let call = api.sessions.stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let wait = async {
        let mut responses = match call.await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status,
        };
        loop {
            match responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the agent took what it should have refused"),
                Err(status) => return status,
            }
        }
    };
    // The request side stays open: the agent must not wait for more before it refuses.
    let status = timeout(PATIENCE, wait).await.expect("the agent refuses at once");
    drop(requests);
    status
}

impl Wire {
    /// Opens a stream.
    pub async fn open(api: &mut Api, open: StreamOpen) -> Result<Wire, Status> {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(opening(open)).await.expect("the channel has room");
        let call = api.sessions.stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let mut responses = timeout(PATIENCE, call).await.expect("the agent answers")?.into_inner();
        match timeout(PATIENCE, responses.message()).await.expect("the agent answers")? {
            Some(StreamResponse { message: Some(Receive::Opened(opened)) }) => {
                let input = opened.input_offset;
                Ok(Wire { opened, requests, responses, input })
            }
            other => panic!("the first message of a stream must be `opened`, not {other:?}"),
        }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        self.opened.session.as_ref().expect("`opened` carries the session")
    }

    /// Sends a message as it is.
    pub async fn send(&self, message: Send) {
        // Where the agent has closed the stream, what it answered says more than this would.
        let _ = self.requests.send(StreamRequest { message: Some(message) }).await;
    }

    /// A handle to send with from elsewhere.
    pub fn sender(&self) -> mpsc::Sender<StreamRequest> {
        self.requests.clone()
    }

    /// Writes input where it stands.
    pub async fn write(&mut self, data: impl Into<Vec<u8>>) {
        let data = data.into();
        let offset = self.input;
        self.input += data.len() as u64;
        self.send(Send::Input(Input { offset, data: data.into() })).await;
    }

    /// Closes the input.
    pub async fn close_input(&self) {
        self.send(Send::InputEof(InputEof { offset: self.input })).await;
    }

    /// Acknowledges output.
    pub async fn ack(&self, offset: u64) {
        self.send(Send::OutputAck(OutputAck { offset })).await;
    }

    /// Changes the terminal's size.
    pub async fn resize(&self, columns: u32, rows: u32) {
        self.send(Send::Resize(TerminalSize { columns, rows })).await;
    }

    /// Sends a signal.
    pub async fn signal(&self, signal: &str) {
        self.send(Send::Signal(Signal { signal: signal.to_owned() })).await;
    }

    /// The next message. `None`: the agent closed the stream.
    pub async fn next(&mut self) -> Result<Option<Receive>, Status> {
        let next = timeout(PATIENCE, self.responses.message()).await;
        let next = next.expect("the agent sends something within a minute")?;
        Ok(next.map(|response| response.message.expect("a message that is set")))
    }

    /// Whether the agent sends nothing for this long.
    pub async fn silent_for(&mut self, time: Duration) -> bool {
        timeout(time, self.responses.message()).await.is_err()
    }

    /// The next piece of output, acknowledged. Panics when something else comes but an
    /// acknowledgement of input.
    pub async fn output(&mut self) -> Output {
        loop {
            match self.next().await.expect("the stream goes on") {
                Some(Receive::Output(output)) => {
                    self.ack(output.offset + output.data.len() as u64).await;
                    return output;
                }
                Some(Receive::InputAck(_)) => {}
                other => panic!("output was expected, not {other:?}"),
            }
        }
    }

    /// Reads output until it holds `needle`, and returns all of it.
    pub async fn read_until(&mut self, needle: &str) -> String {
        let mut text = String::new();
        while !text.contains(needle) {
            text.push_str(&String::from_utf8_lossy(&self.output().await.data));
        }
        text
    }

    /// Reads everything up to the end, acknowledging as it comes, and checks that the totals of the
    /// end, the offsets and the gaps fit together.
    pub async fn collect(mut self) -> Collected {
        let mut all = Collected::default();
        let mut expected = self.opened.output_offset;
        let first = expected;
        loop {
            match self.next().await.expect("the stream goes on until its end") {
                Some(Receive::Output(output)) => {
                    assert_eq!(output.offset, expected, "output follows without holes");
                    expected += output.data.len() as u64;
                    self.ack(expected).await;
                    match output.stream() {
                        OutputStream::Stdout => all.stdout.extend_from_slice(&output.data),
                        OutputStream::Stderr => all.stderr.extend_from_slice(&output.data),
                        OutputStream::Unspecified => panic!("output of no stream"),
                    }
                    all.pieces.push(output);
                }
                Some(Receive::Gap(gap)) => {
                    assert_eq!(gap.offset, expected, "a gap stands where something is missing");
                    expected += gap.length;
                    all.gaps.push(gap);
                }
                Some(Receive::InputAck(ack)) => all.input_ack = Some(ack),
                Some(Receive::End(end)) => {
                    all.end = end;
                    break;
                }
                other => panic!("{other:?} has no place here"),
            }
        }
        assert_eq!(self.next().await.expect("the stream closes cleanly"), None, "the end is last");
        let total = all.end.stdout_bytes + all.end.stderr_bytes;
        assert_eq!(expected, total, "what came is what the end says was written");
        if first == 0 && all.gaps.is_empty() {
            assert_eq!(all.stdout.len() as u64, all.end.stdout_bytes);
            assert_eq!(all.stderr.len() as u64, all.end.stderr_bytes);
        }
        all
    }
}
