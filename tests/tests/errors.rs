//! What cannot be done is refused in one sentence that a user can act on, and leaves nothing.

use std::fs;

use conti_proto::v1::{
    ContainerSpec, DirRootfs, IdMapping, KillContainerRequest, Namespace, NamespaceMode,
    Namespaces, ProcessTarget, Rootfs, SessionSpec, SessionTarget, TmpfsMount, User, mount, rootfs,
    session_target,
};
use conti_tests::{
    Agent,
    api::{Api, bind, container, metadata, process, reason, session, sleeper},
    wire::{self, Wire},
};
use tonic::{Code, Status};

/// Tries to run a container, expects a refusal, and that no container is left.
async fn refused(api: &mut Api, spec: ContainerSpec) -> Status {
    let error = api.run(spec.clone()).await.expect_err("it cannot be made");
    assert!(api.list().await.iter().all(|c| c.name != spec.name), "a container was left behind");
    // The call that also streams says the same.
    let streamed = match Wire::open(api, wire::run(spec)).await {
        Ok(_) => panic!("it cannot be run"),
        Err(error) => error,
    };
    assert_eq!((error.code(), reason(&error)), (streamed.code(), reason(&streamed)));
    error
}

/// One sentence that names all of these.
fn assert_says(error: &Status, words: &[&str]) {
    let text = error.message();
    assert!(!text.contains('\n'), "one sentence: {text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

fn dir(path: &str) -> Option<Rootfs> {
    let dir = DirRootfs { path: path.to_owned(), overlay: false };
    Some(Rootfs { source: Some(rootfs::Source::Dir(dir)) })
}

#[test]
fn a_missing_root_filesystem_is_named() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut spec = sleeper("c");
        spec.rootfs = dir("/no/such/root");
        let error = refused(&mut api, spec).await;
        assert_eq!(
            (error.code(), reason(&error).as_str()),
            (Code::FailedPrecondition, "SETUP_FAILED")
        );
        assert_says(&error, &["/no/such/root", "No such file or directory"]);
        let metadata = metadata(&error);
        assert_eq!(
            (metadata["argument"].as_str(), metadata["errno"].as_str()),
            ("/no/such/root", "2")
        );
        assert!(!metadata["step"].is_empty());
    });
    agent.finish();
}

#[test]
fn a_root_filesystem_that_is_a_file_is_refused() {
    let agent = Agent::start();
    let file = agent.scratch("file");
    fs::write(&file, "").expect("a file");
    agent.api(async |mut api| {
        let mut spec = sleeper("c");
        spec.rootfs = dir(&file.display().to_string());
        let error = refused(&mut api, spec).await;
        assert_says(&error, &[&file.display().to_string(), "Not a directory"]);
    });
    agent.finish();
}

#[test]
fn a_missing_mount_source_is_named() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut spec = sleeper("c");
        spec.mounts.push(bind("/no/such/source".as_ref(), "/data"));
        let error = refused(&mut api, spec).await;
        assert_eq!(reason(&error), "SETUP_FAILED");
        assert_says(&error, &["mount", "/no/such/source", "No such file or directory"]);
        assert_eq!(metadata(&error)["errno"], "2");
    });
    agent.finish();
}

#[test]
fn a_mount_target_that_cannot_be_made_is_named() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut spec = sleeper("c");
        spec.mounts.push(conti_proto::v1::Mount {
            target: "/etc/hosts/below".into(),
            source: Some(mount::Source::Tmpfs(TmpfsMount::default())),
            read_only: false,
        });
        let error = refused(&mut api, spec).await;
        assert_says(&error, &["/etc/hosts/below", "Not a directory"]);
        assert_eq!(metadata(&error)["step"], "mount");
    });
    agent.finish();
}

#[test]
fn an_unknown_user_or_group_is_named() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        for (user, step, word) in [
            (User { user: "no-such-user".into(), ..Default::default() }, "user", "no-such-user"),
            (
                User { group: "no-such-group".into(), ..Default::default() },
                "group",
                "no-such-group",
            ),
            (
                User { additional_groups: vec!["no-such-extra".into()], ..Default::default() },
                "group",
                "no-such-extra",
            ),
        ] {
            let mut spec = sleeper("c");
            spec.process.as_mut().expect("a process").user = Some(user);
            let error = refused(&mut api, spec).await;
            assert_says(&error, &[word]);
            assert_eq!(metadata(&error)["step"], step);
            assert_eq!(metadata(&error)["argument"], word);
        }
    });
    agent.finish();
}

#[test]
fn a_command_that_cannot_be_run_says_why() {
    let agent = Agent::start();
    let script = agent.scratch("not-executable");
    fs::write(&script, "#!/bin/sh\n").expect("a file");
    agent.api(async |mut api| {
        api.run(sleeper("running")).await.expect("runs");
        for (command, name, errno) in [
            ("no-such-command", "COMMAND_NOT_FOUND", "2"),
            ("/no/such/command", "COMMAND_NOT_FOUND", "2"),
            ("/etc/hosts", "COMMAND_NOT_EXECUTABLE", "13"),
        ] {
            let error = refused(&mut api, container("c", process([command]))).await;
            assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, name));
            assert_says(&error, &[command]);
            let found = metadata(&error);
            assert_eq!((found["step"].as_str(), found["errno"].as_str()), ("exec", errno));

            let open = wire::start(session("running", process([command])));
            let error = match Wire::open(&mut api, open).await {
                Ok(_) => panic!("{command} cannot be run"),
                Err(error) => error,
            };
            assert_eq!(reason(&error), name, "exec of {command}");
            assert_says(&error, &[command]);
        }
    });
    agent.finish();
}

#[test]
fn a_working_directory_that_is_a_file_or_missing_for_an_exec_is_named() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut spec = sleeper("c");
        spec.process.as_mut().expect("a process").cwd = "/etc/hosts".into();
        let error = refused(&mut api, spec).await;
        assert_says(&error, &["/etc/hosts", "Not a directory"]);
        assert_eq!(metadata(&error)["step"], "cwd");

        api.run(sleeper("running")).await.expect("runs");
        let mut process = process(["true"]);
        process.cwd = "/no/such/directory".into();
        let open = wire::start(session("running", process));
        let error = Wire::open(&mut api, open).await.err().expect("it is not there");
        assert_says(&error, &["/no/such/directory", "No such file or directory"]);
    });
    agent.finish();
}

#[test]
fn a_container_that_is_not_there_is_not_found_by_any_call() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut all = vec![api.get("nobody").await.expect_err("not there")];
        let kill = KillContainerRequest { container: "nobody".into(), ..Default::default() };
        all.push(api.containers.kill_container(kill).await.expect_err("not there"));
        let open = wire::start(session("nobody", process(["true"])));
        all.push(Wire::open(&mut api, open).await.err().expect("not there"));
        for error in all {
            assert_eq!(
                (error.code(), reason(&error).as_str()),
                (Code::NotFound, "CONTAINER_NOT_FOUND")
            );
            assert_says(&error, &["nobody"]);
        }
        let wait = conti_proto::v1::WaitSessionRequest { session_id: "0".repeat(32) };
        let error = api.sessions.wait_session(wait).await.expect_err("not there");
        assert_eq!((error.code(), reason(&error).as_str()), (Code::NotFound, "SESSION_NOT_FOUND"));
    });
    let out = agent.ctl(["exec", "nobody", "--", "true"]).run().exits(125);
    assert!(
        out.errors().contains("nobody") && out.errors().lines().count() == 1,
        "{}",
        out.errors()
    );
    agent.finish();
}

#[test]
fn the_wrong_state_is_named_with_the_right_one() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.create(sleeper("created")).await.expect("created");
        let kill = KillContainerRequest { container: "created".into(), ..Default::default() };
        let error = api.containers.kill_container(kill).await.expect_err("it does not run");
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert_eq!(reason(&error), "CONTAINER_WRONG_STATE");
        assert_says(&error, &["created", "running"]);
        let open = wire::start(session("created", process(["true"])));
        let error = Wire::open(&mut api, open).await.err().expect("it does not run");
        assert_eq!(reason(&error), "CONTAINER_WRONG_STATE");
    });
    agent.finish();
}

#[test]
fn a_pid_that_is_gone_or_another_process_is_refused() {
    let agent = Agent::start();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("a process");
    let pid = child.id();
    let alive = conti_tests::host::pinned(pid).expect("it is alive");
    let target = |start_ticks| {
        let process = ProcessTarget { pid, start_ticks, ..Default::default() };
        let target = SessionTarget { target: Some(session_target::Target::Process(process)) };
        SessionSpec {
            target: Some(target),
            process: Some(conti_tests::api::process(["true"])),
            policy: None,
        }
    };
    agent.api(async |mut api| {
        let open = wire::start(target(alive.start_ticks));
        Wire::open(&mut api, open).await.expect("it is the one").collect().await;
        let open = wire::start(target(alive.start_ticks + 1));
        let error = Wire::open(&mut api, open).await.err().expect("it is another");
        assert_eq!(
            (error.code(), reason(&error).as_str()),
            (Code::FailedPrecondition, "PROCESS_GONE")
        );
        assert_says(&error, &[&pid.to_string()]);
        child.kill().expect("killed");
        child.wait().expect("reaped");
        let error = Wire::open(&mut api, wire::start(target(0))).await.err().expect("it is gone");
        assert_eq!(reason(&error), "PROCESS_GONE");
        assert_says(&error, &[&pid.to_string()]);
    });
    let pid = pid.to_string();
    let out = agent.ctl(["enter", "--target", &pid, "-a", "--", "true"]).run().exits(125);
    assert!(out.errors().contains(&pid), "{}", out.errors());
    agent.finish();
}

#[test]
fn joining_the_namespace_of_a_container_that_does_not_run_is_refused() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let joining = |other: &str| {
            let net =
                Namespace { mode: NamespaceMode::Container as i32, container: other.to_owned() };
            let mut spec = sleeper("c");
            spec.namespaces = Some(Namespaces { net: Some(net), ..Default::default() });
            spec
        };
        let error = refused(&mut api, joining("nobody")).await;
        assert_says(&error, &["nobody"]);
        api.run(container("ended", process(["true"]))).await.expect("runs");
        let wait = conti_proto::v1::WaitContainerRequest { container: "ended".into() };
        api.containers.wait_container(wait).await.expect("ended");
        let error = refused(&mut api, joining("ended")).await;
        assert_says(&error, &["ended"]);
    });
    agent.finish();
}

#[test]
fn an_id_map_that_makes_no_sense_names_its_field() {
    let agent = Agent::start();
    let map = |inside, outside, count| IdMapping { inside, outside, count };
    agent.api(async |mut api| {
        for (what, maps) in [
            ("no map", vec![]),
            ("an empty range", vec![map(0, 100_000, 0)]),
            ("a range beyond the last id", vec![map(0, u32::MAX - 1, 10)]),
            ("two ranges overlap inside", vec![map(0, 100_000, 10), map(5, 200_000, 10)]),
            ("two ranges overlap outside", vec![map(0, 100_000, 10), map(100, 100_005, 10)]),
            ("too many ranges", (0..341).map(|n| map(n, 100_000 + n, 1)).collect()),
        ] {
            let mut spec = sleeper("c");
            spec.namespaces = Some(Namespaces {
                user: Some(Namespace { mode: NamespaceMode::Private as i32, ..Default::default() }),
                uid_mappings: maps,
                gid_mappings: vec![map(0, 100_000, 65_536)],
                ..Default::default()
            });
            let error = refused(&mut api, spec).await;
            assert_eq!(error.code(), Code::InvalidArgument, "{what}: {error:?}");
            let fields = conti_tests::api::faulty_fields(&error);
            assert!(fields.iter().any(|f| f.contains("uid_mappings")), "{what}: {fields:?}");
        }
    });
    agent.finish();
}

#[test]
fn an_unknown_namespace_is_refused_by_client_and_agent() {
    let agent = Agent::start();
    let out = agent.ctl(["run", "--rm", "--ns", "moon=host", "--", "true"]).run();
    assert_ne!(out.code, 0);
    assert!(out.errors().contains("moon"), "{}", out.errors());
    agent.finish();
}

#[test]
fn a_failed_setup_leaves_no_process_mount_cgroup_or_directory() {
    let mut agent = Agent::start();
    // The first container may leave what is prepared for the next ones.
    agent.ok(["run", "--rm", "--", "true"]);
    agent.watch();
    for n in 0..30 {
        let volume = format!("/no/such/source{n}:/x");
        agent.ctl(["run", "--rm", "-v", &volume, "--", "true"]).run().exits(125);
        agent.ctl(["run", "--rm", "-u", "nobody-at-all", "--", "true"]).run().exits(125);
        agent.ctl(["run", "--rm", "--", "no-such-command"]).run().exits(127);
    }
    let processes = conti_tests::host::descendants(agent.pid()).len();
    assert!(processes < 20, "{processes} processes are left of 90 failures");
    agent.finish();
}

#[test]
fn no_agent_at_the_address_is_said_plainly() {
    let agent = Agent::start();
    let out = agent.ctl(["--host", "unix:///no/such/contid.sock", "ps"]).run().exits(125);
    let errors = out.errors();
    assert!(errors.contains("/no/such/contid.sock"), "{errors}");
    assert!(errors.contains("contid") && !errors.contains("panicked"), "{errors}");
    agent.finish();
}
