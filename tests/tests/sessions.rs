//! Sessions beyond one stream: resumed, attached to, looked at, and driven by the plain calls.

use conti_proto::v1::{
    CloseSessionInputRequest, Gap, GetSessionRequest, ListSessionsRequest, OutputStream,
    ReadSessionRequest, SessionState, SignalSessionRequest, StartSessionRequest,
    WaitSessionRequest, WriteSessionRequest, read_session_response::Message as Read,
    stream_request::Message as Send, stream_response::Message as Receive,
};
use conti_tests::{
    Agent,
    api::{Api, end_signal, exit_code, process, reason, session, shell, sleeper},
    pattern::Pattern,
    wire::{self, Wire},
};
use tonic::Code;

/// A session that copies its input to its output, kept when its client goes.
fn cat(policy: conti_proto::v1::DisconnectPolicy) -> conti_proto::v1::SessionSpec {
    let mut spec = session("c", process(["cat"]));
    spec.process.as_mut().expect("a process").stdin = true;
    spec.policy = Some(conti_proto::v1::SessionPolicy {
        disconnect_policy: policy as i32,
        ..Default::default()
    });
    spec
}

const KEEP: conti_proto::v1::DisconnectPolicy = conti_proto::v1::DisconnectPolicy::Keep;

/// Reads the whole journal of a session by the plain call.
async fn read(api: &mut Api, request: ReadSessionRequest) -> (Vec<u8>, Vec<u8>, Vec<Gap>) {
    let mut responses = api.sessions.read_session(request).await.expect("read").into_inner();
    let (mut stdout, mut stderr, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(response) = responses.message().await.expect("the stream goes on") {
        match response.message.expect("a message") {
            Read::Output(output) if output.stream() == OutputStream::Stderr => {
                stderr.extend_from_slice(&output.data);
            }
            Read::Output(output) => stdout.extend_from_slice(&output.data),
            Read::Gap(gap) => gaps.push(gap),
            Read::End(_) => {}
        }
    }
    (stdout, stderr, gaps)
}

#[test]
fn a_dropped_stream_resumes_at_its_offset_without_loss_or_repetition() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut wire = Wire::open(&mut api, wire::start(cat(KEEP))).await.expect("starts");
        let id = wire.session().id.clone();
        let mut sent = Pattern::new(3);
        let mut received = Pattern::new(3);
        for round in 0..20 {
            wire.write(sent.take(10_000)).await;
            // Some of it is read, and the connection breaks off.
            while received.offset() < round * 10_000 + 5_000 {
                let output = wire.output().await;
                assert_eq!(output.offset, received.offset());
                received.check(&output.data);
            }
            drop(wire);
            let open = wire::attach(&id, Some(received.offset()));
            wire = Wire::open(&mut api, open).await.expect("resumes");
            assert_eq!(wire.opened.output_offset, received.offset());
            // What was not taken is sent again from where the agent says.
            let taken = wire.opened.input_offset;
            assert!(taken <= sent.offset(), "{taken} of {}", sent.offset());
            let mut again = Pattern::new(3);
            again.take(taken as usize);
            let missing = again.take((sent.offset() - taken) as usize);
            if !missing.is_empty() {
                wire.write(missing).await;
            }
        }
        wire.close_input().await;
        let all = wire.collect().await;
        received.check(&all.stdout);
        assert_eq!(received.offset(), 200_000);
        assert_eq!(all.end.stdout_bytes, 200_000);
        assert!(all.gaps.is_empty());
    });
    agent.finish();
}

#[test]
fn input_that_is_sent_twice_is_typed_once() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let wire = Wire::open(&mut api, wire::start(cat(KEEP))).await.expect("starts");
        for (offset, data) in [(0, "abc"), (0, "abc"), (1, "bcdef"), (6, "g")] {
            let data = data.as_bytes().to_vec().into();
            wire.send(Send::Input(conti_proto::v1::Input { offset, data })).await;
        }
        wire.send(Send::InputEof(conti_proto::v1::InputEof { offset: 7 })).await;
        assert_eq!(wire.collect().await.stdout, b"abcdefg");
    });
    agent.finish();
}

#[test]
fn a_start_that_is_repeated_with_its_request_id_is_one_command() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut open =
            wire::start(session("c", shell("echo once >> /tmp/log; cat /tmp/log; sleep 1")));
        open.request_id = "one".into();
        let first = Wire::open(&mut api, open.clone()).await.expect("starts");
        let id = first.session().id.clone();
        let again = Wire::open(&mut api, open).await.expect("attaches");
        assert_eq!(again.session().id, id);
        drop(first);
        assert_eq!(again.collect().await.stdout, b"once\n");

        let request = StartSessionRequest {
            spec: Some(session("c", shell("echo x >> /tmp/log2"))),
            request_id: "two".into(),
        };
        let one = api.sessions.start_session(request.clone()).await.expect("started").into_inner();
        let two = api.sessions.start_session(request).await.expect("the same").into_inner();
        assert_eq!(one.session.expect("a session").id, two.session.expect("a session").id);
    });
    agent.finish();
}

#[test]
fn a_second_driver_takes_over_and_the_first_is_told() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut first = Wire::open(&mut api, wire::start(cat(KEEP))).await.expect("starts");
        first.write("1").await;
        assert_eq!(first.output().await.data.as_ref(), b"1");
        let id = first.session().id.clone();
        let mut second = Wire::open(&mut api, wire::attach(&id, None)).await.expect("attaches");
        loop {
            match first.next().await.expect("the stream goes on") {
                Some(Receive::DriverLost(_)) => break,
                Some(Receive::InputAck(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        second.write("2").await;
        second.close_input().await;
        let all = second.collect().await;
        assert!(all.stdout.ends_with(b"2"), "{:?}", all.stdout);
    });
    agent.finish();
}

#[test]
fn who_only_looks_sees_everything_and_changes_nothing() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut driver = Wire::open(&mut api, wire::start(cat(KEEP))).await.expect("starts");
        let id = driver.session().id.clone();
        let viewer = Wire::open(&mut api, wire::view(&id)).await.expect("looks");
        driver.write("hello").await;
        driver.close_input().await;
        assert_eq!(driver.collect().await.stdout, b"hello");
        assert_eq!(viewer.collect().await.stdout, b"hello");

        let driver = Wire::open(&mut api, wire::start(cat(KEEP))).await.expect("starts");
        let id = driver.session().id.clone();
        let mut viewer = Wire::open(&mut api, wire::view(&id)).await.expect("looks");
        viewer.write("not mine").await;
        let error = loop {
            match viewer.next().await {
                Err(error) => break error,
                Ok(Some(_)) => {}
                Ok(None) => panic!("the viewer's input was taken"),
            }
        };
        assert!(
            matches!(error.code(), Code::InvalidArgument | Code::FailedPrecondition),
            "{error:?}"
        );
        driver.close_input().await;
        assert_eq!(driver.collect().await.stdout, b"");
    });
    agent.finish();
}

#[test]
fn the_plain_calls_do_what_the_stream_does() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let script = "read line; echo got $line; echo err >&2; cat; exit 6";
        let mut spec = session("c", shell(script));
        spec.process.as_mut().expect("a process").stdin = true;
        let request = StartSessionRequest { spec: Some(spec), ..Default::default() };
        let started = api.sessions.start_session(request).await.expect("started").into_inner();
        let session_id = started.session.expect("a session").id;

        let mut write = WriteSessionRequest {
            session_id: session_id.clone(),
            offset: Some(0),
            data: b"line\nrest".to_vec().into(),
        };
        let answer = api.sessions.write_session(write.clone()).await.expect("written").into_inner();
        assert_eq!(answer.offset, 9);
        // A repeated call types nothing twice, one beyond what was taken is refused.
        let answer = api.sessions.write_session(write.clone()).await.expect("skipped").into_inner();
        assert_eq!(answer.offset, 9);
        write.offset = Some(100);
        let error = api.sessions.write_session(write.clone()).await.expect_err("a hole");
        assert_eq!((error.code(), reason(&error).as_str()), (Code::OutOfRange, "INPUT_OFFSET"));
        write.offset = None;
        write.data = b"!".to_vec().into();
        api.sessions.write_session(write.clone()).await.expect("written where input stands");

        let close = CloseSessionInputRequest { session_id: session_id.clone() };
        api.sessions.close_session_input(close.clone()).await.expect("closed");
        api.sessions.close_session_input(close).await.expect("closing twice is no error");
        let error = api.sessions.write_session(write).await.expect_err("input is closed");
        assert_eq!(error.code(), Code::FailedPrecondition);

        let wait = WaitSessionRequest { session_id: session_id.clone() };
        let end = api.sessions.wait_session(wait).await.expect("waited").into_inner().end;
        let end = end.expect("an end");
        assert_eq!(exit_code(&end), 6);

        let request = ReadSessionRequest { session_id: session_id.clone(), ..Default::default() };
        let (stdout, stderr, gaps) = read(&mut api, request).await;
        assert_eq!(
            (stdout.as_slice(), stderr.as_slice()),
            (&b"got line\nrest!"[..], &b"err\n"[..])
        );
        assert!(gaps.is_empty());
        assert_eq!(end.stdout_bytes + end.stderr_bytes, (stdout.len() + stderr.len()) as u64);

        let request = GetSessionRequest { session_id: session_id.clone() };
        let session = api.sessions.get_session(request).await.expect("there").into_inner().session;
        let session = session.expect("a session");
        assert_eq!(session.state(), SessionState::Ended);
        assert_eq!(session.output_offset, end.stdout_bytes + end.stderr_bytes);
        assert_eq!(session.input_offset, 10);
        assert_eq!(session.pid, 0);

        // And the stream shows the same of a session that has ended.
        let all = Wire::open(&mut api, wire::attach(&session_id, None)).await.expect("attaches");
        let all = all.collect().await;
        assert_eq!((all.stdout, all.stderr), (stdout, stderr));
    });
    agent.finish();
}

#[test]
fn a_session_is_signalled_by_the_plain_call() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let spec = session("c", process(["sleep", "1000"]));
        let request = StartSessionRequest { spec: Some(spec), ..Default::default() };
        let started = api.sessions.start_session(request).await.expect("started").into_inner();
        let session_id = started.session.expect("a session").id;
        let signal = SignalSessionRequest { session_id: session_id.clone(), signal: "TERM".into() };
        api.sessions.signal_session(signal.clone()).await.expect("signalled");
        let wait = WaitSessionRequest { session_id };
        let end = api.sessions.wait_session(wait).await.expect("waited").into_inner().end;
        assert_eq!(end_signal(&end.expect("an end")), 15);
        let error = api.sessions.signal_session(signal).await.expect_err("it has ended");
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert_eq!(reason(&error), "SESSION_WRONG_STATE");
    });
    agent.finish();
}

#[test]
fn sessions_are_listed_by_container_and_state() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        api.run(sleeper("d")).await.expect("runs");
        let spec = session("c", process(["sleep", "1000"]));
        let running = StartSessionRequest { spec: Some(spec), ..Default::default() };
        api.sessions.start_session(running).await.expect("started");
        let wire = Wire::open(&mut api, wire::start(session("c", process(["true"])))).await;
        wire.expect("starts").collect().await;
        let mut list = async |container: &str, states: &[SessionState]| {
            let states = states.iter().map(|s| *s as i32).collect();
            let request =
                ListSessionsRequest { container: container.into(), states, ..Default::default() };
            let answer = api.sessions.list_sessions(request).await.expect("listed").into_inner();
            answer.sessions.iter().map(|s| (s.argv[0].clone(), s.main)).collect::<Vec<_>>()
        };
        assert_eq!(list("", &[]).await.len(), 4);
        assert_eq!(list("d", &[]).await, [("sleep".to_owned(), true)]);
        assert_eq!(list("c", &[SessionState::Ended]).await, [("true".to_owned(), false)]);
        assert_eq!(list("c", &[SessionState::Running]).await.len(), 2);
    });
    agent.finish();
}

#[test]
fn attach_finds_the_main_session_of_a_container() {
    let agent = Agent::start();
    agent.ok([
        "run",
        "-d",
        "--name",
        "c",
        "--",
        "sh",
        "-c",
        "echo early; sleep 1; echo late; exit 3",
    ]);
    let out = agent.ctl(["attach", "c"]).run().exits(3);
    assert!(out.text().ends_with("late"), "{}", out.text());
    agent.finish();
}

#[test]
fn exec_d_leaves_the_command_running_and_its_output_readable() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    let id = agent.ok(["exec", "-d", "c", "--", "sh", "-c", "echo out; sleep 0.2; exit 8"]);
    assert_eq!(id.len(), 32, "exec -d prints the session's id: {id}");
    agent.api(async |mut api| {
        let wait = WaitSessionRequest { session_id: id.clone() };
        let end = api.sessions.wait_session(wait).await.expect("waited").into_inner().end;
        assert_eq!(exit_code(&end.expect("an end")), 8);
        let request = ReadSessionRequest { session_id: id.clone(), ..Default::default() };
        assert_eq!(read(&mut api, request).await.0, b"out\n");
    });
    agent.finish();
}

#[test]
fn a_deadline_of_the_caller_holds_for_what_it_started_and_not_only_for_the_first_answer() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("a")).await.expect("a container");
        let opened = async |api: &mut Api, value: &'static str| {
            let (requests, receiver) = tokio::sync::mpsc::channel(4);
            let open = wire::opening(wire::start(session("a", process(["sleep", "99"]))));
            requests.send(open).await.expect("room");
            let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let mut request = tonic::Request::new(stream);
            request.metadata_mut().insert("grpc-timeout", value.parse().expect("metadata"));
            api.sessions.stream(request).await.map(|answer| (requests, answer.into_inner()))
        };
        let (_requests, mut answers) = opened(&mut api, "1S").await.expect("a stream");
        let mut end = None;
        while let Ok(Some(answer)) = answers.message().await {
            if let Some(Receive::End(ended)) = answer.message {
                end = ended.reason;
            }
        }
        assert!(matches!(end, Some(conti_proto::v1::session_end::Reason::Deadline(_))), "{end:?}");
        for wrong in ["", "S", "1", "1X", "-1S", "999999999S", "1 S"] {
            let refused = opened(&mut api, wrong).await.err();
            let refused = refused.unwrap_or_else(|| panic!("{wrong:?} was taken"));
            assert_eq!(refused.code(), Code::InvalidArgument, "{wrong:?}: {refused:?}");
        }
    });
    agent.finish();
}
