//! Points between a check and what is done upon it, at which a test can have the program wait.
//!
//! A race whose window is some microseconds wide is met once in hundreds of rounds. With
//! `CONTI_TEST_DELAYS=20` in the environment of the agent, whoever passes such a point waits up to 20 ms
//! there, so that any order of two calls comes up soon. `CONTI_TEST_DELAYS=detach.=20,mount.=5` names the
//! points by how they begin; `forker.order=stop` stops whoever passes that one (SIGSTOP), and `=stops` does it
//! again whenever it is let go on. Nobody but who starts the agent sets it; no call reaches it. Without it a
//! point costs a load and a branch.

use std::{
    env,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::sys::signal::stop_here;

/// The environment variable.
pub const VARIABLE: &str = "CONTI_TEST_DELAYS";

/// The longest that one point waits, whatever is asked for.
const LONGEST: u64 = 1000;

/// What happens at points whose names begin so.
type Delays = Vec<(String, What)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A wait of so many milliseconds at most.
    Wait(u64),
    /// A stop.
    Stop,
    /// One stop after the other.
    Stops,
}

fn delays() -> &'static Delays {
    static DELAYS: OnceLock<Delays> = OnceLock::new();
    DELAYS.get_or_init(|| parse(&env::var(VARIABLE).unwrap_or_default()))
}

fn parse(text: &str) -> Delays {
    let parts = text.split(',').filter_map(|part| {
        let (name, millis) = part.rsplit_once('=').unwrap_or(("", part));
        let what = match millis.trim() {
            "stop" => What::Stop,
            "stops" => What::Stops,
            millis => What::Wait(millis.parse::<u64>().ok()?.min(LONGEST)),
        };
        Some((name.trim().to_owned(), what))
    });
    parts.collect()
}

/// Whether any point waits.
pub fn is_on() -> bool {
    !delays().is_empty()
}

fn at(point: &str) -> Option<What> {
    let found = delays().iter().find(|(name, _)| point.starts_with(name.as_str()));
    found.map(|(_, what)| *what)
}

/// How long to wait at a point now: another time in each call, from nothing to what was asked for.
pub fn delay(point: &str) -> Option<Duration> {
    match at(point)? {
        What::Wait(most) => Some(Duration::from_micros(scatter() % (most * 1000 + 1))),
        What::Stop | What::Stops => None,
    }
}

/// Stops this process at a point, where that was asked for.
pub fn stop(point: &str) {
    match at(point) {
        Some(What::Stop) => stop_here(),
        Some(What::Stops) => loop {
            stop_here();
        },
        _ => {}
    }
}

/// Waits or stops at a point, where that was asked for. It blocks the thread.
pub fn point(name: &str) {
    stop(name);
    if let Some(delay) = delay(name) {
        thread::sleep(delay);
    }
}

/// Numbers without an order that matters (splitmix64). A fork goes on with its parent's: its pid is added.
fn scatter() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let step = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mut x = step ^ (u64::from(std::process::id()) << 32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_named_by_how_they_begin() {
        let named = |pairs: &[(&str, u64)]| -> Delays {
            pairs.iter().map(|(name, most)| ((*name).to_owned(), What::Wait(*most))).collect()
        };
        assert_eq!(parse(""), named(&[]));
        assert_eq!(parse("20"), named(&[("", 20)]));
        assert_eq!(parse("detach.=20, mount.=5"), named(&[("detach.", 20), ("mount.", 5)]));
        assert_eq!(parse("x=99999"), named(&[("x", LONGEST)]));
        assert_eq!(parse("nonsense,x="), named(&[]));
        assert_eq!(parse("a.=stop"), [("a.".to_owned(), What::Stop)]);
        assert_eq!(parse("a.=stops"), [("a.".to_owned(), What::Stops)]);
    }
}
