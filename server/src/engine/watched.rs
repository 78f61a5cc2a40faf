//! File descriptors that the async runtime watches.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Has an fd watched. It is not blocking from here on.
#[expect(
    deprecated,
    reason = "what replaces `new` is unsafe for the sake of types that may close their fd; OwnedFd does not"
)]
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    AsyncFd::new(fd)
}
