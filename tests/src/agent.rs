//! An agent of the test's own: its own directories, its own socket, and at the end the proof that
//! nothing is left of it.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{api::Api, host, host::Pinned, wait};

/// A running `contid`. Dropping it clears away whatever is there; [`Agent::finish`] also proves
/// that the agent itself had left nothing.
pub struct Agent {
    dir: TempDir,
    /// What its command is put behind.
    prefix: Vec<OsString>,
    /// What is put behind its command.
    arguments: Vec<OsString>,
    child: Option<Child>,
    runtime: Runtime,
    seen: Seen,
}

/// What the agent made while it was watched, and what must not be there at the end.
#[derive(Default)]
struct Seen {
    processes: BTreeSet<Pinned>,
    cgroups: BTreeSet<PathBuf>,
    ids: BTreeSet<String>,
}

/// The path of one of the binaries under test.
pub fn binary(name: &str) -> PathBuf {
    let dir = env::var_os("CONTI_BIN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bin"), PathBuf::from);
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "there is no {}: run `make build`, or set CONTI_BIN_DIR to where {name} is",
        path.display()
    );
    path
}

impl Agent {
    /// Starts an agent and waits until it answers.
    #[allow(clippy::new_without_default)]
    pub fn start() -> Agent {
        Agent::start_behind(|_| Vec::new())
    }

    /// Starts an agent on another kind of host: its command is put behind the words that `prefix`
    /// gives for the agent's directory. The last of them must end in `exec "$@"`, so that the pid
    /// is the agent's.
    pub fn start_behind(prefix: impl FnOnce(&Path) -> Vec<OsString>) -> Agent {
        Agent::start_as(prefix, |_| Vec::new())
    }

    /// Starts an agent with further arguments, made for its directory.
    pub fn start_with(arguments: impl FnOnce(&Path) -> Vec<OsString>) -> Agent {
        Agent::start_as(|_| Vec::new(), arguments)
    }

    /// Starts an agent on another kind of host and with further arguments.
    pub fn start_as(
        prefix: impl FnOnce(&Path) -> Vec<OsString>,
        arguments: impl FnOnce(&Path) -> Vec<OsString>,
    ) -> Agent {
        assert!(rustix::process::geteuid().is_root(), "the black-box tests must run as root");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let dir = tempfile::Builder::new().prefix("conti-test-").tempdir().expect("a directory");
        fs::create_dir(dir.path().join("scratch")).expect("a directory can be made");
        let (prefix, arguments) = (prefix(dir.path()), arguments(dir.path()));
        let seen = Seen::default();
        let mut agent = Agent { dir, prefix, arguments, child: None, runtime, seen };
        agent.restart();
        agent
    }

    /// The command that starts this agent, or a second one with another socket on the same
    /// directories.
    pub fn command(&self, socket: &str) -> Command {
        let contid = binary("contid").into_os_string();
        let mut words = self.prefix.iter().chain([&contid]);
        let mut command = Command::new(words.next().expect("at least the agent itself"));
        command
            .args(words)
            .arg("--listen")
            .arg(format!("unix://{}", self.path(socket).display()))
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--data-dir")
            .arg(self.path("data"))
            .arg("--audit-log")
            .arg(self.path("audit/audit.jsonl"))
            .args(&self.arguments)
            .stdin(Stdio::null());
        command
    }

    /// Starts the agent again after [`Agent::kill`] or [`Agent::terminate`].
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the agent runs already");
        let log = File::options().create(true).append(true).open(self.path("contid.log"));
        let log = log.expect("the log can be written");
        let errors = log.try_clone().expect("an fd can be duplicated");
        let child = self.command("contid.sock").stdout(log).stderr(errors).spawn();
        self.child = Some(child.expect("contid can be started"));
        wait::until("the agent answers", || {
            let child = self.child.as_mut()?;
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                let log = std::fs::read_to_string(self.dir.path().join("contid.log"));
                panic!("contid ended at once with {status}: {}", log.unwrap_or_default());
            }
            self.runtime.block_on(Api::connect(&self.path("contid.sock"))).ok()
        });
    }

    /// A path below the agent's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path for the test's own files.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.path("scratch").join(name)
    }

    /// The address of the agent, as `contictl --host` takes it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.path("contid.sock").display())
    }

    /// The agent's pid.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the agent runs").id()
    }

    /// What the agent has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("contid.log")).unwrap_or_default()
    }

    /// Calls the API.
    pub fn api<T>(&self, calls: impl AsyncFnOnce(Api) -> T) -> T {
        let socket = self.path("contid.sock");
        self.runtime.block_on(async {
            let api = Api::connect(&socket).await;
            calls(api.unwrap_or_else(|e| panic!("cannot connect to the agent: {e}"))).await
        })
    }

    /// The TCP port that the agent listens on for `--listen tcp://…:0`, as it has logged it last.
    pub fn port(&self) -> u16 {
        let log = self.log();
        let mut ports =
            log.lines().filter(|line| line.contains("\"listening\"")).filter_map(|line| {
                let endpoint = line.split_once("\"endpoint\":\"tcp://")?.1.split('"').next()?;
                endpoint.rsplit_once(':')?.1.parse().ok()
            });
        ports.next_back().unwrap_or_else(|| panic!("the agent does not listen on TCP:\n{log}"))
    }

    /// Runs something that waits.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the agent runs");
        kill_process(Pid::from_child(child), signal).expect("the agent can be signalled");
        if signal == Signal::STOP {
            // Each of its threads stops by itself.
            let threads = format!("/proc/{}/task", child.id());
            wait::until_true("the agent is stopped", || {
                let all = fs::read_dir(&threads).expect("its threads").flatten();
                let stats =
                    all.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
                stats
                    .into_iter()
                    .all(|stat| stat.rsplit_once(") ").is_some_and(|(_, at)| at.starts_with('T')))
            });
        }
    }

    /// Kills the agent as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        self.watch();
        self.kill_stopped();
    }

    /// The same with one that is stopped, and so answers nothing.
    pub fn kill_stopped(&mut self) {
        let mut child = self.child.take().expect("the agent runs");
        child.kill().expect("the agent can be killed");
        child.wait().expect("the agent can be waited for");
    }

    /// Asks the agent to stop (SIGTERM) and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.watch();
        let mut child = self.child.take().expect("the agent runs");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("the agent can be signalled");
        wait::until("the agent has stopped after SIGTERM", || {
            child.try_wait().expect("the agent can be waited for")
        })
    }

    /// Remembers the processes, cgroups and containers that the agent has at this moment.
    pub fn watch(&mut self) {
        let Some(child) = &self.child else { return };
        let own = host::cgroups(child.id());
        for process in host::descendants(child.id()) {
            for cgroup in host::cgroups(process.pid).difference(&own) {
                // The agent's own directory, which holds those of its containers, goes too.
                let parent = cgroup.parent().filter(|p| p.to_string_lossy().contains("/conti-"));
                self.seen.cgroups.extend(parent.map(Path::to_owned));
                self.seen.cgroups.insert(cgroup.clone());
            }
            self.seen.processes.insert(process);
        }
        self.seen.processes.extend(host::mentioning(&self.path("state").to_string_lossy()));
        let socket = self.path("contid.sock");
        let ids = self.runtime.block_on(async {
            match Api::connect(&socket).await {
                Ok(mut api) => api.all_ids().await,
                Err(_) => Vec::new(),
            }
        });
        self.seen.ids.extend(ids);
    }

    /// Deletes all containers, stops the agent, and proves that nothing of it is left: no
    /// process, mount, cgroup, loop device, and no file of a container.
    pub fn finish(mut self) {
        self.watch();
        let ids = self.api(async |mut api| api.delete_all().await);
        if let Err(status) = ids {
            panic!("a container could not be deleted: {status:?}");
        }
        let status = self.terminate();
        assert!(status.success(), "contid ended with {status} after SIGTERM");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                break;
            }
            if std::time::Instant::now() > deadline {
                panic!("the agent left behind:\n  {}", left.join("\n  "));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let dir = self.dir.path().to_string_lossy().into_owned();
        let mentioning = host::mentioning(&dir);
        let alive = self.seen.processes.iter().filter(|p| p.alive());
        left.extend(alive.chain(&mentioning).map(Pinned::describe));
        left.extend(host::mounts_mentioning(&dir).into_iter().map(|m| format!("mount {m}")));
        let cgroups = self.seen.cgroups.iter().filter(|c| c.is_dir()).cloned();
        let cgroups: BTreeSet<_> = cgroups.chain(host::cgroups_named(&self.seen.ids)).collect();
        left.extend(cgroups.into_iter().map(|c| format!("cgroup {}", c.display())));
        left.extend(host::loop_devices_of(self.dir.path()));
        for place in ["state", "data"] {
            let files = files_naming(&self.path(place), &self.seen.ids);
            // Recordings outlive what they are of.
            let files = files.into_iter().filter(|f| !f.starts_with(self.path("data/recordings")));
            left.extend(files.map(|f| format!("file {}", f.display())));
        }
        left
    }

    /// Clears away by force what a failed test may have left.
    fn sweep(&mut self) {
        if let Some(child) = &self.child {
            // A test may have stopped it: nothing would be answered.
            let _ = kill_process(Pid::from_child(child), Signal::CONT);
            self.watch();
            let socket = self.path("contid.sock");
            let _ = self.runtime.block_on(async {
                let mut api = Api::connect(&socket).await.ok()?;
                let all = api.delete_all();
                tokio::time::timeout(Duration::from_secs(20), all).await.ok()
            });
        }
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            for _ in 0..100 {
                if child.try_wait().is_ok_and(|status| status.is_some()) {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let dir = self.dir.path().to_string_lossy().into_owned();
        self.seen.processes.extend(host::mentioning(&dir));
        for process in self.seen.processes.iter().filter(|p| p.alive()) {
            if let Some(pid) = Pid::from_raw(process.pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for line in host::mounts_mentioning(&dir).iter().rev() {
            if let Some(point) = line.split(' ').nth(4) {
                let _ = unmount(point, UnmountFlags::DETACH);
            }
        }
        for cgroup in self.seen.cgroups.iter().rev() {
            let _ = fs::remove_dir(cgroup);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(200)..].join("\n");
            eprintln!("--- the agent's log (its last 200 lines) ---\n{tail}\n--- end of log ---");
        }
        self.sweep();
    }
}

/// The files and directories below `dir` whose name holds one of `ids`.
fn files_naming(dir: &Path, ids: &BTreeSet<String>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue = vec![dir.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ids.iter().any(|id| name.contains(id)) {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
                queue.push(entry.path());
            }
        }
    }
    found
}
