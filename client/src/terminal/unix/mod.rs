//! Terminals, files and signals of Unix.

mod signals;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use conti_proto::v1::TerminalSize;
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, poll},
    fs::FileType,
    io::Errno,
    stdio,
    termios::{self, OptionalActions, Termios},
};

pub use signals::Signals;

use crate::terminal::Stdio;

/// What a pipe is widened to: the default of 64 KiB costs a third of the speed.
#[cfg(target_os = "linux")]
const WIDE_PIPE: usize = 1 << 20;

impl AsFd for Stdio {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stdio::In => stdio::stdin(),
            Stdio::Out => stdio::stdout(),
            Stdio::Err => stdio::stderr(),
        }
    }
}

/// The modes of the terminal on stdin.
#[derive(Debug)]
pub struct Modes(Termios);

impl Modes {
    /// As they are.
    pub fn current() -> io::Result<Modes> {
        Ok(Modes(termios::tcgetattr(stdio::stdin())?))
    }

    /// With everything that is typed passed on as it is.
    pub fn raw(&self) -> Modes {
        let mut modes = self.0.clone();
        modes.make_raw();
        Modes(modes)
    }

    /// Sets them.
    pub fn apply(&self) -> io::Result<()> {
        Ok(termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &self.0)?)
    }
}

/// The size of the terminal that the user looks at, where there is one.
pub fn size() -> Option<TerminalSize> {
    let size_of = |fd: BorrowedFd<'_>| {
        let size = termios::tcgetwinsize(fd).ok()?;
        (size.ws_col > 0 && size.ws_row > 0)
            .then(|| TerminalSize { columns: size.ws_col.into(), rows: size.ws_row.into() })
    };
    size_of(stdio::stdout())
        .or_else(|| size_of(stdio::stdin()))
        .or_else(|| size_of(stdio::stderr()))
}

/// Whether writing to it never has to wait for a reader.
pub fn is_regular_file(fd: impl AsFd) -> bool {
    rustix::fs::fstat(fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// Whether a small write would not have to wait.
pub fn is_writable_now(fd: impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&now)), Ok(n) if n > 0)
}

/// Writes as much as goes without waiting for a reader, whatever the flags of the file are: those are
/// shared with other processes. `None`: that cannot be told of this kind of file.
///
/// RWF_NOWAIT (pwritev2(2)) works with sockets, and with pipes since Linux 6.4.
#[cfg(target_os = "linux")]
pub fn write_at_once(fd: impl AsFd, data: &[u8]) -> Option<io::Result<usize>> {
    use rustix::io::{IoSlice, ReadWriteFlags, pwritev2};
    // This offset stands for the file's own position, which a pipe has not.
    const NONE: u64 = u64::MAX;
    match pwritev2(fd, &[IoSlice::new(data)], NONE, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN | Errno::INTR) => Some(Ok(0)),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::SPIPE) => None,
        result => Some(result.map_err(io::Error::from)),
    }
}

/// This system cannot tell.
#[cfg(not(target_os = "linux"))]
pub fn write_at_once(_fd: impl AsFd, _data: &[u8]) -> Option<io::Result<usize>> {
    None
}

fn wait_for(fd: impl AsFd, flags: PollFlags) {
    // An error of poll shows up in the read or write that follows.
    let _ = poll(&mut [PollFd::new(&fd, flags)], None);
}

/// Whether stdin is a terminal that has hung up. `was_terminal`: whether it was one before.
pub fn stdin_hung_up(was_terminal: bool) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut stdin = [PollFd::from_borrowed_fd(stdio::stdin(), PollFlags::empty())];
    let mut other_end_closed = || {
        matches!(poll(&mut stdin, Some(&now)), Ok(1..))
            && stdin[0].revents().contains(PollFlags::HUP)
    };
    // It is no terminal any more, by isatty(3).
    matches!(termios::tcgetattr(stdio::stdin()), Err(Errno::IO))
        || was_terminal && other_end_closed()
}

/// Reads from stdin behind what a buffer holds, as much as it has room for; waits until there is something.
/// 0: the end, and so is a stdin that is closed.
pub fn read_stdin(buffer: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        match rustix::io::read(stdio::stdin(), spare_capacity(&mut *buffer)) {
            Ok(n) => return Ok(n),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_until_readable(stdio::stdin()),
            Err(Errno::BADF) => return Ok(0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Writes a part of the data.
pub fn write(fd: impl AsFd, data: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(fd, data)?)
}

/// Waits until a non-blocking file can be read.
pub fn wait_until_readable(fd: impl AsFd) {
    wait_for(fd, PollFlags::IN);
}

/// Waits until a non-blocking file can be written.
pub fn wait_until_writable(fd: impl AsFd) {
    wait_for(fd, PollFlags::OUT);
}

/// Widens a pipe; anything else is left alone.
#[cfg(target_os = "linux")]
pub fn widen_pipe(fd: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(fd, WIDE_PIPE);
}

/// Pipes of this system have no size to be set.
#[cfg(not(target_os = "linux"))]
pub fn widen_pipe(_fd: impl AsFd) {}
