//! A process that goes to other namespaces when it is told to, and calls that wait meanwhile.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Agent, ctl::Outcome, host, host::Pinned, wait};

/// A user of this machine who is nobody.
const USER: [&str; 4] = ["--reuid=7002", "--regid=7002", "--clear-groups", "--"];

/// A process of a user who is nobody. It is in a mount and a uts namespace that root has made, with the host name `here`,
/// and otherwise in the host's namespaces; until it goes into a user, a mount and a uts namespace of that user's,
/// where `id` is a program of that user's and the host name `elsewhere`. On both sides a tmpfs lies on /mnt.
#[derive(Debug)]
pub struct Moving {
    process: Killed,
    there: Killed,
    /// The mounts that it begins in: they stay when nobody is in there any more.
    pub before: File,
    _dir: TempDir,
}

impl Moving {
    /// Starts one that has not gone yet.
    pub fn start() -> Moving {
        let dir = tempfile::Builder::new().prefix("conti-test-").tempdir().expect("a directory");
        let mode = |path, bits| fs::set_permissions(path, fs::Permissions::from_mode(bits));
        mode(dir.path(), 0o755).expect("a mode");
        let program = dir.path().join("id");
        let says = "#!/bin/sh\necho \"taken over in $(readlink /proc/self/ns/user)\"\n";
        fs::write(&program, says).expect("a program");
        mode(&program, 0o755).expect("a mode");
        let script = format!(
            "set -e; hostname elsewhere; mount -t tmpfs none /mnt; mount --bind {} \"$(readlink -f \"$(command -v id)\")\"
             exec sleep 100000",
            program.display()
        );
        let flags = ["--user", "--map-root-user", "--mount", "--uts", "sh", "-c", &script];
        let mut command = Command::new("setpriv");
        command.args(USER).arg("unshare").args(flags).stdin(Stdio::null());
        let there = Killed(command.spawn().expect("setpriv(1) can be started"));
        let files = format!("/proc/{}/ns", there.0.id());
        let go = format!(
            "read go; exec nsenter --preserve-credentials --user={files}/user --mount={files}/mnt \
             --uts={files}/uts sleep 100000"
        );
        let mut command = Command::new("unshare");
        let script = "set -e; hostname here; mount -t tmpfs none /mnt; exec \"$@\"";
        command.args(["--mount", "--uts", "sh", "-c", script, "sh", "setpriv"]);
        command.args(USER).args(["sh", "-c", &go]).stdin(Stdio::piped());
        let process = Killed(command.spawn().expect("unshare(1) can be started"));
        let pid = process.0.id();
        wait::until_true("both are ready", || {
            host::command_line(there.0.id()).starts_with("sleep")
                && host::command_line(pid).starts_with("sh -c read go")
        });
        let before = File::open(format!("/proc/{pid}/ns/mnt")).expect("its mounts");
        Moving { process, there, before, _dir: dir }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Has it go, and waits until it is there.
    pub fn go(&mut self) {
        let stdin = self.process.0.stdin.as_mut().expect("it goes once");
        stdin.write_all(b"go\n").expect("it listens");
        wait::until_true("it has gone", || host::command_line(self.pid()).starts_with("sleep"));
        let (pid, there) = (self.pid().to_string(), self.there.0.id().to_string());
        for kind in ["user", "mnt", "uts"] {
            assert_eq!(host::namespace(&pid, kind), host::namespace(&there, kind), "{kind}");
        }
    }
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A prefix for [`Agent::start_behind`]: whoever of the agent's processes passes this point is stopped.
pub fn stopping_at(point: &str) -> Vec<std::ffi::OsString> {
    ["env".to_owned(), format!("CONTI_TEST_DELAYS={point}=stop")].map(Into::into).to_vec()
}

/// Calls `contictl`, and acts when the agent, or what answers for it, is stopped at its point. It goes on
/// afterwards, also from there where it is stopped again.
pub fn meanwhile(agent: &Agent, args: &[&str], act: impl FnOnce()) -> Outcome {
    let mut act = Some(act);
    thread::scope(|scope| {
        let call = scope.spawn(|| agent.ctl(args).run());
        loop {
            let stopped = wait::until("the call ends, or is stopped", || {
                let stopped =
                    host::pinned(agent.pid()).into_iter().chain(host::descendants(agent.pid()));
                match stopped.into_iter().find(Pinned::is_stopped) {
                    None if !call.is_finished() => None,
                    found => Some(found),
                }
            });
            let Some(stopped) = stopped else { break };
            let goes_on = GoesOn(stopped);
            if let Some(act) = act.take() {
                act();
            }
            drop(goes_on);
        }
        assert!(act.is_none(), "nothing was stopped");
        call.join().expect("contictl is run")
    })
}

/// Has a process go on when it is dropped.
struct GoesOn(Pinned);

impl Drop for GoesOn {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.pid as i32) {
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}
