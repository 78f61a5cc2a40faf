//! What create, exec and enter grant: the same, seen in /proc/self/status.

use conti_proto::v1::{Confinement, SeccompMode};
use conti_tests::{
    Agent,
    api::{session, sleeper},
    facts::{Facts, PROBE, probe_mount, probe_process, probe_volume},
    host, wire,
};

/// The capabilities that the major runtimes grant by default.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

/// The lines of /proc/self/status that tell how a process is confined.
const LINES: [&str; 13] = [
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Groups",
    "Uid",
    "Gid",
    "SigBlk",
    "SigIgn",
    "Umask",
];

fn confinement(facts: &Facts) -> Vec<(&'static str, String)> {
    LINES.iter().map(|line| (*line, facts.status(line))).collect()
}

#[test]
fn create_exec_and_enter_confine_alike() {
    let agent = Agent::start();
    let created = Facts::of_run(&agent, &[]);
    let volume = probe_volume();
    agent.ok(["run", "-d", "--name", "c", "-v", &volume, "--", "sleep", "1000"]);
    let executed = Facts::of(agent.ctl(["exec", "c", "--", PROBE]).run());
    let entered = Facts::of(agent.ctl(["enter", "c", "--", PROBE]).run());
    assert_eq!(confinement(&created), confinement(&executed), "run and exec");
    assert_eq!(confinement(&created), confinement(&entered), "run and enter");
    for facts in [&created, &executed, &entered] {
        assert_eq!(facts.capabilities("CapInh"), 0);
        assert_eq!(facts.capabilities("CapAmb"), 0);
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(facts.capabilities(set), DEFAULT_CAPABILITIES, "{set}");
        }
        assert_eq!(facts.status("NoNewPrivs"), "1");
        assert_eq!(facts.status("Seccomp"), "2", "a filter is loaded");
        assert_eq!(facts.status("Groups"), "0", "its own group, and none of the agent's");
        assert_eq!(facts.status("SigBlk"), "0000000000000000");
        // The probe's own runtime ignores SIGPIPE (bit 12), and nothing else is ignored.
        assert_eq!(facts.status("SigIgn"), "0000000000001000");
    }
    agent.finish();
}

#[test]
fn a_session_has_no_files_open_but_its_stdio() {
    let agent = Agent::start();
    let volume = probe_volume();
    agent.ok(["run", "-d", "--name", "c", "-v", &volume, "--", "sleep", "1000"]);
    let run = Facts::of_run(&agent, &[]);
    let exec = Facts::of(agent.ctl(["exec", "c", "--", PROBE]).run());
    let enter = Facts::of(agent.ctl(["enter", "c", "--", PROBE]).run());
    for facts in [run, exec, enter] {
        let fds: Vec<&String> = facts.0["fds"].as_object().expect("fds").keys().collect();
        assert_eq!(fds, ["0", "1", "2"], "{}", facts.0["fds"]);
    }
    agent.finish();
}

#[test]
fn capabilities_are_added_and_dropped_by_name() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &["--cap-drop", "ALL"]);
    assert_eq!(facts.capabilities("CapBnd"), 0);
    assert_eq!(facts.capabilities("CapEff"), 0);
    let facts = Facts::of_run(&agent, &["--cap-drop", "CAP_MKNOD", "--cap-add", "net_admin"]);
    let expected = DEFAULT_CAPABILITIES & !(1 << 27) | 1 << 12;
    assert_eq!(facts.capabilities("CapEff"), expected);
    assert_eq!(facts.capabilities("CapBnd"), expected);
    // As everywhere: first dropped, then added, and what is all of them before the single ones.
    let drop_all = ["--cap-drop=ALL", "--cap-add=CHOWN,net_admin"];
    let add_all = ["--cap-add=ALL", "--cap-drop=SYS_ADMIN"];
    let all = host::capabilities();
    for (flags, wanted) in [(drop_all, 1 | 1 << 12), (add_all, all & !(1 << 21))] {
        for [first, second] in [flags, [flags[1], flags[0]]] {
            let facts = Facts::of_run(&agent, &["--userns", "host", first, second]);
            assert_eq!(facts.capabilities("CapEff"), wanted, "{first} {second}");
        }
    }
    let both = ["run", "--rm", "--cap-add=ALL", "--cap-drop=ALL", "--", "true"];
    let error = agent.ctl(both).run().exits(125).errors();
    assert!(error.contains("confinement.cap_drop names ALL, and so does cap_add"), "{error}");
    agent.finish();
}

#[test]
fn privileged_lifts_the_confinement_and_only_when_asked() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &["--privileged"]);
    assert_eq!(
        facts.capabilities("CapEff"),
        host::capabilities(),
        "every capability that the agent has"
    );
    assert_eq!(facts.status("Seccomp"), "0");
    agent.finish();
}

#[test]
fn the_system_call_filter_can_be_lifted_without_the_rest() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &["--security", "seccomp=unconfined"]);
    assert_eq!(facts.status("Seccomp"), "0");
    assert_eq!(facts.status("NoNewPrivs"), "1");
    assert_eq!(facts.capabilities("CapEff"), DEFAULT_CAPABILITIES);
    agent.api(async |mut api| {
        let mut spec = sleeper("c");
        spec.mounts.push(probe_mount());
        api.run(spec).await.expect("runs");
        let mut process = probe_process();
        process.confinement = Some(Confinement {
            seccomp: SeccompMode::Unconfined as i32,
            allow_new_privileges: Some(true),
            ..Default::default()
        });
        let facts = Facts::of_stream(&mut api, wire::start(session("c", process))).await;
        assert_eq!((facts.status("Seccomp"), facts.status("NoNewPrivs")), ("0".into(), "0".into()));
    });
    agent.finish();
}

#[test]
fn an_exec_gets_the_confinement_of_its_container() {
    let agent = Agent::start();
    let volume = probe_volume();
    agent.ok(["run", "-d", "--name", "c", "--privileged", "-v", &volume, "--", "sleep", "1000"]);
    let main =
        Facts::of(agent.ctl(["run", "--rm", "--privileged", "-v", &volume, "--", PROBE]).run());
    let facts = Facts::of(agent.ctl(["exec", "c", "--", PROBE]).run());
    assert_eq!(confinement(&main), confinement(&facts));
    assert_ne!(facts.capabilities("CapEff"), DEFAULT_CAPABILITIES);
    assert_eq!(facts.status("Seccomp"), "0");
    agent.finish();
}

#[test]
fn mount_and_sethostname_are_refused_inside() {
    let agent = Agent::start();
    let volume = probe_volume();
    let out = agent.ok(["run", "--rm", "-v", &volume, "--", PROBE, "syscalls"]);
    assert_eq!(out, r#"{"mount":"EPERM","sethostname":"EPERM"}"#);
    agent.finish();
}
