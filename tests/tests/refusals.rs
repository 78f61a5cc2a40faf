//! What is refused for a reason that is not plain to see says that reason.

use std::{fs, process::Command};

use conti_tests::{Agent, host, host_mount::HostMount, wait};
use rustix::mount::MountFlags;

fn refused(agent: &Agent, args: &[&str]) -> String {
    agent.ctl(args.iter().copied()).run().exits(125).errors()
}

/// All of these words are in one sentence.
fn assert_says(text: &str, words: &[&str]) {
    let text = text.lines().next().expect("a sentence");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// The file of a container's cgroup.
fn cgroup_file(pid: u32, name: &str) -> std::path::PathBuf {
    let all = host::cgroups(pid);
    let own = all.iter().filter(|dir| dir.to_string_lossy().contains("/conti-"));
    let found = own.map(|dir| dir.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("no {name} in {all:?}"))
}

#[test]
fn a_limit_of_processes_is_named() {
    let agent = Agent::start();
    let pid =
        agent.api(async |mut api| api.run(conti_tests::api::sleeper("c")).await.expect("runs").pid);
    fs::write(cgroup_file(pid, "pids.max"), "1").expect("a limit");
    for verb in ["exec", "debug"] {
        let text = refused(&agent, &[verb, "c", "--", "true"]);
        assert_says(&text, &["process", "pids", "limit"]);
        assert!(!text.contains("make the namespaces"), "{text}");
    }
    agent.finish();
}

#[test]
fn a_process_whose_user_namespace_has_no_ids_is_named() {
    let agent = Agent::start();
    let mut other = Command::new("unshare").args(["-U", "sleep", "1000"]).spawn().expect("starts");
    let pid = other.id();
    let user = |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).ok();
    wait::until_true("it has its namespace", || user(&pid.to_string()) != user("self"));
    let target = format!("pid:{pid}");
    let pid = pid.to_string();
    let texts = [
        refused(&agent, &["debug", &target, "--", "true"]),
        refused(&agent, &["enter", "--target", &pid, "-a", "--", "true"]),
    ];
    other.kill().expect("killed");
    other.wait().expect("reaped");
    for text in texts {
        assert_says(&text, &[&pid, "user namespace", "no map of users"]);
        assert!(!text.contains("overlap"), "{text}");
    }
    agent.finish();
}

#[test]
fn a_container_that_was_to_be_joined_and_is_gone_is_named_with_its_field() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "a", "--", "sleep", "1000"]);
    for kind in ["net", "ipc", "pid", "uts", "cgroup"] {
        let ns = format!("{kind}=container:a");
        agent.ok(["create", "--name", kind, "--ns", &ns, "--", "sleep", "1000"]);
        agent.ok(["run", "-d", "--name", &format!("{kind}-run"), "--ns", &ns, "--", "true"]);
        agent.ok(["wait", &format!("{kind}-run")]);
    }
    agent.ok(["run", "-d", "--name", "u", "--userns", "container:a", "--", "true"]);
    agent.ok(["wait", "u"]);
    agent.ok(["rm", "-f", "a"]);
    for kind in ["net", "ipc", "pid", "uts", "cgroup"] {
        let text = refused(&agent, &["start", &format!("{kind}-run")]);
        assert_says(&text, &[kind, "namespace", "removed"]);
    }
    let text = refused(&agent, &["start", "u"]);
    assert_says(&text, &["user", "namespace", "removed"]);
    agent.finish();
}

mod needs_user_namespaces {
    use super::*;

    #[test]
    fn an_overlay_is_refused_where_ids_are_mapped() {
        let agent = Agent::start();
        let dir = agent.scratch("lower");
        fs::create_dir(&dir).expect("a directory");
        let flag = format!("type=overlay,lower={0},lower={0},dst=/over", dir.display());
        let run = ["run", "--rm", "--userns", "auto", "--mount", &flag, "--", "true"];
        let text = refused(&agent, &run);
        assert_says(&text, &["overlay", "/over", "--userns host"]);
        agent.finish();
    }

    #[test]
    fn what_takes_no_id_map_is_named_with_its_source_and_filesystem() {
        let agent = Agent::start();
        let dir = agent.scratch("a");
        // procfs knows no idmapped mounts.
        let mounted = HostMount::new("proc", &dir.join("b/c d"), MountFlags::RDONLY);
        let dir = dir.display().to_string();
        let (volume, rootfs) = (format!("{dir}:/host:ro"), format!("dir:{dir}"));
        let below = format!("{dir}/b/c d");
        for flag in [["-v", &volume], ["--rootfs", &rootfs]] {
            let run = ["run", "--rm", "--userns", "auto"];
            let text = refused(&agent, &[&run, &flag[..], &["--", "true"]].concat());
            assert_says(&text, &[&dir, &below, "type proc", "--userns host"]);
        }
        let text = refused(&agent, &["run", "--rm", "-v", "/proc/fs:/mnt/p", "--", "true"]);
        assert_says(&text, &["\"/proc/fs\"", "/mnt/p", "type proc"]);
        agent.ok(["run", "-d", "--name", "c", "--userns", "auto", "--", "sleep", "1000"]);
        let live = format!("{dir}:/mnt:ro");
        let text = refused(&agent, &["mount", "c", &live]);
        assert_says(&text, &[&dir, &below, "type proc", "--userns host"]);
        drop(mounted);
        agent.finish();
    }

    #[test]
    fn what_has_an_id_map_already_is_named() {
        let agent = Agent::start();
        let (plain, below) = (agent.scratch("plain"), agent.scratch("a/b"));
        let mounted = HostMount::idmapped(&plain, &below);
        let above = agent.scratch("a").display().to_string();
        let below = below.display().to_string();
        let volume = |source: &str| format!("{source}:/mnt");
        let rootfs = format!("dir:{below}");
        agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
        for args in [
            &["run", "--rm", "-v", &volume(&below), "--", "true"][..],
            &["run", "--rm", "-v", &volume(&above), "--", "true"],
            &["run", "--rm", "--rootfs", &rootfs, "--", "true"],
            &["mount", "c", &volume(&below)],
        ] {
            let text = refused(&agent, args);
            assert_says(&text, &[&below, "with an id map already", "--userns host"]);
        }
        drop(mounted);
        agent.finish();
    }

    #[test]
    fn ipc_of_another_user_namespace_is_refused_before_anything_is_made() {
        let agent = Agent::start();
        for name in ["a", "b"] {
            agent.ok(["run", "-d", "--name", name, "--userns", "auto", "--", "sleep", "1000"]);
        }
        let both = ["--ns", "net=container:a", "--ns", "ipc=container:b"];
        for flags in [&both[..], &["--userns", "auto", "--ns", "ipc=container:b"]] {
            for verb in [&["run", "--rm"][..], &["create"]] {
                let text = refused(&agent, &[verb, flags, &["--", "true"]].concat());
                assert_says(&text, &["ipc", "user namespace", "--userns container:"]);
                assert!(!text.contains("/dev/mqueue"), "{text}");
            }
        }
        assert_eq!(agent.ok(["ps", "-aq"]).lines().count(), 2);
        // The third kinds have no such bond.
        agent.ok([
            "run",
            "--rm",
            "--ns",
            "net=container:a",
            "--ns",
            "uts=container:b",
            "--",
            "true",
        ]);
        // And where both have the host's there is but one.
        agent.ok(["run", "-d", "--name", "h", "--userns", "host", "--", "sleep", "1000"]);
        let host = ["--userns", "host", "--ns", "ipc=container:h"];
        agent.ok([&["run", "--rm"], &host[..], &["--", "true"]].concat());
        agent.finish();
    }

    #[test]
    fn an_id_without_a_place_is_named_with_those_that_have_one() {
        let agent = Agent::start();
        agent.ok(["run", "-d", "--name", "c", "--userns", "auto", "--", "sleep", "1000"]);
        for (flags, words) in [
            (["--group-add", "70000"], ["group", "70000"]),
            (["-u", "70000"], ["user", "70000"]),
            (["-u", "0:70001"], ["group", "70001"]),
        ] {
            let run = ["run", "--rm", "--userns", "auto"];
            let exec = ["exec"];
            for (verb, target) in [(&run[..], &[][..]), (&exec[..], &["c"][..])] {
                let args = [verb, &flags, target, &["--", "true"]].concat();
                let text = refused(&agent, &args);
                assert_says(&text, &words);
                assert_says(&text, &["0-65535"]);
            }
        }
        agent.finish();
    }

    #[test]
    fn an_overlay_is_refused_as_such_where_ids_are_mapped() {
        let agent = Agent::start();
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(agent.scratch(name)).expect("a directory");
        }
        let path = |name| agent.scratch(name).display().to_string();
        let (lower, upper, work) = (path("lower"), path("upper"), path("work"));
        let mount = format!("type=overlay,lower={lower},upper={upper},work={work},dst=/over");
        let run = |userns| {
            let args = ["run", "--rm", "--userns", userns, "--mount", &mount];
            agent.ctl([&args[..], &["--", "touch", "/over/new"]].concat()).run()
        };
        let text = run("auto").exits(125).errors();
        assert_says(&text, &["mounts[0].overlay", "\"/over\"", "overlayfs takes no id map"]);
        assert_says(&text, &["--userns host"]);
        // What it is made of takes one, and is not to blame.
        assert!(!text.contains(&lower), "{text}");
        run("host").success();
        assert!(agent.scratch("upper/new").exists());
        agent.finish();
    }

    #[test]
    fn groups_of_ping_that_have_no_id_are_refused_with_some_that_have() {
        let agent = Agent::start();
        let args = |range: &str| {
            let sysctl = format!("net.ipv4.ping_group_range={range}");
            let run = ["run", "--rm", "--userns", "auto", "--sysctl", &sysctl];
            let show = ["--", "cat", "/proc/sys/net/ipv4/ping_group_range"];
            [&run, &show[..]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let text = agent.ctl(args("0 2147483647")).run().exits(125).errors();
        assert_says(&text, &["ping_group_range", "\"0 65535\""]);
        assert_eq!(agent.ok(args("0 65535")), "0\t65535");
        agent.finish();
    }
}
