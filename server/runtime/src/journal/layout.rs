//! Where everything lies in a journal, and the check that a journal from elsewhere is one.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::Ordering,
};

use rustix::fs::{FallocateFlags, SealFlags};

use super::{Mode, Sizes};
use crate::sys::{
    memfd,
    shm::{Mapping, Span},
};

/// `conti-jl` as a number.
const MAGIC: u64 = u64::from_le_bytes(*b"conti-jl");
const VERSION: u64 = 2;
const PAGE: usize = 4096;

// Words of the header, by offset. Written once, before the journal is shared:
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 8;
const AT_SEGMENTS: usize = 16;
const AT_OUTPUT: usize = 24;
const AT_INPUT: usize = 32;
const AT_OUTPUT_MAX: usize = 40;
// Written by the monitor, on cache lines of their own:
/// End of the output.
pub const OUT_HEAD: usize = 128;
/// The oldest byte that is retained.
pub const OUT_TAIL: usize = 136;
/// How many segments there ever were.
pub const SEG_HEAD: usize = 144;
/// The oldest segment that is retained.
pub const SEG_TAIL: usize = 152;
/// Bytes of stdout.
pub const STDOUT_TOTAL: usize = 160;
/// Bytes of stderr.
pub const STDERR_TOTAL: usize = 168;
/// Bytes that were overwritten before they were acknowledged.
pub const DROPPED_TOTAL: usize = 176;
/// Up to where the input was taken.
pub const IN_TAIL: usize = 184;
/// 1: nobody reads the input any more.
pub const IN_BROKEN: usize = 192;
/// An [`Extent`]: the present size of the ring of output.
pub const OUT_SIZE: usize = 200;
// Written by the agent, on cache lines of their own:
/// Below it everything was handled.
pub const ACKED: usize = 320;
/// A [`Mode`] as a number.
pub const MODE: usize = 328;
/// End of the input so far.
pub const IN_HEAD: usize = 336;
/// Where the input ends; `u64::MAX` as long as nobody knows.
pub const IN_CLOSED: usize = 344;
/// What size of the ring of output would be worth its memory.
pub const OUT_WANTED: usize = 352;

/// Bytes of one segment's entry: its start and its stream (0 stdout, 1 stderr).
const SEGMENT_LEN: usize = 16;
/// Bounds that keep all arithmetic far from overflow and a hostile header from a huge mapping.
const MAX_SEGMENTS: u64 = 1 << 16;
const MAX_RING: u64 = 64 << 20;

/// A ring inside a journal.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    start: usize,
    pub size: u64,
}

/// The present size of a ring, and how often it has changed: equal ones say that it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent(pub u64);

impl Extent {
    /// In bytes. May be anything where the other side wrote it.
    pub fn size(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }

    /// After a change to another size.
    pub fn changed(self, size: u64) -> Extent {
        Extent(((self.0 >> 32).wrapping_add(1) << 32) | size)
    }
}

impl Ring {
    /// The ring of another size at the same place; at least one byte, and never more than this one.
    pub fn of_size(self, size: u64) -> Ring {
        Ring { size: size.clamp(1, self.size), ..self }
    }

    /// The largest size up to `wanted` that is this one, doubled some times.
    pub fn grown(self, wanted: u64) -> u64 {
        match wanted / self.size {
            0 => self.size,
            times => self.size << times.ilog2(),
        }
    }

    /// Where `len` bytes from `offset` on lie. `len` must be at most the ring's size.
    pub fn spans(self, offset: u64, len: u64) -> [Span; 2] {
        let at = offset % self.size;
        let first = len.min(self.size - at);
        [
            Span { start: self.start + at as usize, len: first as usize },
            Span { start: self.start, len: (len - first) as usize },
        ]
    }

    /// Gives whole pages of the offsets from `from` to `to` back to the kernel: they read as zero then.
    /// Where it cannot, they stay, which costs memory only.
    pub fn release(self, file: impl AsFd, from: u64, to: u64) {
        for span in self.spans(from, to.saturating_sub(from).min(self.size)) {
            let start = span.start.next_multiple_of(PAGE);
            let end = (span.start + span.len) / PAGE * PAGE;
            if start < end {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let _ = rustix::fs::fallocate(&file, flags, start as u64, (end - start) as u64);
            }
        }
    }
}

/// A mapped journal with its geometry, which was checked and is never read from the header again.
#[derive(Debug)]
pub struct Journal {
    pub memory: Mapping,
    pub file: OwnedFd,
    pub segments: u64,
    /// The ring of output at its ordinary size.
    pub output: Ring,
    /// The same at its largest.
    pub output_max: Ring,
    pub input: Ring,
}

/// One entry of the ring of segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub start: u64,
    pub stderr: bool,
}

impl Journal {
    /// Maps a journal after a check of its size, its seals and its header.
    pub fn map(file: OwnedFd) -> io::Result<Journal> {
        if !memfd::seals(&file)?.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(invalid("it is not sealed"));
        }
        let file_len = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        if file_len < PAGE as u64 || file_len > 4 * MAX_RING {
            return Err(invalid("its size is out of bounds"));
        }
        let memory = Mapping::new(&file, file_len as usize)?;
        let word = |at| memory.word(at).load(Ordering::Relaxed);
        if word(AT_MAGIC) != MAGIC || word(AT_VERSION) != VERSION {
            return Err(invalid("its header is not that of a journal of this version"));
        }
        let sizes = Sizes {
            segments: word(AT_SEGMENTS),
            output: word(AT_OUTPUT),
            output_max: word(AT_OUTPUT_MAX),
            input: word(AT_INPUT),
        };
        let (output_max, input, len) = geometry(sizes)?;
        let output = output_max.of_size(sizes.output);
        if len as u64 != file_len {
            return Err(invalid("its size is not what its header says"));
        }
        Ok(Journal { memory, file, segments: sizes.segments, output, output_max, input })
    }

    pub fn load(&self, at: usize) -> u64 {
        self.memory.word(at).load(Ordering::Acquire)
    }

    pub fn store(&self, at: usize, value: u64) {
        self.memory.word(at).store(value, Ordering::Release);
    }

    pub fn segment(&self, index: u64) -> Segment {
        let at = self.segment_at(index);
        Segment { start: self.load(at), stderr: self.load(at + 8) == 1 }
    }

    pub fn set_segment(&self, index: u64, segment: Segment) {
        let at = self.segment_at(index);
        self.store(at, segment.start);
        self.store(at + 8, u64::from(segment.stderr));
    }

    fn segment_at(&self, index: u64) -> usize {
        PAGE + (index % self.segments) as usize * SEGMENT_LEN
    }
}

/// Makes an empty journal.
pub fn create(sizes: Sizes) -> io::Result<OwnedFd> {
    let (_, _, len) = geometry(sizes)?;
    let file = memfd::sized("conti-journal", len as u64)?;
    let header = Mapping::new(&file, PAGE)?;
    for (at, value) in [
        (AT_MAGIC, MAGIC),
        (AT_VERSION, VERSION),
        (AT_SEGMENTS, sizes.segments),
        (AT_OUTPUT, sizes.output),
        (AT_OUTPUT_MAX, sizes.output_max),
        (AT_INPUT, sizes.input),
        (OUT_SIZE, sizes.output),
        (MODE, mode_number(Mode::Wait)),
        (IN_CLOSED, u64::MAX),
    ] {
        header.word(at).store(value, Ordering::Release);
    }
    Ok(file)
}

/// [`Mode`] as it stands in the header. Every other number counts as waiting, which loses nothing.
pub fn mode_number(mode: Mode) -> u64 {
    match mode {
        Mode::Wait => 0,
        Mode::Drop => 1,
        Mode::Record => 2,
    }
}

/// The rings at their largest and the length of the whole; each part begins at a page, so that pages can be given back.
fn geometry(sizes: Sizes) -> io::Result<(Ring, Ring, usize)> {
    let Sizes { segments, output, output_max, input } = sizes;
    let within = |value: u64, max: u64| (1..=max).contains(&value);
    let rings = [output, output_max, input];
    if !within(segments, MAX_SEGMENTS) || !rings.iter().all(|&ring| within(ring, MAX_RING)) {
        return Err(invalid("its parts are out of bounds"));
    }
    if !output_max.is_multiple_of(output) || !(output_max / output).is_power_of_two() {
        return Err(invalid("its largest size is not its ordinary one, doubled some times"));
    }
    let output_at = (PAGE + segments as usize * SEGMENT_LEN).next_multiple_of(PAGE);
    let input_at = (output_at + output_max as usize).next_multiple_of(PAGE);
    let len = (input_at + input as usize).next_multiple_of(PAGE);
    Ok((Ring { start: output_at, size: output_max }, Ring { start: input_at, size: input }, len))
}

/// An error about a journal that came from elsewhere.
pub fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot use the journal: {problem}"))
}
