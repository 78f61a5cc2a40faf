//! The processes of a target, in one pass over /proc.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx},
    time::{ClockId, clock_gettime},
};

use super::{
    answers::Answers,
    process::{self, Pinned, namespace_of},
    question::{Answer, Failure, Process, Whose},
    status::{self, Status},
};
use crate::{plan::NsType, protocol::ProcessId, sys::ns};

/// How much of an argument list is told, in bytes.
const ARGV_MAX: usize = 4096;
/// Lines of /proc/PID/stat and /proc/PID/cgroup are far shorter.
const FILE_MAX: usize = 64 * 1024;

/// Answers [`super::question::Question::Processes`].
pub fn answer(whose: &Whose, agent: &str, answers: &mut Answers<'_>) -> Result<(), Failure> {
    let pinned = whose.member.map(Pinned::same).transpose()?;
    let mut chosen = Chosen::new(whose, agent)?;
    answers.add(&Answer::Moment { boot: now(ClockId::Boottime), real: now(ClockId::Realtime) })?;
    // The inspector itself is there only because somebody looks.
    let own = rustix::process::getpid().as_raw_pid();
    // A process that has ended and was not reaped is in no namespace: it counts where its parent does.
    let mut ended = Vec::new();
    let mut told = HashSet::new();
    for (pid, directory) in process::all()?.filter(|(pid, _)| *pid != own) {
        let choice = chosen.choose(pid, &directory);
        if choice == Choice::Not {
            continue;
        }
        // One that is gone meanwhile is none of them.
        let Some(mut process) = look_at(pid, &directory, chosen.depth) else { continue };
        process.group = chosen.group_of(&directory).unwrap_or_default();
        if choice == Choice::AsItsParent && process.group != whose.group.as_deref().unwrap_or("/") {
            ended.push(process);
        } else {
            told.insert(pid);
            answers.add(&Answer::Process(process))?;
        }
    }
    for process in ended.into_iter().filter(|process| told.contains(&process.parent)) {
        answers.add(&Answer::Process(process))?;
    }
    pinned.map_or(Ok(()), |pinned| pinned.still_there())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Yes,
    Not,
    AsItsParent,
}

/// Which processes are told.
struct Chosen<'a> {
    whose: &'a Whose,
    /// The directory of the agent's cgroups, between slashes.
    agent: String,
    /// The pid namespace whose processes are told, and those below it. `None`: not chosen by that.
    namespace: Option<u64>,
    /// How many pid namespaces lie above the target's, up to that of the inspector.
    depth: usize,
    /// What Conti's own processes run and where: a forker waits in the cgroup of a container without
    /// being a part of it.
    conti: Option<(Exe, u64)>,
    /// Pid namespaces, and whether each is the target's or below it.
    known: HashMap<u64, bool>,
}

impl<'a> Chosen<'a> {
    fn new(whose: &'a Whose, agent: &str) -> Result<Chosen<'a>, Failure> {
        let (mut namespace, mut depth) = (None, 0);
        if let Some(ProcessId { pid, .. }) = whose.member.filter(|_| whose.by_namespace) {
            let directory = process::directory(pid)?;
            let gone = |error: std::io::Error| process::gone(pid, &error);
            let links = process::namespaces(&directory).map_err(|errno| gone(errno.into()))?;
            namespace = process::readable_namespace(&links, NsType::Pid.file_name())
                .map_err(|errno| gone(errno.into()))?;
            let status = Status::read(&directory).map_err(gone)?;
            depth = status.numbers("NSpid:").len().saturating_sub(1);
        }
        let agent = format!("/{agent}/");
        let conti = process::directory(rustix::process::getpid().as_raw_pid());
        let conti = conti.ok().and_then(|own| program(&own));
        Ok(Chosen { whose, agent, namespace, depth, conti, known: HashMap::new() })
    }

    fn choose(&mut self, pid: i32, directory: &OwnedFd) -> Choice {
        let Some(member) = self.whose.member else { return Choice::Yes };
        if pid == member.pid {
            return Choice::Yes;
        }
        if let Some(wanted) = self.namespace {
            let links = process::namespaces(directory).ok();
            let links = links.as_ref();
            match links.and_then(|links| namespace_of(links, NsType::Pid.file_name())) {
                Some(inode) if self.is_within(inode, wanted, links) => return Choice::Yes,
                Some(_) => {}
                None => return Choice::AsItsParent,
            }
        }
        match &self.whose.group {
            Some(wanted) if self.group_of(directory).as_ref() == Some(wanted) => {
                let is_conti = self.conti.is_some() && program(directory) == self.conti;
                if is_conti { Choice::Not } else { Choice::Yes }
            }
            _ => Choice::Not,
        }
    }

    /// Whether a pid namespace is the wanted one or lies below it.
    fn is_within(&mut self, inode: u64, wanted: u64, links: Option<&OwnedFd>) -> bool {
        if inode == wanted {
            return true;
        }
        if let Some(known) = self.known.get(&inode) {
            return *known;
        }
        let open = |links| openat(links, "pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mut at = links.and_then(|links| open(links).ok());
        let mut within = false;
        // Pid namespaces nest 32 deep at most (pid_namespaces(7)); none is above the inspector's own.
        while let Some(above) = at.and_then(|ns| ns::parent(&ns).ok()) {
            within |= process::inode(&above).ok() == Some(wanted);
            at = Some(above);
        }
        self.known.insert(inode, within);
        within
    }

    /// The name of the agent's cgroup that a process is in, in any hierarchy.
    fn group_of(&self, directory: &OwnedFd) -> Option<String> {
        group_in(&process::read(directory, "cgroup", FILE_MAX).ok()?, &self.agent)
    }
}

/// The name of the cgroup below that of the `agent` in a text of /proc/PID/cgroup (cgroups(7)).
pub(super) fn group_in(text: &[u8], agent: &str) -> Option<String> {
    // The agent's own names are ASCII; others may have any bytes.
    let text = String::from_utf8_lossy(text);
    let below = text.lines().find_map(|line| Some(line.split_once(agent)?.1));
    below.and_then(|below| below.split('/').next()).map(str::to_owned)
}

/// The device and inode number of a program.
type Exe = (u32, u32, u64);

/// What a process runs, and its mount namespace.
fn program(directory: &OwnedFd) -> Option<(Exe, u64)> {
    let exe = statx(directory, "exe", AtFlags::empty(), StatxFlags::INO).ok()?;
    let links = process::namespaces(directory).ok()?;
    let namespace = namespace_of(&links, NsType::Mount.file_name())?;
    Some(((exe.stx_dev_major, exe.stx_dev_minor, exe.stx_ino), namespace))
}

/// What /proc says of a process.
fn look_at(pid: i32, directory: &OwnedFd, depth: usize) -> Option<Process> {
    let stat = process::read(directory, "stat", FILE_MAX).ok()?;
    let status = Status::read(directory).ok()?;
    let process = described(pid, &stat, &status, depth)?;
    Some(Process { argv: arguments(directory), ..process })
}

/// What two files of /proc say of a process.
pub(super) fn described(pid: i32, stat: &[u8], status: &Status, depth: usize) -> Option<Process> {
    let (name, fields) = process::name_and_fields(stat)?;
    // By the numbers of proc_pid_stat(5), the first of these being 3.
    let field = |field: usize| fields.get(field - 3).copied();
    let number = |at: usize| status::number::<u64>(field(at)?);
    let kib = |name| {
        let text = status.field(name)?.strip_suffix(b" kB")?;
        Some(status::number::<u64>(text)?.saturating_mul(1024))
    };
    let pids = status.numbers("NSpid:");
    let pid_at = |pid: Option<&u32>| pid.and_then(|pid| i32::try_from(*pid).ok());
    Some(Process {
        id: ProcessId { pid, start_ticks: number(22)? },
        parent: number(4)?.try_into().ok()?,
        target_pid: pid_at(pids.get(depth)).unwrap_or(0),
        own_pid: pid_at(pids.last()).unwrap_or(pid),
        uid: status.id("Uid:")?,
        state: *field(3)?.first()?,
        user_ticks: number(14)?,
        system_ticks: number(15)?,
        nice: status::number(field(19)?)?,
        threads: number(20)?.try_into().ok()?,
        resident: kib("VmRSS:").unwrap_or(0),
        total: kib("VmSize:").unwrap_or(0),
        swap: kib("VmSwap:").unwrap_or(0),
        name: name.to_owned(),
        argv: Vec::new(),
        group: String::new(),
    })
}

/// The arguments of a process, each ended by a NUL byte but perhaps the last.
fn arguments(directory: &OwnedFd) -> Vec<u8> {
    process::read(directory, "cmdline", ARGV_MAX).unwrap_or_default()
}

/// A clock, in nanoseconds.
fn now(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Neither clock shows a time before 1970 or after 2500.
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}
