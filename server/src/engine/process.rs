//! Processes of the host: pinning one, and what a new one gets where nothing was said.

use std::{fs, io, os::fd::OwnedFd};

use conti_runtime::{plan::Process, protocol::ProcessId};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{
    error::{Error, Result},
    spec::SessionIo,
};

/// Bit 27 of a capability set.
const CAP_MKNOD: u64 = 1 << 27;

/// Where nothing enforces a container's device policy, nobody in it makes device nodes, unless it is
/// privileged.
pub fn withhold_mknod(process: &mut Process) {
    if !process.confinement.privileged {
        process.confinement.capabilities &= !CAP_MKNOD;
    }
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Adds what an environment must have: PATH, and TERM with a terminal. HOME is added by init, who reads
/// the container's /etc/passwd.
pub fn complete(process: &mut Process, io: &SessionIo) {
    let missing =
        |name: &str, env: &[String]| !env.iter().any(|e| e.split('=').next() == Some(name));
    if missing("PATH", &process.env) {
        process.env.push(PATH.to_owned());
    }
    if io.terminal.is_some() && missing("TERM", &process.env) {
        process.env.push("TERM=xterm".to_owned());
    }
}

/// Lays one environment over another.
pub fn overlay_env(below: &[String], above: &[String]) -> Vec<String> {
    let name = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    let named: Vec<String> = above.iter().map(|e| name(e)).collect();
    let mut env: Vec<String> =
        below.iter().filter(|e| !named.contains(&name(e))).cloned().collect();
    env.extend_from_slice(above);
    env
}

/// A process that cannot be exchanged for another while this is held.
#[derive(Debug)]
pub struct Pinned {
    pid: i32,
    pidfd: OwnedFd,
}

impl Pinned {
    /// Pins a process, which must have been started at `start_ticks` where that is known.
    pub fn open(pid: i32, start_ticks: Option<u64>) -> Result<Pinned> {
        let number =
            Pid::from_raw(pid).ok_or_else(|| gone(pid, &io::ErrorKind::NotFound.into()))?;
        let pidfd =
            pidfd_open(number, PidfdFlags::empty()).map_err(|errno| gone(pid, &errno.into()))?;
        let pinned = Pinned { pid, pidfd };
        // Read after it was pinned: what is read is true of the pinned process, if that is still there.
        let found = start_time(pid).map_err(|error| gone(pid, &error))?;
        pinned.still_there()?;
        match start_ticks {
            Some(wanted) if wanted != found => Err(Error::TargetGone {
                pid,
                problem: format!(
                    "the process that was started at tick {wanted} is gone; its pid is now that of another, started at {found}"
                ),
            }),
            _ => Ok(pinned),
        }
    }

    /// Checks that it has not been reaped, so that all that was read below /proc/PID is its own.
    pub fn still_there(&self) -> Result<()> {
        // A pidfd becomes readable when its process has ended (pidfd_open(2)).
        let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut polled, Some(&Timespec::default())) {
            Ok(0) => Ok(()),
            _ => Err(gone(self.pid, &io::ErrorKind::NotFound.into())),
        }
    }

    /// The pidfd itself.
    pub fn into_fd(self) -> OwnedFd {
        self.pidfd
    }
}

/// Kills a process, if it is still the one that is meant.
pub fn kill(process: ProcessId) {
    if let Ok(pinned) = Pinned::open(process.pid, Some(process.start_ticks)) {
        // Where it has ended meanwhile there is nothing to be done.
        let _ = pidfd_send_signal(&pinned.pidfd, Signal::KILL);
    }
}

/// When a process was started: field 22 of /proc/PID/stat.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command, field 2, may hold blanks and parentheses: count from behind it.
    let behind = stat.rfind(')').and_then(|at| stat.get(at + 2..));
    let field = behind.and_then(|fields| fields.split(' ').nth(19)).and_then(|f| f.parse().ok());
    field.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The error for a process that is not there.
pub fn gone(pid: i32, error: &io::Error) -> Error {
    let problem = match error.raw_os_error() {
        None | Some(libc::ESRCH | libc::ENOENT) => "there is no such process".to_owned(),
        _ => format!("it cannot be looked at: {error}"),
    };
    Error::TargetGone { pid, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_laid_over_another_by_name() {
        let below = ["A=1".to_owned(), "B=2".to_owned()];
        let above = ["B=3".to_owned(), "C=".to_owned()];
        assert_eq!(overlay_env(&below, &above), ["A=1", "B=3", "C="]);
    }

    #[test]
    fn a_process_is_pinned_only_with_its_own_start_time() {
        let pid = std::process::id() as i32;
        let ticks = start_time(pid).expect("own stat");
        Pinned::open(pid, Some(ticks)).expect("pinned");
        assert!(matches!(Pinned::open(pid, Some(ticks + 1)), Err(Error::TargetGone { .. })));
    }
}
