//! One engine for all that streams: run, exec, enter and attach.
//!
//! ```text
//!   stdin thread  -> input [detach keys, unacked] -> outbox -> requests  -> agent
//!   stdout thread <- writer <- delivery [journal] <----------- responses <- agent
//! ```
//!
//! - [`engine`]: opens a session, streams it, and resumes it when its connection broke off;
//! - [`link`]: one call of `SessionService.Stream`, up to its `opened`;
//! - [`pump`]: the loop over one link;
//! - [`input`]: from stdin to the agent, with [`unacked`] and [`detach`];
//! - [`delivery`]: from the agent to stdout and stderr, with [`journal`];
//! - [`stdin`] and [`writer`]: the threads that may block;
//! - [`outcome`]: what the end of a session means for the exit code.
//!
//! One task owns all but the two threads, and nothing in it blocks: input, output, signals and
//! resizes never hold one another up.

pub mod delivery;
pub mod detach;
pub mod engine;
pub mod input;
pub mod journal;
pub mod link;
pub mod outcome;
pub mod pump;
pub mod stdin;
pub mod unacked;
pub mod writer;

use std::time::Duration;

pub use engine::stream;

/// How a session is streamed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether stdin is passed on.
    pub stdin: bool,
    /// The keys that give up the session.
    pub detach_keys: detach::Keys,
    /// How long to try to resume after the connection broke off.
    pub reconnect_timeout: Duration,
}
