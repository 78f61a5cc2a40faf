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

/// What is read from stdin, chunk by chunk; its end is the end of the channel.
pub type Chunks = mpsc::Receiver<io::Result<Bytes>>;

/// Begins to read. One chunk is read ahead.
pub fn read() -> Result<Chunks> {
    let (sender, receiver) = mpsc::channel(1);
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || read_all(&sender))
        .map_err(|source| Error::Local { what: "cannot start a thread", source })?;
    Ok(receiver)
}

fn read_all(chunks: &mpsc::Sender<io::Result<Bytes>>) {
    // A terminal gives a line at a time: a large buffer for each would be waste.
    let size = if terminal::stdin_is_terminal() { 4 << 10 } else { CHUNK };
    let mut widened = false;
    let mut buffer = Vec::new();
    loop {
        buffer.reserve_exact(size);
        match terminal::read_stdin(&mut buffer) {
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
                if chunks.blocking_send(Ok(chunk)).is_err() {
                    return;
                }
            }
            Err(error) => {
                let _ = chunks.blocking_send(Err(error));
                return;
            }
        }
    }
}
