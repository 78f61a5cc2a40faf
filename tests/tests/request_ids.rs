//! Requests that are repeated: whose answer they get, and which of them are refused.

use std::{fs, path::PathBuf};

use conti_proto::v1::{
    self, ContainerSpec, CreateContainerRequest, DisconnectPolicy, ProcessSpec, SessionPolicy,
    SessionSpec, StartContainerRequest, StartSessionRequest, StreamOpen, target,
};
use conti_tests::{
    api::{Api, bind, metadata, process, reason, session, sleeper},
    wire::{self, Wire},
    world::World,
};
use serde_json::Value;
use tonic::{Code, Status};

fn of(container: &str) -> Option<v1::Target> {
    Some(v1::Target { target: Some(target::Target::Container(container.to_owned())) })
}

fn cat() -> ProcessSpec {
    ProcessSpec { stdin: true, ..process(["cat"]) }
}

/// It goes on when whoever drives it has gone.
fn lasting() -> Option<SessionPolicy> {
    let disconnect_policy = DisconnectPolicy::Detach.into();
    Some(SessionPolicy { disconnect_policy, ..Default::default() })
}

fn exec(container: &str) -> SessionSpec {
    SessionSpec { policy: lasting(), ..session(container, cat()) }
}

fn main_cat(name: &str) -> ContainerSpec {
    ContainerSpec { process: Some(cat()), session_policy: lasting(), ..sleeper(name) }
}

fn with_id(id: &str, open: StreamOpen) -> StreamOpen {
    StreamOpen { request_id: id.to_owned(), ..open }
}

/// Opens a stream and goes: the id of its session.
async fn open(api: &mut Api, id: &str, open: StreamOpen) -> Result<String, Status> {
    Wire::open(api, with_id(id, open)).await.map(|wire| wire.session().id.clone())
}

async fn start(api: &mut Api, id: &str, spec: SessionSpec) -> Result<String, Status> {
    let request = StartSessionRequest { spec: Some(spec), request_id: id.to_owned() };
    let started = api.sessions.start_session(request).await?.into_inner();
    Ok(started.session.expect("a session").id)
}

async fn create(
    api: &mut Api,
    id: &str,
    spec: ContainerSpec,
    start: bool,
) -> Result<String, Status> {
    let request = CreateContainerRequest { spec: Some(spec), request_id: id.to_owned(), start };
    let made = api.containers.create_container(request).await?.into_inner();
    Ok(made.container.expect("a container").id)
}

async fn start_container(api: &mut Api, id: &str, container: &str) -> Result<(), Status> {
    let request =
        StartContainerRequest { container: container.to_owned(), request_id: id.to_owned() };
    api.containers.start_container(request).await.map(drop)
}

/// An admin mounts a directory of the host into a container.
async fn mount(admin: &mut Api, container: &str, directory: &std::path::Path) {
    let mount = v1::CreateMountRequest {
        target: of(container),
        mount: Some(bind(directory, "/mnt")),
        ..Default::default()
    };
    admin.mounts.create_mount(mount).await.expect("an admin may");
}

fn denied<T: std::fmt::Debug>(answer: Result<T, Status>, what: &str) {
    let refused = answer.expect_err(what);
    assert_eq!(refused.code(), Code::PermissionDenied, "{what}: {refused:?}");
}

fn taken<T: std::fmt::Debug>(answer: Result<T, Status>, id: &str, what: &str) {
    let refused = answer.expect_err(what);
    assert_eq!(refused.code(), Code::AlreadyExists, "{what}: {refused:?}");
    assert_eq!(reason(&refused), "REQUEST_ID_TAKEN", "{what}: {refused:?}");
    assert_eq!(metadata(&refused)["request_id"], id, "{what}: {refused:?}");
}

/// The records of containers or sessions.
fn records(world: &World, place: &str, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.agent.path(place)).expect("records");
    entries.map(|entry| entry.expect("a directory").path().join(name)).collect()
}

/// What a request id stands for may have come to reach more than its caller may since.
#[test]
fn a_request_that_is_repeated_gives_no_session_that_its_caller_may_not_drive_any_more() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        let ran = open(&mut own, "run", wire::run(main_cat("own"))).await.expect("it may");
        let streamed = open(&mut own, "stream", wire::start(exec("own"))).await.expect("it may");
        let started = start(&mut own, "start", exec("own")).await.expect("it may");
        create(&mut own, "create", main_cat("made"), true).await.expect("it may");

        // Nothing has changed: each is answered by what it has made.
        let again = open(&mut own, "run", wire::run(main_cat("own"))).await.expect("its own");
        assert_eq!(again, ran);
        let again = open(&mut own, "stream", wire::start(exec("own"))).await.expect("its own");
        assert_eq!(again, streamed);
        assert_eq!(start(&mut own, "start", exec("own")).await.expect("its own"), started);

        mount(&mut admin, "own", &secret).await;
        mount(&mut admin, "made", &secret).await;
        denied(open(&mut own, "run", wire::run(main_cat("own"))).await, "a run");
        denied(open(&mut own, "stream", wire::start(exec("own"))).await, "a start");
        denied(start(&mut own, "start", exec("own")).await, "a start without a stream");
        denied(create(&mut own, "create", main_cat("made"), true).await, "a create");
    });
    world.agent.finish();
}

#[test]
fn a_request_that_is_repeated_gives_no_session_with_a_capability_that_was_taken_away() {
    let mut world = World::start("[operator]\ncapabilities = [\"NET_ADMIN\"]\n");
    let strong = || {
        let mut spec = exec("own");
        spec.process.as_mut().expect("a process").confinement =
            Some(v1::Confinement { cap_add: vec!["NET_ADMIN".into()], ..Default::default() });
        spec
    };
    world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        own.run(sleeper("own")).await.expect("it may");
        open(&mut own, "one", wire::start(strong())).await.expect("it was granted");
        start(&mut own, "two", strong()).await.expect("it was granted");
    });
    world.put_policy("");
    let refused = |world: &World| {
        world.agent.block_on(async {
            let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
            denied(open(&mut own, "one", wire::start(strong())).await, "it is not granted");
            // A request that is confined is none for what the first one has.
            taken(open(&mut own, "one", wire::start(exec("own"))).await, "one", "another command");
            taken(start(&mut own, "two", exec("own")).await, "two", "another command");
        });
    };
    refused(&world);
    world.agent.kill();
    world.agent.restart();
    refused(&world);
    world.agent.finish();
}

/// Asks for all that the ids `run`, `stream`, `start`, `create` and `again` have not made.
async fn all_else_is_refused(own: &mut Api) {
    let run = |name: &str| wire::run(main_cat(name));
    let start_in = |name: &str| wire::start(exec(name));
    taken(open(own, "run", run("third")).await, "run", "another name");
    let other = ContainerSpec { hostname: "other".into(), ..main_cat("own") };
    taken(open(own, "run", wire::run(other)).await, "run", "another host name");
    taken(create(own, "run", main_cat("own"), true).await, "run", "a create");
    taken(open(own, "run", start_in("own")).await, "run", "a session");
    taken(start(own, "run", exec("own")).await, "run", "a session");

    taken(open(own, "stream", start_in("other")).await, "stream", "another container");
    taken(open(own, "stream", run("third")).await, "stream", "a container");
    let mut more = exec("own");
    more.process.as_mut().expect("a process").argv.push("-u".into());
    taken(open(own, "stream", wire::start(more)).await, "stream", "another command");
    taken(start(own, "stream", exec("own")).await, "stream", "one without a stream");

    taken(start(own, "start", exec("other")).await, "start", "another container");
    taken(open(own, "start", start_in("own")).await, "start", "one with a stream");
    taken(create(own, "start", main_cat("third"), true).await, "start", "a container");

    taken(create(own, "create", main_cat("made"), false).await, "create", "one that waits");
    taken(create(own, "create", main_cat("third"), true).await, "create", "another name");
    taken(open(own, "create", run("made")).await, "create", "a run");
    taken(start(own, "create", exec("made")).await, "create", "a session");
}

#[test]
fn a_request_id_that_has_made_something_else_is_refused() {
    let mut world = World::start("");
    let ids = world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        own.run(sleeper("other")).await.expect("it may");
        let ran = open(&mut own, "run", wire::run(main_cat("own"))).await.expect("it may");
        let streamed = open(&mut own, "stream", wire::start(exec("own"))).await.expect("it may");
        let started = start(&mut own, "start", exec("own")).await.expect("it may");
        let made = create(&mut own, "create", main_cat("made"), true).await.expect("it may");
        own.create(main_cat("paused")).await.expect("it may");
        start_container(&mut own, "again", "paused").await.expect("it may");
        start_container(&mut own, "again", "paused").await.expect("the same start");
        taken(start_container(&mut own, "again", "other").await, "again", "another container");
        taken(start_container(&mut own, "create", "made").await, "create", "a start");
        taken(start(&mut own, "again", exec("paused")).await, "again", "a session");
        all_else_is_refused(&mut own).await;
        [ran, streamed, started, made]
    });
    // What has made something is known still to the next agent, and so is what was asked for.
    world.agent.kill();
    world.agent.restart();
    world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        all_else_is_refused(&mut own).await;
        let again = [
            open(&mut own, "run", wire::run(main_cat("own"))).await.expect("its own"),
            open(&mut own, "stream", wire::start(exec("own"))).await.expect("its own"),
            start(&mut own, "start", exec("own")).await.expect("its own"),
            create(&mut own, "create", main_cat("made"), true).await.expect("its own"),
        ];
        assert_eq!(again, ids);
        // Nothing else was made by all of that.
        assert_eq!(own.list().await.len(), 4);
        let sessions = v1::ListSessionsRequest { page_size: 1000, ..Default::default() };
        let sessions = own.sessions.list_sessions(sessions).await.expect("a list").into_inner();
        assert_eq!(sessions.sessions.len(), 6);
    });
    world.agent.finish();
}

/// A client that has lost its connection repeats the same message, with another deadline.
#[test]
fn a_stream_that_is_opened_again_after_it_was_lost_may_have_another_deadline_and_window() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        let first = open(&mut own, "run", wire::run(main_cat("own"))).await.expect("it may");
        let again = StreamOpen { output_window: 65_536, ..wire::run(main_cat("own")) };
        let messages = tokio_stream::iter([wire::opening(with_id("run", again))]);
        let mut request = tonic::Request::new(messages);
        request.set_timeout(std::time::Duration::from_secs(1000));
        let mut answers = own.sessions.stream(request).await.expect("its own").into_inner();
        match answers.message().await.expect("an answer").expect("a message").message {
            Some(v1::stream_response::Message::Opened(opened)) => {
                assert_eq!(opened.session.expect("a session").id, first);
            }
            other => panic!("{other:?}"),
        }
    });
    world.agent.finish();
}

/// Records of an agent that did not keep what was asked for: it is not compared, and what was made is looked at.
#[test]
fn what_an_older_agent_has_made_for_a_request_is_given_by_rights_alone() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    let (made, kept) = world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        let made = create(&mut own, "create", main_cat("own"), true).await.expect("it may");
        open(&mut own, "run", wire::run(main_cat("ran"))).await.expect("it may");
        let kept = start(&mut own, "start", exec("own")).await.expect("it may");
        start(&mut own, "hidden", exec("ran")).await.expect("it may");
        (made, kept)
    });
    world.agent.kill();
    let of_containers = records(&world, "data/containers", "container.json");
    let of_sessions = records(&world, "state/sessions", "session.json");
    assert_eq!((of_containers.len(), of_sessions.len()), (2, 4));
    let mut had = 0;
    for path in of_containers.iter().chain(&of_sessions) {
        let text = fs::read_to_string(path).expect("a record");
        let mut record: Value = serde_json::from_str(&text).expect("JSON");
        let removed = record.as_object_mut().expect("an object").remove("request_digest");
        had += usize::from(removed.is_some_and(|digest| digest.is_string()));
        fs::write(path, record.to_string()).expect("written");
    }
    assert_eq!(had, 4);
    world.agent.restart();
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        assert_eq!(create(&mut own, "create", main_cat("own"), true).await.expect("its own"), made);
        assert_eq!(start(&mut own, "start", exec("own")).await.expect("its own"), kept);
        // What it is, is known in any case.
        taken(start(&mut own, "create", exec("own")).await, "create", "a session");
        taken(open(&mut own, "start", wire::run(main_cat("x"))).await, "start", "a container");
        mount(&mut admin, "ran", &secret).await;
        denied(open(&mut own, "run", wire::run(main_cat("ran"))).await, "it may not enter it");
        let other = start(&mut own, "hidden", exec("own")).await;
        denied(other, "a session in a container that it may not enter");
        let other = open(&mut own, "hidden", wire::start(exec("own"))).await;
        denied(other, "the same with a stream");
    });
    world.agent.finish();
}
