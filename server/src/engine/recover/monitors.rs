//! Monitors that live, found by what they hold open: each the directory of its session, in which it leaves the end. So
//! one is known also where neither a record names it nor its socket is there.

use std::{collections::HashMap, os::unix::fs::MetadataExt as _, path::Path};

use conti_runtime::{inspect::process as inspect, own, protocol::ProcessId};

use crate::engine::{bounds, process};

/// The name of a monitor, as the kernel knows it.
pub const MONITOR: &[u8] = b"conti-monitor";

/// Monitors by the device and the inode number of what they hold.
#[derive(Debug, Default)]
pub struct Monitors(HashMap<(u64, u64), ProcessId>);

impl Monitors {
    /// Looks at all that live.
    pub fn look() -> Monitors {
        let pids = inspect::all().into_iter().flatten().map(|(pid, _)| pid);
        let monitors = pids.filter(|pid| process::name(*pid).is_some_and(|name| name == MONITOR));
        Monitors(monitors.flat_map(|pid| held_by(pid).unwrap_or_default()).collect())
    }

    /// The one of a session, by its directory.
    pub fn of(&self, dir: &Path) -> Option<ProcessId> {
        let dir = own::metadata(dir).ok()?;
        self.0.get(&(dir.dev(), dir.ino())).copied()
    }
}

fn held_by(pid: i32) -> Option<Vec<((u64, u64), ProcessId)>> {
    let pinned = inspect::Pinned::open(pid, None).ok()?;
    let fds = own::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let held = fds.filter_map(|fd| own::metadata(fd.ok()?.path()).ok()).filter(|fd| fd.is_dir());
    let held = held.map(|dir| ((dir.dev(), dir.ino()), pinned.id())).collect();
    pinned.still_there().ok()?;
    Some(held)
}

/// The process of a monitor that says nothing, once it runs its command: until then it is the monitor's own program.
pub fn command_of(monitor: ProcessId) -> Option<ProcessId> {
    let program = |pid: i32| {
        let found = own::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((found.dev(), found.ino()))
    };
    let own = program(monitor.pid)?;
    let mut children = bounds::children(monitor).into_iter();
    let pid = children.find(|pid| program(*pid).is_some_and(|other| other != own))?;
    Some(inspect::Pinned::open(pid, None).ok()?.id())
}
