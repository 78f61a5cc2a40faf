//! Whoever made something may end it, also when it may not enter or read it any more; nobody else who is no
//! admin may then.

use std::{collections::BTreeMap, fs};

use conti_proto::v1::{self, ContainerSpec, ProcessSpec, target};
use conti_tests::{
    api::{self, Api, bind, process, session, sleeper, state},
    wait,
    world::World,
};
use tonic::{Code, Status};

fn of(container: &str) -> Option<v1::Target> {
    Some(v1::Target { target: Some(target::Target::Container(container.to_owned())) })
}

/// A container in the host's user namespace, which takes a grant.
fn with_ids_of_the_host(name: &str) -> ContainerSpec {
    let host = v1::Namespace { mode: v1::NamespaceMode::Host.into(), ..Default::default() };
    let namespaces = v1::Namespaces { user: Some(host), ..Default::default() };
    ContainerSpec { namespaces: Some(namespaces), ..sleeper(name) }
}

fn joining(name: &str, other: &str) -> ContainerSpec {
    let mode = v1::NamespaceMode::Container.into();
    let joined = Some(v1::Namespace { mode, container: other.to_owned() });
    let namespaces = v1::Namespaces { uts: joined, ..Default::default() };
    ContainerSpec { namespaces: Some(namespaces), ..sleeper(name) }
}

/// Starts a session that reads what is written to it: its id.
async fn cat(api: &mut Api, container: &str) -> String {
    let spec = session(container, ProcessSpec { stdin: true, ..process(["cat"]) });
    let request = v1::StartSessionRequest { spec: Some(spec), ..Default::default() };
    let started = api.sessions.start_session(request).await.expect("it starts").into_inner();
    started.session.expect("a session").id
}

async fn kill(api: &mut Api, container: &str, signal: &str) -> Result<(), Status> {
    let (container, signal) = (container.to_owned(), signal.to_owned());
    let request = v1::KillContainerRequest { container, signal };
    api.containers.kill_container(request).await.map(|_| ())
}

async fn stop(api: &mut Api, container: &str) -> Result<(), Status> {
    let request =
        v1::StopContainerRequest { container: container.to_owned(), ..Default::default() };
    api.containers.stop_container(request).await.map(|_| ())
}

async fn signal(api: &mut Api, session: &str) -> Result<(), Status> {
    let (session_id, signal) = (session.to_owned(), "CONT".to_owned());
    let request = v1::SignalSessionRequest { session_id, signal };
    api.sessions.signal_session(request).await.map(|_| ())
}

async fn close(api: &mut Api, session: &str) -> Result<(), Status> {
    let request = v1::CloseSessionInputRequest { session_id: session.to_owned() };
    api.sessions.close_session_input(request).await.map(|_| ())
}

fn denied<T: std::fmt::Debug>(answer: Result<T, Status>, what: &str) {
    let refused = answer.expect_err(what);
    assert_eq!(refused.code(), Code::PermissionDenied, "{what}: {refused:?}");
}

/// Nothing of a container, and of a session in it, is shown or let in.
async fn is_closed_to(api: &mut Api, container: &str, session_id: &str) {
    let spec = Some(session(container, process(["true"])));
    let request = v1::StartSessionRequest { spec, ..Default::default() };
    denied(api.sessions.start_session(request).await, "an exec");
    let request = v1::ListDirectoryRequest { target: of(container), path: "/".into() };
    denied(api.files.list_directory(request).await, "a look at its files");
    let request = v1::ListProcessesRequest { target: of(container) };
    denied(api.processes.list_processes(request).await, "a look at its processes");
    let request =
        v1::StartContainerRequest { container: container.to_owned(), ..Default::default() };
    denied(api.containers.start_container(request).await, "a start");
    let request =
        v1::ReadSessionRequest { session_id: session_id.to_owned(), ..Default::default() };
    denied(api.sessions.read_session(request).await, "its output");
    let data = "x".into();
    let request = v1::WriteSessionRequest { session_id: session_id.to_owned(), offset: None, data };
    denied(api.sessions.write_session(request).await, "its input");
}

/// The maker ends a container that it may not enter, and its own session in it; another operator does not.
async fn is_ended_by(own: &mut Api, other: &mut Api, name: &str, session_id: &str) {
    is_closed_to(own, name, session_id).await;
    denied(kill(other, name, "CONT").await, "a signal of another");
    denied(stop(other, name).await, "a stop of another");
    denied(other.delete(name).await, "a removal by another");
    denied(signal(other, session_id).await, "a signal of another to a session");
    denied(close(other, session_id).await, "the end of its input by another");

    signal(own, session_id).await.expect("its own session");
    close(own, session_id).await.expect("its own session");
    let request = v1::WaitSessionRequest { session_id: session_id.to_owned() };
    let end = own.sessions.wait_session(request).await.expect("it ends").into_inner();
    assert_eq!(
        api::exit_code(&end.end.expect("an end")),
        0,
        "cat has come to the end of its input"
    );
    kill(own, name, "CONT").await.expect("its own");
    stop(own, name).await.expect("its own");
    assert_eq!(state(&own.get(name).await.expect("seen")), v1::ContainerState::Stopped);
    own.delete(name).await.expect("its own");
    assert_eq!(own.get(name).await.expect_err("it is gone").code(), Code::NotFound);
}

#[test]
fn a_grant_that_is_taken_away_leaves_the_maker_the_right_to_end_what_it_made() {
    let granted = "[operator]\nhost_user_namespace = true\n";
    let mut world = World::start(granted);
    let session_id = world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        own.run(with_ids_of_the_host("own")).await.expect("it was granted");
        cat(&mut own, "own").await
    });
    world.agent.kill();
    world.files.put("policy.toml", "");
    world.agent.restart();
    world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut other = world.as_role("otto", "operator").api().await.expect("it may look");
        is_ended_by(&mut own, &mut other, "own", &session_id).await;
    });
    world.agent.finish();
}

#[test]
fn a_container_whose_joined_one_is_gone_or_that_an_admin_has_changed_is_ended_by_its_maker() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut other = world.as_role("otto", "operator").api().await.expect("it may look");
        own.run(sleeper("first")).await.expect("it may");
        own.run(joining("own", "first")).await.expect("it may");
        let session_id = cat(&mut own, "own").await;
        own.delete("first").await.expect("its own");
        is_ended_by(&mut own, &mut other, "own", &session_id).await;

        own.run(sleeper("own")).await.expect("it may");
        let session_id = cat(&mut own, "own").await;
        let of_admin = cat(&mut admin, "own").await;
        let mount = v1::CreateMountRequest {
            target: of("own"),
            mount: Some(bind(&secret, "/mnt")),
            ..Default::default()
        };
        admin.mounts.create_mount(mount).await.expect("an admin may");
        // What the admin has started there is not its own.
        denied(signal(&mut own, &of_admin).await, "a signal to another's session");
        denied(close(&mut own, &of_admin).await, "the end of another's input");
        is_ended_by(&mut own, &mut other, "own", &session_id).await;
    });
    world.agent.finish();
}

#[test]
fn the_maker_needs_its_role_and_its_labels_still() {
    let entry = |role: &str, team: &str| {
        format!(
            "[[caller]]\nidentity = \"olga\"\nrole = \"{role}\"\nlabels = {{ team = \"{team}\" }}\n"
        )
    };
    let world = World::start(&entry("operator", "blue"));
    let as_if = |role: &str, team: &str| {
        let before = world.agent.log().matches("the policy was read again").count();
        world.files.put("policy.toml", &entry(role, team));
        wait::until_true("the policy was read again", || {
            world.agent.log().matches("the policy was read again").count() > before
        });
    };
    let olga = || world.as_role("olga", "operator");
    world.agent.block_on(async {
        let labels = BTreeMap::from([("team".to_owned(), "blue".to_owned())]);
        let mut own = olga().api().await.expect("it may look");
        own.run(ContainerSpec { labels, ..sleeper("own") }).await.expect("it may");
    });
    as_if("viewer", "blue");
    world.agent.block_on(async {
        let mut own = olga().api().await.expect("it may look");
        denied(stop(&mut own, "own").await, "a viewer ends nothing");
        denied(own.delete("own").await, "a viewer ends nothing");
    });
    as_if("operator", "red");
    world.agent.block_on(async {
        let mut own = olga().api().await.expect("it may look");
        let unseen = stop(&mut own, "own").await.expect_err("it is not seen");
        assert_eq!(unseen.code(), Code::NotFound, "{unseen:?}");
    });
    as_if("operator", "blue");
    world.agent.block_on(async {
        let mut own = olga().api().await.expect("it may look");
        stop(&mut own, "own").await.expect("its own");
    });
    world.agent.finish();
}

/// A record without its maker, as an older agent wrote it: nobody but an admin has made it then.
#[test]
fn what_has_no_known_maker_is_ended_as_before() {
    let mut world = World::start("[operator]\nhost_user_namespace = true\n");
    world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        own.run(with_ids_of_the_host("granted")).await.expect("it was granted");
        own.run(sleeper("usual")).await.expect("it may");
    });
    world.agent.kill();
    for entry in fs::read_dir(world.agent.path("data/containers")).expect("records") {
        let path = entry.expect("a directory").path().join("container.json");
        let text = fs::read_to_string(&path).expect("a record");
        let mut record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let spec = record["spec"].as_object_mut().expect("an object");
        assert_eq!(spec.remove("maker"), Some("olga".into()));
        fs::write(&path, record.to_string()).expect("written");
    }
    world.files.put("policy.toml", "");
    world.agent.restart();
    world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        denied(stop(&mut own, "granted").await, "it might not have made it");
        denied(own.delete("granted").await, "it might not have made it");
        stop(&mut own, "usual").await.expect("one that it might have made");
        own.delete("usual").await.expect("one that it might have made");
    });
    world.agent.finish();
}
