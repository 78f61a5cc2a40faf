//! The engine of ordinary tests: what is kept, and a fixed number of mutations of it.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{Kept, mutate::mutated};

/// How much of an input that fails is shown, in bytes.
const SHOWN_MAX: usize = 400;

/// Tries all inputs of a target.
pub(crate) fn run(name: &str, runs: u64, kept: &[Kept], one: impl Fn(&[u8])) {
    for (path, input) in kept {
        attempt(name, &path.display().to_string(), input, &one);
    }
    let inputs: Vec<&[u8]> = kept.iter().map(|(_, input)| input.as_slice()).collect();
    for index in 0..runs {
        attempt(name, &format!("mutation {index}"), &mutated(&inputs, index), &one);
    }
}

/// Tries one input. If it fails, it is saved, so that it can be looked at and become part of the corpus.
fn attempt(name: &str, what: &str, input: &[u8], one: &impl Fn(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| one(input))).is_ok() {
        return;
    }
    let path = env::temp_dir().join(format!("conti-fuzz-{name}-{}", std::process::id()));
    let saved = match fs::write(&path, input) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("nowhere: {error}"),
    };
    let shown = input[..input.len().min(SHOWN_MAX)].escape_ascii();
    panic!("{name} fails on {what}, {} bytes, saved at {saved}: {shown}", input.len());
}
