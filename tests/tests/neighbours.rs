//! What a process of a container sees of those that Conti lets into its pid namespace: nothing with more
//! rights than its own, at no moment. It has CAP_SYS_PTRACE, and so could take over whatever it sees.

use std::{io::Write as _, process::Stdio, time::Duration};

use conti_tests::{Agent, facts::probe, wait};

/// The capabilities that containers have by default, and CAP_SYS_PTRACE.
const CAPABILITIES: &str = "a80c25fb";

/// A container in which `/watcher` looks at all processes that come.
struct Watched<'a> {
    agent: &'a Agent,
    child: std::process::Child,
    output: std::path::PathBuf,
}

impl Watched<'_> {
    fn start<'a>(agent: &'a Agent, flags: &[&str], watcher: &[&str]) -> Watched<'a> {
        let binary = probe().with_file_name("watcher");
        let volume = format!("{}:/watcher:ro", binary.display());
        let mut args = vec!["run", "-i", "--name", "w", "--cap-add", "SYS_PTRACE", "-v", &volume];
        args.extend(flags);
        args.extend(["--", "/watcher", CAPABILITIES]);
        args.extend(watcher);
        let output = agent.scratch("watched");
        let file = std::fs::File::create(&output).expect("a file");
        let mut command = agent.ctl(args).into_command();
        let child = command.stdin(Stdio::piped()).stdout(file).spawn().expect("it starts");
        let watched = Watched { agent, child, output };
        wait::until_true("the watcher watches", || watched.lines().iter().any(|l| l == "watching"));
        watched
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.output).expect("its output");
        text.lines().map(str::to_owned).collect()
    }

    /// Ends it: what it has found, and how many processes it has seen.
    fn finish(mut self) -> (Vec<String>, usize) {
        let mut stdin = self.child.stdin.take().expect("a pipe");
        // One that ended by itself has said why.
        let _ = stdin.write_all(b"x");
        drop(stdin);
        assert!(self.child.wait().expect("it ends").success());
        let lines = self.lines();
        let seen = lines.iter().find_map(|l| l.strip_prefix("seen ")?.parse().ok());
        self.agent.ok(["rm", "w"]);
        (lines.into_iter().filter(|l| l.starts_with("FOUND")).collect(), seen.expect("a count"))
    }
}

/// Enough for a process that is visible for half a millisecond to be seen many times.
const ROUNDS: usize = 60;

#[test]
fn what_is_let_into_a_container_has_no_more_rights_there_than_the_container() {
    let agent = Agent::start();
    let watched = Watched::start(&agent, &[], &["same-root"]);
    for _ in 0..ROUNDS {
        agent.ok(["exec", "w", "--", "true"]);
        agent.ok(["enter", "w", "--cap-add", "SYS_PTRACE", "--", "true"]);
    }
    let (found, seen) = watched.finish();
    assert!(seen > ROUNDS / 2, "it has seen only {seen} processes");
    assert_eq!(found, [""; 0], "of {seen} processes");
    agent.finish();
}

#[test]
fn what_debugs_a_container_has_no_more_rights_there_than_were_asked_for() {
    let agent = Agent::start();
    let watched = Watched::start(&agent, &[], &[]);
    for _ in 0..ROUNDS {
        agent.ok(["debug", "w", "--", "true"]);
    }
    let (found, seen) = watched.finish();
    assert!(seen > ROUNDS / 4, "it has seen only {seen} processes");
    assert_eq!(found, [""; 0], "of {seen} processes");
    agent.finish();
}

#[test]
fn a_container_that_joins_a_pid_namespace_is_assembled_outside_of_it() {
    let agent = Agent::start();
    let maps =
        ["--ns", "user=private", "--uid-map", "0:300000:65536", "--gid-map", "0:300000:65536"];
    let watched = Watched::start(&agent, &[], &[]);
    for round in 0..ROUNDS {
        let mut args = vec!["run", "--rm", "--ns", "pid=container:w"];
        if round % 3 == 1 {
            args.push("--init");
        }
        if round % 3 == 2 {
            args.extend(maps);
        }
        args.extend(["--", "sh", "-c", "read _ < /proc/self/stat && test -e /proc/1/status"]);
        agent.ctl(args).timeout(Duration::from_secs(60)).run().success();
    }
    let (found, seen) = watched.finish();
    assert!(seen > ROUNDS / 4, "it has seen only {seen} processes");
    assert_eq!(found, [""; 0], "of {seen} processes");
    agent.finish();
}
