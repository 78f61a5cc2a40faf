//! What happens to a session when the client that drives it is gone.

use std::{io::Read as _, time::Duration};

use conti_proto::v1::{
    ContainerSpec, Detach, DisconnectPolicy, GetSessionRequest, KillCause, Session, SessionEnd,
    SessionPolicy, SessionState, StartContainerRequest, StartSessionRequest, Terminal,
    WaitSessionRequest, session_end::Reason, stream_request::Message as Send,
    stream_response::Message as Receive,
};
use conti_tests::{
    Agent,
    api::{Api, container, end_signal, exit_code, process, session, shell, sleeper},
    wait,
    wire::{self, Wire},
};

/// Starts a session with this policy and drops its stream once it has written something.
async fn abandoned(
    api: &mut Api,
    policy: DisconnectPolicy,
    timeout: Option<Duration>,
    script: &str,
) -> String {
    let mut spec = session("c", shell(script));
    spec.policy = Some(SessionPolicy {
        disconnect_policy: policy as i32,
        disconnect_timeout: timeout.map(|t| t.try_into().expect("a short time")),
        ..Default::default()
    });
    let mut wire = Wire::open(api, wire::start(spec)).await.expect("starts");
    wire.read_until("ready").await;
    wire.session().id.clone()
}

async fn end_of(api: &mut Api, session_id: &str) -> SessionEnd {
    let request = WaitSessionRequest { session_id: session_id.to_owned() };
    let wait =
        tokio::time::timeout(conti_tests::wait::PATIENCE, api.sessions.wait_session(request));
    let answer = wait.await.expect("the session ends").expect("waited").into_inner();
    answer.end.expect("an end")
}

async fn get(api: &mut Api, session_id: &str) -> Session {
    let request = GetSessionRequest { session_id: session_id.to_owned() };
    let answer = api.sessions.get_session(request).await.expect("there").into_inner();
    answer.session.expect("a session")
}

async fn runs(api: &mut Api, session_id: &str) -> bool {
    get(api, session_id).await.state() == SessionState::Running
}

/// Ends with 4 when the container has a file /go.
const UNTIL_GO: &str = "echo ready; until [ -e /go ]; do sleep 0.05; done; exit 4";

/// What `UNTIL_GO` ends with.
const WENT: i32 = 4;

/// Has the main command of the container end, which may be before this one: then that is killed with it.
fn go(agent: &Agent) {
    let code = agent.ctl(["exec", "c", "--", "touch", "/go"]).run().code;
    assert!([0, 137].contains(&code), "{code}");
}

/// Attaches to a session, waits until it has written something, and breaks the stream off.
async fn look(api: &mut Api, session_id: &str) {
    let mut wire = Wire::open(api, wire::attach(session_id, None)).await.expect("attaches");
    wire.read_until("ready").await;
    drop(wire);
    until_alone(api, session_id).await;
}

/// Waits until the agent has seen that nobody drives a session any more.
async fn until_alone(api: &mut Api, session_id: &str) {
    let deadline = tokio::time::Instant::now() + wait::PATIENCE;
    while get(api, session_id).await.attached {
        assert!(tokio::time::Instant::now() < deadline, "its client is gone");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn killed_by_policy(end: &SessionEnd) -> bool {
    matches!(&end.reason, Some(Reason::Killed(killed)) if killed.cause() == KillCause::Disconnect)
}

/// A time to keep that a policy that should not begin would not take long to show.
fn a_second() -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: 1, nanos: 0 })
}

#[test]
fn kill_ends_the_command_and_names_the_cause() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        for policy in [DisconnectPolicy::Kill, DisconnectPolicy::Unspecified] {
            let id = abandoned(&mut api, policy, None, "echo ready; sleep 1000").await;
            match end_of(&mut api, &id).await.reason {
                Some(Reason::Killed(killed)) => {
                    assert_eq!((killed.signal, killed.cause()), (9, KillCause::Disconnect));
                }
                other => panic!("{policy:?} gave {other:?}"),
            }
        }
    });
    agent.finish();
}

#[test]
fn hang_up_sends_sighup_and_no_more() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let script = "trap 'exit 33' HUP; echo ready; while :; do sleep 0.05; done";
        let id = abandoned(&mut api, DisconnectPolicy::HangUp, None, script).await;
        assert_eq!(exit_code(&end_of(&mut api, &id).await), 33);
        let id = abandoned(&mut api, DisconnectPolicy::HangUp, None, "echo ready; exec sleep 1000")
            .await;
        assert_eq!(end_signal(&end_of(&mut api, &id).await), 1);
    });
    agent.finish();
}

#[test]
fn keep_waits_for_a_client_and_kills_when_none_comes_back() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let time = Some(Duration::from_secs(2));
        let id = abandoned(&mut api, DisconnectPolicy::Keep, time, "echo ready; sleep 1000").await;
        assert!(runs(&mut api, &id).await, "it is kept");
        match end_of(&mut api, &id).await.reason {
            Some(Reason::Killed(killed)) => assert_eq!(killed.cause(), KillCause::Disconnect),
            other => panic!("{other:?}"),
        }
        // With a client that is back in time it goes on beyond the time.
        let id =
            abandoned(&mut api, DisconnectPolicy::Keep, time, "echo ready; sleep 4; exit 3").await;
        let wire = Wire::open(&mut api, wire::attach(&id, None)).await.expect("attaches");
        assert_eq!(exit_code(&wire.collect().await.end), 3);
    });
    agent.finish();
}

#[test]
fn detach_leaves_it_running() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let id = abandoned(&mut api, DisconnectPolicy::Detach, None, "echo ready; sleep 1; exit 4")
            .await;
        assert_eq!(exit_code(&end_of(&mut api, &id).await), 4);
        // By message, whatever the policy says.
        let mut spec = session("c", shell("echo ready; sleep 1; exit 5"));
        spec.policy = Some(SessionPolicy {
            disconnect_policy: DisconnectPolicy::Kill as i32,
            ..Default::default()
        });
        let mut wire = Wire::open(&mut api, wire::start(spec)).await.expect("starts");
        let id = wire.session().id.clone();
        wire.read_until("ready").await;
        wire.send(Send::Detach(conti_proto::v1::Detach {})).await;
        // The agent closes the stream once it has heard.
        while let Ok(Some(_)) = wire.next().await {}
        drop(wire);
        assert_eq!(exit_code(&end_of(&mut api, &id).await), 5);
    });
    agent.finish();
}

#[test]
fn a_session_with_a_terminal_is_kept_by_default() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut process = process(["sh", "-c", "echo ready; sleep 2; exit 6"]);
        process.terminal = Some(Terminal::default());
        let wire = Wire::open(&mut api, wire::start(session("c", process))).await;
        let mut wire = wire.expect("starts");
        wire.read_until("ready").await;
        let id = wire.session().id.clone();
        drop(wire);
        assert_eq!(exit_code(&end_of(&mut api, &id).await), 6);
    });
    agent.finish();
}

#[test]
fn a_client_that_is_killed_takes_its_command_with_it() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    let mut client = agent.ctl(["exec", "c", "--", "sh", "-c", "echo ready; sleep 1000"]).spawn();
    let mut stdout = client.stdout();
    std::io::Read::read_exact(&mut stdout, &mut [0; 6]).expect("it is ready");
    client.signal(rustix::process::Signal::KILL);
    assert_eq!(client.wait(), -9);
    conti_tests::wait::until_true("the command has ended", || {
        agent.api(async |mut api| {
            let request = conti_proto::v1::ListSessionsRequest {
                states: vec![SessionState::Running as i32],
                ..Default::default()
            };
            let sessions = api.sessions.list_sessions(request).await.expect("listed").into_inner();
            sessions.sessions.iter().all(|s| s.main)
        })
    });
    agent.finish();
}

#[test]
fn five_hundred_dropped_streams_leave_no_process_and_no_file() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut round = async || {
            let mut open = Vec::new();
            for _ in 0..25 {
                let spec = session("c", process(["cat", "/dev/zero"]));
                open.push(Wire::open(&mut api, wire::start(spec)).await.expect("starts"));
            }
        };
        round().await;
        let files = conti_tests::host::open_files(agent.pid());
        for _ in 0..20 {
            round().await;
        }
        conti_tests::wait::until_true("files and processes are as many as before", || {
            conti_tests::host::open_files(agent.pid()) <= files + 16
                && conti_tests::host::descendants(agent.pid()).len() < 25
        });
    });
    agent.finish();
}

#[test]
fn whoever_looks_at_what_was_started_without_a_client_leaves_it_running() {
    let agent = Agent::start();
    for terminal in [false, true] {
        let with_terminal = |script: &str| {
            let mut process = shell(script);
            process.terminal = terminal.then(Terminal::default);
            process
        };
        let policy = terminal
            .then(|| SessionPolicy { disconnect_timeout: a_second(), ..Default::default() });
        let (main, exec) = agent.api(async |mut api| {
            let mut spec: ContainerSpec = container("c", with_terminal(UNTIL_GO));
            spec.session_policy.clone_from(&policy);
            let main = api.run(spec).await.expect("runs").session_id;
            let mut spec = session(
                "c",
                with_terminal("echo ready; until [ -e /go-on ]; do sleep 0.05; done; exit 5"),
            );
            spec.policy = policy;
            let request = StartSessionRequest { spec: Some(spec), ..Default::default() };
            let exec = api.sessions.start_session(request).await.expect("starts").into_inner();
            let exec = exec.session.expect("a session").id;
            // More than once, and after another.
            for id in [&main, &exec, &main] {
                look(&mut api, id).await;
            }
            // A policy that has begun has time to end it.
            tokio::time::sleep(Duration::from_secs(2)).await;
            (main, exec)
        });
        agent.ok(["exec", "c", "--", "touch", "/go-on"]);
        agent.api(async |mut api| assert_eq!(exit_code(&end_of(&mut api, &exec).await), 5));
        go(&agent);
        agent.api(async |mut api| {
            assert_eq!(exit_code(&end_of(&mut api, &main).await), WENT);
            api.delete("c").await.expect("deleted");
        });
    }
    agent.finish();
}

#[test]
fn a_policy_that_was_chosen_holds_for_whoever_attaches() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--disconnect", "kill", "--", "sh", "-c", UNTIL_GO]);
    agent.api(async |mut api| {
        let id = api.get("c").await.expect("there").session_id;
        assert!(runs(&mut api, &id).await, "nobody has come yet, and nobody has gone");
        look(&mut api, &id).await;
        assert!(killed_by_policy(&end_of(&mut api, &id).await));
    });
    agent.finish();
}

#[test]
fn what_was_left_running_stays_so_whoever_comes_and_goes() {
    let agent = Agent::start();
    let id = agent.api(async |mut api| {
        let mut wire = Wire::open(&mut api, wire::run(container("c", shell(UNTIL_GO)))).await;
        let wire = wire.as_mut().expect("runs");
        wire.read_until("ready").await;
        let id = wire.session().id.clone();
        wire.send(Send::Detach(Detach {})).await;
        while let Ok(Some(_)) = wire.next().await {}
        look(&mut api, &id).await;
        id
    });
    go(&agent);
    agent.api(async |mut api| assert_eq!(exit_code(&end_of(&mut api, &id).await), WENT));
    agent.finish();
}

#[test]
fn what_a_client_streamed_once_and_was_started_again_runs_without_one() {
    let agent = Agent::start();
    let script = format!("[ -e /again ] || {{ touch /again; exit 0; }}; {UNTIL_GO}");
    agent.ok(["run", "--name", "c", "--", "sh", "-c", &script]);
    let id = agent.api(async |mut api| {
        let request = StartContainerRequest { container: "c".into(), ..Default::default() };
        api.containers.start_container(request).await.expect("starts");
        let id = api.get("c").await.expect("there").session_id;
        look(&mut api, &id).await;
        id
    });
    go(&agent);
    agent.api(async |mut api| assert_eq!(exit_code(&end_of(&mut api, &id).await), WENT));
    agent.finish();
}

#[test]
fn a_session_is_its_first_clients_while_others_come_and_go() {
    let agent = Agent::start();
    let script = "echo ready; until [ -e /go ]; do sleep 0.05; done; echo gone; sleep 100000";
    let (mut first, id) = agent.api(async |mut api| {
        let run = wire::run(container("c", shell(script)));
        let mut first = Wire::open(&mut api, run).await.expect("runs");
        first.read_until("ready").await;
        let id = first.session().id.clone();
        look(&mut api, &id).await;
        (first, id)
    });
    go(&agent);
    agent.api(async |mut api| {
        while !matches!(first.next().await, Ok(Some(Receive::DriverLost(_)))) {}
        first.read_until("gone").await;
        assert!(runs(&mut api, &id).await);
        drop(first);
        assert!(killed_by_policy(&end_of(&mut api, &id).await));
    });
    agent.finish();
}

#[test]
fn what_was_left_running_is_left_by_the_next_agent_too() {
    let mut agent = Agent::start();
    let policy = SessionPolicy {
        disconnect_policy: DisconnectPolicy::Keep.into(),
        disconnect_timeout: a_second(),
        ..Default::default()
    };
    let id = agent.api(async |mut api| {
        let mut spec = container("c", shell(UNTIL_GO));
        spec.session_policy = Some(policy);
        let mut wire = Wire::open(&mut api, wire::run(spec)).await.expect("runs");
        wire.read_until("ready").await;
        wire.send(Send::Detach(Detach {})).await;
        while let Ok(Some(_)) = wire.next().await {}
        wire.session().id.clone()
    });
    for _ in 0..2 {
        agent.kill();
        agent.restart();
        // A policy that has begun has time to end it.
        std::thread::sleep(Duration::from_secs(2));
    }
    go(&agent);
    agent.api(async |mut api| assert_eq!(exit_code(&end_of(&mut api, &id).await), WENT));
    agent.finish();
}

#[test]
fn what_waits_for_a_client_that_went_with_the_agent_goes_on_without_it() {
    let mut agent = Agent::start();
    // Far more than is kept of its output.
    let script =
        "echo ready; until [ -e /go ]; do sleep 0.05; done; head -c 8000000 /dev/zero; exit 4";
    agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", script]);
    let (id, _wire) = agent.api(async |mut api| {
        let id = api.get("c").await.expect("there").session_id;
        let mut wire = Wire::open(&mut api, wire::attach(&id, None)).await.expect("attaches");
        wire.read_until("ready").await;
        (id, wire)
    });
    // Nobody reads on: the process waits for its client.
    go(&agent);
    agent.kill();
    agent.restart();
    agent.api(async |mut api| {
        assert!(runs(&mut api, &id).await, "a client may come back, and nothing is dropped yet");
        let request = WaitSessionRequest { session_id: id.clone() };
        let end = api.sessions.wait_session(request);
        let end = tokio::time::timeout(3 * wait::PATIENCE, end).await.expect("it goes on");
        let end = end.expect("waited").into_inner().end.expect("an end");
        assert_eq!(exit_code(&end), WENT);
    });
    agent.finish();
}

#[test]
fn a_client_that_has_attached_goes_alone_however_it_goes() {
    let agent = Agent::start();
    let script =
        "trap 'exit 33' HUP; echo ready; until [ -e /go ]; do echo more; sleep 0.05; done; exit 4";
    for way in ["killed", "hung up", "nobody reads it"] {
        agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", script]);
        let mut client = agent.ctl(["attach", "c"]).spawn();
        let mut stdout = client.stdout();
        stdout.read_exact(&mut [0; 6]).expect("it is ready");
        let code = match way {
            "killed" => {
                client.signal(rustix::process::Signal::KILL);
                -9
            }
            "hung up" => {
                client.signal(rustix::process::Signal::HUP);
                // Its output is read on: it is not the pipe that ends it.
                std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
                129
            }
            _ => {
                drop(stdout);
                141
            }
        };
        assert_eq!(client.wait(), code, "{way}");
        agent.api(async |mut api| {
            let id = api.get("c").await.expect("there").session_id;
            until_alone(&mut api, &id).await;
        });
        go(&agent);
        agent.ctl(["wait", "c"]).run().exits(WENT);
        agent.ok(["rm", "c"]);
    }
    agent.finish();
}
