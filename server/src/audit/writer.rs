//! The thread that owns the file. Calls give it lines; it writes all that wait at once, and flushes
//! once for all of them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{error, info};

use super::{Entry, Event, Limits, Subject, Who, file::LogFile};
use crate::reserve;

/// How long a line may wait for its flush.
const FLUSH: Duration = Duration::from_millis(500);
/// The most lines that are written at once.
const BATCH: usize = 256;

/// How often it is tried to tell what is missing, while nobody writes.
const RETRY: Duration = Duration::from_secs(1);

/// Why a call could not be recorded, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failed {
    /// The sentence.
    pub text: String,
    /// Whether there is no room on the disk.
    pub no_room: bool,
}

impl Failed {
    /// One that is not for want of room.
    pub fn other(text: &str) -> Failed {
        Failed { text: text.to_owned(), no_room: false }
    }
}

/// Where one waits for a line.
pub type Written = oneshot::Sender<Result<(), Failed>>;

/// What is missing in the log, and not told there yet.
#[derive(Debug, Default)]
pub struct Missing {
    /// Lines that were not written, here or because none could be sent.
    pub lines: AtomicU64,
    /// Calls that were carried out whose begin is among them.
    pub calls: AtomicU64,
}

impl Missing {
    fn any(&self) -> bool {
        self.lines.load(Ordering::Relaxed) > 0 || self.calls.load(Ordering::Relaxed) > 0
    }
}

/// A line that is to be written.
#[derive(Debug)]
pub struct Line {
    /// With its end.
    pub bytes: Vec<u8>,
    /// When it counts as written.
    pub durability: Durability,
    /// Who waits for it.
    pub written: Option<Written>,
}

/// When a line counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It outlives the agent.
    Written,
    /// It outlives the host.
    Flushed,
}

/// Writes lines until nobody is left who could send one.
pub struct Writer {
    path: PathBuf,
    limits: Limits,
    /// `None`: it could not be opened again.
    file: Option<LogFile>,
    missing: Arc<Missing>,
    /// Since when there is something to be flushed, and how many lines that is.
    dirty: Option<Instant>,
    unflushed: u64,
    /// Whether the last try failed.
    failing: bool,
}

impl Writer {
    /// Opens the file.
    pub fn open(path: PathBuf, limits: Limits, missing: Arc<Missing>) -> io::Result<Writer> {
        let file = Some(LogFile::open(&path, limits)?);
        Ok(Writer { path, limits, file, missing, dirty: None, unflushed: 0, failing: false })
    }

    /// Works until the last sender has gone.
    pub fn run(mut self, lines: &Receiver<Line>) {
        crate::redact::prepare();
        loop {
            let first = match self.dirty {
                None if self.missing.any() => lines.recv_timeout(RETRY),
                None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => lines.recv_timeout(FLUSH.saturating_sub(since.elapsed())),
            };
            match first {
                Ok(first) => {
                    let more = lines.try_iter().take(BATCH - 1);
                    self.write(std::iter::once(first).chain(more).collect());
                    // Under load nothing times out.
                    if self.dirty.is_some_and(|since| since.elapsed() >= FLUSH) {
                        self.flush_late();
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.rest(),
                Err(RecvTimeoutError::Disconnected) => return self.rest(),
            }
        }
    }

    /// What is done while nobody writes.
    fn rest(&mut self) {
        if self.missing.any() {
            // It is told when it can be, if not now.
            let _ = self.append(&[]);
        }
        self.flush_late();
    }

    fn write(&mut self, batch: Vec<Line>) {
        if self.file.as_ref().is_some_and(LogFile::is_gone) {
            info!(file = %self.path.display(), "the audit log was moved away: a new one begins");
            self.flush_late();
            self.file = None;
        }
        let mut wait_for_flush = Vec::new();
        for line in batch {
            let result = self.append(&line.bytes);
            match (result, line.durability, line.written) {
                (Ok(()), Durability::Flushed, Some(written)) => wait_for_flush.push(written),
                (Ok(()), _, written) => tell(written, Ok(())),
                (Err(problem), _, written) => {
                    self.missing.lines.fetch_add(1, Ordering::Relaxed);
                    tell(written, Err(problem));
                }
            }
        }
        if !wait_for_flush.is_empty() {
            let result = self.flush();
            for written in wait_for_flush {
                tell(Some(written), result.clone());
            }
        }
    }

    fn append(&mut self, line: &[u8]) -> Result<(), Failed> {
        let mut append = || {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(LogFile::open(&self.path, self.limits)?),
            };
            if !self.missing.any() {
                return file.append(line);
            }
            // That some are missing stands before the first that is there again.
            let lines = self.missing.lines.load(Ordering::Relaxed);
            let calls = self.missing.calls.load(Ordering::Relaxed);
            let mut entry = Entry::new(Event::Lost, Who::default(), "", Subject::default());
            (entry.lost, entry.unrecorded) = (Some(lines), (calls > 0).then_some(calls));
            file.append(&[entry.line().as_slice(), line].concat())?;
            self.missing.lines.fetch_sub(lines, Ordering::Relaxed);
            self.missing.calls.fetch_sub(calls, Ordering::Relaxed);
            Ok(())
        };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        match reserve::with_room(dir, &mut append) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    info!(file = %self.path.display(), "the audit log can be written again");
                }
                self.dirty.get_or_insert_with(Instant::now);
                self.unflushed += 1;
                Ok(())
            }
            Err(problem) => Err(self.failed("written", &problem)),
        }
    }

    fn flush(&mut self) -> Result<(), Failed> {
        self.dirty = None;
        let unflushed = std::mem::take(&mut self.unflushed);
        match self.file.as_mut().map_or(Ok(()), LogFile::flush) {
            Ok(()) => Ok(()),
            Err(problem) => {
                // Whether they are on disk nobody knows; asked again, the kernel would say yes.
                self.missing.lines.fetch_add(unflushed, Ordering::Relaxed);
                Err(self.failed("flushed", &problem))
            }
        }
    }

    /// What nobody waits for.
    fn flush_late(&mut self) {
        let _ = self.flush();
    }

    fn failed(&mut self, what: &str, problem: &io::Error) -> Failed {
        if !std::mem::replace(&mut self.failing, true) {
            error!(file = %self.path.display(), %problem, "the audit log cannot be {what}");
        }
        let text = format!("the audit log {} cannot be {what}: {problem}", self.path.display());
        Failed { text, no_room: reserve::is_full(problem) }
    }
}

fn tell(written: Option<Written>, result: Result<(), Failed>) {
    // One who does not wait any more does not carry out its call either.
    if let Some(written) = written {
        let _ = written.send(result);
    }
}
