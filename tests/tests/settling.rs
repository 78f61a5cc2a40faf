//! Mounts that are being made: what others get meanwhile, and what is left where the agent is killed meanwhile.

use std::{fs, path::Path};

use conti_proto::v1::{self, StartSessionRequest, target};
use conti_tests::{
    api::{Api, bind, exit_code, process, reason, session, sleeper},
    host::{self, Pinned},
    moving, wait,
    wire::{self, Wire},
    world::World,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

/// An agent whose inspectors stop at a point, and that tells who waits for them.
fn stopping_at(point: &str) -> World {
    let debug = |_: &Path| ["--log-level", "debug"].map(Into::into).to_vec();
    World::start_with_both(|_| moving::stopping_at(point), "", debug)
}

fn of(container: &str) -> Option<v1::Target> {
    Some(v1::Target { target: Some(target::Target::Container(container.to_owned())) })
}

fn tmpfs() -> v1::Mount {
    let source = Some(v1::mount::Source::Tmpfs(v1::TmpfsMount::default()));
    v1::Mount { target: "/mnt/new".into(), source, read_only: false }
}

type Answer<T> = Result<T, Status>;

/// Has something mounted into the container `own`, until whoever does it is stopped.
fn mount_until_stopped(
    world: &World,
    api: &Api,
    mount: v1::Mount,
) -> (JoinHandle<Answer<()>>, Pinned) {
    let mut api = api.clone();
    let [mounted] = world.agent.block_on(async {
        [tokio::spawn(async move {
            let request = v1::CreateMountRequest {
                target: of("own"),
                mount: Some(mount),
                create_point: true,
                ..Default::default()
            };
            api.mounts.create_mount(request).await.map(drop)
        })]
    });
    let stopped = wait::until("it is being attached", || {
        host::descendants(world.agent.pid()).into_iter().find(Pinned::is_stopped)
    });
    (mounted, stopped)
}

fn signal(process: &Pinned, signal: Signal) {
    let pid = Pid::from_raw(process.pid as i32).expect("a pid");
    kill_process(pid, signal).expect("it is there");
}

async fn exec(api: &mut Api) -> Answer<()> {
    Wire::open(api, wire::start(session("own", process(["true"])))).await.map(drop)
}

async fn attach(api: &mut Api, session: &str) -> Answer<()> {
    Wire::open(api, wire::view(session)).await.map(drop)
}

async fn read(api: &mut Api) -> Answer<()> {
    let path = b"/etc/hosts".to_vec().into();
    let request = v1::ReadFileRequest { target: of("own"), path, ..Default::default() };
    api.files.read_file(request).await.map(drop)
}

/// Starts a session that goes on: its id.
async fn start(api: &mut Api) -> String {
    let spec = Some(session("own", process(["sleep", "100000"])));
    let request = StartSessionRequest { spec, ..Default::default() };
    let started = api.sessions.start_session(request).await.expect("it starts").into_inner();
    started.session.expect("a session").id
}

/// Waits until these calls wait for a mount, or one of them does not.
fn wait_for(world: &World, calls: &[JoinHandle<Answer<()>>]) {
    wait::until_true("the calls wait", || {
        let waiting = world.agent.log().matches("a call waits for a mount").count();
        waiting >= calls.len() || calls.iter().any(JoinHandle::is_finished)
    });
}

fn operator(world: &World) -> Api {
    world.agent.block_on(async {
        world.as_role("olga", "operator").api().await.expect("an operator may look")
    })
}

#[test]
fn whoever_comes_while_a_mount_is_being_made_waits_for_it() {
    let world = stopping_at("attach.checked");
    let mut own = operator(&world);
    let session = world.agent.block_on(async {
        own.run(sleeper("own")).await.expect("it may");
        start(&mut own).await
    });
    let (mounted, stopped) = mount_until_stopped(&world, &own, tmpfs());
    let calls = world.agent.block_on(async {
        let [mut a, mut b, mut c] = [(); 3].map(|()| own.clone());
        [
            tokio::spawn(async move { exec(&mut a).await }),
            tokio::spawn(async move { read(&mut b).await }),
            tokio::spawn(async move { attach(&mut c, &session).await }),
        ]
    });
    wait_for(&world, &calls);
    signal(&stopped, Signal::CONT);
    world.agent.block_on(async {
        mounted.await.expect("no panic").expect("it is mounted");
        for (call, what) in calls.into_iter().zip(["exec", "read", "attach"]) {
            call.await.expect("no panic").expect(what);
        }
    });
    world.agent.finish();
}

#[test]
fn whoever_has_waited_too_long_for_a_mount_is_told_to_try_again() {
    let world = stopping_at("attach.checked");
    let mut own = operator(&world);
    world.agent.block_on(async { own.run(sleeper("own")).await.expect("it may") });
    let (mounted, stopped) = mount_until_stopped(&world, &own, tmpfs());
    let refused =
        world.agent.block_on(async { exec(&mut own).await.expect_err("it is not known") });
    assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
    assert_eq!(reason(&refused), "MOUNT_UNDER_WAY", "{refused:?}");
    assert!(refused.message().contains("try again"), "{refused:?}");
    signal(&stopped, Signal::CONT);
    world.agent.block_on(async {
        mounted.await.expect("no panic").expect("it is mounted");
        exec(&mut own).await.expect("it is known");
    });
    world.agent.finish();
}

#[test]
fn a_mount_whose_agent_and_inspector_were_killed_is_looked_at_by_the_next_agent() {
    let mut world = stopping_at("attach.attached");
    let mut own = operator(&world);
    let session = world.agent.block_on(async {
        own.run(sleeper("own")).await.expect("it may");
        start(&mut own).await
    });
    let (_, stopped) = mount_until_stopped(&world, &own, tmpfs());
    world.agent.kill();
    signal(&stopped, Signal::KILL);
    world.agent.restart();
    let mut own = operator(&world);
    world.agent.block_on(async {
        exec(&mut own).await.expect("a tmpfs is for everybody");
        read(&mut own).await.expect("a tmpfs is for everybody");
        attach(&mut own, &session).await.expect("its own");
    });
    world.agent.finish();
}

#[test]
fn a_mount_that_is_attached_after_its_agent_was_killed_is_known_all_the_same() {
    let mut world = stopping_at("attach.checked");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    let mut own = operator(&world);
    let (session, admin) = world.agent.block_on(async {
        own.run(sleeper("own")).await.expect("it may");
        let admin = world.as_role("root", "admin").api().await.expect("it may look");
        (start(&mut own).await, admin)
    });
    let (_, stopped) = mount_until_stopped(&world, &admin, bind(&secret, "/mnt/new"));
    world.agent.kill();
    world.agent.restart();
    let own = operator(&world);
    let calls = world.agent.block_on(async {
        let [mut a, mut b] = [(); 2].map(|()| own.clone());
        [
            tokio::spawn(async move { exec(&mut a).await }),
            tokio::spawn(async move { attach(&mut b, &session).await }),
        ]
    });
    wait_for(&world, &calls);
    signal(&stopped, Signal::CONT);
    world.agent.block_on(async {
        for call in calls {
            let refused = call.await.expect("no panic").expect_err("it is an admin's now");
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        }
    });
    world.agent.finish();
}

/// What is known of a mount for a moment is that not all is known of it: it is made final with all that it was noted with,
/// also with what has ended in that moment.
#[test]
fn commands_that_end_while_something_is_mounted_are_read_by_their_maker() {
    let delays =
        |_: &Path| ["env", "CONTI_TEST_DELAYS=create_mount.begun=60"].map(Into::into).to_vec();
    let world = World::start_with_both(delays, "", |_| Vec::new());
    let own = operator(&world);
    world.agent.block_on(async {
        own.clone().run(sleeper("own")).await.expect("it may");
        let execs: Vec<_> = (0..4)
            .map(|_| {
                let mut api = own.clone();
                tokio::spawn(async move {
                    let mut ids = Vec::new();
                    for _ in 0..40 {
                        let mut spec = session("own", process(["true"]));
                        spec.policy =
                            Some(v1::SessionPolicy { record: true, ..Default::default() });
                        let wire =
                            Wire::open(&mut api, wire::start(spec)).await.expect("it starts");
                        let id = wire.session().id.clone();
                        assert_eq!(exit_code(&wire.collect().await.end), 0, "{id}");
                        ids.push(id);
                    }
                    ids
                })
            })
            .collect();
        let mut api = own.clone();
        let mounting = tokio::spawn(async move {
            loop {
                let mount = Some(tmpfs());
                let request = v1::CreateMountRequest {
                    target: of("own"),
                    mount,
                    create_point: true,
                    ..Default::default()
                };
                let made = api.mounts.create_mount(request).await.expect("it may").into_inner();
                let id = made.mount.expect("a mount").id;
                let request = v1::DeleteMountRequest {
                    which: Some(v1::delete_mount_request::Which::Id(id)),
                    ..Default::default()
                };
                api.mounts.delete_mount(request).await.expect("it may");
            }
        });
        let mut api = own.clone();
        for exec in execs {
            for id in exec.await.expect("all of them were read to their end") {
                let request = v1::ReadRecordingRequest { session_id: id.clone() };
                let mut read = api.sessions.read_recording(request).await.expect(&id).into_inner();
                while read.message().await.expect(&id).is_some() {}
            }
        }
        mounting.abort();
    });
    world.agent.finish();
}
