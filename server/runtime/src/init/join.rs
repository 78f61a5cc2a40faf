//! Entering the namespaces of a process that exists.
//!
//! From here on others may own what this process sees: nothing is looked up, loaded or executed in
//! there but what the plan asks for.

use rustix::{
    process::{chroot, fchdir},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use super::{
    PlanFds, confine,
    failure::{ALL_NAMESPACES, At as _, Fail, HOST_MOUNTS, TARGET_ROOT},
    tools,
};
use crate::plan::{JoinPlan, NsType, Step};

/// Joins the target's namespaces, in one call, and takes its root. The pid namespace among them holds for
/// the clone that is to come. `owner`: the ids that stand for root in the target's user namespace.
///
/// The kernel checks every one of them against the rights that this process has at the call, also
/// where a user namespace is among them, so that the order is its own care; joining that namespace
/// then grants every capability in it, and none outside.
pub(super) fn enter(join: &JoinPlan, owner: (u32, u32), fds: &PlanFds) -> Result<(), Fail> {
    // In a user namespace that denies setgroups(2) they could not be dropped any more.
    confine::drop_groups().at(Step::Credentials)?;
    let set = join.namespaces.iter().fold(ThreadNameSpaceType::empty(), |set, ns| set | ns.set());
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
        confine::become_owner(owner)?;
    }
    tools::settle(tools, fds)
}
