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
        for name in ["0123456789abcdef0123456789abcdefa", "012", "cafe-", "cafes"] {
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
        assert!(errors.contains("an id"), "{errors}");
    }
    agent.finish();
}

/// By what is refused nobody finds out the ids of containers that it does not see.
#[test]
fn the_beginning_of_an_id_is_no_name_whether_there_is_such_an_id_or_not() {
    let blue =
        "[[caller]]\nidentity = \"blue\"\nrole = \"operator\"\nlabels = { team = \"blue\" }\n";
    let world = World::start(blue);
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("blue", "operator").api().await.expect("it may look");
        let id = admin.create(sleeper("unseen")).await.expect("an admin may").id;
        let other: String = id.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
        let labels = [("team".to_owned(), "blue".to_owned())];
        let spec = |name: &str| ContainerSpec { labels: labels.clone().into(), ..sleeper(name) };
        for length in [4, 5, 12, 31] {
            let mut said = Vec::new();
            for id in [&id, &other] {
                let name = &id[..length];
                for api in [&mut own, &mut admin] {
                    let refused = api.create(spec(name)).await.expect_err("it may be an id");
                    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
                    assert_eq!(faulty_fields(&refused), ["spec.name"]);
                    said.push(refused.message().to_owned());
                }
            }
            said.dedup();
            assert_eq!(said.len(), 1, "{said:?}");
        }
        own.create(spec(&id[..3])).await.expect("so short it stands for no id");
    });
    world.agent.finish();
}

/// An older agent let containers have such names.
#[test]
fn a_container_that_is_named_like_the_beginning_of_an_id_is_taken_over() {
    let mut agent = Agent::start();
    let other = agent.ok(["run", "-d", "--name", "other", "--", "sleep", "1000"]);
    let id = agent.ok(["run", "-d", "--name", "named", "--", "sleep", "1000"]);
    agent.kill();
    let path = agent.path(&format!("data/containers/{id}/container.json"));
    let mut record: Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("a record")).expect("JSON");
    let name = &other[..5];
    record["spec"]["name"] = name.into();
    fs::write(&path, record.to_string()).expect("written");
    agent.restart();
    for (key, wanted) in [(name, &id), (&id, &id), (&other, &other), ("other", &other)] {
        let found = agent.ctl(["inspect", key]).run().success().json();
        assert_eq!(found["id"], wanted.as_str(), "{key}");
    }
    agent.ok(["exec", name, "--", "true"]);
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
