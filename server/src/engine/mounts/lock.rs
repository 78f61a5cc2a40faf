//! Changes of one mount namespace, one at a time.
//!
//! Several targets may share a namespace: so it is the namespace that is locked, by its inode number. Calls of this
//! agent wait for one another in order. The lock itself is one of a file (flock(2)) whose descriptor the inspector
//! has as well that carries a change out: as long as it lives, nobody else changes the namespace, also where its
//! caller has gone, its time is up and it cannot die, or the agent was killed and another one started.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use conti_runtime::{beneath, own};
use rustix::{
    fs::{FlockOperation, OFlags},
    io::Errno,
};
use tokio::time::{Instant, timeout_at};

use crate::engine::{
    error::{Error, Result},
    io_error,
};

/// How long a change waits for another: a little longer than an inspector may be silent.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often it is looked whether an inspector that nobody waits for any more has gone.
const PAUSE: Duration = Duration::from_millis(10);

type Turn = tokio::sync::Mutex<()>;

/// The locks of all mount namespaces.
#[derive(Debug)]
pub struct Locks {
    dir: PathBuf,
    turns: Mutex<HashMap<u64, Weak<Turn>>>,
}

/// The right to change one mount namespace. Dropped, it ends once no inspector has it either.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Locks {
    /// Keeps the files of locks in a directory. Those that an agent left go, where nobody has them.
    pub fn new(dir: PathBuf) -> Locks {
        let entries = own::read_dir(&dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            if path.extension().is_none_or(|end| end != "lock") {
                continue;
            }
            let is_file = own::symlink_metadata(&path).is_ok_and(|found| found.is_file());
            if !is_file || matches!(lock(&path), Ok(Some(_))) {
                let _ = beneath::remove(&path);
            }
        }
        Locks { dir, turns: Mutex::default() }
    }

    fn turn(&self, namespace: u64) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&namespace).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::<Turn>::default();
        turns.insert(namespace, Arc::downgrade(&turn));
        turn
    }

    /// Waits for the lock of a mount namespace. It fails with EBUSY where another change takes too long.
    pub async fn take(&self, namespace: u64) -> Result<Lock> {
        let deadline = Instant::now() + PATIENCE;
        let busy = || Error::Exhausted {
            what: format!(
                "another change of these mounts has not ended for {}: does a filesystem in the target hang?",
                humantime::format_duration(PATIENCE)
            ),
            errno: libc::EBUSY,
        };
        let turn = timeout_at(deadline, self.turn(namespace).lock_owned()).await;
        let turn = turn.map_err(|_| busy())?;
        let path = self.dir.join(format!("{namespace}.lock"));
        while Instant::now() < deadline {
            match lock(&path).map_err(io_error("cannot lock a mount namespace"))? {
                Some(file) => return Ok(Lock { path, file, _turn: turn }),
                None => tokio::time::sleep(PAUSE).await,
            }
        }
        Err(busy())
    }
}

/// Locks a file, which is made where it is missing. `None`: somebody has it, or it was removed meanwhile.
fn lock(path: &PathBuf) -> io::Result<Option<File>> {
    let file = own::open_with(path, OFlags::WRONLY | OFlags::CREATE, 0o600)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((file.metadata()?.nlink() > 0).then_some(file)),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

impl Lock {
    /// The same lock, for an inspector.
    pub fn share(&self) -> Result<OwnedFd> {
        let file = self.file.try_clone().map_err(io_error("cannot duplicate a file descriptor"))?;
        Ok(file.into())
    }

    /// Gives it back with its file. Only where no inspector has it any more: who waits would else make another.
    pub fn release(self) {
        let _ = own::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_shares_a_lock_holds_it_until_it_has_gone_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("7.lock");
        let locks = Locks::new(dir.path().to_owned());
        let first = locks.take(7).await.expect("it is free");
        let shared = first.share().expect("it can be shared");
        locks.take(8).await.expect("another namespace").release();
        drop(first);
        // Also for an agent that was started meanwhile, which knows nothing of its turns.
        assert!(lock(&path).expect("it can be tried").is_none());
        drop(shared);
        locks.take(7).await.expect("it is free again").release();
        assert!(!path.exists(), "nothing is left of it");
    }
}
