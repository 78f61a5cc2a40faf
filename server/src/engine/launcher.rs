//! The agent's side of the launcher: starts it, asks it for monitors, starts it again when it died or does not
//! answer. What it has forked goes on without it.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use conti_runtime::{
    inspect::process::start_time,
    launcher, own,
    protocol::{LauncherReply, LauncherRequest, MAX_PACKET, ProcessId},
    sys::{
        memfd,
        socket::{self, Wait},
    },
};
use rustix::process::{Pid, Resource, Rlimit, Signal, pidfd_send_signal, prlimit};
use tokio::{io::unix::AsyncFd, sync::Mutex, time::timeout};
use tracing::{Instrument as _, info, warn};

use super::{
    bounds::{self, answered},
    counts::Counts,
    error::{Error, Result},
    io_error,
    monitor::Monitor,
    watched::watched,
};

/// The launcher of this agent.
#[derive(Debug)]
pub struct Launcher {
    /// Its program, sealed in memory: nothing on disk can change what is started later.
    image: OwnedFd,
    /// What it is called in the process list.
    tag: String,
    /// Its limit of open files, which sessions inherit.
    open_files: Rlimit,
    /// The one that runs. Held over a request and its reply.
    running: Mutex<Option<Running>>,
    /// Where it is counted that one had died.
    counts: Arc<Counts>,
}

/// A launcher that runs.
#[derive(Debug)]
struct Running {
    socket: AsyncFd<OwnedFd>,
    exit: AsyncFd<OwnedFd>,
    process: launcher::Launcher,
}

impl Running {
    /// What names it for good, while it is not reaped.
    fn id(&self) -> Option<ProcessId> {
        let pid = i32::try_from(self.process.pid()).ok()?;
        Some(ProcessId { pid, start_ticks: start_time(pid).ok()? })
    }

    /// Lets it go, kills it where it does not exit by itself, and reaps it.
    async fn end(self) {
        let Running { socket, exit, mut process } = self;
        drop(socket);
        process.let_go();
        if timeout(bounds::LAUNCHER_EXIT, exit.readable()).await.is_err() {
            kill(&process);
        }
        reap(exit, process).await;
    }

    /// Kills one that does not answer, and reaps it.
    async fn kill(self) {
        kill(&self.process);
        reap(self.exit, self.process).await;
    }
}

fn kill(process: &launcher::Launcher) {
    // It is not reaped yet: one that has ended meanwhile needs no signal.
    let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
}

/// Reaps a launcher: at once, or else when it dies some time after all.
async fn reap(exit: AsyncFd<OwnedFd>, process: launcher::Launcher) {
    if timeout(bounds::GONE, exit.readable()).await.is_ok() {
        let _ = process.wait();
        return;
    }
    warn!(pid = process.pid(), "the launcher was killed and has not ended; it is left to itself");
    tokio::spawn(async move {
        let _ = exit.readable().await;
        let _ = process.wait();
    });
}

/// How a request went.
enum Answer {
    Forked(i32),
    Refused(io::Error),
    /// It has died.
    Died(io::Error),
    /// It says nothing.
    Silent,
}

impl Launcher {
    /// Takes the program at `path`. Nothing is started yet.
    pub fn new(
        path: &Path,
        tag: &str,
        open_files: Rlimit,
        counts: Arc<Counts>,
    ) -> io::Result<Launcher> {
        let mut file = own::open_named(path)?;
        let image = memfd::executable("conti-runtime", &mut file)?;
        let tag = tag.to_owned();
        Ok(Launcher { image, tag, open_files, running: Mutex::new(None), counts })
    }

    /// Asks the program what it is: only a conti-runtime of this agent's own version understands it. Else, what
    /// is wrong with it.
    pub async fn check(&self) -> std::result::Result<(), String> {
        let image = self.image.try_clone().map_err(|error| error.to_string())?;
        let asked = move || launcher::version_of(image.as_fd(), bounds::VERSION);
        match tokio::task::spawn_blocking(asked).await.map_err(io::Error::other).flatten() {
            Ok(said) if said == launcher::VERSION => Ok(()),
            Ok(said) => {
                let wanted = launcher::VERSION;
                Err(format!("asked for its version it says {said:?}, and not {wanted:?}"))
            }
            Err(error) => Err(format!("it cannot be asked for its version: {error}")),
        }
    }

    /// The program conti-runtime, as an open file.
    pub fn image(&self) -> BorrowedFd<'_> {
        self.image.as_fd()
    }

    /// Forks a monitor that is ready for its plan. `procs` are `cgroup.procs` files that its
    /// forker attaches itself to.
    pub async fn spawn_monitor(self: &Arc<Self>, procs: Vec<OwnedFd>) -> Result<Monitor> {
        let (socket, pid) = self.fork(LauncherRequest::Spawn, procs).await?;
        let monitor = Monitor::new(socket, None).map_err(io_error("cannot watch a monitor"))?;
        monitor.prepared(pid).await
    }

    /// Forks an inspector, and returns the socket for its question, and its pid.
    pub async fn spawn_inspector(self: &Arc<Self>) -> Result<(OwnedFd, i32)> {
        self.fork(LauncherRequest::Inspect, Vec::new()).await
    }

    /// Has the launcher fork something that talks with the agent over the socket that this returns.
    async fn fork(
        self: &Arc<Self>,
        wanted: LauncherRequest,
        more: Vec<OwnedFd>,
    ) -> Result<(OwnedFd, i32)> {
        let launcher = self.clone();
        // In a task of its own: a request whose caller goes away half way would leave its reply to the next one.
        let fork = async move { launcher.fork_now(&wanted, &more).await };
        tokio::spawn(fork.in_current_span()).await.unwrap_or(Err(Error::Stopping))
    }

    /// A launcher that is found to have died, or says nothing, is replaced, and the request made again: once.
    async fn fork_now(&self, wanted: &LauncherRequest, more: &[OwnedFd]) -> Result<(OwnedFd, i32)> {
        let failed = io_error("cannot fork a monitor or an inspector");
        let mut running = self.running.lock().await;
        for last in [false, true] {
            // A pair for each: what the one before has forked after all finds its own closed. It is made before the
            // launcher is taken out, so that that stays where there are no files for one.
            let (ours, theirs) = socket::pair().map_err(&failed)?;
            let current = match running.take() {
                Some(current) => current,
                None => self.start().await.map_err(io_error("cannot start the launcher"))?,
            };
            let mut fds = vec![theirs.as_fd()];
            fds.extend(more.iter().map(|fd| fd.as_fd()));
            match ask(&current, wanted, &fds).await {
                Answer::Forked(pid) => {
                    *running = Some(current);
                    return Ok((ours, pid));
                }
                Answer::Refused(error) => {
                    *running = Some(current);
                    return Err(failed(error));
                }
                Answer::Died(error) => {
                    current.end().await;
                    if last {
                        return Err(failed(error));
                    }
                    warn!(%error, "the launcher is gone; starting another");
                }
                Answer::Silent => {
                    let pid = i32::try_from(current.process.pid()).unwrap_or_default();
                    let error = bounds::stuck(
                        "the launcher was asked to fork".to_owned(),
                        "it".to_owned(),
                        pid,
                        "it was killed; try again",
                    );
                    current.kill().await;
                    if last {
                        return Err(error);
                    }
                    warn!(%error, "the launcher does not answer; starting another");
                }
            }
            self.counts.launcher_restarts.add(1);
        }
        Err(Error::Internal("the launcher cannot be started".into()))
    }

    async fn start(&self) -> io::Result<Running> {
        let (image, tag) = (self.image.try_clone()?, self.tag.clone());
        // It waits until the program has begun.
        let started = tokio::task::spawn_blocking(move || launcher::start(image.as_fd(), &tag));
        let started = timeout(bounds::FORK, started).await.map_err(|_| io::ErrorKind::TimedOut)?;
        let process = started.map_err(io::Error::other)??;
        let prepare = || {
            // Before it is asked for anything, so that all that it forks has it.
            let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
            prlimit(pid, Resource::Nofile, self.open_files)?;
            let exit = watched(process.pidfd.try_clone()?)?;
            io::Result::Ok((watched(process.socket()?.try_clone()?)?, exit))
        };
        match prepare() {
            Ok((socket, exit)) => {
                info!(pid = process.pid(), "launcher started");
                Ok(Running { socket, exit, process })
            }
            Err(error) => {
                kill(&process);
                let _ = process.wait();
                Err(error)
            }
        }
    }

    /// Lets the launcher go. Monitors and what they run stay.
    pub async fn stop(&self) {
        // A request under way holds it for a while.
        let running = timeout(bounds::GONE, self.running.lock()).await;
        if let Some(running) = running.ok().and_then(|mut running| running.take()) {
            running.end().await;
        }
    }
}

async fn ask(running: &Running, wanted: &LauncherRequest, fds: &[BorrowedFd<'_>]) -> Answer {
    let reply = request(&running.socket, wanted, fds);
    match answered(bounds::FORK, running.id(), reply).await {
        Some(Ok(LauncherReply::Spawned { pid })) => Answer::Forked(pid),
        Some(Ok(LauncherReply::Failed { errno })) => {
            Answer::Refused(io::Error::from_raw_os_error(errno))
        }
        Some(Err(error)) => Answer::Died(error),
        None => Answer::Silent,
    }
}

async fn request(
    socket: &AsyncFd<OwnedFd>,
    wanted: &LauncherRequest,
    fds: &[BorrowedFd<'_>],
) -> io::Result<LauncherReply> {
    let packet = serde_json::to_vec(wanted)?;
    loop {
        let mut ready = socket.writable().await?;
        if let Ok(sent) = ready.try_io(|fd| socket::send_packet(fd, &packet, fds, Wait::No)) {
            sent?;
            break;
        }
    }
    loop {
        let mut ready = socket.readable().await?;
        let mut buffer = vec![0; MAX_PACKET];
        if let Ok(received) = ready.try_io(|fd| socket::recv_packet(fd, &mut buffer, Wait::No)) {
            let len = received?.len;
            if len == 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            return Ok(serde_json::from_slice(&buffer[..len])?);
        }
    }
}
