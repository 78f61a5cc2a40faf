//! What an agent refuses when it is started, and what it says of its policy.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use conti_proto::v1::CreateContainerRequest;
use conti_tests::{Agent, agent::binary, api, audit, wait};
use tempfile::TempDir;

/// A directory that all users reach, with the agent's programs in it.
fn programs() -> TempDir {
    let dir = tempfile::Builder::new().prefix("conti-test-").tempdir().expect("a directory");
    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(dir.path(), all.clone()).expect("a mode");
    for name in ["contid", "conti-runtime"] {
        fs::copy(binary(name), dir.path().join(name)).expect("a copy");
        fs::set_permissions(dir.path().join(name), all.clone()).expect("a mode");
    }
    dir
}

/// The agent in such a directory, behind other words, with these directories.
fn contid(dir: &Path, prefix: &[&str], state: &Path, data: &Path, log: &Path) -> Command {
    let program = dir.join("contid");
    let mut words = prefix.iter().map(Into::into).chain([program.into_os_string()]);
    let mut command = Command::new(words.next().expect("the agent at least"));
    command
        .args(words)
        .arg("--listen")
        .arg(format!("unix://{}", dir.join("contid.sock").display()))
        .arg("--state-dir")
        .arg(state)
        .arg("--data-dir")
        .arg(data)
        .arg("--audit-log")
        .arg(log)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What an agent said that ended by itself with an error.
fn refused(mut command: Command) -> String {
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut child = Killed(command.spawn().expect("it can be started"));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while child.0.try_wait().expect("a child").is_none() {
        assert!(std::time::Instant::now() < deadline, "it goes on as if nothing were wrong");
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = child.0.wait().expect("a child");
    let mut text = String::new();
    for pipe in [
        child.0.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read>),
        child.0.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read>),
    ] {
        pipe.expect("a pipe").read_to_string(&mut text).expect("text");
    }
    assert!(!status.success(), "{text}");
    text
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

#[test]
fn an_agent_that_cannot_work_says_why_instead_of_listening() {
    let dir = programs();
    let (state, data) = (dir.path().join("state"), dir.path().join("data"));
    let user = ["setpriv", "--reuid=64005", "--regid=64005", "--clear-groups"];
    let said = refused(contid(dir.path(), &user, &state, &data, &dir.path().join("log")));
    assert!(!said.contains("listening"), "{said}");
    assert!(said.contains("must be started by root") && said.contains("64005"), "{said}");
    let lacking = ["setpriv", "--bounding-set=-sys_admin"];
    let said = refused(contid(dir.path(), &lacking, &state, &data, &dir.path().join("log")));
    assert!(said.contains("CAP_SYS_ADMIN"), "{said}");
    assert!(!state.exists() && !data.exists(), "nothing was touched");
}

/// Of the limits of processes, that of a user is the one that a test can set for itself.
#[test]
fn an_agent_that_may_have_too_few_threads_says_so() {
    let dir = programs();
    let (state, data) = (dir.path().join("state"), dir.path().join("data"));
    let user = ["setpriv", "--reuid=64007", "--regid=64007", "--clear-groups"];
    let few: Vec<&str> = user.into_iter().chain(["prlimit", "--nproc=2"]).collect();
    let said = refused(contid(dir.path(), &few, &state, &data, &dir.path().join("log")));
    assert!(said.contains("cannot start the threads") && said.contains("pids.max"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn an_agent_that_may_open_too_few_files_for_any_container_says_so() {
    let dir = programs();
    let (state, data) = (dir.path().join("state"), dir.path().join("data"));
    let few = ["prlimit", "--nofile=87:87"];
    let said = refused(contid(dir.path(), &few, &state, &data, &dir.path().join("log")));
    assert!(said.contains("may open 87 files") && said.contains("88 is the least"), "{said}");
    assert!(said.contains("ulimit -n"), "{said}");
}

#[test]
fn a_directory_that_is_somebody_elses_is_left_as_it_is() {
    let dir = programs();
    let (own, others) = (dir.path().join("own"), dir.path().join("others"));
    fs::create_dir(&others).expect("a directory");
    fs::write(others.join("letter"), "").expect("a file");
    fs::set_permissions(&others, fs::Permissions::from_mode(0o755)).expect("a mode");
    for (state, data, flag) in [(&others, &own, "--state-dir"), (&own, &others, "--data-dir")] {
        let said = refused(contid(dir.path(), &[], state, data, &dir.path().join("log")));
        assert!(said.contains(flag) && said.contains("not Conti's own"), "{said}");
        assert_eq!(mode(&others), 0o755);
        assert_eq!(fs::read_dir(&others).expect("a directory").count(), 1);
    }
}

#[test]
fn one_directory_for_both_is_called_so() {
    let dir = programs();
    let both = dir.path().join("both");
    let said = refused(contid(dir.path(), &[], &both, &both, &dir.path().join("log")));
    assert!(said.contains("--data-dir") && said.contains("the same directory as"), "{said}");
}

#[test]
fn a_runtime_that_is_not_the_agents_own_is_refused_with_what_it_is() {
    let dir = programs();
    let (state, data) = (dir.path().join("state"), dir.path().join("data"));
    // The same program, but of another version.
    let mut other = fs::read(binary("conti-runtime")).expect("the runtime");
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let found = |bytes: &[u8]| bytes.windows(version.len()).position(|part| part == version);
    assert!(found(&other).is_some(), "it knows its version");
    while let Some(at) = found(&other) {
        other[at] = b'9';
    }
    fs::write(dir.path().join("other"), other).expect("a program");
    fs::write(dir.path().join("text"), "conti-runtime\n").expect("a file");
    let all = fs::Permissions::from_mode(0o755);
    for name in ["other", "text"] {
        fs::set_permissions(dir.path().join(name), all.clone()).expect("a mode");
    }
    let other = [dir.path().join("other"), dir.path().join("text"), "/bin/true".into()];
    for (runtime, why) in other.iter().zip(["conti-runtime 9", "cannot be asked", "true ("]) {
        let mut command = contid(dir.path(), &[], &state, &data, &dir.path().join("log"));
        command.arg("--runtime").arg(runtime);
        let said = refused(command);
        assert!(!said.contains("listening"), "{said}");
        assert!(said.contains("--runtime") && said.contains(why), "{said}");
        assert!(said.contains(&*runtime.to_string_lossy()), "{said}");
        assert!(!state.exists() && !data.exists(), "nothing was touched");
    }
}

#[test]
fn a_log_that_would_say_nothing_is_refused_and_an_error_is_told_without_one() {
    let dir = programs();
    let (state, data) = (dir.path().join("state"), dir.path().join("data"));
    let agent = || contid(dir.path(), &[], &state, &data, &dir.path().join("log"));
    for level in ["inof", "info,debgu", "contid", ""] {
        let mut by_flag = agent();
        by_flag.args(["--log-level", level]);
        let mut by_variable = agent();
        by_variable.env("CONTID_LOG", level);
        for command in [by_flag, by_variable] {
            let said = refused(command);
            assert!(said.contains("--log-level") && said.contains("is no level"), "{said}");
        }
    }
    for level in ["off", "h2=debug"] {
        let mut command = agent();
        command.args(["--log-level", level, "--listen", "tcp://127.0.0.1:0"]);
        let said = refused(command);
        assert!(said.contains("contid: will not listen on tcp://"), "{said}");
    }
}

#[test]
fn whoever_may_not_look_for_an_authority_is_not_told_that_there_is_none() {
    let dir = programs();
    let data = dir.path().join("data");
    let run = |user: &[&str], verb: &[&str], data: &Path| {
        let program = dir.path().join("contid").into_os_string();
        let mut words = user.iter().map(Into::into).chain([program]);
        let mut command = Command::new(words.next().expect("the agent at least"));
        command.args(words).args(verb).arg("--data-dir").arg(data).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let made = run(&[], &["pki", "init"], &data).output().expect("it can be started");
    assert!(made.status.success(), "{made:?}");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("a mode");
    let user = ["setpriv", "--reuid=64005", "--regid=64005", "--clear-groups"];
    for verb in
        [&["pki", "ls"][..], &["invite", "--role", "viewer", "--name", "a"], &["pki", "init"]]
    {
        let said = refused(run(&user, verb, &data));
        assert!(said.contains("Permission denied") && said.contains("as root"), "{said}");
        assert!(!said.contains("there is no"), "{said}");
    }
    let nowhere = refused(run(&[], &["pki", "ls"], &dir.path().join("nowhere")));
    assert!(nowhere.contains("there is no certificate authority"), "{nowhere}");
}

#[test]
fn two_agents_do_not_write_to_one_audit_log() {
    let agent = Agent::start();
    let dir = programs();
    let (state, data) = (dir.path().join("state"), dir.path().join("data"));
    let log = agent.path("audit/audit.jsonl");
    let said = refused(contid(dir.path(), &[], &state, &data, &log));
    assert!(said.contains("another agent writes to it"), "{said}");
    agent.finish();
}

#[test]
fn no_other_agent_gets_the_directories_of_one_that_runs_whatever_becomes_of_them() {
    let mut agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let dir = programs();
    let other = |how: &str| {
        let (state, data) = (agent.path("state"), agent.path("data"));
        let log = dir.path().join("audit.jsonl");
        let said = refused(contid(dir.path(), &[], &state, &data, &log));
        let holder = format!("another agent (process {})", agent.pid());
        assert!(said.contains(&holder), "{how}: {said}");
    };
    other("as they are");
    for dir in ["state", "data"] {
        fs::remove_file(agent.path(dir).join("lock")).expect("removed");
    }
    other("without the lock files");
    agent.ok(["exec", "c", "--", "true"]);
    for dir in ["state", "data"] {
        fs::rename(agent.path(dir), agent.scratch(dir)).expect("moved");
    }
    other("moved away");
    for dir in ["state", "data"] {
        let _ = fs::remove_dir_all(agent.path(dir));
        fs::rename(agent.scratch(dir), agent.path(dir)).expect("moved back");
    }
    agent.ok(["exec", "c", "--", "true"]);
    agent.kill();
    agent.restart();
    agent.ok(["exec", "c", "--", "true"]);
    agent.finish();
}

#[test]
fn grants_that_make_an_operator_root_are_warned_of_whenever_a_policy_is_read() {
    let agent = audit::with_policy("[operator]\ncapabilities = [\"NET_ADMIN\", \"SYS_ADMIN\"]");
    let told = |name: &str| {
        let log = agent.log();
        log.lines()
            .any(|line| line.contains("WARN") && line.contains(name) && line.contains("root"))
    };
    wait::until_true("the log warns", || told("SYS_ADMIN makes whoever has it"));
    assert!(!told("NET_ADMIN"), "{}", agent.log());
    let text = "[[caller]]\nidentity = \"a\"\nrole = \"operator\"\ncapabilities = [\"BPF\"]";
    fs::write(agent.path("policy.new"), text).expect("a policy");
    fs::rename(agent.path("policy.new"), agent.path("policy.toml")).expect("exchanged");
    wait::until_true("the log warns of the next", || {
        told("[[caller]] 1: BPF makes whoever has it")
    });
    agent.finish();
}

#[test]
fn no_container_is_called_as_the_machine_itself() {
    let agent = Agent::start();
    let run = agent.ctl(["run", "-d", "--name", "host", "--", "sleep", "1000"]).run();
    assert!(run.code != 0 && run.errors().contains("the machine itself"), "{run:?}");
    agent.api(async |mut api| {
        let spec = Some(api::container("host", api::process(["sleep", "1000"])));
        let request = CreateContainerRequest { spec, ..Default::default() };
        let refused = api.containers.create_container(request).await.expect_err("refused");
        assert_eq!(api::reason(&refused), "INVALID_FIELD");
        assert_eq!(api::faulty_fields(&refused), ["spec.name"]);
    });
    agent.finish();
}
