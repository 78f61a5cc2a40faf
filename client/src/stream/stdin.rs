//! Reads stdin on a thread of its own, which nobody ever waits for.

use std::{io, thread};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    error::{Error, Result},
    terminal::{self, Stdio},
};

/// How much is read at once.
const CHUNK: usize = 256 << 10;
/// What an ordinary pipe holds: a read that fills it is a sign of a stream worth a wide one.
const FULL_PIPE: usize = 64 << 10;

/// What is read from stdin, one after the other; its end is the end of the channel.
pub type Reads = mpsc::Receiver<Read>;

/// What came of a read.
#[derive(Debug)]
pub enum Read {
    /// A chunk.
    Data(Bytes),
    /// It cannot be read.
    Failed(io::Error),
    /// It is a terminal that hung up: nobody has said that the input ends.
    HungUp,
}

/// Begins to read. One chunk is read ahead.
pub fn read() -> Result<Reads> {
    let (sender, receiver) = mpsc::channel(1);
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || read_all(&sender))
        .map_err(|source| Error::Local { what: "cannot start a thread", source })?;
    Ok(receiver)
}

fn read_all(reads: &mpsc::Sender<Read>) {
    let is_terminal = terminal::stdin_is_terminal();
    // A terminal gives a line at a time: a large buffer for each would be waste.
    let size = if is_terminal { 4 << 10 } else { CHUNK };
    let mut widened = false;
    let mut buffer = Vec::new();
    loop {
        buffer.reserve_exact(size);
        match terminal::read_stdin(&mut buffer) {
            Ok(0) | Err(_) if terminal::stdin_hung_up(is_terminal) => {
                let _ = reads.blocking_send(Read::HungUp);
                return;
            }
            Ok(0) => return,
            Ok(n) => {
                if n >= FULL_PIPE && !widened {
                    widened = true;
                    terminal::widen_pipe(Stdio::In);
                }
                // A small read is copied out, so that what waits for its acknowledgement holds
                // no more memory than it counts for.
                let chunk = if n < size / 2 {
                    let chunk = Bytes::copy_from_slice(&buffer);
                    buffer.clear();
                    chunk
                } else {
                    Bytes::from(std::mem::take(&mut buffer))
                };
                if reads.blocking_send(Read::Data(chunk)).is_err() {
                    return;
                }
            }
            Err(error) => {
                let _ = reads.blocking_send(Read::Failed(error));
                return;
            }
        }
    }
}
