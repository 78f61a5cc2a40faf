//! What Windows has in place of the signals that this client gets while it streams.

use std::{io, time::Duration};

use conti_proto::v1::TerminalSize;
use tokio::{
    signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close},
    time::{Interval, MissedTickBehavior, interval},
};

use crate::terminal::{Received, size};

// As which signals of other systems these are passed on.
const HANG_UP: i32 = 1;
const INTERRUPT: i32 = 2;
const TERMINATE: i32 = 15;
/// How often the size of the console is looked at: nothing tells of a change.
const LOOK: Duration = Duration::from_millis(250);

/// The signals that are listened to, from its making on.
pub struct Signals {
    interrupt: CtrlC,
    terminate: CtrlBreak,
    hang_up: CtrlClose,
    look: Interval,
    size: Option<TerminalSize>,
}

impl Signals {
    /// Begins to listen.
    pub fn listen() -> io::Result<Signals> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Signals {
            interrupt: ctrl_c()?,
            terminate: ctrl_break()?,
            hang_up: ctrl_close()?,
            look,
            size: size(),
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Received {
        loop {
            tokio::select! {
                Some(()) = self.interrupt.recv() => return Received::End(INTERRUPT),
                Some(()) = self.terminate.recv() => return Received::End(TERMINATE),
                Some(()) = self.hang_up.recv() => return Received::End(HANG_UP),
                _ = self.look.tick() => {
                    let now = size();
                    if now != self.size {
                        self.size = now;
                        return Received::Resized;
                    }
                }
            }
        }
    }
}
