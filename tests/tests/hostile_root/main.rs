//! Root filesystems whose container means harm: what it leaves in its layer for the agent to open, to
//! overwrite or to walk.

mod kinds;
mod replaced;
mod users;

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use conti_proto::v1::ContainerState;
use conti_tests::{Agent, api, host, wait};
use rustix::{
    fs::{Mode, OFlags, mkdirat, open, openat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, kill_process},
};

/// A user namespace, or none.
const USERS: [&[&str]; 2] = [
    &["--userns", "host"],
    &["--ns", "user=private", "--uid-map", "0:200000:65536", "--gid-map", "0:200000:65536"],
];

/// Clears a deep tree away, should its test fail: the removal of a temporary directory is recursive.
struct Deep(PathBuf);

impl Drop for Deep {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new("rm").args(["-rf", "--one-file-system"]).arg(&self.0).status();
        }
    }
}

fn containers(agent: &Agent) -> PathBuf {
    agent.path("data/containers")
}

/// Lets a container do something to its layer, stops it, and starts it again. The second time it only waits.
fn start_again_after(agent: &Agent, users: &[&str], name: &str, script: &str) -> String {
    let script = format!("test -e /done && exec sleep 100000; {script}; touch /done");
    let mut args = vec!["create", "--name", name, "--hostname", "pluto"];
    args.extend(users);
    args.extend(["--", "sh", "-c", &script]);
    agent.ok(args);
    agent.ok(["start", name]);
    agent.ctl(["wait", name]).run().exits(0);
    let again = agent.ctl(["start", name]).timeout(Duration::from_secs(60)).run().success();
    again.errors()
}

#[test]
fn the_files_of_etc_are_never_written_through_what_a_container_put_there() {
    let agent = Agent::start();
    let (file, dir) = (agent.scratch("file"), agent.scratch("dir"));
    fs::write(&file, "the host's").expect("a file");
    fs::create_dir(&dir).expect("a directory");
    let (file, dir) = (file.display().to_string(), dir.display().to_string());
    let hostname = "cat /etc/hostname; grep -c pluto /etc/hosts";
    for (number, users) in USERS.into_iter().enumerate() {
        for (what, script, warning) in [
            ("link", format!("rm /etc/hostname; ln -s {file} /etc/hostname"), ""),
            ("fifo", "rm /etc/hostname; mkfifo /etc/hostname".to_owned(), ""),
            ("new", format!("ln -s {file} /etc/.hostname.conti-new"), ""),
            ("device", "rm /etc/hostname; mknod /etc/hostname c 1 3".to_owned(), ""),
            ("dir", "rm /etc/hostname; mkdir -p /etc/hostname/a".to_owned(), "/etc/hostname"),
            ("no-dir", format!("rm -rf /etc; ln -s {dir} /etc"), "/etc is not a directory"),
            ("etc-fifo", "rm -rf /etc; mkfifo /etc".to_owned(), "/etc is not a directory"),
            ("gone", "rm -rf /etc".to_owned(), "/etc is not a directory"),
            ("up", "rm -rf /etc; ln -s .. /etc".to_owned(), "/etc is not a directory"),
        ] {
            let name = format!("{what}-{number}");
            // Whether a container may make device nodes is not what is asked here.
            let script = format!("{{ {script}; }} || true");
            let said = start_again_after(&agent, users, &name, &script);
            assert!(said.contains(warning), "{name}: {said}");
            assert_eq!(fs::read_to_string(&file).expect("there"), "the host's", "{name}");
            assert_eq!(fs::read_dir(&dir).expect("there").count(), 0, "{name}");
            if warning.is_empty() {
                assert_eq!(agent.ok(["exec", &name, "--", "sh", "-c", hostname]), "pluto\n1");
            }
            agent.ok(["rm", "-f", &name]);
        }
    }
    agent.finish();
}

/// Runs a container with the host's ids, that does not end by itself.
fn run_for_long(agent: &Agent, flags: &[&str]) {
    let run = ["run", "-d", "--userns", "host"];
    agent.ok([&run, flags, &["--", "sleep", "100000"]].concat());
}

/// Makes a chain of directories in /tmp of a container, as a process of it would. Its ids must be those of
/// this process.
fn dig(agent: &Agent, name: &str, levels: usize) -> u32 {
    let pid = agent.api(async |mut api| api.get(name).await.expect("it is there").pid);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut last: OwnedFd =
        open(format!("/proc/{pid}/root/tmp"), flags, Mode::empty()).expect("its /tmp");
    for _ in 0..levels {
        mkdirat(&last, "d", Mode::RWXU).expect("a directory");
        last = openat(&last, "d", flags, Mode::empty()).expect("it is there");
    }
    pid
}

const LEVELS: usize = 30_000;

#[test]
fn a_deep_tree_goes_with_its_container() {
    let agent = Agent::start();
    let _deep = Deep(containers(&agent));
    let memory = Mounted::on(containers(&agent));
    let pid = agent.pid();
    run_for_long(&agent, &["--name", "kept"]);
    dig(&agent, "kept", LEVELS);
    // What is beyond the depth that is walked is told as not read.
    let held = agent.ctl(["du", "kept", "/tmp"]).run();
    assert!([0, 1].contains(&held.code) && held.text().contains("/tmp"), "{held:?}");
    agent.ok(["rm", "-f", "kept"]);
    run_for_long(&agent, &["--rm", "--name", "removes-itself"]);
    dig(&agent, "removes-itself", LEVELS);
    agent.ok(["stop", "-t", "0", "removes-itself"]);
    wait::until_true("nothing is left of the containers", || {
        fs::read_dir(containers(&agent)).expect("a directory").count() == 0
    });
    assert_eq!(agent.ok(["ps", "-a", "-q"]), "");
    assert!(host::pinned(pid).is_some_and(|agent| agent.alive()), "the agent lives");
    drop(memory);
    agent.finish();
}

#[test]
fn a_deep_tree_that_is_met_at_the_start_of_the_agent_is_removed() {
    let mut agent = Agent::start();
    let _deep = Deep(containers(&agent));
    let memory = Mounted::on(containers(&agent));
    run_for_long(&agent, &["--rm", "--name", "removes-itself"]);
    let pid = dig(&agent, "removes-itself", LEVELS);
    agent.kill();
    kill_process(Pid::from_raw(pid as i32).expect("a pid"), Signal::KILL).expect("killed");
    wait::until_true("it is dead", || !Path::new(&format!("/proc/{pid}/root/tmp")).exists());
    agent.restart();
    wait::until_true("nothing is left of the container", || {
        fs::read_dir(containers(&agent)).expect("a directory").count() == 0
    });
    // It is forgotten when its files are gone.
    wait::until_true("it is not listed any more", || agent.ok(["ps", "-a", "-q"]).is_empty());
    drop(memory);
    agent.finish();
}

/// A tmpfs that is mounted for as long as this is there. Containers are put on one where their trees are large: on
/// a disk it would be its speed that is tested.
struct Mounted(PathBuf);

impl Mounted {
    fn on(place: PathBuf) -> Mounted {
        mount("conti-test", &place, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        Mounted(place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn what_is_in_the_way_of_a_removal_is_told_and_it_can_be_repeated() {
    let mut agent = Agent::start();
    let id =
        agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", "mkdir -p /tmp/a/b; mkdir /tmp/c"]);
    let id = id.trim().to_owned();
    agent.ctl(["wait", "c"]).run().exits(0);
    let layer = containers(&agent).join(&id).join("layers/root/upper/tmp");
    let mounted = Mounted::on(layer.join("a/b"));
    let told = format!("{}", layer.join("a/b").display());
    let refused = agent.ctl(["rm", "c"]).run().exits(125).errors();
    assert!(refused.contains(&told) && refused.contains("busy"), "{refused}");
    assert!(!layer.join("c").exists(), "what could be removed is");
    let left = |agent: &Agent| {
        let container = agent.api(async |mut api| api.get("c").await.expect("it is there"));
        assert_eq!(api::state(&container), ContainerState::Quarantined);
        assert!(container.warnings.iter().any(|one| one.contains(&told)), "{container:?}");
    };
    left(&agent);
    agent.ctl(["start", "c"]).run().exits(125);
    agent.kill();
    agent.restart();
    left(&agent);
    let refused = agent.ctl(["rm", "c"]).run().exits(125).errors();
    assert!(refused.contains(&told), "{refused}");
    drop(mounted);
    agent.ok(["rm", "c"]);
    assert!(!containers(&agent).join(&id).exists());
    agent.ok(["run", "--rm", "--name", "c", "--", "true"]);
    agent.finish();
}
