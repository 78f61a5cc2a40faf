//! The audit log: who did what, and nothing carried out that is not in it.

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration,
};

use conti_proto::{
    METHODS,
    v1::{
        CreateContainerRequest, DeleteContainerRequest, GetCallerRequest, KillContainerRequest,
        ListProcessesRequest, Role, StartSessionRequest,
    },
};
use conti_tests::{
    Agent,
    api::{self, Api, container, process, session, shell, sleeper},
    audit::{SMALL_DISK, behind, entries, files, fill, last, lost, read, with_policy},
    host,
    pki::Authority,
    remote::knock,
    user::Common,
    wait,
    world::World,
};
use serde_json::Value;
use tonic::{Code, Request, metadata::MetadataValue};

const STREAM: &str = "/conti.v1.SessionService/Stream";

#[test]
fn what_was_run_stands_there_with_its_end() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "web", "--", "sleep", "100000"]);
    let exec = ["exec", "-e", "MODE=x", "-u", "0", "web", "--", "sh", "-c", "echo out; exit 7"];
    agent.ctl(exec).run().exits(7);
    let (begin, end) = last(&agent, STREAM);
    assert_eq!(begin["identity"], "uid:0");
    assert_eq!(begin["role"], "admin");
    assert_eq!(begin["address"], "unix");
    assert!(begin["pid"].as_i64().is_some_and(|pid| pid > 0));
    assert_eq!(begin["target"], "web");
    assert_eq!(begin["argv"], serde_json::json!(["sh", "-c", "echo out; exit 7"]));
    assert_eq!(begin["env"], serde_json::json!(["MODE"]));
    assert_eq!((&begin["user"], &begin["terminal"]), (&"0".into(), &false.into()));
    let container = agent.api(async |mut api| api.get("web").await.expect("there").id);
    assert_eq!((&end["event"], &end["code"]), (&"end".into(), &"OK".into()));
    assert_eq!((&end["target"], &end["container"]), (&"web".into(), &container.into()));
    assert_eq!((&end["end"]["exit"], &end["end"]["stdout_bytes"]), (&7.into(), &4.into()));
    assert!(end["bytes_out"].as_u64() > Some(4) && end["bytes_in"].as_u64() > Some(10));
    assert!(end["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert_eq!(end["session"].as_str().map(str::len), Some(32));

    let pid = std::process::id().to_string();
    agent.ctl(["enter", "--target", &pid, "--", "sh", "-c", "kill -TERM $$"]).run().exits(143);
    let (begin, end) = last(&agent, STREAM);
    assert_eq!(begin["target"], format!("pid:{pid}"));
    assert_eq!(end["end"]["signal"], 15);

    agent.ok(["run", "--rm", "--name", "once", "--", "true"]);
    let (begin, end) = last(&agent, STREAM);
    assert_eq!((&begin["target"], &end["end"]["exit"]), (&"once".into(), &0.into()));

    agent.ctl(["exec", "web", "--", "nonesuch"]).run().exits(127);
    let (_, end) = last(&agent, STREAM);
    assert_eq!(end["code"], "FAILED_PRECONDITION");
    assert!(end["error"].as_str().is_some_and(|error| error.contains("nonesuch")));

    agent.ok(["kill", "-s", "KILL", "web"]);
    let (begin, _) = last(&agent, "/conti.v1.ContainerService/KillContainer");
    assert_eq!((&begin["target"], &begin["detail"]), (&"web".into(), &"KILL".into()));
    // To look at a container leaves nothing there, to look at the host does.
    agent.ok(["ps"]);
    agent.ok(["procs", "host"]);
    let (begin, _) = last(&agent, "/conti.v1.ProcessService/ListProcesses");
    assert_eq!(begin["target"], "host");
    let listed =
        entries(&agent).iter().any(|e| e["method"] == "/conti.v1.ContainerService/ListContainers");
    assert!(!listed);

    let file = agent.path("audit/audit.jsonl");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().expect("a directory"))), (0o600, 0o700));
    agent.finish();
}

#[test]
fn no_secret_is_in_the_log() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let secret = "hunter2-zQzQ";
    for words in [
        vec!["-e".to_owned(), format!("PLAIN={secret}"), "c".into(), "--".into(), "true".into()],
        vec!["c".into(), "--".into(), "true".into(), format!("--password={secret}")],
        vec!["c".into(), "--".into(), "true".into(), "--token".into(), secret.into()],
        vec!["c".into(), "--".into(), "env".into(), format!("API_KEY={secret}"), "true".into()],
        vec!["c".into(), "--".into(), "true".into(), format!("https://joe:{secret}@host/")],
        vec!["c".into(), "--".into(), "true".into(), format!("Authorization: Bearer {secret}")],
        vec![
            "c".into(),
            "--".into(),
            "sh".into(),
            "-c".into(),
            format!("true -u a --passwd '{secret}'"),
        ],
    ] {
        agent.ok(["exec".to_owned()].into_iter().chain(words));
    }
    // Nor what an error quotes.
    agent.ctl(["exec", "c", "--", &format!("/x?token={secret}")]).run();
    last(&agent, STREAM);
    let text: String =
        files(&agent).iter().map(|file| fs::read_to_string(file).expect("text")).collect();
    assert!(!text.contains("zQzQ"), "{text}");
    assert!(text.contains("[redacted]") && text.contains("PLAIN") && text.contains("--password"));
    agent.finish();
}

#[test]
fn nothing_that_a_caller_sends_steers_the_terminal_that_shows_a_log_or_stands_there_as_a_secret() {
    const ODD: &str = "\u{202e}evil\u{9b}31m\u{200b}\u{ad}\u{e0041}";
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    agent.ok(["exec", "-e", "A=1", "c", "--", "true", ODD]);
    agent.ctl(["kill", ODD]).run();
    agent.ctl(["kill", "password=hunter2-zQzQ"]).run();
    agent.ctl(["cat", "c", &format!("/{ODD}/token=hunter2-zQzQ")]).run();
    agent.ctl(["exec", "-u", ODD, "c", "--", "true"]).run();
    agent.ctl(["exec", "-e", &format!("{ODD}=1"), "c", "--", "true"]).run();
    agent.ok(["mount", "--mkdir", "c", &format!("type=tmpfs,dst=/mnt/{ODD}")]);
    last(&agent, "/conti.v1.MountService/CreateMount");
    let audited: String =
        files(&agent).iter().map(|file| fs::read_to_string(file).expect("text")).collect();
    let log = agent.log();
    for (what, text) in [("the audit log", audited), ("the log", log)] {
        let hidden = |c: char| c != '\n' && (c.is_control() || ODD.contains(c) && !c.is_ascii());
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(hidden)).collect();
        assert!(lines.is_empty(), "{what}: {lines:?}");
        assert!(!text.contains("zQzQ"), "{what}: {text}");
        assert!(text.contains("\\u202eevil\\u009b31m"), "{what} tells of it: {text}");
        for line in text.lines() {
            serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{what}: {e}: {line}"));
        }
    }
    agent.finish();
}

#[test]
fn whoever_has_to_give_a_reason_is_refused_without_one_and_quoted_with_one() {
    let agent = with_policy("[reason]\nrequired_for = [\"admin\"]");
    agent.api(async |mut api| {
        let spec = Some(sleeper("c"));
        let request = CreateContainerRequest { spec, ..Default::default() };
        let refused = api.containers.create_container(request.clone()).await.expect_err("refused");
        assert_eq!(api::reason(&refused), "REASON_REQUIRED");
        assert!(refused.message().contains("--reason"), "{}", refused.message());
        let because = |reason: &str| {
            let mut request = Request::new(request.clone());
            let value = MetadataValue::from_bytes(reason.as_bytes());
            request.metadata_mut().insert_bin("conti-reason-bin", value);
            request
        };
        for bad in ["", "a\nb", &"x".repeat(513)] {
            let refused = api.containers.create_container(because(bad)).await.expect_err("refused");
            assert_eq!(api::reason(&refused), "INVALID_FIELD", "{bad:?}");
        }
        api.containers.create_container(because("INC-7: caf\u{e9}")).await.expect("created");
        // To look needs none.
        assert_eq!(api.list().await.len(), 1);
        let mut request =
            Request::new(DeleteContainerRequest { container: "c".into(), ..Default::default() });
        request.metadata_mut().insert_bin("conti-reason-bin", MetadataValue::from_bytes(b"done"));
        api.containers.delete_container(request).await.expect("deleted");
    });
    let method = "/conti.v1.ContainerService/CreateContainer";
    let (begin, end) = last(&agent, method);
    assert_eq!((&begin["reason"], &end["code"]), (&"INC-7: caf\u{e9}".into(), &"OK".into()));
    let all = entries(&agent);
    let denied: Vec<&Value> = all.iter().filter(|e| e["event"] == "denied").collect();
    assert_eq!(denied.len(), 4);
    assert!(denied.iter().all(|e| e["method"] == method && e["target"] == "c"));
    agent.finish();
}

#[test]
fn files_change_under_load_without_a_lost_or_torn_line() {
    let agent = with_policy("[audit]\nmax_bytes = 1048576\nkeep = 200");
    const CALLS: usize = 1000;
    agent.api(async |api| {
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let mut api = api.clone();
                tokio::spawn(async move {
                    for _ in 0..CALLS {
                        // What is not there: it costs the agent nothing but its record.
                        let argv = vec!["x".repeat(1000); 2];
                        let spec = Some(session("nonesuch", process(argv)));
                        let request = StartSessionRequest { spec, ..Default::default() };
                        api.sessions.start_session(request).await.expect_err("there is none");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("all calls were made");
        }
    });
    let calls = wait::until("all ends are in the log", || {
        let mut calls: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in entries(&agent) {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            calls.entry(text("call")).or_default().push(text("event"));
        }
        calls.values().all(|events| events.len() == 2).then_some(calls)
    });
    assert_eq!(calls.len(), 4 * CALLS);
    assert!(calls.values().all(|events| *events == ["begin", "end"]));
    assert!(files(&agent).len() >= 4, "{:?}", files(&agent));
    agent.finish();
}

#[test]
fn what_cannot_be_recorded_is_not_carried_out_until_there_is_room() {
    let agent = behind(SMALL_DISK, "");
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let (inside, filler) = fill(&agent);
    // What was there before may have left some room in its last page.
    let refused = wait::until("a call is refused", || {
        let run = agent.ctl(["exec", "c", "--", "sh", "-c", "echo >> /tmp/ran"]).run();
        (run.code != 0).then_some(run)
    });
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.errors().contains("could not be recorded"), "{refused:?}");
    agent.api(async |mut api| {
        let spec = Some(session("c", shell("echo >> /tmp/ran")));
        let request = StartSessionRequest { spec, ..Default::default() };
        let refused = api.sessions.start_session(request).await.expect_err("refused");
        assert_eq!(api::reason(&refused), "AUDIT_FAILED");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        // Those of containers go on.
        assert_eq!(api.list().await.len(), 1);
        let target = conti_proto::v1::target::Target::Container("c".into());
        let target = Some(conti_proto::v1::Target { target: Some(target) });
        let request = ListProcessesRequest { target };
        api.processes.list_processes(request).await.expect("a look");
    });
    fs::remove_file(&filler).expect("removed");
    agent.ok(["exec", "c", "--", "true"]);
    let all = read(&inside.join("audit.jsonl"));
    assert!(lost(&all) >= 2, "that some are missing is told: {all:?}");
    // Each that was carried out is there.
    let ran = agent.ok(["exec", "c", "--", "sh", "-c", "cat /tmp/ran 2> /dev/null | wc -l"]);
    let begun = all.iter().filter(|e| e["event"] == "begin" && e["argv"][2] == "echo >> /tmp/ran");
    assert_eq!(ran, begun.count().to_string());
    agent.finish();
}

#[test]
fn every_call_that_was_carried_out_is_there_when_the_agent_is_killed() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    // Without its end: the agent is killed in the middle of it.
    let script = "echo $0 >> /tmp/ran; sleep 1000";
    let mut running = Vec::new();
    for n in 0..8 {
        let exec = ["exec", "c", "--", "sh", "-c", script, &n.to_string()];
        running.push(agent.ctl(exec).spawn());
    }
    wait::until_true("some of them run", || {
        agent.ctl(["exec", "c", "--", "cat", "/tmp/ran"]).run().stdout.len() > 4
    });
    agent.kill();
    agent.restart();
    let ran = agent.ok(["exec", "c", "--", "cat", "/tmp/ran"]);
    let all = entries(&agent);
    for n in ran.lines() {
        let found = all.iter().any(|e| e["event"] == "begin" && e["argv"][3] == n);
        assert!(found, "{n} was carried out and is not in the log");
    }
    drop(running);
    agent.finish();
}

#[test]
fn sessions_are_recorded_where_the_policy_says_so() {
    let agent = with_policy("[recording]\nsessions = \"all\"");
    agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", "echo main; sleep 100000"]);
    agent.ok(["exec", "c", "--", "echo", "seen"]);
    let all = agent.ok(["sessions", "recordings", "-q"]);
    let ids: Vec<&str> = all.lines().collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(agent.ok(["sessions", "replay", "--no-wait", ids[1]]), "seen");
    agent.finish();
}

#[test]
fn every_method_above_a_viewers_leaves_a_begin_and_an_end_and_what_is_denied_a_line_of_its_own() {
    let world = World::start("");
    let above = || METHODS.iter().filter(|(_, role)| *role as i32 > Role::Viewer as i32);
    let serial = world.agent.block_on(async {
        let mut api = world.as_role("root", "admin").api().await.expect("it may look");
        let caller = api.agent.get_caller(GetCallerRequest {}).await.expect("an answer");
        let admin = world.as_role("root", "admin").channel().await.expect("it may connect");
        let viewer = world.as_role("vera", "viewer").channel().await.expect("it may connect");
        for (path, _) in above() {
            knock(admin.clone(), path).await.unwrap_or_else(|| panic!("{path} broke off"));
            let denied = knock(viewer.clone(), path).await.expect("an answer");
            assert_eq!(denied.code(), Code::PermissionDenied, "{path}");
        }
        caller.into_inner().caller.expect("a caller").certificate_serial
    });
    assert!(!serial.is_empty());
    for (path, _) in above() {
        let (begin, end) = last(&world.agent, path);
        assert_eq!(
            (&begin["identity"], &begin["role"]),
            (&"root".into(), &"admin".into()),
            "{path}"
        );
        let address = begin["address"].as_str().expect("an address");
        assert!(address.starts_with("127.0.0.1:"), "{path}: {address}");
        assert!(begin["certificate"].is_string(), "{path}: {begin}");
        assert_eq!(end["event"], "end", "{path}: {end}");
        let all = entries(&world.agent);
        let denied = all.iter().find(|e| e["event"] == "denied" && e["method"] == *path);
        let denied = denied.unwrap_or_else(|| panic!("nothing tells that {path} was denied"));
        assert_eq!(denied["identity"], "vera", "{path}");
    }
    world.agent.finish();
}

#[test]
fn who_is_not_let_in_leaves_a_line_but_no_more_than_some() {
    const KNOWN: u32 = 64_001;
    const UNKNOWN: u32 = 64_003;
    let common = Common::default();
    let policy = format!("[[caller]]\nuid = {KNOWN}\nrole = \"viewer\"\n");
    let world = World::start_with(&policy, |_| {
        vec!["--listen".into(), format!("unix://{}", common.socket().display()).into()]
    });
    let stranger = Authority::make("others").client("root", "admin");
    world.agent.block_on(async {
        let method = "/conti.v1.AgentService/GetAgent";
        let channel = common.channel(UNKNOWN).await.expect("it may connect");
        let refused = knock(channel, method).await.expect("it is told why");
        assert_eq!(refused.code(), Code::PermissionDenied);
        let channel = common.channel(KNOWN).await.expect("it may connect");
        assert!(knock(channel, method).await.is_some());
        world.as_role("root", "admin").api().await.expect("it may connect");
        world.remote(Some(&stranger)).api().await.err().expect("of another authority");
        for _ in 0..64 {
            world.remote(None).api().await.err().expect("it has no certificate");
        }
    });
    let refused = wait::until("they are in the log", || {
        let all = entries(&world.agent).into_iter();
        let refused: Vec<Value> = all.filter(|entry| entry["event"] == "refused").collect();
        (refused.len() > 16).then_some(refused)
    });
    let local = |entry: &&Value| entry["address"] == "unix";
    let [local] = refused.iter().filter(local).collect::<Vec<_>>()[..] else {
        panic!("one user was refused: {refused:?}");
    };
    assert_eq!(local["identity"], format!("uid:{UNKNOWN}"));
    assert!(local["pid"].is_i64() && local["denied"].is_string(), "{local}");
    let far: Vec<&Value> = refused.iter().filter(|entry| entry["address"] != "unix").collect();
    let from = |entry: &Value| entry["address"].as_str().expect("an address").to_owned();
    assert!(far.iter().all(|entry| from(entry).starts_with("127.0.0.1:")), "{far:?}");
    assert!(far.iter().all(|entry| entry["identity"].is_null()), "nobody has shown who it is");
    let why = |entry: &Value| entry["denied"].as_str().expect("why").to_owned();
    assert!(why(far[0]).contains("certificate"), "{}", far[0]);
    assert!(far.len() < 64, "{} lines", far.len());
    world.agent.finish();
}

#[test]
fn calls_that_fail_push_nothing_out_of_the_log() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        let fails = |mut api: Api| async move {
            let spec = Some(session("nonesuch", process(["true", &"x".repeat(1000)])));
            let request = StartSessionRequest { spec, ..Default::default() };
            api.sessions.start_session(request).await.expect_err("there is none").code()
        };
        let mut codes = std::collections::BTreeMap::new();
        for _ in 0..60 {
            let calls: Vec<_> = (0..50).map(|_| tokio::spawn(fails(api.clone()))).collect();
            for call in calls {
                *codes.entry(format!("{:?}", call.await.expect("no panic"))).or_insert(0) += 1;
            }
            if codes.contains_key("ResourceExhausted") {
                break;
            }
        }
        assert!(codes["NotFound"] >= 1000, "so many may fail: {codes:?}");
        assert!(codes.contains_key("ResourceExhausted"), "and no more: {codes:?}");
        // Others go on, and what ends something does.
        let mut bob = world.as_role("bob", "operator").api().await.expect("it may look");
        bob.run(sleeper("bobs")).await.expect("its calls have not failed");
        world.agent.ok(["exec", "own", "--", "true"]);
        api.delete("own").await.expect("it may still end what it has made");
    });
    world.agent.finish();
}

/// A call of its own that does nothing, and leaves much in the log.
async fn wordy(mut api: Api) {
    let kill = KillContainerRequest { container: "own".into(), signal: "CONT".into() };
    let mut request = Request::new(kill);
    let reason = MetadataValue::from_bytes("\u{1f600}".repeat(512).as_bytes());
    request.metadata_mut().insert_bin("conti-reason-bin", reason);
    api.containers.kill_container(request).await.expect("it is its own");
}

/// Those that are carried out and do nothing cost as little as those that fail; and what is held up takes no room.
#[test]
fn whoever_fills_the_log_too_fast_is_held_up_alone() {
    const CALLS: usize = 100;
    const LARGE: usize = 4_000_000;
    let world = World::start("[audit]\nmax_bytes = 1048576\nkeep = 20\n");
    let filling = |world: &World| world.agent.log().contains("fills the audit log so fast");
    let memory = || host::anonymous_kib(world.agent.pid());
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        // The log is small: 8 MiB may be added at once.
        let mut calls = 0;
        while !filling(&world) {
            let some: Vec<_> = (0..32).map(|_| tokio::spawn(wordy(api.clone()))).collect();
            for call in some {
                call.await.expect("no panic");
            }
            calls += 32;
            assert!(calls < 20_000, "nobody is held up");
        }
        let mut bob = world.as_role("bob", "operator").api().await.expect("it may look");
        bob.run(sleeper("bobs")).await.expect("it has written little");

        // A debt of some seconds, and what comes meanwhile.
        let wordy: Vec<_> = (0..50).map(|_| tokio::spawn(wordy(api.clone()))).collect();
        let before = memory();
        let large = |mut api: Api| async move {
            let spec = container("large", process(["x".repeat(LARGE)]));
            let request = CreateContainerRequest { spec: Some(spec), ..Default::default() };
            api.containers.create_container(request).await.expect_err("too long").code()
        };
        let calls: Vec<_> = (0..CALLS).map(|_| tokio::spawn(large(api.clone()))).collect();
        let mut most = 0;
        while !calls.iter().all(tokio::task::JoinHandle::is_finished) {
            most = most.max(memory().saturating_sub(before));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for call in calls {
            let code = call.await.expect("no panic");
            assert!(matches!(code, Code::InvalidArgument | Code::ResourceExhausted), "{code:?}");
        }
        for call in wordy {
            call.await.expect("no panic");
        }
        let all = (CALLS * LARGE / 1024) as u64;
        assert!(most < all / 3, "{most} KiB for {CALLS} calls, which are {all} KiB");
    });
    let log = world.agent.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("so fast")).collect();
    assert!(told.iter().all(|line| line.contains("olga")), "{told:?}");
    world.agent.finish();
}

#[test]
fn however_many_calls_have_failed_that_end_something_the_next_is_let_in() {
    const CALLS: usize = 3000;
    let world = World::start("");
    let kill = |container: &str| KillContainerRequest {
        container: container.into(),
        signal: "KILL".into(),
    };
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        let fails = |mut api: Api| async move {
            api.containers.kill_container(kill("nonesuch")).await.expect_err("there is none").code()
        };
        for _ in 0..CALLS / 50 {
            let calls: Vec<_> = (0..50).map(|_| tokio::spawn(fails(api.clone()))).collect();
            for call in calls {
                assert_eq!(call.await.expect("no panic"), Code::NotFound);
            }
        }
        api.containers.kill_container(kill("own")).await.expect("it is its own");
    });
    // They push nothing out of the log all the same, and are counted; the one that did something is there.
    let kills = |entry: &&Value| {
        entry["method"].as_str().is_some_and(|method| method.ends_with("/KillContainer"))
    };
    let (kill, all) = wait::until("all is written", || {
        let all = entries(&world.agent);
        let own = |entry: &&Value| kills(entry) && entry["target"] == "own";
        let kill: Vec<Value> = all.iter().filter(own).cloned().collect();
        (kill.len() == 2 && lost(&all) > 0).then_some((kill, all))
    });
    assert_eq!((&kill[0]["event"], &kill[1]["event"]), (&"begin".into(), &"end".into()));
    assert_eq!((&kill[0]["call"], &kill[1]["code"]), (&kill[1]["call"], &"OK".into()));
    let lines = all.iter().filter(kills).count();
    assert!(lines < CALLS, "{lines} lines of {CALLS} calls that have done nothing");
    world.agent.finish();
}
