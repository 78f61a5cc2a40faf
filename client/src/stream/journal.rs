//! The account of what was received of a session's journal: nothing twice, nothing missing.

use conti_proto::v1::SessionEnd;

/// Up to where the journal was received, and what of it.
#[derive(Debug)]
pub struct Journal {
    begin: u64,
    next: u64,
    stdout: u64,
    stderr: u64,
    missing: u64,
}

impl Journal {
    /// Nothing received, from an offset on.
    pub fn new(begin: u64) -> Journal {
        Journal { begin, next: begin, stdout: 0, stderr: 0, missing: 0 }
    }

    /// The offset of the first byte that was not received.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes output of `length` bytes at an offset. Returns how many of them are known already:
    /// a stream that was resumed may begin a little early.
    pub fn take(&mut self, offset: u64, length: usize, stderr: bool) -> Result<usize, String> {
        let end = offset
            .checked_add(length as u64)
            .ok_or_else(|| format!("the agent sent output at the impossible offset {offset}"))?;
        if offset > self.next {
            return Err(format!(
                "{} bytes of output are missing at offset {}, and the agent does not say why",
                offset - self.next,
                self.next
            ));
        }
        let known = (self.next - offset).min(length as u64);
        let new = length as u64 - known;
        if stderr {
            self.stderr += new;
        } else {
            self.stdout += new;
        }
        self.next = self.next.max(end);
        // No more than `length`, which is a usize.
        Ok(known as usize)
    }

    /// Takes a gap. Returns how many bytes are missing that were not received before.
    pub fn skip(&mut self, offset: u64, length: u64) -> u64 {
        let end = offset.saturating_add(length);
        let missing = end.saturating_sub(self.next);
        self.next = self.next.max(end);
        self.missing += missing;
        missing
    }

    /// Compares the account with that of the session's end.
    pub fn check(&self, end: &SessionEnd) -> Result<(), String> {
        let SessionEnd { stdout_bytes, stderr_bytes, .. } = *end;
        let total = stdout_bytes.saturating_add(stderr_bytes);
        let whole = self.begin == 0 && self.missing == 0;
        if self.next != total {
            Err(format!(
                "the output is not complete: the session wrote {total} bytes, {} were received",
                self.next - self.begin - self.missing
            ))
        } else if whole && (self.stdout, self.stderr) != (stdout_bytes, stderr_bytes) {
            Err(format!(
                "the output is mixed up: the session wrote {stdout_bytes} bytes to stdout and \
                 {stderr_bytes} to stderr, {} and {} were received",
                self.stdout, self.stderr
            ))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(stdout_bytes: u64, stderr_bytes: u64) -> SessionEnd {
        SessionEnd { stdout_bytes, stderr_bytes, ..SessionEnd::default() }
    }

    #[test]
    fn lost_bytes_are_noticed() {
        let mut journal = Journal::new(0);
        assert_eq!(journal.take(0, 10, false), Ok(0));
        assert!(journal.take(11, 1, false).is_err());
        assert!(journal.check(&end(11, 0)).is_err());
        assert!(journal.check(&end(9, 1)).is_err());
        assert!(journal.check(&end(10, 0)).is_ok());
    }

    #[test]
    fn a_gap_takes_its_place() {
        let mut journal = Journal::new(0);
        assert_eq!(journal.skip(0, 5), 5);
        assert_eq!(journal.take(5, 3, true), Ok(0));
        assert_eq!(journal.skip(2, 6), 0);
        assert!(journal.check(&end(5, 3)).is_ok());
        assert!(journal.check(&end(5, 4)).is_err());
    }

    proptest! {
        /// A journal that is sent again from anywhere below what is known comes out once.
        #[test]
        fn nothing_is_counted_twice(
            chunks in proptest::collection::vec((1..50usize, any::<bool>()), 1..30),
            resumes in proptest::collection::vec(0..30usize, 0..5),
        ) {
            let mut journal = Journal::new(0);
            let offsets: Vec<u64> = chunks
                .iter()
                .scan(0u64, |at, (length, _)| {
                    let offset = *at;
                    *at += *length as u64;
                    Some(offset)
                })
                .collect();
            let mut received = 0;
            let mut play = |from: usize, to: usize| {
                for i in from..to {
                    let (length, stderr) = chunks[i];
                    received += length - journal.take(offsets[i], length, stderr).unwrap();
                }
            };
            let mut reached = 0;
            for stop in resumes.iter().map(|r| r % (chunks.len() + 1)).chain([chunks.len()]) {
                play(reached.min(stop) / 2, stop);
                reached = reached.max(stop);
            }
            let count = |of: bool| -> u64 {
                chunks.iter().filter(|(_, e)| *e == of).map(|(l, _)| *l as u64).sum()
            };
            prop_assert_eq!(received as u64, count(false) + count(true));
            prop_assert!(journal.check(&end(count(false), count(true))).is_ok());
        }

        #[test]
        fn a_hostile_agent_gets_an_error_at_most(
            steps in proptest::collection::vec((any::<u64>(), any::<u32>(), any::<bool>()), 0..20),
            stdout in any::<u64>(), stderr in any::<u64>(),
        ) {
            let mut journal = Journal::new(0);
            for (offset, length, gap) in steps {
                if gap {
                    journal.skip(offset, length.into());
                } else {
                    let _ = journal.take(offset, length as usize, false);
                }
            }
            let _ = journal.check(&end(stdout, stderr));
        }
    }
}
