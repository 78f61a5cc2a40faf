//! The small processes between the agent and a command die, and nothing stays half alive.

use std::fs;

use conti_proto::v1::{ContainerState, session_end::Reason, stream_response::Message as Receive};
use conti_tests::{
    Agent,
    api::{sleeper, state},
    host, wait,
    wire::{self, Wire},
};
use rustix::process::{Pid, Signal, kill_process};

/// The parent of a process: of a session's process, its monitor.
fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = line.expect("a parent").trim().parse().expect("a number");
    let name = fs::read_to_string(format!("/proc/{parent}/comm")).expect("its name");
    assert_eq!(name.trim(), "conti-monitor");
    parent
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).expect("a pid");
    kill_process(pid, Signal::KILL).expect("killed");
}

#[test]
fn a_container_whose_monitor_is_killed_is_killed_and_told_as_lost() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let started = api.run(sleeper("c")).await.expect("runs");
        let pid = started.pid;
        let main = host::pinned(pid).expect("its main process");
        kill(parent(pid));
        main.wait_gone();
        wait::until_true("its cgroups are gone", || {
            host::cgroups_named(&[started.cgroup.clone()].into()).is_empty()
        });
        let container = api.get("c").await.expect("still listed");
        assert_eq!(state(&container), ContainerState::Stopped);
        let reason = container.end.and_then(|end| end.reason);
        assert!(matches!(reason, Some(Reason::Lost(_))), "{reason:?}");
    });
    agent.ok(["start", "c"]);
    agent.ok(["exec", "c", "--", "true"]);
    agent.finish();
}

#[test]
fn an_exec_whose_monitor_is_killed_ends_alone_and_is_told_as_lost() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let spec = conti_tests::api::session("c", conti_tests::api::process(["sleep", "1000"]));
        let mut wire = Wire::open(&mut api, wire::start(spec)).await.expect("starts");
        let pid = wire.opened.session.as_ref().expect("a session").pid;
        let process = host::pinned(pid).expect("its process");
        kill(parent(pid));
        let end = loop {
            match wire.next().await.expect("goes on to the end") {
                Some(Receive::End(end)) => break end,
                Some(_) => {}
                None => panic!("the stream ended without an end"),
            }
        };
        assert!(matches!(end.reason, Some(Reason::Lost(_))), "{end:?}");
        process.wait_gone();
        let container = api.get("c").await.expect("there");
        assert_eq!(state(&container), ContainerState::Running);
    });
    agent.finish();
}

#[test]
fn a_killed_launcher_is_started_again_and_what_runs_goes_on() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    let launcher = host::descendants(agent.pid())
        .into_iter()
        .find(|process| host::command_line(process.pid).contains("launcher"))
        .expect("a launcher");
    kill(launcher.pid);
    launcher.wait_gone();
    for _ in 0..5 {
        agent.ok(["exec", "c", "--", "true"]);
        agent.ok(["run", "--rm", "--", "true"]);
    }
    agent.finish();
}
