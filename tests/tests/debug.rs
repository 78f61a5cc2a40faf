//! `debug`: the caller's own tools in a target that has none.

use std::{fs, path::PathBuf};

use conti_proto::v1::{
    DebugTarget, HostTools, SessionSpec, SessionTarget, StartSessionRequest, Target, debug_target,
    session_target, target,
};
use conti_tests::{Agent, api, host, plain::Plain, rootfs, terminal::Terminal};

/// Starts a container of one static program.
fn empty(agent: &Agent, flags: &[&str]) -> PathBuf {
    let root = agent.scratch("root");
    rootfs::build_empty(&root);
    fs::create_dir_all(root.join("app/logs")).expect("a directory");
    fs::write(root.join("app/config"), "the target's").expect("a file");
    let rootfs = format!("dir:{}", root.display());
    let start = ["run", "-d", "--name", "c", "--hostname", "box", "--rootfs", &rootfs];
    agent.ok([&start[..], flags, &["--", "/pause"]].concat());
    root
}

fn shell(agent: &Agent, flags: &[&str], target: &str, script: &str) -> String {
    agent.ok([&["debug"], flags, &[target, "--", "sh", "-c", script]].concat())
}

fn pid(agent: &Agent) -> u32 {
    let json = agent.ctl(["-o", "json", "inspect", "c"]).run().success().json();
    json["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid")
}

fn mountinfo(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts")
}

#[test]
fn a_container_with_nothing_inside_is_looked_into_with_the_hosts_tools() {
    let agent = Agent::start();
    let root = empty(&agent, &["--mount", "type=tmpfs,dst=/scratch"]);
    let before = (mountinfo(pid(&agent)), fs::read_dir(&root).expect("its root").count());
    let sh = |script: &str| shell(&agent, &[], "c", script);
    // Its files, its processes, its names, its network.
    assert_eq!(sh("cat /app/config"), "the target's");
    assert_eq!(sh("cat /target/app/config"), "the target's");
    assert_eq!(sh("tr '\\0' ' ' < /proc/1/cmdline").trim(), "/pause");
    assert_eq!(sh("hostname").trim(), "box");
    assert!(sh("cat /etc/hosts").contains("box"));
    assert_eq!(sh("ls /sys/class/net").trim(), "lo");
    assert_eq!(sh("ls /target/pause /pause | wc -l").trim(), "2");
    // What is written is written there, also on what is mounted in it.
    sh("echo live > /app/logs/a; echo live > /target/app/logs/b; echo x > /scratch/c");
    assert_eq!(fs::read_to_string(root.join("app/logs/a")).expect("written"), "live\n");
    assert_eq!(fs::read_to_string(root.join("app/logs/b")).expect("written"), "live\n");
    assert_eq!(sh("cat /target/scratch/c").trim(), "x");
    // The tools cannot be written, nor can what holds all of it together.
    for path in ["/usr/new", "/new", "/usr/bin/true"] {
        let outcome = agent.ctl(["debug", "c", "--", "sh", "-c", &format!("echo > {path}")]).run();
        assert!(outcome.exits(2).errors().contains("Read-only file system"), "{path}");
    }
    // The target sees none of it, now and while a session is there.
    assert_eq!((mountinfo(pid(&agent)), fs::read_dir(&root).expect("its root").count()), before);
    let id = agent.ok(["debug", "--detach", "c", "--", "sleep", "1000"]);
    assert_eq!(mountinfo(pid(&agent)), before.0);
    assert!(agent.ok(["procs", "c"]).contains("sleep 1000"));
    assert!(agent.ok(["sessions"]).contains(&id.trim()[..12]));
    agent.finish();
}

/// Root's confinement is the container's, and so are its limits.
#[test]
fn the_confinement_is_the_containers_unless_said_otherwise() {
    let agent = Agent::start();
    empty(
        &agent,
        &["-u", "1234:1234", "-e", "LD_PRELOAD=/evil.so", "-e", "PATH=/app", "-e", "A=b"],
    );
    let status = |flags: &[&str], fields: &str| {
        let script = format!("grep -E '^({fields}):' /proc/self/status");
        shell(&agent, flags, "c", &script)
    };
    let exec = fs::read_to_string(format!("/proc/{}/status", pid(&agent))).expect("its status");
    for field in ["CapBnd", "NoNewPrivs", "Seccomp"] {
        let theirs = exec.lines().find(|line| line.starts_with(field)).expect(field);
        assert_eq!(status(&[], field).trim(), theirs, "{field}");
    }
    assert!(status(&[], "Uid").contains("\t0\t0\t0\t0"));
    assert!(status(&["--run-as", "77:88"], "Uid").contains("\t77\t77"));
    // CAP_SYS_PTRACE is bit 19.
    let caps = status(&["--cap-add", "SYS_PTRACE"], "CapEff");
    let bits = caps.split_whitespace().nth(1).map(|bits| u64::from_str_radix(bits, 16));
    assert_ne!(bits.expect("a set").expect("a number") & (1 << 19), 0);
    let cgroup = shell(&agent, &[], "c", "cat /proc/self/cgroup");
    assert_eq!(cgroup, shell(&agent, &[], "c", "cat /proc/1/cgroup"));
    // The application's variables, but not those that would lead the tools astray.
    let env = shell(&agent, &[], "c", "env");
    assert!(env.contains("A=b\n") && !env.contains("LD_PRELOAD"), "{env}");
    assert!(env.contains("PATH=/usr/local/sbin:"), "{env}");
    assert!(
        shell(&agent, &["--setenv", "PATH=/usr/bin:/x"], "c", "env").contains("PATH=/usr/bin:/x\n")
    );
    // Nothing of the host but programs.
    let error = agent.ctl(["debug", "c", "--", "ls", &agent.path("").display().to_string()]).run();
    assert!(error.exits(2).errors().contains("No such file"));
    agent.finish();
}

#[test]
fn tools_of_a_directory_and_a_target_that_has_some_of_its_own() {
    let agent = Agent::start();
    let tools = agent.scratch("tools");
    rootfs::build(&tools);
    fs::create_dir(tools.join("extra")).expect("a directory");
    fs::write(tools.join("extra/file"), "the tools'").expect("a file");
    fs::create_dir(tools.join("app")).expect("a directory");
    fs::write(tools.join("usr/bin/own"), "#!/bin/sh\necho mine\n").expect("a file");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(tools.join("usr/bin/own"), executable).expect("changed");
    empty(&agent, &[]);
    let from = format!("dir:{}", tools.display());
    let sh = |script: &str| shell(&agent, &["--tools", &from], "c", script);
    assert_eq!(sh("own").trim(), "mine");
    assert_eq!(sh("cat /extra/file"), "the tools'");
    // What both have is the target's, but for programs.
    assert_eq!(sh("cat /app/config"), "the target's");
    assert_eq!(sh("test -e /etc/passwd || echo none").trim(), "none");
    let missing = agent.ctl(["debug", "--tools", "dir:/nowhere", "c", "--", "sh"]).run();
    let missing = missing.exits(125).errors();
    assert!(missing.contains("/nowhere") && missing.contains("No such file"), "{missing}");
    let none = agent.ctl(["debug", "--tools", &from, "c", "--", "nonesuch"]).run();
    assert!(none.exits(127).errors().contains("nonesuch"));
    // One with programs of its own shows those of the tools, and its own below /target.
    agent.ok(["run", "-d", "--name", "full", "--rootfs", &from, "--", "sleep", "1000"]);
    let sizes = shell(&agent, &[], "full", "ls /usr/bin | wc -l; ls /target/usr/bin | wc -l");
    let sizes: Vec<u32> = sizes.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    assert!(sizes[0] > sizes[1] && sizes[1] > 10, "{sizes:?}");
    agent.finish();
}

#[test]
fn a_plain_process_and_the_host_are_targets_too() {
    let agent = Agent::start();
    let dir = agent.scratch("dir");
    let script = format!(
        "hostname plain; mkdir -p {0}; mount -t tmpfs t {0}; echo inside > {0}/file",
        dir.display()
    );
    let plain = Plain::after(&script, &[]);
    let target = plain.target();
    let file = dir.join("file").display().to_string();
    let before = mountinfo(plain.pid);
    assert_eq!(
        shell(&agent, &[], &target, &format!("cat {file} /target{file}; hostname")),
        "inside\ninside\nplain"
    );
    assert_eq!(
        shell(&agent, &[], &target, "readlink /proc/self/ns/net").trim(),
        host::namespace(&plain.pid.to_string(), "net")
    );
    assert_eq!(mountinfo(plain.pid), before);
    let own = mountinfo(std::process::id());
    assert_eq!(
        shell(&agent, &[], "host", "readlink /proc/self/ns/net").trim(),
        host::namespace("self", "net")
    );
    assert!(shell(&agent, &[], "host", "ls /target").contains("usr"));
    assert_eq!(mountinfo(std::process::id()), own);
    let wrong = format!("pid:{}@1", plain.pid);
    let error = agent.ctl(["debug", &wrong, "--", "true"]).run().exits(125).errors();
    assert!(error.contains("now that of another"), "{error}");
    drop(plain);
    agent.finish();
}

mod needs_user_namespaces {
    use super::*;

    #[test]
    fn a_container_with_a_user_namespace_is_a_target() {
        let agent = Agent::start();
        let root = empty(
            &agent,
            &["--ns", "user=private", "--uid-map", "0:100000:65536", "--gid-map", "0:100000:65536"],
        );
        assert_eq!(
            shell(&agent, &[], "c", "id -u; cat /target/app/config").trim(),
            "0\nthe target's"
        );
        assert!(!root.join("usr").exists());
        agent.finish();
    }
}

#[test]
fn a_terminal_and_exit_codes_are_as_elsewhere() {
    let agent = Agent::start();
    empty(&agent, &[]);
    // Without a command it is a shell, with a terminal where there is one.
    let mut terminal = Terminal::spawn(agent.ctl(["debug", "c"]), 80, 24);
    terminal.expect("# ");
    terminal.send("tty; exit 7\r");
    terminal.expect("/dev/pts/");
    assert_eq!(terminal.wait(), 7);
    let upper = agent.ctl(["debug", "c", "--", "tr", "a-z", "A-Z"]).stdin("hello").run();
    assert_eq!(upper.success().text(), "HELLO");
    agent.ctl(["debug", "c", "--", "sh", "-c", "exit 3"]).run().exits(3);
    agent.ok(["create", "--name", "still", "--", "true"]);
    assert!(agent.ctl(["debug", "still"]).run().exits(125).errors().contains("must be running"));
    agent.finish();
}

#[test]
fn bad_requests_are_refused() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let container =
            |key: &str| Some(Target { target: Some(target::Target::Container(key.to_owned())) });
        let host = Some(debug_target::Tools::Host(HostTools {}));
        let dir = |path: &str| Some(debug_target::Tools::Directory(path.to_owned()));
        for (target, tools, field) in [
            (None, host.clone(), "spec.target.debug.target"),
            (container("c"), None, "spec.target.debug.tools"),
            (container("c"), dir("tools"), "spec.target.debug.directory"),
            (container("c"), dir("/a\0b"), "spec.target.debug.directory"),
        ] {
            let debug = session_target::Target::Debug(DebugTarget { target, tools });
            let spec = SessionSpec {
                target: Some(SessionTarget { target: Some(debug) }),
                process: Some(api::process(["true"])),
                ..Default::default()
            };
            let request = StartSessionRequest { spec: Some(spec), request_id: String::new() };
            let error = api.sessions.start_session(request).await.expect_err("it is refused");
            assert_eq!(api::faulty_fields(&error), [field]);
        }
    });
    agent.finish();
}

/// The proof that the comparisons above would see a mount.
#[test]
fn a_mount_in_the_target_would_be_seen() {
    let agent = Agent::start();
    empty(&agent, &[]);
    let before = mountinfo(pid(&agent));
    agent.ok(["mount", "c", "/usr:/app/logs:ro"]);
    assert_ne!(mountinfo(pid(&agent)), before);
    agent.finish();
}
