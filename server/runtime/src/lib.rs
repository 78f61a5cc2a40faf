//! The privileged part of Conti: it makes namespaces, mounts, joins and execs.
//!
//! Read in this order:
//!
//! 1. [`plan`]: what is to be started, as plain data;
//! 2. [`protocol`]: what agent, launcher and monitor say to one another;
//! 3. [`launcher`]: forks monitors;
//! 4. [`monitor`]: the parent of one session's process, with its streams and its end;
//! 5. [`init`]: the child: the ordered steps from a fresh clone to the user's command;
//! 6. [`journal`]: the shared memory that output and input pass through;
//! 7. [`inspect`]: a process that answers one question about the host or a target; [`mountinfo`]; [`kernel_fs`]:
//!    which filesystems are the kernel's own;
//! 8. [`beneath`]: files below what others can write; [`own`]: files that they cannot; [`host`]: those of the kernel
//!    and the host;
//! 9. [`user_namespace`]: one to try out what the kernel allows; [`fault`]: where tests may have it wait;
//! 10. [`sys`]: the only room with unsafe code: the system calls that rustix has not.
//!
//! Nothing here knows async code, gRPC or the messages of the API.

#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod beneath;
pub mod fault;
#[cfg(test)]
mod fuzz;
pub mod host;
pub mod init;
pub mod inspect;
pub mod journal;
pub mod kernel_fs;
pub mod launcher;
pub mod monitor;
pub mod mountinfo;
pub mod own;
pub mod plan;
pub mod protocol;
pub mod sys;
pub mod user_namespace;
