//! What stands in a recording.

use std::time::Duration;

use crate::engine::spec::TerminalSize;

/// A piece of a recording.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// Output.
    Output {
        /// Where it stands in the journal.
        offset: u64,
        /// Whether it is of stderr.
        stderr: bool,
        /// The bytes.
        data: &'a [u8],
    },
    /// Input, up to where it was taken.
    Input(&'a [u8]),
    /// The terminal has another size.
    Resize(TerminalSize),
    /// Output is missing.
    Gap {
        /// Where the first missing byte stands in the journal.
        offset: u64,
        /// How many are missing.
        length: u64,
    },
    /// Nothing comes any more, because the recording is as large as it may become.
    Full,
    /// The session has ended, as JSON says. Last.
    End(&'a str),
}

/// How far a recording is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// The length of the file.
    pub length: u64,
    /// Up to where the journal stands in it.
    pub offset: u64,
    /// The time of its last part, since the start.
    pub time: Duration,
}
