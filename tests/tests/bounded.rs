//! Processes that are stopped and cgroups that are frozen hold up nobody for ever: each call ends, or says what is
//! in its way and can be made again. No time is measured: a call that does not end is given up by the harness.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use conti_proto::v1::{
    ContainerState, DisconnectPolicy, SessionPolicy, SessionSpec, Terminal, session_end::Reason,
    stream_response::Message as Receive,
};
use conti_tests::{
    Agent,
    api::{Api, session, shell, sleeper, state},
    facts::probe,
    host::{self, Pinned},
    wait,
    wire::{self, Wire},
};
use rustix::process::{Pid, Signal, kill_process};

/// A process of the test's own agent that is stopped, until this is dropped.
struct Stopped(Pinned);

impl Stopped {
    fn stop(process: Pinned) -> Stopped {
        signal(&process, Signal::STOP);
        wait::until_true("it is stopped", || status(process.pid, "State:").starts_with('T'));
        Stopped(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.0.alive() {
            signal(&self.0, Signal::CONT);
        }
    }
}

fn signal(process: &Pinned, signal: Signal) {
    let pid = Pid::from_raw(process.pid as i32).expect("a pid");
    // It may have been killed a moment ago, which is what some of the tests want.
    let _ = kill_process(pid, signal);
}

fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_default().trim().to_owned()
}

/// The monitor of a session, whose process this is.
fn monitor(pid: u32) -> Pinned {
    let parent = status(pid, "PPid:").parse().expect("a parent");
    assert_eq!(status(parent, "Name:"), "conti-monitor");
    host::pinned(parent).expect("a monitor")
}

fn launcher(agent: &Agent) -> Pinned {
    let all = host::descendants(agent.pid());
    let found = all.into_iter().find(|process| status(process.pid, "Name:") == "conti-launcher");
    found.expect("a launcher")
}

/// The cgroup of a process, frozen until this is dropped.
struct Frozen {
    file: PathBuf,
    thawed: &'static str,
}

impl Frozen {
    fn freeze(pid: u32) -> Frozen {
        let own = host::cgroups(pid);
        let find = |name: &str| {
            let file = own.iter().map(|dir| dir.join(name)).find(|file| file.is_file());
            file.filter(|file| file.to_string_lossy().contains("/conti-"))
        };
        // Version 1 where there is one: it holds what was killed as well.
        let (file, frozen, thawed) = match find("freezer.state") {
            Some(file) => (file, "FROZEN", "THAWED"),
            None => (find("cgroup.freeze").expect("a freezer"), "1", "0"),
        };
        fs::write(&file, frozen).expect("it can be frozen");
        let guard = Frozen { file, thawed };
        wait::until_true("it is frozen", || {
            fs::read_to_string(&guard.file).is_ok_and(|text| text.trim() == frozen)
        });
        guard
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Gone with its container, where that was removed.
        let _ = fs::write(&self.file, self.thawed);
    }
}

async fn run(api: &mut Api, name: &str) -> u32 {
    api.run(sleeper(name)).await.expect("runs").pid
}

/// Waits until a process of a container, of which the pid inside is known, does not run any more.
fn wait_until_gone(agent: &Agent, container: &str, pid: &str) {
    let script = "read s < /proc/$1/stat || exit 0; case \"$s\" in *') Z '*) exit 0;; esac; exit 1";
    wait::until_true("what the command has started is gone", || {
        let call = ["exec", container, "--", "sh", "-c", script, "sh", pid];
        agent.ctl(call).run().code == 0
    });
}

#[test]
fn a_deadline_ends_what_a_command_has_started() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    for script in ["sleep 100000 & echo $!; wait", "sh -c 'echo $$; sleep 100000; true'; true"] {
        // On a host that is very busy, time may be up before it has said anything.
        let pid = [2, 8, 32].iter().find_map(|seconds| {
            let deadline = format!("--deadline={seconds}s");
            let ended = agent.ctl(["exec", &deadline, "c", "--", "sh", "-c", script]).run();
            let pid = ended.exits(124).text();
            (!pid.is_empty()).then_some(pid)
        });
        wait_until_gone(&agent, "c", &pid.expect("it has said its pid"));
    }
    agent.finish();
}

#[test]
fn a_client_that_goes_takes_with_it_what_its_command_has_started() {
    let agent = Agent::start();
    agent.api(async |mut api| run(&mut api, "c").await);
    // With a terminal a shell puts each job into a process group of its own.
    for (policy, terminal) in [
        (DisconnectPolicy::Kill, false),
        (DisconnectPolicy::HangUp, false),
        (DisconnectPolicy::Kill, true),
    ] {
        let pid = agent.api(async |mut api| {
            let jobs = if terminal { "set -m; " } else { "" };
            let mut process = shell(&format!("{jobs}sleep 100000 & echo pid=$!.; wait"));
            process.terminal = terminal.then(Terminal::default);
            let policy = SessionPolicy { disconnect_policy: policy.into(), ..Default::default() };
            let spec = SessionSpec { policy: Some(policy), ..session("c", process) };
            let mut wire = Wire::open(&mut api, wire::start(spec)).await.expect("starts");
            let text = wire.read_until(".").await;
            text.split("pid=").nth(1).expect("a pid").trim_end_matches(['.', '\r', '\n']).to_owned()
        });
        wait_until_gone(&agent, "c", &pid);
    }
    agent.finish();
}

#[test]
fn nothing_is_started_in_a_frozen_container_and_the_refusal_says_so() {
    let agent = Agent::start();
    let pid = agent.api(async |mut api| run(&mut api, "c").await);
    let frozen = Frozen::freeze(pid);
    for verb in ["exec", "debug"] {
        let refused = agent.ctl([verb, "c", "--", "true"]).run().exits(125).errors();
        assert!(refused.contains("frozen") && refused.contains("thaw"), "{refused}");
        assert!(refused.contains(&*frozen.file.to_string_lossy()), "{refused}");
    }
    agent.api(async |mut api| {
        let refused = Wire::open(&mut api, wire::start(session("c", shell("true")))).await;
        let refused = refused.err().expect("refused");
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert_eq!(conti_tests::api::reason(&refused), "TARGET_FROZEN");
    });
    drop(frozen);
    agent.ok(["exec", "c", "--", "true"]);
    agent.ok(["debug", "c", "--", "true"]);
    agent.finish();
}

#[test]
fn a_frozen_container_is_stopped_and_removed() {
    let agent = Agent::start();
    for name in ["stopped", "removed"] {
        let pid = agent.api(async |mut api| run(&mut api, name).await);
        let main = host::pinned(pid).expect("its main process");
        let _frozen = Frozen::freeze(pid);
        match name {
            "stopped" => agent.ok(["stop", name]),
            _ => agent.ok(["rm", "-f", name]),
        };
        main.wait_gone();
    }
    agent.finish();
}

/// Starts a session in a container without a client: its id and its process.
async fn start_exec(api: &mut Api, container: &str) -> (String, Pinned) {
    let spec = Some(session(container, shell("exec sleep 100000")));
    let request = conti_proto::v1::StartSessionRequest { spec, ..Default::default() };
    let started = api.sessions.start_session(request).await.expect("starts").into_inner();
    let started = started.session.expect("a session");
    (started.id, host::pinned(started.pid).expect("its process"))
}

#[test]
fn a_frozen_container_is_killed_by_each_call_that_kills() {
    let agent = Agent::start();
    for way in ["kill", "kill --session", "stream"] {
        let (pid, id) = agent.api(async |mut api| {
            let container = api.run(sleeper("c")).await.expect("runs");
            (container.pid, container.session_id)
        });
        let main = host::pinned(pid).expect("its main process");
        let _frozen = Frozen::freeze(pid);
        match way {
            "kill" => drop(agent.ok(["kill", "c"])),
            "kill --session" => drop(agent.ok(["kill", "--session", "-s", "KILL", &id])),
            _ => agent.api(async |mut api| {
                let wire = Wire::open(&mut api, wire::attach(&id, None)).await.expect("attaches");
                wire.signal("KILL").await;
                wire.collect().await;
            }),
        }
        main.wait_gone();
        agent.ctl(["wait", "c"]).run().exits(137);
        agent.ok(["rm", "c"]);
    }
    agent.finish();
}

#[test]
fn a_command_in_a_frozen_container_is_killed_and_no_other() {
    let agent = Agent::start();
    let pid = agent.api(async |mut api| run(&mut api, "c").await);
    let (id, killed) = agent.api(async |mut api| start_exec(&mut api, "c").await);
    let (_, other) = agent.api(async |mut api| start_exec(&mut api, "c").await);
    let main = host::pinned(pid).expect("its main process");
    let _frozen = Frozen::freeze(pid);
    agent.ok(["kill", "--session", &id]);
    killed.wait_gone();
    assert!(main.alive() && other.alive());
    agent.finish();
}

#[test]
fn a_signal_that_a_frozen_container_would_not_hear_is_refused() {
    let agent = Agent::start();
    let script =
        "trap 'exit 40' HUP; trap 'exit 41' TERM; echo ready; while :; do sleep 0.05; done";
    let (pid, id, mut wire) = agent.api(async |mut api| {
        let spec = conti_tests::api::container("c", shell(script));
        let container = api.run(spec).await.expect("runs");
        let attach = wire::attach(&container.session_id, None);
        let mut wire = Wire::open(&mut api, attach).await.expect("attaches");
        wire.read_until("ready").await;
        (container.pid, container.session_id, wire)
    });
    let frozen = Frozen::freeze(pid);
    for call in [&["c"][..], &["--session", &id]] {
        let call = [&["kill", "-s", "HUP"], call].concat();
        let refused = agent.ctl(call).run().exits(125).errors();
        assert!(refused.contains("frozen") && refused.contains("signal"), "{refused}");
        assert!(refused.contains(&*frozen.file.to_string_lossy()), "{refused}");
    }
    agent.api(async |mut api| {
        let signal = "HUP".to_owned();
        let request = conti_proto::v1::KillContainerRequest { container: "c".into(), signal };
        let refused = api.containers.kill_container(request).await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert_eq!(conti_tests::api::reason(&refused), "TARGET_FROZEN");
        // On a stream it waits, as what is typed does. None of the others has come before it.
        wire.signal("TERM").await;
        drop(frozen);
        let end = loop {
            if let Some(Receive::End(end)) = wire.next().await.expect("the stream goes on") {
                break end;
            }
        };
        assert_eq!(conti_tests::api::exit_code(&end), 41);
    });
    agent.finish();
}

#[test]
fn stop_says_which_monitor_is_in_the_way_and_can_be_repeated() {
    let agent = Agent::start();
    let pid = agent.api(async |mut api| run(&mut api, "c").await);
    let main = host::pinned(pid).expect("its main process");
    let stopped = Stopped::stop(monitor(pid));
    let refused = agent.ctl(["stop", "-t", "0", "c"]).run().exits(125).errors();
    assert!(refused.contains(&format!("process {}", stopped.0.pid)), "{refused}");
    assert!(refused.contains("stopped (T)") && refused.contains("monitor"), "{refused}");
    main.wait_gone();
    drop(stopped);
    agent.ok(["stop", "c"]);
    agent.api(async |mut api| {
        let container = api.get("c").await.expect("there");
        assert_eq!(state(&container), ContainerState::Stopped);
        let reason = container.end.and_then(|end| end.reason);
        assert!(matches!(reason, Some(Reason::Killed(_))), "{reason:?}");
    });
    agent.finish();
}

#[test]
fn a_container_is_removed_whose_monitors_are_stopped() {
    let agent = Agent::start();
    let (main, exec) = agent.api(async |mut api| {
        let main = run(&mut api, "c").await;
        let spec = session("c", shell("sleep 100000"));
        let started =
            conti_proto::v1::StartSessionRequest { spec: Some(spec), ..Default::default() };
        let started = api.sessions.start_session(started).await.expect("starts").into_inner();
        (main, started.session.expect("a session").pid)
    });
    let processes = [main, exec].map(|pid| host::pinned(pid).expect("a process"));
    let monitors = [main, exec].map(|pid| Stopped::stop(monitor(pid)));
    agent.ok(["rm", "-f", "c"]);
    processes.iter().for_each(Pinned::wait_gone);
    monitors.iter().for_each(|monitor| monitor.0.wait_gone());
    assert_eq!(agent.ok(["ps", "-aq"]), "");
    agent.finish();
}

/// The forker that is kept ready in a container, whose main process this is, once it is there. Version 2 alone
/// needs none.
fn forker(main: u32) -> Pinned {
    let own = host::cgroups(main);
    let dirs = || own.iter().filter(|dir| dir.to_string_lossy().contains("/conti-"));
    wait::until("a forker is kept ready", || {
        dirs().find_map(|dir| {
            let pids = fs::read_to_string(dir.join("cgroup.procs")).ok()?;
            let pids = pids.lines().filter_map(|line| line.parse().ok());
            let mut forkers = pids.filter(|pid| status(*pid, "Name:") == "conti-forker");
            host::pinned(forkers.next()?)
        })
    })
}

mod needs_forkers {
    use super::*;

    fn measured() -> Agent {
        Agent::start_with(|dir| {
            let socket = format!("unix://{}", dir.join("metrics.sock").display());
            vec!["--metrics-listen".into(), socket.into()]
        })
    }

    /// Waits until as many slots are kept ready as there ever are: the agent says so, since a forker that is on its way to
    /// one looks no different.
    fn wait_for_slots(agent: &Agent) {
        let ask = || {
            let mut stream = UnixStream::connect(agent.path("metrics.sock"))?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut told = String::new();
            stream.read_to_string(&mut told).map(|_| told)
        };
        wait::until_true("slots are ready", || {
            ask().is_ok_and(|told| told.lines().any(|line| line == "conti_spare_slots 3"))
        });
    }

    #[test]
    fn a_forker_that_is_stopped_or_frozen_is_replaced() {
        let agent = Agent::start();
        let main = agent.api(async |mut api| run(&mut api, "c").await);
        agent.ok(["exec", "c", "--", "true"]);
        let stopped = Stopped::stop(forker(main));
        assert_eq!(agent.ok(["exec", "c", "--", "echo", "x"]), "x");
        wait::until_true("the forker is gone", || !stopped.0.alive());

        let frozen = forker(main);
        // It may be on its way there.
        let above = wait::until("it is in its cgroups", || {
            host::cgroups(frozen.pid).into_iter().find(|dir| {
                dir.to_string_lossy().contains("/conti-") && dir.join("freezer.state").is_file()
            })
        });
        let below = above.join("below");
        fs::create_dir(&below).expect("a cgroup");
        fs::write(below.join("cgroup.procs"), frozen.pid.to_string()).expect("moved");
        let guard = Frozen::freeze(frozen.pid);
        assert_eq!(guard.file, below.join("freezer.state"));
        assert_eq!(agent.ok(["exec", "c", "--", "echo", "x"]), "x");
        drop(guard);
        frozen.wait_gone();
        agent.finish();
    }

    /// What was kept ready and has died is not met by whoever needs it next.
    #[test]
    fn what_is_kept_ready_and_is_killed_is_replaced() {
        let agent = measured();
        let all = |name: &str| {
            let all = host::descendants(agent.pid()).into_iter();
            all.filter(|process| status(process.pid, "Name:") == name).collect::<Vec<_>>()
        };
        for name in ["conti-forker", "conti-monitor"] {
            wait_for_slots(&agent);
            let killed = all(name);
            killed.iter().for_each(|process| signal(process, Signal::KILL));
            killed.iter().for_each(Pinned::wait_gone);
            assert_eq!(agent.ok(["run", "--rm", "--", "echo", "x"]), "x", "{name}");
        }
        let main = agent.api(async |mut api| run(&mut api, "c").await);
        for victim in [|forker: Pinned| monitor(forker.pid), |forker: Pinned| forker] {
            let killed = victim(forker(main));
            signal(&killed, Signal::KILL);
            killed.wait_gone();
            assert_eq!(agent.ok(["exec", "c", "--", "echo", "x"]), "x");
        }
        agent.finish();
    }

    #[test]
    fn slots_whose_forkers_are_stopped_are_replaced() {
        let agent = measured();
        let all = || {
            let all = host::descendants(agent.pid()).into_iter();
            all.filter(|process| status(process.pid, "Name:") == "conti-forker").collect::<Vec<_>>()
        };
        wait_for_slots(&agent);
        let stopped: Vec<_> = all().into_iter().map(Stopped::stop).collect();
        agent.ok(["run", "--rm", "--", "true"]);
        wait::until_true("the forkers are gone", || !stopped.iter().any(|one| one.0.alive()));
        agent.finish();
    }

    #[test]
    fn a_forker_that_stops_at_its_work_is_named_and_the_next_call_has_another() {
        let stop = "CONTI_TEST_DELAYS=forker.order=stop";
        let agent = Agent::start_behind(|_| ["env", stop].map(Into::into).to_vec());
        let mut named = Vec::new();
        for _ in 0..2 {
            let refused = agent.ctl(["run", "--rm", "--", "true"]).run().exits(125).errors();
            assert!(refused.contains("stopped (T)") && refused.contains("forker"), "{refused}");
            let pid = refused.split("process ").nth(1).and_then(|rest| rest.split(',').next());
            let pid: u32 = pid.and_then(|pid| pid.parse().ok()).expect("a pid");
            // Nothing of it comes up later.
            wait::until_true("the forker is gone", || host::pinned(pid).is_none());
            named.push(pid);
        }
        assert_ne!(named[0], named[1]);
        agent.finish();
    }
}

#[test]
fn a_launcher_that_is_stopped_is_replaced() {
    let agent = Agent::start();
    agent.api(async |mut api| run(&mut api, "c").await);
    let stopped = Stopped::stop(launcher(&agent));
    for _ in 0..5 {
        agent.ok(["exec", "c", "--", "true"]);
        agent.ok(["run", "--rm", "--", "true"]);
    }
    // What looks needs it as well.
    agent.ok(["procs", "c"]);
    wait::until_true("the one that was stopped is gone", || !stopped.0.alive());
    agent.finish();
}

#[test]
fn an_agent_starts_beside_monitors_that_are_stopped_and_ends_nothing_of_theirs() {
    let mut agent = Agent::start();
    let names = ["a", "b", "c", "d", "e"];
    let pids = agent.api(async |mut api| {
        let mut pids = Vec::new();
        for name in names {
            pids.push(run(&mut api, name).await);
        }
        pids
    });
    let mains: Vec<_> = pids.iter().map(|pid| host::pinned(*pid).expect("a process")).collect();
    let mut stopped: Vec<_> = pids.iter().map(|pid| Stopped::stop(monitor(*pid))).collect();
    agent.kill();
    agent.restart();
    assert!(mains.iter().all(Pinned::alive), "what they run goes on");
    let refused = agent.ctl(["stop", "a"]).run().exits(125).errors();
    assert!(refused.contains(&format!("process {}", stopped[0].0.pid)), "{refused}");
    assert!(refused.contains("stopped (T)"), "{refused}");
    // What runs is not removed by the way, whether its monitor tells of it or not.
    let refused = agent.ctl(["rm", "a"]).run().exits(125).errors();
    assert!(refused.contains(&format!("process {}", stopped[0].0.pid)), "{refused}");
    assert!(refused.contains("with force"), "{refused}");
    assert!(mains.iter().all(Pinned::alive), "what they run goes on");
    // One is removed as it is, the others go on.
    agent.ok(["rm", "-f", "a"]);
    assert!(!mains[0].alive());
    stopped.clear();
    for name in &names[1..] {
        wait::until_true("it is taken over", || {
            agent.ctl(["exec", name, "--", "true"]).run().code == 0
        });
        agent.ok(["stop", "-t", "0", name]);
    }
    agent.finish();
}

#[test]
fn an_agent_stops_beside_processes_that_are_stopped() {
    let mut agent = Agent::start();
    let pid = agent.api(async |mut api| run(&mut api, "c").await);
    let stopped = [Stopped::stop(monitor(pid)), Stopped::stop(launcher(&agent))];
    assert!(agent.terminate().success());
    wait::until_true("the launcher is gone", || !stopped[1].0.alive());
    drop(stopped);
    agent.restart();
    agent.ok(["exec", "c", "--", "true"]);
    agent.finish();
}

mod held {
    //! A process of a container traces or stops what comes into it.

    use std::{
        io::{BufRead as _, BufReader},
        time::Duration,
    };

    use conti_proto::v1::ListSessionsRequest;
    use conti_tests::ctl::Running;

    use super::*;

    /// Far longer than any of these calls takes, and less than a call waits that finds out nothing.
    const GIVEN_UP: Duration = Duration::from_secs(60);

    /// Starts a container with `/escape` in it.
    fn container(agent: &Agent, name: &str, flags: &[&str]) {
        let binary = probe().with_file_name("escape");
        let volume = format!("{}:/escape:ro", binary.display());
        let mut args = vec!["run", "-d", "--name", name, "-v", &volume];
        args.extend(flags);
        args.extend(["--", "sleep", "100000"]);
        agent.ok(args);
    }

    /// Has it hold what comes into a container from here on, until this is dropped.
    fn hold(agent: &Agent, name: &str, how: &str) -> Running {
        let mut holder = agent.ctl(["exec", name, "--", "/escape", "hold", how]).spawn();
        let mut line = String::new();
        let read = BufReader::new(holder.stdout()).read_line(&mut line);
        assert_eq!((read.is_ok(), line.as_str()), (true, "holds\n"), "{}", holder.stderr_text());
        holder
    }

    #[test]
    fn what_a_tracer_does_not_wait_for_has_its_own_end() {
        let agent = Agent::start();
        for (how, threads) in [("trace", &[][..]), ("trace-threads", &["thread"])] {
            container(&agent, how, &[]);
            let _holder = hold(&agent, how, how);
            for code in ["0", "7"] {
                let mut call = vec!["exec", how, "--", "/escape", "hold", "victim", code];
                call.extend(threads);
                let ended = agent.ctl(call).timeout(GIVEN_UP).run();
                ended.exits(code.parse().expect("a number"));
            }
            agent.ok(["rm", "-f", how]);
        }
        agent.finish();
    }

    #[test]
    fn a_deadline_ends_what_a_tracer_keeps() {
        let agent = Agent::start();
        for (how, threads) in [
            ("trace", &[][..]),
            ("trace-threads", &["thread"]),
            ("trace-exit", &[]),
            ("trace-exit", &["thread"]),
        ] {
            container(&agent, how, &[]);
            let _holder = hold(&agent, how, how);
            // On a host that is very busy, time may be up before it is traced.
            let traced = [2, 8, 32].iter().any(|seconds| {
                let deadline = format!("--deadline={seconds}s");
                let mut call =
                    vec!["exec", &deadline, how, "--", "/escape", "hold", "victim", "never"];
                call.extend(threads);
                let ended = agent.ctl(call).timeout(GIVEN_UP).run();
                ended.exits(124).text() == "traced"
            });
            assert!(traced, "{how}");
            agent.ok(["rm", "-f", how]);
        }
        agent.finish();
    }

    #[test]
    fn a_process_that_a_tracer_keeps_before_its_end_can_be_killed() {
        let agent = Agent::start();
        container(&agent, "c", &[]);
        let _holder = hold(&agent, "c", "trace-exit");
        // It is kept at its own end, where a signal does nothing any more.
        let victim = agent.ctl(["exec", "c", "--", "/escape", "hold", "victim", "7"]).spawn();
        let session = agent.api(async |mut api| {
            loop {
                let all = api.sessions.list_sessions(ListSessionsRequest::default()).await;
                let mut all = all.expect("listed").into_inner().sessions.into_iter();
                let found = all.find(|one| one.argv.iter().any(|arg| arg == "victim"));
                if let Some(found) = found.filter(|session| session.pid > 0) {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        });
        wait::until_true("it is kept", || status(session.pid, "State:").starts_with('t'));
        agent.ok(["kill", "--session", &session.id]);
        assert_eq!(victim.wait(), 137);
        agent.ok(["rm", "-f", "c"]);
        agent.finish();
    }

    #[test]
    fn a_deadline_that_passes_while_a_command_is_set_up_ends_it_however_far_that_is() {
        // By the time that it is killed, what was setting it up has ended, and it is there.
        let late = "CONTI_TEST_DELAYS=monitor.deadline=300";
        let agent = Agent::start_behind(|_| ["env", late].map(Into::into).to_vec());
        container(&agent, "c", &[]);
        for milliseconds in 1..=8 {
            let deadline = format!("{milliseconds}ms");
            let call = ["exec", "--deadline", &deadline, "c", "--", "sleep", "4711"];
            let ended = agent.ctl(call).timeout(GIVEN_UP).run();
            let told = ended.errors();
            assert!(told.contains("deadline") && !told.contains("does not answer"), "{told}");
        }
        wait::until_true("it is gone", || !agent.ok(["procs", "c"]).contains("sleep 4711"));
        agent.ok(["rm", "-f", "c"]);
        agent.finish();
    }

    #[test]
    fn a_process_that_is_stopped_before_its_command_is_let_go_on() {
        let stop = "CONTI_TEST_DELAYS=init.execute=stop";
        let agent = Agent::start_behind(|_| ["env", stop].map(Into::into).to_vec());
        for init in [&[][..], &["--init"]] {
            container(&agent, "c", init);
            for verb in ["exec", "debug"] {
                let ended = agent.ctl([verb, "c", "--", "echo", "x"]).timeout(GIVEN_UP).run();
                assert_eq!(ended.success().text(), "x");
            }
            let mut call = vec!["run", "--rm", "--ns", "pid=container:c"];
            call.extend(init);
            call.extend(["--", "echo", "x"]);
            let ended = agent.ctl(call).timeout(GIVEN_UP).run();
            assert_eq!(ended.success().text(), "x");
            agent.ok(["rm", "-f", "c"]);
        }
        agent.finish();
    }

    #[test]
    fn a_process_that_is_stopped_again_and_again_before_its_command_is_named_and_killed() {
        let stop = "CONTI_TEST_DELAYS=init.execute=stops";
        let agent = Agent::start_behind(|_| ["env", stop].map(Into::into).to_vec());
        // The first process of a pid namespace is not stopped by one in there.
        for place in [&["--userns", "host", "--ns", "pid=host"][..], &["--init"]] {
            let call = [&["run", "--rm"], place, &["--", "true"]].concat();
            let refused = agent.ctl(call).timeout(GIVEN_UP).run().exits(125).errors();
            assert!(refused.contains("stopped (T)"), "{refused}");
            let mut words = refused.split("process ").filter_map(|rest| rest.split(' ').next());
            let pid: u32 = words.find_map(|word| word.parse().ok()).expect("a pid");
            wait::until_true("it is gone", || host::pinned(pid).is_none());
        }
        agent.finish();
    }

    #[test]
    fn commands_start_beside_a_process_that_stops_whatever_comes() {
        let agent = Agent::start();
        container(&agent, "c", &[]);
        let _holder = hold(&agent, "c", "stop");
        for _ in 0..10 {
            // It may be stopped as soon as it runs, which is the container's own affair.
            agent.ctl(["exec", "-d", "c", "--", "true"]).timeout(GIVEN_UP).run().success();
        }
        agent.ok(["rm", "-f", "c"]);
        agent.finish();
    }
}
