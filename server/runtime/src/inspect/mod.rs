//! The inspector: a fork of the launcher that answers one question about the host or a target and exits.
//!
//! What is looked at may be in the hands of others: a mount that never answers, a directory without end,
//! a process that ends midway. So it is looked at by a process of its own, with one thread, nothing of
//! the host open, and no more rights than reading needs; the agent kills it when it takes too long or
//! nobody waits for the answer any more.
//!
//! - [`question`]: what it is asked and answers;
//! - `answers`: the way back to the agent;
//! - `process`, `status`: a process of the host, pinned, and what /proc says of it;
//! - [`held_namespaces`]: the namespaces of a process, which it may leave meanwhile;
//! - `namespaces`: the namespaces of the host;
//! - `processes`: the processes of a target;
//! - `netlink`: what the kernel says of a network namespace;
//! - `mounts`: the mounts that a process sees;
//! - `viewer`, `walk`: as whom the files of a target are looked at, and how a path leads to one;
//! - `files`, `usage`: the files of a target, and how much directories hold;
//! - `joined`: a mount namespace that was joined, and places in it; `attach`, `detach`: mounts that are put into
//!   a living mount namespace or taken out of one; `tree`: detached copies of what lies in one; `locked`: the same
//!   for another user namespace.

mod answers;
mod attach;
mod detach;
mod files;
#[cfg(test)]
mod fuzz;
pub mod held_namespaces;
mod joined;
mod locked;
mod mounts;
mod namespaces;
mod netlink;
pub mod process;
mod processes;
pub mod question;
pub mod status;
mod tree;
mod usage;
mod viewer;
mod walk;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    process::{PidfdFlags, Resource, Rlimit, Signal, getpid, pidfd_open, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use self::{
    answers::Answers,
    question::{Failure, MAX_PACKET, Question},
};
use crate::host;
use crate::sys::{
    signal::{Disposition, set_disposition},
    socket::{Wait, recv_packet},
};

/// Runs an inspector to its end. Its socket is where the question comes from.
pub fn run(socket: OwnedFd) {
    // An agent that is gone, or a question that is none: there is nobody to tell.
    let _ = set_disposition(Signal::CHILD, Disposition::Default);
    let _ = rustix::thread::set_name(c"conti-inspect");
    be_expendable();
    let Ok(pidfd) = pidfd_open(getpid(), PidfdFlags::empty()) else { return };
    let Ok(mut answers) = Answers::begin(&socket, pidfd) else { return };
    let mut buffer = vec![0; MAX_PACKET];
    let Ok(packet) = recv_packet(&socket, &mut buffer, Wait::Yes) else { return };
    let Ok(question) = postcard::from_bytes(&buffer[..packet.len]) else { return };
    drop(buffer);
    let result = answer(question, packet.fds, &mut answers);
    let _ = answers.end(result);
}

/// An answer is not worth the host: where memory runs out, this process goes first, and it never takes more
/// than it should need.
fn be_expendable() {
    const MEMORY_MAX: u64 = 1 << 30;
    // What the launcher has is its own guard.
    let _ = host::write("/proc/self/oom_score_adj", "1000");
    let limit = Rlimit { current: Some(MEMORY_MAX), maximum: Some(MEMORY_MAX) };
    let _ = setrlimit(Resource::As, limit);
}

/// What reading needs: any process, any directory.
const READ: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::DAC_READ_SEARCH)
    // For O_NOATIME on the files of others.
    .union(CapabilitySet::FOWNER);

/// What changing a mount namespace needs beside that.
const MOUNT: CapabilitySet = READ
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

fn answer(question: Question, fds: Vec<OwnedFd>, answers: &mut Answers<'_>) -> Result<(), Failure> {
    keep_capabilities(match question {
        Question::Attach { .. }
        | Question::Detach { .. }
        | Question::Tree { .. }
        | Question::Plain
        | Question::Locked => MOUNT,
        Question::Netlink(_) => READ.union(CapabilitySet::SYS_ADMIN),
        // Given up where it is known whose rights take their place (`viewer`).
        Question::List { .. } | Question::Read { .. } | Question::Measure(_) => {
            CapabilitySet::all()
        }
        _ => READ,
    })?;
    match question {
        Question::Processes { whose, agent } => processes::answer(&whose, &agent, answers),
        Question::Netlink(netlink) => netlink::answer(&netlink, answers),
        Question::List { of, path } => files::list(of, &path, answers),
        Question::Read { of, path, offset, limit } => {
            files::read(of, &path, offset, limit, answers)
        }
        Question::Measure(measure) => usage::answer(&measure, answers),
        Question::Attach { to, namespace, point, dir, create, root_ids, guarded, dry_run } => {
            let wanted = attach::Wanted { point: &point, dir, create, root_ids, guarded, dry_run };
            attach::attach((to, namespace), &wanted, first(&fds)?, answers)
        }
        Question::Detach { from, namespace, point, only, lazy, dry_run } => {
            detach::detach((from, namespace), &point, only, (lazy, dry_run))
        }
        Question::Tree { of, path, recursive, plain } => {
            tree::clone(of, &path, (recursive, plain), answers)
        }
        Question::Plain => tree::plain(first(&fds)?, answers),
        Question::Locked => locked::lock(&fds, answers),
        Question::Namespaces { of } => namespaces::answer(of, answers),
        Question::Mounts { of, usage } => mounts::answer(of, usage, answers),
    }
}

fn first(fds: &[OwnedFd]) -> Result<BorrowedFd<'_>, Failure> {
    let absent = || Failure::refused("cannot mount", "nothing", rustix::io::Errno::BADF);
    fds.first().map(OwnedFd::as_fd).ok_or_else(absent)
}

/// Gives up all rights but these.
fn keep_capabilities(kept: CapabilitySet) -> Result<(), Failure> {
    let own = rustix::thread::capabilities(None);
    let sets = own.and_then(|own| {
        let kept = kept & own.permitted;
        let none = CapabilitySet::empty();
        set_capabilities(
            None,
            CapabilitySets { effective: kept, permitted: kept, inheritable: none },
        )
    });
    sets.map_err(|errno| Failure::refused("cannot give up rights", "", errno))
}
