//! The harness of Conti's black-box tests. It knows the API and the binaries, and links neither
//! the agent nor the client.
//!
//! - [`agent`]: an agent of the test's own, and the proof that it left nothing behind;
//! - [`ctl`]: runs `contictl` as a user would;
//! - [`console`]: runs the commands that the documentation shows;
//! - [`terminal`]: runs `contictl` in a pseudo-terminal;
//! - [`sshd`]: a real sshd of a test's own;
//! - [`api`]: talks to the agent without `contictl`; [`audit`]: what it has recorded of its callers;
//! - [`pki`]: certificates of all kinds; [`remote`]: the API from another machine; [`world`]: an agent
//!   for it, [`siege`]: one under attack; [`frames`]: HTTP/2 as an attacker writes it;
//! - [`guest`]: joining with an invitation; [`user`]: the API as another user of this machine;
//! - [`wire`]: one bidirectional stream of a session, message by message;
//! - [`rootfs`]: a small root filesystem made from the host's programs;
//! - [`facts`]: what the probe (`src/bin/probe.rs`) found inside a container;
//! - [`network`]: two hosts and a bad network between them;
//! - [`pattern`]: a stream of bytes of which every one can be checked;
//! - [`host`]: what /proc and /sys say about the machine;
//! - [`plain`]: plain processes of the host; [`moving`]: one that goes elsewhere while a call waits;
//! - [`damage`]: files of an agent that were damaged while it was away;
//! - [`wait`]: waiting for something to become true.
//!
//! The tests are in `tests/`, one topic a file, each named by the sentence that it proves. A test
//! that needs something that not every host has lives in a module `needs_…`: scripts/test.sh leaves
//! it out where the host has it not, so that it is counted as skipped and never as passed.

// A test's words go to the terminal of whoever runs it.
#![allow(clippy::print_stderr)]

pub mod agent;
pub mod api;
pub mod audit;
pub mod console;
pub mod ctl;
pub mod damage;
pub mod facts;
pub mod frames;
pub mod guest;
pub mod host;
pub mod host_mount;
pub mod moving;
pub mod network;
pub mod pattern;
pub mod pki;
pub mod plain;
pub mod remote;
pub mod rootfs;
pub mod siege;
pub mod sshd;
pub mod terminal;
pub mod user;
pub mod wait;
pub mod wire;
pub mod world;

pub use agent::Agent;
