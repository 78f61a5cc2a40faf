//! The parent's part: what is made before the clone, the clone, and what the child waits for.
//!
//! ```text
//!  user namespace   others joined      who clones
//!  ---------------  -----------------  ----------------------------------------------------------
//!  the host's       by the child       the caller
//!  new              none               the caller; writes the id map while the child waits
//!  new              before the clone   a stage: a process that is used up by it
//!  any, on the      the host's mount   a stage, likewise
//!  host's root      namespace
//!  joined           before the clone   a stage, which joins the user namespace last, so that what
//!                                      the clone makes new belongs to it
//! ```
//!
//! A process that has joined a user namespace has no rights over the namespaces of others any more, and
//! no way back. So the stage does it: a short-lived child of the caller that clones with CLONE_PARENT,
//! or the caller itself where it is a forker and used up anyhow.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    io::{Errno, fcntl_dupfd_cloexec, read, retry_on_intr, write},
    pipe::{PipeFlags, pipe_with},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
    },
    thread::move_into_thread_name_spaces,
};

use super::{
    Birth, Child, ChildStdio, PlanFds,
    child::{self, Start},
    command::Command,
    container::join_all,
    failure::{At as _, Fail},
    host, id_map, join, seccomp,
};
use crate::{
    plan::{ContainerPlan, NsSource, NsType, Overlay, Place, Plan, Root, SetupFailure, Step},
    plan::{Fd, MountWhat},
    sys::{
        clone::{CLONE_PARENT, CloneArgs, Cloned, clone_process, exit_now},
        ns::unshare_time_for_children,
    },
};

/// Starts the process of a plan. The caller has one thread and the launcher's mount namespace. On
/// failure nothing is left but, with [`Birth::Sibling`], perhaps a killed process for the parent to
/// reap.
///
/// A pid or time namespace is joined, or made, through the caller: its later children are in it too.
pub fn spawn(
    plan: &Plan,
    fds: &PlanFds,
    stdio: ChildStdio,
    birth: Birth,
) -> Result<Child, SetupFailure> {
    check_fds(plan, fds)?;
    let command = Command::new(&plan.process)?;
    let filter = match plan.process.confinement.seccomp {
        true => seccomp::filter(plan.process.confinement.capabilities),
        false => Vec::new(),
    };
    let pipes = || -> Result<_, Errno> { Ok((pipe()?, pipe()?, pipe()?)) };
    let ((status, child_status), (child_gate, gate), (child_mapped, mapped)) =
        pipes().at(Step::Stdio).map_err(|fail| fail.describe(plan))?;

    let maps = plan.place.id_maps();
    let start = Start {
        plan,
        fds,
        stdio: &stdio,
        command,
        filter,
        status: child_status.as_fd(),
        gate: child_gate.as_fd(),
        mapped: maps.map(|_| child_mapped.as_fd()),
        joined: false,
    };
    let started = || -> Result<(i32, OwnedFd), Fail> {
        id_map::give_stdio(&stdio, plan, fds)?;
        let (pid, pidfd) = clone_init(start, birth)?;
        if let Some(maps) = maps {
            let written = id_map::write_maps(pid, maps, &plan.place, fds);
            if let Err(fail) = written {
                abandon(&pidfd, birth);
                return Err(fail);
            }
            // A child that is dead already cannot be released; its status pipe says so.
            let _ = write(&mapped, &[1]);
        }
        Ok((pid, pidfd))
    };
    let (pid, pidfd) = started().map_err(|fail| fail.describe(plan))?;
    fcntl_setfl(&status, OFlags::NONBLOCK).at(Step::Stdio).map_err(|fail| fail.describe(plan))?;
    Ok(Child { pid, pidfd, status, gate })
}

/// Clones, through a stage where one is needed. In the child it does not return.
fn clone_init(mut start: Start<'_>, birth: Birth) -> Result<(i32, OwnedFd), Fail> {
    match &start.plan.place {
        Place::Join(plan) => {
            join::enter_pid_namespace(plan, start.fds)?;
            clone_into(start, birth, 0)
        }
        Place::Container(container) => {
            let flags = new_namespaces(container);
            if container.namespaces.time == NsSource::New {
                // clone3 knows this flag only since 6.3. Either way the child is born in it.
                unshare_time_for_children().at(Step::Clone)?;
            }
            if !needs_stage(container) {
                join_pid(container, start.fds)?;
                return clone_into(start, birth, flags);
            }
            start.joined = true;
            clone_after(|fds| enter_stage(container, fds), start, birth, flags)
        }
        Place::Host(host) => {
            if host.new.contains(&NsType::Time) {
                unshare_time_for_children().at(Step::Clone)?;
            }
            // A new mount namespace is a copy of the cloner's, and a process in a new user namespace
            // may not join the host's any more.
            clone_after(|fds| host::enter(host, fds), start, birth, clone_flags(&host.new))
        }
    }
}

/// Clones from a process that has joined namespaces and is used up by that: a stage, or the caller
/// itself where it is a forker.
fn clone_after(
    enter: impl FnOnce(&PlanFds) -> Result<(), Fail>,
    start: Start<'_>,
    birth: Birth,
    flags: u64,
) -> Result<(i32, OwnedFd), Fail> {
    match birth {
        Birth::Sibling => {
            enter(start.fds)?;
            clone_into(start, birth, flags)
        }
        Birth::Child => clone_through_stage(enter, start, flags),
    }
}

fn clone_into(start: Start<'_>, birth: Birth, flags: u64) -> Result<(i32, OwnedFd), Fail> {
    let cgroup = start.plan.cgroup.map(|fd| start.fds.borrow(fd)).transpose().at(Step::Plan)?;
    let parent = if birth == Birth::Sibling { CLONE_PARENT } else { 0 };
    match clone_process(&CloneArgs { flags: flags | parent, cgroup }).at(Step::Clone)? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child(proof) => {
            let _guard = NeverReturn;
            child::run(&proof, start)
        }
    }
}

/// Ends a child in which a panic unwinds, before it comes out among the frames of its parent.
struct NeverReturn;

impl Drop for NeverReturn {
    fn drop(&mut self) {
        exit_now(1);
    }
}

/// Whether the clone needs a process that has joined namespaces before.
fn needs_stage(container: &ContainerPlan) -> bool {
    let joins = |ns: NsType| matches!(container.namespaces.source(ns), NsSource::Join(_));
    match container.namespaces.user {
        NsSource::Host => false,
        NsSource::Join(_) => true,
        NsSource::New => NsType::ALL.into_iter().any(joins),
    }
}

/// Joins all namespaces that are joined, the user namespace last.
fn enter_stage(container: &ContainerPlan, fds: &PlanFds) -> Result<(), Fail> {
    join_all(&container.namespaces, fds, &[NsType::User])?;
    let NsSource::Join(fd) = container.namespaces.user else { return Ok(()) };
    let user_ns = fds.borrow(fd).at(Step::JoinNamespace)?;
    id_map::map_mounts(container, fds, user_ns)?;
    // The user namespace is the first of NsType::ALL, which the index counts in.
    move_into_thread_name_spaces(user_ns, NsType::User.set()).at(Step::JoinNamespace)
}

fn join_pid(container: &ContainerPlan, fds: &PlanFds) -> Result<(), Fail> {
    let NsSource::Join(fd) = container.namespaces.pid else { return Ok(()) };
    let index = NsType::ALL.iter().position(|ns| *ns == NsType::Pid).unwrap_or_default();
    let enter = |fd| move_into_thread_name_spaces(fd, NsType::Pid.set());
    fds.borrow(fd).and_then(enter).at_item(Step::JoinNamespace, index)
}

/// Has a short-lived child join what is joined and clone a sibling of itself, which is then the
/// caller's own child.
fn clone_through_stage(
    enter: impl FnOnce(&PlanFds) -> Result<(), Fail>,
    start: Start<'_>,
    flags: u64,
) -> Result<(i32, OwnedFd), Fail> {
    let (answer, stage_answer) = pipe().at(Step::Clone)?;
    match clone_process(&CloneArgs::default()).at(Step::Clone)? {
        Cloned::Child(_) => {
            let _guard = NeverReturn;
            let cloned = enter(start.fds).and_then(|()| clone_into(start, Birth::Sibling, flags));
            let numbers = match cloned {
                Ok((pid, _)) => [pid, 0, 0, 0],
                Err(fail) => [0, fail.step as i32, fail.index as i32, fail.errno],
            };
            let _ = write(&stage_answer, numbers.map(i32::to_le_bytes).as_flattened());
            exit_now(0)
        }
        Cloned::Parent { pidfd: stage, .. } => {
            drop(stage_answer);
            let mut record = [0; 16];
            let length = retry_on_intr(|| read(&answer, &mut record));
            let _ = waitid(WaitId::PidFd(stage.as_fd()), WaitIdOptions::EXITED);
            let number = |i: usize| {
                let bytes = record[i * 4..].first_chunk();
                bytes.map_or(0, |bytes| i32::from_le_bytes(*bytes))
            };
            if length != Ok(record.len()) {
                return Err(Fail::new(Step::Clone, 0, Errno::CHILD));
            }
            match Pid::from_raw(number(0)) {
                // It is the caller's child and not reaped, so that the pid is its own.
                Some(pid) => {
                    let pidfd = pidfd_open(pid, PidfdFlags::empty()).at(Step::Clone)?;
                    Ok((number(0), pidfd))
                }
                None => Err(Fail {
                    step: super::failure::step_from_number(number(1) as u32).unwrap_or(Step::Clone),
                    index: number(2) as u32,
                    errno: number(3),
                }),
            }
        }
    }
}

/// The CLONE_NEW* flags of a container.
fn new_namespaces(container: &ContainerPlan) -> u64 {
    let is_new = |ns: &NsType| container.namespaces.source(*ns) == NsSource::New;
    clone_flags(&NsType::ALL.into_iter().filter(is_new).collect::<Vec<_>>())
}

/// The CLONE_NEW* flags of new namespaces. The cgroup namespace is not among them: clone3 would root it
/// at the cgroup of the parent. Nor is the time namespace, see [`clone_init`].
fn clone_flags(new: &[NsType]) -> u64 {
    let cloned = new.iter().filter(|ns| !matches!(ns, NsType::Cgroup | NsType::Time));
    cloned.fold(0, |flags, ns| flags | ns.clone_flag())
}

/// Kills a child whose set-up cannot go on, and reaps it where that is the caller's to do.
fn abandon(pidfd: &OwnedFd, birth: Birth) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    if birth == Birth::Child {
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// A pipe, read end first, both ends above the numbers of stdio, which the child overwrites.
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let above = |fd: OwnedFd| if fd.as_raw_fd() > 2 { Ok(fd) } else { fcntl_dupfd_cloexec(&fd, 3) };
    Ok((above(read)?, above(write)?))
}

/// Every fd that the plan names must have come along.
fn check_fds(plan: &Plan, fds: &PlanFds) -> Result<(), SetupFailure> {
    let mut named: Vec<Fd> = plan.cgroup.into_iter().collect();
    let overlay = |o: &Overlay| [o.lower, o.upper, o.work];
    match &plan.place {
        Place::Join(join) => {
            named.push(join.pidfd);
            named.extend(join.host_mount_ns.into_iter().chain(join.root).chain(join.cwd));
        }
        Place::Host(host) => named.push(host.mount_ns),
        Place::Container(container) => {
            for ns in NsType::ALL {
                if let NsSource::Join(fd) = container.namespaces.source(ns) {
                    named.push(fd);
                }
            }
            named.extend(&container.idmapped);
            match &container.root {
                Root::Mount(fd) => named.push(*fd),
                Root::Overlay(layers) => named.extend(overlay(layers)),
            }
            for mount in &container.mounts {
                match &mount.what {
                    MountWhat::Detached { fd, .. } => named.push(*fd),
                    MountWhat::Overlay(layers) => named.extend(overlay(layers)),
                    MountWhat::Fresh { .. } | MountWhat::HostSysfs | MountWhat::Console => {}
                }
            }
        }
    }
    named.into_iter().try_for_each(|fd| fds.get(fd).map(drop))
}
