//! Streams that are open when their session comes to reach more: who might not have started it then is cut.

use std::fs;

use conti_proto::v1::{self, ContainerSpec, session_end::Reason, stream_response::Message, target};
use conti_tests::{
    api::{Api, bind, process, session, shell, sleeper},
    wait,
    wire::{self, Wire},
    world::World,
};
use tonic::{Code, Status, Streaming};

/// Answers each line, with what an admin may have mounted by then.
const ANSWERS: &str = "while read -r line; do cat /mnt/e/key 2> /dev/null; echo \"<$line>\"; done";

/// Starts a session in the container `own` that nobody drives.
async fn start(api: &mut Api, script: &str, record: bool) -> String {
    let process = v1::ProcessSpec { stdin: true, ..shell(script) };
    let policy = Some(v1::SessionPolicy { record, ..Default::default() });
    let spec = Some(v1::SessionSpec { policy, ..session("own", process) });
    let request = v1::StartSessionRequest { spec, ..Default::default() };
    let started = api.sessions.start_session(request).await.expect("it may");
    started.into_inner().session.expect("a session").id
}

async fn get(api: &mut Api, id: &str) -> v1::Session {
    let request = v1::GetSessionRequest { session_id: id.to_owned() };
    let got = api.sessions.get_session(request).await.expect("it is there");
    got.into_inner().session.expect("a session")
}

async fn write(api: &mut Api, id: &str, data: &str) {
    let data = data.as_bytes().to_vec().into();
    let request = v1::WriteSessionRequest { session_id: id.to_owned(), offset: None, data };
    api.sessions.write_session(request).await.expect("it may");
}

async fn follow(api: &mut Api, id: &str) -> Streaming<v1::ReadSessionResponse> {
    let request =
        v1::ReadSessionRequest { session_id: id.to_owned(), follow: true, ..Default::default() };
    api.sessions.read_session(request).await.expect("it may").into_inner()
}

/// Mounts something into the container `own`.
async fn mount(api: &mut Api, mount: v1::Mount) {
    mount_into(api, "own", mount).await;
}

async fn mount_into(api: &mut Api, container: &str, mount: v1::Mount) {
    let request = v1::CreateMountRequest {
        target: Some(v1::Target { target: Some(target::Target::Container(container.into())) }),
        mount: Some(mount),
        create_point: true,
        ..Default::default()
    };
    api.mounts.create_mount(request).await.expect("it may");
}

/// Why a stream has ended. Nothing more is read on it.
async fn cut(wire: &mut Wire) -> Status {
    loop {
        match wire.next().await {
            Ok(Some(Message::InputAck(_))) => {}
            Ok(other) => panic!("it reads on: {other:?}"),
            Err(status) => return status,
        }
    }
}

#[test]
fn who_may_not_read_what_is_mounted_is_cut_from_open_streams() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    fs::write(secret.join("key"), "topsecret\n").expect("a file");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut vera = world.as_role("vera", "viewer").api().await.expect("it may look");
        admin.run(sleeper("own")).await.expect("an admin may");
        let id = start(&mut admin, ANSWERS, false).await;
        let mut admins = Wire::open(&mut admin, wire::view(&id)).await.expect("an admin may");
        let mut viewer = Wire::open(&mut vera, wire::view(&id)).await.expect("it may");
        let mut former = Wire::open(&mut olga, wire::attach(&id, None)).await.expect("it may");
        let mut driver = Wire::open(&mut olga, wire::attach(&id, None)).await.expect("it may");
        let lost = former.next().await.expect("it goes on");
        assert!(matches!(lost, Some(Message::DriverLost(_))), "{lost:?}");
        let mut reader = follow(&mut vera, &id).await;
        let own = session("own", process(["sleep", "100000"]));
        let mut own = Wire::open(&mut olga, wire::start(own)).await.expect("it may");
        let of_own = own.session().id.clone();
        driver.write("one\n").await;
        for wire in [&mut admins, &mut viewer, &mut former, &mut driver] {
            wire.read_until("<one>").await;
        }
        reader.message().await.expect("it goes on").expect("output");

        mount(&mut admin, bind(&secret, "/mnt/e")).await;
        driver.write("typed\n").await;
        for wire in [&mut viewer, &mut former, &mut driver, &mut own] {
            let why = cut(wire).await;
            assert_eq!(why.code(), Code::PermissionDenied, "{why:?}");
            assert!(why.message().contains("mounted on /mnt/e, since"), "{why:?}");
        }
        let why = reader.message().await.expect_err("it is cut");
        assert_eq!(why.code(), Code::PermissionDenied, "{why:?}");
        // An admin reads on, and the session has taken nothing that was typed since.
        write(&mut admin, &id, "two\n").await;
        assert_eq!(admins.read_until("<two>").await, "topsecret\n<two>\n");
        assert_eq!(get(&mut admin, &id).await.state(), v1::SessionState::Running);
        // What its client has streamed from its start ends with that client.
        let request = v1::WaitSessionRequest { session_id: of_own };
        let end = olga.sessions.wait_session(request).await.expect("it may").into_inner().end;
        let reason = end.and_then(|end| end.reason);
        assert!(matches!(reason, Some(Reason::Killed(_))), "{reason:?}");
    });
    world.agent.finish();
}

#[test]
fn streams_are_cut_by_a_neighbour_and_not_by_what_their_caller_may_have() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        olga.run(sleeper("own")).await.expect("it may");
        let process = v1::ProcessSpec { stdin: true, ..shell(ANSWERS) };
        let own = session("own", process);
        let mut own = Wire::open(&mut olga, wire::start(own)).await.expect("it may");
        let id = own.session().id.clone();
        let mut viewer = Wire::open(&mut olga, wire::view(&id)).await.expect("it may");
        let target = Some(target::Target::Container("own".into()));
        let request = v1::WatchProcessesRequest {
            target: Some(v1::Target { target }),
            interval: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
        };
        let watch = olga.processes.watch_processes(request).await.expect("it may");
        let mut watch = watch.into_inner();
        let source = Some(v1::mount::Source::Tmpfs(v1::TmpfsMount::default()));
        let tmpfs = v1::Mount { target: "/mnt/t".into(), source, read_only: false };
        mount(&mut olga, tmpfs).await;
        own.write("one\n").await;
        for wire in [&mut own, &mut viewer] {
            wire.read_until("<one>").await;
        }
        let mode = v1::NamespaceMode::Container.into();
        let joined = Some(v1::Namespace { mode, container: "own".into() });
        let namespaces = v1::Namespaces { pid: joined.clone(), user: joined, ..Default::default() };
        let mounts = vec![bind(&secret, "/mnt/e")];
        let namespaces = Some(namespaces);
        let admins = ContainerSpec { mounts, namespaces, ..sleeper("admins") };
        admin.run(admins).await.expect("an admin may");
        for wire in [&mut own, &mut viewer] {
            let why = cut(wire).await;
            assert_eq!(why.code(), Code::PermissionDenied, "{why:?}");
        }
        let why = loop {
            match watch.message().await {
                Ok(part) => assert!(part.is_some(), "a watch has no end"),
                Err(why) => break why,
            }
        };
        assert_eq!(why.code(), Code::PermissionDenied, "{why:?}");
    });
    world.agent.finish();
}

/// What a container has joined reaches its streams too, by whatever containers are in between.
#[test]
fn streams_are_cut_by_what_comes_to_one_that_their_container_has_joined() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        let of = |other: &str| {
            let mode = v1::NamespaceMode::Container.into();
            Some(v1::Namespace { mode, container: other.into() })
        };
        let with = |name: &str, namespaces| ContainerSpec {
            namespaces: Some(namespaces),
            ..sleeper(name)
        };
        for round in ["neighbour", "mount"] {
            // `own` sees `between`, which has joined the net namespace of `far`; `joins` has joined `own`.
            olga.run(sleeper("own")).await.expect("it may");
            let user = of("own");
            let namespaces = v1::Namespaces { user: user.clone(), ..Default::default() };
            olga.run(with("far", namespaces.clone())).await.expect("it may");
            let between = v1::Namespaces { pid: of("own"), net: of("far"), ..namespaces.clone() };
            olga.run(with("between", between)).await.expect("it may");
            let joins = v1::Namespaces { net: of("own"), ..namespaces.clone() };
            olga.run(with("joins", joins)).await.expect("it may");
            let mut streams = Vec::new();
            for name in ["own", "between", "joins"] {
                let process = v1::ProcessSpec { stdin: true, ..shell(ANSWERS) };
                let driver = wire::start(session(name, process));
                let driver = Wire::open(&mut olga, driver).await.expect("it may");
                let id = driver.session().id.clone();
                let viewer = Wire::open(&mut olga, wire::view(&id)).await.expect("it may");
                streams.push((name, driver, viewer));
            }
            match round {
                "neighbour" => {
                    let namespaces = v1::Namespaces { pid: of("far"), user, ..Default::default() };
                    let mounts = vec![bind(&secret, "/mnt/e")];
                    let admins = ContainerSpec { mounts, ..with("admins", namespaces) };
                    admin.run(admins).await.expect("an admin may");
                }
                _ => mount_into(&mut admin, "far", bind(&secret, "/mnt/e")).await,
            }
            for (name, mut driver, mut viewer) in streams {
                for wire in [&mut driver, &mut viewer] {
                    let why = cut(wire).await;
                    assert_eq!(why.code(), Code::PermissionDenied, "{round}, {name}: {why:?}");
                }
            }
            admin.delete_all().await.expect("an admin may");
        }
    });
    world.agent.finish();
}

#[test]
fn a_recording_that_is_being_read_ends_where_its_session_reaches_more() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        olga.run(sleeper("own")).await.expect("it may");
        // Far more than is under way to a client that does not read.
        let script = "head -c 16000000 /dev/zero; exec sleep 100000";
        let id = start(&mut olga, script, true).await;
        wait::until_true("it is recorded", || {
            let all = world.agent.ok(["-o", "json", "sessions", "recordings"]);
            let all: serde_json::Value = serde_json::from_str(&all).expect("JSON");
            all[0]["size_bytes"].as_u64().is_some_and(|size| size >= 16_000_000)
        });
        let request = v1::ReadRecordingRequest { session_id: id };
        let read = olga.sessions.read_recording(request).await.expect("it may");
        let mut read = read.into_inner();
        read.message().await.expect("it may").expect("the first part");
        mount(&mut admin, bind(&secret, "/mnt/e")).await;
        let why = loop {
            match read.message().await {
                Ok(part) => assert!(part.is_some(), "all of it was read"),
                Err(status) => break status,
            }
        };
        assert_eq!(why.code(), Code::PermissionDenied, "{why:?}");
    });
    world.agent.finish();
}
