//! The agent dies at any moment, and what it had started goes on.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::Stdio,
    thread,
    time::Duration,
};

use conti_proto::v1::{
    ContainerState, DisconnectPolicy, SessionPolicy, WaitContainerRequest, WaitSessionRequest,
};
use conti_tests::{
    Agent,
    api::{exit_code, process, session, shell, sleeper, state},
    host,
    pattern::Pattern,
    rootfs, wait,
    wire::{self, Wire},
};

#[test]
fn containers_and_their_processes_survive_a_killed_agent() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--name", "runs", "-l", "a=b", "--", "sleep", "100000"]);
    agent.ok(["create", "--name", "waits", "--", "sh", "-c", "exit 12"]);
    agent.ok(["run", "-d", "--name", "ended", "--", "sh", "-c", "exit 11"]);
    agent.ctl(["wait", "ended"]).run().exits(11);
    let before = agent.api(async |mut api| api.list().await);
    agent.kill();
    agent.restart();
    agent.api(async |mut api| {
        let after = api.list().await;
        assert_eq!(after, before, "the new agent knows what the old one knew");
        assert_eq!(state(&api.get("runs").await.expect("there")), ContainerState::Running);
    });
    agent.ctl(["exec", "runs", "--", "sh", "-c", "exit 13"]).run().exits(13);
    agent.ok(["start", "waits"]);
    assert_eq!(agent.ctl(["wait", "waits"]).run().exits(12).text(), "12");
    assert_eq!(agent.ctl(["wait", "ended"]).run().exits(11).text(), "11");
    agent.finish();
}

#[test]
fn an_end_while_the_agent_is_down_is_known_exactly() {
    let mut agent = Agent::start();
    let session_id = agent.api(async |mut api| {
        api.run(conti_tests::api::container("c", shell("sleep 1; echo bye; exit 21")))
            .await
            .expect("runs");
        api.run(sleeper("d")).await.expect("runs");
        let spec = session("d", shell("sleep 1; echo gone; kill -TERM $$"));
        let request =
            conti_proto::v1::StartSessionRequest { spec: Some(spec), ..Default::default() };
        let started = api.sessions.start_session(request).await.expect("started").into_inner();
        started.session.expect("a session").id
    });
    agent.kill();
    thread::sleep(Duration::from_millis(2500));
    agent.restart();
    agent.api(async |mut api| {
        let request = WaitContainerRequest { container: "c".into() };
        let end = api.containers.wait_container(request).await.expect("waited").into_inner().end;
        let end = end.expect("an end");
        assert_eq!((exit_code(&end), end.stdout_bytes), (21, 4));
        let main = api.get("c").await.expect("there").session_id;
        let wire = Wire::open(&mut api, wire::attach(&main, Some(0))).await.expect("attaches");
        assert_eq!(wire.collect().await.stdout, b"bye\n", "what it wrote meanwhile is there");

        let request = WaitSessionRequest { session_id: session_id.clone() };
        let end = api.sessions.wait_session(request).await.expect("waited").into_inner().end;
        assert_eq!(conti_tests::api::end_signal(&end.expect("an end")), 15);
        let wire =
            Wire::open(&mut api, wire::attach(&session_id, Some(0))).await.expect("attaches");
        assert_eq!(wire.collect().await.stdout, b"gone\n");
    });
    agent.finish();
}

#[test]
fn how_a_start_failed_is_known_to_the_next_agent() {
    let mut agent = Agent::start();
    agent.ok(["create", "--name", "never", "--", "nonesuch"]);
    agent.ctl(["start", "never"]).run().exits(127);
    // One that ran before keeps the end that it had.
    let dir = agent.scratch("root");
    rootfs::build(&dir);
    let root = format!("dir:{}", dir.display());
    agent.ok(["run", "-d", "--name", "once", "--rootfs", &root, "--", "sh", "-c", "exit 7"]);
    agent.ctl(["wait", "once"]).run().exits(7);
    fs::remove_file(dir.join("bin/sh")).expect("its command");
    let known = |agent: &Agent| {
        for (name, code) in [("never", 127), ("once", 7)] {
            let told = agent.ctl(["wait", name]).run().exits(code).errors();
            assert_eq!(told.contains("could not find the command"), code == 127, "{told}");
        }
        let listed = agent.ok(["ps", "-a"]);
        assert!(listed.contains("start failed") && listed.contains("exit 7"), "{listed}");
    };
    for _ in 0..2 {
        known(&agent);
        agent.ctl(["start", "never"]).run().exits(127);
        agent.ctl(["start", "once"]).run().exits(127);
        known(&agent);
        agent.terminate();
        agent.restart();
    }
    known(&agent);
    agent.ok(["rm", "never", "once"]);
    agent.finish();
}

#[test]
fn a_stream_resumes_byte_by_byte_after_the_agent_was_killed() {
    let mut agent = Agent::start();
    let keep =
        SessionPolicy { disconnect_policy: DisconnectPolicy::Keep as i32, ..Default::default() };
    let mut sent = Pattern::new(5);
    let mut received = Pattern::new(5);
    let id = agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut spec = session("c", process(["cat"]));
        spec.process.as_mut().expect("a process").stdin = true;
        spec.policy = Some(keep);
        let mut wire = Wire::open(&mut api, wire::start(spec)).await.expect("starts");
        wire.write(sent.take(100_000)).await;
        while received.offset() < 60_000 {
            let output = wire.output().await;
            received.check(&output.data);
        }
        wire.session().id.clone()
    });
    for _ in 0..3 {
        agent.kill();
        agent.restart();
        agent.api(async |mut api| {
            let open = wire::attach(&id, Some(received.offset()));
            let mut wire = Wire::open(&mut api, open).await.expect("resumes");
            assert_eq!(wire.opened.output_offset, received.offset());
            let taken = wire.opened.input_offset;
            let mut again = Pattern::new(5);
            again.take(taken as usize);
            let missing = again.take((sent.offset() - taken) as usize);
            if !missing.is_empty() {
                wire.write(missing).await;
            }
            wire.write(sent.take(100_000)).await;
            while received.offset() < sent.offset() - 10_000 {
                let output = wire.output().await;
                assert_eq!(output.offset, received.offset());
                received.check(&output.data);
            }
        });
    }
    agent.api(async |mut api| {
        let wire = Wire::open(&mut api, wire::attach(&id, Some(received.offset()))).await;
        let wire = wire.expect("resumes");
        assert_eq!(wire.opened.input_offset, sent.offset());
        let mut wire = wire;
        wire.write("").await;
        wire.close_input().await;
        let all = wire.collect().await;
        received.check(&all.stdout);
        assert_eq!(received.offset(), sent.offset());
        assert_eq!(exit_code(&all.end), 0);
    });
    agent.finish();
}

#[test]
fn the_client_reconnects_by_itself_and_loses_nothing() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let args = ["exec", "-i", "--disconnect", "keep", "c", "--", "cat"];
    let mut client = agent.ctl(args).spawn();
    let mut stdin = client.stdin();
    let mut stdout = client.stdout();
    let total = 24 << 20;
    let writer = thread::spawn(move || {
        let mut pattern = Pattern::new(6);
        while pattern.offset() < total {
            stdin.write_all(&pattern.take(64 * 1024)).expect("stdin takes all");
            thread::sleep(Duration::from_millis(2));
        }
    });
    let mut pattern = Pattern::new(6);
    let mut buffer = vec![0; 64 * 1024];
    let mut kills = 0;
    loop {
        let n = stdout.read(&mut buffer).expect("stdout can be read");
        if n == 0 {
            break;
        }
        pattern.check(&buffer[..n]);
        if pattern.offset() > (kills + 1) * (total / 4) && kills < 3 {
            kills += 1;
            agent.kill();
            agent.restart();
        }
    }
    writer.join().expect("the writer ends");
    assert_eq!((pattern.offset(), kills), (total, 3));
    let note = client.stderr_text();
    assert!(!note.is_empty(), "the client says that it reconnected");
    assert_eq!(client.wait(), 0);
    agent.finish();
}

#[test]
fn a_command_that_ends_while_the_client_reconnects_gives_its_code() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let script = "echo before; sleep 1.5; echo after; exit 23";
    let args = ["exec", "--disconnect", "keep", "c", "--", "sh", "-c", script];
    let mut client = agent.ctl(args).spawn();
    let mut stdout = client.stdout();
    stdout.read_exact(&mut [0; 7]).expect("before");
    agent.kill();
    thread::sleep(Duration::from_secs(3));
    agent.restart();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("after");
    assert_eq!(rest, "after\n");
    assert_eq!(client.wait(), 23);
    agent.finish();
}

#[test]
fn a_container_that_removes_itself_does_so_after_an_end_while_the_agent_was_down() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--rm", "--name", "c", "--", "sleep", "1"]);
    agent.kill();
    thread::sleep(Duration::from_secs(2));
    agent.restart();
    wait::until_true("the container is gone", || {
        agent.api(async |mut api| api.list().await.is_empty())
    });
    agent.finish();
}

#[test]
fn a_second_agent_on_the_same_directories_is_refused() {
    let agent = Agent::start();
    let output = agent.command("second.sock").output().expect("contid can be started");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    let state = agent.path("state").display().to_string();
    let data = agent.path("data").display().to_string();
    assert!(said.contains(&state) || said.contains(&data), "it says which directory: {said}");
    agent.ok(["ps"]);
    agent.finish();
}

#[test]
fn two_agents_with_their_own_directories_do_not_see_each_other() {
    let (one, two) = (Agent::start(), Agent::start());
    one.ok(["run", "-d", "--name", "same", "--", "sleep", "1000"]);
    two.ok(["run", "-d", "--name", "same", "--", "sleep", "1000"]);
    assert_ne!(one.ok(["ps", "-q"]), two.ok(["ps", "-q"]));
    two.finish();
    one.ctl(["exec", "same", "--", "true"]).run().exits(0);
    one.finish();
}

#[test]
fn a_stale_socket_is_replaced() {
    let mut agent = Agent::start();
    agent.kill();
    assert!(agent.path("contid.sock").exists(), "a killed agent leaves its socket");
    agent.restart();
    agent.finish();
}

#[test]
fn a_damaged_record_quarantines_its_own_container_alone() {
    let mut agent = Agent::start();
    let id = agent.ok(["create", "--name", "broken", "--", "sleep", "1000"]);
    agent.ok(["run", "-d", "--name", "whole", "--", "sleep", "1000"]);
    agent.kill();
    let mut damaged = 0;
    for place in ["state", "data"] {
        damaged += damage(&agent.path(place), &id);
    }
    assert!(damaged > 0, "the container has records");
    agent.restart();
    agent.ctl(["exec", "whole", "--", "true"]).run().exits(0);
    agent.api(async |mut api| {
        let broken = api.get(&id).await.expect("it is still shown");
        assert_eq!(state(&broken), ContainerState::Quarantined);
        assert!(!broken.warnings.is_empty(), "it says what was found");
        api.delete(&id).await.expect("rm always works");
    });
    agent.finish();
}

/// Cuts all records of a container short; returns how many.
fn damage(dir: &std::path::Path, id: &str) -> usize {
    let mut cut = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            cut += damage(&path, id);
        } else if path.to_string_lossy().contains(id)
            && path.extension().is_some_and(|e| e == "json")
            && fs::write(&path, "{\"id\": \"").is_ok()
        {
            cut += 1;
        }
    }
    cut
}

#[test]
fn killing_the_agent_again_and_again_in_the_middle_of_things_leaks_nothing() {
    let mut agent = Agent::start();
    for round in 0..5 {
        let name = format!("c{round}");
        let mut clients = Vec::new();
        for n in 0..4 {
            let name = format!("{name}-{n}");
            clients
                .push(agent.ctl(["run", "-d", "--name", &name, "--", "sleep", "100000"]).spawn());
        }
        thread::sleep(Duration::from_millis(15 * round));
        agent.kill();
        drop(clients);
        agent.restart();
        agent.watch();
        agent.api(async |mut api| {
            for container in api.list().await {
                api.delete(&container.id).await.expect("deleted");
            }
        });
    }
    wait::until_true("no process of a container is left", || {
        let state = agent.path("state").display().to_string();
        host::mentioning(&state).len() < 12
    });
    agent.finish();
}

/// As an older agent does in between, which cannot read the record.
#[test]
fn a_container_whose_name_was_given_to_another_meanwhile_is_called_by_its_id() {
    let mut agent = Agent::start();
    let first = agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]).trim().to_owned();
    let record = agent.path("data/containers").join(&first).join("container.json");
    agent.kill();
    let text = fs::read_to_string(&record).expect("its record");
    let newer = text.replacen("\"version\": 1,", "\"version\": 1000,", 1);
    assert_ne!(newer, text, "the record says which version it is");
    fs::write(&record, newer).expect("its record is replaced");
    agent.restart();
    let second = agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]).trim().to_owned();
    agent.kill();
    fs::write(&record, text).expect("its record is there again");
    agent.restart();
    for (id, name) in [(&first, "c"), (&second, second.as_str())] {
        let shown = agent.ctl(["-o", "json", "inspect", id]).run().success().json();
        assert_eq!(shown[0]["name"].as_str().or(shown["name"].as_str()), Some(name), "{shown}");
        agent.ok(["exec", id, "--", "true"]);
    }
    assert_eq!(agent.ok(["ps", "-q"]).lines().count(), 2);
    for id in [&first, &second] {
        agent.ok(["rm", "-f", id]);
    }
    agent.finish();
}

/// With too few it would find some of what runs, and take the rest for ended. With just enough it makes ready what each
/// container needs next, a few at a time.
#[test]
fn an_agent_with_too_few_files_for_what_runs_does_not_start_and_ends_nothing() {
    let limit = |dir: &std::path::Path| dir.join("limit");
    let mut agent = Agent::start_behind(|dir| {
        fs::write(limit(dir), "1000").expect("a file");
        let script = format!("ulimit -n $(cat {}); exec \"$@\"", limit(dir).display());
        ["sh", "-c", &script, "sh"].map(Into::into).to_vec()
    });
    let names: Vec<String> = (0..24).map(|n| format!("c{n}")).collect();
    for name in &names {
        agent.ok(["run", "-d", "-t", "--name", name, "--", "sleep", "100000"]);
    }
    agent.kill();
    let few = limit(&agent.path(""));
    // Six for each, beside its own; and those of one too few.
    let enough = 64 + 6 * names.len();
    fs::write(&few, (enough - 6).to_string()).expect("a file");
    let started = agent.command("contid.sock").output().expect("contid can be started");
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(!started.status.success() && said.contains("ulimit -n"), "{said}");
    fs::write(&few, enough.to_string()).expect("a file");
    agent.restart();
    assert_eq!(agent.ok(["ps", "-q"]).lines().count(), names.len(), "all of them run");
    let log = agent.log();
    assert!(!log.contains("Too many open files"), "{log}");
    agent.kill();
    fs::write(&few, "1000").expect("a file");
    agent.restart();
    for name in &names {
        agent.ok(["exec", name, "--", "true"]);
    }
    agent.finish();
}

/// Starts an agent that stops at a point, which the next one does not.
fn stopping_at(point: &str) -> Agent {
    Agent::start_behind(|dir| {
        let delays = dir.join("delays");
        fs::write(&delays, format!("{point}=stop")).expect("a file");
        let script = format!("CONTI_TEST_DELAYS=$(cat {}) exec \"$@\"", delays.display());
        ["sh", "-c", &script, "sh"].map(Into::into).to_vec()
    })
}

/// Does something with the client until the agent stops at its point, and kills the agent.
fn cut_off(agent: &mut Agent, args: &[&str]) -> std::process::Child {
    let mut client = agent.ctl(args.iter().copied()).into_command();
    let client = client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let client = client.spawn().expect("contictl can be started");
    let contid = host::pinned(agent.pid()).expect("the agent is there");
    wait::until_true("the agent has come to its point", || contid.is_stopped());
    agent.kill_stopped();
    fs::write(agent.path("delays"), "").expect("a file");
    client
}

/// What was left of the run before has a main session too, which is not the one that runs.
#[test]
fn a_container_that_is_started_again_when_the_agent_is_killed_runs_on() {
    let mut agent = stopping_at("start.begun");
    let script = "test -e /ran && exec sleep 1000; touch /ran; exit 7";
    agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", script]);
    agent.ctl(["wait", "c"]).run().exits(7);
    let mut client = cut_off(&mut agent, &["start", "c"]);
    let sessions =
        |agent: &Agent| fs::read_dir(agent.path("state/sessions")).expect("a directory").count();
    assert_eq!(sessions(&agent), 2, "of both runs");
    agent.restart();
    assert!(agent.ok(["ps"]).contains("running"), "{}", agent.ok(["ps", "-a"]));
    assert_eq!(sessions(&agent), 1);
    agent.ok(["exec", "c", "--", "true"]);
    assert!(!agent.log().contains("no container that is known"), "{}", agent.log());
    agent.ok(["stop", "-t", "0", "c"]);
    agent.ctl(["wait", "c"]).run().exits(137);
    client.wait().expect("a child can be waited for");
    agent.ok(["rm", "c"]);
    agent.finish();
}

/// Ends an agent at a point of the removal of what has ended, and looks what the next one makes of what is left.
fn is_cut_off(point: &str, left_behind: impl FnOnce(&Agent)) {
    let mut agent = stopping_at(point);
    let mut run = cut_off(&mut agent, &["run", "--rm", "--", "true"]);
    left_behind(&agent);
    agent.restart();
    assert_eq!(agent.ok(["ps", "-aq"]), "", "no container is made of it");
    for dir in ["state/sessions", "data/containers"] {
        let left = fs::read_dir(agent.path(dir)).expect("a directory").count();
        assert_eq!(left, 0, "{dir}: nothing is left of it");
    }
    run.wait().expect("a child can be waited for");
    agent.finish();
}

/// The directory of a session goes entry by entry, and its monitor waits for an agent meanwhile.
#[test]
fn a_removal_that_is_cut_off_leaves_nothing_behind() {
    is_cut_off("session.remove", |agent| {
        let sessions = fs::read_dir(agent.path("state/sessions")).expect("a directory");
        let dir = sessions.map(|entry| entry.expect("an entry").path()).next();
        let socket = dir.expect("its directory is there").join("monitor.sock");
        fs::remove_file(socket).expect("the first that goes");
    });
}

/// As long as anything is found of its sessions, its own directory tells that its removal has begun.
#[test]
fn a_container_whose_removal_is_cut_off_is_not_set_aside() {
    is_cut_off("forget.content", |_| {});
    is_cut_off("forget.sessions", |_| {});
}
