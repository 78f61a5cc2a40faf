//! A small agent: it starts a launcher and drives monitors over the real protocol.

use std::{
    ffi::OsStr,
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use conti_runtime::{
    journal::{self, ReadResult, Reader, Sizes},
    launcher::{self, Launcher},
    plan::{Confinement, Fd, Identity, JoinPlan, Place, Plan, Process, SetupFailure, Stdio},
    protocol::{
        End, FromMonitor, KillCause, LauncherReply, LauncherRequest, MAX_PACKET, MonitorState,
        ToMonitor,
    },
    sys::{
        memfd,
        socket::{self, Wait, recv_packet, send_packet, send_with_fds},
    },
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    process::{PidfdFlags, getpid, pidfd_open},
};

/// Long enough for a loaded machine; nothing waits that long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Agent {
    pub launcher: Launcher,
}

impl Agent {
    pub fn start() -> Agent {
        let mut program = File::open(env!("CARGO_BIN_EXE_conti-runtime")).unwrap();
        let image = memfd::executable("conti-runtime", &mut program).unwrap();
        Agent { launcher: launcher::start(image.as_fd(), "test").unwrap() }
    }

    /// A monitor that is prepared, with its forker's pid.
    pub fn monitor(&self, cgroups: &[OwnedFd]) -> (OwnedFd, i32, i32) {
        let (ours, theirs) = socket::pair().unwrap();
        let mut fds = vec![theirs.as_fd()];
        fds.extend(cgroups.iter().map(AsFd::as_fd));
        let request = serde_json::to_vec(&LauncherRequest::Spawn).unwrap();
        send_packet(self.launcher.socket().unwrap(), &request, &fds, Wait::Yes).unwrap();
        let mut buffer = [0; 256];
        let packet = recv_packet(self.launcher.socket().unwrap(), &mut buffer, Wait::Yes).unwrap();
        let reply = serde_json::from_slice(&buffer[..packet.len]).unwrap();
        let LauncherReply::Spawned { pid } = reply else { panic!("{reply:?}") };
        drop(theirs);
        match receive(&ours).0 {
            FromMonitor::Prepared { forker, monitor } => {
                assert!(monitor.pid == pid && monitor.start_ticks > 0, "{monitor:?}");
                (ours, pid, forker.map_or(0, |forker| forker.pid))
            }
            other => panic!("{other:?}"),
        }
    }

    /// A session that runs a plan.
    pub fn run(&self, plan: &Plan) -> Session {
        let (control, pid, _) = self.monitor(&[]);
        Session::order(control, pid, plan)
    }
}

/// A plan that runs a command in the host's namespaces.
pub fn plan(argv: &[&str], stdio: Stdio) -> Plan {
    Plan {
        session_id: "test".into(),
        place: Place::Join(JoinPlan {
            pidfd: Fd(0),
            namespaces: Vec::new(),
            uid_maps: Vec::new(),
            gid_maps: Vec::new(),
            host_mount_ns: Some(Fd(1)),
            root: None,
            cwd: None,
            tools: None,
        }),
        process: Process {
            argv: argv.iter().map(|&a| a.into()).collect(),
            env: vec!["PATH=/usr/bin:/bin".into()],
            raw_env: Vec::new(),
            cwd: "/".into(),
            create_cwd: false,
            identity: Identity::Ids { uid: 0, gid: 0, groups: Vec::new() },
            rlimits: Vec::new(),
            confinement: Confinement::default(),
            oom_score_adj: None,
            umask: 0o022,
        },
        stdio,
        paused: false,
        deadline_ms: None,
        drain_ms: 60_000,
        cgroup: None,
    }
}

pub fn shell(script: &str) -> Plan {
    plan(&["/bin/sh", "-c", script], Stdio::Pipes { stdin: true })
}

/// The agent's side of one session.
pub struct Session {
    pub control: OwnedFd,
    pub monitor: i32,
    pub reader: Reader,
    pub wakeup: OwnedFd,
    pub monitor_wakeup: OwnedFd,
    pub directory: tempfile::TempDir,
}

impl Session {
    pub fn order(control: OwnedFd, monitor: i32, plan: &Plan) -> Session {
        let journal = journal::create(Sizes::default()).unwrap();
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let (wakeup, monitor_wakeup) = (eventfd(0, flags).unwrap(), eventfd(0, flags).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let opened = File::open(directory.path()).unwrap();
        let listener = socket::listen(&opened, OsStr::new("socket")).unwrap();
        let content = serde_json::to_vec(plan).unwrap();
        let memfd = memfd::sealed("plan", &content).unwrap();
        let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let mounts = File::open("/proc/self/ns/mnt").unwrap();
        let devpts = File::open("/dev/pts").unwrap();
        let mut fds: Vec<BorrowedFd<'_>> = vec![
            memfd.as_fd(),
            journal.as_fd(),
            wakeup.as_fd(),
            monitor_wakeup.as_fd(),
            listener.as_fd(),
            opened.as_fd(),
            own.as_fd(),
            mounts.as_fd(),
            devpts.as_fd(),
        ];
        // So many that they need packets of their own.
        fds.resize(6 + 600, mounts.as_fd());
        let run = serde_json::to_vec(&ToMonitor::Run { plan_fds: 600 }).unwrap();
        let more = serde_json::to_vec(&ToMonitor::MoreFds).unwrap();
        send_with_fds(&control, &run, &more, &fds, Wait::Yes).unwrap();
        let reader = Reader::map(journal).unwrap();
        Session { control, monitor, reader, wakeup, monitor_wakeup, directory }
    }

    pub fn tell(&self, message: &ToMonitor) {
        let bytes = serde_json::to_vec(message).unwrap();
        send_packet(&self.control, &bytes, &[], Wait::Yes).unwrap();
    }

    pub fn signal(&self, signal: i32, cause: Option<KillCause>) {
        self.tell(&ToMonitor::Signal { signal, cause });
    }

    pub fn expect_start(&self) {
        assert!(matches!(receive(&self.control).0, FromMonitor::Created(id) if id.start_ticks > 0));
        let next = receive(&self.control).0;
        assert!(matches!(next, FromMonitor::Started), "{next:?}");
    }

    pub fn expect_failure(&self) -> SetupFailure {
        loop {
            match receive(&self.control).0 {
                FromMonitor::Failed(failure) => return failure,
                FromMonitor::Created(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn wake_monitor(&self) {
        rustix::io::write(&self.monitor_wakeup, &1u64.to_ne_bytes()).unwrap();
    }

    pub fn ack(&self, offset: u64) {
        self.reader.set_acked(offset);
        self.wake_monitor();
    }

    /// Pushes all of the input while all of the output is read and acknowledged, until the end.
    pub fn stream(&self, mut input: &[u8]) -> (Vec<u8>, Vec<u8>, End) {
        let (mut out, mut err, mut offset) = (Vec::new(), Vec::new(), 0);
        let mut end = None;
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "at {offset} of {}", self.reader.head());
            if !self.reader.input_closed() {
                let n = self.reader.push_input(input);
                input = &input[n..];
                if self.reader.input_broken() || input.is_empty() {
                    self.reader.close_input();
                }
                self.wake_monitor();
            }
            match self.reader.read(offset, 256 << 10) {
                ReadResult::Data { stderr, bytes, .. } => {
                    if stderr { &mut err } else { &mut out }.extend_from_slice(&bytes);
                    offset += bytes.len() as u64;
                    self.ack(offset);
                    continue;
                }
                ReadResult::Gap { .. } => panic!("a gap at {offset}"),
                ReadResult::Empty => {}
            }
            if let Some(end) = end {
                return (out, err, end);
            }
            let mut fds = [
                PollFd::new(&self.wakeup, PollFlags::IN),
                PollFd::new(&self.control, PollFlags::IN),
            ];
            poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
            let _ = rustix::io::read(&self.wakeup, &mut [0; 8]);
            if !fds[1].revents().is_empty() {
                match receive(&self.control).0 {
                    FromMonitor::Ended(e) => end = Some(e),
                    FromMonitor::Created(_) | FromMonitor::Started => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// Lets the monitor go and waits until it has gone.
    pub fn release(self) -> tempfile::TempDir {
        let pidfd = rustix::process::Pid::from_raw(self.monitor)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        self.tell(&ToMonitor::Release);
        if let Some(pidfd) = pidfd {
            wait_readable(&pidfd);
        }
        self.directory
    }

    /// As an agent that was started again.
    pub fn reconnect(mut self) -> (Session, MonitorState) {
        self.control = socket::connect_path(&self.directory.path().join("socket")).unwrap();
        let (message, fds) = receive(&self.control);
        let FromMonitor::State { version, state } = message else { panic!("{message:?}") };
        assert_eq!(version, conti_runtime::protocol::VERSION);
        let mut fds = fds.into_iter();
        self.reader = Reader::map(fds.next().unwrap()).unwrap();
        self.wakeup = fds.next().unwrap();
        self.monitor_wakeup = fds.next().unwrap();
        (self, state)
    }
}

pub fn receive(socket: &OwnedFd) -> (FromMonitor, Vec<OwnedFd>) {
    wait_readable(socket);
    let mut buffer = vec![0; MAX_PACKET];
    let packet = recv_packet(socket, &mut buffer, Wait::No).unwrap();
    assert!(packet.len > 0, "the monitor has closed");
    (serde_json::from_slice(&buffer[..packet.len]).unwrap(), packet.fds)
}

pub fn wait_readable(fd: &OwnedFd) {
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1, "nothing came");
}

/// Waits until something holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not so after a long time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether tests of this kind can run here.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: it needs root");
    }
    root
}
