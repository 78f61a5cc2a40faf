//! How the agent starts the launcher.

use std::{
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::{fault, sys::socket};

/// A running launcher. Dropping it closes its socket, upon which it exits; it is reaped by
/// [`Launcher::wait`] only.
#[derive(Debug)]
pub struct Launcher {
    /// Takes [`crate::protocol::LauncherRequest`]s.
    pub socket: OwnedFd,
    /// Becomes readable when it has exited.
    pub pidfd: OwnedFd,
    child: Child,
}

impl Launcher {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes the socket, waits for the launcher to exit, and reaps it.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        drop(self.socket);
        self.child.wait()
    }
}

/// Starts a launcher from `image`: the program as an open file, best a sealed copy in memory
/// ([`crate::sys::memfd::executable`]). `tag` names the agent in the process list: its state
/// directory. What goes wrong while it sets itself up it says on this process's stderr, and its
/// socket closes.
pub fn start(image: BorrowedFd<'_>, tag: &str) -> io::Result<Launcher> {
    let (ours, theirs) = socket::pair()?;
    // Nothing is asked of the child that the standard library could not do by posix_spawn, which
    // copies no page tables: a fork of a large agent would take tens of milliseconds.
    let child = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()))
        .arg0("conti-runtime")
        .args(["launcher", "--agent", tag])
        .env_clear()
        .envs(std::env::var(fault::VARIABLE).map(|delays| (fault::VARIABLE, delays)))
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    // The child is not reaped yet, so that its pid cannot be another's.
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(Launcher { socket: ours, pidfd, child })
}
