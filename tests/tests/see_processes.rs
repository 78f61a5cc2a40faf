//! `procs` and `top`, against ps(1) on the host and inside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use conti_proto::v1::{Target, WatchProcessesRequest, target};
use conti_tests::{Agent, api, host, plain::Plain, rootfs, terminal::Terminal, wait};
use prost_types::Duration;
use serde_json::Value;

/// What `procs` says, by pid.
fn list(agent: &Agent, target: &str) -> BTreeMap<u64, Value> {
    let json = agent.ctl(["-o", "json", "procs", target]).run().success().json();
    let all = json.as_array().expect("a list").iter();
    all.map(|one| (one["pid"].as_u64().expect("a pid"), one.clone())).collect()
}

fn argv(process: &Value) -> Vec<&str> {
    process["argv"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

/// The one with these arguments.
fn with_argv<'a>(found: &'a BTreeMap<u64, Value>, wanted: &[&str]) -> &'a Value {
    let one = found.values().find(|process| argv(process) == wanted);
    one.unwrap_or_else(|| panic!("{wanted:?} is not among {found:#?}"))
}

/// What ps(1) says of a process of the host.
fn ps(pid: u64) -> Vec<String> {
    let columns = "pid=,ppid=,euid=,s=,nlwp=,ni=,vsz=,rss=,cputimes=,lstart=";
    let mut command = Command::new("ps");
    command.env("TZ", "UTC").env("LC_ALL", "C").args(["-o", columns, "-p", &pid.to_string()]);
    let text = String::from_utf8(command.output().expect("ps(1)").stdout).expect("text");
    text.split_whitespace().map(str::to_owned).collect()
}

/// Many that sit still, of several users and with several states.
const MANY: &str = r#"
    sleep 1001 &
    nice -n 7 sleep 1002 &
    setpriv --reuid 1234 --clear-groups sleep 1003 &
    sh -c 'kill -STOP $$; exec sleep 1004' &
    bash -c 'exec -a "new
line" sleep 1005' &
    sh -c 'sleep 0.01 & exec sleep 1006' &
    unshare --pid --fork sleep 1007 &
"#;

/// Waits until all of them are there and at rest.
fn settled(agent: &Agent, plain: &Plain) -> BTreeMap<u64, Value> {
    wait::until("all are there", || {
        let found = list(agent, &plain.target());
        let sleeps = found.values().filter(|one| one["name"] == "sleep").count();
        let states: BTreeSet<_> = found.values().filter_map(|one| one["state"].as_str()).collect();
        let rest = ["sleeping", "stopped", "zombie"].map(|state| states.contains(state));
        // The first one of the namespace as well, and the one that was not reaped.
        (sleeps >= 8 && rest == [true; 3] && states.len() == 3).then_some(found)
    })
}

#[test]
fn processes_are_those_that_ps_lists_field_by_field() {
    let agent = Agent::start();
    let plain = Plain::after(MANY, &[]);
    let ours = settled(&agent, &plain);
    for (pid, one) in &ours {
        let theirs = ps(*pid);
        let why = format!("{one}\n{theirs:?}");
        let state = match one["state"].as_str() {
            Some("sleeping") => "S",
            Some("stopped") => "T",
            Some("zombie") => "Z",
            _ => "?",
        };
        assert_eq!(one["parent_pid"].to_string(), theirs[1], "{why}");
        assert_eq!(one["uid"].to_string(), theirs[2], "{why}");
        assert_eq!(state, theirs[3], "{why}");
        assert_eq!(one["threads"].to_string(), theirs[4], "{why}");
        assert_eq!(one["nice"].to_string(), theirs[5], "{why}");
        for (field, column) in [("virtual_bytes", 6), ("resident_bytes", 7)] {
            let kib = one[field].as_u64().expect("a number") / 1024;
            assert_eq!(kib.to_string(), theirs[column], "{field}: {why}");
        }
        let cpu = one["user_seconds"].as_f64().unwrap_or(0.0)
            + one["system_seconds"].as_f64().unwrap_or(0.0);
        assert_eq!(format!("{}", cpu as u64), theirs[8], "{why}");
        // ps(1) rounds the moment of the boot to whole seconds.
        let started = one["start_time"].as_str().expect("a time");
        let seconds = |text: &str| -> i64 {
            let output = Command::new("date").args(["-u", "-d", text, "+%s"]).output();
            String::from_utf8_lossy(&output.expect("date(1)").stdout)
                .trim()
                .parse()
                .expect("seconds")
        };
        let apart = seconds(started) - seconds(&theirs[9..14].join(" "));
        assert!(apart.abs() <= 1, "{apart}: {why}");
        let ticks = host::pinned(*pid as u32).map(|pinned| pinned.start_ticks);
        assert!(ticks.is_none_or(|ticks| one["start_ticks"] == ticks), "{why}");
        assert_eq!(ticks.is_none(), state == "Z", "{why}");
    }
    assert_eq!(with_argv(&ours, &["sleep", "1003"])["uid"], 1234);
    assert_eq!(with_argv(&ours, &["sleep", "1002"])["nice"], 7);
    assert_eq!(with_argv(&ours, &["new\nline", "1005"])["name"], "sleep");
    assert_eq!(with_argv(&ours, &[])["state"], "zombie");
    // What brings a name along does not steer the terminal, and the tree hangs below the first.
    let tree = agent.ok(["procs", "--tree", &plain.target()]);
    assert!(tree.contains(r"new\nline") && tree.contains("[sleep] <defunct>"), "{tree}");
    let first = tree.lines().nth(1).expect("a line");
    assert!(first.ends_with("sleep 100000") && tree.contains("├─ "), "{tree}");
    drop(plain);
    agent.finish();
}

#[test]
fn pids_are_told_as_the_host_and_as_the_target_sees_them() {
    let agent = Agent::start();
    let plain = Plain::after(MANY, &[]);
    let ours = settled(&agent, &plain);
    let inside = plain.inside().args(["ps", "-e", "-o", "pid=,args="]).output().expect("ps(1)");
    let inside = String::from_utf8(inside.stdout).expect("text");
    let theirs: BTreeSet<u64> = inside
        .lines()
        .filter(|line| !line.contains("ps -e"))
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    let seen = ours.values().filter_map(|one| one["target_pid"].as_u64()).collect::<BTreeSet<_>>();
    assert_eq!(seen, theirs, "{inside}");
    for (pid, one) in &ours {
        // The zombie has neither root nor namespaces any more, but still its pids.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("its pids");
        let pids: Vec<u64> = pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        assert_eq!(one["own_pid"], *pids.last().expect("one"), "{one}");
    }
    let nested = with_argv(&ours, &["sleep", "1007"]);
    assert_eq!(nested["own_pid"], 1);
    assert_ne!(nested["target_pid"], 1);
    drop(plain);
    agent.finish();
}

#[test]
fn the_processes_of_a_container_are_its_own_wherever_their_namespaces_are() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    rootfs::build_empty(&root);
    let empty = format!("dir:{}", root.display());
    agent.ok(["run", "-d", "--name", "empty", "--rootfs", &empty, "--", "/pause"]);
    agent.ok(["run", "-d", "--name", "other", "--", "sleep", "2001"]);
    let of_host = ["--ns", "pid=host", "--userns", "host"];
    agent.ok([&["run", "-d", "--name", "open"], &of_host[..], &["--", "sleep", "2002"]].concat());
    agent.ok(["exec", "-d", "open", "--", "sleep", "2003"]);
    let found = list(&agent, "empty");
    assert_eq!(found.len(), 1, "{found:?}");
    let one = found.values().next().expect("one");
    assert_eq!((argv(one), one["target_pid"].as_u64()), (vec!["/pause"], Some(1)));
    assert_eq!(one["container_name"], "empty");
    let open = list(&agent, "open");
    assert_eq!(open.len(), 2, "{open:?}");
    assert_eq!(with_argv(&open, &["sleep", "2003"])["container_name"], "open");
    // Somebody else's process in its pid namespace counts as well.
    let pid =
        agent.ctl(["-o", "json", "inspect", "other"]).run().success().json()["pid"].to_string();
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--pid", "--target", &pid, "--", "sleep", "2004"]);
    let mut guest = conti_tests::ctl::Running::new(nsenter.spawn().expect("nsenter(1)"));
    wait::until_true("the guest is there", || list(&agent, "other").len() == 2);
    let other = list(&agent, "other");
    assert!(with_argv(&other, &["sleep", "2004"])["container_name"].is_null());
    for process in host::descendants(guest.pid()) {
        let pid = rustix::process::Pid::from_raw(process.pid as i32).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ended");
    }
    wait::until_true("the guest is gone", || guest.ended());
    // The host sees all of them, and whose they are.
    let all = list(&agent, "host");
    for name in ["empty", "other", "open"] {
        assert!(all.values().any(|one| one["container_name"] == name), "{name}");
    }
    assert!(all.values().any(|one| one["pid"] == std::process::id()));
    assert!(all.len() > found.len() + open.len());
    agent.finish();
}

#[test]
fn a_process_that_works_takes_cpu_and_one_that_sleeps_does_not() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", "sleep 3000 & while :; do :; done"]);
    agent.api(async |mut api| {
        let target = Some(Target { target: Some(target::Target::Container("c".to_owned())) });
        let interval = Some(Duration { seconds: 0, nanos: 300_000_000 });
        let request = WatchProcessesRequest { target, interval };
        let mut stream =
            api.processes.watch_processes(request).await.expect("watched").into_inner();
        let (mut snapshots, mut current) = (Vec::new(), BTreeMap::new());
        // On a busy machine it may have to wait for its turn.
        while snapshots.len() < 3
            || !snapshots.iter().skip(1).any(|one: &BTreeMap<Vec<u8>, f64>| one[&b"sh"[..]] > 0.0)
        {
            let part = stream.message().await.expect("a message").expect("no end");
            for process in part.processes {
                current.insert(process.name.to_vec(), process.cpu);
            }
            if part.complete {
                snapshots.push(std::mem::take(&mut current));
            }
        }
        for snapshot in snapshots.iter().skip(1) {
            assert_eq!(snapshot[&b"sleep"[..]], 0.0, "{snapshots:?}");
            // One thread is on one CPU at most; a tick is the finest that the kernel tells.
            assert!(snapshot[&b"sh"[..]] < 1.2, "{snapshots:?}");
        }
    });
    let top = agent.ok(["top", "-n", "2", "-d", "0.1", "c"]);
    assert_eq!(top.matches("2 processes, 2 threads").count(), 2, "{top}");
    assert_eq!(top.matches("COMMAND").count(), 2, "{top}");
    let json = agent.ok(["-o", "json", "top", "-n", "3", "-d", "0.1", "--sort", "pid", "c"]);
    assert_eq!(json.lines().count(), 3);
    for line in json.lines() {
        let all: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(all.as_array().map(Vec::len), Some(2));
    }
    agent.finish();
}

#[test]
fn watching_ends_with_the_target() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    let mut top = agent.ctl(["-o", "json", "top", "-d", "0.1", "c"]).spawn();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(top.stdout());
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("a snapshot");
    agent.ok(["kill", "c"]);
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("it ends");
    let errors = top.stderr_text();
    assert_eq!(top.wait(), 125, "{errors}");
    assert!(errors.contains("must be running") || errors.contains("no such process"), "{errors}");
    let plain = Plain::start(&[]);
    let target = plain.target();
    let mut top = agent.ctl(["-o", "json", "top", "-d", "0.1", &target]).spawn();
    let mut stdout = std::io::BufReader::new(top.stdout());
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("a snapshot");
    drop(plain);
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("it ends");
    let errors = top.stderr_text();
    assert_eq!(top.wait(), 125, "{errors}");
    assert!(errors.contains("no such process"), "{errors}");
    agent.finish();
}

#[test]
fn a_terminal_shows_one_snapshot_over_the_other() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", "sleep 3001 & sleep 3002"]);
    let mut screen = Terminal::spawn(agent.ctl(["top", "-d", "0.1", "c"]), 60, 6);
    // Nothing is wider than the screen, and nothing scrolls.
    let shown = screen.expect("3 processes, 3 threads");
    assert!(shown.contains("\x1b[2J\x1b[H"), "{shown:?}");
    let again = screen.expect("\x1b[J");
    let drawn = screen.expect("\x1b[J");
    assert!(drawn.contains("\x1b[H") && !drawn.contains("\x1b[2J"), "{again:?} {drawn:?}");
    for line in drawn.lines() {
        let plain = line.replace("\x1b[H", "").replace("\x1b[K", "").replace("\x1b[J", "");
        assert!(plain.trim_end().chars().count() <= 60, "{line:?}");
    }
    assert_eq!(drawn.lines().filter(|line| line.contains("sleeping")).count(), 3, "{drawn:?}");
    screen.client().signal(rustix::process::Signal::INT);
    screen.wait();
    agent.finish();
}

#[test]
fn bad_questions_are_refused() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let host = || Some(Target { target: Some(target::Target::Host(Default::default())) });
        for (seconds, nanos) in [(0, 0), (0, 1000), (-1, 0), (4000, 0), (0, -5), (i64::MAX, 0)] {
            let interval = Some(Duration { seconds, nanos });
            let request = WatchProcessesRequest { target: host(), interval };
            let error = api.processes.watch_processes(request).await.expect_err("it is refused");
            assert!(api::faulty_fields(&error).contains(&"interval".to_owned()), "{error}");
        }
        let request = WatchProcessesRequest { target: None, interval: None };
        let error = api.processes.watch_processes(request).await.expect_err("it is refused");
        assert_eq!(api::faulty_fields(&error), ["target"]);
    });
    let error = agent.ctl(["procs", "nobody"]).run().exits(125).errors();
    assert!(error.contains("there is no container"), "{error}");
    agent.finish();
}
