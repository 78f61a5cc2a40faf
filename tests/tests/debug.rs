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
    assert_eq!(sh("cat /target/app/config"), "the target's");
    assert_eq!(sh("tr '\\0' ' ' < /proc/1/cmdline").trim(), "/pause");
    assert_eq!(sh("hostname").trim(), "box");
    assert!(sh("cat /target/etc/hosts").contains("box"));
    assert!(!sh("cat /etc/hosts").contains("box"));
    assert_eq!(sh("ls /sys/class/net").trim(), "lo");
    assert_eq!(sh("ls -d /target/pause /pause /app 2> /dev/null; :").trim(), "/target/pause");
    // What is written is written there, also on what is mounted in it.
    sh("echo live > /target/app/logs/b; echo x > /target/scratch/c");
    assert_eq!(fs::read_to_string(root.join("app/logs/b")).expect("written"), "live\n");
    assert_eq!(sh("cat /target/scratch/c").trim(), "x");
    // A working directory is one of the tools' root, as all paths are.
    let at = |dir: &str| agent.ctl(["debug", "--workdir", dir, "c", "--", "pwd"]).run();
    assert_eq!(at("/target/app").success().text(), "/target/app");
    assert!(at("/app").exits(125).errors().contains("/app"));
    // There is a home, and room for what is in passing: the session's own.
    let write = "cd; pwd; for d in /tmp /run /var /dev/shm; do echo > $d/x && ls $d/x; done";
    assert_eq!(sh(write), "/root\n/tmp/x\n/run/x\n/var/x\n/dev/shm/x");
    assert_eq!(sh("ls -d /target/*/x /tmp/x /run/x 2> /dev/null; :"), "");
    // The tools cannot be written, nor can what holds all of it together.
    for path in ["/usr/new", "/new", "/usr/bin/true", "/etc/new", "/dev/new"] {
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
    // No variable of the application.
    let env = shell(&agent, &[], "c", "env");
    let mut names: Vec<&str> =
        env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    // The last two are the shell's own.
    names.retain(|name| !["PWD", "SHLVL", "_"].contains(name));
    assert_eq!(names, ["HOME", "LANG", "PATH"]);
    assert!(env.contains("PATH=/usr/local/sbin:") && env.contains("HOME=/root\n"), "{env}");
    assert!(shell(&agent, &["--setenv", "A=mine"], "c", "env").contains("A=mine\n"));
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
    // What both have is the tools'; the target's is below /target.
    assert_eq!(sh("ls /app").trim(), "");
    assert_eq!(sh("cat /target/app/config"), "the target's");
    assert!(sh("cat /etc/passwd").contains("alice"));
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
        shell(&agent, &[], &target, &format!("cat /target{file}; hostname")),
        "inside\nplain"
    );
    assert_eq!(
        shell(&agent, &[], &target, "readlink /proc/self/ns/net").trim(),
        host::namespace(&plain.pid.to_string(), "net")
    );
    assert_eq!(mountinfo(plain.pid), before);
    // Others mount something on the host meanwhile.
    let here = agent.path("").display().to_string();
    let own = host::mounts_mentioning(&here);
    assert_eq!(
        shell(&agent, &[], "host", "readlink /proc/self/ns/net").trim(),
        host::namespace("self", "net")
    );
    assert!(shell(&agent, &[], "host", "ls /target").contains("usr"));
    assert_eq!(host::mounts_mentioning(&here), own);
    let wrong = format!("pid:{}@1", plain.pid);
    let error = agent.ctl(["debug", &wrong, "--", "true"]).run().exits(125).errors();
    assert!(error.contains("now that of another"), "{error}");
    drop(plain);
    agent.finish();
}

/// A target that would have programs load, read or run what it likes.
const POISON: &str = r#"
    set -e
    mkdir -p etc/profile.d root tmp run/nscd var/run app lib usr/lib opt home
    trap='echo poisoned >> /target/marker; echo poisoned >> /marker'
    printf '%s\n' "$trap" > app/rc
    for file in .profile .bashrc .bash_profile .bash_login .inputrc .shrc; do
        cp app/rc root/$file; cp app/rc $file
    done
    for file in etc/profile etc/bash.bashrc etc/profile.d/x.sh; do cp app/rc $file; done
    cat > evil.c <<'END'
    #include <fcntl.h>
    #include <unistd.h>
    __attribute__((constructor)) static void poison(void) {
        for (int i = 0; i < 2; i++) {
            int fd = open(i ? "/target/marker" : "/marker", O_CREAT | O_WRONLY | O_APPEND, 0600);
            if (fd >= 0) { write(fd, "loaded\n", 7); close(fd); }
        }
    }
    void gconv_init(void) {}
END
    cc -shared -fPIC -w -o app/evil.so evil.c
    for name in libc.so.6 libnss_files.so.2 libtinfo.so.6 libselinux.so.1; do cp app/evil.so app/$name; done
    echo /app/evil.so > etc/ld.so.preload
    echo /app > etc/ld.so.conf
    echo 'passwd: evil' > etc/nsswitch.conf
    cp app/evil.so lib/libnss_evil.so.2; cp app/evil.so usr/lib/libnss_evil.so.2
    printf 'module INTERNAL EVIL// evil 1\nalias UTF-8// EVIL//\n' > app/gconv-modules
    printf 'import os\nopen("/target/marker", "a").write("python")\n' > app/sitecustomize.py
    cp app/sitecustomize.py app/usercustomize.py
    rm evil.c
"#;

#[test]
fn nothing_of_the_target_is_loaded_read_or_run() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    rootfs::build_empty(&root);
    let made = std::process::Command::new("sh").args(["-c", POISON]).current_dir(&root).status();
    assert!(made.expect("sh(1)").success());
    let rootfs = format!("dir:{}", root.display());
    let mut start = vec!["run", "-d", "--name", "c", "--rootfs", &rootfs];
    for variable in [
        "LD_PRELOAD=/app/evil.so",
        "LD_LIBRARY_PATH=/app",
        "LD_AUDIT=/app/evil.so",
        "GLIBC_TUNABLES=glibc.malloc.check=3",
        "BASH_ENV=/target/app/rc",
        "ENV=/target/app/rc",
        "PROMPT_COMMAND=. /target/app/rc",
        "PYTHONPATH=/target/app",
        "PYTHONSTARTUP=/target/app/sitecustomize.py",
        "PYTHONHOME=/app",
        "PERL5LIB=/app",
        "GCONV_PATH=/target/app",
        "LOCPATH=/target/app",
        "TERMINFO=/target/app",
        "HOSTALIASES=/target/app/rc",
        "XDG_CONFIG_HOME=/target/app",
        "HOME=/target/root",
        "TERM=/target/app",
        "LANG=evil",
        "LC_ALL=evil",
        "PATH=/target/app",
        "IFS=x",
        "EDITOR=/target/app/rc",
        "LESSOPEN=|/target/app/rc",
    ] {
        start.extend(["-e", variable]);
    }
    start.extend(["--", "/pause"]);
    agent.ok(start);
    let clean = || {
        let found = fs::read_to_string(root.join("marker")).unwrap_or_default();
        assert_eq!(found, "", "something of the target was run");
    };
    let debug = |flags: &[&str], command: &[&str]| {
        let all = [&["debug", "--privileged"], flags, &["c", "--"], command].concat();
        let outcome = agent.ctl(all).run();
        clean();
        outcome.success().text()
    };
    let present = |name: &str| fs::exists(format!("/usr/bin/{name}")).unwrap_or(false);
    for (program, command) in [
        ("true", &["true"][..]),
        ("bash", &["bash", "-c", "true"]),
        ("bash", &["bash", "-lc", "id; ls -la /"]),
        ("bash", &["bash", "-ic", "true"]),
        ("sh", &["sh", "-lc", "id; ls -l /target"]),
        ("python3", &["python3", "-c", "import encodings.latin_1"]),
        ("perl", &["perl", "-e", "1"]),
        ("iconv", &["sh", "-c", "echo x | iconv -f UTF-8 -t UTF-16 > /tmp/x"]),
        ("tput", &["sh", "-c", "TERM=xterm tput bold > /tmp/x"]),
    ] {
        if present(program) {
            debug(&[], command);
        }
    }
    debug(&["--run-as", "77:88"], &["sh", "-lc", "true"]);
    // The agent's own environment and what is given are all there is.
    let env = debug(&["--setenv", "GIVEN=1"], &["env"]);
    let mut names: Vec<&str> =
        env.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    assert_eq!(names, ["GIVEN", "HOME", "LANG", "PATH"], "{env}");
    // With a terminal the shell that is the default reads its own files.
    let mut terminal = Terminal::spawn(agent.ctl(["debug", "--privileged", "c"]), 80, 24);
    terminal.expect("# ");
    terminal.send("exit 3\r");
    assert_eq!(terminal.wait(), 3);
    clean();
    // The proof that the trap works: the same, asked for.
    let trap = [
        "debug",
        "c",
        "--",
        "sh",
        "-c",
        ". /target/app/rc; LD_PRELOAD=/target/app/evil.so /usr/bin/true",
    ];
    agent.ctl(trap).run().success();
    let sprung = fs::read_to_string(root.join("marker")).expect("both traps leave a mark");
    assert!(sprung.contains("poisoned") && sprung.contains("loaded"), "{sprung}");
    agent.finish();
}

/// What only has the name of a proc or a device is not shown as one.
#[test]
fn what_the_kernel_does_not_show_is_not_in_its_place() {
    let agent = Agent::start();
    let fake = "for d in proc sys dev; do mount -t tmpfs t /$d; done; mkdir /dev/pts
        echo false > /proc/version; echo false > /dev/null; echo false > /dev/pts/0
        mknod /dev/zero c 1 5; mknod /dev/full c 1 3; ln -s zero /dev/random";
    let plain = Plain::after(fake, &[]);
    let found = shell(
        &agent,
        &[],
        &plain.target(),
        "ls /proc /sys /dev/pts; cd /dev; for f in null zero full random; do test -e $f && echo $f; done; :",
    );
    assert_eq!(
        found.split_whitespace().collect::<Vec<_>>(),
        ["/dev/pts:", "/proc:", "/sys:", "zero"]
    );
    drop(plain);
    agent.finish();
}

mod needs_user_namespaces {
    use super::*;

    #[test]
    fn what_the_target_has_mounted_in_proc_and_sysfs_is_not_shown_to_the_tools() {
        let agent = Agent::start();
        agent.ok(["run", "-d", "--name", "c", "--userns", "auto", "--", "sleep", "1000"]);
        let script = "mkdir /tmp/dir && touch /tmp/dir/fake && echo fake >/tmp/file && \
                      mount --bind /tmp/file /proc/version && mount --bind /tmp/dir /proc/1 && \
                      mount --bind /tmp/dir /sys/kernel && cat /proc/version";
        let may = ["--cap-add", "SYS_ADMIN", "--security", "seccomp=unconfined"];
        let exec = [&["exec"], &may[..], &["c", "--", "sh", "-c", script]].concat();
        assert_eq!(agent.ok(exec), "fake");
        let look = "cat /proc/version; ls /proc/1 /sys/kernel; \
                    (echo 1 >/proc/sys/kernel/panic) 2>/dev/null || echo covered";
        for flags in [&[][..], &["--privileged"]] {
            let debug = [&["debug"], flags, &["c", "--", "sh", "-c", look]].concat();
            let seen = agent.ok(debug);
            assert!(!seen.contains("fake"), "{seen}");
            assert!(seen.contains("Linux version") && seen.contains("covered"), "{seen}");
        }
        // What is there of the kernel is there.
        let look = "test -e /proc/1/status && test -d /sys/class && ls -d /proc/self/exe";
        assert_eq!(agent.ok(["debug", "c", "--", "sh", "-c", look]), "/proc/self/exe");
        agent.ok(["rm", "-f", "c"]);
        agent.finish();
    }

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
