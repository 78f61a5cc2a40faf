//! Entering the namespaces of a process that exists.
//!
//! From here on others may own what this process sees: nothing is looked up, loaded or executed in
//! there but what the plan asks for.

use std::os::fd::BorrowedFd;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{chroot, fchdir},
    thread::move_into_thread_name_spaces,
};

use super::{
    PlanFds, confine,
    failure::{ALL_NAMESPACES, At as _, Fail, HOST_MOUNTS, TARGET_ROOT},
    tools,
};
use crate::plan::{JoinPlan, JoinedNamespace, NsType, Step};

/// Joins the namespaces that the target was in when it was looked at, wherever it is by now, and takes its root. The
/// pid namespace among them holds for the clone that is to come. `owner`: the ids that stand for root in the target's
/// user namespace.
///
/// The user namespace comes last: joining it grants every capability in it, and none outside, so that this process
/// could join no other any more that does not belong to it.
pub(super) fn enter(join: &JoinPlan, owner: (u32, u32), fds: &PlanFds) -> Result<(), Fail> {
    // In a user namespace that denies setgroups(2) they could not be dropped any more.
    confine::drop_groups().at(Step::Credentials)?;
    if let Some(fd) = join.host_mount_ns.filter(|_| !join.takes(NsType::Mount)) {
        // Before a user namespace is joined: in there this process has no right over the host's.
        fds.borrow(fd)
            .and_then(|fd| move_into_thread_name_spaces(fd, NsType::Mount.set()))
            .at_item(Step::JoinNamespace, HOST_MOUNTS as usize)?;
    }
    for JoinedNamespace { kind, fd } in &join.namespaces {
        let index = NsType::ALL.iter().position(|one| one == kind).unwrap_or_default();
        fds.borrow(*fd)
            .and_then(|fd| move_into_thread_name_spaces(fd, kind.set()))
            .at_item(Step::JoinNamespace, index)?;
    }
    // They outlive it: nothing is begun in what is left of a container, say.
    fds.borrow(join.pidfd)
        .and_then(is_alive)
        .at_item(Step::JoinNamespace, ALL_NAMESPACES as usize)?;
    if let Some(fd) = join.root {
        let take = |fd| fchdir(fd).and_then(|()| chroot("."));
        fds.borrow(fd).and_then(take).at_item(Step::Root, TARGET_ROOT as usize)?;
    }
    let Some(tools) = &join.tools else { return Ok(()) };
    if join.takes(NsType::User) {
        // What is made from here on must have an owner that this user namespace knows.
        confine::become_owner(owner)?;
    }
    let pid_ns = join.namespaces.iter().find(|joined| joined.kind == NsType::Pid);
    let pid_ns = pid_ns.map(|joined| fds.borrow(joined.fd)).transpose().at(Step::Plan)?;
    tools::settle(tools, pid_ns, fds)
}

/// Fails where a process has ended: its pidfd is readable then (pidfd_open(2)).
fn is_alive(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&Timespec::default()))? {
        0 => Ok(()),
        _ => Err(Errno::SRCH),
    }
}
