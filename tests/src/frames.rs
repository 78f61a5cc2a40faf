//! HTTP/2 by hand (RFC 9113, RFC 7541): frames as somebody writes them who means harm. A library would
//! refuse to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, WriteHalf, split},
    sync::watch,
    task::AbortHandle,
    time::timeout,
};

use crate::{remote::Remote, wait::PATIENCE};

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub mod kind {
    #![allow(missing_docs)]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![allow(missing_docs)]
    pub const NONE: u8 = 0;
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// Codes of errors.
pub mod code {
    #![allow(missing_docs)]
    pub const REFUSED_STREAM: u32 = 7;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The frame that resets a stream (CANCEL).
pub fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, flag::NONE, stream, &8_u32.to_be_bytes())
}

/// The frame that opens a call which goes on.
pub fn open(path: &str, stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &call(path))
}

/// A part of a call's messages.
pub fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flag::NONE, stream, bytes)
}

/// The numbers of a client's streams.
pub fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

/// Settings, each a number and a value.
pub fn settings(all: &[(u16, u32)]) -> Vec<u8> {
    let payload = all.iter().flat_map(|(id, value)| {
        id.to_be_bytes().into_iter().chain(value.to_be_bytes()).collect::<Vec<u8>>()
    });
    frame(kind::SETTINGS, flag::NONE, 0, &payload.collect::<Vec<u8>>())
}

/// The header block of a gRPC call: no entry of it is kept in the table of either side.
pub fn call(path: &str) -> Vec<u8> {
    // `:method: POST`, `:scheme: https`, and names 1 and 4 of the static table.
    let mut block = vec![0x83, 0x87, 0x01];
    text(&mut block, "localhost");
    block.push(0x04);
    text(&mut block, path);
    literal(&mut block, "content-type", "application/grpc");
    literal(&mut block, "te", "trailers");
    block
}

/// Adds a header that is not kept.
pub fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0x00);
    text(block, name);
    text(block, value);
}

/// Adds a header that is kept in the receiver's table: its newest entry has the number 62.
pub fn kept(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0x40);
    text(block, name);
    text(block, value);
}

/// A string of HPACK, without the code of Huffman.
fn text(block: &mut Vec<u8>, value: &str) {
    let mut rest = value.len();
    if rest < 127 {
        block.push(rest as u8);
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        block.push(rest as u8);
    }
    block.extend(value.bytes());
}

/// A gRPC message that claims to be `length` bytes long, with the bytes that are there.
pub fn message(length: u32, bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &length.to_be_bytes(), bytes].concat()
}

/// What the agent has answered so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Streams that were answered, and whether that was all.
    pub headers: Vec<(u32, bool)>,
    /// Streams that were reset, with the code.
    pub resets: Vec<(u32, u32)>,
    /// How many pings and settings were acknowledged.
    pub acks: u64,
    /// The code of the GOAWAY, where there was one.
    pub goaway: Option<u32>,
    /// Whether the agent has closed the connection.
    pub closed: bool,
}

impl Answers {
    /// Whether nothing more will be taken.
    pub fn over(&self) -> bool {
        self.closed || self.goaway.is_some_and(|code| code != 0)
    }

    /// Whether the agent has ended this stream.
    pub fn ended(&self, stream: u32) -> bool {
        self.over()
            || self.headers.contains(&(stream, true))
            || self.resets.iter().any(|(one, _)| *one == stream)
    }
}

/// A connection that is written to by hand.
pub struct Raw {
    writer: WriteHalf<Box<dyn Duplex>>,
    answers: watch::Receiver<Answers>,
    reader: AbortHandle,
    reading: Arc<AtomicBool>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        // It holds the other half of the connection.
        self.reader.abort();
    }
}

/// Any stream of bytes.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

impl Raw {
    /// Connects as a client that is let in, and begins HTTP/2 with these settings.
    pub async fn connect(remote: &Remote, all: &[(u16, u32)]) -> Raw {
        Raw::begin(remote.shake().await.expect("it may connect"), all).await
    }

    /// Begins HTTP/2 with these settings.
    pub async fn begin(stream: impl Duplex + 'static, all: &[(u16, u32)]) -> Raw {
        let mut raw = Raw::over(stream);
        raw.send(&[PREFACE, &settings(all)].concat()).await;
        raw
    }

    /// Waits until the agent has agreed to the settings, and agrees to its own: it does not give its windows
    /// before.
    pub async fn settle(&mut self) {
        self.until("the settings were exchanged", |answers| answers.acks > 0).await;
        self.send(&frame(kind::SETTINGS, flag::ACK, 0, &[])).await;
    }

    /// Says nothing yet. What is answered is read until [`Raw::stop_reading`].
    pub fn over(stream: impl Duplex + 'static) -> Raw {
        let (mut reader, writer) = split(Box::new(stream) as Box<dyn Duplex>);
        let (tell, answers) = watch::channel(Answers::default());
        let reading = Arc::new(AtomicBool::new(true));
        let goes_on = reading.clone();
        let reader_task = tokio::spawn(async move {
            while goes_on.load(Ordering::Relaxed) {
                let mut head = [0; 9];
                let frame = async {
                    reader.read_exact(&mut head).await?;
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    let mut payload = vec![0; length];
                    reader.read_exact(&mut payload).await?;
                    Ok::<_, std::io::Error>(payload)
                };
                let Ok(payload) = frame.await else {
                    tell.send_modify(|answers| answers.closed = true);
                    return;
                };
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                let number = |at: usize| {
                    let bytes = payload.get(at..at + 4).expect("a whole frame");
                    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
                };
                tell.send_modify(|answers| match head[3] {
                    kind::HEADERS => {
                        answers.headers.push((stream, head[4] & flag::END_STREAM != 0));
                    }
                    kind::RST_STREAM => answers.resets.push((stream, number(0))),
                    kind::GOAWAY => answers.goaway = Some(number(4)),
                    kind::SETTINGS | kind::PING if head[4] & flag::ACK != 0 => answers.acks += 1,
                    _ => {}
                });
            }
            // What comes is left where it is, and the connection stays.
            tell.closed().await;
            drop(reader);
        });
        Raw { writer, answers, reader: reader_task.abort_handle(), reading }
    }

    /// Reads nothing more but the frame that comes next.
    pub fn stop_reading(&self) {
        self.reading.store(false, Ordering::Relaxed);
    }

    /// Sends bytes. False: the agent takes no more, or not within a second.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let write = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        timeout(Duration::from_secs(1), write).await.is_ok_and(|done| done.is_ok())
    }

    /// What has been answered so far.
    pub fn answers(&self) -> Answers {
        self.answers.borrow().clone()
    }

    /// Waits until the answers are as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Answers) -> bool) -> Answers {
        let found = {
            let found = timeout(PATIENCE, self.answers.wait_for(|answers| wanted(answers))).await;
            matches!(found, Ok(Ok(_)))
        };
        let answers = self.answers();
        assert!(found, "waited in vain until {what}: {answers:?}");
        answers
    }
}
