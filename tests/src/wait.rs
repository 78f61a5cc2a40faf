//! Waiting for something to become true. Nothing here measures time: limits are generous, and
//! only say when a test gives up.

use std::{
    thread,
    time::{Duration, Instant},
};

/// When a test gives up on something that normally takes milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `done` gives a value. Panics with `what` when it never does.
pub fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// As [`until`], for a condition.
pub fn until_true(what: &str, mut done: impl FnMut() -> bool) {
    until(what, || done().then_some(()));
}
