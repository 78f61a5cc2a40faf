//! Up to where a session's output was handled: by the one who drives it, and by its recorder. The journal
//! gives free what both have done with.

use std::sync::atomic::{AtomicU64, Ordering};

use conti_runtime::journal::Mode;

use super::{Journal, Session};

/// Stands for somebody who is not there and is not waited for.
const NOBODY: u64 = u64::MAX;

/// Up to where output was handled.
#[derive(Debug)]
pub struct Handled {
    driver: AtomicU64,
    recorder: AtomicU64,
}

impl Handled {
    /// As a journal says, new or found again.
    pub fn new(journal: &Journal, recorded: bool) -> Handled {
        let (driver, recorder) = match journal.live() {
            Some(reader) => {
                let waits = reader.mode() == Mode::Wait;
                (if waits { reader.acked() } else { NOBODY }, if recorded { 0 } else { NOBODY })
            }
            None => (NOBODY, NOBODY),
        };
        Handled { driver: AtomicU64::new(driver), recorder: AtomicU64::new(recorder) }
    }
}

impl Session {
    /// A driver begins at `offset`: what lies before was handled, by its client or another.
    pub(super) fn drive_from(&self, offset: u64) {
        self.handled.driver.store(offset, Ordering::SeqCst);
        self.settle();
    }

    /// The driver's client has handled all below `offset`.
    pub(super) fn driver_handled(&self, offset: u64) {
        self.handled.driver.fetch_max(offset, Ordering::SeqCst);
        self.settle();
    }

    /// The recorder has written all below `offset`.
    pub(super) fn recorder_handled(&self, offset: u64) {
        self.handled.recorder.store(offset, Ordering::SeqCst);
        self.settle();
    }

    /// Nothing is recorded any more.
    pub(in crate::engine) fn unrecorded(&self) {
        self.recorder_handled(NOBODY);
    }

    /// Says that nobody will drive it: what it writes is kept as far as the journal goes.
    pub fn let_run(&self) {
        self.handled.driver.store(NOBODY, Ordering::SeqCst);
        self.settle();
    }

    /// Whether its process waits for a client, who may have gone with the agent before.
    pub fn awaits_client(&self) -> bool {
        self.handled.driver.load(Ordering::SeqCst) != NOBODY
    }

    /// Tells the monitor what is free.
    fn settle(&self) {
        let journal = self.journal();
        let Some(reader) = journal.live() else { return };
        let (driver, recorder) = (
            self.handled.driver.load(Ordering::SeqCst),
            self.handled.recorder.load(Ordering::SeqCst),
        );
        match (driver, recorder) {
            (NOBODY, NOBODY) => reader.set_mode(Mode::Drop),
            (NOBODY, recorder) => {
                // What was recorded is still there for those who come later, as far as there is room.
                reader.set_acked(recorder - reader.spare(recorder));
                reader.set_mode(Mode::Record);
            }
            (driver, recorder) => {
                reader.set_acked(driver.min(recorder));
                reader.set_mode(Mode::Wait);
            }
        }
        self.wake_monitor();
    }
}
