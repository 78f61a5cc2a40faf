//! Two hosts and a bad network between them.
//!
//! A host is a network namespace; what runs inside sees all else of the machine. The hosts are
//! joined by a cable whose delay, loss and rate a test sets. It carries real packets between two
//! TUN devices: the emulator of the kernel (netem) does the same, but many kernels have it not.
//!
//! Nothing of it has a name on the machine: the namespaces live as long as the processes that hold
//! them, which end with the test however that ends.

mod cable;

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tappers::{Interface, Tun};

use self::cable::Cable;
use crate::wait;

/// The name of each host's end of the cable.
const DEVICE: &str = "cable0";
/// The largest packet. Large ones keep the emulator cheap: it shares the CPUs with what it tests.
const MTU: usize = 9000;

/// Which of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where a test has its client.
    Near,
    /// Where a test has its agent.
    Far,
}

/// Two hosts and the network between them. Dropping it ends the network and all connections.
#[derive(Debug)]
pub struct Hosts {
    near: Namespace,
    far: Namespace,
    cable: Arc<Cable>,
    directions: Vec<thread::JoinHandle<()>>,
}

impl Hosts {
    /// Makes two hosts whose network has no faults yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Hosts {
        let (near, far) = (Namespace::new(), Namespace::new());
        let ends = [(&near, Side::Near), (&far, Side::Far)].map(|(namespace, side)| {
            let end = namespace.device();
            let (own, other) = (side.address(), side.other().address());
            namespace.ip(&format!("address add {own} peer {other} dev {DEVICE}"));
            namespace.ip("link set lo up");
            namespace.ip(&format!("link set {DEVICE} mtu {MTU} up"));
            Arc::new(end)
        });
        let cable = Arc::new(Cable::default());
        let [one, two] = ends;
        let directions = [(one.clone(), two.clone()), (two, one)].into_iter().enumerate();
        let directions = directions.map(|(number, (from, to))| {
            let cable = cable.clone();
            thread::spawn(move || cable.carry(&from, &to, MTU, number))
        });
        let directions = directions.collect();
        Hosts { near, far, cable, directions }
    }

    /// The words that put a command into a host: the command follows them, and keeps their pid.
    pub fn prefix(&self, side: Side) -> Vec<OsString> {
        vec!["nsenter".into(), format!("--net={}", self.namespace(side).path()).into(), "--".into()]
    }

    /// A command that runs inside a host.
    pub fn command(&self, side: Side, program: impl AsRef<OsStr>) -> Command {
        let words = self.prefix(side);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program);
        command
    }

    /// The same command, inside a host.
    pub fn inside(&self, side: Side, command: &Command) -> Command {
        let mut inside = self.command(side, command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            inside.current_dir(dir);
        }
        inside
    }

    /// Adds to the time that each packet takes. An answer comes after twice this time.
    pub fn delay(&self, one_way: Duration) {
        self.cable.set_delay(one_way);
    }

    /// Drops packets at random, in both directions.
    pub fn loss(&self, percent: u32) {
        self.cable.set_loss(percent);
    }

    /// Limits both directions to this many megabits a second. 0: no limit.
    pub fn rate(&self, megabits: u64) {
        self.cable.set_rate(megabits);
    }

    /// Lets no packet through, which nobody is told.
    pub fn blackhole(&self, on: bool) {
        self.cable.set_blackhole(on);
    }

    /// Lets TCP of both hosts have so many bytes under way as a long way needs: the buffers of most systems end
    /// at 6 MiB.
    pub fn large_buffers(&self) {
        for side in [Side::Near, Side::Far] {
            for name in ["tcp_rmem", "tcp_wmem"] {
                let set = format!("echo 4096 1048576 67108864 >/proc/sys/net/ipv4/{name}");
                run(self.command(side, "sh").args(["-c", &set]));
            }
        }
    }

    /// The most bytes that were under way at once from this side.
    pub fn most_under_way(&self, from: Side) -> usize {
        self.cable.most_under_way(match from {
            Side::Near => 0,
            Side::Far => 1,
        })
    }

    /// Takes the near host's link down: what is sent there fails at once.
    pub fn link_down(&self) {
        self.near.ip(&format!("link set {DEVICE} down"));
    }

    /// Takes it up again.
    pub fn link_up(&self) {
        self.near.ip(&format!("link set {DEVICE} up"));
    }

    /// Resets the TCP connections of a host: each end finds its connection broken.
    pub fn reset_connections(&self, side: Side) {
        let peer = side.other().address().to_string();
        run(self.command(side, "ss").args(["--kill", "--tcp", "--numeric", "dst", &peer]));
    }

    fn namespace(&self, side: Side) -> &Namespace {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.cable.cut();
        for direction in self.directions.drain(..) {
            // A thread that panicked has made its test fail by the network that was not there.
            let _ = direction.join();
        }
    }
}

impl Side {
    /// Its address, which only the two hosts know.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Side::Near => Ipv4Addr::new(10, 77, 0, 1),
            Side::Far => Ipv4Addr::new(10, 77, 0, 2),
        }
    }

    fn other(self) -> Side {
        match self {
            Side::Near => Side::Far,
            Side::Far => Side::Near,
        }
    }
}

/// A network namespace and the process that holds it.
#[derive(Debug)]
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Namespace {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let namespace = Namespace { holder: command.spawn().expect("setpriv(1) can be started") };
        let own = fs::read_link("/proc/self/ns/net").expect("a namespace has a name");
        wait::until_true("the namespace is there", || {
            fs::read_link(namespace.path()).is_ok_and(|theirs| theirs != own)
        });
        namespace
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Makes the device of this namespace. Only a thread inside can.
    fn device(&self) -> Tun {
        let namespace = File::open(self.path()).expect("the namespace can be opened");
        let make = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let mut device = Tun::new_named(Interface::new(DEVICE)?)?;
            device.set_nonblocking(true)?;
            std::io::Result::Ok(device)
        };
        thread::spawn(make).join().expect("no panic").expect("a TUN device can be made")
    }

    fn ip(&self, line: &str) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).args(["--", "ip"]).args(line.split(' '));
        run(&mut command);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}: {errors}", output.status);
}
