//! The client's own terminal and pipes: all that depends on the system it runs on.
//!
//! Raw mode is undone by whoever comes first: the guard's end, a panic, or [`restore`] just before
//! the process exits.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use conti_proto::v1::TerminalSize;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::FileType,
    stdio,
    termios::{self, OptionalActions, Termios},
};

/// What a pipe is widened to: the default of 64 KiB costs a third of the speed.
#[cfg(target_os = "linux")]
const WIDE_PIPE: usize = 1 << 20;

/// The modes to go back to while the terminal is raw.
static COOKED: Mutex<Option<Termios>> = Mutex::new(None);

fn cooked() -> MutexGuard<'static, Option<Termios>> {
    COOKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the terminal on stdin raw for as long as it lives.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes the terminal on stdin raw.
    pub fn enter() -> io::Result<Raw> {
        let modes = termios::tcgetattr(stdio::stdin())?;
        let mut raw = modes.clone();
        raw.make_raw();
        // Remembered first: a signal that comes in between restores what is still there.
        cooked().get_or_insert(modes);
        termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw(()))
    }

    /// Makes it raw again after somebody else, e.g. a shell, has changed it.
    pub fn again(&self) -> io::Result<()> {
        let mut modes = termios::tcgetattr(stdio::stdin())?;
        modes.make_raw();
        Ok(termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &modes)?)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back into its own modes, if it is raw.
pub fn restore() {
    if let Some(modes) = cooked().take() {
        // Nothing can be done about a terminal that is gone.
        let _ = termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &modes);
    }
}

/// Whether the terminal is raw, so that a line must be ended by `\r\n`.
pub fn is_raw() -> bool {
    cooked().is_some()
}

/// Restores the terminal before a panic is reported.
pub fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        report(info);
    }));
}

/// Whether stdin is a terminal.
pub fn stdin_is_terminal() -> bool {
    termios::isatty(stdio::stdin())
}

/// Whether stdout is a terminal.
pub fn stdout_is_terminal() -> bool {
    termios::isatty(stdio::stdout())
}

/// Whether stderr is a terminal.
pub fn stderr_is_terminal() -> bool {
    termios::isatty(stdio::stderr())
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
pub fn write_at_once(fd: impl AsFd, data: &[u8]) -> Option<rustix::io::Result<usize>> {
    use rustix::io::{Errno, IoSlice, ReadWriteFlags, pwritev2};
    // This offset stands for the file's own position, which a pipe has not.
    const NONE: u64 = u64::MAX;
    match pwritev2(fd, &[IoSlice::new(data)], NONE, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN | Errno::INTR) => Some(Ok(0)),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::SPIPE) => None,
        result => Some(result),
    }
}

/// This system cannot tell.
#[cfg(not(target_os = "linux"))]
pub fn write_at_once(_fd: impl AsFd, _data: &[u8]) -> Option<rustix::io::Result<usize>> {
    None
}

/// Waits until a non-blocking file can be read or written.
pub fn wait_for(fd: impl AsFd, flags: PollFlags) {
    // An error of poll shows up in the read or write that follows.
    let _ = poll(&mut [PollFd::new(&fd, flags)], None);
}

/// Waits until a non-blocking file can be read.
pub fn wait_until_readable(fd: impl AsFd) {
    wait_for(fd, PollFlags::IN);
}

/// Waits until a non-blocking file can be written.
pub fn wait_until_writable(fd: impl AsFd) {
    wait_for(fd, PollFlags::OUT);
}

/// The signals that this process was started to ignore, e.g. by nohup, as a mask: signal N is bit
/// N - 1. They stay ignored.
#[cfg(target_os = "linux")]
pub fn ignored_signals() -> u64 {
    // One read gives all of it; a text that grows as it is read would cost ten.
    let mut buffer = [0; 4096];
    let length = std::fs::File::open("/proc/self/status")
        .and_then(|mut file| std::io::Read::read(&mut file, &mut buffer))
        .unwrap_or(0);
    let status = String::from_utf8_lossy(&buffer[..length]);
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// This system does not say.
#[cfg(not(target_os = "linux"))]
pub fn ignored_signals() -> u64 {
    0
}

/// Widens a pipe; anything else is left alone.
#[cfg(target_os = "linux")]
pub fn widen_pipe(fd: impl AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(fd, WIDE_PIPE);
}

/// Pipes of this system have no size to be set.
#[cfg(not(target_os = "linux"))]
pub fn widen_pipe(_fd: impl AsFd) {}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio},
    };

    use rustix::{
        fs::{Mode, OFlags, open},
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::LocalModes,
    };

    use super::*;

    /// Set in the process that panics.
    const PANICS: &str = "CONTI_TEST_PANICS";

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_reported() {
        if std::env::var_os(PANICS).is_some() {
            restore_on_panic();
            // Never dropped: this is about the hook alone.
            std::mem::forget(Raw::enter().unwrap());
            println!("raw");
            let mut line = String::new();
            io::stdin().read_line(&mut line).unwrap();
            panic!("as asked");
        }
        let mut master = File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let before = termios::tcgetattr(&slave).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([std::thread::current().name().unwrap(), "--exact", "--nocapture"])
            .env(PANICS, "1")
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(stdout.any(|line| line.unwrap().ends_with("raw")), "it became raw");
        let raw = termios::tcgetattr(&slave).unwrap();
        assert!(!raw.local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON), "{raw:?}");
        master.write_all(b"\n").unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains("as asked"), "{errors}");
        let after = termios::tcgetattr(&slave).unwrap();
        assert_eq!(format!("{after:?}"), format!("{before:?}"));
    }
}
