//! Whose turn it is to ask: the places in which questions are answered, divided among those who ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// How many questions one identity has under way at most.
pub const EACH: usize = 16;
/// How many there are at most. The engine has a few inspectors more, for what is no question.
const ALL: usize = 32;
/// How many of them are kept for administrators of this machine.
const KEPT: usize = 2;

/// The places. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// How many each identity has.
    taken: Mutex<HashMap<String, usize>>,
    freed: Notify,
}

/// A place. It is free again when this is dropped.
#[derive(Debug)]
pub struct Turn {
    of: Turns,
    name: String,
}

impl Turns {
    /// Waits for a place. Each identity may have as many as it leaves to others: half of all for the first one, a
    /// third for each of two. So who does not read its answers leaves something to whoever comes next.
    pub async fn take(&self, name: &str, local_admin: bool) -> Turn {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // Registered before it is looked at: what becomes free in between is told.
            freed.as_mut().enable();
            if let Some(turn) = self.try_take(name, local_admin) {
                return turn;
            }
            freed.await;
        }
    }

    fn try_take(&self, name: &str, local_admin: bool) -> Option<Turn> {
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let own = taken.get(name).copied().unwrap_or(0);
        let limit = if local_admin { ALL } else { ALL - KEPT };
        let left = limit.saturating_sub(all);
        let fits = if local_admin { left > 0 } else { own < left };
        if !fits {
            return None;
        }
        taken.insert(name.to_owned(), own + 1);
        Some(Turn { of: self.clone(), name: name.to_owned() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        match taken.get_mut(&self.name) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.name)),
        }
        drop(taken);
        self.of.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(turns: &Turns, name: &str) -> Vec<Turn> {
        std::iter::from_fn(|| turns.try_take(name, false)).collect()
    }

    #[test]
    fn whoever_asks_leaves_something_to_whoever_comes_next() {
        let turns = Turns::default();
        let held: Vec<_> = ["a", "b", "c", "d"].map(|name| all_of(&turns, name)).into();
        let numbers: Vec<_> = held.iter().map(Vec::len).collect();
        assert_eq!(numbers, [15, 8, 4, 2]);
        assert!(turns.try_take("e", false).is_some());
        assert!(turns.try_take("a", false).is_none());
    }

    #[test]
    fn two_places_are_for_administrators_of_this_machine() {
        let turns = Turns::default();
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let held: Vec<_> = names.iter().flat_map(|name| all_of(&turns, name)).collect();
        assert_eq!(held.len(), ALL - KEPT);
        let root: Vec<_> = std::iter::from_fn(|| turns.try_take("root", true)).collect();
        assert_eq!(root.len(), KEPT);
        drop(held);
        assert!(turns.try_take("0", false).is_some());
    }

    #[tokio::test]
    async fn who_waits_gets_what_becomes_free() {
        let turns = Turns::default();
        let mut held = all_of(&turns, "a");
        let (own, again) = (turns.clone(), tokio::sync::oneshot::channel());
        let waits = tokio::spawn(async move {
            let turn = own.take("a", false).await;
            let _ = again.0.send(());
            turn
        });
        tokio::task::yield_now().await;
        held.pop();
        again.1.await.expect("it gets its turn");
        drop(waits.await.expect("it ends"));
        drop(held);
        assert!(turns.taken().is_empty());
    }
}
