//! The signals that this client gets while it streams.

use std::io;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::terminal::Received;

/// The signals that are listened to, from its making on.
pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
    resized: Option<Signal>,
    continued: Option<Signal>,
}

impl Signals {
    /// Begins to listen, but for what this process was told to ignore.
    pub fn listen() -> io::Result<Signals> {
        let ignored = ignored_signals();
        let unless_ignored = |number: Number| {
            let number = number.as_raw();
            let listen = ignored & 1 << (number - 1) == 0;
            listen.then(|| signal(SignalKind::from_raw(number))).transpose()
        };
        Ok(Signals {
            interrupt: unless_ignored(Number::INT)?,
            terminate: unless_ignored(Number::TERM)?,
            hang_up: unless_ignored(Number::HUP)?,
            resized: Some(signal(SignalKind::window_change())?),
            continued: Some(signal(SignalKind::from_raw(Number::CONT.as_raw()))?),
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Received {
        tokio::select! {
            () = one(&mut self.interrupt) => Received::End(Number::INT.as_raw()),
            () = one(&mut self.terminate) => Received::End(Number::TERM.as_raw()),
            () = one(&mut self.hang_up) => Received::End(Number::HUP.as_raw()),
            () = one(&mut self.resized) => Received::Resized,
            () = one(&mut self.continued) => Received::Continued,
        }
    }
}

async fn one(signal: &mut Option<Signal>) {
    // A channel that has closed gives no signal, no more than one that is ignored.
    if let Some(open) = signal
        && open.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// The signals that this process was started to ignore, e.g. by nohup, as a mask: signal N is bit
/// N - 1. They stay ignored.
#[cfg(target_os = "linux")]
fn ignored_signals() -> u64 {
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
fn ignored_signals() -> u64 {
    0
}
