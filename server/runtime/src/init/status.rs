//! What init tells its monitor, over a pipe of fixed-size records.
//!
//! ```text
//!  init                                        monitor
//!   | every step but the command is done
//!   |--Ready----------------------------------->| reports Created
//!   | (paused: waits) <-------one byte, gate----| Start
//!   |--Executing------------------------------->|
//!   | execve succeeds: the pipe closes --EOF--->| reports Started
//!   |
//!   | in place of any of these, and at most once:
//!   |--Failed{step, index, errno}-------------->| reports Failed; init exits
//! ```
//!
//! EOF without Executing or Failed means that init died.
//!
//! A reaper outlives that pipe. It tells by the gate how the command ended: a status of wait(2), as a little-endian
//! number of 4 bytes.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, retry_on_intr, write};

use super::failure::{Fail, step_from_number};
use crate::plan::Step;

/// What init tells its monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All is set up but the command.
    Ready,
    /// The next thing is execve: EOF after this means that the command runs.
    Executing,
    /// A step failed; nothing runs. [`crate::plan::Plan::argument`] tells what it was tried on.
    Failed {
        /// The step.
        step: Step,
        /// Which of the step's items.
        index: u32,
        /// The kernel's answer; 0 where it was not asked.
        errno: i32,
    },
}

impl Status {
    /// The length of a record.
    pub const RECORD_LEN: usize = 16;

    /// The record of a status: four little-endian numbers.
    pub fn encode(self) -> [u8; Self::RECORD_LEN] {
        let (tag, step, index, errno) = match self {
            Status::Ready => (1, 0, 0, 0),
            Status::Executing => (2, 0, 0, 0),
            Status::Failed { step, index, errno } => (3, step as u32, index, errno as u32),
        };
        let mut record = [0; Self::RECORD_LEN];
        for (bytes, number) in record.chunks_exact_mut(4).zip([tag, step, index, errno]) {
            bytes.copy_from_slice(&u32::to_le_bytes(number));
        }
        record
    }

    /// The status of a record. `None` where it is none.
    pub fn decode(record: &[u8]) -> Option<Status> {
        let record: &[u8; Self::RECORD_LEN] = record.try_into().ok()?;
        let mut numbers = [0; 4];
        for (number, bytes) in numbers.iter_mut().zip(record.chunks_exact(4)) {
            *number = u32::from_le_bytes(bytes.try_into().ok()?);
        }
        match numbers {
            [1, 0, 0, 0] => Some(Status::Ready),
            [2, 0, 0, 0] => Some(Status::Executing),
            [3, step, index, errno] => {
                Some(Status::Failed { step: step_from_number(step)?, index, errno: errno as i32 })
            }
            _ => None,
        }
    }

    /// Writes the record. Fails with EPIPE where nobody is left who could read it.
    pub(super) fn send(self, pipe: BorrowedFd<'_>) -> Result<(), Errno> {
        retry_on_intr(|| write(pipe, &self.encode())).map(drop)
    }
}

impl From<Fail> for Status {
    fn from(fail: Fail) -> Status {
        Status::Failed { step: fail.step, index: fail.index, errno: fail.errno }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_status_survives_its_record() {
        for status in [
            Status::Ready,
            Status::Executing,
            Status::Failed { step: Step::Plan, index: 0, errno: 0 },
            Status::Failed { step: Step::Exec, index: u32::MAX, errno: libc::ENOENT },
        ] {
            assert_eq!(Status::decode(&status.encode()), Some(status));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(status) = Status::decode(&bytes) {
                prop_assert_eq!(&status.encode()[..], &bytes[..]);
            }
        }
    }
}
