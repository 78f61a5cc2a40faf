//! What waits on its way: output for clients that do not take it, input for processes that do not read it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Where less output than this waits, a reader takes as much at once as serves its speed.
const MUCH_OUTPUT: usize = 16 << 20;
/// The most output that one event carries then,
const MOST: usize = 256 << 10;
/// and where more waits.
const LEAST: usize = 16 << 10;

/// How many bytes wait on behalf of one identity. Clones count together.
#[derive(Debug, Clone)]
pub struct Waiting(Arc<Count>);

#[derive(Debug)]
struct Count {
    bytes: AtomicUsize,
    much: usize,
}

/// Bytes that wait as long as this lives.
#[derive(Debug)]
pub struct Held {
    waiting: Waiting,
    bytes: usize,
}

impl Default for Waiting {
    /// For output.
    fn default() -> Self {
        Waiting::new(MUCH_OUTPUT)
    }
}

impl Waiting {
    /// None wait yet; so many are much.
    pub fn new(much: usize) -> Waiting {
        Waiting(Arc::new(Count { bytes: AtomicUsize::new(0), much }))
    }

    /// Whether so much waits that more is to be added only to where nothing does.
    pub fn is_much(&self) -> bool {
        self.0.bytes.load(Ordering::Relaxed) >= self.0.much
    }

    /// How much output is read at once.
    pub fn piece(&self) -> usize {
        if self.is_much() { LEAST } else { MOST }
    }

    /// Adds bytes that wait from now on.
    pub fn hold(&self, bytes: usize) -> Held {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Held { waiting: self.clone(), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
