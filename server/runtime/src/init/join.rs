//! Entering the namespaces of a process that exists.
//!
//! From here on others may own what this process sees: nothing is looked up, loaded or executed in
//! there but what the plan asks for.

use rustix::{
    io::Errno,
    process::{chroot, fchdir},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use super::{
    PlanFds, confine,
    failure::{ALL_NAMESPACES, At as _, Fail, HOST_MOUNTS, TARGET_ROOT},
    tools,
};
use crate::plan::{JoinPlan, NsType, Step};

/// Joins the target's namespaces, in one call, and takes its root. The pid namespace is joined before
/// the clone ([`enter_pid_namespace`]): it only holds for children.
///
/// The kernel checks every one of them against the rights that this process has at the call, also
/// where a user namespace is among them, so that the order is its own care; joining that namespace
/// then grants every capability in it, and none outside.
pub(super) fn enter(join: &JoinPlan, fds: &PlanFds) -> Result<(), Fail> {
    let wanted = join.namespaces.iter().filter(|ns| **ns != NsType::Pid);
    let set = wanted.fold(ThreadNameSpaceType::empty(), |set, ns| set | ns.set());
    let takes_mounts = join.namespaces.contains(&NsType::Mount);
    if let Some(fd) = join.host_mount_ns.filter(|_| !takes_mounts) {
        // Before a user namespace is joined: in there this process has no right over the host's.
        fds.borrow(fd)
            .and_then(|fd| move_into_thread_name_spaces(fd, NsType::Mount.set()))
            .at_item(Step::JoinNamespace, HOST_MOUNTS as usize)?;
    }
    if !set.is_empty() {
        fds.borrow(join.pidfd)
            .and_then(|fd| move_into_thread_name_spaces(fd, set))
            .at_item(Step::JoinNamespace, ALL_NAMESPACES as usize)?;
    }
    if let Some(fd) = join.root {
        let take = |fd| fchdir(fd).and_then(|()| chroot("."));
        fds.borrow(fd).and_then(take).at_item(Step::Root, TARGET_ROOT as usize)?;
    }
    let Some(tools) = &join.tools else { return Ok(()) };
    if join.namespaces.contains(&NsType::User) {
        // What is made from here on must have an owner that this user namespace knows.
        confine::become_root()?;
    }
    tools::settle(tools, fds)
}

/// Has the children of this process be born in the target's pid namespace, where that is wanted.
pub(super) fn enter_pid_namespace(join: &JoinPlan, fds: &PlanFds) -> Result<(), Fail> {
    if !join.namespaces.contains(&NsType::Pid) {
        return Ok(());
    }
    let index = NsType::ALL.iter().position(|ns| *ns == NsType::Pid).unwrap_or_default();
    let enter = |fd| -> Result<(), Errno> { move_into_thread_name_spaces(fd, NsType::Pid.set()) };
    fds.borrow(join.pidfd).and_then(enter).at_item(Step::JoinNamespace, index)
}
