//! Names that the agent makes.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
};

use conti_runtime::own;
const FIRST: [&str; 24] = [
    "amber", "brisk", "calm", "clear", "deft", "eager", "fleet", "gentle", "hardy", "keen",
    "level", "light", "mellow", "neat", "noble", "plain", "prime", "quick", "quiet", "sound",
    "steady", "swift", "tidy", "warm",
];

const SECOND: [&str; 24] = [
    "anchor", "basin", "beacon", "bridge", "canal", "cove", "delta", "dock", "ferry", "fjord",
    "gull", "harbor", "inlet", "island", "lagoon", "mast", "pier", "quay", "reef", "river", "sail",
    "shore", "tide", "wharf",
];

/// Makes a name for a container that was given none.
pub fn new(is_free: impl Fn(&str) -> bool) -> String {
    for _ in 0..16 {
        let (first, second) =
            (rand::random_range(0..FIRST.len()), rand::random_range(0..SECOND.len()));
        let name = format!("{}-{}", FIRST[first], SECOND[second]);
        if is_free(&name) {
            return name;
        }
    }
    // Many containers: then a name is no more to remember than a number.
    format!("c-{}", &super::id::new()[..12])
}

/// A short name for a state directory, the same at each start.
pub fn tag(state_dir: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    own::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned()).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
