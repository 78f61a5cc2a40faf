//! Plain processes of the host, made without Conti.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use crate::{host, wait};

/// A plain process in namespaces of its own.
#[derive(Debug)]
pub struct Plain {
    unshare: Child,
    /// Its pid; in its own pid namespace it is PID 1.
    pub pid: u32,
}

impl Plain {
    /// Starts one that sleeps in /usr, with a host name and a variable of its own.
    pub fn start(flags: &[&str]) -> Plain {
        Plain::after("hostname plain-process; cd /usr", flags)
    }

    /// Starts one that sleeps, after a script, with further flags for unshare(1).
    pub fn after(script: &str, flags: &[&str]) -> Plain {
        let script = format!("set -e\n{script}\nexec sleep 100000");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc"]);
        command.args(flags).args(["sh", "-c", &script]);
        Plain::spawn(command)
    }

    /// Starts one as a user who is not root, and nobody is in its user namespace, as bubblewrap does it: a tmpfs
    /// of its own lies on /mnt.
    pub fn without_root() -> Plain {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=1000", "--regid=1000", "--clear-groups", "unshare"]);
        command.args(["--user", "--map-current-user", "--keep-caps", "--mount", "--pid", "--fork"]);
        command.args(["sh", "-c", "set -e\nmount -t tmpfs none /mnt\nexec sleep 100000"]);
        Plain::spawn(command)
    }

    /// Starts one in a user namespace of its own, but with mounts that belong to the host's.
    pub fn below_host_mounts() -> Plain {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--mount-proc", "unshare", "--user"]);
        command.args(["--map-root-user", "sleep", "100000"]);
        Plain::spawn(command)
    }

    /// Starts one in the mounts of another alone, as `nsenter --mount` leaves it.
    pub fn in_mounts_of(other: &Plain) -> Plain {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "nsenter", "--mount", "--target"]);
        command.arg(other.pid.to_string()).args(["sleep", "100000"]);
        Plain::spawn(command)
    }

    fn spawn(mut command: Command) -> Plain {
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("PLAIN", "yes");
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let unshare = command.spawn().expect("unshare(1) can be started");
        let id = unshare.id();
        let pid = wait::until("the process sleeps", || {
            let children = host::descendants(id);
            children
                .iter()
                .map(|p| p.pid)
                .find(|pid| host::command_line(*pid).starts_with("sleep 100000"))
        });
        Plain { unshare, pid }
    }

    /// How `contictl` names it.
    pub fn target(&self) -> String {
        format!("pid:{}", self.pid)
    }

    /// A command in its mount and pid namespaces, so that /proc knows the command.
    pub fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--target", &self.pid.to_string(), "--"]);
        command
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // PID 1 of its namespace: with it everything inside goes.
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = self.unshare.wait();
    }
}
