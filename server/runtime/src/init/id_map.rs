//! The id map of a new user namespace, written by its parent, which has the rights for it.

use std::{
    fmt::Write as _,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid, fchown, openat},
    io::{Errno, write},
};

use super::{
    ChildStdio, PlanFds,
    confine::is_pipe_or_terminal,
    failure::{At as _, Fail},
};
use crate::{
    plan::{ContainerPlan, IdMap, Step},
    sys::mount::set_id_map,
};

/// Writes the maps of the child's user namespace and lays them on the plan's mounts. setgroups stays
/// allowed: the child takes its groups itself.
pub(super) fn write_maps(pid: i32, container: &ContainerPlan, fds: &PlanFds) -> Result<(), Fail> {
    let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The child is not reaped yet, so that this pid is its own, whether it lives or not.
    let dir = openat(CWD, format!("/proc/{pid}"), dir_flags, Mode::empty()).at(Step::IdMap)?;
    write_map(&dir, "gid_map", &container.gid_maps).at(Step::IdMap)?;
    write_map(&dir, "uid_map", &container.uid_maps).at(Step::IdMap)?;
    if container.idmapped.is_empty() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let user_ns = openat(&dir, "ns/user", flags, Mode::empty()).at(Step::IdMap)?;
    map_mounts(container, fds, user_ns.as_fd())
}

/// Lays the id map of a user namespace on the mounts that the plan names.
pub(super) fn map_mounts(
    container: &ContainerPlan,
    fds: &PlanFds,
    user_ns: BorrowedFd<'_>,
) -> Result<(), Fail> {
    for fd in &container.idmapped {
        fds.borrow(*fd).and_then(|mount| set_id_map(mount, user_ns)).at(Step::IdMap)?;
    }
    Ok(())
}

/// Gives the pipes or the terminal to the root of the new user namespace: in there, nobody else could
/// hand them on to the user.
pub(super) fn give_stdio(stdio: &ChildStdio, container: &ContainerPlan) -> Result<(), Fail> {
    let (Some(uid), Some(gid)) = (root_of(&container.uid_maps), root_of(&container.gid_maps))
    else {
        return Ok(());
    };
    let give = |fd: &OwnedFd| match is_pipe_or_terminal(fd.as_fd())? {
        true => fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
        false => Ok(()),
    };
    match stdio {
        ChildStdio::Pipes { stdin, stdout, stderr } => {
            [stdin, stdout, stderr].into_iter().try_for_each(give)
        }
        ChildStdio::Terminal { slave } => give(slave),
    }
    .at(Step::Stdio)
}

fn write_map(dir: &OwnedFd, name: &str, maps: &[IdMap]) -> Result<(), Errno> {
    let file = openat(dir, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel takes a map in one write, once.
    write(&file, map_text(maps).as_bytes()).map(drop)
}

fn map_text(maps: &[IdMap]) -> String {
    let mut text = String::new();
    for IdMap { inside, outside, count } in maps {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}

/// The outer id of id 0.
fn root_of(maps: &[IdMap]) -> Option<u32> {
    maps.iter().find(|map| map.inside == 0 && map.count > 0).map(|map| map.outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_written_as_the_kernel_reads_it() {
        let maps = [
            IdMap { inside: 1, outside: 100_001, count: 65_535 },
            IdMap { inside: 0, outside: 1000, count: 1 },
        ];
        assert_eq!(map_text(&maps), "1 100001 65535\n0 1000 1\n");
        assert_eq!(root_of(&maps), Some(1000));
        assert_eq!(root_of(&maps[..1]), None);
    }
}
