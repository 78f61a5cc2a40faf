//! The agent's side of a journal: it takes output out and puts input in.
//!
//! The other side may be hostile: every value of the header is checked before it is used, and nothing
//! outside the mapping is ever touched.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{Ordering, fence},
    },
};

use super::{
    Mode, Totals,
    layout::{
        ACKED, DROPPED_TOTAL, Extent, IN_BROKEN, IN_CLOSED, IN_HEAD, IN_TAIL, Journal, MODE,
        OUT_HEAD, OUT_SIZE, OUT_TAIL, OUT_WANTED, Ring, SEG_HEAD, SEG_TAIL, STDERR_TOTAL,
        STDOUT_TOTAL, mode_number,
    },
};

/// How often a read is tried again when the writer overtakes it. A sound writer moves the tail past the
/// offset long before.
const ATTEMPTS: usize = 64;

/// Bytes of input whose pages are given back when they were drained.
const INPUT_WORTH_RELEASING: u64 = 16 << 10;

/// What is at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadResult {
    /// Bytes of one stream.
    Data {
        /// Of the first byte.
        offset: u64,
        /// Whether they are of stderr.
        stderr: bool,
        /// The bytes, at least one.
        bytes: Vec<u8>,
    },
    /// Bytes that are not there any more.
    Gap {
        /// Of the first byte that is missing.
        offset: u64,
        /// How many are missing.
        length: u64,
    },
    /// Nothing yet.
    Empty,
}

/// As [`ReadResult`], with the bytes appended to the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadInto {
    /// Bytes of one stream were appended.
    Data {
        /// Whether they are of stderr.
        stderr: bool,
        /// How many, at least one.
        length: usize,
    },
    /// Bytes that are not there any more.
    Gap {
        /// How many are missing.
        length: u64,
    },
    /// Nothing yet.
    Empty,
}

impl ReadInto {
    pub(super) fn with_bytes(self, offset: u64, bytes: Vec<u8>) -> ReadResult {
        match self {
            ReadInto::Data { stderr, .. } => ReadResult::Data { offset, stderr, bytes },
            ReadInto::Gap { length } => ReadResult::Gap { offset, length },
            ReadInto::Empty => ReadResult::Empty,
        }
    }
}

/// The agent's handle of a journal. Reads may happen from several threads at once.
#[derive(Debug)]
pub struct Reader {
    journal: Journal,
    input: Mutex<Input>,
}

/// What the agent knows of the input, rather than read it back from where the monitor could change it.
#[derive(Debug)]
struct Input {
    head: u64,
    closed: bool,
    /// Below it pages were given back.
    released: u64,
}

impl Reader {
    /// Maps a journal, new or of a session that goes on.
    pub fn map(file: OwnedFd) -> io::Result<Reader> {
        let journal = Journal::map(file)?;
        let closed = journal.load(IN_CLOSED);
        let head = journal.load(IN_HEAD).min(closed);
        let input = Mutex::new(Input { head, closed: closed != u64::MAX, released: 0 });
        Ok(Reader { journal, input })
    }

    /// The journal's file.
    pub fn file(&self) -> &OwnedFd {
        &self.journal.file
    }

    /// The end of the output.
    pub fn head(&self) -> u64 {
        self.journal.load(OUT_HEAD)
    }

    /// The oldest byte that can be read; at most the head.
    pub fn tail(&self) -> u64 {
        self.bounds().tail
    }

    /// How much went through.
    pub fn totals(&self) -> Totals {
        Totals {
            stdout: self.journal.load(STDOUT_TOTAL),
            stderr: self.journal.load(STDERR_TOTAL),
            dropped: self.journal.load(DROPPED_TOTAL),
        }
    }

    /// What is at `offset`: at most `max` bytes, of one stream.
    pub fn read(&self, offset: u64, max: usize) -> ReadResult {
        let mut bytes = Vec::new();
        self.read_into(offset, max, &mut bytes).with_bytes(offset, bytes)
    }

    /// As [`Reader::read`], appending to a buffer.
    pub fn read_into(&self, offset: u64, max: usize, buffer: &mut Vec<u8>) -> ReadInto {
        let kept = buffer.len();
        for _ in 0..ATTEMPTS {
            let Bounds { tail, head, extent, ring } = self.bounds();
            if offset >= head || max == 0 {
                return ReadInto::Empty;
            }
            if offset < tail {
                return ReadInto::Gap { length: tail - offset };
            }
            let Some(found) = self.find(offset, head) else { continue };
            let length = (found.end - offset).min(max as u64);
            for span in ring.spans(offset, length) {
                self.journal.memory.append_to(span, buffer);
            }
            // The bytes must have been read before the tails and the size are looked at again.
            fence(Ordering::SeqCst);
            let now = self.bounds();
            if now.tail <= offset
                && now.extent == extent
                && self.journal.load(SEG_TAIL) <= found.segment
            {
                return ReadInto::Data { stderr: found.stderr, length: length as usize };
            }
            buffer.truncate(kept);
        }
        // No sound writer gets here: what cannot be read counts as lost, so that the reader goes on.
        ReadInto::Gap { length: self.bounds().head.saturating_sub(offset).max(1) }
    }

    /// The bounds, such that `tail <= head` and no more than the ring's size lies between them.
    ///
    /// The head is read first: the tail only grows, so that it may be too new but never too old. So may
    /// the size, which grows before the head goes on and shrinks after the tail has.
    fn bounds(&self) -> Bounds {
        let head = self.journal.load(OUT_HEAD);
        let extent = Extent(self.journal.load(OUT_SIZE));
        let ring = self.journal.output_max.of_size(extent.size());
        let tail = self.journal.load(OUT_TAIL).min(head);
        Bounds { tail: tail.max(head.saturating_sub(ring.size)), head, extent, ring }
    }

    /// The segment of an offset. `None` where the segments are being overwritten, or make no sense.
    fn find(&self, offset: u64, head: u64) -> Option<Found> {
        let newest = self.journal.load(SEG_HEAD);
        let oldest = self.journal.load(SEG_TAIL);
        if oldest >= newest || newest - oldest > self.journal.segments {
            return None;
        }
        // The last one that begins at or below the offset.
        let (mut low, mut high) = (oldest, newest);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.journal.segment(middle).start <= offset { low = middle } else { high = middle }
        }
        let segment = self.journal.segment(low);
        let end =
            if low + 1 < newest { self.journal.segment(low + 1).start.min(head) } else { head };
        // The search may have gone astray over entries that were overwritten under it. What it found is
        // right all the same if it fits and, as the caller checks, is still there.
        let fits = segment.start <= offset && offset < end;
        fits.then_some(Found { segment: low, end, stderr: segment.stderr })
    }

    /// Tells the monitor that everything below `offset` was handled. Wake it afterwards where it may be
    /// waiting for room.
    pub fn set_acked(&self, offset: u64) {
        // Acknowledgements only grow, from whatever thread they come.
        self.journal.memory.word(ACKED).fetch_max(offset, Ordering::AcqRel);
    }

    /// Up to where the output was acknowledged.
    pub fn acked(&self) -> u64 {
        self.journal.load(ACKED)
    }

    /// Whether the journal is full of what was not acknowledged: the process waits.
    pub fn is_full(&self) -> bool {
        let now = self.bounds();
        now.head.saturating_sub(self.acked()) >= now.ring.size
    }

    /// Lets the ring of output grow to twice its present size when it is full next time, as far as it
    /// can. Wake the monitor afterwards.
    pub fn let_grow(&self) {
        self.journal.store(OUT_WANTED, self.bounds().ring.size * 2);
    }

    /// Lets the ring of output not grow any more.
    pub fn let_stay(&self) {
        self.journal.store(OUT_WANTED, 0);
    }

    /// Says what the monitor does when the journal is full. Wake it afterwards.
    pub fn set_mode(&self, mode: Mode) {
        self.journal.store(MODE, mode_number(mode));
    }

    /// What the monitor was told to do when the journal is full.
    pub fn mode(&self) -> Mode {
        let number = self.journal.load(MODE);
        let known =
            [Mode::Drop, Mode::Record].into_iter().find(|mode| mode_number(*mode) == number);
        known.unwrap_or(Mode::Wait)
    }

    /// How much of the output can be left unacknowledged at `handled`, so that it stays readable, and
    /// the writer still has room for half a journal.
    pub fn spare(&self, handled: u64) -> u64 {
        let segments = self.journal.load(SEG_HEAD).wrapping_sub(self.journal.load(SEG_TAIL));
        // Where stdout and stderr change often, these are full before the ring is.
        let crowded = segments > self.journal.segments / 2;
        if crowded { 0 } else { handled.min(self.journal.output.size / 2) }
    }

    /// The end of the input so far.
    pub fn input_head(&self) -> u64 {
        self.input().head
    }

    /// Up to where the process was given its input; at most the head.
    pub fn input_taken(&self) -> u64 {
        self.journal.load(IN_TAIL).min(self.input_head())
    }

    /// How many bytes of input fit now.
    pub fn input_room(&self) -> usize {
        self.room(self.input().head) as usize
    }

    /// Whether nobody reads the input any more.
    pub fn input_broken(&self) -> bool {
        self.journal.load(IN_BROKEN) != 0
    }

    /// Whether the input was closed.
    pub fn input_closed(&self) -> bool {
        self.input().closed
    }

    /// Adds input, as much as fits, and tells how much that was. Wake the monitor afterwards.
    pub fn push_input(&self, bytes: &[u8]) -> usize {
        let mut input = self.input();
        if input.closed {
            return 0;
        }
        let len = self.room(input.head).min(bytes.len() as u64);
        let [first, second] = self.journal.input.spans(input.head, len);
        let n = self.journal.memory.copy_from(first, bytes);
        let n = n + self.journal.memory.copy_from(second, &bytes[n..]);
        input.head += n as u64;
        self.journal.store(IN_HEAD, input.head);
        n
    }

    /// Closes the input: what was pushed is the last. Wake the monitor afterwards.
    pub fn close_input(&self) {
        let mut input = self.input();
        if !input.closed {
            input.closed = true;
            self.journal.store(IN_CLOSED, input.head);
        }
    }

    /// For an idle moment: gives the pages of drained input back. Here and not in the monitor, because
    /// only the one who fills them knows that nobody does so meanwhile.
    pub fn trim_input(&self) {
        let mut input = self.input();
        let drained = self.journal.load(IN_TAIL) == input.head;
        if !input.closed && drained && input.head - input.released >= INPUT_WORTH_RELEASING {
            let ring = self.journal.input;
            ring.release(&self.journal.file, input.head.saturating_sub(ring.size), input.head);
            input.released = input.head;
        }
    }

    /// A tail that makes no sense leaves no room.
    fn room(&self, head: u64) -> u64 {
        let size = self.journal.input.size;
        match head.checked_sub(self.journal.load(IN_TAIL)) {
            Some(waiting) if waiting <= size => size - waiting,
            _ => 0,
        }
    }

    fn input(&self) -> std::sync::MutexGuard<'_, Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can be read, and where it lies.
struct Bounds {
    tail: u64,
    head: u64,
    extent: Extent,
    ring: Ring,
}

struct Found {
    segment: u64,
    end: u64,
    stderr: bool,
}
