//! The child: one straight recipe from the fresh clone to execve.
//!
//! ```text
//!  step                 why here
//!  -------------------  ----------------------------------------------------------------------
//!  prepare
//!    close fds          the monitor's own must not be in reach for a moment longer than needed
//!    title              the launcher's arguments name a path of the host
//!    not dumpable       for the same reason
//!    [namespaces]       of a process that is born last: stage.rs
//!    wait for the map   with a new user namespace; then it becomes root there
//!    oom_score_adj      while the launcher's /proc is there to write it in
//!    session keyring
//!    namespaces, mounts container.rs, join.rs, host.rs
//!    user, group        in the new root's own files
//!    limits, cwd, umask with root's rights still
//!    stdio              its owner is changed, so before the ids
//!    signals
//!    bounding set       needs CAP_SETPCAP
//!    [filter]           without no_new_privs it needs CAP_SYS_ADMIN: here, or below
//!    groups, ids
//!    capabilities
//!    close fds          but stdio, and two that close at execve
//!    no_new_privs,      last, with no_new_privs: nothing after it is filtered that need not be
//!    [filter]
//!  [clone]              here, where the process is born last
//!  finish
//!    session, terminal  a session is led by the process itself; with a reaper the command leads it
//!    processes          the limit of a process that is born last: the stage counts as one of them
//!    wait for the gate
//!    [fork]             of the command by its reaper
//!    signals, execve
//! ```
//!
//! Every step succeeds or is reported; then nothing is run. Steps after the filter use system calls
//! that it allows: write, read, setsid, ioctl, prlimit64, clone, execve.

use std::{
    convert::Infallible,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::{Errno, read, retry_on_intr},
    process::{chdir, fchdir, getcwd, ioctl_tiocsctty, setsid, umask},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    thread::{CapabilitySet, set_name, set_no_new_privs},
};

use super::{
    ChildStdio, PlanFds,
    command::Command,
    confine, container,
    failure::{At as _, Fail, TARGET_CWD},
    host, join, reaper, stage,
    status::Status,
    user::{self, Ids},
};
use crate::{
    fault,
    plan::{Confinement, NsSource, NsType, Place, Plan, Step},
    sys::{
        clone::{OnlyThread, exit_now},
        exec::default_dispositions,
        fds::close_all_but,
        seccomp::{Insn, load},
        signal::unblock_all,
        sigwait::block_all,
        title,
    },
};

/// What a child starts with. Its fds are copies of its parent's: it never drops them, it closes them
/// by number or becomes another program.
pub(super) struct Start<'a> {
    pub plan: &'a Plan,
    pub fds: &'a PlanFds,
    pub stdio: &'a ChildStdio,
    pub command: Command,
    /// The system call filter; empty for none.
    pub filter: Vec<Insn>,
    /// Where [`Status`] records go.
    pub status: BorrowedFd<'a>,
    /// Where a paused child waits, and a reaper tells how the command ended.
    pub gate: BorrowedFd<'a>,
    /// The ids of its user namespace that stand for root: 0, where that is mapped.
    pub owner: (u32, u32),
    /// Where it waits for its id map.
    pub mapped: Option<BorrowedFd<'a>>,
    /// Whether the namespaces of others were joined already.
    pub joined: bool,
}

impl Start<'_> {
    /// The slave of the terminal, where there is one.
    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        match self.stdio {
            ChildStdio::Terminal { slave } => Some(slave.as_fd()),
            ChildStdio::Pipes { .. } => None,
        }
    }

    fn has_terminal(&self) -> bool {
        self.terminal().is_some()
    }

    fn has_reaper(&self) -> bool {
        self.plan.place.has_reaper()
    }
}

/// Carries out the recipe and becomes the command, or reports why not and ends.
pub(super) fn run(proof: &OnlyThread, start: &mut Start<'_>) -> ! {
    match prepare(proof, start) {
        Ok(()) => finish(proof, start),
        Err(fail) => give_up(start, fail),
    }
}

fn give_up(start: &Start<'_>, fail: Fail) -> ! {
    // A monitor that is gone cannot be told, and nothing else is to be done.
    let _ = Status::from(fail).send(start.status);
    exit_now(1)
}

/// The first part of the recipe: afterwards this process is what the command is to be.
pub(super) fn prepare(proof: &OnlyThread, start: &mut Start<'_>) -> Result<(), Fail> {
    close_fds(proof, start)?;
    // For the eye only.
    let _ = set_name(c"conti-init");
    title::replace(proof, b"conti-init");
    confine::undumpable()?;
    let process = &start.plan.process;
    confine::oom_score_adj(process.oom_score_adj)?;
    match &start.plan.place {
        Place::Container(plan) if start.plan.place.is_born_last() => {
            stage::enter_namespaces(plan, start)?;
            start.joined = true;
        }
        _ => {}
    }
    become_root_of_user_namespace(start)?;
    confine::keyring()?;
    match &start.plan.place {
        Place::Container(plan) => {
            umask(Mode::empty());
            container::assemble(plan, start)?;
        }
        Place::Join(plan) => join::enter(plan, start.owner, start.fds)?,
        Place::Host(plan) => host::settle(plan)?,
    }

    let ids = find_user(start)?;
    if let Some(home) = &ids.home {
        start.command.set_home(home).at(Step::User)?;
    }
    enter_cwd(start)?;
    umask(Mode::from_raw_mode(process.umask & 0o777));
    place_stdio(start.stdio)?;
    confine::own_stdio(&ids)?;
    // Now that nothing is opened any more: a limit of files is for the command.
    confine::limits(&process.rlimits, start.plan.place.is_born_last())?;
    default_dispositions();
    if start.has_reaper() { block_all() } else { Ok(()) }.at(Step::Init)?;
    confine(proof, start, &ids)
}

/// The second part: becomes the command, or reports why not and ends.
pub(super) fn finish(proof: &OnlyThread, start: &Start<'_>) -> ! {
    let Err(fail) = execute(proof, start);
    give_up(start, fail)
}

fn execute(proof: &OnlyThread, start: &Start<'_>) -> Result<Infallible, Fail> {
    // A reaper leaves the terminal to the command, which then leads the session that has it.
    begin_session(start.has_terminal() && !start.has_reaper())?;
    if start.plan.place.is_born_last() {
        confine::limit_processes(&start.plan.process.rlimits)?;
    }
    tell(start, Status::Ready);
    if start.plan.paused {
        wait_for(start.gate).at(Step::Init)?;
    }
    if start.has_reaper() {
        fork_command(proof, start)?;
    }
    unblock_all().map_err(|error| errno_of(&error)).at(Step::Init)?;
    fault::point("init.execute");
    tell(start, Status::Executing);
    Err(start.command.execute()).at(Step::Exec)
}

/// Keeps what the recipe needs and closes the rest.
fn close_fds(proof: &OnlyThread, start: &Start<'_>) -> Result<(), Fail> {
    let mut keep: Vec<RawFd> = start.fds.numbers().collect();
    keep.extend([start.status.as_raw_fd(), start.gate.as_raw_fd()]);
    keep.extend(start.mapped.map(|fd| fd.as_raw_fd()));
    match start.stdio {
        ChildStdio::Pipes { stdin, stdout, stderr } => {
            keep.extend([stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()]);
        }
        ChildStdio::Terminal { slave } => keep.push(slave.as_raw_fd()),
    }
    close_all_but(proof, &mut keep).at(Step::CloseFds)
}

/// In a user namespace other than the host's this process is nobody until it has taken id 0 in it,
/// which exists once the map is written.
fn become_root_of_user_namespace(start: &Start<'_>) -> Result<(), Fail> {
    if let Some(mapped) = start.mapped {
        wait_for(mapped).at(Step::IdMap)?;
    }
    let joins = match &start.plan.place {
        Place::Container(plan) => plan.namespaces.user != NsSource::Host,
        Place::Host(plan) => plan.new.contains(&NsType::User),
        // It takes its ids when it is in there.
        Place::Join(_) => false,
    };
    if joins { confine::become_owner(start.owner) } else { Ok(()) }
}

/// Finds out who the command runs as, in what is `/` by now. The fd of it is closed again: it could lie
/// at one of the numbers that stdio is put at next.
fn find_user(start: &Start<'_>) -> Result<Ids, Fail> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, "/", flags, Mode::empty()).at(Step::Root)?;
    let want_home = !start.command.has_home();
    user::find(&start.plan.process.identity, start.owner, want_home, root.as_fd())
}

/// Leads a new session, with stdin as its controlling terminal where that is one.
fn begin_session(terminal: bool) -> Result<(), Fail> {
    setsid().at(Step::Session)?;
    if terminal { ioctl_tiocsctty(rustix::stdio::stdin()).at(Step::Terminal) } else { Ok(()) }
}

/// Goes to the working directory. It must be reachable from the root: a directory outside of it, by
/// whatever way it was come to, would be a way out.
fn enter_cwd(start: &Start<'_>) -> Result<(), Fail> {
    let given = match &start.plan.place {
        Place::Join(plan) => plan.cwd,
        Place::Container(_) | Place::Host(_) => None,
    };
    match given {
        Some(fd) => {
            let enter = |fd| fchdir(fd).and_then(|()| cwd_is_reachable());
            start.fds.borrow(fd).and_then(enter).at_item(Step::Cwd, TARGET_CWD as usize)
        }
        None => {
            chdir(start.plan.process.cwd.as_str()).and_then(|()| cwd_is_reachable()).at(Step::Cwd)
        }
    }
}

fn cwd_is_reachable() -> Result<(), Errno> {
    let path = getcwd(Vec::new())?;
    // The kernel puts "(unreachable)" in front of a path that does not lead to the root.
    if path.as_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::NOENT) }
}

/// Puts stdin, stdout and stderr at their numbers. Sources that lie there already are moved out of the
/// way first, or one would be overwritten before it was used.
fn place_stdio(stdio: &ChildStdio) -> Result<(), Fail> {
    let place = || {
        let (stdin, stdout, stderr) = match stdio {
            ChildStdio::Pipes { stdin, stdout, stderr } => (stdin, stdout, stderr),
            ChildStdio::Terminal { slave } => (slave, slave, slave),
        };
        let (stdin, stdout, stderr) = (above(stdin)?, above(stdout)?, above(stderr)?);
        dup2_stdin(&stdin)?;
        dup2_stdout(&stdout)?;
        dup2_stderr(&stderr)
    };
    place().at(Step::Stdio)
}

fn above(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3)
}

/// The two orders of confinement: without no_new_privs a filter can only be loaded by who has
/// CAP_SYS_ADMIN, so before the ids; with it, it is the last.
fn confine(proof: &OnlyThread, start: &Start<'_>, ids: &Ids) -> Result<(), Fail> {
    let Confinement { capabilities, no_new_privs, .. } = start.plan.process.confinement;
    let granted: CapabilitySet = confine::granted(capabilities)?;
    confine::bound(granted)?;
    if !no_new_privs {
        load_filter(&start.filter)?;
    }
    confine::become_user(ids)?;
    confine::undumpable()?;
    confine::capabilities_of(ids, granted)?;
    // These two close at execve. A paused child holds nothing of the plan while it waits.
    let mut keep = vec![0, 1, 2, start.status.as_raw_fd()];
    let has_gate = start.plan.paused || start.has_reaper();
    keep.extend(has_gate.then(|| start.gate.as_raw_fd()));
    close_all_but(proof, &mut keep).at(Step::CloseFds)?;
    if no_new_privs {
        set_no_new_privs(true).at(Step::NoNewPrivs)?;
        load_filter(&start.filter)?;
    }
    Ok(())
}

fn load_filter(filter: &[Insn]) -> Result<(), Fail> {
    if filter.is_empty() { Ok(()) } else { load(filter).at(Step::Seccomp) }
}

/// Tells how far it has come. Where nobody follows the set-up there is nobody to run for, and nobody who would
/// ever end it.
fn tell(start: &Start<'_>, status: Status) {
    if status.send(start.status).is_err() {
        exit_now(1);
    }
}

/// Waits for a byte. EOF means that the other end died, and there is nobody left to run for.
fn wait_for(pipe: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut byte = [0];
    match retry_on_intr(|| read(pipe, &mut byte))? {
        0 => exit_now(1),
        _ => Ok(()),
    }
}

/// Splits off the command: this function returns in it, with the session and terminal that the reaper
/// left to it.
fn fork_command(proof: &OnlyThread, start: &Start<'_>) -> Result<(), Fail> {
    if let Some(child) = proof.fork().at(Step::Init)? {
        reaper::stay(proof, child, start.gate);
    }
    begin_session(start.has_terminal())
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
