//! How long the engine waits for others, and what it says where they do not answer.
//!
//! Nothing is waited for without end: a process can be stopped or frozen, a filesystem can hang. Each bound is
//! far beyond what a busy host takes. Where one passes, the error names the process that is in the way, its
//! state, and what was tried; the call can be made again.

use std::{
    future::pending,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use conti_runtime::{
    host,
    inspect::process::{name_and_fields, start_time_in},
    protocol::ProcessId,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{
    carry,
    cgroup::Cgroups,
    error::{Error, Result, Stuck},
};

/// Until the launcher has forked: tenths of a millisecond, and a fork waits for memory on a host that has none.
pub const FORK: Duration = Duration::from_secs(30);
/// Until the runtime has said which version it is. It does nothing else then.
pub const VERSION: Duration = Duration::from_secs(30);
/// Until the launcher has exited after its socket was closed.
pub const LAUNCHER_EXIT: Duration = Duration::from_secs(1);
/// Until a monitor is ready for a plan: with version 1 cgroups it waits for an RCU grace period in each hierarchy.
pub const PREPARE: Duration = Duration::from_secs(30);
/// Until a command runs, or a container is assembled, once the plan was handed over. What is mounted there may be a
/// slow device.
pub const SET_UP: Duration = Duration::from_secs(90);
/// Until what a plan needs was opened and mounted on the host. A journal that is replayed takes its time.
pub const SOURCES: Duration = Duration::from_secs(90);
/// Until the programs of a root filesystem, which may be many, are copied.
pub const COPY: Duration = Duration::from_secs(600);
/// Until the kernel has told of one process.
pub const PROCESS: Duration = Duration::from_secs(10);
/// Until all monitors of an earlier agent have said where they stand. They do nothing else that takes long.
pub const STANDING: Duration = Duration::from_secs(5);
/// Until the end of a session is told whose processes were all killed.
pub const END: Duration = Duration::from_secs(15);
/// Until a process is gone that was killed itself, in place of waiting for it any longer.
pub const GONE: Duration = Duration::from_secs(5);
/// Until the kernel has carried out a change of cgroups. It lets one through at a time.
pub const CGROUPS: Duration = Duration::from_secs(20);
/// Until another call has done with the same container. Less than it may take at the worst: both then say why.
pub const TURN: Duration = Duration::from_secs(60);
/// Until slots are given back and removals are done, when the agent stops.
pub const LAST_REMOVALS: Duration = Duration::from_secs(3);

/// Until the agent has the files or the memory that a removal takes, where it is out of them.
pub const SHORTAGE: Duration = Duration::from_secs(60);

/// Until what an earlier agent had begun to remove is gone, when the agent starts. Longer ones go on meanwhile.
pub const STARTING_REMOVALS: Duration = Duration::from_secs(3);

/// How often it is looked whether a process that does not answer is able to.
pub const LOOK: Duration = Duration::from_secs(1);

/// How many threads the calls of one identity have that touch files and devices of others. What hangs there keeps its
/// thread, also when its call was given up.
pub const THREADS_EACH: usize = 32;
/// How many there are of all, so that others are left for whatever else blocks: tokio has 512.
const THREADS: usize = 256;

/// The threads of all.
static ALL_THREADS: LazyLock<carry::Threads> = LazyLock::new(|| Arc::new(Semaphore::new(THREADS)));

/// A thread that may touch what hangs, among those of its caller and of all.
#[derive(Debug)]
pub struct Thread {
    _own: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Thread {
    /// Waits until one is free, until `limit`.
    pub async fn free(limit: Duration, tried: &'static str) -> Result<Thread> {
        let free = async {
            // The semaphores are never closed.
            let own = match carry::threads() {
                Some(threads) => threads.acquire_owned().await.ok(),
                None => None,
            };
            Thread { _own: own, _of_all: ALL_THREADS.clone().acquire_owned().await.ok() }
        };
        timeout(limit, free).await.map_err(|_| Error::Exhausted {
            what: format!(
                "{tried}: earlier calls wait for filesystems or devices that do not answer: {THREADS_EACH} of this \
                 caller, or {THREADS} of all"
            ),
            errno: libc::ETIMEDOUT,
        })
    }
}

/// As [`blocking`], with files and devices of others, which may hang for ever. The thread counts for the caller as long
/// as that takes.
pub async fn foreign<T: Send + 'static>(
    limit: Duration,
    tried: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let begun = Instant::now();
    let thread = Thread::free(limit, tried).await?;
    let work = move || {
        let _thread = thread;
        work()
    };
    blocking(limit.saturating_sub(begun.elapsed()), tried, work).await
}

/// Waits for what a process does, until `limit`. Sooner given up where the process is seen to be stopped twice in a
/// row: it answers when somebody lets it go on, which no time bounds.
pub async fn answered<T>(
    limit: Duration,
    process: Option<ProcessId>,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        answer = timeout(limit, work) => answer.ok(),
        () = stopped(process) => None,
    }
}

/// Resolves when a process is seen to be stopped twice in a row.
async fn stopped(process: Option<ProcessId>) {
    let Some(process) = process else { return pending().await };
    let mut before = false;
    loop {
        sleep(LOOK).await;
        let now = State::of(process).is_some_and(|state| state.is_stopped());
        if before && now {
            return;
        }
        before = now;
    }
}

/// Runs what may block on a thread that may, and waits for it until `limit`. What hangs keeps its thread.
pub async fn blocking<T: Send + 'static>(
    limit: Duration,
    tried: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let begun = Instant::now();
    match timeout(limit, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done),
        // A panic is a defect; it is told where it was made and goes on here.
        Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Ok(Err(_)) => Err(Error::Stopping),
        Err(_) => Err(silent(tried, begun.elapsed())),
    }
}

/// The error for a kernel that does not answer.
pub fn silent(tried: &'static str, waited: Duration) -> Error {
    let waited = humantime::format_duration(Duration::from_secs(waited.as_secs()));
    Error::Exhausted {
        what: format!(
            "{tried}: the kernel has not answered for {waited}; a filesystem or a device may hang"
        ),
        errno: libc::ETIMEDOUT,
    }
}

/// The error for a process that does not answer. `role`: what it is, e.g. `the monitor of session …`.
pub fn stuck(tried: String, role: String, pid: i32, hint: &'static str) -> Error {
    let state = State::read(pid).map_or("gone".to_owned(), |state| state.describe());
    Error::Stuck(Box::new(Stuck { tried, role, pid, state, hint }))
}

/// Why a process does not go on, in words: it is stopped, or its cgroup is frozen. `None`: it is neither.
pub fn held(process: ProcessId, cgroups: &Cgroups) -> Option<String> {
    let state = State::of(process)?;
    if state.is_stopped() {
        return Some(state.describe());
    }
    // The letter of a frozen one depends on the version of the cgroup.
    let file = cgroups.frozen_process(process.pid).ok()??;
    Some(format!("frozen, as {} says", file.display()))
}

/// Whether a process could do something at this moment: it is alive, and neither stopped nor frozen.
pub fn is_able(process: ProcessId, cgroups: &Cgroups) -> bool {
    let lives = State::of(process).is_some_and(|state| !state.is_over());
    lives && held(process, cgroups).is_none()
}

/// The children of a process, as far as the kernel tells them (CONFIG_PROC_CHILDREN).
pub fn children(process: ProcessId) -> Vec<i32> {
    let file = format!("/proc/{0}/task/{0}/children", process.pid);
    let pids = host::read_to_string(file).unwrap_or_default();
    // What was read is its own only if it is still there.
    let alive = State::of(process).is_some();
    pids.split_whitespace().filter(|_| alive).filter_map(|pid| pid.parse().ok()).collect()
}

/// The state of a process, as the kernel names it: field 3 of /proc/PID/stat (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(u8);

impl State {
    /// The state of a process, if it is still the one that is meant.
    pub fn of(process: ProcessId) -> Option<State> {
        let stat = host::read_line(format!("/proc/{}/stat", process.pid)).ok()?;
        let started = start_time_in(&stat)?;
        (started == process.start_ticks).then_some(State::parse(&stat)?)
    }

    /// The state of whatever process has a pid.
    pub fn read(pid: i32) -> Option<State> {
        State::parse(&host::read_line(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &[u8]) -> Option<State> {
        let (_, fields) = name_and_fields(stat)?;
        Some(State(*fields.first()?.first()?))
    }

    /// Whether it was stopped by a signal or a tracer, and does nothing until it is let go on.
    pub fn is_stopped(self) -> bool {
        matches!(self.0, b'T' | b't')
    }

    /// Whether it has ended.
    pub fn is_over(self) -> bool {
        matches!(self.0, b'Z' | b'X')
    }

    /// Whether it waits in the kernel, and for no signal.
    pub fn is_held(self) -> bool {
        self.0 == b'D'
    }

    /// For people, with the kernel's letter.
    pub fn describe(self) -> String {
        let word = match self.0 {
            b'R' => "running",
            b'S' => "asleep",
            b'D' => "in the kernel and not to be interrupted, or frozen",
            b'T' => "stopped",
            b't' => "stopped by a tracer",
            b'I' => "idle",
            b'Z' | b'X' => "dead and not yet reaped",
            _ => "in a state of its own",
        };
        format!("{word} ({})", char::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_process_with_any_name_is_read() {
        let state = State::parse(b"7 (\xff) R (x)) T 1 7 7 0").unwrap();
        assert!(state.is_stopped() && !state.is_over());
        assert_eq!(state.describe(), "stopped (T)");
        assert_eq!(State::parse(b"7 (x"), None);
    }

    #[test]
    fn the_children_of_a_process_are_told_as_long_as_it_is_the_one_that_is_meant() {
        let mut shell = std::process::Command::new("/bin/sh")
            .args(["-c", "sleep 100000 & read _; kill $!"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = shell.id() as i32;
        let start_ticks = conti_runtime::inspect::process::start_time(pid).unwrap();
        let shell_id = ProcessId { pid, start_ticks };
        while children(shell_id).len() != 1 {
            std::thread::yield_now();
        }
        assert_eq!(children(ProcessId { pid, start_ticks: start_ticks + 1 }), [0; 0]);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(children(shell_id), [0; 0]);
    }

    #[test]
    fn another_process_with_the_same_pid_has_no_state_of_its_own() {
        let pid = std::process::id() as i32;
        assert_eq!(State::of(ProcessId { pid, start_ticks: 0 }), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_given_up() {
        assert_eq!(answered(END, None, pending::<()>()).await, None);
        assert_eq!(answered(END, None, async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn what_hangs_of_one_caller_leaves_threads_to_others() {
        let (end, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let of = |threads: &carry::Threads, work: Box<dyn FnOnce() + Send>| {
            let threads = threads.clone();
            tokio::spawn(async move {
                // As the work of a call that is carried out in a task of its own.
                let work = async { carry::to_its_end(foreign(SOURCES, "cannot open", work)).await };
                carry::holding(Arc::new(()), threads, work).await
            })
        };
        let [one, other] = [(); 2].map(|()| carry::Threads::new(Semaphore::new(THREADS_EACH)));
        for _ in 0..THREADS_EACH {
            let held = held.clone();
            drop(of(&one, Box::new(move || drop(held.lock().map(|end| end.recv())))));
        }
        while one.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let next = of(&one, Box::new(|| ()));
        of(&other, Box::new(|| ())).await.unwrap().unwrap().unwrap();
        assert!(!next.is_finished(), "it waits for a thread of its caller's");
        drop(end);
        next.await.unwrap().unwrap().unwrap();
    }
}
