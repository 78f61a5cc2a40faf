//! The host that nobody inside should reach.

use std::{
    fs,
    io::Read as _,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::MetadataExt as _,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use conti_tests::{Agent, ctl::Running, facts::probe, host};

/// An agent that was started with all that it must not pass on, on a host with canaries.
pub struct World {
    pub agent: Agent,
    /// Stands in a file, in the environment of a process and of the agent, and in keyrings.
    pub secret: String,
    /// What the probe is told of the host.
    pub arguments: Vec<String>,
    listener: UnixListener,
    process: Running,
    before: Vec<String>,
}

/// The program that tries.
pub fn escape() -> PathBuf {
    let path = probe().with_file_name("escape");
    assert!(path.is_file(), "there is no {}: `cargo nextest run` builds it", path.display());
    path
}

impl World {
    pub fn start() -> World {
        let mut random = [0; 8];
        fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .expect("random");
        let random = u64::from_ne_bytes(random);
        let secret = format!("conti-canary-{random:016x}");
        let name = format!("conti-test-{random:016x}");
        let mut dir = PathBuf::new();
        let agent = Agent::start_behind(|own: &Path| {
            dir = own.join("scratch/host");
            fs::create_dir(&dir).expect("a directory");
            fs::write(dir.join("canary"), &secret).expect("a file");
            let dir = dir.display().to_string();
            let words =
                [escape().display().to_string(), "plant".into(), name.clone(), secret.clone(), dir];
            words.map(Into::into).to_vec()
        });
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("a socket");
        listener.set_nonblocking(true).expect("it does not wait");
        let mut command = Command::new("sleep");
        command.arg("100000").env("CANARY", &secret).stdin(Stdio::null()).stdout(Stdio::null());
        let process = Running::new(command.spawn().expect("a process of the host"));
        let mut arguments = vec![dir.join("canary").display().to_string(), name];
        arguments.extend(devices());
        let mut world = World { agent, secret, arguments, listener, process, before: Vec::new() };
        world.before = world.state();
        world
    }

    /// What of the host must be the same afterwards.
    fn state(&self) -> Vec<String> {
        let mut state: Vec<String> = [
            "kernel/core_pattern",
            "kernel/hostname",
            "kernel/randomize_va_space",
            "vm/overcommit_memory",
            "fs/suid_dumpable",
            "net/ipv4/ip_forward",
        ]
        .iter()
        .map(|name| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name));
            format!("{name}={}", value.unwrap_or_else(|error| error.to_string()))
        })
        .collect();
        let dir = self.agent.path("");
        state.extend(host::mounts_mentioning(&dir.display().to_string()));
        let canary = fs::read_to_string(&self.arguments[0]).expect("the canary");
        state.push(format!("canary={canary}"));
        let files = fs::read_dir(self.agent.scratch("host")).expect("a directory");
        state.extend(files.flatten().map(|entry| entry.path().display().to_string()));
        for name in ["contid", "conti-runtime", "contictl"] {
            let path = conti_tests::agent::binary(name);
            let meta = fs::metadata(&path).expect("a program");
            state.push(format!("{name}: {} {} {}", meta.ino(), meta.len(), meta.mtime_nsec()));
        }
        state
    }

    /// What is there for the probe to be brought in.
    pub fn volume(&self) -> String {
        format!("{}:/escape:ro", escape().display())
    }

    /// Proves that the host is as it was, and that the agent works and leaves nothing.
    pub fn finish(mut self) {
        assert!(self.listener.accept().is_err(), "nobody has connected to the host's socket");
        assert!(!self.process.ended(), "the host's process lives");
        assert_eq!(self.agent.ok(["run", "--rm", "--", "echo", "works"]), "works");
        let mut left = self.agent.api(async |mut api| api.list().await);
        while let Some(container) = left.pop() {
            self.agent.ok(["rm", "-f", &container.id]);
        }
        assert_eq!(self.state(), self.before, "the host is as it was");
        self.agent.finish();
    }
}

/// Device nodes of this host, as the probe takes them: what its root lies on, memory, and its terminals.
fn devices() -> Vec<String> {
    let root = fs::metadata("/").expect("a root").dev();
    let (major, minor) = (rustix::fs::major(root), rustix::fs::minor(root));
    let mut devices = vec![format!("b:{major}:{minor}")];
    let others = ["c:1:1", "c:1:2", "c:1:4", "c:1:11", "c:4:0", "c:5:1", "c:10:237", "b:7:0"];
    devices.extend(others.map(str::to_owned));
    devices
}
