//! Making processes: clone3(2), clone(2), fork(2) and the hard exit of a process that is no longer its
//! parent's copy in spirit but still is in memory.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use rustix::io::Errno;

use super::shm::StageReport;

/// CLONE_PIDFD: the parent gets a pidfd.
const CLONE_PIDFD: u64 = 0x1000;
/// CLONE_INTO_CGROUP: the child is born in a cgroup (version 2).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// CLONE_PARENT: the child becomes a sibling of the caller.
pub const CLONE_PARENT: u64 = 0x8000;

/// CLONE_PARENT_SETTID: the kernel stores the child's pid in the caller's memory before the child runs.
const CLONE_PARENT_SETTID: u64 = 0x10_0000;

/// struct clone_args up to `cgroup`, which every kernel since 5.7 knows.
#[repr(C)]
#[derive(Default)]
struct RawArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// What [`clone_process`] makes.
#[derive(Debug, Clone, Copy, Default)]
pub struct CloneArgs<'a> {
    /// CLONE_NEW* flags and [`CLONE_PARENT`].
    pub flags: u64,
    /// The cgroup v2 directory that the child is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// On which side of a clone one is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child(OnlyThread),
    /// The old one.
    Parent {
        /// The new process's pid, seen from the caller.
        pid: i32,
        /// Its pidfd, close on exec.
        pidfd: OwnedFd,
    },
}

/// The proof that the process that holds it has one thread: it was made by [`clone_process`], or asked the
/// kernel. Nothing in this crate starts a second one.
#[derive(Debug)]
pub struct OnlyThread(());

/// clone3(2) without a stack of its own: as fork(2), with namespaces. Fails with EINVAL in a process
/// that has more than one thread: a lock that another thread holds would stay locked in the child.
pub fn clone_process(args: &CloneArgs<'_>) -> Result<Cloned, Errno> {
    let _single = OnlyThread::check()?;
    let mut pidfd: libc::c_int = -1;
    let mut raw = RawArgs {
        flags: args.flags | CLONE_PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        // The kernel wants none with CLONE_PARENT: the child takes over that of the caller.
        exit_signal: if args.flags & CLONE_PARENT != 0 { 0 } else { libc::SIGCHLD as u64 },
        ..RawArgs::default()
    };
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child runs on a copy of this memory and stack, so that it needs no
    // stack; the process has one thread (seen above), so that the copy holds no lock of a thread that
    // it lacks; `raw` and `pidfd` live through the call and have the kernel's layout.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<RawArgs>()) };
    match result {
        -1 => Err(last_errno()),
        0 => Ok(Cloned::Child(OnlyThread(()))),
        pid => Ok(Cloned::Parent {
            pid: pid as i32,
            // SAFETY: with CLONE_PIDFD the kernel has stored a new fd there, which nothing else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

impl OnlyThread {
    /// Asks the kernel whether this process has one thread; EINVAL where it has more.
    pub fn check() -> Result<OnlyThread, Errno> {
        // SAFETY: unshare with CLONE_VM changes nothing: it is EINVAL in a process with several threads
        // and does nothing in one with a single thread.
        match unsafe { libc::unshare(libc::CLONE_VM) } {
            0 => Ok(OnlyThread(())),
            _ => Err(last_errno()),
        }
    }

    /// clone(2) of a sibling: the child of this process's parent. The kernel writes its pid into the report
    /// before it runs, so that it is known even where this process is killed at that moment. `None` in
    /// the child. Like [`OnlyThread::fork`] it works under the default system call filter.
    pub fn clone_sibling(&self, report: &StageReport) -> Result<Option<i32>, Errno> {
        let flags = CLONE_PARENT | CLONE_PARENT_SETTID;
        // SAFETY: without CLONE_VM the child runs on a copy of this memory and stack; `self` proves that
        // no lock is copied locked; the pid's place lies in a mapping that lives through the call. The
        // fourth and fifth argument, whose order differs between architectures, are both null.
        let result = unsafe {
            libc::syscall(libc::SYS_clone, flags, 0usize, report.pid_address(), 0usize, 0usize)
        };
        match result {
            -1 => Err(last_errno()),
            0 => Ok(None),
            pid => Ok(Some(pid as i32)),
        }
    }

    /// fork(2): the child's pid, or `None` in the child. It needs nothing but the clone system call and
    /// so works under the default system call filter.
    pub fn fork(&self) -> Result<Option<i32>, Errno> {
        // SAFETY: `self` proves that this process has one thread, so that no lock is copied locked.
        match unsafe { libc::fork() } {
            -1 => Err(last_errno()),
            0 => Ok(None),
            pid => Ok(Some(pid)),
        }
    }
}

/// Ends the process at once: no destructors, no buffers. For a clone, whose memory is a copy of its
/// parent's, they are not its own.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition.
    unsafe { libc::_exit(code) }
}

/// The errno of the last failed call through libc.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
