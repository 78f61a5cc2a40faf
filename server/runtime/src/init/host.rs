//! A process on the host's own root with some namespaces of its own.

use std::os::fd::AsFd as _;

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{MountAttrFlags, MountPropagationFlags, mount_change},
    thread::move_into_thread_name_spaces,
};

use super::{
    PlanFds,
    failure::{At as _, Fail, HOST_MOUNTS},
    mounts::{attach, make_fresh},
};
use crate::{
    plan::{HostPlan, NsType, Propagation, Step},
    sys::ns::{loopback_up, unshare_cgroup},
};

/// Joins the host's mount namespace, in which the clone is made.
pub(super) fn enter(host: &HostPlan, fds: &PlanFds) -> Result<(), Fail> {
    fds.borrow(host.mount_ns)
        .and_then(|fd| move_into_thread_name_spaces(fd, NsType::Mount.set()))
        .at_item(Step::JoinNamespace, HOST_MOUNTS as usize)
}

/// Makes of the new namespaces what was asked for.
pub(super) fn settle(host: &HostPlan) -> Result<(), Fail> {
    if host.new.contains(&NsType::Cgroup) {
        unshare_cgroup().at(Step::Clone)?;
    }
    if host.new.contains(&NsType::Net) {
        loopback_up().at(Step::Loopback)?;
    }
    if !host.new.contains(&NsType::Mount) {
        return Ok(());
    }
    if let Some(propagation) = host.propagation {
        let flag = match propagation {
            Propagation::Private => MountPropagationFlags::PRIVATE,
            Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
            Propagation::Shared => MountPropagationFlags::SHARED,
        };
        mount_change("/", flag | MountPropagationFlags::REC).at(Step::Propagation)?;
    }
    if host.mount_proc {
        let mount = || {
            let proc = make_fresh("proc", MountAttrFlags::empty(), None)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let point = openat(CWD, "/proc", flags, Mode::empty())?;
            attach(proc.as_fd(), point.as_fd())
        };
        mount().at(Step::Mount)?;
    }
    Ok(())
}
