//! One call of `SessionService.Stream`, from the connection to its `opened`.

use conti_proto::v1::{
    StreamOpen, StreamOpened, StreamRequest, StreamResponse, stream_request, stream_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    connect::{Destination, connect},
    error::{Error, broken_reason, is_broken},
};

/// How many requests may wait for the connection.
const REQUESTS: usize = 4;

/// An open stream.
pub struct Link {
    /// Where requests go. None once this side has nothing more to say.
    pub requests: Option<mpsc::Sender<StreamRequest>>,
    responses: Streaming<StreamResponse>,
}

/// Why a stream is not there.
#[derive(Debug)]
pub enum Failure {
    /// No agent was reached, or the connection to it broke off: another try may help.
    Broken(Error),
    /// The agent refused.
    Refused(Error),
}

impl Failure {
    /// The error.
    pub fn into_error(self) -> Error {
        match self {
            Failure::Broken(error) | Failure::Refused(error) => error,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let broken = is_broken(&status);
        match Error::from(status) {
            error @ Error::Fault { .. } => error.into(),
            error if broken => Failure::Broken(error),
            error => Failure::Refused(error),
        }
    }
}

/// Of an error of connecting.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.is_final() { Failure::Refused(error) } else { Failure::Broken(error) }
    }
}

impl Link {
    /// Connects and opens.
    pub async fn open(
        destination: &Destination,
        open: StreamOpen,
    ) -> Result<(Link, StreamOpened), Failure> {
        let connection = connect(destination).await?;
        let (requests, receiver) = mpsc::channel(REQUESTS);
        // Nobody else has the channel yet, so it has room; were it not so, the agent would say
        // that `open` is missing.
        let _ = requests.try_send(request(stream_request::Message::Open(open)));
        let responses =
            connection.stream().stream(ReceiverStream::new(receiver)).await?.into_inner();
        let mut link = Link { requests: Some(requests), responses };
        match link.next().await? {
            Some(stream_response::Message::Opened(opened)) => Ok((link, opened)),
            Some(other) => Err(Failure::Refused(Error::Stream(format!(
                "the agent began the stream with {} instead of `opened`",
                name(&other)
            )))),
            None => Err(Failure::Broken(Error::Stream(
                "the agent closed the stream before it was open".to_owned(),
            ))),
        }
    }

    /// The next message; None where the stream was closed.
    pub async fn next(&mut self) -> Result<Option<stream_response::Message>, Status> {
        loop {
            match self.responses.message().await? {
                None => return Ok(None),
                // A message of a kind that a newer agent has and this client does not know.
                Some(StreamResponse { message: None }) => {}
                Some(StreamResponse { message }) => return Ok(message),
            }
        }
    }
}

/// Wraps a message.
pub fn request(message: stream_request::Message) -> StreamRequest {
    StreamRequest { message: Some(message) }
}

/// A short text for why an open stream broke off.
pub fn why(status: Option<&Status>) -> String {
    status.map_or_else(|| "the agent closed it".to_owned(), broken_reason)
}

fn name(message: &stream_response::Message) -> &'static str {
    match message {
        stream_response::Message::Opened(_) => "`opened`",
        stream_response::Message::Output(_) => "`output`",
        stream_response::Message::Gap(_) => "`gap`",
        stream_response::Message::InputAck(_) => "`input_ack`",
        stream_response::Message::End(_) => "`end`",
        stream_response::Message::DriverLost(_) => "`driver_lost`",
    }
}
