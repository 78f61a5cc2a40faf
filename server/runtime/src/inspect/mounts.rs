//! The mounts that a process sees, and how full they are.

use std::collections::HashSet;

use rustix::fs::{StatVfs, fstatvfs};

use super::{
    answers::Answers,
    process::{self, Pinned, Root},
    question::{Answer, Failure, Mount, MountId, Usage},
};
use crate::{
    mountinfo::{Entry, unescape},
    protocol::ProcessId,
};

/// Answers [`super::question::Question::Mounts`].
pub fn answer(of: ProcessId, usage: bool, answers: &mut Answers<'_>) -> Result<(), Failure> {
    let pinned = Pinned::same(of)?;
    let directory = process::directory(of.pid)?;
    let text = process::mountinfo(&directory).map_err(|error| process::gone(of.pid, &error))?;
    let root = process::root(&directory).map_err(|errno| process::gone(of.pid, &errno.into()))?;
    // What was read so far is its own.
    pinned.still_there()?;
    drop(directory);
    // What another lies on is not looked for: from below, each of 100,000 on one another would be all of the way.
    let covered: HashSet<_> = Entry::all(&text).map(|above| (above.parent, above.point)).collect();
    for entry in Entry::all(&text) {
        let is_covered = covered.contains(&(entry.id, entry.point));
        answers.add(&Answer::Mount(mount(&entry, (!is_covered).then_some(&root), usage)))?;
    }
    Ok(())
}

/// `root`: the root that it is looked for below. `None`: another mount covers it.
fn mount(entry: &Entry<'_>, root: Option<&Root>, usage: bool) -> Mount {
    let point = unescape(entry.point);
    let reached = root.and_then(|root| root.point(&point).ok());
    // The mount that lies on top is found by its path, and this may be another.
    let top = reached.as_ref().and_then(|fd| process::mount_id(fd).ok());
    let top = top.filter(|top| top.id == entry.id);
    let reached = reached.filter(|_| top.is_some());
    Mount {
        id: top.unwrap_or(MountId { id: entry.id, unique: 0 }),
        parent: entry.parent,
        device: device(entry.device),
        root: unescape(entry.root),
        options: entry.options.to_owned(),
        shared: entry.shared,
        master: entry.master,
        propagate_from: entry.propagate_from,
        unbindable: entry.unbindable,
        fs_type: unescape(entry.fs_type),
        source: unescape(entry.source),
        fs_options: unescape(entry.fs_options),
        hidden: reached.is_none(),
        usage: reached.filter(|_| usage).and_then(|fd| fstatvfs(fd).ok()).map(of_filesystem),
        point,
    }
}

fn device(text: &[u8]) -> (u32, u32) {
    let mut numbers = text.split(|byte| *byte == b':').map(|number| {
        std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()).unwrap_or(0)
    });
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Block counts are in units of the fragment size, see statvfs(3).
fn of_filesystem(stat: StatVfs) -> Usage {
    Usage {
        size: stat.f_blocks.saturating_mul(stat.f_frsize),
        free: stat.f_bfree.saturating_mul(stat.f_frsize),
        available: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    }
}
