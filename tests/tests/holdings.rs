//! What one identity makes the agent hold: so much for all of its containers and sessions together.

use conti_proto::v1::{self, ContainerSpec, StartSessionRequest, target};
use conti_tests::{
    api::{Api, container, process, reason, session, sleeper},
    world::World,
};
use tonic::{Code, Status};

/// A container whose command has arguments, and an environment, of so many bytes each.
fn with_arguments(name: &str, bytes: usize) -> ContainerSpec {
    // The kernel takes no longer ones.
    const PIECE: usize = 120_000;
    let pieces = bytes.div_ceil(PIECE);
    let piece = "x".repeat(bytes / pieces);
    let argv = std::iter::once("true".to_owned()).chain((0..pieces).map(|_| piece.clone()));
    let mut process = process(argv);
    process.env = (0..pieces).map(|n| (format!("V{n}"), piece.clone())).collect();
    container(name, process)
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, what: &str) {
    let refused = answer.expect_err(what);
    assert_eq!(refused.code(), Code::ResourceExhausted, "{what}: {refused:?}");
    assert_eq!(reason(&refused), "RESOURCE_EXHAUSTED", "{what}: {refused:?}");
    assert!(
        !refused.message().contains("olga") && refused.message().contains("remove"),
        "{refused:?}"
    );
}

/// Makes containers of this size until there is no room for one more: how many were made.
async fn fill(api: &mut Api, bytes: usize) -> usize {
    for n in 0..60 {
        let made = api.create(with_arguments(&format!("c{bytes}-{n}"), bytes)).await;
        if made.is_err() {
            refused(made, "one more");
            return n;
        }
    }
    panic!("it makes any number of containers with {bytes} bytes")
}

async fn mount(api: &mut Api, n: usize) -> Result<(), Status> {
    let source = Some(v1::mount::Source::Tmpfs(v1::TmpfsMount::default()));
    let mount = v1::Mount { target: format!("/mnt/{n}"), source, read_only: false };
    let target = Some(v1::Target { target: Some(target::Target::Container("own".into())) });
    let mount = v1::CreateMountRequest {
        target,
        mount: Some(mount),
        create_point: true,
        ..Default::default()
    };
    api.mounts.create_mount(mount).await.map(drop)
}

async fn exec(api: &mut Api, argument: &str) -> Result<(), Status> {
    let spec = Some(session("own", process(["sh", "-c", "exec sleep 100000", argument])));
    let request = StartSessionRequest { spec, ..Default::default() };
    api.sessions.start_session(request).await.map(drop)
}

#[test]
fn heavy_what_one_identity_makes_the_agent_hold_is_bounded() {
    let mut world = World::start("");
    world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut carl = world.as_role("carl", "operator").api().await.expect("it may look");
        olga.run(sleeper("own")).await.expect("it may");
        let large = fill(&mut olga, 960_000).await;
        assert!((10..=30).contains(&large), "{large}");
        for bytes in [100_000, 10_000, 100] {
            fill(&mut olga, bytes).await;
        }
        let mut n = 0;
        while n < 100 && mount(&mut olga, n).await.is_ok() {
            n += 1;
        }
        // What it would be kept with may be another's: whose it is, is not told.
        let full = mount(&mut olga, n).await.expect_err("a mount");
        assert_eq!(reason(&full), "RESOURCE_EXHAUSTED", "{full:?}");
        let said = full.message();
        assert!(said.contains("remove") && !said.contains("olga"), "{full:?}");
        refused(exec(&mut olga, &"x".repeat(100_000)).await, "a session");
        // Others have their own.
        carl.create(with_arguments("other", 960_000)).await.expect("it may");
    });
    // The next agent finds what is there.
    world.agent.kill();
    world.agent.restart();
    world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        refused(olga.create(with_arguments("more", 960_000)).await, "one more");
        refused(exec(&mut olga, &"x".repeat(100_000)).await, "a session");
        // What is removed makes room.
        olga.delete("c960000-0").await.expect("its own");
        exec(&mut olga, &"x".repeat(100_000)).await.expect("there is room");
        mount(&mut olga, 1000).await.expect("there is room");
        // A page holds only a few of them.
        while !olga.list().await.is_empty() {
            olga.delete_all().await.expect("its own");
        }
    });
    world.agent.finish();
}

/// A container in the pid namespace of `own`, with as much in the way of mounts.
fn neighbour(name: &str, mounts: usize) -> ContainerSpec {
    let deep = "x".repeat(200);
    // What is the same is kept once.
    let deep = format!("/mnt/{name}/{}", [deep.as_str(); 18].join("/"));
    let tmpfs = |n: usize| v1::Mount {
        target: format!("{deep}/{n}"),
        source: Some(v1::mount::Source::Tmpfs(v1::TmpfsMount::default())),
        read_only: false,
    };
    let pid =
        v1::Namespace { mode: v1::NamespaceMode::Container.into(), container: "own".to_owned() };
    let namespaces = v1::Namespaces { pid: Some(pid), ..Default::default() };
    let mounts = (0..mounts).map(tmpfs).collect();
    ContainerSpec { mounts, namespaces: Some(namespaces), ..sleeper(name) }
}

#[test]
fn heavy_what_neighbours_bring_counts_to_them() {
    const SESSIONS: usize = 100;
    let world = World::start("");
    world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut carl = world.as_role("carl", "operator").api().await.expect("it may look");
        olga.run(sleeper("own")).await.expect("it may");
        for _ in 0..SESSIONS {
            exec(&mut olga, "").await.expect("it may");
        }
        // Each is kept with all of these sessions.
        let mut n = 0;
        loop {
            assert!(n < 20, "it brings any number of containers");
            match carl.run(neighbour(&format!("beside{n}"), 40)).await {
                Ok(_) => n += 1,
                refusal => break refused(refusal, "one more"),
            }
        }
        assert!(n > 0, "one at least");
        // Who was there before has as much room as ever.
        let mut dora = world.as_role("dora", "operator").api().await.expect("it may look");
        let (left, all) = (fill(&mut olga, 960_000).await, fill(&mut dora, 970_000).await);
        assert!(left + 3 >= all, "{left} of {all}");
        for name in (0..n).map(|n| format!("beside{n}")) {
            carl.delete(&name).await.expect("its own");
        }
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        while !admin.list().await.is_empty() {
            admin.delete_all().await.expect("an admin may");
        }
    });
    world.agent.finish();
}

#[test]
fn whoever_has_many_sessions_leaves_files_to_others() {
    let limited = ["sh", "-c", "ulimit -n 400; exec \"$@\"", "sh"];
    let world = World::start_behind(|_| limited.map(Into::into).to_vec(), "");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        let mut count = 1;
        let refused = loop {
            match exec(&mut api, "").await {
                Ok(()) => count += 1,
                Err(refused) => break refused,
            }
            assert!(count < 400, "it starts any number of sessions");
        };
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        let said = refused.message();
        assert!(!said.contains("olga") && said.contains(&count.to_string()), "{said}");
        // Half of those for which there are files.
        let all: usize = (400 - 64) / 6 / 4 * 3;
        assert_eq!(count, all.div_ceil(2), "{said}");
        world.agent.ok(["run", "--rm", "--", "true"]);
        let mut bob = world.as_role("bob", "operator").api().await.expect("it may look");
        bob.run(sleeper("bobs")).await.expect("there is something left");
        api.delete("own").await.expect("it is its own");
        api.run(sleeper("own")).await.expect("those that have ended do not count");
    });
    world.agent.finish();
}
