//! Names of containers beside their ids: who chooses a name chooses no id of another.

use std::fs;

use conti_proto::v1::{self, ContainerSpec, StartContainerRequest};
use conti_tests::{
    Agent,
    api::{Api, faulty_fields, metadata, process, reason, session, sleeper},
    wire::{self, Wire},
    world::World,
};
use serde_json::Value;
use tonic::{Code, Status};

fn host() -> Option<v1::Namespace> {
    Some(v1::Namespace { mode: v1::NamespaceMode::Host.into(), ..Default::default() })
}

fn of(container: &str) -> Option<v1::Namespace> {
    let mode = v1::NamespaceMode::Container.into();
    Some(v1::Namespace { mode, container: container.to_owned() })
}

async fn exec(api: &mut Api, container: &str) -> Result<(), Status> {
    Wire::open(api, wire::start(session(container, process(["true"])))).await.map(drop)
}

async fn start(api: &mut Api, container: &str) -> Result<(), Status> {
    let request = StartContainerRequest { container: container.to_owned(), ..Default::default() };
    api.containers.start_container(request).await.map(drop)
}

/// A container in the host's namespaces, one that has joined them by way of it, and the first one gone: its id.
async fn joined_and_gone(admin: &mut Api) -> String {
    let namespaces = Some(v1::Namespaces {
        pid: host(),
        net: host(),
        ipc: host(),
        user: host(),
        ..Default::default()
    });
    let made = admin.run(ContainerSpec { namespaces, ..sleeper("first") }).await;
    let id = made.expect("an admin may").id;
    let namespaces = Some(v1::Namespaces {
        pid: of("first"),
        net: of("first"),
        ipc: of("first"),
        user: host(),
        ..Default::default()
    });
    admin.run(ContainerSpec { namespaces, ..sleeper("second") }).await.expect("an admin may");
    admin.delete("first").await.expect("an admin may");
    id
}

#[test]
fn no_container_is_named_like_an_id() {
    let world = World::start("[operator]\nhost_user_namespace = true\n");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        let id = joined_and_gone(&mut admin).await;
        for api in [&mut own, &mut admin] {
            for name in [id.as_str(), "0123456789abcdef0123456789abcdef"] {
                let refused = api.create(sleeper(name)).await.expect_err("it is an id");
                assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
                assert_eq!(faulty_fields(&refused), ["spec.name"]);
                assert!(refused.message().contains("an id"), "{refused:?}");
                let refused = Wire::open(api, wire::run(sleeper(name))).await;
                let refused = refused.err().expect("it is an id");
                assert_eq!(faulty_fields(&refused), ["open.run.spec.name"]);
            }
        }
        // What looks nearly like one is a name.
        for name in ["0123456789abcdef0123456789abcde", "0123456789abcdef0123456789abcdefa"] {
            own.create(sleeper(name)).await.expect("a name");
        }
        let refused = exec(&mut own, "second").await.expect_err("it is in the host's namespaces");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    });
    world.agent.finish();
}

#[test]
fn contictl_refuses_such_a_name_itself() {
    let agent = Agent::start();
    for verb in ["create", "run"] {
        let name = "0123456789abcdef0123456789abcdef";
        let errors = agent.ctl([verb, "--name", name, "--", "true"]).run().exits(125).errors();
        assert!(errors.contains("the form of an id"), "{errors}");
    }
    agent.finish();
}

/// An older agent took such names: a container may have one, which leads nobody to it.
#[test]
fn what_is_stored_as_an_id_is_found_by_no_name() {
    let mut world = World::start("[operator]\nhost_user_namespace = true\n");
    let (gone, squatter) = world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        let gone = joined_and_gone(&mut admin).await;
        let squatter = own.run(sleeper("squatter")).await.expect("it may").id;
        (gone, squatter)
    });
    world.agent.kill();
    let path = world.agent.path(&format!("data/containers/{squatter}/container.json"));
    let text = fs::read_to_string(&path).expect("a record");
    let mut record: Value = serde_json::from_str(&text).expect("JSON");
    record["spec"]["name"] = gone.clone().into();
    fs::write(&path, record.to_string()).expect("written");
    world.agent.restart();
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        assert_eq!(own.get(&squatter).await.expect("its own").name, gone);
        for api in [&mut admin, &mut own] {
            let refused = api.get(&gone).await.expect_err("it is gone");
            assert_eq!(reason(&refused), "CONTAINER_NOT_FOUND", "{refused:?}");
        }
        let refused = exec(&mut own, "second").await.expect_err("it is in the host's namespaces");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        // Nor does it join what an operator has put in the place of what it had joined.
        let stop = v1::StopContainerRequest {
            container: "second".into(),
            signal: "KILL".into(),
            ..Default::default()
        };
        admin.containers.stop_container(stop).await.expect("an admin may");
        let refused = start(&mut admin, "second").await.expect_err("what it has joined is gone");
        assert_eq!(reason(&refused), "CONTAINER_WRONG_STATE", "{refused:?}");
        assert_eq!(metadata(&refused)["state"], "removed", "{refused:?}");
        let joins = v1::Namespaces { ipc: of(&gone), ..Default::default() };
        let joins = ContainerSpec { namespaces: Some(joins), ..sleeper("joins") };
        let refused = admin.run(joins).await.expect_err("it is gone");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    });
    world.agent.finish();
}

/// By what is refused nobody finds out the ids of containers that it does not see.
#[test]
fn the_id_of_a_container_that_is_not_seen_makes_no_difference_to_a_name() {
    let blue =
        "[[caller]]\nidentity = \"blue\"\nrole = \"operator\"\nlabels = { team = \"blue\" }\n";
    let world = World::start(blue);
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("blue", "operator").api().await.expect("it may look");
        let id = admin.create(sleeper("unseen")).await.expect("an admin may").id;
        let labels = [("team".to_owned(), "blue".to_owned())];
        for length in [4, 5, 12, 31] {
            let name = &id[..length];
            let spec = ContainerSpec { labels: labels.clone().into(), ..sleeper(name) };
            own.create(spec).await.expect("a name as any other");
            assert_eq!(own.get(name).await.expect("its own").name, name);
            let refused = admin.get(name).await.expect_err("it sees both");
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
            own.delete(name).await.expect("its own");
        }
    });
    world.agent.finish();
}
