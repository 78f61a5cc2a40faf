//! How commands end, and what `contictl` exits with.

use conti_proto::v1::{
    ContainerSpec, KilledEnd, SessionPolicy, StopContainerRequest, session_end::Reason,
};
use conti_tests::{
    Agent,
    api::{container, end_signal, exit_code, process, session, shell, sleeper},
    wire::{self, Wire},
};

#[test]
fn every_exit_code_arrives_from_run_and_from_exec() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    for code in [0, 1, 2, 42, 124, 125, 126, 127, 128, 130, 137, 254, 255] {
        let script = format!("exit {code}");
        agent.ctl(["exec", "c", "--", "sh", "-c", &script]).run().exits(code);
        agent.ctl(["run", "--rm", "--", "sh", "-c", &script]).run().exits(code);
    }
    agent.finish();
}

#[test]
fn a_signal_ends_the_client_with_128_plus_its_number() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    for (name, number) in [("HUP", 1), ("KILL", 9), ("SEGV", 11), ("TERM", 15)] {
        let script = format!("kill -{name} $$; sleep 10");
        agent.ctl(["exec", "c", "--", "sh", "-c", &script]).run().exits(128 + number);
    }
    agent.finish();
}

#[test]
fn the_end_of_a_session_tells_a_signal_from_an_exit_code() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let by_signal = wire::start(session("c", shell("kill -TERM $$; sleep 10")));
        let end = Wire::open(&mut api, by_signal).await.expect("starts").collect().await.end;
        match end.reason {
            Some(Reason::Signal(signal)) => {
                assert_eq!((signal.number, signal.name.as_str()), (15, "SIGTERM"));
            }
            other => panic!("{other:?}"),
        }
        let by_exit = wire::start(session("c", shell("exit 143")));
        let end = Wire::open(&mut api, by_exit).await.expect("starts").collect().await.end;
        assert_eq!(exit_code(&end), 143);
        assert!(end.time.is_some(), "an end has a time");
    });
    agent.finish();
}

#[test]
fn a_deadline_ends_the_session_and_says_so() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let mut spec = session("c", process(["sleep", "1000"]));
        let deadline = prost_types::Duration { seconds: 0, nanos: 300_000_000 };
        spec.policy = Some(SessionPolicy { deadline: Some(deadline), ..Default::default() });
        let wire = Wire::open(&mut api, wire::start(spec)).await.expect("starts");
        let end = wire.collect().await.end;
        assert!(matches!(end.reason, Some(Reason::Deadline(_))), "{end:?}");
    });
    agent.finish();
}

#[test]
fn a_session_whose_container_is_deleted_ends_as_container_gone_or_killed_by_a_client() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        let open = wire::start(session("c", process(["sleep", "1000"])));
        let wire = Wire::open(&mut api, open).await.expect("starts");
        api.delete("c").await.expect("deleted");
        let end = wire.collect().await.end;
        let told = matches!(
            end.reason,
            Some(Reason::ContainerGone(_) | Reason::Killed(KilledEnd { signal: 9, .. }))
        );
        assert!(told, "{end:?}");
    });
    agent.finish();
}

#[test]
fn the_client_exits_with_125_126_and_127_as_shells_do() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    // 127: not found, 126: found and not executable, 125: Conti itself failed.
    for verb in [vec!["run", "--rm"], vec!["exec", "c"]] {
        let call = |command: &str| {
            let mut args = verb.clone();
            args.extend(["--", command]);
            agent.ctl(args).run()
        };
        call("no-such-command").exits(127);
        call("/no/such/command").exits(127);
        let refused = call("/etc/hosts").exits(126);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("cannot execute") && said.contains("ermission denied"), "{said}");
        call("/etc").exits(126);
    }
    agent.ctl(["exec", "no-such-container", "--", "true"]).run().exits(125);
    agent.ctl(["run", "--rm", "--rootfs", "dir:/no/such/root", "--", "true"]).run().exits(125);
    agent.ctl(["--host", "unix:///no/such/socket", "ps"]).run().exits(125);
    agent.finish();
}

#[test]
fn a_reaper_hands_on_how_its_child_ended() {
    let agent = Agent::start();
    agent.ctl(["run", "--rm", "--init", "--", "sh", "-c", "exit 9"]).run().exits(9);
    agent.ctl(["run", "--rm", "--init", "--", "sh", "-c", "kill -TERM $$"]).run().exits(143);
    let signals = [("HUP", 1), ("TERM", 15), ("KILL", 9), ("SEGV", 11)];
    agent.api(async |mut api| {
        for (name, number) in signals {
            let spec = shell(&format!("kill -{name} $$; sleep 1000"));
            let spec = ContainerSpec { init: true, ..container("", spec) };
            let wire = Wire::open(&mut api, wire::run(spec)).await.expect("runs");
            assert_eq!(end_signal(&wire.collect().await.end), number, "{name}");
        }
        // An exit code that looks like it is none.
        let spec = ContainerSpec { init: true, ..container("", shell("exit 143")) };
        let wire = Wire::open(&mut api, wire::run(spec)).await.expect("runs");
        assert_eq!(exit_code(&wire.collect().await.end), 143);
        // It hands on the signal of a stop, and its child ends by that.
        api.run(ContainerSpec { init: true, ..sleeper("stopped") }).await.expect("runs");
        let request = StopContainerRequest { container: "stopped".into(), ..Default::default() };
        let stopped = api.containers.stop_container(request).await.expect("stops").into_inner();
        let end = stopped.container.and_then(|container| container.end).expect("an end");
        assert_eq!(end_signal(&end), 15);
    });
    // Orphans are reaped: none is left a zombie.
    let script = "for i in 1 2 3 4 5; do sh -c 'sleep 0.1 &' ; done; sleep 1; \
                  grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    let zombies = agent.ok(["run", "--rm", "--init", "--", "sh", "-c", script]);
    assert_eq!(zombies.trim(), "0");
    agent.finish();
}

#[test]
fn a_run_that_needs_no_client_ends_with_its_own_code() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let open = wire::run(container("", shell("echo out; echo err >&2; exit 3")));
        let all = Wire::open(&mut api, open).await.expect("runs").collect().await;
        assert_eq!((all.stdout, all.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
        assert_eq!(exit_code(&all.end), 3);
    });
    agent.finish();
}
