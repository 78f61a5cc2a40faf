//! How many inspectors there are at one time, of all and of one container.
//!
//! One that was given up is killed, but not gone while a filesystem holds it in the kernel (a FUSE mount whose server
//! has taken the request and never answers). That lasts for as long as the server, so such a one keeps its place
//! among those of its container, however often that is started, and the container is there until it is gone: repeated
//! looks cannot fill the host with them.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
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
/// How many of them look into one container, those included that were killed and are there still.
const IN_ONE_CONTAINER: usize = 16;
/// How long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives out the turns.
#[derive(Debug)]
pub struct Inspectors {
    all: Arc<Semaphore>,
    containers: Mutex<HashMap<String, Weak<Places>>>,
}

/// The inspectors of one container.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    /// The pids of those that were killed and are there still.
    hanging: Mutex<Vec<i32>>,
}

/// The right to run one inspector.
#[derive(Debug)]
pub struct Turn {
    _one_of_all: OwnedSemaphorePermit,
    in_container: Option<(OwnedSemaphorePermit, Arc<Places>)>,
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
    /// There was none for half a minute.
    pub async fn turn(&self, container: Option<&str>) -> Result<Turn> {
        // The one of the container first: whoever waits for that takes nothing from others.
        let in_container = match container {
            Some(container) => {
                let places = self.of(container);
                let permit = permit(places.free.clone(), || {
                    format!(
                        "{IN_ONE_CONTAINER} questions about this container are being answered already, or hang at one of \
                         its filesystems; end what serves that, or read the answers"
                    )
                });
                Some((permit.await?, places))
            }
            None => None,
        };
        let busy = || format!("{AT_ONCE} answers are being given already; read or end them");
        let one_of_all = permit(self.all.clone(), busy).await?;
        Ok(Turn { _one_of_all: one_of_all, in_container })
    }

    /// How many are at work.
    pub fn at_work(&self) -> usize {
        AT_ONCE.saturating_sub(self.all.available_permits())
    }

    /// An inspector that was killed and still looks into a container: it has ids of that.
    pub fn hanging_in(&self, container: &str) -> Option<i32> {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        let places = containers.get(container).and_then(Weak::upgrade)?;
        places.hanging().first().copied()
    }

    fn of(&self, container: &str) -> Arc<Places> {
        let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = containers.get(container).and_then(Weak::upgrade) {
            return known;
        }
        containers.retain(|_, one| one.strong_count() > 0);
        let free = Arc::new(Semaphore::new(IN_ONE_CONTAINER));
        let new = Arc::new(Places { free, hanging: Mutex::default() });
        containers.insert(container.to_owned(), Arc::downgrade(&new));
        new
    }
}

impl Places {
    fn hanging(&self) -> MutexGuard<'_, Vec<i32>> {
        self.hanging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Keeps the place in the container until a process that was killed is gone.
    pub fn keep_until_gone(&mut self, pid: i32, killed: OwnedFd) {
        let Some((place, of)) = self.in_container.take() else { return };
        of.hanging().push(pid);
        tokio::spawn(async move {
            // A pidfd is readable once its process has ended (pidfd_open(2)). One that cannot be watched is not
            // waited for.
            if let Ok(killed) = watched(killed) {
                let _ = killed.readable().await;
            }
            of.hanging().retain(|other| *other != pid);
            drop(place);
        });
    }
}

async fn permit(of: Arc<Semaphore>, busy: impl Fn() -> String) -> Result<OwnedSemaphorePermit> {
    match timeout(PATIENCE, of.acquire_owned()).await {
        Ok(permit) => permit.map_err(|_| Error::Stopping),
        Err(_) => Err(Error::Exhausted { what: busy(), errno: libc::EBUSY }),
    }
}
