//! The client's own terminal, its stdin, stdout and stderr, and its signals: all that depends on the system
//! it runs on.
//!
//! - this file: raw mode, and what is the same everywhere;
//! - `unix` and `windows`: the rest, by the same names. Nothing else of the client asks for the system, but
//!   for the sockets and the files that only one of them has.
//!
//! Raw mode is undone by whoever comes first: the guard's end, a panic, or [`restore`] just before
//! the process exits.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub use system::{
    Signals, is_regular_file, is_writable_now, read_stdin, size, stdin_hung_up,
    wait_until_writable, widen_pipe, write, write_at_once,
};
#[cfg(unix)]
pub use unix::wait_until_readable;

/// What a process reads from and writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Standard input.
    In,
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a signal means to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Somebody wants an end: the number of the signal.
    End(i32),
    /// The terminal may have another size.
    Resized,
    /// The process was stopped and goes on; its terminal may have been changed meanwhile.
    #[cfg_attr(windows, expect(dead_code, reason = "nothing stops a process there"))]
    Continued,
}

impl Signals {
    /// The next signal that wants an end.
    pub async fn end(&mut self) -> i32 {
        loop {
            if let Received::End(number) = self.next().await {
                return number;
            }
        }
    }
}

/// The modes to go back to while the terminal is raw.
static COOKED: Mutex<Option<system::Modes>> = Mutex::new(None);

fn cooked() -> MutexGuard<'static, Option<system::Modes>> {
    COOKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the terminal on stdin raw for as long as it lives.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes the terminal on stdin raw.
    pub fn enter() -> io::Result<Raw> {
        let modes = system::Modes::current()?;
        let raw = modes.raw();
        // Remembered first: a signal that comes in between restores what is still there.
        cooked().get_or_insert(modes);
        raw.apply()?;
        Ok(Raw(()))
    }

    /// Makes it raw again after somebody else, e.g. a shell, has changed it.
    pub fn again(&self) -> io::Result<()> {
        system::Modes::current()?.raw().apply()
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
        let _ = modes.apply();
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
    io::stdin().is_terminal()
}

/// Whether stdout is a terminal.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether stderr is a terminal.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

#[cfg(all(test, unix))]
mod tests {
    use std::{
        fs::File,
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio},
    };

    use rustix::{
        fs::{Mode, OFlags, open},
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::{self, LocalModes},
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
