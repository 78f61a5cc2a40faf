//! A real sshd of the test's own on a loopback port, with its own keys, and an ssh that knows them.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{host, wait};

/// Where sshd puts its unprivileged half. It does not start without.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// A running sshd that lets this user in. Ended when it is dropped, with its connections.
pub struct Sshd {
    dir: TempDir,
    child: Child,
    port: u16,
}

impl Sshd {
    /// Starts one. `path` is the PATH of what it runs.
    pub fn start(path: &str) -> Sshd {
        let dir = tempfile::Builder::new().prefix("conti-sshd-").tempdir().expect("a directory");
        if !Path::new(PRIVILEGE_SEPARATION).is_dir() {
            fs::create_dir(PRIVILEGE_SEPARATION).expect("sshd's directory can be made");
        }
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.path().join(key))
                .status();
            assert!(made.expect("ssh-keygen can be started").success());
        }
        let file = |name: &str| dir.path().join(name).display().to_string();
        // Nobody else is given the port in the meantime, unless by a rare chance.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = port.expect("there is a free port").port();
        fs::copy(file("user.pub"), file("authorized_keys")).expect("a file can be copied");
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM no\n\
             AuthorizedKeysFile {}\nStrictModes no\nPermitRootLogin prohibit-password\n\
             PasswordAuthentication no\nSetEnv PATH={path}\n",
            file("host"),
            file("authorized_keys"),
        );
        fs::write(file("sshd_config"), config).expect("a file can be written");
        let host_key = fs::read_to_string(file("host.pub")).expect("a key can be read");
        let known = format!("[127.0.0.1]:{port} {host_key}");
        fs::write(file("known_hosts"), known).expect("a file can be written");
        let config = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {}\n\
             StrictHostKeyChecking yes\n",
            file("user"),
            file("known_hosts"),
        );
        fs::write(file("ssh_config"), config).expect("a file can be written");
        let ssh = dir.path().join("ssh");
        let script = format!("#!/bin/sh\nexec ssh -F '{}' \"$@\"\n", file("ssh_config"));
        let mut program = File::create(&ssh).expect("a file can be made");
        program.write_all(script.as_bytes()).expect("a file can be written");
        program
            .set_permissions(fs::Permissions::from_mode(0o755))
            .expect("a file can be made executable");
        let log = File::create(file("log")).expect("a file can be made");
        let child = Command::new(binary())
            .args(["-D", "-e", "-f", &file("sshd_config")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let sshd = Sshd { child: child.expect("sshd can be started"), dir, port };
        wait::until_true("sshd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        sshd
    }

    /// The program for `$CONTI_SSH`.
    pub fn ssh(&self) -> PathBuf {
        self.dir.path().join("ssh")
    }

    /// The address of an agent behind it, by its socket.
    pub fn url(&self, socket: &Path) -> String {
        format!("ssh://root@127.0.0.1:{}{}", self.port, socket.display())
    }

    /// Ends all connections, as a machine that was pulled out of the network would.
    pub fn cut(&self) {
        for process in host::descendants(self.child.id()) {
            if host::command_line(process.pid).starts_with("sshd: ") {
                kill(process.pid);
            }
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.cut();
        kill(self.child.id());
        let _ = self.child.wait();
    }
}

/// It wants to be called by its absolute path, which is not in everybody's PATH.
fn binary() -> &'static str {
    "/usr/sbin/sshd"
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
