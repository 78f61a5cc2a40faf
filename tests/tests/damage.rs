//! Files of the agent's own that were damaged while it was away, are gone, or are something else by now. What they told
//! is not known then: nobody gets in because of that, nothing that runs is ended, and the agent starts all the same, or
//! says what is in its way.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use conti_proto::v1::{
    self, ContainerState, SessionState, StartSessionRequest, WaitContainerRequest,
    WaitSessionRequest,
};
use conti_tests::{
    Agent,
    api::{self, Api, end_signal, session, shell, sleeper, state},
    audit,
    ctl::ended,
    damage::{
        DAMAGES, Stopped, delete_stopped, denied, enter, fifo, files, get_session, kill,
        monitor_of, of, signal, start, stop, the_process,
    },
    host::Pinned,
    host_mount::HostMount,
    wait,
    wire::{self, Wire},
    world::World,
};
use rustix::process::Signal;
use tonic::Code;

#[test]
fn a_mount_of_which_nothing_can_be_read_is_an_admins_in_its_container() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    fs::write(secret.join("key"), "of the host\n").expect("a file");
    let mounts = world.agent.path("state/mounts");
    let read = async |api: &mut Api| {
        let (target, path) = (of("own"), "/mnt/key".into());
        let request = v1::ReadFileRequest { target, path, ..Default::default() };
        api.files.read_file(request).await?.into_inner().message().await.map(|_| ())
    };
    for (damage, inflict) in DAMAGES {
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
            olga.run(sleeper("own")).await.expect("it may");
            olga.run(sleeper("other")).await.expect("it may");
            let mount = Some(api::bind(&secret, "/mnt"));
            let request = v1::CreateMountRequest { target: of("own"), mount, ..Default::default() };
            admin.mounts.create_mount(request).await.expect("an admin may");
            denied(&mut olga, "own", damage).await;
        });
        let records = files(&mounts, ".json");
        assert_eq!(records.len(), 1, "{records:?}");
        inflict(&records[0]);
        // Also the next time, which is the same for all.
        let times = if damage == "cut" { 2 } else { 1 };
        for _ in 0..times {
            world.agent.kill();
            world.agent.restart();
            world.agent.block_on(async {
                let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
                denied(&mut olga, "own", damage).await;
                let refused = read(&mut olga).await.expect_err(damage);
                assert_eq!(refused.code(), Code::PermissionDenied, "{damage}: {refused:?}");
                enter(&mut olga, "other").await.expect("the other is not concerned");
                let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
                enter(&mut admin, "own").await.expect("an admin may");
            });
            let log = world.agent.log();
            assert!(log.contains(&*records[0].to_string_lossy()), "{damage}: it says which record");
        }
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            stop(&mut olga, "own").await;
            let request =
                v1::StartContainerRequest { container: "own".into(), ..Default::default() };
            let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
            admin.containers.start_container(request).await.expect("it starts");
            enter(&mut olga, "own").await.expect("what was mounted has gone with its processes");
            for name in ["own", "other"] {
                olga.delete(name).await.expect("its own");
            }
        });
        assert_eq!(files(&mounts, ".json"), [] as [PathBuf; 0], "{damage}");
    }
    world.agent.finish();
}

#[test]
fn a_mount_of_which_not_even_the_container_is_known_concerns_all_that_run() {
    let mut world = World::start("");
    let mounts = world.agent.path("state/mounts");
    world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        for name in ["a", "b"] {
            olga.run(sleeper(name)).await.expect("it may");
        }
        enter(&mut olga, "a").await.expect("its own");
    });
    world.agent.kill();
    // As an older agent has named it.
    fs::write(mounts.join("0123456789abcdef0123456789abcdef.json"), "{").expect("a record");
    world.agent.restart();
    world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        denied(&mut olga, "a", "it may have been mounted there").await;
        denied(&mut olga, "b", "or there").await;
        olga.run(sleeper("later")).await.expect("it may");
        enter(&mut olga, "later").await.expect("that came later");
        olga.delete("a").await.expect("its own may be ended");
        denied(&mut olga, "b", "it may still have been mounted there").await;
        olga.delete("b").await.expect("its own may be ended");
    });
    assert_eq!(files(&mounts, ".json"), [] as [PathBuf; 0], "nothing has it any more");
    world.agent.finish();
}

#[test]
fn the_record_of_a_mount_goes_with_the_processes_of_its_container() {
    let agent = Agent::start();
    let mounts = agent.path("state/mounts");
    for end in [["stop", "-t0"], ["rm", "-f"]] {
        agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
        agent.ok(["mount", "c", "type=tmpfs,dst=/mnt"]);
        assert_eq!(files(&mounts, ".json").len(), 1);
        agent.ok([end[0], end[1], "c"]);
        assert_eq!(files(&mounts, "").len(), 0, "{end:?}");
        let _ = agent.ctl(["rm", "c"]).run();
    }
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    agent.ok(["mount", "c", "type=tmpfs,dst=/mnt"]);
    agent.ok(["kill", "c"]);
    agent.ctl(["wait", "c"]).run();
    wait::until_true("its end is told with all that belongs to it", || {
        files(&mounts, ".json").is_empty()
    });
    agent.finish();
}

#[test]
fn who_has_joined_a_container_of_which_nothing_is_known_is_not_entered() {
    let mut world = World::start("");
    let id = world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        let strong = admin.run(sleeper("strong")).await.expect("it may").id;
        let mode = v1::NamespaceMode::Container.into();
        let joined = Some(v1::Namespace { mode, container: "strong".into() });
        let namespaces = Some(v1::Namespaces { uts: joined, ..Default::default() });
        let spec = v1::ContainerSpec { namespaces, ..sleeper("joins") };
        olga.run(spec).await.expect("it may: the other is an operator's too");
        enter(&mut olga, "joins").await.expect("its own");
        strong
    });
    world.agent.kill();
    DAMAGES[0].1(&world.agent.path(&format!("data/containers/{id}/container.json")));
    world.agent.restart();
    world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        denied(&mut olga, "joins", "what it has joined may be anything").await;
    });
    world.agent.finish();
}

#[test]
fn a_running_container_whose_record_is_damaged_or_gone_runs_on_until_it_is_deleted() {
    let mut agent = Agent::start();
    let gone: (&str, fn(&Path)) = ("gone", |path| fs::remove_file(path).expect("removed"));
    for (damage, inflict) in DAMAGES.into_iter().chain([gone]) {
        let (container, exec) = agent.api(async |mut api| {
            let container = api.run(sleeper("c")).await.expect("runs");
            (container, start(&mut api, "c", "sleep 100000").await.expect("starts"))
        });
        let processes = [the_process(container.pid), the_process(exec.pid)];
        agent.kill();
        let record = agent.path(&format!("data/containers/{}/container.json", container.id));
        inflict(&record);
        let damaged = fs::symlink_metadata(&record).map(|meta| (meta.len(), meta.file_type())).ok();
        // The next agent knows no more.
        for _ in 0..2 {
            agent.restart();
            assert!(processes.iter().all(Pinned::alive), "{damage}: it runs on");
            agent.api(async |mut api| {
                let found = api.get(&container.id).await.expect("it is shown");
                assert_eq!(state(&found), ContainerState::Quarantined, "{damage}");
                assert!(!found.warnings.is_empty(), "{damage}: it says why");
                let refused = delete_stopped(&mut api, &container.id).await.expect_err(damage);
                assert_eq!(refused.code(), Code::FailedPrecondition, "{damage}: {refused:?}");
                let refused = enter(&mut api, &container.id).await.expect_err(damage);
                assert_eq!(refused.code(), Code::FailedPrecondition, "{damage}: {refused:?}");
            });
            assert!(processes.iter().all(Pinned::alive), "{damage}: it runs on");
            agent.kill();
        }
        let now = fs::symlink_metadata(&record).map(|meta| (meta.len(), meta.file_type())).ok();
        assert_eq!(now, damaged, "{damage}: what cannot be read is not written over");
        agent.restart();
        agent.api(async |mut api| api.delete(&container.id).await.expect("rm -f always works"));
        assert!(!processes.iter().any(Pinned::alive), "{damage}");
    }
    agent.finish();
}

#[test]
fn what_is_not_known_of_a_container_and_of_a_session_is_not_made_up() {
    let mut agent = Agent::start();
    let (container, exec) = agent.api(async |mut api| {
        let container = api.run(sleeper("c")).await.expect("runs");
        (container, start(&mut api, "c", "sleep 100000").await.expect("starts"))
    });
    agent.kill();
    DAMAGES[0].1(&agent.path(&format!("data/containers/{}/container.json", container.id)));
    DAMAGES[0].1(&agent.path(&format!("state/sessions/{}/session.json", exec.id)));
    agent.restart();
    agent.api(async |mut api| {
        let found = api.get(&container.id).await.expect("it is shown");
        assert_eq!((found.name.as_str(), found.spec, found.create_time), ("", None, None));
        assert_eq!((found.pid, found.session_id), (container.pid, container.session_id.clone()));
        let found = get_session(&mut api, &exec.id).await.expect("it is shown");
        assert_eq!((found.argv, found.start_time), (Vec::new(), None));
    });
    let has = |value: &serde_json::Value, names: &[&str]| {
        names.iter().filter(|name| value.get(**name).is_some()).count()
    };
    let found = agent.ctl(["inspect", &container.id]).run().success().json();
    assert_eq!(has(&found, &["id", "state", "pid", "session_id", "warnings"]), 5, "{found}");
    let unknown = ["name", "spec", "create_time", "start_time", "end", "end_time"];
    assert_eq!(has(&found, &unknown), 0, "{found}");
    let found = agent.ctl(["inspect", "--session", &exec.id]).run().success().json();
    assert_eq!(has(&found, &["id", "state", "pid", "attached", "container_id"]), 5, "{found}");
    assert_eq!(has(&found, &["argv", "terminal", "start_time"]), 0, "{found}");
    let line = |args: &[&str], id: &str| {
        let shown = agent.ok(args.iter().copied());
        let line = shown.lines().find(|line| line.starts_with(id)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{id} in {shown}"))
    };
    let shown = line(&["ps", "-a"], &container.id[..12]);
    let words: Vec<&str> = shown.split_whitespace().collect();
    let pid = container.pid.to_string();
    assert_eq!(words[1..], ["-", "quarantined", &pid, "-", "-", "-"], "{shown}");
    let shown = line(&["sessions"], &exec.id);
    assert_eq!(shown.split_whitespace().filter(|word| *word == "-").count(), 3, "{shown}");
    agent.api(async |mut api| api.delete(&container.id).await.expect("rm -f always works"));
    agent.finish();
}

#[test]
fn a_container_with_a_damaged_record_is_the_same_after_it_has_ended() {
    let mut agent = Agent::start();
    let container = agent.api(async |mut api| api.run(sleeper("c")).await.expect("runs"));
    agent.kill();
    DAMAGES[0].1(&agent.path(&format!("data/containers/{}/container.json", container.id)));
    agent.restart();
    agent.api(async |mut api| {
        signal(&mut api, &container.session_id, "KILL").await.expect("an admin may end it");
        let request = WaitContainerRequest { container: container.id.clone() };
        let end = api.containers.wait_container(request).await.expect("waited").into_inner().end;
        assert_eq!(end_signal(&end.expect("an end")), 9);
    });
    for _ in 0..2 {
        agent.api(async |mut api| {
            let found = api.get(&container.id).await.expect("it is shown");
            assert_eq!(state(&found), ContainerState::Quarantined);
        });
        agent.kill();
        agent.restart();
    }
    agent.api(async |mut api| {
        delete_stopped(&mut api, &container.id).await.expect("nothing runs in it any more");
    });
    agent.finish();
}

#[test]
fn ids_of_a_container_with_a_damaged_record_are_given_to_no_other() {
    // Two ranges.
    let mut agent =
        Agent::start_with(|_| ["--userns-pool", "1998848000:131072"].map(Into::into).to_vec());
    let first = agent.api(async |mut api| api.run(sleeper("first")).await.expect("runs"));
    let map = |pid: u32| fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("a map");
    let own = map(first.pid);
    if own.split_whitespace().nth(1) == Some("0") {
        eprintln!("SKIPPED: this host gives containers no ids of their own");
        return agent.finish();
    }
    agent.kill();
    DAMAGES[0].1(&agent.path(&format!("data/containers/{}/container.json", first.id)));
    agent.restart();
    agent.api(async |mut api| {
        let second = api.run(sleeper("second")).await.expect("there are ids for it");
        assert_ne!(map(second.pid), own);
        let refused = api.run(sleeper("third")).await.expect_err("all are taken");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        api.delete(&first.id).await.expect("deleted");
        api.run(sleeper("third")).await.expect("they are free again");
    });
    agent.finish();
}

#[test]
fn what_runs_is_not_ended_because_a_directory_was_not_there_for_a_while() {
    let mut agent = Agent::start();
    let (container, exec) = agent.api(async |mut api| {
        let container = api.run(sleeper("c")).await.expect("runs");
        (container, start(&mut api, "c", "sleep 100000").await.expect("starts"))
    });
    let processes = [the_process(container.pid), the_process(exec.pid)];
    for dir in ["data/containers", "state/sessions"] {
        let (there, away) = (agent.path(dir), agent.path("away"));
        agent.kill();
        fs::rename(&there, &away).expect("moved");
        agent.restart();
        assert!(processes.iter().all(Pinned::alive), "{dir}: it runs on");
        agent.api(async |mut api| {
            let found = api.get(&container.id).await.expect("it is shown");
            assert_eq!(state(&found), ContainerState::Quarantined, "{dir}");
            let refused = delete_stopped(&mut api, &container.id).await.expect_err(dir);
            assert_eq!(refused.code(), Code::FailedPrecondition, "{dir}: {refused:?}");
        });
        agent.kill();
        fs::remove_dir(&there).expect("nothing was put there");
        fs::rename(&away, &there).expect("moved");
        agent.restart();
        assert!(processes.iter().all(Pinned::alive), "{dir}: it runs on");
        agent.api(async |mut api| {
            let found = api.get("c").await.expect("it is shown");
            assert_eq!(state(&found), ContainerState::Running, "{dir}");
            enter(&mut api, "c").await.expect("as before");
        });
    }
    // A clean stop takes nothing away either.
    fs::rename(agent.path("state/sessions"), agent.path("away")).expect("moved");
    assert!(agent.terminate().success());
    assert!(processes.iter().all(Pinned::alive), "it runs on");
    fs::rename(agent.path("away"), agent.path("state/sessions")).expect("moved");
    agent.restart();
    agent.finish();
}

#[test]
fn an_agent_that_cannot_list_what_it_has_does_not_start_and_says_why() {
    let mut agent = Agent::start();
    let container = agent.api(async |mut api| api.run(sleeper("c")).await.expect("runs"));
    let main = the_process(container.pid);
    agent.kill();
    for dir in ["data/containers", "state/sessions", "state/mounts"] {
        let (there, away) = (agent.path(dir), agent.path("away"));
        fs::rename(&there, &away).expect("moved");
        fs::write(&there, "").expect("a file");
        let (code, said) = ended(agent.command("contid.sock"));
        assert_ne!(code, 0, "{dir}: {said}");
        assert!(said.contains(&*there.to_string_lossy()), "{dir}: {said}");
        assert!(main.alive(), "{dir}: it runs on");
        fs::remove_file(&there).expect("removed");
        fs::rename(&away, &there).expect("moved");
    }
    agent.restart();
    agent.finish();
}

#[test]
fn a_session_whose_record_is_damaged_or_gone_is_an_admins_and_can_be_ended() {
    let mut world = World::start("");
    let gone: (&str, fn(&Path)) = ("gone", |path| fs::remove_file(path).expect("removed"));
    let container = world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        olga.run(sleeper("c")).await.expect("it may")
    });
    for (damage, inflict) in DAMAGES.into_iter().chain([gone]) {
        let (own, hosts) = world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
            let own = start(&mut olga, "c", "echo mine; sleep 100000").await.expect("it may");
            let target = Some(v1::SessionTarget {
                target: Some(v1::session_target::Target::Process(v1::ProcessTarget {
                    pid: std::process::id(),
                    ..Default::default()
                })),
            });
            let spec = v1::SessionSpec { target, ..session("", shell("sleep 100000")) };
            let request = StartSessionRequest { spec: Some(spec), ..Default::default() };
            let hosts = admin.sessions.start_session(request).await.expect("an admin may");
            (own, hosts.into_inner().session.expect("a session"))
        });
        world.agent.kill();
        for id in [&own.id, &hosts.id] {
            inflict(&world.agent.path(&format!("state/sessions/{id}/session.json")));
        }
        world.agent.restart();
        let processes = [the_process(own.pid), the_process(hosts.pid)];
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
            let refused = get_session(&mut olga, &hosts.id).await.expect_err(damage);
            assert_eq!(refused.code(), Code::NotFound, "{damage}: {refused:?}");
            // The kernel says that it is in that container, and nobody says what it is.
            let found =
                get_session(&mut olga, &own.id).await.expect("what is in the container is seen");
            assert_eq!((found.container_id.as_str(), found.pid), (container.id.as_str(), own.pid));
            let refused = signal(&mut olga, &own.id, "KILL").await.expect_err(damage);
            assert_eq!(refused.code(), Code::PermissionDenied, "{damage}: {refused:?}");
            let refused = Wire::open(&mut olga, wire::view(&own.id)).await;
            let refused = refused.err().expect("what it writes may be anything");
            assert_eq!(refused.code(), Code::PermissionDenied, "{damage}: {refused:?}");
            for (id, process) in [&own.id, &hosts.id].into_iter().zip(&processes) {
                let found = get_session(&mut admin, id).await.expect("an admin sees it");
                assert_eq!(found.state(), SessionState::Running, "{damage}");
                assert_eq!(found.pid, process.pid, "{damage}");
                signal(&mut admin, id, "KILL").await.expect("an admin may");
                let request = WaitSessionRequest { session_id: id.clone() };
                let end = admin.sessions.wait_session(request).await.expect("waited");
                assert_eq!(end_signal(&end.into_inner().end.expect("an end")), 9, "{damage}");
            }
            for (id, written) in [(&own.id, &b"mine\n"[..]), (&hosts.id, b"")] {
                let wire = Wire::open(&mut admin, wire::attach(id, Some(0))).await;
                let all = wire.expect("attaches").collect().await;
                assert_eq!(all.stdout, written, "{damage}");
            }
            enter(&mut olga, "c").await.expect("the container is not concerned");
        });
        assert!(!processes.iter().any(Pinned::alive), "{damage}");
    }
    // That of the main process: what its container is made of is known still, but not what was shown to what runs there.
    world.agent.kill();
    let main = &container.session_id;
    DAMAGES[0].1(&world.agent.path(&format!("state/sessions/{main}/session.json")));
    world.agent.restart();
    world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        let found = olga.get("c").await.expect("it is shown");
        assert_eq!((state(&found), found.pid), (ContainerState::Running, container.pid));
        denied(&mut olga, "c", "the main session's record").await;
        let refused = Wire::open(&mut olga, wire::view(main)).await;
        let refused = refused.err().expect("what it writes may be anything");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        stop(&mut olga, "c").await;
    });
    world.agent.finish();
}

#[test]
fn what_nobody_can_tell_of_is_left_alone() {
    let mut agent = Agent::start();
    let container = agent.api(async |mut api| api.run(sleeper("c")).await.expect("runs"));
    let main = the_process(container.pid);
    let stopped = Stopped::monitor_of(container.pid);
    agent.kill();
    let records = [
        format!("state/sessions/{}/session.json", container.session_id),
        format!("data/containers/{}/container.json", container.id),
    ];
    records.iter().for_each(|record| DAMAGES[0].1(&agent.path(record)));
    agent.restart();
    assert!(main.alive(), "it runs on");
    agent.api(async |mut api| {
        let refused = delete_stopped(&mut api, &container.id).await.expect_err("it runs");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    });
    assert!(main.alive(), "it runs on");
    drop(stopped);
    wait::until_true("it is told of again", || {
        agent.api(async |mut api| {
            let found = get_session(&mut api, &container.session_id).await;
            found.is_ok_and(|found| found.pid == container.pid)
        })
    });
    agent.api(async |mut api| {
        signal(&mut api, &container.session_id, "KILL").await.expect("it can be ended");
        api.delete(&container.id).await.expect("rm -f always works");
    });
    main.wait_gone();
    agent.finish();
}

#[test]
fn a_container_goes_on_whose_monitor_cannot_be_asked_because_its_socket_is_gone() {
    let mut agent = Agent::start();
    for damage in ["gone", "a file"] {
        let container = agent.api(async |mut api| api.run(sleeper("c")).await.expect("runs"));
        let main = the_process(container.pid);
        let socket = agent.path(&format!("state/sessions/{}/monitor.sock", container.session_id));
        agent.kill();
        fs::remove_file(&socket).expect("removed");
        if damage == "a file" {
            fs::write(&socket, "").expect("a file");
        }
        agent.restart();
        assert!(main.alive(), "{damage}: it runs on");
        agent.api(async |mut api| {
            let refused = delete_stopped(&mut api, &container.id).await.expect_err("it runs");
            assert_eq!(api::reason(&refused), "PROCESS_STUCK", "{damage}: {refused:?}");
            assert!(main.alive(), "{damage}: it runs on");
            api.delete(&container.id).await.expect("rm -f always works");
        });
        main.wait_gone();
    }
    agent.finish();
}

#[test]
fn the_end_of_a_session_with_a_damaged_record_is_in_the_audit_log() {
    let mut agent = Agent::start();
    let (lives, ends) = agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let lives = start(&mut api, "c", "sleep 100000").await.expect("starts");
        (lives, start(&mut api, "c", "sleep 100000").await.expect("starts"))
    });
    let monitor = the_process(monitor_of(ends.pid));
    agent.kill();
    kill(ends.pid, Signal::KILL);
    let left = agent.path(&format!("state/sessions/{}/end.json", ends.id));
    wait::until_true("its end is left", || left.exists());
    kill(monitor.pid, Signal::KILL);
    monitor.wait_gone();
    for id in [&lives.id, &ends.id] {
        DAMAGES[0].1(&agent.path(&format!("state/sessions/{id}/session.json")));
    }
    agent.restart();
    agent.api(async |mut api| signal(&mut api, &lives.id, "KILL").await.expect("it is there"));
    for id in [&lives.id, &ends.id] {
        wait::until_true("its end is in the log", || {
            let all = audit::entries(&agent);
            all.iter().any(|entry| entry["session"] == id.as_str() && entry["end"].is_object())
        });
    }
    // Whose it was nobody knows: it goes when a client was told of its end.
    agent.api(async |mut api| {
        let wire = Wire::open(&mut api, wire::attach(&ends.id, Some(0))).await;
        wire.expect("attaches").collect().await;
    });
    agent.finish();
}

#[test]
fn a_fifo_in_the_place_of_a_lock_is_told_and_keeps_nobody_waiting() {
    let mut agent = Agent::start();
    agent.ok(["ps"]);
    agent.kill();
    for name in ["state/lock", "data/lock"] {
        let path = agent.path(name);
        let replaced: [fn(&Path); 2] = [fifo, |path| symlink("/dev/zero", path).expect("a link")];
        for replace in replaced {
            fs::remove_file(&path).expect("removed");
            replace(&path);
            let (code, said) = ended(agent.command("contid.sock"));
            assert_ne!(code, 0, "{name}: {said}");
            assert!(said.contains(&*path.to_string_lossy()), "{name}: {said}");
        }
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "").expect("a file");
    }
    agent.restart();
    agent.finish();
}

#[test]
fn what_is_in_the_place_of_a_directory_of_the_agents_is_named_and_no_link_is_followed() {
    let mut agent = Agent::start();
    agent.kill();
    let names =
        ["state/sessions", "state/mounts", "state/host-view", "data/containers", "data/recordings"];
    let elsewhere = agent.path("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    let replaced: [&dyn Fn(&Path); 3] =
        [&|path| fs::write(path, "").expect("a file"), &fifo, &|path| {
            symlink(&elsewhere, path).expect("a link")
        }];
    for name in names {
        let (path, aside) = (agent.path(name), agent.path("aside"));
        fs::rename(&path, &aside).expect("moved");
        for replace in replaced {
            let _ = fs::remove_file(&path);
            replace(&path);
            let (code, said) = ended(agent.command("contid.sock"));
            assert_ne!(code, 0, "{name}: {said}");
            assert!(said.contains(&*path.to_string_lossy()), "{name}: {said}");
        }
        fs::remove_file(&path).expect("removed");
        fs::rename(&aside, &path).expect("moved back");
    }
    let written = fs::read_dir(&elsewhere).expect("there").count();
    assert_eq!(written, 0, "nothing is written through a link");
    agent.restart();
    agent.finish();
}

#[test]
fn a_damaged_host_view_is_made_anew_at_the_start_and_what_stands_on_the_old_one_goes_on() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    agent.kill();
    let mut templates = Vec::new();
    for dir in ["state/host-view", "data/host-view"] {
        let found = fs::read_dir(agent.path(dir)).into_iter().flatten();
        templates.extend(found.map(|one| one.expect("an entry").path()));
    }
    assert!(!templates.is_empty());
    for template in &templates {
        fs::remove_dir(template.join("usr")).expect("removed");
        fs::write(template.join("proc"), "").expect_err("it is a directory");
        fs::remove_dir(template.join("proc")).expect("removed");
        fs::write(template.join("proc"), "").expect("a file");
    }
    agent.restart();
    agent.ok(["run", "--rm", "--", "true"]);
    agent.ok(["exec", "c", "--", "true"]);
    assert!(agent.log().contains("the host view is not as it was made"), "it is told");
    agent.finish();
}

#[test]
fn a_fifo_in_the_place_of_another_file_keeps_no_agent_from_serving() {
    let mut agent = Agent::start();
    let (container, exec) = agent.api(async |mut api| {
        let container = api.run(sleeper("c")).await.expect("runs");
        (container, start(&mut api, "c", "sleep 100000").await.expect("starts"))
    });
    agent.ok(["mount", "c", "type=tmpfs,dst=/mnt"]);
    let main = fs::metadata(format!("/proc/{}/ns/mnt", container.pid)).expect("a namespace");
    let lock = std::os::unix::fs::MetadataExt::ino(&main);
    agent.kill();
    // There is one for each filesystem.
    let reserves = ["state", "data"].map(|dir| agent.path(dir).join(".conti-reserve"));
    let reserve: Vec<PathBuf> =
        reserves.iter().filter(|dir| dir.is_dir()).flat_map(|dir| files(dir, "0")).collect();
    let recording = agent.path(&format!("state/sessions/{}/recording", exec.id));
    let all = [
        agent.path("data/audit.key"),
        agent.path(&format!("state/sessions/{}/note", exec.id)),
        agent.path(&format!("state/sessions/{}/note", container.session_id)),
        agent.path(&format!("state/mounts/{lock}.lock")),
        agent.path("state/.conti"),
        recording,
    ];
    for path in all.iter().chain(&reserve) {
        fifo(path);
        agent.restart();
        agent.ok(["exec", "c", "--", "true"]);
        agent.ok(["mount", "c", "type=tmpfs,dst=/mnt"]);
        agent.kill();
    }
    // What a monitor leaves, and what was left.
    fifo(&agent.path(&format!("state/sessions/{}/end.json.new", exec.id)));
    fifo(&agent.path(&format!("state/sessions/{}/end.json", exec.id)));
    fifo(&agent.path(&format!("state/sessions/{}/journal", exec.id)));
    agent.restart();
    agent.api(async |mut api| {
        signal(&mut api, &exec.id, "KILL").await.expect("it is there");
        let request = WaitSessionRequest { session_id: exec.id.clone() };
        let end = api.sessions.wait_session(request).await.expect("waited").into_inner().end;
        assert_eq!(end_signal(&end.expect("an end")), 9);
    });
    agent.finish();
}

#[test]
fn a_fifo_in_the_place_of_what_was_left_of_a_session_keeps_no_agent_from_serving() {
    let mut agent = Agent::start();
    let ended = agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        start(&mut api, "c", "trap 'echo x; exit' TERM; while :; do sleep 0.01; done").await
    });
    let ended = ended.expect("starts");
    let monitor = the_process(monitor_of(ended.pid));
    agent.kill();
    kill(ended.pid, Signal::TERM);
    let dir = agent.path(&format!("state/sessions/{}", ended.id));
    wait::until_true("its end is left", || dir.join("end.json").exists());
    // It would tell the end itself.
    kill(monitor.pid, Signal::KILL);
    monitor.wait_gone();
    fifo(&dir.join("journal"));
    fifo(&dir.join("end.json"));
    agent.restart();
    agent.api(async |mut api| {
        let found = get_session(&mut api, &ended.id).await.expect("it is there");
        assert_eq!(found.state(), SessionState::Ended);
    });
    agent.ok(["exec", "c", "--", "true"]);
    agent.finish();
}

/// What lies below it is neither seen nor touched, and is there again when the mount is gone.
#[test]
fn a_container_on_whose_directory_something_is_mounted_is_kept_and_can_be_deleted_later() {
    let mut agent = Agent::start();
    let id = agent.ok(["create", "--name", "c", "--", "true"]).trim().to_owned();
    agent.ok(["stop", "c"]);
    let dir = agent.path("data/containers").join(&id);
    // Of the same filesystem.
    let mount = HostMount::bind(&agent.scratch("others"), &dir);
    fs::create_dir(dir.join("layers")).expect("a directory");
    fs::write(dir.join("layers/others"), "").expect("a file");
    let said = agent.ctl(["rm", "c"]).run().errors();
    assert!(said.contains(&dir.display().to_string()), "{said}");
    for is_empty in [false, true] {
        agent.kill();
        if is_empty {
            fs::remove_dir_all(dir.join("layers")).expect("removed");
        }
        agent.restart();
        assert!(agent.ok(["ps", "-aq"]).contains(&id[..12]), "it is there: {is_empty}");
        assert_eq!(dir.join("layers/others").exists(), !is_empty, "what others have stays");
    }
    drop(mount);
    agent.kill();
    agent.restart();
    agent.ok(["rm", "c"]);
    assert_eq!(agent.ok(["ps", "-aq"]), "");
    agent.finish();
}
