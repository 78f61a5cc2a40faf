//! What both ends of Conti must agree on and the proto files do not say.
//!
//! - [`name`]: what a container's name, an id and a request id look like;
//! - [`endpoint`]: how the address of an agent is written;
//! - [`invitation`]: the code that lets a client join an agent;
//! - [`anchors`]: how far a trusted authority's word reaches;
//! - [`tls`]: certificates and keys from files, and the application protocols;
//! - [`reason`]: the machine-readable reasons of errors;
//! - [`signal`]: the names and numbers of signals;
//! - [`text`]: characters that mislead whoever reads them.

pub mod anchors;
pub mod endpoint;
#[cfg(test)]
mod fuzz;
pub mod invitation;
pub mod memory;
pub mod name;
pub mod reason;
pub mod signal;
pub mod text;
pub mod tls;
