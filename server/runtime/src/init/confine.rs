//! What a process may do: limits, ids, capabilities, privileges.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::{
    fs::{FileType, Mode, OFlags, fchown, fstat},
    io::{Errno, write},
    process::{DumpableBehavior, Resource, getgroups, getrlimit, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::{
    failure::{At as _, Fail},
    user::Ids,
};
use crate::{
    plan::{Rlimit, Step},
    sys::cred::{new_session_keyring, set_limit},
};

/// Keeps the memory and the fds of this process from those who may trace its children to be. execve
/// makes the command dumpable again.
pub(super) fn undumpable() -> Result<(), Fail> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Step::Credentials)
}

/// Takes the ids that stand for root in the user namespace that this process is in, and keeps its
/// capabilities there.
pub(super) fn become_owner((uid, gid): (u32, u32)) -> Result<(), Fail> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    drop_groups().at(Step::IdMap)?;
    set_thread_res_gid(gid, gid, gid).at(Step::IdMap)?;
    set_thread_res_uid(uid, uid, uid).at(Step::IdMap)?;
    // Changed ids may make a process dumpable again (the sysctl fs.suid_dumpable).
    undumpable()
}

/// Leaves all supplementary groups. A user namespace may deny setgroups(2), which matters only while there
/// are groups to leave (user_namespaces(7), /proc/PID/setgroups).
pub(super) fn drop_groups() -> Result<(), Errno> {
    match set_thread_groups(&[]) {
        Err(Errno::PERM) if getgroups()?.is_empty() => Ok(()),
        other => other,
    }
}

/// A session keyring of its own: without it the host's would be searched from inside.
pub(super) fn keyring() -> Result<(), Fail> {
    match new_session_keyring() {
        // A kernel without keyrings has none to leak.
        Err(Errno::NOSYS) => Ok(()),
        other => other.at(Step::Keyring),
    }
}

/// Sets oom_score_adj through the launcher's own /proc. Without a wish it is 0: what the process
/// would inherit is the launcher's, which guards it from the out-of-memory killer. Where the wish lies
/// below what may be set, the present value, which is the lowest allowed or above it, is kept.
pub(super) fn oom_score_adj(wish: Option<i32>) -> Result<(), Fail> {
    let set = || {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open("/proc/self/oom_score_adj", flags, Mode::empty())?;
        match write(&file, wish.unwrap_or(0).to_string().as_bytes()) {
            Ok(_) | Err(Errno::ACCESS) => Ok(()),
            Err(errno) => Err(errno),
        }
    };
    set().at(Step::OomScoreAdj)
}

/// RLIMIT_NPROC of include/uapi/asm-generic/resource.h.
const PROCESSES: u32 = 6;

/// Sets the resource limits. A stage, which counts as a process of its user, only makes room for that of
/// processes; [`limit_processes`] sets it.
pub(super) fn limits(limits: &[Rlimit], stage: bool) -> Result<(), Fail> {
    for (index, Rlimit { resource, soft, hard }) in limits.iter().enumerate() {
        let (mut soft, mut hard) = (*soft, *hard);
        if stage && *resource == PROCESSES {
            let present = getrlimit(Resource::Nproc);
            soft = soft.max(present.current.unwrap_or(u64::MAX));
            hard = hard.max(present.maximum.unwrap_or(u64::MAX));
        }
        set_limit(*resource, soft, hard).at_item(Step::Rlimit, index)?;
    }
    Ok(())
}

/// Sets the limit of processes of one that is born last.
pub(super) fn limit_processes(limits: &[Rlimit]) -> Result<(), Fail> {
    for (index, limit) in limits.iter().enumerate().filter(|(_, l)| l.resource == PROCESSES) {
        set_limit(limit.resource, limit.soft, limit.hard).at_item(Step::Rlimit, index)?;
    }
    Ok(())
}

/// Gives what stdio is made of to the user, who may then open it again by /dev/stdout or its
/// terminal's name. Only pipes and terminals: anything else could be a file of the host.
pub(super) fn own_stdio(ids: &Ids) -> Result<(), Fail> {
    if ids.uid == 0 {
        return Ok(());
    }
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        match own(fd.as_fd(), ids) {
            // Its owner has no id in this user namespace: it stays as it is, and works by its fd.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(errno) => return Err(errno).at(Step::Stdio),
        }
    }
    Ok(())
}

fn own(fd: BorrowedFd<'_>, ids: &Ids) -> Result<(), Errno> {
    if is_pipe_or_terminal(fd)? { fchown(fd, Some(ids.kernel_uid()), None) } else { Ok(()) }
}

/// Whether an fd is of a pipe or of a pseudo-terminal's slave.
pub(super) fn is_pipe_or_terminal(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = fstat(fd)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => true,
        // Unix98 slaves have the majors 136 to 143.
        FileType::CharacterDevice => (136..=143).contains(&rustix::fs::major(stat.st_rdev)),
        _ => false,
    })
}

/// What this process may have of the capabilities that the plan grants.
pub(super) fn granted(wanted: u64) -> Result<CapabilitySet, Fail> {
    let own = capabilities(None).at(Step::Capabilities)?.permitted;
    Ok(own & CapabilitySet::from_bits_retain(wanted))
}

/// Takes all but these from the bounding set. It needs CAP_SETPCAP and so comes before the ids.
pub(super) fn bound(granted: CapabilitySet) -> Result<(), Fail> {
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        // The kernel answers EINVAL to the first number that it has no capability for.
        let Ok(present) = capability_is_in_bounding_set(one) else { break };
        if present && !granted.contains(one) {
            remove_capability_from_bounding_set(one).at(Step::Capabilities)?;
        }
    }
    Ok(())
}

/// Becomes the user: groups first, while there is the right to.
pub(super) fn become_user(ids: &Ids) -> Result<(), Fail> {
    let (uid, gid) = (ids.kernel_uid(), ids.kernel_gid());
    match ids.groups.is_empty() {
        true => drop_groups().at(Step::Credentials)?,
        false => take_groups(&ids.kernel_groups())?,
    }
    set_thread_res_gid(gid, gid, gid).at_item(Step::Groups, ids.gid as usize)?;
    set_thread_res_uid(uid, uid, uid).at_item(Step::Credentials, ids.uid as usize)
}

/// Takes these supplementary groups. The kernel does not say which of them it refuses.
fn take_groups(groups: &[Gid]) -> Result<(), Fail> {
    let Err(errno) = set_thread_groups(groups) else { return Ok(()) };
    let refused = groups.iter().find(|group| set_thread_groups(&[**group]).is_err());
    let id = refused.or(groups.first()).map_or(0, |group| group.as_raw());
    Err(errno).at_item(Step::Groups, id as usize)
}

/// Keeps these capabilities and no others, none of them inheritable or ambient. A user who is not
/// root keeps none: execve would take them away anyhow, and until then they would let it execute
/// what it may not read.
pub(super) fn capabilities_of(ids: &Ids, granted: CapabilitySet) -> Result<(), Fail> {
    clear_ambient_capability_set().at(Step::Capabilities)?;
    let kept = if ids.uid == 0 { granted } else { CapabilitySet::empty() };
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).at(Step::Capabilities)
}
