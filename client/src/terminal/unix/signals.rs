//! The signals that this client gets while it streams.

use std::io;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::terminal;

/// What a signal means to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Somebody wants an end: the number of the signal.
    End(i32),
    /// The terminal may have another size.
    Resized,
    /// The process was stopped and goes on; its terminal may have been changed meanwhile.
    Continued,
}

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
        let ignored = terminal::ignored_signals();
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

    /// The next signal that wants an end.
    pub async fn end(&mut self) -> i32 {
        loop {
            if let Received::End(number) = self.next().await {
                return number;
            }
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
