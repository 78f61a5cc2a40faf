//! Everything of the host that a container is made from, opened and prepared before there is
//! a container: each becomes a detached mount, and init only has to attach it.
//!
//! - [`bind`]: files and directories of the host;
//! - [`filesystem`]: new superblocks: tmpfs, overlays, block devices, [`image`]s; [`devpts`]: those for terminals;
//! - [`requested`]: what a user asks to be mounted;
//! - [`dev`]: the container's /dev;
//! - [`host_view`]: the `host` root filesystem;
//! - [`proc`]: the proc of a container whose pid namespace is joined;
//! - [`tools`]: what is put on top of a target's view for debugging;
//! - [`rootfs`]: roots with or without a private layer.
//!
//! The agent stays in the host's mount namespace for this, but for the one thread of [`devpts`], so that it sees mounts that were made
//! after it was started.

pub mod bind;
pub mod dev;
pub mod devpts;
pub mod filesystem;
pub mod host_view;
pub mod image;
pub mod proc;
pub mod requested;
pub mod rootfs;
pub mod tools;

use std::os::fd::OwnedFd;

use conti_runtime::plan::Fd;
use rustix::io::Errno;

use super::error::Error;

/// The fds that travel with a plan, while it is being made.
#[derive(Debug, Default)]
pub struct FdList(Vec<OwnedFd>);

impl FdList {
    /// Adds an fd and returns its place.
    pub fn add(&mut self, fd: impl Into<OwnedFd>) -> Fd {
        self.0.push(fd.into());
        Fd(self.0.len() as u32 - 1)
    }

    /// The fd at a place.
    pub fn get(&self, place: Fd) -> Option<&OwnedFd> {
        self.0.get(place.0 as usize)
    }

    /// Puts another fd at the place of one.
    pub fn replace(&mut self, place: Fd, fd: OwnedFd) {
        if let Some(old) = self.0.get_mut(place.0 as usize) {
            *old = fd;
        }
    }

    /// The list, complete.
    pub fn into_inner(self) -> Vec<OwnedFd> {
        self.0
    }
}

/// An error of the step `step`.
fn failed(
    step: &'static str,
    what: &'static str,
    argument: impl Into<String>,
    errno: Errno,
    hint: &'static str,
) -> Error {
    Error::Source { step, what, argument: argument.into(), errno: errno.raw_os_error(), hint }
}
