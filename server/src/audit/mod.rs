//! Who did what, and what came of it: a file of JSON lines. Knows nothing of gRPC.
//!
//! - [`entry`]: one line of the log, and what it tells of whom; [`crate::redact`]: what of a command's
//!   arguments may stand in it;
//! - [`log`]: the log as calls see it: a record before they are carried out, and one after;
//! - `writer`: the thread that owns the file; `file`: the file, its rotation, and what a crash left of it.
//!
//! A `begin` is written before the engine is asked, an `end` after it has answered, and the same `call`
//! stands in both. The record of a call from another machine is on disk before the call is carried out
//! (calls at the same time share one flush). That of a local admin, who could rewrite the file anyway,
//! is written, so that it outlives the agent, and flushed within a second: a flush costs more than
//! many a call. Ends are flushed within a second. On a full disk the log takes of the room that is kept for it
//! ([`crate::reserve`]), and tells what is missing once it can be written again.
//!
//! `pace`: how many lines somebody may cause whom they cost nothing; `volume`: how fast one caller may fill the log;
//! `key`: the key of hashes that stand for arguments.

pub mod entry;
mod file;
#[cfg(test)]
mod fuzz;
pub mod key;
pub mod log;
mod pace;
mod volume;
mod writer;

pub use entry::{Entry, Event, Outcome, Subject, Who};
pub use file::Limits;
pub use log::{Log, Open};
pub use writer::Failed;

/// Whether a method only ends or removes something.
pub fn ends(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    ["Stop", "Kill", "Signal", "Delete", "Revoke"].iter().any(|verb| method.starts_with(verb))
}
