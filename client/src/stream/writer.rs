//! Writes output to stdout and stderr, in order, without ever stopping the loop that feeds it.
//!
//! A write may block for as long as its reader likes, and stdout must not be made non-blocking:
//! it is shared with other processes. So a thread writes. What goes without waiting is written at
//! once, which spares two switches for each keystroke and the thread for most commands, and keeps
//! the data of a fast stream in the cache of one CPU.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{
    error::{Error, Result},
    terminal::{self, Stdio},
};

/// How many bytes may wait for the thread.
const QUEUE_LIMIT: usize = 1 << 20;
/// A pipe that can be written takes at least this much without blocking (PIPE_BUF).
const SMALL: usize = 4096;
/// From this size on a chunk is a sign of a stream worth a wide pipe.
const LARGE: usize = 64 << 10;

/// One of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Sink {
    fn stdio(self) -> Stdio {
        match self {
            Sink::Stdout => Stdio::Out,
            Sink::Stderr => Stdio::Err,
        }
    }
}

struct Piece {
    sink: Sink,
    data: Bytes,
    /// Up to where the journal is handled once this is written.
    handled: u64,
}

#[derive(Default)]
struct Shared {
    handled: AtomicU64,
    queued: AtomicUsize,
    stdout_failed: AtomicBool,
    failure: Mutex<Option<io::Error>>,
    stderr_gone: AtomicBool,
    progress: Notify,
}

/// The way to stdout and stderr.
pub struct Writer {
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Piece>>,
    stdout_is_file: bool,
    widened: bool,
    /// Whether stdout is of a kind that cannot be written to without waiting.
    must_wait: bool,
}

impl Writer {
    /// Nothing written yet.
    pub fn new() -> Writer {
        Writer {
            shared: Arc::default(),
            queue: None,
            stdout_is_file: terminal::is_regular_file(Stdio::Out),
            widened: false,
            must_wait: false,
        }
    }

    /// Whether more should be handed over.
    pub fn has_room(&self) -> bool {
        self.shared.queued.load(Ordering::Acquire) < QUEUE_LIMIT
    }

    /// Whether all was written.
    pub fn is_idle(&self) -> bool {
        self.shared.queued.load(Ordering::Acquire) == 0
    }

    /// Up to which offset of the journal all is written.
    pub fn handled(&self) -> u64 {
        self.shared.handled.load(Ordering::Acquire)
    }

    /// Counts a part of the journal as handled that has no bytes, or none to be written.
    pub fn skip_to(&mut self, handled: u64) -> Result<()> {
        self.write(Sink::Stdout, Bytes::new(), handled)
    }

    /// Waits until the thread has written something.
    pub async fn progress(&self) {
        self.shared.progress.notified().await;
    }

    /// Why nothing more can be written, where that is so.
    pub fn failure(&self) -> Result<()> {
        if !self.shared.stdout_failed.load(Ordering::Acquire) {
            return Ok(());
        }
        match &*self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let source = io::Error::new(error.kind(), error.to_string());
                Err(Error::Local { what: "cannot write to stdout", source })
            }
            _ => Err(Error::OutputClosed),
        }
    }

    /// Hands over output; `handled` is the offset of the journal behind it.
    pub fn write(&mut self, sink: Sink, mut data: Bytes, handled: u64) -> Result<()> {
        if data.len() >= LARGE && !self.widened {
            self.widened = true;
            terminal::widen_pipe(Stdio::Out);
        }
        if self.is_idle() {
            match self.write_at_once(sink, &data) {
                Ok(written) if written == data.len() => {
                    self.shared.handled.fetch_max(handled, Ordering::AcqRel);
                    return self.failure();
                }
                Ok(written) => drop(data.split_to(written)),
                Err(error) => {
                    self.shared.fail(error);
                    return self.failure();
                }
            }
        }
        let piece = Piece { sink, data, handled };
        // An empty piece counts too, so that it is not taken for written before its turn.
        self.shared.queued.fetch_add(piece.weight(), Ordering::AcqRel);
        // The thread ends only after a failure, which is reported below.
        let _ = self.queue()?.send(piece);
        self.failure()
    }

    /// As much as goes without waiting for a reader.
    fn write_at_once(&mut self, sink: Sink, data: &[u8]) -> io::Result<usize> {
        let never_waits = sink == Sink::Stdout && self.stdout_is_file
            || data.len() <= SMALL && terminal::is_writable_now(sink.stdio());
        if never_waits {
            return self.shared.write(sink, data, false);
        }
        if sink == Sink::Stdout && !self.must_wait {
            match terminal::write_at_once(sink.stdio(), data) {
                Some(result) => return result,
                None => self.must_wait = true,
            }
        }
        Ok(0)
    }

    fn queue(&mut self) -> Result<&mpsc::Sender<Piece>> {
        if self.queue.is_none() {
            let (sender, receiver) = mpsc::channel();
            let shared = Arc::clone(&self.shared);
            thread::Builder::new()
                .name("stdout".to_owned())
                .spawn(move || write_all_of(&receiver, &shared))
                .map_err(|source| Error::Local { what: "cannot start a thread", source })?;
            return Ok(self.queue.insert(sender));
        }
        self.queue.as_ref().ok_or(Error::OutputClosed)
    }
}

impl Piece {
    fn weight(&self) -> usize {
        self.data.len().max(1)
    }
}

impl Shared {
    /// Writes all of it, or, where it must not wait, as much as goes.
    fn write(&self, sink: Sink, data: &[u8], may_wait: bool) -> io::Result<usize> {
        let mut written = 0;
        while written < data.len() {
            if sink == Sink::Stderr && self.stderr_gone.load(Ordering::Relaxed) {
                return Ok(data.len());
            }
            match terminal::write(sink.stdio(), &data[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !may_wait {
                        break;
                    }
                    terminal::wait_until_writable(sink.stdio());
                }
                // Without a stderr there is nowhere to say so; stdout goes on.
                Err(_) if sink == Sink::Stderr => self.stderr_gone.store(true, Ordering::Relaxed),
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn fail(&self, error: io::Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.stdout_failed.store(true, Ordering::Release);
    }
}

fn write_all_of(queue: &mpsc::Receiver<Piece>, shared: &Shared) {
    while let Ok(piece) = queue.recv() {
        let result = shared.write(piece.sink, &piece.data, true);
        let failed = result.is_err();
        match result {
            Ok(_) => {
                shared.handled.fetch_max(piece.handled, Ordering::AcqRel);
                shared.queued.fetch_sub(piece.weight(), Ordering::AcqRel);
            }
            Err(error) => shared.fail(error),
        }
        shared.progress.notify_one();
        if failed {
            return;
        }
    }
}
