//! This process: fork, a mount namespace of its own, closing what was inherited, giving memory back.

use std::io;

use rustix::thread::UnshareFlags;

/// On which side of a fork one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the pid of the new one.
    Parent(i32),
}

/// fork(2), for a process with a single thread. Elsewhere it fails with EINVAL: a lock that another
/// thread holds would stay locked in the child for ever.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: unshare with CLONE_VM changes nothing: it is EINVAL in a process with several threads
    // and does nothing in one with a single thread.
    if unsafe { libc::unshare(libc::CLONE_VM) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fork has no memory precondition in a process with one thread, which was checked above:
    // the child is a full copy, no lock is held by a thread that it lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Moves this process into a copy of its mount namespace.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: rustix marks unshare as unsafe because CLONE_FILES would let threads disagree on fds;
    // NEWNS changes no fd table and no memory.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Closes every fd from `first` on. Call it before anything else owns one of them.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the arguments are plain numbers. An fd that an object of this process still owned would
    // be closed under it; the callers run this as their first act, when nothing was opened yet.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the free pages of the heap back to the kernel.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and touches no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
