//! The messages of streams as bytes, without a copy of the output that they carry.
//!
//! The generated server copies each message into a buffer that it grows for it. Here the bytes
//! of an output message go out as they came from the journal, behind a head of a few bytes; all
//! other messages, and small output, are gathered in one buffer as the generated server does.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use conti_proto::v1::{
    Output, ReadSessionResponse, StreamResponse, read_session_response,
    session_service_server::{SERVICE_NAME, SessionService, SessionServiceServer},
    stream_response,
};
use futures::Stream;
use http::{Extensions, HeaderMap, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use tonic::{Request, Status, Streaming, body::Body, codec::Codec, server::NamedService};
use tonic_prost::ProstCodec;
use tower::Service;
use tracing::debug;

use super::share::Backlog;
use crate::engine::session::{Held, Waiting};

/// Output from this size on goes out without a copy.
const DIRECT: usize = 4 * 1024;
/// Small messages are gathered up to about this size.
const GATHERED: usize = 32 * 1024;

const STREAM: &str = "/conti.v1.SessionService/Stream";
const READ: &str = "/conti.v1.SessionService/ReadSession";

/// The session service with its own encoding of the two calls that carry output.
#[derive(Debug)]
pub struct SessionsOnWire<T> {
    sessions: Arc<T>,
    plain: SessionServiceServer<T>,
    decode_max: usize,
}

impl<T> Clone for SessionsOnWire<T> {
    fn clone(&self) -> Self {
        let SessionsOnWire { sessions, plain, decode_max } = self;
        SessionsOnWire { sessions: sessions.clone(), plain: plain.clone(), decode_max: *decode_max }
    }
}

impl<T> NamedService for SessionsOnWire<T> {
    const NAME: &'static str = SERVICE_NAME;
}

impl<T: SessionService> SessionsOnWire<T> {
    /// Serves sessions with these limits for messages.
    pub fn new(sessions: Arc<T>, decode_max: usize, encode_max: usize) -> SessionsOnWire<T> {
        let plain = SessionServiceServer::from_arc(sessions.clone())
            .max_decoding_message_size(decode_max)
            .max_encoding_message_size(encode_max);
        SessionsOnWire { sessions, plain, decode_max }
    }

    fn requests<M: Message + Default + 'static>(
        &self,
        request: http::Request<Body>,
    ) -> Request<Streaming<M>> {
        // What is encoded plays no part in a decoder.
        let decoder = ProstCodec::<(), M>::default().decoder();
        let max = Some(self.decode_max);
        Request::from_http(request).map(|body| Streaming::new_request(decoder, body, None, max))
    }
}

impl<T: SessionService> Service<http::Request<Body>> for SessionsOnWire<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sessions = self.sessions.clone();
        match request.uri().path() {
            STREAM => {
                let requests = self.requests(request);
                let waiting = waiting(requests.extensions());
                Box::pin(async move {
                    let result = sessions.stream(requests).await;
                    Ok(respond(STREAM, result.map(tonic::Response::into_inner), waiting))
                })
            }
            READ => {
                let (metadata, extensions, mut requests) = self.requests(request).into_parts();
                let waiting = waiting(&extensions);
                Box::pin(async move {
                    let result = match requests.message().await {
                        Ok(Some(message)) => {
                            let request = Request::from_parts(metadata, extensions, message);
                            sessions.read_session(request).await
                        }
                        Ok(None) => Err(Status::internal("the request has no message")),
                        Err(status) => Err(status),
                    };
                    Ok(respond(READ, result.map(tonic::Response::into_inner), waiting))
                })
            }
            _ => self.plain.call(request),
        }
    }
}

/// What waits of all answers to the caller.
fn waiting(extensions: &Extensions) -> Waiting {
    extensions.get::<Backlog>().cloned().unwrap_or_default().answers
}

fn respond<S, M>(
    method: &'static str,
    result: Result<S, Status>,
    waiting: Waiting,
) -> http::Response<Body>
where
    S: Stream<Item = Result<M, Status>> + Send + 'static,
    M: CarriesOutput + 'static,
{
    match result {
        Ok(messages) => {
            let messages = MessageBody::new(method, Box::pin(messages), waiting);
            let mut response = http::Response::new(Body::new(messages));
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, grpc);
            response
        }
        Err(status) => status.into_http(),
    }
}

/// A message that may be nothing but output.
pub trait CarriesOutput: Message {
    /// The number of the field that holds the output.
    const FIELD: u32;

    /// The output, where the message is output.
    fn output(&mut self) -> Option<&mut Output>;
}

impl CarriesOutput for StreamResponse {
    const FIELD: u32 = 2;

    fn output(&mut self) -> Option<&mut Output> {
        match &mut self.message {
            Some(stream_response::Message::Output(output)) => Some(output),
            _ => None,
        }
    }
}

impl CarriesOutput for ReadSessionResponse {
    const FIELD: u32 = 1;

    fn output(&mut self) -> Option<&mut Output> {
        match &mut self.message {
            Some(read_session_response::Message::Output(output)) => Some(output),
            _ => None,
        }
    }
}

/// The body of a response that is a stream of messages.
#[derive(Debug)]
pub struct MessageBody<S> {
    method: &'static str,
    /// `None`: all of it was polled.
    messages: Option<S>,
    /// What is to be sent before anything else.
    gathered: BytesMut,
    /// What is to be sent after `gathered`.
    /// It counts as waiting from when it was read, until it goes to what counts it further ([`super::outlet`]).
    direct: Option<(Bytes, Held)>,
    /// How it ended. Sent last.
    status: Option<Status>,
    waiting: Waiting,
}

impl<S> MessageBody<S> {
    /// A body of messages, to a caller for whom so much waits.
    pub fn new(method: &'static str, messages: S, waiting: Waiting) -> MessageBody<S> {
        let (messages, gathered) = (Some(messages), BytesMut::new());
        MessageBody { method, messages, gathered, direct: None, status: None, waiting }
    }
}

impl<S, M> http_body::Body for MessageBody<S>
where
    S: Stream<Item = Result<M, Status>> + Unpin,
    M: CarriesOutput,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let most = if this.waiting.is_much() { 1 } else { GATHERED };
        while let Some(messages) = &mut this.messages
            && this.direct.is_none()
            && this.gathered.len() < most
        {
            match Pin::new(messages).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => {
                    let direct = encode(message, &mut this.gathered);
                    this.direct = direct.map(|bytes| {
                        let held = this.waiting.hold(bytes.len());
                        (bytes, held)
                    });
                }
                Poll::Ready(Some(Err(status))) => {
                    this.messages = None;
                    this.status = Some(status);
                }
                Poll::Ready(None) => {
                    this.messages = None;
                    this.status = Some(Status::ok(""));
                }
                Poll::Pending if this.gathered.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        if !this.gathered.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.gathered.split().freeze()))));
        }
        if let Some((bytes, _)) = this.direct.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let Some(status) = this.status.take() else { return Poll::Ready(None) };
        debug!(method = this.method, code = ?status.code(), problem = status.message(), "ended");
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

/// Encodes a message with its gRPC head. What is returned is to follow what was written.
fn encode<M: CarriesOutput>(mut message: M, buffer: &mut BytesMut) -> Option<Bytes> {
    if let Some(output) = message.output()
        && output.data.len() >= DIRECT
    {
        let data = std::mem::take(&mut output.data);
        // All but the data, which is the last field and comes behind it.
        let without = output.encoded_len();
        let length = data.len() as u64;
        let head = key_len(3) + encoded_len_varint(length);
        let inner = (without + head + data.len()) as u64;
        let total = key_len(M::FIELD) + encoded_len_varint(inner) + inner as usize;
        put_head(buffer, total);
        encode_key(M::FIELD, WireType::LengthDelimited, buffer);
        encode_varint(inner, buffer);
        output.encode_raw(buffer);
        encode_key(3, WireType::LengthDelimited, buffer);
        encode_varint(length, buffer);
        return Some(data);
    }
    let length = message.encoded_len();
    buffer.reserve(5 + length);
    put_head(buffer, length);
    message.encode_raw(buffer);
    None
}

/// The head of a gRPC message: not compressed, so many bytes.
fn put_head(buffer: &mut BytesMut, length: usize) {
    buffer.put_u8(0);
    // A message is far smaller than 4 GiB: output has at most 1 MiB, the rest is small.
    buffer.put_u32(length as u32);
}

#[cfg(test)]
mod tests {
    use conti_proto::v1::{Gap, OutputStream};
    use futures::{FutureExt as _, StreamExt as _, stream};
    use proptest::prelude::*;

    use super::*;
    use crate::service::stream::output_message;

    fn response(offset: u64, stderr: bool, data: Vec<u8>) -> StreamResponse {
        let output = output_message(offset, stderr, data.into());
        StreamResponse { message: Some(stream_response::Message::Output(output)) }
    }

    fn gap(offset: u64) -> StreamResponse {
        let gap = Gap { offset, length: 1 };
        StreamResponse { message: Some(stream_response::Message::Gap(gap)) }
    }

    /// All bytes of a body, and its trailers.
    fn drain(messages: Vec<Result<StreamResponse, Status>>) -> (Vec<u8>, HeaderMap, usize) {
        let mut body = MessageBody::new("test", stream::iter(messages), Waiting::default());
        let (mut bytes, mut trailers, mut frames) = (Vec::new(), HeaderMap::new(), 0);
        let poll =
            stream::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut body), context));
        for frame in poll.collect::<Vec<_>>().now_or_never().unwrap() {
            match frame.unwrap().into_data() {
                Ok(data) => {
                    frames += 1;
                    bytes.extend_from_slice(&data);
                }
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
        (bytes, trailers, frames)
    }

    fn decode(mut bytes: &[u8]) -> Vec<StreamResponse> {
        let mut messages = Vec::new();
        while let [0, a, b, c, d, rest @ ..] = bytes {
            let (message, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            messages.push(StreamResponse::decode(message).unwrap());
            bytes = rest;
        }
        assert!(bytes.is_empty());
        messages
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_the_contract_says(
            parts in prop::collection::vec((any::<u64>(), any::<bool>(), 0usize..20_000), 0..12),
        ) {
            let mut messages = Vec::new();
            for (offset, stderr, length) in parts {
                messages.push(response(offset, stderr, vec![length as u8; length]));
                messages.push(gap(offset));
            }
            let (bytes, trailers, _) = drain(messages.iter().cloned().map(Ok).collect());
            prop_assert_eq!(decode(&bytes), messages);
            prop_assert_eq!(&trailers["grpc-status"], "0");
        }
    }

    #[test]
    fn an_error_comes_after_all_that_was_there_before_it() {
        let messages = vec![response(0, true, vec![1; 10_000]), gap(1)];
        let mut sent: Vec<_> = messages.iter().cloned().map(Ok).collect();
        sent.push(Err(Status::unavailable("stopping")));
        let (bytes, trailers, _) = drain(sent);
        assert_eq!(decode(&bytes), messages);
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(OutputStream::Stderr as i32, 2);
    }

    #[test]
    fn a_burst_of_small_messages_is_one_frame() {
        let (_, _, frames) = drain((0..100).map(|n| Ok(gap(n))).collect());
        assert_eq!(frames, 1);
    }
}
