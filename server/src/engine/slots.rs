//! Monitors that are made ready before anybody needs them.
//!
//! With version 1 cgroups, attaching a process waits for an RCU grace period of up to 15 ms. So it
//! is never done while a client waits, where that can be helped: a slot holds the cgroups of a
//! container to come and a monitor whose forker is attached to them already; and every running
//! container holds such a monitor for its next exec. With version 2 alone a slot is just as
//! useful (its cgroups are made and its monitor is forked), only cheaper.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use conti_runtime::protocol::FromMonitor;
use tokio::sync::Notify;
use tracing::warn;

use super::{
    cgroup::{Cgroup, Cgroups},
    id,
    launcher::Launcher,
    monitor::Monitor,
};

/// How many slots are kept ready.
const READY: usize = 3;

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
    ready: Mutex<Vec<Slot>>,
    taken: Notify,
    closed: AtomicBool,
}

impl Slots {
    /// Makes an empty store; `keep_filled` fills it.
    pub fn new(launcher: Arc<Launcher>, cgroups: Arc<Cgroups>) -> Slots {
        Slots {
            launcher,
            cgroups,
            ready: Mutex::new(Vec::new()),
            taken: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        self.lock().len()
    }

    /// Keeps slots ready, until they are closed.
    pub async fn keep_filled(&self) {
        while !self.closed.load(Ordering::Acquire) {
            while self.lock().len() < READY {
                match self.make().await {
                    Ok(slot) => {
                        let mut ready = self.lock();
                        if self.closed.load(Ordering::Acquire) {
                            drop(ready);
                            return give_back(slot);
                        }
                        ready.push(slot);
                    }
                    Err(error) => {
                        warn!(%error, "a slot could not be made ready");
                        break;
                    }
                }
            }
            self.taken.notified().await;
        }
    }

    /// Takes a slot, or makes one where none is ready.
    pub async fn take(&self) -> io::Result<Slot> {
        let ready = self.lock().pop();
        self.taken.notify_one();
        match ready {
            Some(slot) => Ok(slot),
            None => self.make().await,
        }
    }

    /// Makes a monitor for one more process in cgroups that exist; `None`: in those of the agent.
    pub async fn monitor_in(&self, cgroup: Option<&Cgroup>) -> io::Result<Monitor> {
        let procs = match cgroup {
            Some(cgroup) => cgroup.procs_files()?,
            None => Vec::new(),
        };
        self.monitor_with(&procs).await
    }

    /// Makes a monitor whose process is attached to these `cgroup.procs` files.
    pub async fn monitor_with(&self, procs: &[std::os::fd::OwnedFd]) -> io::Result<Monitor> {
        let monitor = self.launcher.spawn_monitor(procs).await?;
        match monitor.receive().await? {
            Some((FromMonitor::Prepared { .. }, _)) => Ok(monitor),
            Some((FromMonitor::NotPrepared { errno }, _)) => {
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Err(io::Error::other("the monitor died before it was ready")),
        }
    }

    async fn make(&self) -> io::Result<Slot> {
        let cgroup = self.cgroups.create(&id::new())?;
        match self.monitor_in(Some(&cgroup)).await {
            Ok(monitor) => Ok(Slot { cgroup, monitor }),
            Err(error) => {
                cgroup.remove();
                Err(error)
            }
        }
    }

    /// Gives all slots back. None are made from here on.
    pub fn close(&self) {
        let mut ready = self.lock();
        self.closed.store(true, Ordering::Release);
        ready.drain(..).for_each(give_back);
        self.taken.notify_one();
    }
}

fn give_back(slot: Slot) {
    drop(slot.monitor);
    slot.cgroup.kill();
    slot.cgroup.remove();
}
