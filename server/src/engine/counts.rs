//! What an engine has done since it was started, and what it has at the moment: plain numbers for
//! whoever shows them. Counting costs one atomic addition.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Engine,
    error::Error,
    info::{ContainerState, EndReason, SessionEnd},
    session::State,
};

/// A number of things or bytes.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What was done since the start. Numbers only grow, but for what is counted as waiting.
#[derive(Debug, Default)]
pub struct Counts {
    /// Sessions whose command began to run.
    pub sessions_started: Count,
    /// Bytes of input that sessions took.
    pub input_bytes: Count,
    /// Bytes of output that were read from journals: twice, where two clients read the same.
    pub output_bytes: Count,
    /// Bytes that were dropped from journals before anybody could read them, told at a session's end.
    pub dropped_bytes: Count,
    /// How often a launcher was started in the place of one that had died.
    pub launcher_restarts: Count,
    /// Questions that wait for an inspector.
    waiting: AtomicU64,
    /// Sessions that ended, in the order of `EndReason::NAMES`.
    ended: [Count; EndReason::NAMES.len()],
    /// Set-ups that failed, by step. A lock, because failures are few and steps many.
    failed: Mutex<BTreeMap<String, u64>>,
}

/// What there is at one moment.
#[derive(Debug, Default)]
pub struct Census {
    /// Containers in each state.
    pub containers: Vec<(&'static str, u64)>,
    /// Sessions whose command runs.
    pub sessions_running: u64,
    /// Slots that are ready for a container.
    pub spare_slots: u64,
    /// Inspectors at work.
    pub inspectors: u64,
    /// Questions that wait for an inspector.
    pub questions_waiting: u64,
}

impl Counts {
    /// Counts the end of a session that this engine followed.
    pub(super) fn session_ended(&self, end: &SessionEnd) {
        let name = end.reason.name();
        let counts = EndReason::NAMES.iter().zip(&self.ended);
        counts.filter(|(known, _)| **known == name).for_each(|(_, count)| count.add(1));
        self.dropped_bytes.add(end.dropped_bytes);
        if let EndReason::StartFailed { step, .. } = &end.reason {
            self.setup_failed(step);
        }
    }

    /// Counts a set-up that failed in a step.
    fn setup_failed(&self, step: &str) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed.entry(step.to_owned()).or_default() += 1;
    }

    /// Counts a set-up for which the host had no source.
    pub(super) fn source_failed(&self, error: &Error) {
        if let Error::Source { step, .. } = error {
            self.setup_failed(step);
        }
    }

    /// Counts a question as waiting, until what this returns is dropped.
    pub(super) fn question_waits(&self) -> impl Drop {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    /// Sessions that ended, by reason.
    pub fn sessions_ended(&self) -> impl Iterator<Item = (&'static str, u64)> {
        EndReason::NAMES.into_iter().zip(self.ended.iter().map(Count::get))
    }

    /// Set-ups that failed, by the name of the step.
    pub fn setups_failed(&self) -> BTreeMap<String, u64> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A question that waits.
struct Waiting<'a>(&'a AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Engine {
    /// What was done so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What there is. Looks at each container and session once, and asks nobody.
    pub fn census(&self) -> Census {
        let mut containers = ContainerState::ALL.map(|state| (state.as_str(), 0));
        for container in self.registry.containers() {
            let state = container.state().as_str();
            containers.iter_mut().filter(|(name, _)| *name == state).for_each(|(_, n)| *n += 1);
        }
        let sessions = self.registry.sessions(None);
        let running = sessions.iter().filter(|s| matches!(s.state(), State::Running(_)));
        Census {
            containers: containers.into(),
            sessions_running: running.count() as u64,
            spare_slots: self.slots.ready() as u64,
            inspectors: self.inspectors.at_work() as u64,
            questions_waiting: self.counts.waiting.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use conti_runtime::journal::Totals;

    use super::*;
    use crate::engine::session::supervise;

    fn end(reason: EndReason) -> SessionEnd {
        SessionEnd { reason, dropped_bytes: 7, ..supervise::lost("", Totals::default()) }
    }

    #[test]
    fn each_end_is_counted_once_under_its_reason_and_a_failed_step_by_name() {
        let counts = Counts::default();
        counts.session_ended(&end(EndReason::Exit(3)));
        counts.session_ended(&end(EndReason::OutOfMemory));
        let (step, argument, message) = ("mount".to_owned(), String::new(), String::new());
        let failed = EndReason::StartFailed { step, argument, errno: 2, message };
        counts.session_ended(&end(failed));
        let ended: BTreeMap<_, _> = counts.sessions_ended().filter(|(_, n)| *n > 0).collect();
        assert_eq!(ended, BTreeMap::from([("exit", 1), ("out_of_memory", 1), ("start_failed", 1)]));
        assert_eq!(counts.setups_failed(), BTreeMap::from([("mount".to_owned(), 1)]));
        assert_eq!(counts.dropped_bytes.get(), 21);
    }

    #[test]
    fn a_question_waits_until_it_is_dropped() {
        let counts = Counts::default();
        let first = counts.question_waits();
        let second = counts.question_waits();
        drop(first);
        assert_eq!(counts.waiting.load(Ordering::Relaxed), 1);
        drop(second);
        assert_eq!(counts.waiting.load(Ordering::Relaxed), 0);
    }
}
