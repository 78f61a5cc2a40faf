//! Ends of sessions in the audit log: each that a call has started has one, also where the agent was away.

use std::{collections::BTreeSet, path::Path};

use conti_proto::v1::{
    CreateContainerRequest, GetSessionRequest, ListContainersRequest, ListSessionsRequest,
    SessionState, StartSessionRequest, WaitSessionRequest,
};
use conti_tests::{
    Agent,
    api::{session, shell, sleeper},
    audit::{SMALL_DISK, behind, disk_of, entries, fill, last, read},
    wait,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const START: &str = "/conti.v1.SessionService/StartSession";
const CREATE: &str = "/conti.v1.ContainerService/CreateContainer";
const STREAM: &str = "/conti.v1.SessionService/Stream";

/// Starts a session that nobody drives: its id.
fn start(agent: &Agent, script: &str) -> String {
    agent.api(async |mut api| {
        let spec = Some(session("c", shell(script)));
        let request = StartSessionRequest { spec, ..Default::default() };
        let started = api.sessions.start_session(request).await.expect("started").into_inner();
        started.session.expect("a session").id
    })
}

/// The pid of a session's process, once it runs.
fn pid_of(agent: &Agent, id: &str) -> Pid {
    wait::until("the session runs", || {
        let session = agent.api(async |mut api| {
            let request = GetSessionRequest { session_id: id.to_owned() };
            let answer = api.sessions.get_session(request).await.expect("there").into_inner();
            answer.session.expect("a session")
        });
        let running = session.state() == SessionState::Running;
        Pid::from_raw(session.pid.cast_signed()).filter(|_| running)
    })
}

/// The ends of a session that stand in the log, each with the begin of its call.
fn ends_of(agent: &Agent, session: &str) -> Vec<(Value, Value)> {
    let all = entries(agent);
    let ends = all.iter().filter(|e| e["session"] == session && e["end"].is_object());
    let begin = |end: &Value| {
        let begin = all.iter().find(|e| e["event"] == "begin" && e["call"] == end["call"]);
        begin.cloned().expect("who began it is known")
    };
    ends.map(|end| (begin(end), end.clone())).collect()
}

/// The one end of a session, which is awaited.
fn end_of(agent: &Agent, session: &str) -> (Value, Value) {
    let mut ends = wait::until("the end is in the log", || {
        Some(ends_of(agent, session)).filter(|ends| !ends.is_empty())
    });
    assert_eq!(ends.len(), 1, "{ends:?}");
    ends.remove(0)
}

#[test]
fn a_session_that_outlives_its_call_has_an_end_of_its_own() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let spec = Some(session("c", shell("sleep 0.5; exit 9")));
        let request = StartSessionRequest { spec, ..Default::default() };
        let started = api.sessions.start_session(request).await.expect("started").into_inner();
        let session_id = started.session.expect("a session").id;
        api.sessions.wait_session(WaitSessionRequest { session_id }).await.expect("waited");
    });
    let ends = wait::until("both ends are in the log", || {
        let (begin, _) = last(&agent, START);
        let all = entries(&agent).into_iter();
        let ends: Vec<Value> =
            all.filter(|e| e["event"] == "end" && e["call"] == begin["call"]).collect();
        (ends.len() == 2).then_some(ends)
    });
    assert_eq!((&ends[0]["code"], &ends[0]["end"]), (&"OK".into(), &Value::Null));
    assert_eq!(ends[1]["end"]["exit"], 9);
    assert_eq!(ends[0]["session"], ends[1]["session"]);
    agent.finish();
}

#[test]
fn ends_that_find_no_room_are_written_by_the_next_agent() {
    // The next agent gets an empty disk.
    let mut agent = behind(SMALL_DISK, "");
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let mut missing: BTreeSet<String> = (0..6).map(|_| start(&agent, "exec sleep 1000")).collect();
    let pids: Vec<Pid> = missing.iter().map(|id| pid_of(&agent, id)).collect();
    let (disk, _) = fill(&agent);
    // What was there before may have left some room in its last page.
    wait::until_true("a call is refused", || {
        agent.ctl(["exec", "c", "--", "true"]).run().code != 0
    });
    for pid in pids {
        kill_process(pid, Signal::KILL).expect("it is there");
    }
    agent.api(async |mut api| {
        for session_id in missing.clone() {
            api.sessions.wait_session(WaitSessionRequest { session_id }).await.expect("waited");
        }
    });
    let ended = |disk: &Path| -> BTreeSet<String> {
        let all = read(&disk.join("audit.jsonl")).into_iter();
        let ends = all.filter(|entry| entry["end"].is_object());
        ends.map(|end| end["session"].as_str().expect("a session").to_owned()).collect()
    };
    // One or two may have found room where a begin did not.
    missing.retain(|id| !ended(&disk).contains(id));
    assert!(!missing.is_empty(), "some found none");
    agent.kill();
    agent.restart();
    let disk = disk_of(&agent);
    wait::until_true("the others are in the log", || missing.is_subset(&ended(&disk)));
    agent.finish();
}

#[test]
fn a_container_that_nobody_drives_has_an_end_with_who_started_it() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "run", "--", "sh", "-c", "exit 3"]);
    agent.ok(["create", "--name", "made", "--", "sh", "-c", "exit 4"]);
    agent.ok(["start", "made"]);
    for (name, method, code) in
        [("run", CREATE, 3), ("made", "/conti.v1.ContainerService/StartContainer", 4)]
    {
        let session = agent.api(async |mut api| api.get(name).await.expect("there").session_id);
        let (begin, end) = end_of(&agent, &session);
        assert_eq!((&begin["method"], &begin["target"]), (&method.into(), &name.into()));
        assert_eq!((&end["target"], &end["end"]["exit"]), (&name.into(), &code.into()));
    }
    agent.finish();
}

#[test]
fn what_is_carried_out_for_a_caller_who_has_gone_has_its_end_and_says_what_was_made() {
    // What is begun takes a while, and goes on meanwhile.
    let delays = "CONTI_TEST_DELAYS=create.registered=300,enter.started=300";
    let agent = Agent::start_behind(|_| ["env", delays].map(Into::into).to_vec());
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let begun = |method: &str| -> usize {
        entries(&agent).iter().filter(|e| e["event"] == "begin" && e["method"] == method).count()
    };
    for round in 0..12 {
        let method = if round % 2 == 0 { CREATE } else { START };
        let before = begun(method);
        agent.api(async |api| {
            let call = tokio::spawn(async move {
                let (mut containers, mut sessions) = (api.containers, api.sessions);
                if method == CREATE {
                    let spec = Some(sleeper(""));
                    let request =
                        CreateContainerRequest { spec, start: true, ..Default::default() };
                    drop(containers.create_container(request).await);
                } else {
                    let spec = Some(session("c", shell("exec sleep 100000")));
                    let request = StartSessionRequest { spec, ..Default::default() };
                    drop(sessions.start_session(request).await);
                }
            });
            while begun(method) == before {
                tokio::task::yield_now().await;
            }
            call.abort();
        });
    }
    wait::until_true("each begin has its end", || {
        let all = entries(&agent);
        let of = |event: &str| -> BTreeSet<String> {
            let all = all.iter().filter(|e| e["event"] == event);
            all.map(|e| e["call"].to_string()).collect()
        };
        of("begin").is_subset(&of("end"))
    });
    // All that was begun is there by now, and nothing of which the log does not tell.
    let (containers, sessions) = agent.api(async |mut api| {
        let all = api.containers.list_containers(ListContainersRequest::default()).await;
        let sessions = api.sessions.list_sessions(ListSessionsRequest::default()).await;
        let containers = all.expect("listed").into_inner().containers;
        (containers, sessions.expect("listed").into_inner().sessions)
    });
    let all = entries(&agent);
    for id in containers.iter().map(|one| &one.id) {
        let mut ends = all.iter().filter(|e| e["event"] == "end" && e["container"] == **id);
        assert!(ends.next().is_some(), "container {id}: {all:?}");
    }
    for container in &containers {
        agent.ok(["rm", "-f", &container.id]);
    }
    for id in sessions.iter().map(|one| &one.id) {
        let (begin, _) = end_of(&agent, id);
        assert!([CREATE, START, STREAM].contains(&begin["method"].as_str().expect("a method")));
    }
    agent.finish();
}

#[test]
fn a_session_that_outlives_the_agent_has_one_end_with_who_began_it() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let later = start(&agent, "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 9");
    let meanwhile = start(&agent, "exec sleep 100000");
    // Of this one nothing else is left.
    let client = agent.ctl(["run", "--rm", "--name", "once", "--", "sleep", "100000"]).spawn();
    let removed = wait::until("it runs", || {
        let found = agent.api(async |mut api| api.get("once").await.ok());
        found.map(|found| found.session_id).filter(|id| !id.is_empty())
    });
    let pids = [&meanwhile, &removed].map(|id| pid_of(&agent, id));
    agent.kill();
    drop(client);
    for (pid, id) in pids.into_iter().zip([&meanwhile, &removed]) {
        kill_process(pid, Signal::KILL).expect("it can be killed");
        let end = agent.path("state/sessions").join(id).join("end.json");
        wait::until_true("its monitor has written its end", || end.exists());
    }
    agent.restart();
    let (begin, end) = end_of(&agent, &meanwhile);
    assert_eq!((&begin["method"], &end["method"]), (&START.into(), &START.into()));
    assert_eq!((&end["identity"], &end["role"]), (&"uid:0".into(), &"admin".into()));
    assert_eq!((&end["target"], &end["end"]["signal"]), (&"c".into(), &9.into()));
    let (begin, end) = end_of(&agent, &removed);
    assert_eq!((&begin["method"], &begin["argv"][0]), (&STREAM.into(), &"sleep".into()));
    assert_eq!((&end["target"], &end["end"]["signal"]), (&"once".into(), &9.into()));

    assert!(ends_of(&agent, &later).is_empty(), "it runs");
    agent.ok(["exec", "c", "--", "touch", "/tmp/go"]);
    let (begin, end) = end_of(&agent, &later);
    assert_eq!(begin["argv"][2], "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 9");
    assert_eq!(end["end"]["exit"], 9);

    // None is written again by the agent after that.
    agent.kill();
    agent.restart();
    agent.ok(["exec", "c", "--", "true"]);
    last(&agent, STREAM);
    for id in [&meanwhile, &removed, &later] {
        end_of(&agent, id);
    }
    agent.finish();
}
