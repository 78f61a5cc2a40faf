//! What waits for clients that do not take it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Where less than this waits, a reader takes as much at once as serves its speed.
const MUCH: usize = 16 << 20;
/// The most output that one event carries then,
const MOST: usize = 256 << 10;
/// and where more waits.
const LEAST: usize = 16 << 10;

/// How many bytes wait for the clients of one identity. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Whether so much waits that more is to be added only to where nothing does.
    pub fn is_much(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= MUCH
    }

    /// How much output is read at once.
    pub fn piece(&self) -> usize {
        if self.is_much() { LEAST } else { MOST }
    }

    /// Adds bytes that wait from now on.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes away bytes that were added.
    pub fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}
