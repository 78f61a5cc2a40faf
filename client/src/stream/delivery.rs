//! From the agent to stdout and stderr: every byte once, accounted for and acknowledged.

use std::time::Duration;

use conti_proto::v1::{Gap, Output, OutputStream, SessionEnd};
use tokio::time::Instant;

use crate::{
    error::{Error, Result},
    output,
    stream::{
        journal::Journal,
        writer::{Sink, Writer},
    },
};

/// Output is acknowledged when this much was written,
const EVERY: u64 = 256 << 10;
/// or this much and nothing waits: the agent may have sent all that its window allows,
const SOON: u64 = 32 << 10;
/// or anything at all and this time has passed.
const DELAY: Duration = Duration::from_millis(20);

/// The output of a session.
pub struct Delivery {
    /// The way to stdout and stderr.
    pub writer: Writer,
    journal: Journal,
    acknowledged: u64,
    due: Option<Instant>,
}

impl Delivery {
    /// Nothing received, from an offset of the journal on.
    pub fn new(begin: u64) -> Delivery {
        Delivery {
            writer: Writer::new(),
            journal: Journal::new(begin),
            acknowledged: begin,
            due: None,
        }
    }

    /// The offset of the first byte that was not received.
    pub fn next_offset(&self) -> u64 {
        self.journal.next()
    }

    /// Takes output.
    pub fn output(&mut self, output: Output) -> Result<()> {
        let sink = match output.stream() {
            OutputStream::Stderr => Sink::Stderr,
            OutputStream::Stdout => Sink::Stdout,
            OutputStream::Unspecified => {
                return Err(Error::Stream("the agent sent output of an unknown stream".to_owned()));
            }
        };
        let mut data = output.data;
        let known = self
            .journal
            .take(output.offset, data.len(), sink == Sink::Stderr)
            .map_err(Error::Stream)?;
        let new = data.split_off(known);
        self.writer.write(sink, new, self.journal.next())
    }

    /// Takes a gap, and says so where the output is missing.
    pub fn gap(&mut self, gap: Gap) -> Result<()> {
        let missing = self.journal.skip(gap.offset, gap.length);
        if missing > 0 {
            self.note(&format!("{missing} bytes of output were dropped here"))?;
        }
        self.writer.skip_to(self.journal.next())
    }

    /// Says something on stderr behind all output that came before.
    pub fn note(&mut self, text: &str) -> Result<()> {
        self.writer.write(Sink::Stderr, output::note_line(text).into(), 0)
    }

    /// What is to be acknowledged now, where something is.
    pub fn acknowledge(&mut self) -> Option<u64> {
        let handled = self.writer.handled();
        let pending = handled.saturating_sub(self.acknowledged);
        let now = Instant::now();
        let ripe = pending >= EVERY
            || pending >= SOON && self.writer.is_idle()
            || pending > 0 && self.due.is_some_and(|due| due <= now);
        if ripe {
            self.acknowledged = handled;
        }
        self.due = if ripe || pending == 0 { None } else { self.due.or(Some(now + DELAY)) };
        ripe.then_some(handled)
    }

    /// When [`Self::acknowledge`] should be called at the latest.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is left to be acknowledged at the end.
    pub fn acknowledge_all(&mut self) -> Option<u64> {
        let handled = self.writer.handled();
        let left = handled > self.acknowledged;
        self.acknowledged = self.acknowledged.max(handled);
        left.then_some(handled)
    }

    /// After a break the agent knows only what reached it.
    pub fn resume(&mut self, begin: u64) -> Result<()> {
        let next = self.journal.next();
        self.gap(Gap { offset: next, length: begin.saturating_sub(next) })
    }

    /// Compares what was received with what the session wrote.
    pub fn check(&self, end: &SessionEnd) -> Result<(), String> {
        self.journal.check(end)
    }
}
