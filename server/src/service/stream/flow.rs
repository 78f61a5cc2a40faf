//! How much output may be under way to a client that has not acknowledged it.

use std::collections::VecDeque;

/// Counts output that was sent and not acknowledged. Gaps are passed over: they hold no bytes.
#[derive(Debug)]
pub struct Flow {
    window: u64,
    /// Up to where the journal was sent.
    position: u64,
    /// Up to where the client has handled it.
    acked: u64,
    /// Gaps that were sent, as far as they are not acknowledged: begin and end.
    gaps: VecDeque<(u64, u64)>,
}

impl Flow {
    /// Begins at an offset. `window`: how many bytes may be under way; 0: any number.
    pub fn new(position: u64, window: u64) -> Flow {
        let window = if window == 0 { u64::MAX } else { window };
        Flow { window, position, acked: position, gaps: VecDeque::new() }
    }

    /// How many bytes may be sent now.
    pub fn room(&self) -> u64 {
        if self.window == u64::MAX {
            return u64::MAX;
        }
        let missing: u64 = self.gaps.iter().map(|&(begin, end)| end - begin.max(self.acked)).sum();
        self.window.saturating_sub(self.position - self.acked - missing)
    }

    /// Notes that output up to `end` was sent.
    pub fn sent(&mut self, end: u64) {
        self.position = self.position.max(end);
    }

    /// Notes that a gap was sent.
    pub fn sent_gap(&mut self, begin: u64, end: u64) {
        let begin = begin.max(self.position);
        if end <= begin {
            return;
        }
        match self.gaps.back_mut() {
            Some(last) if last.1 == begin => last.1 = end,
            _ => self.gaps.push_back((begin, end)),
        }
        self.position = end;
    }

    /// Notes that the client has handled all below `offset`. Whether that is news.
    pub fn acked(&mut self, offset: u64) -> bool {
        let offset = offset.min(self.position);
        if offset <= self.acked {
            return false;
        }
        self.acked = offset;
        while self.gaps.front().is_some_and(|&(_, end)| end <= offset) {
            self.gaps.pop_front();
        }
        true
    }

    /// Up to where the journal was sent.
    pub fn position(&self) -> u64 {
        self.position
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_window_there_is_always_room() {
        let mut flow = Flow::new(7, 0);
        flow.sent(u64::MAX - 1);
        assert_eq!(flow.room(), u64::MAX);
    }

    #[test]
    fn a_gap_takes_no_room_and_gives_none() {
        let mut flow = Flow::new(0, 10);
        flow.sent(6);
        flow.sent_gap(6, 1006);
        assert_eq!(flow.room(), 4);
        flow.sent(1010);
        assert_eq!(flow.room(), 0);
        // Half way into the gap: all bytes before it are handled, none behind it.
        assert!(flow.acked(500));
        assert_eq!(flow.room(), 6);
        assert!(!flow.acked(400));
        assert!(flow.acked(1010));
        assert_eq!(flow.room(), 10);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Send(u64),
        Gap(u64),
        Ack(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0u64..50).prop_map(Act::Send),
            (0u64..50).prop_map(Act::Gap),
            (0u64..2000).prop_map(Act::Ack),
        ]
    }

    proptest! {
        #[test]
        fn room_is_the_window_less_the_bytes_under_way(
            window in 1u64..100, acts in prop::collection::vec(act(), 0..60),
        ) {
            let mut flow = Flow::new(0, window);
            // One entry for each offset of the journal: whether a byte was sent there.
            let mut journal: Vec<bool> = Vec::new();
            let mut acked = 0;
            for act in acts {
                match act {
                    Act::Send(n) => {
                        let n = n.min(flow.room());
                        journal.extend((0..n).map(|_| true));
                        flow.sent(journal.len() as u64);
                    }
                    Act::Gap(n) => {
                        let begin = journal.len() as u64;
                        journal.extend((0..n).map(|_| false));
                        flow.sent_gap(begin, begin + n);
                    }
                    Act::Ack(offset) => {
                        flow.acked(offset);
                        acked = acked.max(offset.min(journal.len() as u64));
                    }
                }
                let under_way = journal[acked as usize..].iter().filter(|sent| **sent).count();
                prop_assert_eq!(flow.room(), window - under_way as u64);
                prop_assert_eq!(flow.position(), journal.len() as u64);
            }
        }
    }
}
