//! Answers that nobody takes: what gives them stays, and is in nobody's way.

use std::time::Duration;

use conti_proto::v1::{self, ListDirectoryRequest, ReadFileRequest, target};
use conti_tests::{
    api::{self, container, shell},
    damage::status,
    host,
    remote::Remote,
    wait,
    world::World,
};
use tokio::task::JoinSet;

/// A world with a container that has a large file.
fn world() -> World {
    let world = World::start("");
    let script = "head -c 64M /dev/zero > /file; echo ready; exec sleep 100000";
    world.agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", script]);
    wait::until_true("the file is there", || {
        world.agent.ok(["exec", "c", "--", "stat", "-c", "%s", "/file"]).trim() == "67108864"
    });
    world
}

/// How many inspectors there are.
fn inspectors(world: &World) -> usize {
    let all = host::descendants(world.agent.pid()).into_iter();
    all.filter(|one| status(one.pid, "Name:") == "conti-inspect").count()
}

/// Asks for the file again and again, and takes no answer, until the set is dropped. So many are given at once then.
async fn ask(world: &World, askers: &[Remote], least: usize) -> JoinSet<()> {
    let mut asked = JoinSet::new();
    for asker in askers {
        let api = asker.api().await.expect("it may look");
        for _ in 0..16 {
            let mut api = api.clone();
            asked.spawn(async move {
                let target = target::Target::Container("c".to_owned());
                let request = ReadFileRequest {
                    target: Some(v1::Target { target: Some(target) }),
                    path: b"/file".to_vec().into(),
                    limit_bytes: 64 << 20,
                    offset: 0,
                };
                let _stream = api.files.read_file(request).await.expect("it may read");
                std::future::pending::<()>().await;
            });
        }
    }
    while inspectors(world) < least {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    asked
}

#[test]
fn who_takes_no_answers_keeps_nobody_from_looking_into_a_container_or_mounting_there() {
    let world = world();
    let askers = [world.as_role("olga", "operator"), world.as_role("bob", "operator")];
    world.agent.block_on(async {
        let _asked = ask(&world, &askers, 16).await;
        world.agent.ok(["mount", "c", "--mkdir", "/usr:/mnt/usr:ro"]);
        assert!(world.agent.ok(["ls", "c", "/mnt/usr"]).contains("bin"));
        world.agent.ok(["umount", "c", "/mnt/usr"]);
    });
    world.agent.finish();
}

/// They have ids of the container, and keep its mounts.
#[test]
fn what_gives_an_answer_that_nobody_takes_ends_with_the_container() {
    let world = world();
    let askers = [world.as_role("olga", "operator")];
    world.agent.block_on(async {
        let _asked = ask(&world, &askers, 8).await;
        world.agent.ok(["rm", "-f", "c"]);
        assert_eq!(inspectors(&world), 0, "none outlives the container");
    });
    world.agent.finish();
}

/// What was mounted there meanwhile is forgotten with the end of the container, and with it who may not have it.
#[test]
fn an_answer_that_was_held_back_is_not_told_once_the_container_was_started_again() {
    let world = world();
    let script = "mkdir /many; cd /many; x=$(printf %0240d 0); for i in $(seq 400); do : >$i-$x; done; touch /ready; \
                  exec sleep 100000";
    world.agent.block_on(async {
        let olga = world.as_role("olga", "operator");
        let mut api = olga.narrow_api(16 << 10).await.expect("it may look");
        api.run(container("own", shell(script))).await.expect("it may");
        wait::until_true("all is there", || {
            world.agent.ctl(["exec", "own", "--", "test", "-e", "/ready"]).run().code == 0
        });
        let target = target::Target::Container("own".to_owned());
        let request = ListDirectoryRequest {
            target: Some(v1::Target { target: Some(target) }),
            path: b"/many".to_vec().into(),
        };
        let mut told = api.files.list_directory(request).await.expect("it may").into_inner();
        // It has all the time that it needs, and what it tells waits to be read.
        while inspectors(&world) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.agent.ok(["stop", "-t", "0", "own"]);
        world.agent.ok(["start", "own"]);
        let error = loop {
            match told.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("all of it was told"),
                Err(error) => break error,
            }
        };
        assert_eq!(api::reason(&error), "CONTAINER_WRONG_STATE", "{error}");
    });
    world.agent.finish();
}
