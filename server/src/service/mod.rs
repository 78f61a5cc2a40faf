//! The gRPC edge: thin methods over the engine.
//!
//! Each method authorises its caller, validates its request, delegates to the engine, and maps the error.
//!
//! - [`access`]: who may use a method at all; [`call`]: what of a request a caller may have; [`ending`]: and what it
//!   may end; `settling`: once it is known what is mounted;
//! - [`convert`]: messages to validated types at the door, and back;
//! - [`status`]: the one place where errors become statuses;
//! - [`agent`], [`containers`], [`sessions`], [`namespaces`], [`mounts`], [`files`], [`processes`], [`network`], [`rootfs`], [`pki`]:
//!   the services;
//!   [`page`], [`parts`]: their lists; [`recordings`]: what was recorded;
//! - [`stream`]: the bidirectional stream of a session; [`wire`]: its messages as bytes;
//! - [`edge`]: the server with all of its limits; [`trace`]: what is logged and counted of a call, by its
//!   [`traceparent`] and until it has [`followed`] the answer;
//! - [`audit`]: the record of each call;
//! - [`share`]: what one caller may have under way; [`intake`]: what it sends, in time;
//! - [`stopping`]: how calls that wait hear that the agent stops.

pub mod access;
pub mod agent;
pub mod audit;
pub mod call;
pub mod containers;
pub mod convert;
pub mod edge;
pub mod ending;
pub mod files;
pub mod followed;
#[cfg(test)]
mod fuzz;
pub mod intake;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod outlet;
pub mod page;
pub mod parts;
pub mod pki;
pub mod processes;
pub mod recordings;
pub mod repeats;
pub mod rootfs;
pub mod sessions;
mod settling;
pub mod share;
pub mod status;
pub mod stopping;
pub mod stream;
pub mod trace;
pub mod traceparent;
mod turns;
pub mod wire;
