//! The two ends of a session's stdin, stdout and stderr.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, fcntl_getfl, fcntl_setfl, openat2},
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};

use super::failure;
use crate::{
    host,
    init::{ChildStdio, PlanFds},
    plan::{Place, SetupFailure, Stdio, Step},
};

/// The pipes that much goes through get this size: fewer turns between writer and reader.
const PIPE_SIZE: usize = 1 << 20;

/// The monitor's ends. All are non-blocking.
#[derive(Debug)]
pub enum Ends {
    /// Pipes.
    Pipes {
        /// Written to. `None`: the process reads /dev/null.
        stdin: Option<OwnedFd>,
        /// Read from.
        stdout: OwnedFd,
        /// Read from.
        stderr: OwnedFd,
    },
    /// The master of a terminal.
    Terminal(Rc<OwnedFd>),
}

/// Makes both ends.
pub fn make(stdio: &Stdio, fds: &PlanFds) -> Result<(ChildStdio, Ends), SetupFailure> {
    match *stdio {
        Stdio::Pipes { stdin } => pipes(stdin).map_err(|e| failure(Step::Stdio, "pipes", &e)),
        Stdio::Terminal { devpts, columns, rows } => terminal(fds.get(devpts)?, columns, rows)
            .map_err(|error| failure(Step::Terminal, "ptmx", &error)),
    }
}

/// A copy of the root of a new container's devpts, which the monitor keeps for the agents to come.
pub fn devpts(place: &Place, fds: &PlanFds) -> Result<Option<OwnedFd>, SetupFailure> {
    let Place::Container(container) = place else { return Ok(None) };
    let Some(devpts) = container.devpts else { return Ok(None) };
    let copy = fds.get(devpts)?.try_clone_to_owned();
    copy.map(Some).map_err(|error| failure(Step::Terminal, "devpts", &error))
}

fn pipes(with_stdin: bool) -> io::Result<(ChildStdio, Ends)> {
    let (theirs_in, ours_in) = if with_stdin {
        let (theirs, ours) = pipe(PIPE_SIZE)?;
        nonblocking(&ours)?;
        (theirs, Some(ours))
    } else {
        // The launcher's root has no /dev; its stdin is /dev/null, opened anew here so that no session
        // shares its state with another.
        (host::open("/proc/self/fd/0")?.into(), None)
    };
    let (stdout, theirs_out) = pipe(PIPE_SIZE)?;
    // What goes to stderr is seldom much: its pipe stays as it is.
    let (stderr, theirs_err) = pipe_with(PipeFlags::CLOEXEC)?;
    nonblocking(&stdout)?;
    nonblocking(&stderr)?;
    let theirs = ChildStdio::Pipes { stdin: theirs_in, stdout: theirs_out, stderr: theirs_err };
    Ok((theirs, Ends::Pipes { stdin: ours_in, stdout, stderr }))
}

fn pipe(size: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // It works with a smaller one as well.
    let _ = fcntl_setpipe_size(&write, size);
    Ok((read, write))
}

/// Only our end: the process gets pipes that block, as it may expect.
fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

/// A new terminal of a devpts instance that is the agent's. The container sees the same mount: what somebody in there
/// has mounted on its entry is not opened.
fn terminal(devpts: impl AsFd, columns: u16, rows: u16) -> io::Result<(ChildStdio, Ends)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let master = openat2(devpts, "ptmx", flags, Mode::empty(), resolve)?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    tcsetwinsize(&master, size(columns, rows))?;
    let mut modes = tcgetattr(&slave)?;
    // So that erasing a character of several bytes erases all of them.
    modes.input_modes |= InputModes::IUTF8;
    tcsetattr(&slave, OptionalActions::Now, &modes)?;
    Ok((ChildStdio::Terminal { slave }, Ends::Terminal(Rc::new(master))))
}

/// The size of a terminal as the kernel takes it.
pub fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
