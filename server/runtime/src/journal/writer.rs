//! The monitor's side of a journal: it puts output in and takes input out.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{Ordering, fence},
};

use super::{
    Mode, Stream, Totals,
    layout::{
        ACKED, DROPPED_TOTAL, Extent, IN_BROKEN, IN_CLOSED, IN_HEAD, IN_TAIL, Journal, MODE,
        OUT_HEAD, OUT_SIZE, OUT_TAIL, OUT_WANTED, Ring, SEG_HEAD, SEG_TAIL, STDERR_TOTAL,
        STDOUT_TOTAL, Segment, mode_number,
    },
};

/// How many bytes stay readable when everything was acknowledged and nothing happens.
const HISTORY: u64 = 64 << 10;
/// How many bytes are moved at once when the ring changes its size.
const MOVE: u64 = 64 << 10;

/// What the ring of output may take.
struct Space {
    /// How large it may become.
    size: u64,
    /// Below it bytes may be overwritten.
    floor: u64,
    room: u64,
}

/// The one writer of a journal's output. What it writes itself it never reads back.
#[derive(Debug)]
pub struct Writer {
    journal: Journal,
    extent: Extent,
    head: u64,
    tail: u64,
    seg_head: u64,
    seg_tail: u64,
    totals: Totals,
    /// The stream of the newest segment.
    last: Option<Stream>,
    /// Output below it lies on pages that were given back.
    released: u64,
    input_taken: u64,
    input_released: bool,
}

impl Writer {
    /// Maps a journal that nobody has written to.
    pub fn map(file: OwnedFd) -> io::Result<Writer> {
        let journal = Journal::map(file)?;
        Ok(Writer {
            extent: Extent(journal.output.size),
            journal,
            head: 0,
            tail: 0,
            seg_head: 0,
            seg_tail: 0,
            totals: Totals::default(),
            last: None,
            released: 0,
            input_taken: 0,
            input_released: false,
        })
    }

    /// The journal's file.
    pub fn file(&self) -> &OwnedFd {
        &self.journal.file
    }

    /// The end of the output.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The oldest byte that is retained.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// How much went through.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How many bytes of this stream could be written now.
    pub fn room(&self, stream: Stream) -> u64 {
        self.space(stream).room
    }

    /// How large the ring may be now, and how many bytes of this stream it takes then.
    fn space(&self, stream: Stream) -> Space {
        let Journal { output, output_max, .. } = self.journal;
        let (size, floor) = match self.mode() {
            Mode::Wait | Mode::Record => {
                let wanted = self.journal.load(OUT_WANTED).min(output_max.size);
                (self.extent.size().max(output.grown(wanted)), self.acked().max(self.tail))
            }
            // What nobody waits for is kept as far as the ordinary size goes.
            Mode::Drop => (output.size, self.head),
        };
        let blocked = self.tail_without_oldest_segment(stream).is_some_and(|tail| tail > floor);
        Space { size, floor, room: if blocked { 0 } else { size - (self.head - floor) } }
    }

    /// The ring of output as it is now.
    fn output(&self) -> Ring {
        self.journal.output_max.of_size(self.extent.size())
    }

    /// Reads once from a pipe or a terminal, at most `limit` bytes and only what there is room for, and
    /// publishes it. `Ok(0)` is the end of the file; `WouldBlock` stands for no data as well as for no
    /// room.
    pub fn fill(&mut self, file: impl AsFd, stream: Stream, limit: u64) -> io::Result<u64> {
        let space = self.space(stream);
        if space.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let free = space.size.saturating_sub(self.head - self.tail);
        // What is overwritten is gone, so that it must not be more than what will be read: where not
        // all of `limit` is free, the kernel is asked how much there is.
        let wanted = if free >= limit {
            limit
        } else {
            match rustix::io::ioctl_fionread(&file)? {
                // Most likely the end, for which nothing must be overwritten.
                0 => return self.fill_one(file, stream),
                present => present.min(limit),
            }
        };
        let len = self.reserve(stream, wanted);
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let spans = self.output().spans(self.head, len);
        let n = self.journal.memory.read_from(file, spans)? as u64;
        self.commit(stream, n.min(len));
        Ok(n)
    }

    /// Reads one byte, by the way of this process's own memory.
    fn fill_one(&mut self, file: impl AsFd, stream: Stream) -> io::Result<u64> {
        let mut byte = [0];
        let n = rustix::io::read(file, &mut byte)?;
        Ok(self.append(stream, &byte[..n]) as u64)
    }

    /// Writes bytes, as many as there is room for.
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) -> usize {
        let len = self.reserve(stream, bytes.len() as u64);
        let [first, second] = self.output().spans(self.head, len);
        let n = self.journal.memory.copy_from(first, bytes);
        let n = n + self.journal.memory.copy_from(second, &bytes[n..]);
        self.commit(stream, n as u64);
        n
    }

    /// Makes room for up to `wanted` bytes and tells for how many. The tail has moved when it returns,
    /// so that readers know before a byte is overwritten.
    fn reserve(&mut self, stream: Stream, wanted: u64) -> u64 {
        let Space { size, floor, room } = self.space(stream);
        let len = wanted.min(room);
        if len > 0 {
            // As long as its reader keeps up the ring stays as small as it is.
            if size < self.extent.size() || self.head + len - floor > self.extent.size() {
                self.resize(size);
            }
            let needed = (self.head + len).saturating_sub(self.extent.size());
            let needed = needed.max(self.tail_without_oldest_segment(stream).unwrap_or(0));
            if needed > self.tail {
                self.advance_tail(needed);
            }
        }
        len
    }

    /// Publishes bytes that were written behind the head.
    fn commit(&mut self, stream: Stream, len: u64) {
        if len == 0 {
            return;
        }
        if self.last != Some(stream) {
            let segment = Segment { start: self.head, stderr: stream == Stream::Stderr };
            self.journal.set_segment(self.seg_head, segment);
            self.seg_head += 1;
            self.journal.store(SEG_HEAD, self.seg_head);
            self.last = Some(stream);
        }
        match stream {
            Stream::Stdout => {
                self.totals.stdout += len;
                self.journal.store(STDOUT_TOTAL, self.totals.stdout);
            }
            Stream::Stderr => {
                self.totals.stderr += len;
                self.journal.store(STDERR_TOTAL, self.totals.stderr);
            }
        }
        self.head += len;
        self.journal.store(OUT_HEAD, self.head);
    }

    /// Where the tail would be without the oldest segment, where that has to go to make place for a
    /// segment of `stream`.
    fn tail_without_oldest_segment(&self, stream: Stream) -> Option<u64> {
        let full = self.seg_head - self.seg_tail == self.journal.segments;
        (full && self.last != Some(stream)).then(|| self.segment_end(self.seg_tail))
    }

    fn segment_end(&self, index: u64) -> u64 {
        if index + 1 == self.seg_head { self.head } else { self.journal.segment(index + 1).start }
    }

    fn advance_tail(&mut self, to: u64) {
        let lost = to.saturating_sub(self.acked().max(self.tail));
        self.tail = to;
        while self.seg_tail < self.seg_head && self.segment_end(self.seg_tail) <= to {
            self.seg_tail += 1;
        }
        if self.seg_tail == self.seg_head {
            // The newest segment has gone too: what comes needs an entry of its own.
            self.last = None;
        }
        if lost > 0 {
            self.totals.dropped += lost;
            self.journal.store(DROPPED_TOTAL, self.totals.dropped);
        }
        self.journal.store(SEG_TAIL, self.seg_tail);
        self.journal.store(OUT_TAIL, self.tail);
        // Bytes that are written from here on must not be seen before the new tail.
        fence(Ordering::SeqCst);
    }

    /// Gives the ring of output another size: `self.journal.output`'s, doubled some times. What does not
    /// fit is overwritten.
    fn resize(&mut self, size: u64) {
        let (old, new) = (self.output(), self.journal.output_max.of_size(size));
        if new.size == old.size {
            return;
        }
        let fits = self.head.saturating_sub(new.size);
        if fits > self.tail {
            self.advance_tail(fits);
        }
        // Of two sizes one divides the other. So a byte's new place is its old one, or was free, or is
        // that of a byte below the tail: nothing that is retained is overwritten before it has moved.
        let (mut at, mut bytes) = (self.tail, Vec::new());
        while at < self.head {
            let len = MOVE.min(self.head - at);
            if old.spans(at, len) != new.spans(at, len) {
                bytes.clear();
                for span in old.spans(at, len) {
                    self.journal.memory.append_to(span, &mut bytes);
                }
                let [first, second] = new.spans(at, len);
                let n = self.journal.memory.copy_from(first, &bytes);
                self.journal.memory.copy_from(second, &bytes[n..]);
            }
            at += len;
        }
        self.extent = self.extent.changed(new.size);
        self.journal.store(OUT_SIZE, self.extent.0);
        // Readers that know the old size must know of the new one before an old place is overwritten.
        fence(Ordering::SeqCst);
        if new.size < old.size {
            self.journal.output_max.release(&self.journal.file, new.size, old.size);
            new.release(&self.journal.file, self.head.saturating_sub(new.size), self.tail);
            self.released = self.tail & !0xfff;
        }
    }

    /// Up to where the agent has handled the output, at most the head whatever the agent wrote.
    pub fn acked(&self) -> u64 {
        self.journal.load(ACKED).min(self.head)
    }

    /// What happens when the journal is full.
    pub fn mode(&self) -> Mode {
        if self.journal.load(MODE) == mode_number(Mode::Drop) { Mode::Drop } else { Mode::Wait }
    }

    /// For an idle moment: where all was acknowledged, only the last 64 KiB stay readable, the
    /// ring gets its ordinary size and the other pages are given back; so are those of an input that has ended. Tells whether there is
    /// nothing left to do.
    pub fn trim(&mut self) -> bool {
        let input = self.journal.input;
        if !self.input_released && self.input_ended() {
            // Only now: as long as input may come, the agent may be writing to a page that was drained.
            input.release(&self.journal.file, 0, input.size);
            self.input_released = true;
        }
        if self.acked() < self.head {
            return false;
        }
        let keep = self.head.saturating_sub(HISTORY);
        if keep > self.tail {
            self.advance_tail(keep);
        }
        self.resize(self.journal.output.size);
        let output = self.journal.output;
        // Pages of the last round of the ring only, less what is retained.
        let from = self.released.max(self.head.saturating_sub(output.size));
        if self.tail > from {
            output.release(&self.journal.file, from, self.tail);
        }
        // The page that the tail stands on is given back in full next time.
        self.released = self.tail & !0xfff;
        true
    }

    /// Appends what is retained to a buffer.
    pub(super) fn copy_retained(&self, buffer: &mut Vec<u8>) {
        for span in self.output().spans(self.tail, self.head - self.tail) {
            self.journal.memory.append_to(span, buffer);
        }
    }

    /// The segments of what is retained.
    pub(super) fn retained_segments(&self) -> Vec<Segment> {
        (self.seg_tail..self.seg_head).map(|index| self.journal.segment(index)).collect()
    }

    /// How many bytes of input wait. A head that makes no sense counts as none.
    pub fn input_waiting(&self) -> u64 {
        let waiting = self.journal.load(IN_HEAD).saturating_sub(self.input_taken);
        if waiting > self.journal.input.size { 0 } else { waiting }
    }

    /// Whether the input is closed and all of it was taken.
    pub fn input_ended(&self) -> bool {
        self.journal.load(IN_CLOSED) <= self.input_taken
    }

    /// Writes waiting input once to a pipe or a terminal and takes what was written.
    pub fn drain_input(&mut self, file: impl AsFd) -> io::Result<u64> {
        let waiting = self.input_waiting();
        let spans = self.journal.input.spans(self.input_taken, waiting);
        let n = (self.journal.memory.write_to(file, spans)? as u64).min(waiting);
        self.input_taken += n;
        self.journal.store(IN_TAIL, self.input_taken);
        Ok(n)
    }

    /// Tells the agent that nobody reads the input any more.
    pub fn break_input(&mut self) {
        self.journal.store(IN_BROKEN, 1);
    }
}
