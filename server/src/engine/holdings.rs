//! What identities make the agent hold: the specifications of their containers, the records of their sessions, and what
//! these reach. Each part has its limit; this is the one for all of them together.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::{
    Engine,
    error::{Error, Result},
    spec::{ContainerSpec, SessionSpec},
};

/// The most that one identity makes the agent hold, in bytes as [`size`] counts them.
const EACH: usize = 64 << 20;

/// The files that the agent has open for a session: its journal, two bells and its monitor; for a container its terminals,
/// and what is ready for the next command.
const SESSION_FILES: u64 = 6;
/// Those that it has open itself, and for some calls.
const OWN_FILES: u64 = 64;

/// What each identity makes the agent hold.
#[derive(Debug, Default)]
pub struct Holdings(Mutex<HashMap<String, usize>>);

/// Something that is held. It counts until this is dropped.
#[derive(Debug)]
pub struct Holding {
    of: Arc<Holdings>,
    owner: String,
    bytes: Mutex<usize>,
}

impl Holdings {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts something new of an identity, if there is room for it. Another may ask for it, and is not told whose
    /// it is: who starts a container need not be who made it.
    pub fn take(self: &Arc<Self>, owner: Option<&str>, bytes: usize) -> Result<Holding> {
        let mut all = self.lock();
        let held = held(&all, owner.unwrap_or_default());
        if !has_room(held, bytes) {
            return Err(Error::Exhausted {
                what: format!(
                    "what containers and sessions of the one who made this are made of (arguments, environment, labels, \
                     mounts) takes {} KiB of the agent's memory, and this would take {} KiB more, of {} KiB for one \
                     identity; remove containers, end sessions, or give them less (sessions that have ended count as \
                     long as they can be asked for: they go when their container is stopped and removed)",
                    held >> 10,
                    bytes.div_ceil(1 << 10),
                    EACH >> 10
                ),
                errno: libc::EAGAIN,
            });
        }
        Ok(self.add(&mut all, owner, bytes))
    }

    /// Counts something that is there already.
    pub fn note(self: &Arc<Self>, owner: Option<&str>, bytes: usize) -> Holding {
        self.add(&mut self.lock(), owner, bytes)
    }

    /// Whether there is room for what is kept with what an identity has. Others may ask for that, who need not know
    /// whose it is.
    pub fn check(&self, owner: Option<&str>, more: usize) -> Result<()> {
        if has_room(held(&self.lock(), owner.unwrap_or_default()), more) {
            return Ok(());
        }
        Err(Error::Exhausted {
            what: format!(
                "what this is made of is kept with each container and session that could read it, and there is no room for \
                 {} KiB more with those of one identity, which may take {} KiB of the agent's memory; if they are \
                 yours, remove containers or end sessions",
                more.div_ceil(1 << 10),
                EACH >> 10
            ),
            errno: libc::EAGAIN,
        })
    }

    fn add(
        self: &Arc<Self>,
        all: &mut HashMap<String, usize>,
        owner: Option<&str>,
        bytes: usize,
    ) -> Holding {
        let owner = owner.unwrap_or_default().to_owned();
        *all.entry(owner.clone()).or_default() += bytes;
        Holding { of: self.clone(), owner, bytes: Mutex::new(bytes) }
    }
}

fn held(all: &HashMap<String, usize>, owner: &str) -> usize {
    all.get(owner).copied().unwrap_or(0)
}

fn has_room(held: usize, more: usize) -> bool {
    held.saturating_add(more) <= EACH
}

impl Holding {
    /// It has become larger or smaller. What is there already is not refused.
    pub fn set(&self, bytes: usize) {
        let mut now = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.of.lock();
        let held = all.entry(self.owner.clone()).or_default();
        *held = held.saturating_sub(*now) + bytes;
        *now = bytes;
    }

    fn bytes(&self) -> usize {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is held for a session: by whoever started it, and by those who brought more within its reach since.
#[derive(Debug)]
pub struct Shares {
    own: Holding,
    brought: Vec<Holding>,
}

impl Shares {
    /// As it was started.
    pub fn new(own: Holding) -> Shares {
        Shares { own, brought: Vec::new() }
    }

    /// It takes so much now. `by`: who brought what it has become larger by, if not whoever started it.
    pub fn set(&mut self, bytes: usize, by: Option<&str>) {
        let before = self.own.bytes() + self.brought.iter().map(Holding::bytes).sum::<usize>();
        let Some(more) = bytes.checked_sub(before) else {
            return self.own.set(self.own.bytes().saturating_sub(before - bytes));
        };
        match by.filter(|by| *by != self.own.owner) {
            None => self.own.set(self.own.bytes() + more),
            Some(by) => match self.brought.iter().find(|one| one.owner == by) {
                Some(one) => one.set(one.bytes() + more),
                None => self.brought.push(self.own.of.note(Some(by), more)),
            },
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
        let mut all = self.of.lock();
        if all.get(&self.owner) == Some(&0) {
            all.remove(&self.owner);
        }
    }
}

impl Engine {
    /// Counts a container that is to be made, until this is dropped.
    pub fn hold(&self, spec: &ContainerSpec) -> Result<Holding> {
        self.holdings.take(spec.maker.as_deref(), size(spec))
    }

    /// Checks whether there are files for one more session of an identity. Three quarters of the agent's are for
    /// sessions, and each identity may have as many of these as it leaves to others.
    pub(super) fn check_files(&self, owner: Option<&str>) -> Result<()> {
        let (files, most) = most_sessions();
        let most = to_be_started(most);
        let (all, own) = self.registry.count_sessions(owner);
        if own < most.saturating_sub(all) {
            return Ok(());
        }
        Err(Error::Exhausted {
            what: format!(
                "{all} sessions run, {own} of them in the name of the one who made this, and the agent has files for \
                 {most} (of {files} that it may open), of which each identity leaves as many to others as it has; end \
                 some, or give the agent more files (ulimit -n, LimitNOFILE)"
            ),
            errno: libc::EAGAIN,
        })
    }

    /// Checks whether there are files for the sessions that run already, when the agent starts: with too few it would
    /// find some of them and lose others.
    pub(super) fn check_files_for(&self, sessions: usize) -> Result<()> {
        let (files, most) = most_sessions();
        if to_be_started(most) == 0 {
            return Err(Error::Exhausted {
                what: format!(
                    "the agent may open {files} files, with which no container could be started: {LEAST_FILES} is the \
                     least; give it more (ulimit -n, LimitNOFILE)"
                ),
                errno: libc::EMFILE,
            });
        }
        match sessions <= most {
            true => Ok(()),
            false => Err(Error::Exhausted {
                what: format!(
                    "{sessions} sessions run, and the agent has files for {most} (of {files} that it may open); give it \
                     more, as an earlier agent had (ulimit -n, LimitNOFILE): they go on meanwhile"
                ),
                errno: libc::EMFILE,
            }),
        }
    }

    /// Counts a command that is to be started, until this is dropped: its environment goes on to its monitor then.
    pub fn hold_command(&self, spec: &SessionSpec) -> Result<Holding> {
        let process = &spec.process;
        self.holdings
            .take(spec.maker.as_deref(), size(&(&process.argv, &process.env, &process.identity)))
    }
}

/// The least files with which one session can be started.
const LEAST_FILES: u64 = OWN_FILES + 4 * SESSION_FILES;

/// How many of the sessions for which there are files are for containers and commands that are to be started.
fn to_be_started(sessions: usize) -> usize {
    sessions / 4 * 3
}

/// How many files the agent may open, and for how many sessions those are enough.
fn most_sessions() -> (u64, usize) {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = files.saturating_sub(OWN_FILES) / SESSION_FILES;
    (files, usize::try_from(most).unwrap_or(usize::MAX))
}

/// What something takes in memory, about: its text as JSON, and for each string the room that it takes beside its
/// characters.
pub fn size(of: &impl Serialize) -> usize {
    let mut counter = Counter(0);
    // A counter takes all that is written, and what cannot be written is no record either.
    let _ = serde_json::to_writer(&mut counter, of);
    counter.0
}

struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        // A String with its allocation, by the two quotes around it.
        const QUOTE: usize = 24;
        let quotes = text.iter().filter(|byte| **byte == b'"').count();
        self.0 += text.len() + quotes * QUOTE;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_has_so_much_and_gets_it_back() {
        let holdings = Arc::new(Holdings::default());
        let first = holdings.take(Some("alice"), EACH).expect("there is room");
        let refused = holdings.take(Some("alice"), 1).expect_err("it has all").to_string();
        assert!(!refused.contains("alice"), "another may ask: {refused}");
        assert!(refused.contains("remove"), "{refused}");
        assert!(holdings.take(Some("b"), EACH).is_ok());
        first.set(EACH / 2);
        let second = holdings.take(Some("alice"), EACH / 2).expect("there is room again");
        // What is there grows all the same, and is found by the next agent.
        second.set(EACH);
        let third = holdings.note(Some("alice"), EACH);
        drop((first, second));
        let refused = holdings.check(Some("alice"), EACH + 1).expect_err("too much").to_string();
        assert!(!refused.contains("alice"), "another may ask: {refused}");
        assert!(holdings.check(Some("alice"), 1).is_err());
        drop(third);
        assert!(holdings.check(Some("alice"), EACH).is_ok());
        assert!(holdings.lock().is_empty());
    }

    #[test]
    fn a_size_is_no_less_than_what_is_held() {
        let many: Vec<String> = vec![String::new(); 1000];
        assert!(size(&many) >= 1000 * size_of::<String>());
        assert!(size(&"x".repeat(1000)) >= 1000 + size_of::<String>());
    }
}
