//! Flags that verbs share, each group read once and turned once into messages of the API.
//!
//! - [`agent`]: which agent is talked to;
//! - [`container`]: what run and create share: a `ContainerSpec`;
//! - [`process`]: the command, its identity and its confinement: a `ProcessSpec`;
//! - [`session`]: what happens to its streams, and how this client streams them;
//! - [`mount`], [`namespace`], [`value`]: how single values are written.

pub mod agent;
pub mod container;
pub mod mount;
pub mod namespace;
pub mod process;
pub mod session;
pub mod target;
pub mod value;
