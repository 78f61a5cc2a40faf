//! Input that the agent has not acknowledged yet, kept so that it can be sent again.

use std::collections::VecDeque;

use bytes::Bytes;

/// How much is kept. Beyond it stdin is not read on. It is what can be under way to an agent far away,
/// and less than the agent queues: acknowledgements of output must not be held up behind input, which
/// would stop both for ever.
pub const LIMIT: u64 = 16 << 20;

/// What a message counts besides its bytes, as the agent reckons too.
const MESSAGE_COST: u64 = 128;

/// The input from the first unacknowledged byte on. Chunks are shared with what was sent.
#[derive(Debug)]
pub struct Unacked {
    chunks: VecDeque<Bytes>,
    begin: u64,
    end: u64,
}

/// The agent named an offset that it cannot know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the agent takes input from offset {offset} on, but {begin} to {end} is what is there to send; \
     another client may have written to the session"
)]
pub struct OutOfRange {
    offset: u64,
    begin: u64,
    end: u64,
}

impl Unacked {
    /// Nothing, at an offset.
    pub fn new(offset: u64) -> Unacked {
        Unacked { chunks: VecDeque::new(), begin: offset, end: offset }
    }

    /// The offset of the byte that comes next.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether more input may be taken.
    pub fn has_room(&self) -> bool {
        self.end - self.begin + MESSAGE_COST * self.chunks.len() as u64 <= LIMIT
    }

    /// Keeps a chunk and returns its offset.
    pub fn push(&mut self, chunk: Bytes) -> u64 {
        let offset = self.end;
        self.end += chunk.len() as u64;
        if !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
        offset
    }

    /// Forgets what lies below an offset. An offset that was passed already changes nothing.
    pub fn acknowledge(&mut self, offset: u64) -> Result<(), OutOfRange> {
        if offset > self.end {
            return Err(OutOfRange { offset, begin: self.begin, end: self.end });
        }
        while self.begin < offset {
            let Some(chunk) = self.chunks.front_mut() else { break };
            let step = (offset - self.begin).min(chunk.len() as u64);
            // The step fits: it is no longer than the chunk.
            let _ = chunk.split_to(step as usize);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            self.begin += step;
        }
        Ok(())
    }

    /// What has to be sent again where the agent goes on at an offset: chunks with their offsets.
    pub fn resend_from(&mut self, offset: u64) -> Result<Vec<(u64, Bytes)>, OutOfRange> {
        if offset < self.begin {
            return Err(OutOfRange { offset, begin: self.begin, end: self.end });
        }
        self.acknowledge(offset)?;
        let mut at = self.begin;
        let place = |chunk: &Bytes| {
            let placed = (at, chunk.clone());
            at += chunk.len() as u64;
            placed
        };
        Ok(self.chunks.iter().map(place).collect())
    }

    /// Gives up what is kept: nobody will take it.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.begin = self.end;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Push(Vec<u8>),
        Acknowledge(u64),
        Resend(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Push),
            (0..400u64).prop_map(Step::Acknowledge),
            (0..400u64).prop_map(Step::Resend),
        ]
    }

    #[test]
    fn small_chunks_count_for_what_they_cost() {
        let mut unacked = Unacked::new(0);
        while unacked.has_room() {
            unacked.push(Bytes::from_static(b"x"));
        }
        let left = unacked.end();
        assert!(left <= LIMIT / MESSAGE_COST + 1, "{left}");
        unacked.acknowledge(left).unwrap();
        assert!(unacked.has_room());
    }

    proptest! {
        /// Against the whole input as one vector.
        #[test]
        fn what_is_sent_again_is_what_was_not_taken(
            base in 0..50u64,
            steps in proptest::collection::vec(step(), 0..60),
        ) {
            let mut unacked = Unacked::new(base);
            let mut all = Vec::new();
            let mut taken = base;
            for step in steps {
                let end = base + all.len() as u64;
                match step {
                    Step::Push(data) => {
                        prop_assert_eq!(unacked.push(Bytes::from(data.clone())), end);
                        all.extend(data);
                    }
                    Step::Acknowledge(offset) => {
                        prop_assert_eq!(unacked.acknowledge(offset).is_ok(), offset <= end);
                        if offset <= end {
                            taken = taken.max(offset);
                        }
                    }
                    Step::Resend(offset) => {
                        let chunks = unacked.resend_from(offset);
                        prop_assert_eq!(chunks.is_ok(), (taken..=end).contains(&offset));
                        let Ok(chunks) = chunks else { continue };
                        taken = offset;
                        let mut at = offset;
                        for (place, chunk) in chunks {
                            prop_assert_eq!(place, at);
                            let from = (at - base) as usize;
                            prop_assert_eq!(&chunk[..], &all[from..from + chunk.len()]);
                            at += chunk.len() as u64;
                        }
                        prop_assert_eq!(at, end);
                    }
                }
                prop_assert_eq!(unacked.end(), base + all.len() as u64);
                prop_assert!(unacked.has_room());
            }
        }
    }
}
