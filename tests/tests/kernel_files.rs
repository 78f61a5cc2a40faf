//! `cat`, `ls` and `du` of what the kernel shows of itself: with the rights of the target's main process, and
//! as that process.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use conti_tests::{Agent, plain::Plain, rootfs, wait};

/// Starts a session that sleeps, and gives its pid as the container sees it.
fn sleeping(agent: &Agent, flags: &[&str], seconds: &str) -> u64 {
    agent.ok([&["exec", "--detach"], flags, &["c", "--", "sleep", seconds]].concat());
    let all = agent.ctl(["-o", "json", "procs", "c"]).run().success().json();
    let all = all.as_array().expect("a list").clone();
    let found = all.iter().find(|one| one["argv"][1] == seconds);
    found.and_then(|one| one["target_pid"].as_u64()).expect("its pid")
}

fn refused(agent: &Agent, args: &[&str]) -> String {
    agent.ctl(args.to_vec()).run().exits(125).errors()
}

#[test]
fn the_memory_of_a_process_with_more_rights_is_not_read() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    agent.ok(["exec", "c", "--", "ln", "-s", "/proc", "/tmp/p"]);
    let strong = sleeping(&agent, &["--privileged", "-e", "SECRET=hunter2"], "5001");
    for place in ["/proc", "/tmp/p"] {
        for file in
            ["environ", "mem", "maps", "smaps", "auxv", "syscall", "stack", "task/*/environ"]
        {
            let file = file.replace('*', &strong.to_string());
            let path = format!("{place}/{strong}/{file}");
            let error = refused(&agent, &["cat", "--limit", "1000", "c", &path]);
            assert!(error.contains("ermi") && error.contains(&path), "{path}: {error}");
        }
        // Nor where its files lead to.
        let shown = agent.ctl(["ls", "c", &format!("{place}/{strong}/fd")]).run();
        assert!(!String::from_utf8_lossy(&shown.stdout).contains("pipe:"), "{shown:?}");
        let shown = agent.ctl(["ls", "c", &format!("{place}/{strong}/ns")]).run();
        assert!(!String::from_utf8_lossy(&shown.stdout).contains("mnt:["), "{shown:?}");
    }
    // What has no more rights than the main process is read: it could do so itself.
    let weak = sleeping(&agent, &["-e", "SECRET=open"], "5002");
    assert!(agent.ok(["cat", "c", &format!("/proc/{weak}/environ")]).contains("SECRET=open"));
    assert!(agent.ok(["cat", "c", &format!("/tmp/p/{weak}/maps")]).contains("sleep"));
    assert!(agent.ok(["ls", "c", &format!("/proc/{weak}/fd")]).contains("/dev/null"));
    agent.finish();
}

#[test]
fn proc_self_is_the_targets_main_process() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--hostname", "box", "--", "sleep", "100000"]);
    agent.ok(["exec", "c", "--", "ln", "-s", "../proc/self/status", "/tmp/me"]);
    for path in ["/proc/self/status", "/proc/thread-self/status", "/tmp/me"] {
        let status = agent.ok(["cat", "c", path]);
        assert!(status.contains("\nPid:\t1\n") && status.contains("sleep"), "{path}: {status}");
    }
    for path in [
        "/proc/mounts",
        "/proc/self/mountinfo",
        "/proc/net/dev",
        "/proc/net/unix",
        "/proc/self/cgroup",
        "/proc/sys/kernel/hostname",
        "/proc/sysvipc/shm",
    ] {
        let inside = agent.ok(["exec", "c", "--", "cat", path]);
        assert_eq!(agent.ok(["cat", "c", path]), inside, "{path}");
    }
    // The agent's own is the host's.
    let own = |file: &str| {
        let text = fs::read_to_string(format!("/proc/{}/{file}", agent.pid()));
        text.expect("it is there").strip_suffix('\n').expect("a line").to_owned()
    };
    // Others mount something on the host meanwhile.
    for (path, file) in [("/proc/mounts", "mounts"), ("/proc/self/mountinfo", "mountinfo")] {
        wait::until_true("it is the same", || agent.ok(["cat", "host", path]) == own(file));
    }
    assert_eq!(agent.ok(["cat", "host", "/proc/net/route"]), own("net/route"));
    assert!(agent.ok(["cat", "host", "/proc/self/comm"]).starts_with("contid"));
    // And a process of the host its own, by its number in the proc that it sees.
    let plain = Plain::start(&[]);
    let theirs = || fs::read_to_string(format!("/proc/{}/mountinfo", plain.pid)).expect("it runs");
    wait::until_true("it is the same", || {
        agent.ok(["cat", &plain.target(), "/proc/self/mountinfo"]) == theirs().trim_end()
    });
    assert!(agent.ok(["cat", &plain.target(), "/proc/self/status"]).contains("\nPid:\t1\n"));
    let hostname = agent.ok(["cat", &plain.target(), "/proc/sys/kernel/hostname"]);
    assert_eq!(hostname, "plain-process");
    drop(plain);
    agent.finish();
}

#[test]
fn files_of_the_kernel_are_read_as_the_main_process_and_others_as_root() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    rootfs::build(&root);
    fs::write(root.join("etc/shadow"), "root:x\n").expect("written");
    fs::set_permissions(root.join("etc/shadow"), fs::Permissions::from_mode(0o600)).expect("set");
    let from = format!("dir:{}", root.display());
    let start = ["run", "-d", "--name", "c", "-u", "1000:1000", "--rootfs", &from];
    agent.ok([&start[..], &["--", "sleep", "100000"]].concat());
    assert_eq!(agent.ok(["cat", "c", "/etc/shadow"]), "root:x");
    // Its own memory it may read, but not what is root's.
    assert!(agent.ok(["cat", "c", "/proc/self/environ"]).contains("PATH="));
    let roots = sleeping(&agent, &["-u", "0:0", "-e", "SECRET=hunter2"], "5003");
    let error = refused(&agent, &["cat", "c", &format!("/proc/{roots}/environ")]);
    assert!(error.contains("ermi"), "{error}");
    let error = refused(&agent, &["ls", "c", &format!("/proc/{roots}/fd")]);
    assert!(error.contains("ermission denied"), "{error}");
    let error = refused(&agent, &["du", "c", &format!("/proc/{roots}/fd")]);
    assert!(error.contains("ermission denied"), "{error}");
    agent.finish();
}

#[test]
fn no_magic_link_of_proc_is_followed() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let inside = "ln -s /proc/self/root/etc /tmp/etc; ln -s /proc/1/fd/0 /tmp/fd";
    agent.ok(["exec", "c", "--", "sh", "-c", inside]);
    for path in [
        "/proc/1/root/etc/passwd",
        "/proc/self/cwd/etc/passwd",
        "/proc/self/root",
        "/proc/thread-self/root/etc/passwd",
        "/proc/self/fd/0",
        "/proc/self/exe",
        "/proc/self/ns/mnt",
        "/tmp/etc/passwd",
        "/tmp/fd",
    ] {
        for verb in ["cat", "ls", "du"] {
            let error = refused(&agent, &[verb, "c", path]);
            assert!(error.contains("magic link") && error.contains(path), "{verb} {path}: {error}");
        }
    }
    agent.finish();
}

mod needs_user_namespaces {
    use super::*;

    fn give(path: &Path, id: u32) {
        std::os::unix::fs::chown(path, Some(id), Some(id)).expect("its owner is set");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode is set");
    }

    #[test]
    fn files_are_read_as_root_of_the_containers_own_user_namespace() {
        let agent = Agent::start();
        let data = agent.scratch("data");
        fs::create_dir(&data).expect("a directory");
        for (name, owner) in [("root", 0), ("user", 5), ("beyond", 65_536), ("other", 100_000)] {
            fs::write(data.join(name), name).expect("written");
            give(&data.join(name), owner);
        }
        let volume = format!("{}:/data", data.display());
        let user = ["--ns", "user=private", "--uid-map", "0:100000:65536"];
        let groups = ["--gid-map", "0:100000:65536", "-v", &volume, "--", "sleep", "100000"];
        agent.ok([&["run", "-d", "--name", "c"][..], &user, &groups].concat());
        for name in ["root", "user"] {
            assert_eq!(agent.ok(["cat", "c", &format!("/data/{name}")]), name);
        }
        // Binds are mapped by the container's ids: these owners have none in it.
        for name in ["beyond", "other"] {
            let error = refused(&agent, &["cat", "c", &format!("/data/{name}")]);
            assert!(error.contains("ermission denied"), "{name}: {error}");
        }
        let status = agent.ok(["cat", "c", "/proc/self/status"]);
        assert!(status.contains("\nUid:\t0\t0\t0\t0\n"), "{status}");
        assert!(agent.ok(["cat", "c", "/proc/self/environ"]).contains("PATH="));
        let strong = sleeping(&agent, &["--privileged", "-e", "SECRET=hunter2"], "5004");
        refused(&agent, &["cat", "c", &format!("/proc/{strong}/environ")]);
        agent.finish();
    }
}
