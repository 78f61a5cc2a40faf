//! The agent's side of the launcher: starts it, asks it for monitors, starts it again when it died.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use conti_runtime::{
    launcher, own,
    protocol::{LauncherReply, LauncherRequest, MAX_PACKET},
    sys::{
        memfd,
        socket::{self, Wait},
    },
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{io::unix::AsyncFd, sync::Mutex};
use tracing::{info, warn};

use super::{counts::Counts, monitor::Monitor, watched::watched};

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
    process: launcher::Launcher,
}

impl Running {
    /// Lets it go, and reaps it.
    async fn end(self) {
        drop(self.socket);
        let process = self.process;
        let _ = tokio::task::spawn_blocking(move || process.wait()).await;
    }
}

impl Launcher {
    /// Takes the program at `path`. Nothing is started yet.
    pub fn new(
        path: &Path,
        tag: &str,
        open_files: Rlimit,
        counts: Arc<Counts>,
    ) -> io::Result<Launcher> {
        let mut file = own::open(path)?;
        let image = memfd::executable("conti-runtime", &mut file)?;
        let tag = tag.to_owned();
        Ok(Launcher { image, tag, open_files, running: Mutex::new(None), counts })
    }

    /// The program conti-runtime, as an open file.
    pub fn image(&self) -> BorrowedFd<'_> {
        self.image.as_fd()
    }

    /// Forks a monitor that is not told its plan yet. `procs` are `cgroup.procs` files that its
    /// forker attaches itself to.
    pub async fn spawn_monitor(&self, procs: &[OwnedFd]) -> io::Result<Monitor> {
        Monitor::new(self.fork(&LauncherRequest::Spawn, procs).await?)
    }

    /// Forks an inspector, and returns the socket for its question.
    pub async fn spawn_inspector(&self) -> io::Result<OwnedFd> {
        self.fork(&LauncherRequest::Inspect, &[]).await
    }

    /// Has the launcher fork something that talks with the agent over the socket that this returns.
    async fn fork(&self, wanted: &LauncherRequest, more: &[OwnedFd]) -> io::Result<OwnedFd> {
        let (ours, theirs) = socket::pair()?;
        let mut fds = vec![theirs.as_fd()];
        fds.extend(more.iter().map(|fd| fd.as_fd()));
        let mut running = self.running.lock().await;
        // A launcher that died (or was killed) is found out by the first request after it.
        for attempt in 0..2 {
            let current = match running.take() {
                Some(current) => current,
                None => self.start()?,
            };
            match request(&current.socket, wanted, &fds).await {
                Ok(LauncherReply::Spawned { .. }) => {
                    *running = Some(current);
                    return Ok(ours);
                }
                Ok(LauncherReply::Failed { errno }) => {
                    *running = Some(current);
                    return Err(io::Error::from_raw_os_error(errno));
                }
                Err(error) => {
                    current.end().await;
                    if attempt > 0 {
                        return Err(error);
                    }
                    self.counts.launcher_restarts.add(1);
                    warn!(%error, "the launcher is gone; starting another");
                }
            }
        }
        Err(io::Error::other("the launcher cannot be started"))
    }

    fn start(&self) -> io::Result<Running> {
        let process = launcher::start(self.image.as_fd(), &self.tag)?;
        // Before it is asked for anything, so that all that it forks has it.
        let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
        prlimit(pid, Resource::Nofile, self.open_files)?;
        info!(pid = process.pid(), "launcher started");
        Ok(Running { socket: watched(process.socket.try_clone()?)?, process })
    }

    /// Lets the launcher go. Monitors and what they run stay.
    pub async fn stop(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.end().await;
        }
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
