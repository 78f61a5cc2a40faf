//! How many inspectors there are at one time, and which look into one container.
//!
//! One that was given up is killed, but not gone while a filesystem holds it in the kernel (a FUSE mount whose server
//! has taken the request and never answers). That lasts for as long as the server, so there may be only so many of
//! them in one container, however often that is started: repeated looks cannot fill the host with them.
//!
//! An inspector has ids of the container that it looks into, and is in its namespaces: none outlives it.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, pidfd_send_signal},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    error::{Error, Result},
    watched::watched,
};

/// How many inspectors run at one time; others wait. 32 questions are answered at a time, and some inspectors prepare
/// what is mounted.
const AT_ONCE: usize = 40;
/// How many were killed and are there still, of one container, until it is looked into no more.
const HANGING: usize = 16;
/// How long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives out the turns.
#[derive(Debug)]
pub struct Inspectors {
    all: Arc<Semaphore>,
    containers: Mutex<HashMap<String, Weak<InContainer>>>,
}

/// The inspectors of one container that are not gone.
#[derive(Debug, Default)]
struct InContainer(Mutex<Vec<Looking>>);

#[derive(Debug)]
struct Looking {
    pid: i32,
    process: OwnedFd,
    /// Whether it was killed, and only the kernel keeps it.
    killed: bool,
}

/// The right to run one inspector.
#[derive(Debug)]
pub struct Turn {
    _one_of_all: OwnedSemaphorePermit,
    container: Option<Arc<InContainer>>,
}

impl Default for Inspectors {
    fn default() -> Inspectors {
        let all = Arc::new(Semaphore::new(AT_ONCE));
        Inspectors { all, containers: Mutex::default() }
    }
}

impl Inspectors {
    /// Waits for a turn. `container`: the one that is looked into, by its id.
    ///
    /// # Errors
    ///
    /// There was none for half a minute, or too many hang in the container.
    pub async fn turn(&self, container: Option<&str>) -> Result<Turn> {
        let container = container.map(|container| self.of(container));
        let hanging = container.as_ref().map(|container| container.hanging()).unwrap_or_default();
        if let Some(first) = hanging.first().filter(|_| hanging.len() >= HANGING) {
            return Err(Error::Exhausted {
                what: format!(
                    "{} questions about this container hang at one of its filesystems, the first in process {first}; end \
                     what serves that",
                    hanging.len()
                ),
                errno: libc::EBUSY,
            });
        }
        let busy = || format!("{AT_ONCE} answers are being given already; read or end them");
        let one_of_all = permit(self.all.clone(), busy).await?;
        Ok(Turn { _one_of_all: one_of_all, container })
    }

    /// How many are at work.
    pub fn at_work(&self) -> usize {
        AT_ONCE.saturating_sub(self.all.available_permits())
    }

    /// Kills what looks into a container that has ended.
    pub fn kill_in(&self, container: &str) {
        if let Some(known) = self.known(container) {
            known.all().iter_mut().for_each(Looking::kill);
        }
    }

    /// An inspector that looks into a container, be it that it was killed: it has ids of that.
    pub fn looks_into(&self, container: &str) -> Option<i32> {
        self.known(container)?.all().iter().find(|one| one.is_there()).map(|one| one.pid)
    }

    fn known(&self, container: &str) -> Option<Arc<InContainer>> {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        containers.get(container).and_then(Weak::upgrade)
    }

    fn of(&self, container: &str) -> Arc<InContainer> {
        let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = containers.get(container).and_then(Weak::upgrade) {
            return known;
        }
        containers.retain(|_, one| one.strong_count() > 0);
        let new = Arc::new(InContainer::default());
        containers.insert(container.to_owned(), Arc::downgrade(&new));
        new
    }
}

impl InContainer {
    fn all(&self) -> MutexGuard<'_, Vec<Looking>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pids of those that were killed and are there still.
    fn hanging(&self) -> Vec<i32> {
        let all = self.all();
        all.iter().filter(|one| one.killed && one.is_there()).map(|one| one.pid).collect()
    }

    fn forget(&self, pid: i32) {
        self.all().retain(|one| one.pid != pid);
    }
}

impl Looking {
    fn kill(&mut self) {
        // One that has ended needs no signal.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        self.killed = true;
    }

    /// A pidfd is readable once its process has ended (pidfd_open(2)).
    fn is_there(&self) -> bool {
        let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
    }
}

impl Turn {
    /// The inspector is there. It has nothing of the container yet.
    pub fn began(&self, pid: i32, process: &OwnedFd) -> io::Result<()> {
        if let Some(container) = &self.container {
            let process = process.try_clone()?;
            container.all().push(Looking { pid, process, killed: false });
        }
        Ok(())
    }

    /// It has given all its answers, and ends by itself.
    pub fn answered(&self, pid: i32) {
        if let Some(container) = &self.container {
            container.forget(pid);
        }
    }

    /// It was killed, and is of its container until it is gone.
    pub fn given_up(&self, pid: i32, process: OwnedFd) {
        let Some(container) = self.container.clone() else { return };
        for one in container.all().iter_mut().filter(|one| one.pid == pid) {
            one.killed = true;
        }
        tokio::spawn(async move {
            // One that cannot be watched is not waited for.
            if let Ok(process) = watched(process) {
                let _ = process.readable().await;
            }
            container.forget(pid);
        });
    }
}

async fn permit(of: Arc<Semaphore>, busy: impl Fn() -> String) -> Result<OwnedSemaphorePermit> {
    match timeout(PATIENCE, of.acquire_owned()).await {
        Ok(permit) => permit.map_err(|_| Error::Stopping),
        Err(_) => Err(Error::Exhausted { what: busy(), errno: libc::EBUSY }),
    }
}
