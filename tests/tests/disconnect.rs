//! What happens to a session when the client that drives it is gone.

use std::time::Duration;

use conti_proto::v1::{
    DisconnectPolicy, GetSessionRequest, KillCause, SessionEnd, SessionPolicy, SessionState,
    Terminal, WaitSessionRequest, session_end::Reason, stream_request::Message as Send,
};
use conti_tests::{
    Agent,
    api::{Api, end_signal, exit_code, process, session, shell, sleeper},
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

async fn runs(api: &mut Api, session_id: &str) -> bool {
    let request = GetSessionRequest { session_id: session_id.to_owned() };
    let answer = api.sessions.get_session(request).await.expect("there").into_inner();
    answer.session.expect("a session").state() == SessionState::Running
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
