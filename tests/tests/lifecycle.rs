//! Containers from create to delete: states, names, labels, pages, and calls that are repeated.

use std::{collections::BTreeSet, time::Duration};

use conti_proto::v1::{
    ContainerSpec, ContainerState, CreateContainerRequest, DeleteContainerRequest,
    KillContainerRequest, ListContainersRequest, ListSessionsRequest, SessionState,
    StartContainerRequest, StartSessionRequest, StopContainerRequest, WaitContainerRequest,
};
use conti_tests::{
    Agent,
    api::{Api, container, end_signal, exit_code, process, reason, session, shell, sleeper, state},
    wait,
};
use tonic::Code;

/// Seconds as the API carries them.
fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

#[test]
fn a_created_container_waits_before_its_command_until_it_is_started() {
    let agent = Agent::start();
    let file = agent.scratch("ran");
    agent.api(async |mut api| {
        let mut spec = container("c", shell("echo yes > /out/ran; exec sleep 1000"));
        let mut mount = conti_tests::api::bind(&agent.scratch(""), "/out");
        mount.read_only = false;
        spec.mounts.push(mount);
        let made = api.create(spec).await.expect("created");
        assert_eq!(state(&made), ContainerState::Created);
        assert_eq!(made.id.len(), 32);
        assert!(made.pid > 0, "the process is there, paused: {made:?}");
        assert!(made.start_time.is_none() && made.end.is_none());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!file.exists(), "the command must not have run");

        let request = StartContainerRequest { container: "c".into(), ..Default::default() };
        let started = api.containers.start_container(request).await.expect("started").into_inner();
        let started = started.container.expect("a container");
        assert_eq!(state(&started), ContainerState::Running);
        assert_eq!(started.pid, made.pid);
        assert!(started.start_time.is_some());
    });
    wait::until_true("the command has run", || file.exists());
    agent.finish();
}

#[test]
fn wait_returns_the_end_and_the_container_stays_until_it_is_deleted() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(container("c", shell("sleep 0.2; exit 7"))).await.expect("runs");
        let request = WaitContainerRequest { container: "c".into() };
        let end = api.containers.wait_container(request.clone()).await.expect("waited");
        assert_eq!(exit_code(&end.into_inner().end.expect("an end")), 7);
        let stopped = api.get("c").await.expect("still there");
        assert_eq!(state(&stopped), ContainerState::Stopped);
        assert_eq!(stopped.pid, 0);
        assert_eq!(exit_code(&stopped.end.expect("its end is known")), 7);
        assert!(stopped.end_time.is_some());
        // Waiting for what has ended returns at once.
        api.containers.wait_container(request).await.expect("waited again");
    });
    assert_eq!(agent.ctl(["wait", "c"]).run().exits(7).text(), "7");
    agent.finish();
}

#[test]
fn stop_sends_the_signal_and_lets_the_process_end_by_itself() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let script = "trap 'exit 42' TERM; while :; do sleep 0.05; done";
        api.run(container("c", shell(script))).await.expect("runs");
        // The trap must be set before the signal comes.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let request = StopContainerRequest {
            container: "c".into(),
            grace: Some(seconds(50)),
            ..Default::default()
        };
        let answer = api.containers.stop_container(request.clone()).await.expect("stopped");
        let stopped = answer.into_inner().container.expect("a container");
        assert_eq!(state(&stopped), ContainerState::Stopped);
        assert_eq!(exit_code(&stopped.end.expect("an end")), 42);
        api.containers.stop_container(request).await.expect("stopping twice is no error");
    });
    agent.finish();
}

#[test]
fn stop_kills_everything_inside_when_the_grace_has_passed() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        // PID 1 of a pid namespace ignores a SIGTERM that it has no handler for.
        let script = "trap '' TERM; sleep 1000 & sleep 1000 & wait; wait";
        let made = api.run(container("c", shell(script))).await.expect("runs");
        let request = StopContainerRequest {
            container: "c".into(),
            grace: Some(seconds(1)),
            ..Default::default()
        };
        let answer = api.containers.stop_container(request).await.expect("stopped");
        let stopped = answer.into_inner().container.expect("a container");
        assert_eq!(end_signal(&stopped.end.expect("an end")), 9);
        assert!(conti_tests::host::pinned(made.pid).is_none(), "its process is gone");
    });
    agent.finish();
}

#[test]
fn stop_with_no_grace_kills_at_once() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let request = StopContainerRequest {
            container: "c".into(),
            grace: Some(seconds(0)),
            ..Default::default()
        };
        let answer = api.containers.stop_container(request).await.expect("stopped");
        let end = answer.into_inner().container.expect("a container").end.expect("an end");
        assert_eq!(end_signal(&end), 9);
    });
    agent.finish();
}

/// Each has its grace, and none that of another.
#[test]
fn several_are_stopped_at_once_and_what_fails_is_told_of_its_own() {
    let agent = Agent::start();
    // Each goes on until it has seen that the other was told to stop as well.
    let dir = agent.scratch("seen");
    std::fs::create_dir(&dir).expect("a directory");
    let volume = format!("{}:/seen", dir.display());
    for (name, other) in [("a", "b"), ("b", "a")] {
        let script = format!(
            "trap 'touch /seen/{name}; until [ -e /seen/{other} ]; do sleep 0.01; done; exit 3' TERM; \
             touch /seen/{name}.ready; while :; do sleep 0.01; done"
        );
        agent.ok(["run", "-d", "--name", name, "-v", &volume, "--", "sh", "-c", &script]);
    }
    wait::until_true("both hear", || {
        ["a.ready", "b.ready"].iter().all(|name| dir.join(name).exists())
    });
    let told = agent.ctl(["stop", "-t", "100", "a", "nonesuch", "b"]).run().exits(125).errors();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("there is no container \"nonesuch\""), "{told}");
    for name in ["a", "b"] {
        agent.ctl(["wait", name]).run().exits(3);
    }
    agent.ok(["rm", "a", "b"]);
    agent.finish();
}

#[test]
fn kill_sends_a_signal_by_name_or_number_and_defaults_to_sigkill() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        for (name, signal, expected) in
            [("c1", "SIGUSR1", 10), ("c2", "usr2", 12), ("c3", "15", 15), ("c4", "", 9)]
        {
            // With a reaper as PID 1 the command itself has default signal handling.
            let mut spec = sleeper(name);
            spec.init = true;
            api.run(spec).await.expect("runs");
            tokio::time::sleep(Duration::from_millis(200)).await;
            let request = KillContainerRequest { container: name.into(), signal: signal.into() };
            api.containers.kill_container(request).await.expect("signalled");
            let request = WaitContainerRequest { container: name.into() };
            let end = api.containers.wait_container(request).await.expect("waited").into_inner();
            let end = end.end.expect("an end");
            // A reaper cannot die of its child's signal: it hands it on as 128+n.
            let got = match end.reason {
                Some(conti_proto::v1::session_end::Reason::ExitCode(code)) => code - 128,
                _ => end_signal(&end),
            };
            assert_eq!(got, expected, "{signal:?} gave {end:?}");
        }
    });
    agent.finish();
}

#[test]
fn a_name_that_is_the_beginning_of_the_id_of_another_hides_neither() {
    let agent = Agent::start();
    let id = agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    for length in [4, 12, 31] {
        let name = &id[..length];
        assert_eq!(agent.ok(["exec", name, "--", "cat", "/proc/sys/kernel/hostname"]), id[..12]);
        let other = agent.ok(["run", "-d", "--name", name, "--", "sleep", "1000"]);
        let refused = agent.ctl(["exec", name, "--", "true"]).run().exits(125);
        assert!(refused.errors().contains("more than one"), "{refused:?}");
        for id in [&id, &other] {
            let host_name = agent.ok(["exec", id, "--", "cat", "/proc/sys/kernel/hostname"]);
            assert_eq!(host_name, id[..12]);
        }
        agent.ok(["rm", "-f", &other]);
    }
    // So short it stands for no id.
    agent.ok(["create", "--name", &id[..3], "--", "true"]);
    agent.ok(["rm", &id[..3]]);
    let name = &id[..4];
    agent.ok(["run", "-d", "--name", name, "--", "sleep", "1000"]);
    agent.ok(["rm", "-f", "c"]);
    agent.ok(["exec", name, "--", "true"]);
    agent.finish();
}

#[test]
fn a_name_can_be_taken_once_and_is_free_again_after_delete() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let first = api.create(sleeper("web")).await.expect("created");
        let error = api.create(sleeper("web")).await.expect_err("the name is taken");
        assert_eq!(error.code(), Code::AlreadyExists);
        assert_eq!(reason(&error), "NAME_TAKEN");
        assert!(error.message().contains("web") && error.message().contains(&first.id));
        assert_eq!(api.list().await.len(), 1);
        api.delete("web").await.expect("deleted");
        api.create(sleeper("web")).await.expect("the name is free again");
    });
    agent.finish();
}

#[test]
fn containers_are_found_by_id_by_prefix_and_by_name() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let made = api.create(sleeper("")).await.expect("created");
        assert!(!made.name.is_empty(), "the agent makes a name");
        for key in [made.id.as_str(), &made.id[..4], &made.id[..12], &made.name] {
            assert_eq!(api.get(key).await.expect("found").id, made.id, "by {key}");
        }
        let error = api.get(&made.id[..3]).await.expect_err("three characters are too few");
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.message().contains("at least 4 characters"), "{error:?}");
        let other = api.get("no").await.expect_err("it is no beginning of an id");
        assert!(!other.message().contains("characters"), "{other:?}");
    });
    agent.finish();
}

#[test]
fn what_is_not_removed_is_named_once_and_what_would_remove_it_as_it_is_typed() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "busy", "--", "sleep", "1000"]);
    let said = agent.ctl(["rm", "busy", "nope"]).run().exits(125).errors();
    assert_eq!(said.matches("nope").count(), 1, "{said}");
    assert_eq!(said.matches("busy").count(), 1, "{said}");
    assert!(said.contains("`contictl rm --force`"), "{said}");
    agent.ok(["rm", "--force", "busy"]);
    agent.finish();
}

#[test]
fn a_repeated_create_with_the_same_request_id_makes_one_container() {
    let agent = Agent::start();
    agent.api(async |api| {
        let request = CreateContainerRequest {
            spec: Some(sleeper("")),
            request_id: "request-1".into(),
            start: true,
        };
        let call = |mut api: conti_tests::api::Api, request| async move {
            let answer = api.containers.create_container(request).await.expect("created");
            answer.into_inner().container.expect("a container").id
        };
        let (a, b) =
            tokio::join!(call(api.clone(), request.clone()), call(api.clone(), request.clone()));
        let c = call(api.clone(), request.clone()).await;
        assert_eq!(BTreeSet::from([&a, &b, &c]).len(), 1, "all calls give the same container");
        assert_eq!(api.clone().list().await.len(), 1);
        let other = CreateContainerRequest { request_id: "request-2".into(), ..request };
        assert_ne!(call(api, other).await, a);
    });
    agent.finish();
}

#[test]
fn a_repeated_start_with_the_same_request_id_is_one_start() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.create(sleeper("c")).await.expect("created");
        let request = StartContainerRequest { container: "c".into(), request_id: "s-1".into() };
        let first = api.containers.start_container(request.clone()).await.expect("started");
        let again = api.containers.start_container(request).await.expect("the same start");
        let pid = |answer: &tonic::Response<conti_proto::v1::StartContainerResponse>| {
            answer.get_ref().container.as_ref().expect("a container").pid
        };
        assert_eq!(pid(&first), pid(&again));
        let other = StartContainerRequest { container: "c".into(), request_id: "s-2".into() };
        let error = api.containers.start_container(other).await.expect_err("it runs already");
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert_eq!(reason(&error), "CONTAINER_WRONG_STATE");
    });
    agent.finish();
}

#[test]
fn a_stopped_container_starts_again_on_the_layer_it_wrote() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let script = "cat /var/tmp/count 2>/dev/null; echo x >> /var/tmp/count";
        let made = api.run(container("c", shell(script))).await.expect("runs");
        for round in 0..3_u64 {
            if round > 0 {
                let request = StartContainerRequest { container: "c".into(), ..Default::default() };
                api.containers.start_container(request).await.expect("started again");
            }
            let request = WaitContainerRequest { container: "c".into() };
            let end = api.containers.wait_container(request).await.expect("waited").into_inner();
            let end = end.end.expect("an end");
            assert_eq!(exit_code(&end), 0);
            assert_eq!(end.stdout_bytes, 2 * round, "what the rounds before wrote is there");
        }
        assert_eq!(api.get("c").await.expect("there").id, made.id);
    });
    agent.finish();
}

#[test]
fn delete_refuses_a_running_container_unless_forced_and_is_idempotent_when_asked() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut request = DeleteContainerRequest { container: "c".into(), ..Default::default() };
        let error = api.containers.delete_container(request.clone()).await.expect_err("it runs");
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert_eq!(reason(&error), "CONTAINER_WRONG_STATE");
        request.force = true;
        api.containers.delete_container(request.clone()).await.expect("deleted");
        let error = api.containers.delete_container(request.clone()).await.expect_err("gone");
        assert_eq!(error.code(), Code::NotFound);
        assert_eq!(reason(&error), "CONTAINER_NOT_FOUND");
        request.allow_missing = true;
        api.containers.delete_container(request).await.expect("missing is allowed");
    });
    agent.finish();
}

#[test]
fn a_created_container_can_be_deleted_without_ever_running() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.create(sleeper("c")).await.expect("created");
        let request = DeleteContainerRequest { container: "c".into(), ..Default::default() };
        api.containers.delete_container(request).await.expect("deleted");
        assert!(api.list().await.is_empty());
    });
    agent.finish();
}

#[test]
fn a_created_container_that_is_stopped_was_killed_by_a_client() {
    let agent = Agent::start();
    agent.ok(["create", "--name", "c", "--", "sleep", "1000"]);
    agent.ok(["stop", "c"]);
    let ended = agent.ctl(["wait", "c"]).run().exits(137).errors();
    assert_eq!(ended.trim(), "contictl: the command was killed by a client");
    agent.ok(["rm", "c"]);
    agent.ok(["create", "--rm", "--name", "c", "--", "sleep", "1000"]);
    agent.ok(["stop", "c"]);
    agent.ok(["create", "--rm", "--name", "d", "--", "nonesuch"]);
    agent.ctl(["start", "d"]).run().exits(127);
    assert_eq!(agent.ok(["ps", "-a", "-q"]), "");
    agent.finish();
}

#[test]
fn auto_remove_deletes_the_container_after_its_end() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut spec = container("c", process(["true"]));
        spec.auto_remove = true;
        api.run(spec).await.expect("runs");
    });
    wait::until_true("the container is gone", || {
        agent.api(async |mut api| api.list().await.is_empty())
    });
    agent.finish();
}

#[test]
fn lists_are_filtered_by_label_and_state_and_come_in_pages() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut ids = Vec::new();
        for n in 0..7 {
            let mut spec = sleeper(&format!("c{n}"));
            spec.labels.insert("parity".into(), ["even", "odd"][n % 2].into());
            if n == 3 {
                spec.labels.insert("special".into(), "".into());
            }
            let made = if n < 5 { api.create(spec).await } else { api.run(spec).await };
            ids.push(made.expect("made").id);
        }
        let mut names = async |request: ListContainersRequest| {
            let answer = api.containers.list_containers(request).await.expect("listed");
            let answer = answer.into_inner();
            let names: Vec<String> = answer.containers.iter().map(|c| c.name.clone()).collect();
            (names, answer.next_page_token)
        };
        let label = |k: &str, v: &str| std::iter::once((k.to_owned(), v.to_owned())).collect();

        let odd = ListContainersRequest { labels: label("parity", "odd"), ..Default::default() };
        assert_eq!(names(odd).await.0, ["c1", "c3", "c5"]);
        let any = ListContainersRequest { labels: label("special", ""), ..Default::default() };
        assert_eq!(names(any).await.0, ["c3"]);
        let running = ListContainersRequest {
            states: vec![ContainerState::Running as i32],
            ..Default::default()
        };
        assert_eq!(names(running).await.0, ["c5", "c6"]);

        let mut page = ListContainersRequest { page_size: 3, ..Default::default() };
        let mut seen = Vec::new();
        loop {
            let (names, token) = names(page.clone()).await;
            assert!(names.len() <= 3);
            seen.extend(names);
            if token.is_empty() {
                break;
            }
            page.page_token = token;
        }
        assert_eq!(seen, ["c0", "c1", "c2", "c3", "c4", "c5", "c6"], "oldest first, each once");
    });
    agent.finish();
}

#[test]
fn the_client_shows_what_is_there() {
    let agent = Agent::start();
    let id = agent.ok(["create", "--name", "made", "-l", "k=v", "--", "sleep", "1000"]);
    assert_eq!(id.len(), 32, "create prints the id: {id}");
    agent.ok(["run", "-d", "--name", "runs", "--", "sleep", "1000"]);
    let shown = agent.ok(["ps"]);
    assert!(shown.contains("runs") && !shown.contains("made"), "ps shows what runs:\n{shown}");
    let shown = agent.ok(["ps", "-a"]);
    assert!(shown.contains("runs") && shown.contains("made"), "ps -a shows all:\n{shown}");
    let text = agent.ctl(["ps", "-a", "-o", "json"]).run().success().json().to_string();
    assert!(text.contains(&id) && text.contains("running") && text.contains("created"), "{text}");
    let text = agent.ctl(["inspect", "made"]).run().success().json().to_string();
    assert!(text.contains(&id) && text.contains("\"k\":\"v\""), "{text}");
    let text = agent.ctl(["info", "-o", "json"]).run().success().json().to_string();
    assert!(text.contains("kernel_release") && text.contains("cgroup"), "{text}");
    assert!(agent.ok(["version"]).contains(env!("CARGO_PKG_VERSION")));
    assert!(agent.ok(["sessions"]).contains("sleep"));
    agent.ok(["start", "made"]);
    agent.ok(["stop", "-t", "0", "made"]);
    agent.ok(["rm", "made"]);
    agent.ok(["rm", "-f", "runs"]);
    assert!(agent.ctl(["ps", "-a", "-q"]).run().success().stdout.is_empty());
    agent.finish();
}

#[test]
fn containers_stay_when_the_agent_stops() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    let before = agent.api(async |mut api| api.get("c").await.expect("there").pid);
    assert!(agent.terminate().success());
    assert!(conti_tests::host::pinned(before).is_some(), "its process goes on");
    agent.restart();
    let after = agent.api(async |mut api| api.get("c").await.expect("there"));
    assert_eq!((state(&after), after.pid), (ContainerState::Running, before));
    agent.finish();
}

/// The agent waits before it answers, so that what was made has gone by then.
fn late(point: &str) -> Agent {
    let delay = format!("CONTI_TEST_DELAYS={point}=1000");
    Agent::start_behind(|_| ["env".to_owned(), delay].map(Into::into).to_vec())
}

#[test]
fn a_container_that_removes_itself_at_once_was_made_all_the_same() {
    let agent = late("create.made");
    agent.api(async |api| {
        let create = |n: usize| {
            let (mut api, name) = (api.clone(), format!("c{n}"));
            tokio::spawn(async move {
                let spec = Some(ContainerSpec {
                    auto_remove: true,
                    ..container(&name, process(["true"]))
                });
                let request = CreateContainerRequest { spec, start: true, ..Default::default() };
                api.containers.create_container(request).await
            })
        };
        let calls: Vec<_> = (0..10).map(create).collect();
        for (n, call) in calls.into_iter().enumerate() {
            let made = call.await.expect("no panic").expect("it was made").into_inner();
            assert_eq!(
                made.container.expect("a container").spec.expect("one").name,
                format!("c{n}")
            );
        }
    });
    agent.finish();
}

/// How many sessions run.
async fn running(api: &mut Api) -> usize {
    let states = vec![SessionState::Running.into()];
    let request = ListSessionsRequest { page_size: 1000, states, ..Default::default() };
    let sessions = api.sessions.list_sessions(request).await.expect("a list").into_inner();
    sessions.sessions.len()
}

#[test]
fn a_session_whose_container_is_removed_at_once_was_started_all_the_same() {
    let agent = late("enter.started");
    agent.api(async |mut api| {
        for _ in 0..5 {
            api.run(sleeper("c")).await.expect("it runs");
            let mut other = api.clone();
            let start = tokio::spawn(async move {
                let spec = Some(session("c", process(["sleep", "100000"])));
                let request = StartSessionRequest { spec, ..Default::default() };
                other.sessions.start_session(request).await
            });
            // The main session, and this one.
            while running(&mut api).await < 2 && !start.is_finished() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            api.delete("c").await.expect("it is removed");
            start.await.expect("no panic").expect("it was started");
        }
    });
    agent.finish();
}

#[test]
fn a_command_whose_container_ends_meanwhile_is_told_of_that() {
    // Each step waits a little, so that the end comes between any two of them.
    let agent = Agent::start_behind(|_| ["env", "CONTI_TEST_DELAYS=10"].map(Into::into).to_vec());
    agent.api(async |mut api| {
        for _ in 0..20 {
            let made = api.run(sleeper("c")).await.expect("it runs");
            let start = |_| {
                let mut api = api.clone();
                tokio::spawn(async move {
                    let spec = Some(session("c", process(["sleep", "1000"])));
                    let request = StartSessionRequest { spec, ..Default::default() };
                    api.sessions.start_session(request).await
                })
            };
            let starts: Vec<_> = (0..12).map(start).collect();
            api.delete("c").await.expect("it is removed");
            for start in starts {
                let Err(refused) = start.await.expect("no panic") else { continue };
                let said = refused.message();
                assert!(said.contains("\"c\"") || said.contains(&made.id), "{refused:?}");
            }
        }
    });
    agent.finish();
}

#[test]
fn a_container_that_is_stopped_has_no_pid() {
    let agent = late("end.told");
    agent.api(async |mut api| {
        for round in 0..5 {
            let name = format!("c{round}");
            api.run(sleeper(&name)).await.expect("runs");
            let name_too = name.clone();
            let kill = agent.ctl(["kill", "-s", "KILL", &name_too]).spawn();
            loop {
                let container = api.get(&name).await.expect("there");
                if state(&container) == ContainerState::Stopped {
                    assert_eq!(container.pid, 0);
                    break;
                }
                assert_ne!(container.pid, 0, "it runs");
            }
            kill.wait();
        }
    });
    agent.finish();
}
