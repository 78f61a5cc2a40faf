//! The thread that owns the file. Calls give it lines; it writes all that wait at once, and flushes
//! once for all of them.

use std::{
    io,
    path::PathBuf,
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

/// How long a line may wait for its flush.
const FLUSH: Duration = Duration::from_millis(500);
/// The most lines that are written at once.
const BATCH: usize = 256;

/// A line that is to be written.
#[derive(Debug)]
pub struct Line {
    /// With its end.
    pub bytes: Vec<u8>,
    /// When it counts as written.
    pub durability: Durability,
    /// Who waits for it.
    pub written: Option<oneshot::Sender<Result<(), String>>>,
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
    /// Lines that were not written, here or because none could be sent.
    lost: Arc<AtomicU64>,
    /// Since when there is something to be flushed, and how many lines that is.
    dirty: Option<Instant>,
    unflushed: u64,
    /// Whether the last try failed.
    failing: bool,
}

impl Writer {
    /// Opens the file.
    pub fn open(path: PathBuf, limits: Limits, lost: Arc<AtomicU64>) -> io::Result<Writer> {
        let file = Some(LogFile::open(&path, limits)?);
        Ok(Writer { path, limits, file, lost, dirty: None, unflushed: 0, failing: false })
    }

    /// Works until the last sender has gone.
    pub fn run(mut self, lines: &Receiver<Line>) {
        crate::redact::prepare();
        loop {
            let first = match self.dirty {
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
                Err(RecvTimeoutError::Timeout) => self.flush_late(),
                Err(RecvTimeoutError::Disconnected) => return self.flush_late(),
            }
        }
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
                    self.lost.fetch_add(1, Ordering::Relaxed);
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

    fn append(&mut self, line: &[u8]) -> Result<(), String> {
        let mut append = || {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(LogFile::open(&self.path, self.limits)?),
            };
            let lost = self.lost.load(Ordering::Relaxed);
            if lost == 0 {
                return file.append(line);
            }
            // That some are missing stands before the first that is there again.
            let mut entry = Entry::new(Event::Lost, Who::default(), "", Subject::default());
            entry.lost = Some(lost);
            file.append(&[entry.line().as_slice(), line].concat())?;
            self.lost.fetch_sub(lost, Ordering::Relaxed);
            Ok(())
        };
        match append() {
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

    fn flush(&mut self) -> Result<(), String> {
        self.dirty = None;
        let unflushed = std::mem::take(&mut self.unflushed);
        match self.file.as_mut().map_or(Ok(()), LogFile::flush) {
            Ok(()) => Ok(()),
            Err(problem) => {
                // Whether they are on disk nobody knows; asked again, the kernel would say yes.
                self.lost.fetch_add(unflushed, Ordering::Relaxed);
                Err(self.failed("flushed", &problem))
            }
        }
    }

    /// What nobody waits for.
    fn flush_late(&mut self) {
        let _ = self.flush();
    }

    fn failed(&mut self, what: &str, problem: &io::Error) -> String {
        if !std::mem::replace(&mut self.failing, true) {
            error!(file = %self.path.display(), %problem, "the audit log cannot be {what}");
        }
        format!("the audit log {} cannot be {what}: {problem}", self.path.display())
    }
}

fn tell(written: Option<oneshot::Sender<Result<(), String>>>, result: Result<(), String>) {
    // One who does not wait any more does not carry out its call either.
    if let Some(written) = written {
        let _ = written.send(result);
    }
}
