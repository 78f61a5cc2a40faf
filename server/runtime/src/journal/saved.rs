//! What a journal retains, as a file: for readers that come after the monitor has gone.
//!
//! ```text
//!   magic, tail, head, stdout total, stderr total, dropped total, acked, segments n   8 x u64, LE
//!   n x (start u64, stream u64)
//!   head - tail bytes
//! ```

use std::{
    fs::File,
    io::{self, Read, Write},
};

use super::{
    ReadInto, ReadResult, Reader, Totals, Writer,
    layout::{Segment, invalid},
};

/// `conti-js` as a number.
const MAGIC: u64 = u64::from_le_bytes(*b"conti-js");
const HEADER_WORDS: usize = 8;
/// No journal is larger: its rings are bounded.
const MAX_LEN: u64 = 80 << 20;

/// A journal that was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    tail: u64,
    head: u64,
    totals: Totals,
    acked: u64,
    segments: Vec<Segment>,
    bytes: Vec<u8>,
}

impl Saved {
    /// Writes what a journal retains to a file.
    pub fn save(writer: &Writer, file: &mut File) -> io::Result<()> {
        let segments = writer.retained_segments();
        let totals = writer.totals();
        let header = [
            MAGIC,
            writer.tail(),
            writer.head(),
            totals.stdout,
            totals.stderr,
            totals.dropped,
            writer.acked(),
            segments.len() as u64,
        ];
        let words = header
            .into_iter()
            .chain(segments.iter().flat_map(|segment| [segment.start, u64::from(segment.stderr)]));
        let mut content: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        writer.copy_retained(&mut content);
        file.write_all(&content)
    }

    /// Copies what a journal retains. Its monitor writes no more.
    pub fn of(reader: &Reader) -> Saved {
        let (tail, head) = (reader.tail(), reader.head());
        let (mut segments, mut bytes) = (Vec::new(), Vec::new());
        let mut at = tail;
        while at < head {
            match reader.read_into(at, usize::MAX, &mut bytes) {
                ReadInto::Data { stderr, length } => {
                    segments.push(Segment { start: at, stderr });
                    at += length as u64;
                }
                // A header that contradicts itself: what came before is what there is.
                ReadInto::Gap { .. } | ReadInto::Empty => break,
            }
        }
        Saved { tail, head: at, totals: reader.totals(), acked: reader.acked(), segments, bytes }
    }

    /// Reads a saved journal. A damaged one is refused.
    pub fn load(file: &mut File) -> io::Result<Saved> {
        let mut content = Vec::new();
        file.take(MAX_LEN).read_to_end(&mut content)?;
        Saved::parse(content)
    }

    pub(super) fn parse(mut content: Vec<u8>) -> io::Result<Saved> {
        let (words, _) = content.as_chunks::<8>();
        let word = |index: usize| words.get(index).copied().map(u64::from_le_bytes);
        let header: Vec<u64> = (0..HEADER_WORDS).map_while(word).collect();
        let &[magic, tail, head, stdout, stderr, dropped, acked, count] = header.as_slice() else {
            return Err(invalid("the file is too short"));
        };
        let segments: Vec<Segment> = usize::try_from(count)
            .ok()
            .and_then(|n| words.get(HEADER_WORDS..)?.get(..n.checked_mul(2)?))
            .ok_or_else(|| invalid("its segments are missing"))?
            .as_chunks::<2>()
            .0
            .iter()
            .map(|[start, stream]| Segment {
                start: u64::from_le_bytes(*start),
                stderr: u64::from_le_bytes(*stream) == 1,
            })
            .collect();
        let bytes = content.split_off((HEADER_WORDS + 2 * segments.len()) * 8);
        let sound = magic == MAGIC
            && head.checked_sub(tail) == Some(bytes.len() as u64)
            && segments.is_sorted_by(|a, b| a.start < b.start)
            && segments.last().is_none_or(|last| last.start < head)
            && (bytes.is_empty() || segments.first().is_some_and(|first| first.start <= tail));
        if !sound {
            return Err(invalid("the file is damaged"));
        }
        let totals = Totals { stdout, stderr, dropped };
        Ok(Saved { tail, head, totals, acked, segments, bytes })
    }

    /// The end of the output.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The oldest byte that can be read.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// How much went through.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Up to where the output was acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// What is at `offset`: at most `max` bytes, of one stream.
    pub fn read(&self, offset: u64, max: usize) -> ReadResult {
        let mut bytes = Vec::new();
        self.read_into(offset, max, &mut bytes).with_bytes(offset, bytes)
    }

    /// As [`Saved::read`], appending to a buffer.
    pub fn read_into(&self, offset: u64, max: usize, buffer: &mut Vec<u8>) -> ReadInto {
        if offset >= self.head || max == 0 {
            return ReadInto::Empty;
        }
        if offset < self.tail {
            return ReadInto::Gap { length: self.tail - offset };
        }
        let next = self.segments.partition_point(|segment| segment.start <= offset);
        let end = self.segments.get(next).map_or(self.head, |segment| segment.start);
        let stderr = next.checked_sub(1).is_some_and(|index| self.segments[index].stderr);
        let length = (end - offset).min(max as u64) as usize;
        let start = (offset - self.tail) as usize;
        buffer.extend_from_slice(&self.bytes[start..start + length]);
        ReadInto::Data { stderr, length }
    }
}
