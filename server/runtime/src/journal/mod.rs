//! The journal: what a session wrote and what it is to read, in memory that the monitor and the agent
//! share.
//!
//! ```text
//!   header       words, each written by one side only (see `layout`)
//!   segments     ring of (start offset, stream): which bytes are stdout, which are stderr
//!   output ring  bytes of both streams, filled by the monitor straight from the pipes
//!   input ring   bytes for stdin, filled by the agent
//! ```
//!
//! Offsets are counts of bytes, over stdout and stderr together, that only grow; the byte at offset n
//! lies at n modulo the ring's present size. That is small, so that it stays in the CPU's cache, and
//! grows where the agent finds that its client is far away: what is under way to it is retained too.
//! An idle writer makes it small again.
//!
//! In [`Mode::Wait`] the monitor never overwrites what the agent
//! has not acknowledged; in [`Mode::Drop`] it overwrites the oldest and counts what was never
//! acknowledged. Acknowledged bytes stay readable until their room is needed or the writer is idle.
//!
//! The tail moves before bytes are overwritten, and a reader looks at the tail again after it has
//! copied: it gets the right bytes or a gap, never wrong ones. It looks at the ring's size again as
//! well: bytes move to their new places before a new size is told, and from the old ones after. The
//! reader trusts nothing that the other side writes: a damaged journal reads as gaps.
//!
//! - `layout`: where everything lies, and the check of it;
//! - `writer`: the monitor's side; `reader`: the agent's side;
//! - `saved`: what is retained, as a file, for the time after the monitor.

#[cfg(test)]
mod fuzz;
mod layout;
mod reader;
mod saved;
#[cfg(test)]
mod tests;
mod writer;

use std::{io, os::fd::OwnedFd};

pub use self::{
    reader::{ReadInto, ReadResult, Reader},
    saved::Saved,
    writer::Writer,
};

/// How large the parts of a journal are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// How often the output may change between stdout and stderr before the oldest has to go.
    pub segments: u64,
    /// Bytes of output that can be retained.
    pub output: u64,
    /// As many when a driver's client is far away: `output` doubled some times.
    pub output_max: u64,
    /// Bytes of input that can wait.
    pub input: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { segments: 4096, output: 2 << 20, output_max: 16 << 20, input: 512 << 10 }
    }
}

/// A stream of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a writer does when the journal is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It waits for acknowledgements.
    Wait,
    /// It overwrites the oldest bytes.
    Drop,
    /// It waits as in [`Mode::Wait`], for a recorder: no client is waited for.
    Record,
}

/// How much went through a journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of stdout.
    pub stdout: u64,
    /// Bytes of stderr.
    pub stderr: u64,
    /// Bytes that were overwritten before they were acknowledged.
    pub dropped: u64,
}

/// Makes an empty journal: a memfd whose size is sealed. It begins in [`Mode::Wait`].
pub fn create(sizes: Sizes) -> io::Result<OwnedFd> {
    layout::create(sizes)
}
