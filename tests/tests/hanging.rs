//! A filesystem of a container that takes what it is asked and never answers: who looks there is held in the kernel,
//! and dies only once the server of the filesystem ends (request_wait_answer in the kernel's fs/fuse/dev.c).

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use conti_tests::{Agent, wait};

/// Mounts itself at a path, in the mount namespace of a process if one is given, answers how it is to be spoken to, and
/// then writes a line for each request that somebody waits for: not for FUSE_INTERRUPT, which says that one was killed.
const SERVER: &str = r#"
import ctypes, os, struct, sys
point, asked, *inside = sys.argv[1:]
log = open(asked, "a", buffering=1)
device = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % device
libc = ctypes.CDLL(None, use_errno=True)
if inside and libc.setns(os.open(f"/proc/{inside[0]}/ns/mnt", os.O_RDONLY), 0x20000):
    raise OSError(ctypes.get_errno(), "setns")
if libc.mount(b"hangs", point.encode(), b"fuse", 0, options):
    raise OSError(ctypes.get_errno(), "mount")
request = os.read(device, 1 << 20)
unique = struct.unpack("Q", request[8:16])[0]
answer = struct.pack("IIIIHHIIHHI", 7, 31, 65536, 0, 12, 10, 65536, 1, 1, 0, 0) + bytes(28)
os.write(device, struct.pack("IiQ", 16 + len(answer), 0, unique) + answer)
while True:
    request = os.read(device, 1 << 20)
    if struct.unpack("I", request[4:8])[0] != 36:
        print("asked", file=log)
"#;

/// How many inspectors may hang in one container.
const HANGING: usize = 16;

fn metric(socket: &Path, name: &str) -> u64 {
    let mut connection = UnixStream::connect(socket).expect("metrics are served");
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n").expect("a request");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    let line = answer.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.expect("the metric is there").parse().expect("a number")
}

/// An agent, and the socket on which it serves its metrics.
fn with_metrics() -> (Agent, PathBuf) {
    let agent = Agent::start_with(|dir| {
        let socket = format!("unix://{}/metrics.sock", dir.display());
        vec!["--metrics-listen".into(), socket.into()]
    });
    let metrics = agent.path("metrics.sock");
    (agent, metrics)
}

#[test]
fn inspectors_that_hang_count_for_the_container_that_holds_them() {
    let agent = Agent::start();
    let log = agent.scratch("log");
    fs::create_dir(&log).expect("a directory");
    let volume = format!("{}:/log", log.display());
    let server =
        ["run", "-d", "--name", "hangs", "--device", "/dev/fuse", "--cap-add", "SYS_ADMIN"];
    let server = server.into_iter().chain(["--userns", "host", "-v", &volume]);
    agent.ok(server.chain(["--", "python3", "-c", SERVER, "/mnt", "/log/asked"]));
    agent.ok(["run", "-d", "--name", "other", "--", "sleep", "100000"]);
    let asked = || fs::read_to_string(log.join("asked")).unwrap_or_default().lines().count();
    wait::until_true("it is mounted", || {
        agent.ok(["exec", "hangs", "--", "cat", "/proc/mounts"]).contains("hangs /mnt fuse")
    });
    let look = |path: &str| {
        let mut call = agent.ctl(["ls", "hangs", path]).into_command();
        call.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("contictl can be started")
    };
    for n in 0..HANGING {
        let mut call = look("/mnt/file");
        wait::until_true("its inspector has asked the filesystem", || asked() > n);
        call.kill().expect("the client is there");
        call.wait().expect("a child can be waited for");
    }
    let refused = agent.ctl(["ls", "hangs", "/"]).run();
    let said = refused.errors();
    assert!(refused.code == 125 && said.contains("hang at one of its filesystems"), "{said}");
    assert!(agent.ok(["ls", "other", "/"]).contains("etc"), "others are looked into");
    agent.ok(["rm", "-f", "hangs"]);
    agent.finish();
}

/// A container in which a filesystem hangs whose server is none of its processes: no end of it ends that.
struct Held {
    main: String,
    server: Child,
    asked: PathBuf,
}

impl Held {
    /// Runs it as `c`, with the filesystem on /mnt.
    fn start(agent: &Agent, options: &[&str], script: &str) -> Held {
        let run = ["run", "-d", "--name", "c", "--userns", "host"].iter().chain(options);
        agent.ok(run.chain(&["--", "sh", "-c", script]).copied());
        let main = agent.api(async |mut api| api.get("c").await.expect("it runs").pid).to_string();
        let asked = agent.scratch("asked");
        let mut server = Command::new("python3");
        server.args(["-c", SERVER, "/mnt"]).arg(&asked).arg(&main);
        let server = server.spawn().expect("python3 can be started");
        wait::until_true("it is mounted", || {
            agent.ok(["exec", "c", "--", "cat", "/proc/mounts"]).contains("hangs /mnt fuse")
        });
        Held { main, server, asked }
    }

    /// Waits until somebody waits for the filesystem.
    fn wait_until_asked(&self) {
        let asked = || fs::read_to_string(&self.asked).is_ok_and(|text| text.contains("asked"));
        wait::until_true("the filesystem is asked", asked);
    }

    /// Ends the filesystem, and all waiting for it.
    fn let_go(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[test]
fn a_container_whose_process_cannot_die_is_not_said_to_be_gone() {
    let waits = "until test -e /tmp/go; do sleep 0.05; done; exec cat /mnt/file";
    let agent = Agent::start();
    let mut held = Held::start(&agent, &[], waits);
    agent.ok(["exec", "c", "--", "touch", "/tmp/go"]);
    held.wait_until_asked();
    let refused = agent.ctl(["rm", "-f", "c"]).run();
    let (shown, said) = (agent.ok(["ps", "-aq"]), refused.errors());
    held.let_go();
    assert!(refused.code == 125 && said.contains(&held.main), "it names the process: {said}");
    assert_eq!(shown.lines().count(), 1, "and the container is there");
    agent.ok(["rm", "-f", "c"]);
    assert_eq!(agent.ok(["ps", "-aq"]), "");
    agent.finish();
}

/// What is killed with a container has its ids and its place in a pid namespace as long as it lives.
fn is_not_said_to_be_gone_while_a_child_lives(agent: &Agent, held: &mut Held, containers: &[&str]) {
    agent.ok(["exec", "c", "--", "touch", "/tmp/go"]);
    held.wait_until_asked();
    let stopped = agent.ctl(["stop", "-t", "0", "c"]).run();
    let said = stopped.errors();
    assert!(stopped.code == 125 && said.contains("does not answer"), "{said}");
    for container in containers {
        let refused = agent.ctl(["rm", "-f", container]).run();
        let said = refused.errors();
        assert!(refused.code == 125 && said.contains("(D)"), "{container}: {said}");
    }
    let start = agent.ctl(["start", "c"]).run();
    assert_eq!(start.code, 125, "nor is it started again");
    assert_eq!(agent.ok(["ps", "-aq"]).lines().count(), containers.len(), "they are there");
    held.let_go();
    for container in containers {
        agent.ok(["rm", "-f", container]);
    }
    assert_eq!(agent.ok(["ps", "-aq"]), "");
}

#[test]
fn a_container_in_the_pid_namespace_of_another_is_there_while_a_process_of_it_lives() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "a", "--userns", "host", "--", "sleep", "100000"]);
    let waits = "(until test -e /tmp/go; do sleep 0.05; done; exec cat /mnt/file) & sleep 100000";
    let mut held = Held::start(&agent, &["--ns", "pid=container:a"], waits);
    is_not_said_to_be_gone_while_a_child_lives(&agent, &mut held, &["c", "a"]);
    agent.finish();
}

#[test]
fn a_container_that_removes_itself_is_there_while_a_process_of_it_lives() {
    let mut agent = Agent::start();
    let waits = "(until test -e /tmp/go; do sleep 0.05; done; exec cat /mnt/file) & sleep 100000";
    let mut held = Held::start(&agent, &["--rm", "--ns", "pid=host"], waits);
    agent.ok(["exec", "c", "--", "touch", "/tmp/go"]);
    held.wait_until_asked();
    agent.ok(["kill", "c"]);
    wait::until_true("its end is told", || agent.ok(["ps", "-a"]).contains("stopped"));
    agent.kill();
    agent.restart();
    let refused = agent.ctl(["rm", "c"]).run();
    assert!(refused.code == 125 && refused.errors().contains("(D)"), "{}", refused.errors());
    held.let_go();
    agent.ok(["rm", "c"]);
    agent.finish();
}

/// Those that Conti keeps in a container for its next command are told from its own otherwise.
#[test]
fn a_process_counts_whatever_it_calls_itself() {
    let agent = Agent::start();
    let waits = "cp /bin/cat /tmp/conti-forker; \
                 (until test -e /tmp/go; do sleep 0.05; done; exec /tmp/conti-forker /mnt/file) & sleep 100000";
    let mut held = Held::start(&agent, &[], waits);
    is_not_said_to_be_gone_while_a_child_lives(&agent, &mut held, &["c"]);
    agent.finish();
}

/// It has ids of the container, and would be forgotten with it: any number of containers would leave theirs.
#[test]
fn a_container_is_there_while_something_that_looks_into_it_hangs() {
    let (agent, metrics) = with_metrics();
    let mut held = Held::start(&agent, &[], "sleep 100000; true");
    let mut look = agent.ctl(["ls", "c", "/mnt/file"]).into_command();
    let look = look.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut look = look.expect("contictl can be started");
    held.wait_until_asked();
    look.kill().expect("the client is there");
    look.wait().expect("a child can be waited for");
    wait::until_true("its inspector is given up", || metric(&metrics, "conti_inspectors") == 0);
    let refused = agent.ctl(["rm", "-f", "c"]).run();
    let said = refused.errors();
    assert!(refused.code == 125 && said.contains("what looks at its files"), "{said}");
    held.let_go();
    agent.ok(["rm", "-f", "c"]);
    agent.finish();
}

#[test]
fn a_deadline_that_a_process_outlives_ends_the_call_and_names_the_process() {
    let agent = Agent::start();
    let mut held = Held::start(&agent, &[], "sleep 100000; true");
    let refused = agent.ctl(["exec", "--deadline", "1s", "c", "--", "cat", "/mnt/file"]).run();
    let said = refused.errors();
    assert!(refused.code == 125 && said.contains("deadline") && said.contains("(D)"), "{said}");
    let running =
        || agent.ok(["sessions", "c"]).lines().filter(|line| line.contains("/mnt/file")).count();
    assert_eq!(running(), 1, "it is there as long as its process");
    held.let_go();
    agent.ok(["rm", "-f", "c"]);
    agent.finish();
}

/// The agent is in a mount namespace of its own with the filesystem, whose server ends with it.
fn behind_one_that_hangs(dir: &Path) -> Vec<OsString> {
    let ends_with_the_agent = "ctypes.CDLL(None).prctl(1, 9)\n";
    let server = SERVER.replacen("device =", &format!("{ends_with_the_agent}device ="), 1);
    let script = "mkdir \"$1\"; python3 -c \"$0\" \"$1\" /dev/null & \
                  until grep -q \"$1 fuse\" /proc/self/mounts; do sleep 0.05; done; shift; exec \"$@\"";
    let mut words: Vec<OsString> =
        ["unshare", "-m", "sh", "-c", script, &server].map(OsString::from).to_vec();
    words.push(dir.join("hangs").into());
    words
}

#[test]
fn heavy_what_opens_a_source_that_hangs_is_given_up() {
    let agent = Agent::start_behind(behind_one_that_hangs);
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let file = agent.path("hangs/file").display().to_string();
    let volume = format!("{file}:/mnt/file");
    let calls = [
        vec!["mount", "c", &volume],
        vec!["mount", "host", &volume],
        vec!["run", "--rm", "-v", &volume, "--", "true"],
        vec!["rootfs", "build", "--from-host", &file, "--out", "-"],
    ];
    let calls = calls.map(|call| {
        let mut command = agent.ctl(call.clone()).into_command();
        let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        (call, running.expect("contictl can be started"))
    });
    for (call, running) in calls {
        let output = running.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("the kernel has not answered"), "{call:?}: {said}");
        assert_eq!(output.status.code(), Some(125), "{call:?}");
    }
    agent.finish();
}
