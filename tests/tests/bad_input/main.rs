//! Requests that make no sense get INVALID_ARGUMENT with the fields at fault, and harm nothing.

mod spoilers;

use conti_proto::v1::{
    CreateContainerRequest, Input, ListContainersRequest, ListDirectoryRequest, ListMountsRequest,
    ListNetworkRequest, ListProcessesRequest, ListSocketsRequest, MeasureUsageRequest, ProcessId,
    ReadFileRequest, SessionSpec, SessionTarget, StreamOpen, StreamRequest, Target, Terminal,
    TerminalSize, WatchProcessesRequest, session_target, stream_request::Message as Send, target,
};
use conti_tests::{
    Agent,
    api::{Api, container, faulty_fields, process, reason, session, sleeper},
    host,
    wire::{self, Wire},
};
use spoilers::{SPOILERS, of_process};
use tonic::{Code, Status};

/// Everything that a spoiled request may leave behind, none of which it may.
async fn nothing_was_made(api: &mut Api, what: &str) {
    assert!(api.list().await.is_empty(), "{what} made a container");
}

#[test]
fn every_bad_field_of_a_container_is_named() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        for (what, field, spoil) in SPOILERS {
            let mut spec = sleeper("c");
            spoil(&mut spec);
            let error = api.create(spec.clone()).await.expect_err(what);
            assert_eq!(error.code(), Code::InvalidArgument, "{what}: {error:?}");
            assert_eq!(reason(&error), "INVALID_FIELD", "{what}");
            let fields = faulty_fields(&error);
            assert!(fields.iter().any(|f| f.contains(field)), "{what}: {fields:?}");
            let error = Wire::open(&mut api, wire::run(spec)).await.err().expect(what);
            assert_eq!(error.code(), Code::InvalidArgument, "{what}, streamed: {error:?}");
            nothing_was_made(&mut api, what).await;
        }
    });
    agent.finish();
}

#[test]
fn all_bad_fields_are_named_at_once() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut spec = container("Bad Name", process([""]));
        spec.hostname = "x".repeat(100);
        of_process(&mut spec).cwd = "relative".into();
        let error = api.create(spec).await.expect_err("all of it is bad");
        let fields = faulty_fields(&error);
        for field in ["name", "argv", "hostname", "cwd"] {
            assert!(fields.iter().any(|f| f.contains(field)), "{field} in {fields:?}");
        }
    });
    agent.finish();
}

#[test]
fn a_session_that_makes_no_sense_is_refused() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let to_process =
            |process| SessionTarget { target: Some(session_target::Target::Process(process)) };
        let pid = conti_proto::v1::ProcessTarget { pid: 0, ..Default::default() };
        let unknown =
            conti_proto::v1::ProcessTarget { pid: 1, namespaces: vec![0], ..Default::default() };
        let beyond =
            conti_proto::v1::ProcessTarget { pid: 1, namespaces: vec![9], ..Default::default() };
        let cases: Vec<(&str, &str, SessionSpec)> = vec![
            (
                "no target",
                "target",
                SessionSpec { target: None, ..session("c", process(["true"])) },
            ),
            (
                "an empty target",
                "target",
                SessionSpec {
                    target: Some(SessionTarget { target: None }),
                    ..session("c", process(["true"]))
                },
            ),
            (
                "no process",
                "process",
                SessionSpec { process: None, ..session("c", process(["true"])) },
            ),
            ("empty argv", "argv", session("c", process([""; 0]))),
            (
                "pid 0",
                "pid",
                SessionSpec { target: Some(to_process(pid)), ..session("c", process(["true"])) },
            ),
            (
                "namespace 0",
                "namespaces",
                SessionSpec {
                    target: Some(to_process(unknown)),
                    ..session("c", process(["true"]))
                },
            ),
            (
                "namespace 9",
                "namespaces",
                SessionSpec { target: Some(to_process(beyond)), ..session("c", process(["true"])) },
            ),
        ];
        for (what, field, spec) in cases {
            let error = Wire::open(&mut api, wire::start(spec)).await.err().expect(what);
            assert_eq!(error.code(), Code::InvalidArgument, "{what}: {error:?}");
            let fields = faulty_fields(&error);
            assert!(fields.iter().any(|f| f.contains(field)), "{what}: {fields:?}");
        }
    });
    agent.finish();
}

#[test]
fn the_first_message_of_a_stream_must_open_it_and_no_other_may() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let input = || StreamRequest {
            message: Some(Send::Input(Input { offset: 0, data: b"x".to_vec().into() })),
        };
        let nothing = StreamRequest { message: None };
        let open = || {
            let mut spec = session("c", process(["cat"]));
            of_session(&mut spec).stdin = true;
            wire::opening(wire::start(spec))
        };
        for (what, messages) in [
            ("input first", vec![input()]),
            ("an empty message first", vec![nothing.clone()]),
            ("an empty open", vec![wire::opening(StreamOpen::default())]),
            ("open twice", vec![open(), open()]),
            ("an empty message later", vec![open(), nothing.clone()]),
        ] {
            let error = wire::refused(&mut api, messages).await;
            assert_eq!(error.code(), Code::InvalidArgument, "{what}: {error:?}");
        }
    });
    agent.finish();
}

fn of_session(spec: &mut SessionSpec) -> &mut conti_proto::v1::ProcessSpec {
    spec.process.as_mut().expect("a process")
}

#[test]
fn bad_messages_in_an_open_stream_are_refused() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let cases: Vec<(&str, Send)> = vec![
            ("input with a hole", Send::Input(Input { offset: 10, data: b"x".to_vec().into() })),
            (
                "more than 1 MiB of input",
                Send::Input(Input { offset: 0, data: vec![0; (1 << 20) + 1].into() }),
            ),
            ("an unknown signal", Send::Signal(conti_proto::v1::Signal { signal: "MOON".into() })),
            ("signal 0", Send::Signal(conti_proto::v1::Signal { signal: "0".into() })),
            ("a size of 0", Send::Resize(TerminalSize { columns: 0, rows: 10 })),
            (
                "an acknowledgement of what was never sent",
                Send::OutputAck(conti_proto::v1::OutputAck { offset: 1 << 40 }),
            ),
        ];
        for (what, message) in cases {
            let mut spec = session("c", process(["cat"]));
            of_session(&mut spec).stdin = true;
            of_session(&mut spec).terminal =
                matches!(message, Send::Resize(_)).then(Terminal::default);
            let messages =
                vec![wire::opening(wire::start(spec)), StreamRequest { message: Some(message) }];
            let error = wire::refused(&mut api, messages).await;
            let code = error.code();
            let fits = matches!(code, Code::InvalidArgument | Code::OutOfRange);
            assert!(fits, "{what}: {error:?}");
        }
    });
    agent.finish();
}

#[test]
fn an_attach_must_name_one_session() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let neither = conti_proto::v1::AttachSession::default();
        let both = conti_proto::v1::AttachSession {
            session_id: "0".repeat(32),
            container: "c".into(),
            ..Default::default()
        };
        for attach in [neither, both] {
            let open = StreamOpen {
                open: Some(conti_proto::v1::stream_open::Open::Attach(attach)),
                ..Default::default()
            };
            let error = Wire::open(&mut api, open).await.err().expect("one must be named");
            assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
        }
    });
    agent.finish();
}

#[test]
fn messages_after_the_end_harm_nobody() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        for _ in 0..20 {
            let wire = Wire::open(&mut api, wire::start(session("c", process(["true"])))).await;
            let wire = wire.expect("starts");
            let sender = wire.sender();
            wire.collect().await;
            for _ in 0..10 {
                let message = Send::Input(Input { offset: 0, data: b"late".to_vec().into() });
                let _ = sender.send(StreamRequest { message: Some(message) }).await;
            }
        }
        api.get("c").await.expect("the agent answers as before");
    });
    agent.finish();
}

#[test]
fn an_oversized_message_is_refused_before_it_is_read() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut spec = sleeper("c");
        of_process(&mut spec).env.insert("A".into(), "x".repeat(10 << 20));
        let error = api.create(spec.clone()).await.expect_err("10 MiB are too much");
        let fits = matches!(
            error.code(),
            Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted
        );
        assert!(fits, "{error:?}");
        let error = Wire::open(&mut api, wire::run(spec)).await.err().expect("10 MiB are too much");
        assert_ne!(error.code(), Code::Internal, "{error:?}");
        nothing_was_made(&mut api, "an oversized message").await;
        // The connection goes on.
        api.run(sleeper("good")).await.expect("the agent works as before");
    });
    agent.finish();
}

#[test]
fn pages_that_make_no_sense_are_refused() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        for request in [
            ListContainersRequest { page_token: "nonsense".into(), ..Default::default() },
            ListContainersRequest { page_size: 1001, ..Default::default() },
            ListContainersRequest { states: vec![77], ..Default::default() },
        ] {
            let error = api.containers.list_containers(request).await.expect_err("it is bad");
            assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
            assert!(!faulty_fields(&error).is_empty());
        }
    });
    agent.finish();
}

#[test]
fn request_ids_are_short_and_printable() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        for request_id in ["x".repeat(129), "a\nb".to_owned(), "ü".to_owned()] {
            let request =
                CreateContainerRequest { spec: Some(sleeper("c")), request_id, start: false };
            let error = api.containers.create_container(request).await.expect_err("it is bad");
            assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
            assert_eq!(faulty_fields(&error), ["request_id"]);
        }
        nothing_was_made(&mut api, "a bad request id").await;
    });
    agent.finish();
}

#[test]
fn a_storm_of_bad_requests_leaves_the_agent_as_it_was() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        for round in 0..5 {
            for (what, _, spoil) in SPOILERS {
                let mut spec = sleeper(&format!("bad{round}"));
                spoil(&mut spec);
                api.create(spec).await.expect_err(what);
            }
        }
        api.delete("c").await.expect("deleted");
    });
    let files = host::open_files(agent.pid());
    agent.api(async |mut api| {
        for (what, _, spoil) in SPOILERS {
            let mut spec = sleeper("bad");
            spoil(&mut spec);
            api.create(spec).await.expect_err(what);
        }
    });
    // A slot may just be refilled: a few files more, whatever was asked.
    conti_tests::wait::until_true("no file is left open", || {
        host::open_files(agent.pid()) <= files + 16
    });
    assert!(!agent.log().contains("panicked"), "the agent panicked");
    agent.finish();
}

#[test]
fn bytes_that_are_no_message_end_their_own_connection_only() {
    use std::{io::Write as _, os::unix::net::UnixStream};
    let agent = Agent::start();
    let socket = agent.path("contid.sock");
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff",
    ] {
        let mut stream = UnixStream::connect(&socket).expect("the agent listens");
        let _ = stream.write_all(garbage);
    }
    agent.api(async |mut api| {
        assert!(api.list().await.is_empty());
    });
    agent.finish();
}

/// Calls each method that looks at a target.
async fn look(api: &mut Api, target: Option<Target>) -> Vec<(&'static str, Status)> {
    let path = || b"/".to_vec().into();
    let mut errors = Vec::new();
    let mut note = |method, result: Result<(), Status>| {
        errors.push((method, result.expect_err(method)));
    };
    let of = || target.clone();
    let mounts = ListMountsRequest { target: of(), ..Default::default() };
    note("mounts", ended(api.mounts.list_mounts(mounts).await).await);
    let list = ListDirectoryRequest { target: of(), path: path() };
    note("ls", ended(api.files.list_directory(list).await).await);
    let read = ReadFileRequest { target: of(), path: path(), ..Default::default() };
    note("cat", ended(api.files.read_file(read).await).await);
    let measure = MeasureUsageRequest { target: of(), paths: vec![path()], ..Default::default() };
    note("du", ended(api.files.measure_usage(measure).await).await);
    let processes = ListProcessesRequest { target: of() };
    note("procs", ended(api.processes.list_processes(processes).await).await);
    let watch = WatchProcessesRequest { target: of(), interval: None };
    note("top", ended(api.processes.watch_processes(watch).await).await);
    let network = ListNetworkRequest { target: of() };
    note("net", ended(api.network.list_network(network).await).await);
    let sockets = ListSocketsRequest { target: of(), ..Default::default() };
    note("sockets", ended(api.network.list_sockets(sockets).await).await);
    errors
}

/// The error that an answer begins or ends with.
async fn ended<T>(
    answer: Result<tonic::Response<tonic::Streaming<T>>, Status>,
) -> Result<(), Status> {
    let mut stream = answer?.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

#[test]
fn every_way_to_look_says_the_same_of_a_target_that_is_none() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let container = |key: &str| target::Target::Container(key.to_owned());
        let process = |pid, start_ticks| target::Target::Process(ProcessId { pid, start_ticks });
        let long = "x".repeat(100_000);
        for (what, target, codes) in [
            ("no target", None, vec![Code::InvalidArgument]),
            ("an empty name", Some(container("")), vec![Code::InvalidArgument]),
            ("a NUL", Some(container("a\0b")), vec![Code::InvalidArgument]),
            ("a path", Some(container("../../etc")), vec![Code::InvalidArgument, Code::NotFound]),
            ("a long name", Some(container(&long)), vec![Code::InvalidArgument]),
            ("an unknown name", Some(container("nobody")), vec![Code::NotFound]),
            ("pid 0", Some(process(0, 0)), vec![Code::InvalidArgument]),
            ("the largest pid", Some(process(u32::MAX, 0)), vec![Code::InvalidArgument]),
            ("a free pid", Some(process(i32::MAX as u32, 0)), vec![Code::FailedPrecondition]),
            ("another start", Some(process(1, u64::MAX)), vec![Code::FailedPrecondition]),
        ] {
            for target in [Some(Target { target: target.clone() }), None] {
                if target.is_none() && what != "no target" {
                    continue;
                }
                for (method, error) in look(&mut api, target).await {
                    assert!(codes.contains(&error.code()), "{method} of {what}: {error:?}");
                    let fields = faulty_fields(&error);
                    let named = fields.iter().all(|field| field.starts_with("target"));
                    assert!(named, "{method} of {what}: {fields:?}");
                }
            }
        }
    });
    assert!(!agent.log().contains("panicked"), "the agent panicked");
    agent.finish();
}

#[test]
fn the_socket_is_for_root_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let agent = Agent::start();
    let mode =
        std::fs::metadata(agent.path("contid.sock")).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    for dir in ["state", "data"] {
        let mode = std::fs::metadata(agent.path(dir)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{dir} can be entered by others: {mode:o}");
    }
    agent.finish();
}
