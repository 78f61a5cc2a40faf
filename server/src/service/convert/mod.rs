//! Messages become validated types at the door, and what the engine tells becomes messages.
//!
//! Inwards, each function takes a message and the [`Field`] it stands in, notes all that is wrong
//! with it in [`Violations`], and returns the engine's type all the same; [`checked`] gives it
//! out only when nothing was noted. So one answer names every fault of a request.
//!
//! - [`violation`]: where a fault is and what it is;
//! - [`text`]: strings, paths, ids, numbers, durations;
//! - [`process`], [`capability`], [`rlimit`]: a command and its confinement;
//! - [`container`], [`namespaces`], [`mounts`], [`devices`], [`sysctls`]: a container;
//! - [`session`]: a session, its target and its policy;
//! - [`back`]: the engine's specification as a message again;
//! - [`info`]: what the engine tells of containers, sessions and the host.

pub mod back;
pub mod capability;
pub mod container;
pub mod devices;
pub mod info;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod process;
pub mod rlimit;
pub mod session;
pub mod sysctls;
pub mod target;
pub mod text;
pub mod violation;

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod properties;

pub use violation::{Field, Violations, checked};
