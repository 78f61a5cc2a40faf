//! Fuzz targets: functions that are fed bytes and must neither panic, nor hang, nor take much memory, nor break
//! what they promise.
//!
//! A target is an ordinary test whose name begins with `fuzz_`, beside the parser that it is for. Its inputs are
//! kept in `fuzz/corpus/NAME`: real samples (`seed-*`, written again by `scripts/fuzz.sh --seeds`) and
//! what once failed (any other name). There are two ways to run it:
//!
//! - under `cargo test` and nextest: the whole corpus, then a fixed number of mutations of it, always the same ones;
//! - under `make fuzz`: libFuzzer, guided by coverage, for as long as one likes.
//!
//! - `memory` counts what a target allocates;
//! - `replay` tries what is kept and what `mutate` makes of it.

#![deny(unsafe_code)]

mod memory;
#[cfg(not(fuzzing_libfuzzer))]
mod mutate;
#[cfg(not(fuzzing_libfuzzer))]
mod replay;

#[cfg(not(fuzzing_libfuzzer))]
pub use mutate::mutated;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// An input that is kept, and its file.
type Kept = (PathBuf, Vec<u8>);

/// Set by `scripts/fuzz.sh --seeds`: the targets write their real samples and do nothing else.
const SEEDS: &str = "CONTI_FUZZ_SEEDS";
/// Bytes that every input may allocate, however short it is.
const ALLOWANCE: u64 = 64 << 10;
/// The longest kept input, in bytes.
const KEPT_MAX: usize = 32 << 10;

/// A function that is fuzzed.
pub struct Target {
    name: &'static str,
    #[cfg_attr(fuzzing_libfuzzer, allow(dead_code))]
    runs: u64,
    memory: u64,
    fixed: u64,
    seeds: Vec<Vec<u8>>,
}

/// Begins the description of the target `name`, whose corpus is `fuzz/corpus/NAME`.
pub fn target(name: &'static str) -> Target {
    Target { name, runs: 3000, memory: 64, fixed: ALLOWANCE, seeds: Vec::new() }
}

impl Target {
    /// Sets how many mutations an ordinary test tries.
    pub fn runs(self, runs: u64) -> Target {
        Target { runs, ..self }
    }

    /// Sets how many bytes an input may allocate for each of its bytes, freed ones included.
    pub fn memory(self, factor: u64) -> Target {
        Target { memory: factor, ..self }
    }

    /// Sets how many bytes every input may allocate, however short it is.
    pub fn fixed_memory(self, bytes: u64) -> Target {
        Target { fixed: bytes, ..self }
    }

    /// Gives real samples. They are taken only when the corpus is made anew.
    pub fn seeds(self, samples: impl FnOnce() -> Vec<Vec<u8>>) -> Target {
        let seeds = if std::env::var_os(SEEDS).is_some() { samples() } else { Vec::new() };
        Target { seeds, ..self }
    }

    /// Runs the target.
    pub fn check(self, run: impl Fn(&[u8])) {
        let dir = corpus().join(self.name);
        if std::env::var_os(SEEDS).is_some() {
            return write_seeds(&dir, &self.seeds).expect("the corpus cannot be written");
        }
        let kept =
            read(&dir).unwrap_or_else(|error| panic!("cannot read {}: {error}", dir.display()));
        assert!(!kept.is_empty(), "{} is empty: run scripts/fuzz.sh --seeds", dir.display());
        // What is made once, for example a compiled pattern, is not counted.
        run(&kept[0].1);
        self.run_engine(&kept, |input| self.measured(input, &run));
    }

    #[cfg(fuzzing_libfuzzer)]
    fn run_engine(&self, _: &[Kept], one: impl Fn(&[u8])) {
        let one = std::panic::AssertUnwindSafe(one);
        bolero::check!(name = self.name).for_each(|input: &[u8]| one(input));
    }

    #[cfg(not(fuzzing_libfuzzer))]
    fn run_engine(&self, kept: &[Kept], one: impl Fn(&[u8])) {
        replay::run(self.name, self.runs, kept, one);
    }

    fn measured(&self, input: &[u8], run: &impl Fn(&[u8])) {
        let before = memory::allocated();
        run(input);
        let taken = memory::allocated() - before;
        let most = self.fixed + self.memory * input.len() as u64;
        assert!(taken <= most, "{} bytes of input allocate {taken}, more than {most}", input.len());
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn read(dir: &Path) -> io::Result<Vec<Kept>> {
    let mut paths =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.into_iter().map(|path| Ok((path.clone(), fs::read(path)?))).collect()
}

fn write_seeds(dir: &Path, seeds: &[Vec<u8>]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("seed-") {
            fs::remove_file(&path)?;
        }
    }
    for (index, seed) in seeds.iter().enumerate() {
        assert!(seed.len() <= KEPT_MAX, "a seed of {} bytes is too large to be kept", seed.len());
        fs::write(dir.join(format!("seed-{index:02}")), seed)?;
    }
    Ok(())
}
