//! What the agent keeps of what is over: so much for each identity that nobody pushes out what others have.

use conti_proto::v1::{
    CreateContainerRequest, DeleteContainerRequest, StartSessionRequest, WaitSessionRequest,
};
use conti_tests::{
    api::{Api, exit_code, session, shell, sleeper},
    world::World,
};
use tonic::Code;

/// Starts a session: its id.
async fn start(api: &mut Api, container: &str, script: &str) -> String {
    let spec = Some(session(container, shell(script)));
    let request = StartSessionRequest { spec, ..Default::default() };
    let started = api.sessions.start_session(request).await.expect("it starts").into_inner();
    started.session.expect("a session").id
}

/// How a session has ended.
async fn end(api: &mut Api, id: &str) -> i32 {
    let request = WaitSessionRequest { session_id: id.to_owned() };
    let waited = api.sessions.wait_session(request).await.expect("it is known").into_inner();
    exit_code(&waited.end.expect("an end"))
}

#[test]
fn nobody_has_the_ends_of_what_others_ran_forgotten() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut carl = world.as_role("carl", "operator").api().await.expect("it may look");
        olga.run(sleeper("olgas")).await.expect("it may");
        carl.run(sleeper("carls")).await.expect("it may");
        let first = start(&mut olga, "olgas", "exit 7").await;
        assert_eq!(end(&mut olga, &first).await, 7);
        let mut oldest = String::new();
        for n in 0..101 {
            let id = start(&mut carl, "carls", "exit 1").await;
            // One that runs is not counted.
            if n < 100 {
                assert_eq!(end(&mut carl, &id).await, 1);
            }
            if n == 0 {
                oldest = id;
            }
        }
        assert_eq!(end(&mut olga, &first).await, 7);
        let request = WaitSessionRequest { session_id: oldest };
        let gone = carl.sessions.wait_session(request).await.expect_err("it has made room");
        assert_eq!(gone.code(), Code::NotFound);
    });
    world.agent.finish();
}

#[test]
fn heavy_nobody_has_the_requests_of_others_carried_out_twice() {
    let world = World::start("");
    // One of whom any number of calls may fail.
    world.agent.api(async |mut root| {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        root.run(sleeper("taken")).await.expect("it may");
        let request = |name: &str, id: String| CreateContainerRequest {
            spec: Some(sleeper(name)),
            request_id: id,
            start: true,
        };
        let own = request("own", "1".into());
        olga.containers.create_container(own.clone()).await.expect("it may");
        let delete =
            DeleteContainerRequest { container: "own".into(), force: true, ..Default::default() };
        olga.containers.delete_container(delete).await.expect("its own");

        let refuse = |n: usize| {
            let (mut root, request) = (root.clone(), request("taken", n.to_string()));
            tokio::spawn(async move { root.containers.create_container(request).await })
        };
        for some in (0..4200).collect::<Vec<_>>().chunks(20) {
            let calls: Vec<_> = some.iter().map(|n| refuse(*n)).collect();
            for call in calls {
                let refused = call.await.expect("no panic").expect_err("the name is taken");
                assert_eq!(refused.code(), Code::AlreadyExists, "{refused:?}");
            }
        }

        let gone = olga.containers.create_container(own).await.expect_err("it was made once");
        assert_eq!(gone.code(), Code::NotFound, "{gone:?}");
    });
    world.agent.finish();
}
