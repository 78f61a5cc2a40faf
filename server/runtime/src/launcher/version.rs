//! What a program says that it is, before it is trusted with anything.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// What `conti-runtime --version` says. The protocol between agent and runtime is that of their version.
pub const VERSION: &str = concat!("conti-runtime ", env!("CARGO_PKG_VERSION"));

/// How much is read of what a program says.
const LINE_MAX: usize = 256;

/// What a program says when it is asked for its version: its first line. `image`: the program as an open file.
/// One that goes on for longer than `limit` is killed.
pub fn version_of(image: BorrowedFd<'_>, limit: Duration) -> io::Result<String> {
    let child = Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()))
        .arg0("conti-runtime")
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut child = Asked(child);
    child.ends_within(limit)?;
    let mut line = [0; LINE_MAX];
    let Some(stdout) = &mut child.0.stdout else { return Ok(String::new()) };
    // What it may have started holds the other end for as long as it likes.
    fcntl_setfl(&*stdout, OFlags::NONBLOCK)?;
    let length = match stdout.read(&mut line) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        read => read?,
    };
    let text = String::from_utf8_lossy(&line[..length]);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A program that was asked. It does not outlive the question.
struct Asked(Child);

impl Asked {
    fn ends_within(&self, limit: Duration) -> io::Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        // It is not reaped yet, so that the pid is its own.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let limit = Timespec::try_from(limit).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::{host, sys::memfd};

    const LIMIT: Duration = Duration::from_secs(60);

    fn of(program: &str, limit: Duration) -> io::Result<String> {
        let image = memfd::executable("test", &mut host::open(program)?)?;
        version_of(image.as_fd(), limit)
    }

    #[test]
    fn the_first_line_of_a_program_is_its_version() {
        let said = of("/bin/cat", LIMIT).unwrap();
        assert!(said.starts_with("cat ") && !said.contains('\n'), "{said:?}");
        assert!(of("/etc/passwd", LIMIT).is_err());
    }
}
