//! A container fills the disk on which the agent has its records, its log and the container's own layer.

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use conti_proto::v1::{
    DeleteContainerRequest, KillContainerRequest, StartSessionRequest, StopContainerRequest,
};
use conti_tests::{
    Agent,
    api::{self, container, process, session, shell},
    audit::read,
    wait,
    world::World,
};
use serde_json::Value;
use tonic::Code;

/// Fills a disk with bytes, and goes on filling what is given back.
const BYTES: &str = "while :; do cat /dev/zero >> /fill 2> /dev/null; sleep 0.01; done";
/// The same once, so that what is given back stays.
const BYTES_ONCE: &str = "cat /dev/zero > /fill 2> /dev/null; sleep 100000";
/// Fills it with empty files.
const INODES: &str = "i=0; while true > /f$i; do i=$((i+1)); done 2> /dev/null; sleep 100000";

/// A small disk for all that an agent has.
fn small_disk(options: &str) -> impl FnOnce(&Path) -> Vec<OsString> {
    let script = format!(
        "set -e; dir=$1; shift; cd $dir; mkdir disk; mount -t tmpfs -o {options} none disk; \
         for name in state data audit; do mkdir $name disk/$name; mount --bind disk/$name $name; done; \
         exec \"$@\""
    );
    |dir: &Path| {
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c"];
        let words = words.iter().map(OsString::from);
        words.chain([script.into(), "sh".into(), dir.into()]).collect()
    }
}

/// A path of the agent's as the agent sees it.
fn inside(agent: &Agent, name: &str) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", agent.pid()));
    root.join(agent.path(name).strip_prefix("/").expect("absolute"))
}

fn log(agent: &Agent) -> Vec<Value> {
    read(&inside(agent, "audit/audit.jsonl"))
}

/// The parts of the reserve that are there.
fn parts(agent: &Agent) -> usize {
    fs::read_dir(inside(agent, "state/.conti-reserve")).map_or(0, Iterator::count)
}

fn full_of_bytes(agent: &Agent) -> bool {
    rustix::fs::statvfs(inside(agent, "disk")).expect("a disk").f_bfree == 0
}

fn full_of_files(agent: &Agent) -> bool {
    rustix::fs::statvfs(inside(agent, "disk")).expect("a disk").f_ffree == 0
}

/// Whether a method's begin is in the log.
fn has_begun(agent: &Agent, method: &str) -> bool {
    log(agent).iter().any(|entry| entry["event"] == "begin" && entry["method"] == method)
}

#[test]
fn an_agent_with_a_small_disk_that_is_full_records_what_it_does_in_the_room_that_is_kept() {
    let agent = Agent::start_behind(small_disk("size=8m"));
    assert_eq!(parts(&agent), 16);
    agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", BYTES_ONCE]);
    wait::until_true("the disk is full", || full_of_bytes(&agent));
    // More than the last page of the log may have room for.
    for _ in 0..4 {
        agent.ok(["exec", "c", "--", "true", &"x".repeat(1000)]);
    }
    assert!(parts(&agent) < 16, "it took of the reserve");
    agent.ok(["kill", "-s", "CONT", "c"]);
    agent.ok(["stop", "-t", "0", "c"]);
    assert!(has_begun(&agent, "/conti.v1.ContainerService/KillContainer"));
    assert!(has_begun(&agent, "/conti.v1.ContainerService/StopContainer"));
    agent.ok(["rm", "c"]);
    wait::until_true("the reserve is made again", || parts(&agent) == 16);
    let all = log(&agent);
    assert!(all.iter().all(|entry| entry["event"] != "lost"), "all of it is there: {all:?}");
    agent.finish();
}

/// The calls that the metrics say were carried out without a record.
fn counted(agent: &Agent) -> u64 {
    let mut metrics = UnixStream::connect(agent.path("metrics.sock")).expect("connected");
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    metrics.write_all(request).expect("asked");
    let mut text = String::new();
    metrics.read_to_string(&mut text).expect("answered");
    let line = text.lines().find_map(|line| line.strip_prefix("conti_audit_unrecorded_total "));
    line.expect("a metric").trim().parse().expect("a number")
}

#[test]
fn what_only_ends_or_removes_is_carried_out_and_counted_when_no_room_is_left() {
    let world = World::start_with_both(small_disk("size=8m"), "", |dir| {
        let metrics = format!("unix://{}", dir.join("metrics.sock").display());
        vec!["--reserve-bytes".into(), "0".into(), "--metrics-listen".into(), metrics.into()]
    });
    let agent = &world.agent;
    agent.api(async |mut api| {
        api.run(container("d", process(["sleep", "100000"]))).await.expect("runs");
        api.run(container("e", process(["sleep", "100000"]))).await.expect("runs");
        api.run(container("c", shell(BYTES))).await.expect("runs");
    });
    wait::until_true("the disk is full", || full_of_bytes(agent));
    let long = "x".repeat(1000);
    let refused = wait::until("a call cannot be recorded", || {
        agent.api(async |mut api| {
            let spec = Some(session("c", process(["true", &long])));
            let request = StartSessionRequest { spec, ..Default::default() };
            let refused = api.sessions.start_session(request).await.err();
            refused.filter(|refused| api::reason(refused) == "AUDIT_FAILED")
        })
    });
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    // As root of this machine, and as an operator from elsewhere; a long reason finds no room in any page.
    let because = format!("--reason={}", "y".repeat(500));
    agent.ok([because.as_str(), "kill", "-s", "CONT", "d"]);
    agent.ok([because.as_str(), "stop", "-t", "0", "d"]);
    agent.ok([because.as_str(), "rm", "-f", "d"]);
    let operator = world.as_role("olga", "operator");
    agent.block_on(async {
        let mut api = operator.api().await.expect("it may connect");
        let container = || "e".to_owned();
        let kill = KillContainerRequest { container: container(), signal: "CONT".into() };
        api.containers.kill_container(kill).await.expect("signalled");
        let grace = Some(Default::default());
        let stop = StopContainerRequest { container: container(), grace, ..Default::default() };
        api.containers.stop_container(stop).await.expect("stopped");
        let delete = DeleteContainerRequest { container: container(), ..Default::default() };
        api.containers.delete_container(delete).await.expect("deleted");
    });
    agent.ok([because.as_str(), "rm", "-f", "c"]);
    // Each of the seven is in the log, or counted there and in the metrics. That of the first two at least one found no
    // room is sure: what is left of a page is not enough for both.
    let told = wait::until("the log tells of all", || {
        let all = log(agent);
        let ending = ["/KillContainer", "/StopContainer", "/DeleteContainer"];
        let is_one = |entry: &&Value| {
            let method = entry["method"].as_str().unwrap_or_default();
            entry["event"] == "begin" && ending.iter().any(|end| method.ends_with(end))
        };
        let recorded = all.iter().filter(is_one).count() as u64;
        let unrecorded: u64 = all.iter().filter_map(|entry| entry["unrecorded"].as_u64()).sum();
        (recorded + unrecorded == 7).then_some(unrecorded)
    });
    assert!(told > 0);
    assert_eq!(counted(agent), told);
    world.agent.finish();
}

#[test]
fn what_is_mounted_on_a_full_disk_is_noted_with_what_it_reaches_or_is_not_mounted() {
    let world = World::start_with_both(small_disk("size=8m"), "", |_| {
        vec!["--reserve-bytes".into(), "0".into()]
    });
    let agent = &world.agent;
    let main = agent.api(async |mut api| {
        api.run(container("c", process(["sleep", "100000"]))).await.expect("runs").session_id
    });
    let record = inside(agent, &format!("state/sessions/{main}/session.json"));
    let filling = inside(agent, "disk/fill");
    let (mut refused, mut mounted) = (0, 0);
    // From no page to enough for all that is written, one by one.
    for pages in 0..12 {
        let mut file = fs::File::create(&filling).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
        let size = file.metadata().expect("a file").len();
        file.set_len(size - pages * 4096).expect("smaller");
        let place = format!("/mnt/e{pages}");
        let mount = agent.ctl(["mount", "c", &format!("/etc:{place}"), "--mkdir"]).run();
        let noted = fs::read_to_string(&record).expect("a record").contains(&place);
        match mount.code {
            0 => {
                assert!(noted, "{pages} pages: it is mounted and not noted");
                mounted += 1;
            }
            _ => {
                assert!(mount.errors().contains("No space left"), "{mount:?}");
                refused += 1;
            }
        }
        fs::remove_file(&filling).expect("room again");
    }
    assert!(refused > 0 && mounted > 0, "{refused} refused, {mounted} mounted");
    world.agent.finish();
}

#[test]
fn a_disk_without_inodes_does_not_keep_a_container_from_being_stopped_and_deleted() {
    let agent = Agent::start_behind(small_disk("size=16m,nr_inodes=2000"));
    agent.ok(["run", "-d", "--name", "d", "--", "sleep", "100000"]);
    agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", INODES]);
    wait::until_true("the disk is full", || full_of_files(&agent));
    let exec = agent.ctl(["exec", "c", "--", "true"]).run();
    assert!(exec.code == 0 || exec.errors().contains("No space left"), "{exec:?}");
    agent.ok(["kill", "-s", "CONT", "c"]);
    agent.ok(["stop", "-t", "0", "c"]);
    agent.ok(["rm", "c"]);
    agent.ok(["rm", "-f", "d"]);
    assert!(has_begun(&agent, "/conti.v1.ContainerService/StopContainer"));
    wait::until_true("the reserve is made again", || parts(&agent) == 16);
    agent.ok(["run", "--rm", "--", "true"]);
    agent.finish();
}
