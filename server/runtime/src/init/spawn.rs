//! The parent's part: what is made before the clone, the clone, and what the child waits for.
//!
//! ```text
//!  place                        who clones the process
//!  ---------------------------  ----------------------------------------------------------------
//!  new container                the caller; it writes the id map of a new user namespace, while the
//!                               child waits for it
//!  the same, that joins a user  an intermediate, that is used up by joining first, so that what the
//!  namespace, or other ones     clone makes new belongs to the user namespace
//!  beside a new one
//!  the host's root              an intermediate that has joined the host's mount namespace
//!  a pid namespace of others    a stage (`stage.rs`), when all is done
//! ```
//!
//! A process that has joined a user namespace has no rights over the namespaces of others any more, and
//! no way back. So an intermediate does it: a short-lived child of the caller that clones with
//! CLONE_PARENT, or the caller itself where it is a forker and used up anyhow.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    io::{Errno, fcntl_dupfd_cloexec, write},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    pipe::{PipeFlags, pipe_with},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
    },
    thread::move_into_thread_name_spaces,
};

use super::{
    Child, ChildStdio, PlanFds,
    child::{self, Start},
    command::Command,
    container::join_all,
    failure::{At as _, Fail},
    host, id_map, seccomp,
    stage::{self, Stage},
};
use crate::{
    plan::{
        ContainerPlan, Fd, MountWhat, NsSource, NsType, Overlay, Place, Plan, Root, SetupFailure,
        Step,
    },
    sys::{
        clone::{CLONE_PARENT, CloneArgs, Cloned, OnlyThread, clone_process, exit_now},
        ns::unshare_time_for_children,
        shm::StageReport,
    },
};

/// The parent's ends of what is between it and the process.
#[derive(Debug)]
pub struct Ends {
    /// Gives [`super::Status`] records, each whole. Does not block.
    pub status: OwnedFd,
    /// One byte in here lets a paused process go on. A reaper tells here how the command ended, see
    /// [`super::end_of_command`]. Does not block.
    pub gate: OwnedFd,
}

/// The process's ends of the same.
#[derive(Debug)]
pub struct ProcessEnds {
    /// Takes status records.
    pub status: OwnedFd,
    /// Where a paused process waits, and a reaper tells how the command ended.
    pub gate: OwnedFd,
}

/// Makes what is between a process and its parent: a pipe, and a pair of sockets as the gate.
pub fn pipes() -> Result<(Ends, ProcessEnds), Errno> {
    let (status, process_status) = pipe()?;
    let (process_gate, gate) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let process_gate = above_stdio(process_gate)?;
    fcntl_setfl(&status, OFlags::NONBLOCK)?;
    fcntl_setfl(&gate, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok((Ends { status, gate }, ProcessEnds { status: process_status, gate: process_gate }))
}

/// A plan that was checked and is ready to be carried out, by a process that has one thread and the
/// launcher's mount namespace.
pub struct Spawn<'a> {
    start: Start<'a>,
}

impl<'a> Spawn<'a> {
    /// Checks a plan and prepares what can be prepared before the clone.
    pub fn new(
        plan: &'a Plan,
        fds: &'a PlanFds,
        stdio: &'a ChildStdio,
        ends: &'a ProcessEnds,
    ) -> Result<Spawn<'a>, SetupFailure> {
        check_fds(plan, fds)?;
        let command = Command::new(&plan.process)?;
        let filter = match plan.process.confinement.seccomp {
            true => seccomp::filter(plan.process.confinement.capabilities),
            false => Vec::new(),
        };
        let describe = |fail: Fail| fail.describe(plan);
        let owner = id_map::owner(plan);
        id_map::give_stdio(stdio, &owner).map_err(describe)?;
        let (status, gate) = (ends.status.as_fd(), ends.gate.as_fd());
        let start = Start {
            plan,
            fds,
            stdio,
            command,
            filter,
            status,
            gate,
            owner: owner.inside,
            mapped: None,
            joined: false,
        };
        Ok(Spawn { start })
    }

    /// Starts the process as a child of the caller. On failure nothing is left.
    ///
    /// A time namespace is made through the caller: its later children are in it too.
    pub fn as_child(self) -> Result<Child, SetupFailure> {
        let plan = self.start.plan;
        let started = match plan.place.is_born_last() {
            true => clone_stage(self.start).map(Child::Staged),
            false => clone(self.start, Birth::Child),
        };
        started.map_err(|fail| fail.describe(plan))
    }

    /// Starts the process as a sibling of the caller: a forker clones on behalf of its parent
    /// (CLONE_PARENT). The forker is used up by it: it may have joined namespaces, and exits. On failure
    /// nothing is left but perhaps a killed process for the parent to reap.
    pub fn as_sibling(self) -> Result<Child, SetupFailure> {
        let plan = self.start.plan;
        clone(self.start, Birth::Sibling).map_err(|fail| fail.describe(plan))
    }

    /// Makes the caller the stage of a process that is born last, as a sibling of it.
    pub fn become_stage(mut self, report: &StageReport) -> ! {
        let _guard = NeverReturn;
        let ready =
            unshare_time(self.start.plan).and_then(|()| OnlyThread::check().at(Step::Clone));
        match ready {
            Ok(proof) => stage::run(&proof, &mut self.start, report),
            Err(fail) => stage::fail(report, fail),
        }
    }
}

/// Whose child the new process becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Birth {
    /// The caller's.
    Child,
    /// The caller's sibling.
    Sibling,
}

/// Clones the stage of a process that is born last.
fn clone_stage(mut start: Start<'_>) -> Result<Stage, Fail> {
    let report = StageReport::new().at(Step::Clone)?;
    unshare_time(start.plan)?;
    let cgroup = start.plan.cgroup.map(|fd| start.fds.borrow(fd)).transpose().at(Step::Plan)?;
    match clone_process(&CloneArgs { flags: 0, cgroup }).at(Step::Clone)? {
        Cloned::Parent { pidfd, .. } => Ok(Stage::new(pidfd, report)),
        Cloned::Child(proof) => {
            let _guard = NeverReturn;
            stage::run(&proof, &mut start, &report)
        }
    }
}

/// Makes a new time namespace for the children of this process, where the plan has one. clone3 knows
/// this flag only since Linux 6.3.
fn unshare_time(plan: &Plan) -> Result<(), Fail> {
    let new = match &plan.place {
        Place::Container(container) => container.namespaces.time == NsSource::New,
        Place::Host(host) => host.new.contains(&NsType::Time),
        Place::Join(_) => false,
    };
    if new { unshare_time_for_children().at(Step::Clone) } else { Ok(()) }
}

/// Clones the process, through an intermediate where one is needed, and writes its id map. In the child it
/// does not return.
fn clone(start: Start<'_>, birth: Birth) -> Result<Child, Fail> {
    let (plan, fds) = (start.plan, start.fds);
    let maps = plan.place.id_maps();
    let (is_mapped, mapped) = pipe().at(Step::IdMap)?;
    let start = Start { mapped: maps.map(|_| is_mapped.as_fd()), ..start };
    let (pid, pidfd) = clone_init(start, birth)?;
    if let Some(maps) = maps {
        if let Err(fail) = id_map::write_maps(pid, maps, &plan.place, fds) {
            abandon(&pidfd, birth);
            return Err(fail);
        }
        // A child that is dead already cannot be released; its status pipe says so.
        let _ = write(&mapped, &[1]);
    }
    Ok(Child::Born { pid, pidfd })
}

fn clone_init(mut start: Start<'_>, birth: Birth) -> Result<(i32, OwnedFd), Fail> {
    unshare_time(start.plan)?;
    match &start.plan.place {
        Place::Container(container) => {
            let flags = clone_flags(&new_namespaces(container));
            if !needs_intermediate(container) {
                return clone_into(start, birth, flags);
            }
            start.joined = true;
            clone_after(|fds| enter_intermediate(container, fds), start, birth, flags)
        }
        // A new mount namespace is a copy of the cloner's, and a process in a new user namespace may not
        // join the host's any more.
        Place::Host(host) => {
            clone_after(|fds| host::enter(host, fds), start, birth, clone_flags(&host.new))
        }
        // It is born last.
        Place::Join(_) => Err(Fail::new(Step::Clone, 0, Errno::INVAL)),
    }
}

/// Clones from a process that has joined namespaces and is used up by that: an intermediate, or the caller
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
        Birth::Child => clone_through_intermediate(enter, start, flags),
    }
}

fn clone_into(mut start: Start<'_>, birth: Birth, flags: u64) -> Result<(i32, OwnedFd), Fail> {
    let cgroup = start.plan.cgroup.map(|fd| start.fds.borrow(fd)).transpose().at(Step::Plan)?;
    let parent = if birth == Birth::Sibling { CLONE_PARENT } else { 0 };
    match clone_process(&CloneArgs { flags: flags | parent, cgroup }).at(Step::Clone)? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child(proof) => {
            let _guard = NeverReturn;
            child::run(&proof, &mut start)
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
fn needs_intermediate(container: &ContainerPlan) -> bool {
    let joins = |ns: NsType| matches!(container.namespaces.source(ns), NsSource::Join(_));
    match container.namespaces.user {
        NsSource::Host => false,
        NsSource::Join(_) => true,
        NsSource::New => NsType::ALL.into_iter().any(joins),
    }
}

/// Joins all namespaces that are joined, the user namespace last.
pub(super) fn enter_intermediate(container: &ContainerPlan, fds: &PlanFds) -> Result<(), Fail> {
    join_all(&container.namespaces, fds, &[NsType::User])?;
    let NsSource::Join(fd) = container.namespaces.user else { return Ok(()) };
    let user_ns = fds.borrow(fd).at(Step::JoinNamespace)?;
    id_map::map_mounts(container, fds, user_ns)?;
    // The user namespace is the first of NsType::ALL, which the index counts in.
    move_into_thread_name_spaces(user_ns, NsType::User.set()).at(Step::JoinNamespace)
}

/// Has a short-lived child join what is joined and clone a sibling of itself, which is then the
/// caller's own child.
fn clone_through_intermediate(
    enter: impl FnOnce(&PlanFds) -> Result<(), Fail>,
    start: Start<'_>,
    flags: u64,
) -> Result<(i32, OwnedFd), Fail> {
    let report = StageReport::new().at(Step::Clone)?;
    match clone_process(&CloneArgs::default()).at(Step::Clone)? {
        Cloned::Child(_) => {
            let _guard = NeverReturn;
            let entered = report.keep_from_children().at(Step::Clone);
            let entered = entered.and_then(|()| enter(start.fds));
            match entered.and_then(|()| clone_into(start, Birth::Sibling, flags)) {
                Ok((pid, _)) => report.born(pid),
                Err(fail) => stage::fail(&report, fail),
            }
            exit_now(0)
        }
        Cloned::Parent { pidfd, .. } => {
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            let Some(pid) = report.pid() else {
                let silent = Fail::new(Step::Clone, 0, Errno::CHILD);
                return Err(stage::failure(&report).unwrap_or(silent));
            };
            // It is the caller's child and not reaped, so that the pid is its own.
            let raw = Pid::from_raw(pid).ok_or(Errno::SRCH).at(Step::Clone)?;
            Ok((pid, pidfd_open(raw, PidfdFlags::empty()).at(Step::Clone)?))
        }
    }
}

/// The namespaces that are made for a container before its process is root in its user namespace. The ipc
/// namespace is not among them: the root of its mqueue filesystem belongs to the user who makes it.
pub(super) fn new_namespaces(container: &ContainerPlan) -> Vec<NsType> {
    let is_new =
        |ns: &NsType| *ns != NsType::Ipc && container.namespaces.source(*ns) == NsSource::New;
    NsType::ALL.into_iter().filter(is_new).collect()
}

/// The CLONE_NEW* flags of new namespaces. The cgroup namespace is not among them: clone3 would root it
/// at the cgroup of the parent. Nor is the time namespace, see [`unshare_time`].
pub(super) fn clone_flags(new: &[NsType]) -> u64 {
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
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((above_stdio(read)?, above_stdio(write)?))
}

fn above_stdio(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { fcntl_dupfd_cloexec(&fd, 3) }
}

/// Every fd that the plan names must have come along.
fn check_fds(plan: &Plan, fds: &PlanFds) -> Result<(), SetupFailure> {
    let mut named: Vec<Fd> = plan.cgroup.into_iter().collect();
    let overlay = |o: &Overlay| [o.lower, o.upper, o.work];
    match &plan.place {
        Place::Join(join) => {
            named.push(join.pidfd);
            named.extend(join.namespaces.iter().map(|joined| joined.fd));
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
                    MountWhat::Overlay(layers) => named.extend(overlay(layers)),
                    _ => named.extend(mount.fd()),
                }
            }
        }
    }
    named.into_iter().try_for_each(|fd| fds.get(fd).map(drop))
}
