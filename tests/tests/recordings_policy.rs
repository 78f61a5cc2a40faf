//! What the policy and the agent's limits say of recordings: what is in them, which are kept, and who reads
//! them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use conti_proto::v1::{
    self, ContainerSpec, GetSessionRequest, ListRecordingsRequest, ProcessSpec,
    ReadRecordingRequest, SessionPolicy, SessionSpec, StartContainerRequest, StartSessionRequest,
    WaitSessionRequest,
};
use conti_tests::{
    Agent,
    api::{self, Api, process, session, shell, sleeper},
    audit::{files, last, with_policy},
    terminal::Terminal,
    wire::{self, Wire},
    world::World,
};
use tonic::Code;

/// How many recordings are kept.
const KEPT: usize = 200;

/// A session that is recorded.
fn recorded(container: &str, argv: &[&str]) -> SessionSpec {
    let policy = SessionPolicy { record: true, ..Default::default() };
    SessionSpec { policy: Some(policy), ..session(container, process(argv.iter().copied())) }
}

/// Starts a recorded session that nobody drives: its id.
async fn start(api: &mut Api, container: &str, argv: &[&str]) -> String {
    let spec = Some(recorded(container, argv));
    let request = StartSessionRequest { spec, ..Default::default() };
    let started = api.sessions.start_session(request).await.expect("it starts").into_inner();
    started.session.expect("a session").id
}

/// Records a session to its end: its id.
async fn record(api: &mut Api, container: &str) -> String {
    let id = start(api, container, &["echo", "seen"]).await;
    let request = WaitSessionRequest { session_id: id.clone() };
    api.sessions.wait_session(request).await.expect("it ends");
    // Read when it is complete.
    read(api, &id).await.expect("a recording");
    id
}

/// Reads a recording.
async fn read(api: &mut Api, session: &str) -> Result<Vec<u8>, tonic::Status> {
    let request = ReadRecordingRequest { session_id: session.to_owned() };
    let mut messages = api.sessions.read_recording(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(message) = messages.message().await? {
        bytes.extend(message.data);
    }
    Ok(bytes)
}

/// The sessions whose recordings are listed.
async fn listed(api: &mut Api) -> BTreeSet<String> {
    let request = ListRecordingsRequest { page_size: 1000, ..Default::default() };
    let all = api.sessions.list_recordings(request).await.expect("a list").into_inner();
    all.recordings.into_iter().map(|recording| recording.session_id).collect()
}

#[test]
fn what_is_typed_is_recorded_only_where_the_policy_says_so_and_is_never_in_the_audit_log() {
    for (policy, wanted) in [("", false), ("input = true", true)] {
        let agent = with_policy(&format!("[recording]\nsessions = \"all\"\n{policy}"));
        agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
        let piped = ["exec", "-i", "c", "--", "sh", "-c", "read x"];
        agent.ctl(piped).stdin("piped-zQzQ\n").run().success();
        // What a terminal echoes is output.
        let script = "stty -echo; echo ready; read x";
        let mut terminal =
            Terminal::spawn(agent.ctl(["exec", "-it", "c", "--", "sh", "-c", script]), 80, 24);
        terminal.expect("ready");
        terminal.send("typed-zQzQ\r");
        assert_eq!(terminal.wait(), 0);

        let ids = agent.ok(["sessions", "recordings", "-q"]);
        let ids: Vec<&str> = ids.lines().skip(1).collect();
        let texts = agent.api(async |mut api| {
            let mut texts = Vec::new();
            for id in &ids {
                let bytes = read(&mut api, id).await.expect("a recording");
                texts.push(String::from_utf8_lossy(&bytes).into_owned());
            }
            texts
        });
        assert_eq!(texts.len(), 2);
        for (text, typed) in texts.iter().zip(["piped-zQzQ", "typed-zQzQ"]) {
            assert_eq!(text.contains(typed), wanted, "{policy:?}: {text}");
        }
        let of_terminal = texts[1].lines().skip(1).map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("a line is one event")
        });
        let typed: String = of_terminal
            .filter(|event| event[1] == "i")
            .filter_map(|e| Some(e[2].as_str()?.to_owned()))
            .collect();
        assert_eq!(typed, if wanted { "typed-zQzQ\r" } else { "" });

        last(&agent, "/conti.v1.SessionService/Stream");
        let log: String =
            files(&agent).iter().map(|file| fs::read_to_string(file).expect("text")).collect();
        assert!(!log.contains("zQzQ"), "{log}");
        agent.finish();
    }
}

#[test]
fn input_goes_on_where_the_recording_is_full() {
    let agent = with_policy("[recording]\nsessions = \"all\"\ninput = true");
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("it runs");
        // More than a recording holds.
        let cat = shell("head -c 270000000 /dev/zero; echo; exec cat");
        let spec = session("c", ProcessSpec { stdin: true, ..cat });
        let mut wire = Wire::open(&mut api, wire::start(spec)).await.expect("it starts");
        while !wire.output().await.data.contains(&b'\n') {}
        // More pieces than wait for a recorder.
        for n in 0..64 {
            wire.write(format!("<{n}>\n")).await;
            wire.read_until(&format!("<{n}>\n")).await;
        }
    });
    agent.finish();
}

#[test]
fn only_the_newest_recordings_are_kept_and_those_of_sessions_that_run() {
    const OLD: usize = 6;
    const MORE: usize = 3;
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("it runs");
        // It is the oldest, and writes nothing.
        let silent = start(&mut api, "c", &["sleep", "100000"]).await;
        let mut ended = Vec::new();
        for _ in 0..KEPT - 1 {
            ended.push(record(&mut api, "c").await);
        }
        assert_eq!(listed(&mut api).await.len(), KEPT, "none has gone so far");
        for _ in 0..MORE {
            ended.push(record(&mut api, "c").await);
        }
        let kept = listed(&mut api).await;
        assert_eq!(kept.len(), KEPT);
        assert!(kept.contains(&silent), "that of a session that runs is kept");
        // Which of some is older the clock of the filesystem may not tell.
        let gone: Vec<usize> =
            (0..ended.len()).filter(|index| !kept.contains(&ended[*index])).collect();
        assert!(gone.len() == MORE && gone.iter().all(|index| *index < OLD), "{gone:?}");
        let refused = read(&mut api, &ended[gone[0]]).await.expect_err("it is gone");
        assert_eq!(api::reason(&refused), "RECORDING_NOT_FOUND");
    });
    let files = fs::read_dir(agent.path("data/recordings")).expect("a directory").count();
    assert_eq!(files, 2 * KEPT, "nothing is left of those that are gone");
    agent.finish();
}

#[test]
fn who_is_limited_by_a_label_finds_only_recordings_of_containers_with_it() {
    let labelled = |team: &str| {
        let labels = BTreeMap::from([("team".to_owned(), team.to_owned())]);
        ContainerSpec { labels, ..sleeper(team) }
    };
    let world = World::start(
        "[[caller]]\nidentity = \"blue\"\nrole = \"operator\"\nlabels = { team = \"blue\" }\n",
    );
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may connect");
        let mut blue = world.as_role("blue", "operator").api().await.expect("it may connect");
        for team in ["blue", "red"] {
            admin.run(labelled(team)).await.expect("it runs");
        }
        let (own, other) = (record(&mut admin, "blue").await, record(&mut admin, "red").await);
        assert_eq!(listed(&mut admin).await.len(), 2);
        for gone in [false, true] {
            assert_eq!(listed(&mut blue).await, BTreeSet::from([own.clone()]), "gone: {gone}");
            let seen = read(&mut blue, &own).await.expect("its own");
            assert!(seen.windows(5).any(|bytes| bytes == b"seen\n"));
            let refused = read(&mut blue, &other).await.expect_err("that of another team");
            let absent = "0123456789abcdef0123456789abcdef";
            let of_absent = read(&mut blue, absent).await.expect_err("there is none");
            assert_eq!((refused.code(), of_absent.code()), (Code::NotFound, Code::NotFound));
            assert_eq!(
                refused.message().replace(&other, "X"),
                of_absent.message().replace(absent, "X")
            );
            assert_eq!(api::reason(&refused), api::reason(&of_absent));
            read(&mut admin, &other).await.expect("an admin reads all");
            // They outlive their containers, and so do the labels.
            admin.delete_all().await.expect("deleted");
        }
    });
    world.agent.finish();
}

/// Who may read a recording does not depend on whether its container is still there.
#[test]
fn a_recording_of_what_an_operator_could_not_have_started_stays_unread_when_its_container_is_gone()
{
    let mut world = World::start("");
    let data = world.agent.scratch("data");
    fs::create_dir(&data).expect("a directory");
    let privileged = |name: &str| {
        let confinement = v1::Confinement { privileged: Some(true), ..Default::default() };
        let mut spec = sleeper(name);
        spec.process.as_mut().expect("a process").confinement = Some(confinement);
        spec
    };
    let (hidden, open) = world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut hidden = BTreeSet::new();
        let host = v1::Namespace { mode: v1::NamespaceMode::Host.into(), ..Default::default() };
        let net = v1::Namespaces { net: Some(host), ..Default::default() };
        let joined =
            v1::Namespace { mode: v1::NamespaceMode::Container.into(), container: "a".into() };
        let ipc = v1::Namespaces { ipc: Some(joined), ..Default::default() };
        for spec in [
            // A command in it has its confinement where nothing else was asked for.
            privileged("a"),
            ContainerSpec { mounts: vec![api::bind(&data, "/m")], ..sleeper("b") },
            ContainerSpec { namespaces: Some(net), ..sleeper("c") },
            ContainerSpec { namespaces: Some(ipc), ..sleeper("d") },
        ] {
            let name = spec.name.clone();
            admin.run(spec).await.expect("an admin may");
            hidden.insert(record(&mut admin, &name).await);
        }
        let usual = admin.run(sleeper("e")).await.expect("an admin may");
        let open = record(&mut admin, "e").await;
        // What is mounted later is seen by what runs already.
        admin.run(sleeper("f")).await.expect("an admin may");
        hidden.insert(start(&mut admin, "f", &["sleep", "100000"]).await);
        let target = v1::target::Target::Container("f".into());
        let mount = v1::CreateMountRequest {
            target: Some(v1::Target { target: Some(target) }),
            mount: Some(api::bind(&data, "/mnt")),
            ..Default::default()
        };
        let made = admin.mounts.create_mount(mount).await.expect("an admin may").into_inner();
        let id = made.mount.expect("a mount").id;
        let which = Some(v1::delete_mount_request::Which::Id(id));
        let gone = v1::DeleteMountRequest { which, lazy: false, dry_run: false };
        admin.mounts.delete_mount(gone).await.expect("an admin may");
        // So is what is mounted into a container that its own has joined.
        admin.run(sleeper("g")).await.expect("an admin may");
        let joined =
            v1::Namespace { mode: v1::NamespaceMode::Container.into(), container: "g".into() };
        let pid = v1::Namespaces { pid: Some(joined), ..Default::default() };
        let spec = ContainerSpec { namespaces: Some(pid), ..sleeper("h") };
        admin.run(spec).await.expect("an admin may");
        hidden.insert(start(&mut admin, "h", &["sleep", "100000"]).await);
        let target = v1::target::Target::Container("g".into());
        let mount = v1::CreateMountRequest {
            target: Some(v1::Target { target: Some(target) }),
            mount: Some(api::bind(&data, "/mnt")),
            ..Default::default()
        };
        admin.mounts.create_mount(mount).await.expect("an admin may");
        for name in ["h", "g", "d", "a", "b", "c", "e", "f"] {
            admin.delete(name).await.expect("an admin may");
        }
        drop(usual);
        (hidden, open)
    });
    let check = |world: &World| {
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            assert_eq!(listed(&mut olga).await, BTreeSet::from([open.clone()]));
            read(&mut olga, &open).await.expect("it could have started it");
            for session in &hidden {
                let refused = read(&mut olga, session).await.expect_err("it could not");
                assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
                let offset =
                    v1::ReadSessionRequest { session_id: session.clone(), ..Default::default() };
                // Its output is kept for a while too.
                let refused = olga.sessions.read_session(offset).await.expect_err("nor this");
                let wanted = [Code::PermissionDenied, Code::NotFound];
                assert!(wanted.contains(&refused.code()), "{refused:?}");
            }
            let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
            assert_eq!(listed(&mut admin).await.len(), hidden.len() + 1);
        });
    };
    check(&world);
    world.agent.kill();
    world.agent.restart();
    check(&world);
    world.agent.finish();
}

/// Starts a container, which was made before or has run: its session, and whether that is recorded.
async fn started(world: &World, container: &str) -> (String, bool) {
    let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
    let request = StartContainerRequest { container: container.into(), ..Default::default() };
    let started = api.containers.start_container(request).await.expect("it may").into_inner();
    let session_id = started.container.expect("a container").session_id;
    let request = GetSessionRequest { session_id: session_id.clone() };
    let found = api.sessions.get_session(request).await.expect("its own").into_inner();
    (session_id, found.session.expect("a session").recorded)
}

#[test]
fn a_container_is_recorded_by_the_policy_that_holds_when_it_is_started() {
    const NONE: &str = "";
    const OUTPUT: &str = "[recording]\nsessions = \"all\"\n";
    const INPUT: &str = "[recording]\nsessions = \"all\"\ninput = true\n";
    let world = World::start(NONE);
    let api = || async { world.as_role("olga", "operator").api().await.expect("it may look") };
    let script = "read -r x; echo got-$x; read -r y; exec sleep 100000";
    let process = ProcessSpec { stdin: true, ..shell(script) };
    let spec = |name: &str, record| ContainerSpec {
        session_policy: Some(SessionPolicy { record, ..Default::default() }),
        ..api::container(name, process.clone())
    };
    let create = async |name: &str, record: bool| {
        api().await.create(spec(name, record)).await.expect("it may");
    };
    // Types a line, ends it, and gives what was recorded.
    let recording = async |session: &str, container: &str| {
        let mut api = api().await;
        let mut wire = Wire::open(&mut api, wire::attach(session, Some(0))).await.expect("its own");
        wire.write("zQzQ\n").await;
        wire.read_until("got-zQzQ").await;
        wire.write("typed\n").await;
        let request = v1::StopContainerRequest {
            container: container.into(),
            signal: "KILL".into(),
            ..Default::default()
        };
        api.containers.stop_container(request).await.expect("it may");
        read(&mut api, session).await.ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    world.agent.block_on(async {
        create("ahead", false).await;
        create("asked", true).await;
    });
    world.put_policy(INPUT);
    world.agent.block_on(async {
        let (session, recorded) = started(&world, "ahead").await;
        assert!(recorded, "made before the policy wanted it");
        let text = recording(&session, "ahead").await.expect("a recording");
        assert!(text.contains("got-zQzQ") && text.contains("typed"), "{text}");
        create("later", false).await;
        create("less", false).await;
    });
    world.put_policy(OUTPUT);
    world.agent.block_on(async {
        let (session, recorded) = started(&world, "less").await;
        assert!(recorded);
        let text = recording(&session, "less").await.expect("a recording");
        assert!(text.contains("got-zQzQ") && !text.contains("typed"), "{text}");
        // Of one that has run as well.
        let (session, recorded) = started(&world, "ahead").await;
        assert!(recorded);
        let text = recording(&session, "ahead").await.expect("a recording");
        assert!(!text.contains("typed"), "{text}");
    });
    world.put_policy(NONE);
    world.agent.block_on(async {
        for name in ["later", "ahead"] {
            let (session, recorded) = started(&world, name).await;
            assert!(!recorded, "{name}: nobody wants it any more");
            assert_eq!(recording(&session, name).await, None, "{name}");
        }
        let (session, recorded) = started(&world, "asked").await;
        assert!(recorded, "it was asked for");
        assert!(recording(&session, "asked").await.expect("a recording").contains("got-zQzQ"));
    });
    world.agent.finish();
}

#[test]
fn what_is_recorded_from_the_start_on_is_so_for_the_next_agent_too() {
    let mut world = World::start("");
    world
        .agent
        .block_on(async {
            let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
            api.create(api::container("c", shell("echo first; read x; exec sleep 100000"))).await
        })
        .expect("it may");
    world.put_policy("[recording]\nsessions = \"all\"\n");
    let (session, recorded) = world.agent.block_on(started(&world, "c"));
    assert!(recorded);
    world.agent.kill();
    world.agent.restart();
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let request = GetSessionRequest { session_id: session.clone() };
        let found = api.sessions.get_session(request).await.expect("its own").into_inner();
        assert!(found.session.expect("a session").recorded);
        let request = v1::StopContainerRequest {
            container: "c".into(),
            signal: "KILL".into(),
            ..Default::default()
        };
        api.containers.stop_container(request).await.expect("it may");
        let bytes = read(&mut api, &session).await.expect("a recording");
        assert!(String::from_utf8_lossy(&bytes).contains("first"));
    });
    world.agent.finish();
}
