//! What a command in a container has of it: all that was not said otherwise, each thing by itself.

use conti_tests::{
    Agent,
    facts::{Facts, PROBE, probe_volume},
    host,
};
use serde_json::json;

/// CHOWN, NET_RAW, SYS_PTRACE, SYS_ADMIN and MKNOD.
const CHOWN: u64 = 1;
const NET_RAW: u64 = 1 << 13;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const MKNOD: u64 = 1 << 27;
const DEFAULT: u64 = 0xa804_25fb;

fn start(agent: &Agent, name: &str, flags: &[&str]) {
    let volume = probe_volume();
    let run = ["run", "-d", "--name", name, "-v", &volume];
    agent.ok([&run[..], flags, &["--", "sleep", "1000"]].concat());
}

fn exec(agent: &Agent, name: &str, flags: &[&str]) -> Facts {
    Facts::of(agent.ctl([&["exec"], flags, &[name, "--", PROBE]].concat()).run())
}

/// The capabilities of a process, whether it has a filter, and whether it may gain privileges.
type Confined = (u64, bool, bool);

fn confined(facts: &Facts) -> Confined {
    assert_eq!(facts.capabilities("CapEff"), facts.capabilities("CapBnd"));
    let gains = facts.status("NoNewPrivs") == "0";
    (facts.capabilities("CapEff"), facts.status("Seccomp") == "2", gains)
}

fn check(agent: &Agent, name: &str, cases: &[(&[&str], Confined)]) {
    for (flags, wanted) in cases {
        assert_eq!(confined(&exec(agent, name, flags)), *wanted, "exec {flags:?} in {name}");
    }
}

#[test]
fn each_option_of_confinement_changes_that_of_the_container_and_no_other() {
    let agent = Agent::start();
    start(&agent, "bare", &["--cap-drop", "ALL"]);
    let unfiltered = ["--security", "seccomp=unconfined"];
    let cases: &[(&[&str], Confined)] = &[
        (&[], (0, true, false)),
        (&["--cap-drop", "NET_RAW"], (0, true, false)),
        (&["--cap-add", "SYS_PTRACE"], (SYS_PTRACE, true, false)),
        // One of the default set.
        (&["--cap-add", "CHOWN"], (CHOWN, true, false)),
        (&["--cap-add", "CHOWN,NET_RAW", "--cap-drop", "KILL"], (CHOWN | NET_RAW, true, false)),
        (&unfiltered, (0, false, false)),
        (&["--security", "seccomp=default"], (0, true, false)),
        (&["--security", "no-new-privs=false"], (0, true, true)),
        (&["--group-add", "7"], (0, true, false)),
    ];
    check(&agent, "bare", cases);
    let open = [
        &unfiltered[..],
        &["--security", "no-new-privs=false", "--cap-add", "SYS_ADMIN", "--cap-drop", "MKNOD"],
    ];
    start(&agent, "open", &open.concat());
    let set = DEFAULT & !MKNOD | SYS_ADMIN;
    let cases: &[(&[&str], Confined)] = &[
        (&[], (set, false, true)),
        (&["--cap-drop", "CHOWN"], (set & !CHOWN, false, true)),
        (&["--cap-add", "CHOWN"], (set, false, true)),
        (&["--cap-drop", "ALL"], (0, false, true)),
        (&["--security", "seccomp=default"], (set, true, true)),
        (&["--security", "no-new-privs=true"], (set, false, false)),
    ];
    check(&agent, "open", cases);
    agent.finish();
}

#[test]
fn what_is_privileged_can_be_left_and_taken_on() {
    let agent = Agent::start();
    let own = host::capabilities();
    start(&agent, "all", &["--privileged"]);
    let cases: &[(&[&str], Confined)] = &[
        (&[], (own, false, true)),
        (&["--cap-drop", "SYS_ADMIN"], (own & !SYS_ADMIN, false, true)),
        (&["--security", "seccomp=default"], (own, true, true)),
        (&["--security", "no-new-privs=true"], (own, false, false)),
        (&["--privileged=false"], (DEFAULT, true, false)),
        (&["--privileged=false", "--cap-drop", "ALL"], (0, true, false)),
    ];
    check(&agent, "all", cases);
    // In a user namespace of its own it would have those too that the agent has not.
    start(&agent, "bare", &["--cap-drop", "ALL", "--userns", "host"]);
    let cases: &[(&[&str], Confined)] = &[
        (&["--privileged"], (own, false, true)),
        (&["--privileged", "--security", "no-new-privs=true"], (own, false, false)),
        (&["--privileged=false"], (0, true, false)),
    ];
    check(&agent, "bare", cases);
    agent.finish();
}

#[test]
fn enter_and_debug_change_the_confinement_as_exec_does() {
    let agent = Agent::start();
    start(&agent, "bare", &["--cap-drop", "ALL"]);
    let set = |args: &[&str]| {
        let command = ["--no-stdin", "bare", "--", "grep", "CapEff", "/proc/self/status"];
        let line = agent.ok([args, &command].concat());
        u64::from_str_radix(line.split_whitespace().nth(1).expect("a set"), 16).expect("a number")
    };
    for verb in ["enter", "debug"] {
        assert_eq!(set(&[verb]), 0, "{verb}");
        assert_eq!(set(&[verb, "--cap-drop", "NET_RAW"]), 0, "{verb}");
        assert_eq!(set(&[verb, "--cap-add", "SYS_PTRACE"]), SYS_PTRACE, "{verb}");
        assert_eq!(set(&[verb, "--security", "seccomp=unconfined"]), 0, "{verb}");
    }
    agent.finish();
}

fn limit(facts: &Facts, name: &str) -> [String; 2] {
    let limits = facts.text("limits");
    let line = limits.lines().find(|line| line.starts_with(name)).expect(name);
    let mut words = line[name.len()..].split_whitespace().map(str::to_owned);
    [(); 2].map(|()| words.next().expect("a limit"))
}

#[test]
fn limits_umask_score_and_directory_are_those_of_the_container_unless_said_otherwise() {
    let agent = Agent::start();
    let limits = ["--ulimit", "nofile=99:100", "--ulimit", "core=0"];
    let others = ["-w", "/var/tmp", "--umask", "077", "--oom-score-adj", "500"];
    start(&agent, "c", &[&limits[..], &others].concat());
    let facts = exec(&agent, "c", &[]);
    assert_eq!(limit(&facts, "Max open files"), ["99", "100"]);
    assert_eq!(limit(&facts, "Max core file size"), ["0", "0"]);
    assert_eq!((facts.text("cwd").as_str(), &facts.0["umask"]), ("/var/tmp", &json!(0o077)));
    assert_eq!(facts.text("oom_score_adj"), "500");
    let facts = exec(&agent, "c", &["-w", "/usr"]);
    assert_eq!((facts.text("cwd").as_str(), &facts.0["umask"]), ("/usr", &json!(0o077)));
    let facts = exec(&agent, "c", &["--umask", "022", "--ulimit", "nofile=50:60"]);
    assert_eq!((facts.text("cwd").as_str(), &facts.0["umask"]), ("/var/tmp", &json!(0o022)));
    assert_eq!(limit(&facts, "Max open files"), ["50", "60"]);
    assert_eq!(limit(&facts, "Max core file size"), ["0", "0"], "of which nothing was said");
    assert_eq!(facts.text("oom_score_adj"), "500");
    assert_eq!(exec(&agent, "c", &["--oom-score-adj", "600"]).text("oom_score_adj"), "600");
    // Entered as a whole it is the same; whoever debugs has its limits, and nothing of the application.
    let script = "pwd; umask; ulimit -Sn";
    let sh = |verb: &str| agent.ok([verb, "--no-stdin", "c", "--", "sh", "-c", script]);
    assert_eq!(sh("enter").split_whitespace().collect::<Vec<_>>(), ["/var/tmp", "0077", "99"]);
    assert_eq!(sh("debug").split_whitespace().collect::<Vec<_>>(), ["/", "0022", "99"]);
    agent.finish();
}

/// With as few files as a shell needs: nothing of the agent's takes one of them.
#[test]
fn a_limit_of_files_is_for_the_command_alone() {
    let agent = Agent::start();
    start(&agent, "c", &[]);
    let few = ["--ulimit", "nofile=4:4"];
    let shell = ["--", "sh", "-c", "ulimit -n"];
    let targets: [&[&str]; 6] = [
        &["run", "--rm"],
        &["run", "--rm", "-t"],
        &["run", "--rm", "--init"],
        &["exec", "c"],
        &["exec", "-t", "c"],
        &["debug", "c"],
    ];
    for target in targets {
        let (verb, rest) = target.split_first().expect("a verb");
        let said = agent.ok([&[*verb], &few[..], rest, &shell[..]].concat());
        assert_eq!(said.trim_end(), "4", "{target:?}");
    }
    agent.finish();
}

#[test]
fn a_group_more_is_one_more_of_the_containers_user() {
    let agent = Agent::start();
    start(&agent, "c", &["-u", "1000:2000", "--group-add", "5"]);
    let facts = exec(&agent, "c", &["--group-add", "7"]);
    assert_eq!((&facts.0["uid"], &facts.0["gid"]), (&json!([1000, 1000]), &json!([2000, 2000])));
    let groups = facts.status("Groups");
    let groups: Vec<&str> = groups.split_whitespace().collect();
    assert!(groups.contains(&"5") && groups.contains(&"7"), "{groups:?}");
    let facts = exec(&agent, "c", &["-u", ":9"]);
    assert_eq!((&facts.0["uid"], &facts.0["gid"]), (&json!([1000, 1000]), &json!([9, 9])));
    // Another user has nothing of this one.
    let facts = exec(&agent, "c", &["-u", "77"]);
    assert_eq!((&facts.0["uid"], &facts.0["gid"]), (&json!([77, 77]), &json!([0, 0])));
    assert!(!facts.status("Groups").split_whitespace().any(|group| group == "5"));
    agent.finish();
}
