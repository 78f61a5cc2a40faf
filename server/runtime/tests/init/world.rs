//! A launcher's world for one test: a process with one thread, in a pid namespace of its own, so that
//! whatever a test starts is gone with it, and in a small mount namespace as the launcher's.

use std::{
    fs,
    io::Read as _,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    process::Command,
};

use conti_runtime::{
    init::{self, ChildStdio, Ends, Outcome as StageOutcome, PlanFds, Spawn, Stage, Status, pipes},
    launcher::NEW_ROOT,
    plan::*,
    sys::{
        clone::exit_now,
        process::{Fork, fork},
        shm::StageReport,
        wait::reap_pid,
    },
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat},
    mount::*,
    process::{WaitId, WaitIdOptions, waitid},
};

/// Set in the process that a test runs in.
const IN_WORLD: &str = "CONTI_TEST_IN_WORLD";

/// Runs the test of a name in a launcher's world: the test's program is started again for it, in new
/// namespaces.
pub fn in_world(name: &str, test: fn(&mut World)) {
    assert!(rustix::process::getuid().is_root(), "this test makes namespaces and needs root");
    if std::env::var_os(IN_WORLD).is_some() {
        return test(&mut World::new());
    }
    let status = Command::new("unshare")
        .args(["--pid", "--mount", "--fork", "--kill-child", "--propagation", "unchanged", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(IN_WORLD, "1")
        .status()
        .unwrap();
    assert!(status.success(), "the test failed in its world, see above");
}

/// Whose child a process becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Birth {
    /// The world's.
    Child,
    /// The world's too, cloned by a forker.
    Sibling,
}

/// A process that was cloned.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub status: OwnedFd,
    pub gate: OwnedFd,
}

/// What a session did.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub statuses: Vec<Status>,
    /// Exit code, or 1000 and the signal.
    pub end: i32,
    pub failure: Option<SetupFailure>,
}

impl Outcome {
    /// The value of a line `name: value` or `name=value` of stdout.
    pub fn value(&self, name: &str) -> &str {
        self.stdout
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix([':', '=']).map(str::trim))
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// The step and errno that it failed with.
    pub fn failed(&self) -> (Step, i32, &str) {
        let failure = self.failure.as_ref().unwrap_or_else(|| panic!("did not fail: {self:?}"));
        (failure.step, failure.errno, &failure.argument)
    }
}

/// The launcher's world, and a plan in the making.
pub struct World {
    fds: Vec<OwnedFd>,
    /// A directory tree of the host that containers can run programs from.
    usr: OwnedFd,
    pub plan: Plan,
}

impl World {
    fn new() -> World {
        let usr = tree("/usr");
        build_namespace();
        World { fds: Vec::new(), usr, plan: plan() }
    }

    /// Adds an fd to the plan's.
    pub fn fd(&mut self, fd: impl Into<OwnedFd>) -> Fd {
        self.fds.push(fd.into());
        Fd(self.fds.len() as u32 - 1)
    }

    /// The container's plan.
    pub fn container(&mut self) -> &mut ContainerPlan {
        match &mut self.plan.place {
            Place::Container(container) => container,
            Place::Join(_) | Place::Host(_) => panic!("not a container"),
        }
    }

    /// A root filesystem on a tmpfs, with the host's programs, and the usual mounts. What it returns is
    /// written to and so wants the id map of a user namespace.
    pub fn make_container(&mut self) -> Vec<Fd> {
        let root = tmpfs(&[("mode", "0755")]);
        self.fill_root(&root);
        let fd = self.fd(root);
        self.container().root = Root::Mount(fd);
        let usr = self.usr.try_clone().unwrap();
        let usr =
            self.fd(open_tree(&usr, "", clone_flags() | OpenTreeFlags::AT_EMPTY_PATH).unwrap());
        let dev = self.fd(tmpfs(&[("mode", "0755")]));
        self.mount(MountWhat::Detached { fd: usr, dir: true }, "/usr");
        for (fs, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("mqueue", "/dev/mqueue")] {
            if fs == "mqueue" {
                self.mount(MountWhat::Detached { fd: dev, dir: true }, "/dev");
            }
            self.mount(MountWhat::Fresh { fs: fs.to_owned() }, target);
        }
        vec![fd, dev]
    }

    /// The files of a root.
    pub fn fill_root(&self, root: &OwnedFd) {
        for directory in ["etc", "tmp"] {
            mkdirat(root, directory, Mode::from_raw_mode(0o755)).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlinkat(format!("usr/{name}"), root, name).unwrap();
        }
        write_at(
            root,
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n",
        );
        write_at(root, "etc/group", "root:x:0:\naudio:x:29:ann\nann:x:1001:\n");
    }

    /// Adds a mount.
    pub fn mount(&mut self, what: MountWhat, target: &str) {
        let mount = Mount { what, target: target.to_owned(), attrs: MountAttrs::default() };
        self.container().mounts.push(mount);
    }

    /// Sets the command: a shell script.
    pub fn script(&mut self, script: &str) {
        self.plan.process.argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    }

    /// Runs the plan to its end, with pipes.
    pub fn run(&mut self) -> Outcome {
        self.run_as(Birth::Child)
    }

    /// As [`World::run`]; a sibling is cloned by a forker.
    pub fn run_as(&mut self, birth: Birth) -> Outcome {
        match self.start(birth) {
            Ok(session) => session.finish(&self.plan),
            Err(failure) => failed_outcome(failure),
        }
    }

    /// Starts the plan with pipes.
    pub fn start(&mut self, birth: Birth) -> Result<Session, SetupFailure> {
        let (stdout, child_stdout) = std::io::pipe().unwrap();
        let (stderr, child_stderr) = std::io::pipe().unwrap();
        // Empty, and at its end at once.
        let stdin = std::io::pipe().unwrap().0;
        let stdio = ChildStdio::Pipes {
            stdin: stdin.into(),
            stdout: child_stdout.into(),
            stderr: child_stderr.into(),
        };
        let child = self.spawn(stdio, birth)?;
        Ok(Session { child, stdout: stdout.into(), stderr: Some(stderr.into()) })
    }

    /// Starts the plan. The plan's fds are used up.
    pub fn spawn(&mut self, stdio: ChildStdio, birth: Birth) -> Result<Child, SetupFailure> {
        let fds = PlanFds::new(std::mem::take(&mut self.fds));
        let (Ends { status, gate }, theirs) = pipes().unwrap();
        let child = match birth {
            Birth::Child => Spawn::new(&self.plan, &fds, &stdio, &theirs)?.as_child()?,
            Birth::Sibling => by_forker(&self.plan, |report| {
                let spawn = Spawn::new(&self.plan, &fds, &stdio, &theirs)?;
                match self.plan.place.is_born_last() {
                    true => spawn.become_stage(report),
                    false => spawn.as_sibling(),
                }
            })?,
        };
        let (pid, pidfd) = match child {
            init::Child::Born { pid, pidfd } => (pid, pidfd),
            init::Child::Staged(stage) => born(&stage, &self.plan)?,
        };
        Ok(Child { pid, pidfd, status, gate })
    }
}

/// Waits until a stage has cloned.
fn born(stage: &Stage, plan: &Plan) -> Result<(i32, OwnedFd), SetupFailure> {
    poll(&mut [PollFd::new(stage.pidfd(), PollFlags::IN)], None).unwrap();
    match stage.outcome(plan).expect("it has ended") {
        StageOutcome::Born { pid, pidfd, signal } => {
            assert_eq!(signal, None);
            Ok((pid, pidfd))
        }
        StageOutcome::Failed(failure) => Err(failure),
    }
}

fn failed_outcome(failure: SetupFailure) -> Outcome {
    Outcome {
        stdout: String::new(),
        stderr: String::new(),
        statuses: Vec::new(),
        end: -1,
        failure: Some(failure),
    }
}

/// Has another process clone, as a monitor has its forker.
fn by_forker(
    plan: &Plan,
    clone: impl FnOnce(&StageReport) -> Result<init::Child, SetupFailure>,
) -> Result<init::Child, SetupFailure> {
    use std::io::Write as _;
    let (mut answer, mut end) = std::io::pipe().unwrap();
    let report = StageReport::new().unwrap();
    let forker = match fork().unwrap() {
        Fork::Child => {
            let text = match clone(&report) {
                Ok(init::Child::Born { pid, .. }) => {
                    report.born(pid);
                    String::new()
                }
                Ok(init::Child::Staged(_)) => unreachable!("a sibling is born at once"),
                Err(failure) => serde_json::to_string(&failure).unwrap(),
            };
            end.write_all(text.as_bytes()).unwrap();
            exit_now(0)
        }
        Fork::Parent(pid) => rustix::process::Pid::from_raw(pid).unwrap(),
    };
    drop(end);
    let mut text = String::new();
    answer.read_to_string(&mut text).unwrap();
    let pidfd = rustix::process::pidfd_open(forker, rustix::process::PidfdFlags::empty()).unwrap();
    let stage = Stage::new(pidfd, report);
    if !text.is_empty() {
        reap_pid(forker.as_raw_nonzero().get()).unwrap();
        return Err(serde_json::from_str(&text).unwrap());
    }
    let (pid, pidfd) = born(&stage, plan)?;
    Ok(init::Child::Born { pid, pidfd })
}

/// A session that was started.
pub struct Session {
    pub child: Child,
    pub stdout: OwnedFd,
    pub stderr: Option<OwnedFd>,
}

impl Session {
    /// Waits until a status has come.
    pub fn await_status(&self) -> Status {
        let mut fds = [PollFd::new(&self.child.status, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        let mut record = [0; Status::RECORD_LEN];
        let length = rustix::io::read(&self.child.status, &mut record).unwrap();
        Status::decode(&record[..length]).expect("a status record")
    }

    /// Lets a paused child go on.
    pub fn go_on(&self) {
        rustix::io::write(&self.child.gate, &[1]).unwrap();
    }

    /// Reads all there is and reaps the child.
    pub fn finish(self, plan: &Plan) -> Outcome {
        let Session { child, stdout, stderr } = self;
        let stdout = read_all(stdout.as_fd());
        let stderr = stderr.map(|fd| read_all(fd.as_fd())).unwrap_or_default();
        let wall = WaitIdOptions::from_bits_retain(libc::__WALL as u32);
        let id = WaitId::PidFd(child.pidfd.as_fd());
        let status = waitid(id, WaitIdOptions::EXITED | wall).unwrap().unwrap();
        let end =
            status.exit_status().or_else(|| Some(1000 + status.terminating_signal()?)).unwrap();
        let mut statuses = Vec::new();
        let mut record = [0; Status::RECORD_LEN];
        while let Ok(Status::RECORD_LEN) = rustix::io::read(&child.status, &mut record) {
            statuses.push(Status::decode(&record).unwrap());
        }
        let failure = statuses.iter().find_map(|status| match *status {
            Status::Failed { step, index, errno } => {
                Some(SetupFailure { step, argument: plan.argument(step, index), errno })
            }
            _ => None,
        });
        Outcome { stdout, stderr, statuses, end, failure }
    }
}

/// All that can be read until the end; a terminal ends with EIO.
pub fn read_all(fd: BorrowedFd<'_>) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = rustix::io::read(fd, &mut buffer) {
        all.extend(&buffer[..n]);
    }
    String::from_utf8(all).unwrap()
}

/// A file below an fd.
pub fn write_at(dir: &OwnedFd, path: &str, content: &str) {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(dir, path, flags, Mode::from_raw_mode(0o644)).unwrap();
    assert_eq!(rustix::io::write(&file, content.as_bytes()).unwrap(), content.len());
}

/// A detached tmpfs.
pub fn tmpfs(options: &[(&str, &str)]) -> OwnedFd {
    filesystem("tmpfs", options)
}

/// A detached filesystem.
pub fn filesystem(name: &str, options: &[(&str, &str)]) -> OwnedFd {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value).unwrap();
    }
    fsconfig_create(&context).unwrap();
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
}

fn clone_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC
}

fn tree(path: impl AsRef<Path>) -> OwnedFd {
    open_tree(CWD, path.as_ref(), clone_flags()).unwrap()
}

/// An fd of a file of /proc/PID.
pub fn proc_fd(pid: i32, file: &str) -> OwnedFd {
    fs::File::open(format!("/proc/{pid}/{file}")).unwrap().into()
}

/// The same namespace as the launcher builds, with a proc of this pid namespace.
fn build_namespace() {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let root = tmpfs(&[("mode", "0755")]);
    let proc = filesystem("proc", &[]);
    let sys = open_tree(CWD, "/sys", clone_flags() | OpenTreeFlags::AT_RECURSIVE).unwrap();
    for dir in ["proc", "sys", NEW_ROOT.trim_start_matches('/')] {
        mkdirat(&root, dir, Mode::from_raw_mode(0o755)).unwrap();
    }
    let attach = |mount: &OwnedFd, at: BorrowedFd<'_>, path: &str| {
        move_mount(mount, "", at, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
    };
    attach(&root, CWD, "/tmp");
    attach(&proc, root.as_fd(), "proc");
    attach(&sys, root.as_fd(), "sys");
    rustix::process::fchdir(&root).unwrap();
    rustix::process::pivot_root(".", ".").unwrap();
    unmount(".", UnmountFlags::DETACH).unwrap();
    rustix::process::chdir("/").unwrap();
}

fn plan() -> Plan {
    Plan {
        session_id: "test".to_owned(),
        place: Place::Container(Box::new(ContainerPlan {
            namespaces: Namespaces {
                pid: NsSource::New,
                uts: NsSource::New,
                ipc: NsSource::New,
                net: NsSource::New,
                cgroup: NsSource::New,
                user: NsSource::Host,
                time: NsSource::Host,
            },
            uid_maps: Vec::new(),
            gid_maps: Vec::new(),
            idmapped: Vec::new(),
            hostname: Some("box".to_owned()),
            domainname: None,
            root: Root::Mount(Fd(0)),
            read_only_root: false,
            mounts: Vec::new(),
            guarded_from: None,
            masked_paths: Vec::new(),
            read_only_paths: Vec::new(),
            net_defaults: Vec::new(),
            sysctls: Vec::new(),
            init: false,
            devpts: None,
        })),
        process: process(),
        stdio: Stdio::Pipes { stdin: false },
        paused: false,
        deadline_ms: None,
        drain_ms: 0,
        cgroup: None,
    }
}

/// A shell without a script.
pub fn process() -> Process {
    Process {
        argv: vec!["/bin/sh".to_owned()],
        env: vec!["PATH=/usr/local/bin:/usr/bin:/usr/sbin".to_owned()],
        raw_env: Vec::new(),
        cwd: "/".to_owned(),
        create_cwd: true,
        identity: Identity::Lookup {
            user: String::new(),
            group: String::new(),
            additional_groups: Vec::new(),
        },
        rlimits: Vec::new(),
        confinement: Confinement::default(),
        oom_score_adj: None,
        umask: 0o022,
    }
}
