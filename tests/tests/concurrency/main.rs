//! Calls that change one and the same thing, many at once: each is carried out whole or not at all.
//!
//! The agent runs with delays between what it checks and what it does upon that, so that any order of two
//! calls comes up soon. Each pair of kinds of calls is made, half of them of one kind and half of the other.
//!
//! - [`mounts`], [`containers`], [`sessions`], [`records`]: what is changed.

use std::{collections::BTreeMap, pin::Pin};

use conti_proto::v1::{self, target};
use conti_tests::{
    Agent,
    api::{self, Api, session, shell},
    wire::{self, Wire},
};
use tonic::{Code, Status};

mod containers;
mod mounts;
mod records;
mod sessions;

/// How many calls are made at once.
const AT_ONCE: usize = 12;

/// What an agent that waits up to 20 ms at each point is put behind.
fn slowed() -> Agent {
    Agent::start_behind(|_| ["env", "CONTI_TEST_DELAYS=20"].map(Into::into).to_vec())
}

fn of(container: &str) -> Option<v1::Target> {
    Some(v1::Target { target: Some(target::Target::Container(container.to_owned())) })
}

/// A call that is made beside others.
type Call<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// What came of calls: what those returned that were carried out, and how often each code was answered.
struct Answers<T> {
    done: Vec<T>,
    codes: BTreeMap<i32, usize>,
}

impl<T> Answers<T> {
    /// Panics where one was refused for another reason than these.
    fn only(self, codes: &[Code]) -> Vec<T> {
        for code in self.codes.keys() {
            assert!(codes.iter().any(|known| *known as i32 == *code), "{:?}", self.codes);
        }
        self.done
    }
}

/// Makes calls at once. None may fail for a reason that is the agent's own.
async fn at_once<T: Send + 'static>(calls: Vec<Call<T>>) -> Answers<T> {
    let running: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    let mut answers = Answers { done: Vec::new(), codes: BTreeMap::new() };
    for call in running {
        match call.await.expect("no panic") {
            Ok(value) => answers.done.push(value),
            Err(status) => {
                let defects = [Code::Internal, Code::Unknown, Code::Unavailable, Code::DataLoss];
                assert!(!defects.contains(&status.code()), "{status:?}");
                *answers.codes.entry(status.code() as i32).or_insert(0) += 1;
            }
        }
    }
    answers
}

/// Each pair of kinds, each kind with itself as well.
fn pairs<T: Copy>(kinds: &[T]) -> Vec<(T, T)> {
    let with = |at: usize| kinds[at..].iter().map(move |other| (kinds[at], *other));
    (0..kinds.len()).flat_map(with).collect()
}

/// Runs a script in a container: its exit code and what it wrote.
async fn run(api: &mut Api, container: &str, script: &str) -> (i32, String) {
    let open = wire::start(session(container, shell(script)));
    let wire = Wire::open(api, open).await.expect("it runs");
    let all = wire.collect().await;
    (api::exit_code(&all.end), String::from_utf8_lossy(&all.stdout).into_owned())
}

/// What hides and protects parts of /proc is in its place.
async fn covers_are_in_place(api: &mut Api, container: &str) {
    // In a user namespace it is not the cover alone that refuses a write.
    let script = "grep -q ' /proc/sys ro,' /proc/self/mountinfo || echo uncovered; \
                  for file in /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches; do \
                      (: >> $file) 2>/dev/null && echo $file; done; \
                  test -s /proc/kcore && echo kcore; true";
    assert_eq!(run(api, container, script).await, (0, String::new()));
}
