//! How fast one caller may fill the log. What it does is recorded, all of it, so that it is held up instead: what others
//! did stays in the log for an hour at least, whatever one does.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

use super::Limits;

/// In how long one caller may fill all files of the log, and which part of them at once.
const WHOLE: Duration = Duration::from_secs(3600);
const AT_ONCE: u64 = 8;
/// The least of both, where the log is small: bytes in a second, and at once.
const LEAST: u64 = 64 << 10;
const LEAST_AT_ONCE: u64 = 8 << 20;
/// How often it is told of a caller that it is held up.
const TOLD: Duration = Duration::from_secs(60);
/// How many callers are told apart. Beyond that the one who has used least is forgotten.
const CALLERS: usize = 1024;

/// What callers have added to the log lately.
#[derive(Debug)]
pub struct Volume {
    at_once: i64,
    /// Bytes in a second.
    rate: i64,
    callers: Mutex<HashMap<String, Used>>,
}

#[derive(Debug, Clone, Copy)]
struct Used {
    /// Bytes. Below zero: so much is owed.
    left: i64,
    filled: Instant,
    told: Option<Instant>,
}

impl Volume {
    /// That of a log with these limits.
    pub fn of(limits: &Limits) -> Volume {
        let files = u64::try_from(limits.keep).unwrap_or(u64::MAX).saturating_add(1);
        let all = limits.max_bytes.saturating_mul(files);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX / 2);
        Volume {
            at_once: signed((all / AT_ONCE).max(LEAST_AT_ONCE)),
            rate: signed((all / WHOLE.as_secs()).max(LEAST)),
            callers: Mutex::default(),
        }
    }

    /// Counts a line of a caller.
    pub fn add(&self, caller: &str, bytes: usize) {
        self.add_at(caller, bytes, Instant::now());
    }

    /// How long a caller is to wait before its next call.
    pub fn held_up(&self, caller: &str) -> Duration {
        self.held_up_at(caller, Instant::now())
    }

    fn held_up_at(&self, caller: &str, now: Instant) -> Duration {
        let callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(used) = callers.get(caller) else { return Duration::ZERO };
        match used.left_at(self, now) {
            0.. => Duration::ZERO,
            owed => Duration::from_secs_f64(owed.unsigned_abs() as f64 / self.rate as f64),
        }
    }

    fn add_at(&self, caller: &str, bytes: usize, now: Instant) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if !callers.contains_key(caller) && callers.len() >= CALLERS {
            // Who owes is the last to be forgotten.
            let least = callers.iter().max_by_key(|(_, used)| used.left_at(self, now));
            if let Some(least) = least.map(|(name, _)| name.clone()) {
                callers.remove(&least);
            }
        }
        let fresh = || Used { left: self.at_once, filled: now, told: None };
        let used = callers.entry(caller.to_owned()).or_insert_with(fresh);
        used.left = used.left_at(self, now).saturating_sub_unsigned(bytes as u64);
        used.filled = now;
        if used.left >= 0 {
            return;
        }
        if used.told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD) {
            used.told = Some(now);
            warn!(
                identity = caller,
                "fills the audit log so fast that its calls are held up; with more room for the log ([audit] max_bytes, \
                 keep) it may do more"
            );
        }
    }
}

impl Used {
    fn left_at(&self, volume: &Volume, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.filled);
        let more = (passed.as_secs_f64() * volume.rate as f64) as i64;
        self.left.saturating_add(more).min(volume.at_once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn volume(max_bytes: u64) -> Volume {
        Volume::of(&Limits { max_bytes, keep: 10 })
    }

    #[test]
    fn one_caller_fills_the_log_in_an_hour_at_the_earliest_and_holds_up_itself_alone() {
        let (volume, now) = (volume(64 * MIB), Instant::now());
        let all = 11 * 64 * MIB;
        let (mut at, mut written) = (now, 0);
        while written < all {
            at += volume.held_up_at("mallory", at);
            volume.add_at("mallory", 4096, at);
            written += 4096;
        }
        // An eighth of it was there at once.
        let took = at - now;
        let (least, most) = (Duration::from_secs(3600 * 7 / 8 - 1), Duration::from_secs(3600));
        assert!(took >= least && took < most, "{took:?}");
        assert_eq!(volume.held_up_at("alice", at), Duration::ZERO);
        // Who rests has as much at once again.
        let later = at + Duration::from_secs(3600);
        let mut free = 0;
        while volume.held_up_at("mallory", later).is_zero() {
            volume.add_at("mallory", 1 << 20, later);
            free += 1;
        }
        assert_eq!(free, 89, "88 MiB, and what there was no room for");
    }

    #[test]
    fn what_was_let_in_at_the_same_time_is_made_up_for() {
        let (volume, now) = (volume(4096), Instant::now());
        volume.add_at("mallory", 8 << 20, now);
        assert_eq!(volume.held_up_at("mallory", now), Duration::ZERO);
        (0..3).for_each(|_| volume.add_at("mallory", 64 << 10, now));
        assert_eq!(volume.held_up_at("mallory", now), Duration::from_secs(3));
        let later = now + Duration::from_secs(2);
        assert_eq!(volume.held_up_at("mallory", later), Duration::from_secs(1));
    }

    #[test]
    fn only_so_many_callers_are_remembered_and_who_owes_among_them() {
        let (volume, now) = (volume(4096), Instant::now());
        volume.add_at("mallory", 9 << 20, now);
        (0..3000).for_each(|n| volume.add_at(&n.to_string(), 1, now));
        assert_eq!(volume.callers.lock().unwrap().len(), CALLERS);
        assert!(volume.held_up_at("mallory", now) > Duration::ZERO);
    }
}
