//! How many lines somebody may cause who is not let in: what is refused costs its caller nothing, and must
//! not push out of the log what others did.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines of one caller at once, and how long until there is room for another.
const OWN: Allowance = Allowance { burst: 64, each: Duration::from_secs(1) };
/// The same for all callers together.
const ALL: Allowance = Allowance { burst: 1024, each: Duration::from_millis(100) };
/// Lines of one address whose connections are refused. It may be one that only looks whether somebody is there.
const OWN_DOOR: Allowance = Allowance { burst: 16, each: Duration::from_secs(60) };
/// The same for all addresses together: the log of 700 MB would take more than a month to be pushed out.
const ALL_DOORS: Allowance = Allowance { burst: 256, each: Duration::from_secs(1) };
/// Calls of one caller that fail, and cost it nothing either.
const OWN_FAILURES: Allowance = Allowance { burst: 1024, each: Duration::from_millis(100) };
/// The same for all callers together.
const ALL_FAILURES: Allowance = Allowance { burst: 16384, each: Duration::from_millis(10) };
/// How many callers are told apart. Beyond that the one who has waited longest is forgotten.
const CALLERS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Allowance {
    burst: u32,
    each: Duration,
}

/// The paces of all who were refused lately.
#[derive(Debug)]
pub struct Pace {
    own: Allowance,
    all: Allowance,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    all: Bucket,
    own: HashMap<String, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Below zero: so much is owed.
    left: i64,
    filled: Instant,
}

impl Bucket {
    fn full(allowance: Allowance, now: Instant) -> Bucket {
        Bucket { left: allowance.burst.into(), filled: now }
    }

    fn take(&mut self, allowance: Allowance, now: Instant) -> bool {
        self.fill(allowance, now);
        let taken = self.left > 0;
        self.left -= i64::from(taken);
        taken
    }

    fn owe(&mut self, allowance: Allowance, now: Instant) {
        self.fill(allowance, now);
        self.left = (self.left - 1).max(-i64::from(allowance.burst));
    }

    fn is_empty(&mut self, allowance: Allowance, now: Instant) -> bool {
        self.fill(allowance, now);
        self.left <= 0
    }

    fn fill(&mut self, allowance: Allowance, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        let more = passed.as_nanos() / allowance.each.as_nanos();
        if more >= (i64::from(allowance.burst) - self.left).unsigned_abs().into() {
            *self = Bucket::full(allowance, now);
        } else {
            // No more than two bursts.
            let more = more as u32;
            self.left += i64::from(more);
            self.filled += allowance.each * more;
        }
    }
}

impl Pace {
    /// That of calls that are refused, and of guests.
    pub fn of_calls() -> Pace {
        Pace::new(OWN, ALL)
    }

    /// That of connections that are refused.
    pub fn of_connections() -> Pace {
        Pace::new(OWN_DOOR, ALL_DOORS)
    }

    /// That of calls that fail once they were recorded.
    pub fn of_failures() -> Pace {
        Pace::new(OWN_FAILURES, ALL_FAILURES)
    }

    fn new(own: Allowance, all: Allowance) -> Pace {
        let full = Bucket::full(all, Instant::now());
        Pace { own, all, buckets: Mutex::new(Buckets { all: full, own: HashMap::new() }) }
    }

    /// Whether a caller may cause one more line.
    pub fn allows(&self, caller: &str) -> bool {
        self.allows_at(caller, Instant::now())
    }

    /// Whether a caller may cause no more lines for the moment.
    pub fn is_spent(&self, caller: &str) -> bool {
        self.is_spent_at(caller, Instant::now())
    }

    /// Notes a line of a caller that was let in before: of several at a time each may have found room, and what was
    /// too much is made up for.
    pub fn owes(&self, caller: &str) {
        self.owes_at(caller, Instant::now());
    }

    fn is_spent_at(&self, caller: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let own = buckets.own.get_mut(caller).is_some_and(|own| own.is_empty(self.own, now));
        own || buckets.all.is_empty(self.all, now)
    }

    fn owes_at(&self, caller: &str, now: Instant) {
        self.with(caller, now, |own, all| {
            // None takes more than its own from the others.
            if !own.is_empty(self.own, now) {
                all.take(self.all, now);
            }
            own.owe(self.own, now);
        });
    }

    fn allows_at(&self, caller: &str, now: Instant) -> bool {
        self.with(caller, now, |own, all| own.take(self.own, now) && all.take(self.all, now))
    }

    fn with<T>(
        &self,
        caller: &str,
        now: Instant,
        work: impl FnOnce(&mut Bucket, &mut Bucket) -> T,
    ) -> T {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.own.contains_key(caller) && buckets.own.len() >= CALLERS {
            let oldest = buckets.own.iter().min_by_key(|(_, bucket)| bucket.filled);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                buckets.own.remove(&oldest);
            }
        }
        let fresh = || Bucket::full(self.own, now);
        let Buckets { all, own } = &mut *buckets;
        work(own.entry(caller.to_owned()).or_insert_with(fresh), all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_takes_its_burst_and_then_one_line_a_second_and_leaves_others_theirs() {
        let (pace, now) = (Pace::of_calls(), Instant::now());
        let taken = |caller: &str, at| (0..1000).filter(|_| pace.allows_at(caller, at)).count();
        assert_eq!(taken("mallory", now), 64);
        assert_eq!(taken("mallory", now + Duration::from_secs(3)), 3);
        assert_eq!(taken("alice", now), 64);
        assert_eq!(taken("mallory", now + Duration::from_secs(3600)), 64);
    }

    #[test]
    fn what_was_let_in_at_the_same_time_is_made_up_for() {
        let (pace, now) = (Pace::of_failures(), Instant::now());
        let later = |tenths: u64| now + Duration::from_millis(100 * tenths);
        (0..1024).for_each(|_| pace.owes_at("mallory", now));
        assert!(pace.is_spent_at("mallory", now) && !pace.is_spent_at("mallory", later(1)));
        (0..50).for_each(|_| pace.owes_at("mallory", later(1)));
        assert!(pace.is_spent_at("mallory", later(50)) && !pace.is_spent_at("mallory", later(51)));
        assert!(!pace.is_spent_at("alice", later(1)));
    }

    #[test]
    fn many_callers_together_take_no_more_than_all_may() {
        let (pace, now) = (Pace::of_calls(), Instant::now());
        let taken = (0..5000).filter(|n| pace.allows_at(&format!("{n}"), now)).count();
        assert_eq!(taken, 1024);
        assert!(pace.buckets.lock().unwrap().own.len() <= CALLERS);
    }
}
