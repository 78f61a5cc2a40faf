//! Monitors that are made ready before anybody needs them.
//!
//! With version 1 cgroups, attaching a process waits for an RCU grace period of up to 15 ms. So it
//! is never done while a client waits, where that can be helped: a slot holds the cgroups of a
//! container to come and a monitor whose forker is attached to them already; and every running
//! container holds such a monitor for its next exec. With version 2 alone a slot is just as
//! useful (its cgroups are made and its monitor is forked), only cheaper.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};
use tracing::warn;

use super::{
    bounds::{self, blocking},
    cgroup::{Cgroup, Cgroups},
    error::Result,
    id, io_error,
    launcher::Launcher,
    monitor::Monitor,
};

/// How many slots are kept ready.
const READY: usize = 3;

/// How soon it is tried again to make one where that failed, and the longest pause between attempts.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// How many monitors are made ready for running containers at once. Each takes a file for each hierarchy of cgroups
/// meanwhile, and an agent that was started again makes one for every container.
const SPARES_AT_ONCE: usize = 2;

/// Room for one container: its cgroups and its monitor, waiting for a plan.
#[derive(Debug)]
pub struct Slot {
    /// Its cgroups.
    pub cgroup: Cgroup,
    /// Its monitor.
    pub monitor: Monitor,
}

/// The slots that are ready.
#[derive(Debug)]
pub struct Slots {
    launcher: Arc<Launcher>,
    cgroups: Arc<Cgroups>,
    /// The oldest is taken first: one that has died is met, and replaced.
    ready: Mutex<VecDeque<Slot>>,
    taken: Notify,
    closed: AtomicBool,
    spares: Semaphore,
}

impl Slots {
    /// Makes an empty store; `keep_filled` fills it.
    pub fn new(launcher: Arc<Launcher>, cgroups: Arc<Cgroups>) -> Slots {
        Slots {
            launcher,
            cgroups,
            ready: Mutex::default(),
            taken: Notify::new(),
            closed: AtomicBool::new(false),
            spares: Semaphore::new(SPARES_AT_ONCE),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Slot>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        self.lock().len()
    }

    /// Keeps slots ready, until they are closed.
    pub async fn keep_filled(&self) {
        let mut pause = AGAIN;
        while !self.closed.load(Ordering::Acquire) {
            while self.lock().len() < READY {
                match self.make().await {
                    Ok(slot) => {
                        pause = AGAIN;
                        if let Some(late) = self.keep(slot) {
                            return give_back(late).await;
                        }
                    }
                    Err(error) => {
                        warn!(%error, "a slot could not be made ready");
                        break;
                    }
                }
            }
            if self.lock().len() < READY {
                let _ = timeout(pause, self.taken.notified()).await;
                pause = (pause * 2).min(AGAIN_MAX);
            } else {
                self.taken.notified().await;
            }
        }
    }

    /// Keeps a slot for later; returns it where none are kept any more.
    fn keep(&self, slot: Slot) -> Option<Slot> {
        let mut ready = self.lock();
        if self.closed.load(Ordering::Acquire) {
            return Some(slot);
        }
        ready.push_back(slot);
        None
    }

    /// Takes a slot, or makes one where none is ready. One whose processes somebody has stopped or killed is given back.
    pub async fn take(&self) -> Result<Slot> {
        loop {
            let ready = self.lock().pop_front();
            self.taken.notify_one();
            match ready {
                Some(slot) if slot.monitor.is_able(&self.cgroups) => return Ok(slot),
                Some(slot) => {
                    warn!(
                        cgroup = slot.cgroup.name,
                        "a slot is dead, stopped or frozen: it is given up"
                    );
                    slot.monitor.discard();
                    tokio::spawn(remove(slot.cgroup));
                }
                None => return self.make().await,
            }
        }
    }

    /// Makes a monitor for one more process in cgroups that exist; `None`: in those of the agent.
    pub async fn monitor_in(&self, cgroup: Option<&Cgroup>) -> Result<Monitor> {
        let procs = match cgroup {
            Some(cgroup) => cgroup.procs_files().map_err(io_error("cannot open the cgroup"))?,
            None => Vec::new(),
        };
        self.monitor_with(procs).await
    }

    /// Makes a monitor in the cgroups of a running container that nobody waits for.
    pub async fn spare_in(&self, cgroup: &Cgroup) -> Result<Monitor> {
        let _turn = self.spares.acquire().await;
        self.monitor_in(Some(cgroup)).await
    }

    /// Makes a monitor whose process is attached to these `cgroup.procs` files.
    pub async fn monitor_with(&self, procs: Vec<OwnedFd>) -> Result<Monitor> {
        self.launcher.spawn_monitor(procs).await
    }

    async fn make(&self) -> Result<Slot> {
        let (cgroups, name) = (self.cgroups.clone(), id::new());
        let made = blocking(bounds::CGROUPS, "cannot make cgroups", move || cgroups.create(&name));
        let cgroup = made.await?.map_err(io_error("cannot make cgroups"))?;
        match self.monitor_in(Some(&cgroup)).await {
            Ok(monitor) => Ok(Slot { cgroup, monitor }),
            Err(error) => {
                // A monitor that is left over has closed its socket, and what waits in the cgroup is killed.
                remove(cgroup).await;
                Err(error)
            }
        }
    }

    /// Gives all slots back. None are made from here on.
    pub async fn close(&self) {
        let ready = {
            let mut ready = self.lock();
            self.closed.store(true, Ordering::Release);
            std::mem::take(&mut *ready)
        };
        self.taken.notify_one();
        join_all(ready.into_iter().map(give_back)).await;
    }
}

async fn give_back(slot: Slot) {
    drop(slot.monitor);
    remove(slot.cgroup).await;
}

/// Removes cgroups with what is in them. What cannot be removed now the next agent finds.
async fn remove(cgroup: Cgroup) {
    let name = cgroup.name.clone();
    let removed = blocking(bounds::CGROUPS, "cannot remove cgroups", move || {
        cgroup.kill();
        cgroup.remove()
    });
    if !matches!(removed.await, Ok(true)) {
        warn!(cgroup = name, "the cgroups of a slot are not removed yet");
    }
}
