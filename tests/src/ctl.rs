//! Runs `contictl` as a user would.

use std::{
    ffi::OsString,
    io::{Read as _, Seek as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::agent::{Agent, binary};

/// A call of `contictl` that is being put together.
pub struct Ctl {
    command: Command,
    line: String,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
}

/// What a call of `contictl` gave.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code, or minus the signal that ended it.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
    line: String,
}

impl Agent {
    /// A call of `contictl` to this agent.
    pub fn ctl<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Ctl {
        let mut command = Command::new(binary("contictl"));
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let line = args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        command.args(args).env("CONTI_HOST", self.url()).env_remove("CONTID_LOG");
        Ctl { command, line, stdin: None, timeout: Duration::from_secs(120) }
    }

    /// A call of `contictl` that must succeed: returns its stdout without the last newline.
    pub fn ok<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> String {
        self.ctl(args).run().success().text()
    }
}

/// Runs a program to its end, and gives up on one that has none: its exit code, and all that it wrote.
pub fn ended(mut command: Command) -> (i32, String) {
    let mut file = tempfile::tempfile().expect("a file");
    let [out, err] = [(); 2].map(|()| file.try_clone().expect("an fd can be duplicated"));
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
    let code = Running::new(child.expect("it can be started")).wait();
    let mut text = String::new();
    file.rewind().expect("a file");
    file.read_to_string(&mut text).expect("text");
    (code, text)
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
}

impl Ctl {
    /// Gives it these bytes on stdin, then end-of-file. Without, its stdin is /dev/null.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Ctl {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Ctl {
        self.command.env(name, value);
        self
    }

    /// When to give up on it.
    pub fn timeout(mut self, timeout: Duration) -> Ctl {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Outcome {
        let input = self.stdin.take();
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running { child: self.command.spawn().expect("contictl can be started") };
        let pipe = child.child.stdin.take();
        let writer = thread::spawn(move || {
            if let (Some(mut pipe), Some(bytes)) = (pipe, input) {
                // A command may end without reading all of its input.
                let _ = pipe.write_all(&bytes);
            }
        });
        let mut stdout = child.child.stdout.take().expect("stdout is a pipe");
        let stdout = thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        });
        let mut stderr = child.child.stderr.take().expect("stderr is a pipe");
        let stderr = thread::spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).map(|_| bytes)
        });
        let status = child.wait_for(self.timeout, &self.line);
        let read = |thread: thread::JoinHandle<std::io::Result<Vec<u8>>>| {
            thread.join().expect("the reader ends").expect("a pipe can be read")
        };
        let _ = writer.join();
        Outcome { code: code(status), stdout: read(stdout), stderr: read(stderr), line: self.line }
    }

    /// Starts it with pipes and leaves it running.
    pub fn spawn(mut self) -> Running {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running { child: self.command.spawn().expect("contictl can be started") }
    }

    /// The command, for what the others do not offer.
    pub fn into_command(self) -> Command {
        self.command
    }
}

/// A `contictl` that runs. Killed when it is dropped.
pub struct Running {
    child: Child,
}

impl Running {
    /// Takes a child that was started otherwise.
    pub fn new(child: Child) -> Running {
        Running { child }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its stdin. Once only.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin was not taken before")
    }

    /// Its stdout. Once only.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("stdout was not taken before")
    }

    /// What it writes to stderr until it ends.
    pub fn stderr_text(&mut self) -> String {
        let mut text = String::new();
        let stderr = self.child.stderr.as_mut().expect("stderr is a pipe");
        stderr.read_to_string(&mut text).expect("stderr is text");
        text
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("contictl can be signalled");
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("contictl can be waited for").is_some()
    }

    /// Waits for its end: its exit code, or minus the signal that ended it.
    pub fn wait(mut self) -> i32 {
        code(self.wait_for(Duration::from_secs(120), "(in the background)"))
    }

    fn wait_for(&mut self, limit: Duration, line: &str) -> ExitStatus {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_micros(200);
        loop {
            if let Some(status) = self.child.try_wait().expect("contictl can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "`contictl {line}` did not end in {limit:?}");
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// Panics unless it exited with 0.
    pub fn success(self) -> Outcome {
        self.exits(0)
    }

    /// Panics unless it exited with this code.
    pub fn exits(self, code: i32) -> Outcome {
        assert_eq!(
            self.code,
            code,
            "exit code of `contictl {}`\nstdout: {}\nstderr: {}",
            self.line,
            String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(4000)]),
            self.errors()
        );
        self
    }

    /// Its stdout as text, without the last newline.
    pub fn text(&self) -> String {
        let text = String::from_utf8(self.stdout.clone()).expect("stdout is text");
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    /// Its stdout as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| {
            panic!("`contictl {}` gave no JSON ({e}): {}", self.line, self.text())
        })
    }

    /// Its stderr as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}
