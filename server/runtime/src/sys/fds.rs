//! The fd table of a process that is about to become another program.

use std::os::fd::RawFd;

use rustix::io::Errno;

use super::clone::{OnlyThread, last_errno};

/// Closes every fd but those in `keep`, which it sorts. Only for a clone: objects in its memory may
/// still name closed fds, but belong to its parent, and it ends without dropping them.
pub fn close_all_but(_clone: &OnlyThread, keep: &mut [RawFd]) -> Result<(), Errno> {
    keep.sort_unstable();
    let mut next: u32 = 0;
    for fd in keep.iter() {
        let Ok(fd) = u32::try_from(*fd) else { return Err(Errno::BADF) };
        if fd > next {
            close_range(next, fd - 1)?;
        }
        next = next.max(fd + 1);
    }
    close_range(next, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: the arguments are plain numbers; the caller holds the proof that this is a clone, which
    // drops no owner of an fd that is closed here.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}
