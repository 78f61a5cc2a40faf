//! One container.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use conti_proto::v1::{self, ContainerSpec, ContainerState};
use conti_tests::{
    Agent,
    api::{self, Api, container, shell, sleeper},
};
use tonic::{Code, Status};

use crate::{AT_ONCE, Call, at_once, covers_are_in_place, pairs, run, slowed};

#[derive(Debug, Clone, Copy)]
enum Kind {
    Create,
    Start,
    Stop,
    Kill,
    Delete,
    Exec,
}

async fn start(api: &mut Api) -> Result<(), Status> {
    let request = v1::StartContainerRequest { container: "c".into(), ..Default::default() };
    let started = api.containers.start_container(request).await.map(|_| ());
    let contradicts = |status: &Status| status.message().contains("is stopped; to start it");
    assert!(!started.as_ref().is_err_and(contradicts), "{started:?}");
    started
}

fn call(api: &Api, kind: Kind) -> Call<()> {
    let mut api = api.clone();
    Box::pin(async move {
        match kind {
            Kind::Create => api.create(sleeper("c")).await.map(|_| ()),
            Kind::Start => start(&mut api).await,
            Kind::Stop => {
                let grace = Some(prost_types::Duration::default());
                let request =
                    v1::StopContainerRequest { container: "c".into(), grace, ..Default::default() };
                api.containers.stop_container(request).await.map(|_| ())
            }
            Kind::Kill => {
                let request =
                    v1::KillContainerRequest { container: "c".into(), signal: "KILL".into() };
                api.containers.kill_container(request).await.map(|_| ())
            }
            Kind::Delete => {
                let request = v1::DeleteContainerRequest {
                    container: "c".into(),
                    force: true,
                    allow_missing: false,
                };
                api.containers.delete_container(request).await.map(|_| ())
            }
            Kind::Exec => {
                let request = v1::StartSessionRequest {
                    spec: Some(api::session("c", api::process(["sleep", "1000"]))),
                    ..Default::default()
                };
                api.sessions.start_session(request).await.map(|_| ())
            }
        }
    })
}

/// The cgroups of a process, as the host sees them.
fn cgroups(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process is there")
}

/// There is at most one container; where it runs, it is whole: confined, and what is executed in it is in its
/// cgroups.
async fn check(agent: &Agent, api: &mut Api, what: &str) {
    let all = api.list().await;
    assert!(all.len() <= 1, "{what}: {all:?}");
    let Some(one) = all.first() else { return };
    let dir = agent.path("data/containers").join(&one.id);
    assert!(dir.is_dir(), "{what}: it has its directory");
    if api::state(one) != ContainerState::Running {
        start(api).await.unwrap_or_else(|error| panic!("{what}: it can be started: {error:?}"));
    }
    is_whole(api).await;
}

async fn is_whole(api: &mut Api) {
    covers_are_in_place(api, "c").await;
    // It cannot be made, in a user namespace, or not be opened, by the device policy of the cgroup.
    let opens = "mknod /tmp/d b 7 0 2>/dev/null && (: < /tmp/d) 2>/dev/null && echo opened; true";
    assert_eq!(run(api, "c", opens).await, (0, String::new()));
    let request = v1::StartSessionRequest {
        spec: Some(api::session("c", api::process(["sleep", "1000"]))),
        ..Default::default()
    };
    let started = api.sessions.start_session(request).await.expect("it runs").into_inner();
    let pid = started.session.expect("a session").pid;
    let main = api.get("c").await.expect("it is there").pid;
    assert_eq!(cgroups(pid), cgroups(main));
}

#[test]
fn calls_to_one_container_leave_it_whole_or_gone() {
    let agent = slowed();
    agent.api(async |mut api| {
        let kinds = [Kind::Create, Kind::Start, Kind::Stop, Kind::Kill, Kind::Delete, Kind::Exec];
        for (round, (one, other)) in pairs(&kinds).into_iter().enumerate() {
            let what = format!("{one:?} and {other:?}");
            // As it is created, as it runs, and not at all.
            match round % 3 {
                0 => drop(api.create(sleeper("c")).await.expect("it is made")),
                1 => drop(api.run(sleeper("c")).await.expect("it runs")),
                _ => {}
            }
            let calls =
                (0..AT_ONCE).map(|number| call(&api, if number % 2 == 0 { one } else { other }));
            let answers = at_once(calls.collect()).await;
            // Not there, in another state, or its name is taken.
            answers.only(&[Code::NotFound, Code::FailedPrecondition, Code::AlreadyExists]);
            check(&agent, &mut api, &what).await;
            api.delete("c").await.expect("it is deleted");
            let left = fs::read_dir(agent.path("data/containers")).expect("a directory").count();
            assert_eq!(left, 0, "{what}: nothing is left of it");
        }
    });
    agent.finish();
}

/// Whoever names a container hears of that, and not of a process that was in it.
#[test]
fn who_looks_into_a_container_that_ends_or_changes_it_is_told_that_it_does() {
    let delays = "look_into=200,create_mount=200,delete_mount=200";
    let agent = Agent::start_behind(|_| {
        ["env".into(), format!("CONTI_TEST_DELAYS={delays}").into()].to_vec()
    });
    let calls: [&[&str]; 12] = [
        &["ls", "c", "/"],
        &["cat", "c", "/etc/passwd"],
        &["du", "c", "/"],
        &["mounts", "c"],
        &["ns", "show", "c"],
        &["net", "c"],
        &["sockets", "c"],
        &["procs", "c"],
        &["mount", "--mkdir", "c", "type=tmpfs,dst=/mnt/a"],
        &["mount", "--mkdir", "c", "type=tmpfs,dst=/mnt/b"],
        &["umount", "c", "/mnt/there"],
        &["exec", "c", "--", "true"],
    ];
    for _ in 0..4 {
        agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
        agent.ok(["mount", "--mkdir", "c", "type=tmpfs,dst=/mnt/there"]);
        std::thread::scope(|scope| {
            let call =
                |args: &'static [&str]| scope.spawn(|| agent.ctl(args.iter().copied()).run());
            let running = calls.map(call);
            agent.ok(["rm", "-f", "c"]);
            for (args, call) in calls.into_iter().zip(running) {
                let outcome = call.join().expect("no panic");
                let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
                assert!(outcome.code == 0 || said.contains("container"), "{args:?}: {said}");
            }
        });
    }
    agent.finish();
}

#[test]
fn a_container_that_is_stopped_while_it_is_set_up_does_not_run_afterwards() {
    let agent = Agent::start_behind(|_| {
        ["env", "CONTI_TEST_DELAYS=create.registered=1000"].map(Into::into).to_vec()
    });
    for _ in 0..4 {
        std::thread::scope(|scope| {
            let run =
                scope.spawn(|| agent.ctl(["run", "--name", "c", "--", "sleep", "100000"]).run());
            conti_tests::wait::until_true("it is there", || !agent.ok(["ps", "-aq"]).is_empty());
            agent.ok(["stop", "-t", "0", "c"]);
            assert!(agent.ok(["ps", "-a"]).contains("stopped"));
            run.join().expect("no panic");
        });
        agent.ok(["rm", "c"]);
    }
    agent.finish();
}

#[test]
fn a_container_that_is_started_at_the_moment_of_its_end_keeps_its_cgroups() {
    let agent = slowed();
    agent.api(async |mut api| {
        for _ in 0..6 {
            let script = "test -e /stay && exec sleep 1000; touch /stay";
            api.run(container("c", shell(script))).await.expect("it runs");
            // The first after its end starts it again.
            let again = Arc::new(AtomicBool::new(false));
            let calls = (0..AT_ONCE).map(|_| -> Call<bool> {
                let (mut api, again) = (api.clone(), again.clone());
                Box::pin(async move {
                    while !again.load(Ordering::Relaxed) {
                        match start(&mut api).await {
                            Ok(()) => {
                                again.store(true, Ordering::Relaxed);
                                return Ok(true);
                            }
                            Err(status) if status.code() == Code::FailedPrecondition => {}
                            Err(status) => return Err(status),
                        }
                    }
                    Ok(false)
                })
            });
            let started = at_once(calls.collect()).await.only(&[]);
            assert_eq!(started.iter().filter(|started| **started).count(), 1);
            is_whole(&mut api).await;
            api.delete("c").await.expect("it is deleted");
        }
    });
    agent.finish();
}

#[test]
fn a_container_that_removes_itself_is_not_started_in_the_midst_of_it() {
    let agent = slowed();
    agent.api(async |mut api| {
        for _ in 0..6 {
            let spec =
                ContainerSpec { auto_remove: true, ..container("c", api::process(["true"])) };
            api.run(spec).await.expect("it runs");
            let calls = (0..AT_ONCE).map(|_| -> Call<()> {
                let mut api = api.clone();
                Box::pin(async move {
                    loop {
                        match start(&mut api).await {
                            Err(status) if status.code() == Code::FailedPrecondition => {}
                            other => return other,
                        }
                    }
                })
            });
            let answers = at_once(calls.collect()).await;
            assert!(answers.done.is_empty(), "none has started it");
            answers.only(&[Code::NotFound]);
            assert!(api.list().await.is_empty());
            let left = fs::read_dir(agent.path("data/containers")).expect("a directory").count();
            assert_eq!(left, 0, "nothing is left of it");
        }
    });
    agent.finish();
}
