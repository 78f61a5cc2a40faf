//! The id map of a new user namespace, written by its parent, which has the rights for it.

use std::{
    fmt::Write as _,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat},
    io::{Errno, write},
};

use super::{
    ChildStdio, PlanFds,
    confine::is_pipe_or_terminal,
    failure::{At as _, Fail},
};
use crate::{
    host,
    plan::{ContainerPlan, IdMap, NsType, Place, Plan, Step},
    sys::mount::set_id_map,
};

/// Writes the maps of the child's user namespace and lays them on the plan's mounts. setgroups stays
/// allowed: the child takes its groups itself.
pub(super) fn write_maps(
    pid: i32,
    (uid_maps, gid_maps): (&[IdMap], &[IdMap]),
    place: &Place,
    fds: &PlanFds,
) -> Result<(), Fail> {
    let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The child is not reaped yet, so that this pid is its own, whether it lives or not.
    let dir = openat(CWD, format!("/proc/{pid}"), dir_flags, Mode::empty()).at(Step::IdMap)?;
    write_map(&dir, "gid_map", gid_maps).at(Step::IdMap)?;
    write_map(&dir, "uid_map", uid_maps).at(Step::IdMap)?;
    let container = match place {
        Place::Container(container) if !container.idmapped.is_empty() => container,
        _ => return Ok(()),
    };
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
    for (index, fd) in container.idmapped.iter().enumerate() {
        let mapped = fds.borrow(*fd).and_then(|mount| set_id_map(mount, user_ns));
        // 0 is the map itself.
        mapped.at_item(Step::IdMap, index + 1)?;
    }
    Ok(())
}

/// Who stands for root in the user namespace that a process will be in: id 0, or the first id where that
/// one is not mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// User and group, seen from inside.
    pub inside: (u32, u32),
    /// The same, seen from here. `None` where it is the host's root, or has no id here.
    outside: Option<(u32, u32)>,
    /// Its groups.
    groups: Vec<IdMap>,
}

/// The owner of what a plan's process is given and makes.
pub(super) fn owner(plan: &Plan, fds: &PlanFds) -> Result<Owner, Fail> {
    let maps = match &plan.place {
        Place::Container(_) | Place::Host(_) => {
            plan.place.id_maps().map(|(uids, gids)| (uids.to_vec(), gids.to_vec()))
        }
        Place::Join(join) if join.namespaces.contains(&NsType::User) => {
            Some(fds.borrow(join.pidfd).and_then(maps_of_process).at(Step::IdMap)?)
        }
        Place::Join(_) => None,
    };
    let Some((uids, gids)) = maps else {
        return Ok(Owner { inside: (0, 0), outside: None, groups: Vec::new() });
    };
    let (uid, gid) = (first(&uids), first(&gids));
    let known = |id: u32| Some(id).filter(|id| *id != u32::MAX);
    let outside = known(uid.1).zip(known(gid.1));
    Ok(Owner { inside: (uid.0, gid.0), outside, groups: gids })
}

/// Whether an id of here has one in there.
fn is_mapped(maps: &[IdMap], id: u32) -> bool {
    maps.iter().any(|map| id.checked_sub(map.outside).is_some_and(|above| above < map.count))
}

/// Id 0 of a map, or the first one: inside and outside. Without a map 0, which nothing can be made of.
fn first(maps: &[IdMap]) -> (u32, u32) {
    let root = maps.iter().find(|map| map.inside == 0 && map.count > 0);
    let lowest = || maps.iter().filter(|map| map.count > 0).min_by_key(|map| map.inside);
    root.or_else(lowest).map_or((0, u32::MAX), |map| (map.inside, map.outside))
}

/// Gives the pipes or the terminal to the owner in the user namespace that the process will be in: in
/// there, nobody else could hand them on to the user. Nothing is changed where that owner has no id here.
///
/// A terminal keeps its group, which may write to it: that of terminals. Where that one has no id in there, the
/// owner's takes its place, without the right.
pub(super) fn give_stdio(stdio: &ChildStdio, owner: &Owner) -> Result<(), Fail> {
    let Some((uid, gid)) = owner.outside else { return Ok(()) };
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let give = |fd: &OwnedFd| match is_pipe_or_terminal(fd.as_fd())? {
        true => fchown(fd, uid, gid),
        false => Ok(()),
    };
    let give_terminal = |fd: &OwnedFd| {
        if is_mapped(&owner.groups, fstat(fd)?.st_gid) {
            return fchown(fd, uid, None);
        }
        fchmod(fd, Mode::RUSR | Mode::WUSR)?;
        fchown(fd, uid, gid)
    };
    match stdio {
        ChildStdio::Pipes { stdin, stdout, stderr } => {
            [stdin, stdout, stderr].into_iter().try_for_each(give)
        }
        ChildStdio::Terminal { slave } => give_terminal(slave),
    }
    .at(Step::Stdio)
}

/// The id maps of a process's user namespace. What is read belongs to the process behind the pidfd if that
/// still lives afterwards; if it does not, joining it fails anyhow.
fn maps_of_process(pidfd: BorrowedFd<'_>) -> Result<(Vec<IdMap>, Vec<IdMap>), Errno> {
    let info = read_proc(&format!("self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<u32>().ok());
    let pid = pid.ok_or(Errno::SRCH)?;
    let maps = |name: &str| read_proc(&format!("{pid}/{name}")).map(|text| parse_map(&text));
    Ok((maps("uid_map")?, maps("gid_map")?))
}

fn read_proc(path: &str) -> Result<String, Errno> {
    let text = host::read_to_string(format!("/proc/{path}"));
    text.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::SRCH))
}

pub(super) fn parse_map(text: &str) -> Vec<IdMap> {
    let parse = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(IdMap { inside: next()?, outside: next()?, count: next()? })
    };
    text.lines().filter_map(parse).collect()
}

fn write_map(dir: &OwnedFd, name: &str, maps: &[IdMap]) -> Result<(), Errno> {
    let file = openat(dir, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel takes a map in one write, once.
    write(&file, map_text(maps).as_bytes()).map(drop)
}

pub(super) fn map_text(maps: &[IdMap]) -> String {
    let mut text = String::new();
    for IdMap { inside, outside, count } in maps {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
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
        assert_eq!(parse_map("         1     100001      65535\n 0 1000 1\n"), maps);
        assert_eq!(parse_map("1\nx y z\n"), []);
        assert_eq!(first(&maps), (0, 1000));
        assert_eq!(first(&maps[..1]), (1, 100_001));
        assert_eq!(first(&[]), (0, u32::MAX));
        let known = [999, 1000, 1001, 100_000, 100_001, 165_535, 165_536];
        let known = known.map(|id| is_mapped(&maps, id));
        assert_eq!(known, [false, true, false, false, true, true, false]);
    }
}
