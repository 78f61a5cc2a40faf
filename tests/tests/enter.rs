//! Commands in the namespaces of any process of the host.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, process::Command};

use conti_proto::v1::{NamespaceType, ProcessTarget, SessionSpec, SessionTarget, session_target};
use conti_tests::{
    Agent,
    api::process,
    facts::{Facts, probe},
    host::{self, namespace},
    plain::Plain,
    wait, wire,
};

fn enter(agent: &Agent, pid: u32, flags: &[&str]) -> Facts {
    let pid = pid.to_string();
    let probe = probe().display().to_string();
    let mut args = vec!["enter", "--target", &pid];
    args.extend(flags);
    args.extend(["--", &probe]);
    Facts::of(agent.ctl(args).run())
}

#[test]
fn all_namespaces_of_a_plain_process_are_entered_at_once() {
    let agent = Agent::start();
    let plain = Plain::start(&[]);
    let pid = plain.pid.to_string();
    let facts = enter(&agent, plain.pid, &["-a"]);
    for kind in ["mnt", "uts", "ipc", "net", "pid", "cgroup", "user", "time"] {
        assert_eq!(facts.namespace(kind), namespace(&pid, kind), "{kind}");
    }
    assert_eq!(facts.text("hostname"), "plain-process");
    assert_ne!(facts.0["pid"], 0, "it has a pid in there");
    drop(plain);
    agent.finish();
}

#[test]
fn each_namespace_can_be_chosen_and_the_others_stay_the_hosts() {
    let agent = Agent::start();
    let plain = Plain::start(&[]);
    let pid = plain.pid.to_string();
    for (flag, kind) in [("-u", "uts"), ("-i", "ipc"), ("-n", "net"), ("-p", "pid")] {
        let facts = enter(&agent, plain.pid, &[flag]);
        assert_eq!(facts.namespace(kind), namespace(&pid, kind), "{flag}");
        for other in ["mnt", "uts", "ipc", "net", "pid"].iter().filter(|other| **other != kind) {
            assert_eq!(facts.namespace(other), namespace("self", other), "{flag}: {other}");
        }
    }
    // /proc of another mount namespace shows the processes of its own pid namespace only: the probe sees
    // itself where it is in both.
    let facts = enter(&agent, plain.pid, &["-m", "-p"]);
    assert_eq!(facts.namespace("mnt"), namespace(&pid, "mnt"));
    assert_eq!(facts.namespace("uts"), namespace("self", "uts"));
    drop(plain);
    agent.finish();
}

#[test]
fn with_no_namespace_the_command_runs_on_the_host_itself() {
    let agent = Agent::start();
    let plain = Plain::start(&[]);
    let facts = enter(&agent, plain.pid, &[]);
    for kind in ["mnt", "uts", "ipc", "net", "pid", "cgroup", "user", "time"] {
        assert_eq!(facts.namespace(kind), namespace("self", kind), "{kind}");
    }
    // Its working directory lies in its own mount namespace: out of reach without that.
    let pid = plain.pid.to_string();
    let refused = agent.ctl(["enter", "--target", &pid, "-w", "--", "pwd"]).run().exits(125);
    assert!(refused.errors().contains("working directory"), "{}", refused.errors());
    drop(plain);
    agent.finish();
}

#[test]
fn working_directory_environment_and_root_are_the_targets_when_asked() {
    let agent = Agent::start();
    let plain = Plain::start(&[]);
    let facts = enter(&agent, plain.pid, &["-a", "-w", "-e"]);
    assert_eq!(facts.text("cwd"), "/usr");
    assert_eq!(facts.0["env"]["PLAIN"], "yes");
    let facts = enter(&agent, plain.pid, &["-a"]);
    assert_eq!(facts.text("cwd"), "/");
    assert!(facts.0["env"].get("PLAIN").is_none());
    drop(plain);

    let mut child = Command::new("sleep")
        .arg("100000")
        .env("PLAIN", OsStr::from_bytes(b"no \xff text"))
        .spawn()
        .expect("sleep(1)");
    let pid = child.id().to_string();
    let shown =
        ["enter", "--target", &pid, "-e", "--", "sh", "-c", "printf %s \"$PLAIN\" | od -An -tx1"];
    let shown = agent.ctl(shown).run();
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert_eq!(shown.exits(0).text().trim(), "6e 6f 20 ff 20 74 65 78 74");

    let root = agent.scratch("root");
    conti_tests::rootfs::build(&root);
    fs::write(root.join("mark"), "other root\n").expect("a file");
    let mut child = Command::new("chroot")
        .arg(&root)
        .args(["/bin/sleep", "100000"])
        .spawn()
        .expect("chroot(1)");
    wait::until_true("the process sleeps", || {
        host::command_line(child.id()).starts_with("/bin/sleep")
    });
    let pid = child.id().to_string();
    assert_eq!(agent.ok(["enter", "--target", &pid, "-r", "--", "cat", "/mark"]), "other root");
    child.kill().expect("killed");
    child.wait().expect("reaped");
    agent.finish();
}

#[test]
fn credentials_are_the_targets_when_asked() {
    let agent = Agent::start();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "1234", "--regid", "2345", "--groups", "3456", "sleep", "100000"]);
    let mut child = command.spawn().expect("setpriv(1) can be started");
    wait::until_true("the process sleeps", || host::command_line(child.id()).starts_with("sleep"));
    let pid = child.id().to_string();
    let out =
        agent.ok(["enter", "--target", &pid, "-S", "-G", "--", "sh", "-c", "id -u; id -g; id -G"]);
    assert_eq!(out, "1234\n2345\n2345 3456");
    // Each alone leaves the rest to root.
    let ids = |flag| agent.ok(["enter", "--target", &pid, flag, "--", "sh", "-c", "id -u; id -G"]);
    assert_eq!(ids("-S"), "1234\n0");
    assert_eq!(ids("-G"), "0\n2345 3456");
    let out = agent.ok(["enter", "--target", &pid, "-n", "--", "id", "-u"]);
    assert_eq!(out, "0");
    child.kill().expect("killed");
    child.wait().expect("reaped");
    agent.finish();
}

#[test]
fn enter_confines_as_exec_does_unless_told_otherwise() {
    let agent = Agent::start();
    let plain = Plain::start(&[]);
    let facts = enter(&agent, plain.pid, &["-a"]);
    assert_eq!(facts.capabilities("CapEff"), 0xa804_25fb);
    assert_eq!(facts.capabilities("CapBnd"), 0xa804_25fb);
    assert_eq!((facts.status("Seccomp"), facts.status("NoNewPrivs")), ("2".into(), "1".into()));
    let fds: Vec<&String> = facts.0["fds"].as_object().expect("fds").keys().collect();
    assert_eq!(fds, ["0", "1", "2"]);
    drop(plain);
    agent.finish();
}

#[test]
fn streams_and_codes_of_an_entered_process_are_those_of_any_session() {
    let agent = Agent::start();
    let plain = Plain::start(&[]);
    let pid = plain.pid.to_string();
    let args = ["enter", "-i", "--target", &pid, "-a", "--", "sh", "-c", "cat; exit 17"];
    let out = agent.ctl(args).stdin(vec![0xa5; 1 << 20]).run().exits(17);
    assert_eq!(out.stdout, vec![0xa5; 1 << 20]);
    agent.ctl(["enter", "--target", &pid, "-a", "--", "no-such-command"]).run().exits(127);
    drop(plain);
    agent.finish();
}

#[test]
fn the_cgroup_of_the_target_is_joined_only_when_asked() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "100000"]);
    let pid = agent.api(async |mut api| api.get("c").await.expect("there").pid);
    let of_target = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    agent.api(async |mut api| {
        for cgroup in [false, true] {
            let target = ProcessTarget { pid, cgroup, ..Default::default() };
            let spec = SessionSpec {
                target: Some(SessionTarget {
                    target: Some(session_target::Target::Process(target)),
                }),
                process: Some(process(["cat", "/proc/self/cgroup"])),
                policy: None,
            };
            let wire = wire::Wire::open(&mut api, wire::start(spec)).await.expect("starts");
            let all = wire.collect().await;
            let got = String::from_utf8_lossy(&all.stdout).into_owned();
            assert_eq!(
                got == of_target,
                cgroup,
                "cgroup: {cgroup}\n{got}\nof the target:\n{of_target}"
            );
        }
    });
    agent.finish();
}

#[test]
fn a_container_is_entered_by_its_name() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--hostname", "pluto", "--", "sleep", "1000"]);
    assert_eq!(agent.ok(["enter", "c", "--", "cat", "/proc/sys/kernel/hostname"]), "pluto");
    agent.finish();
}

#[test]
fn what_is_chosen_of_a_container_without_a_namespace_is_chosen_of_the_whole() {
    let agent = Agent::start();
    let run = ["run", "-d", "--name", "c", "--hostname", "inside", "-e", "A=b", "-u", "7:8"];
    agent.ok([&run[..], &["-w", "/usr", "--", "sleep", "1000"]].concat());
    let script = ["--", "sh", "-c", "hostname; pwd; echo $A; id -u; id -g"];
    for flags in [&[][..], &["-e"], &["-S", "-G"], &["-w"], &["-c"], &["-c", "-w", "-e"]] {
        let told = agent.ok([&["enter", "c"], flags, &script].concat());
        assert_eq!(told, "inside\n/usr\nb\n7\n8", "{flags:?}");
    }
    agent.ok(["rm", "-f", "c"]);
    agent.finish();
}

#[test]
fn entering_a_process_in_its_own_user_namespace_that_is_the_hosts_is_no_error() {
    let agent = Agent::start();
    let plain = Plain::start(&[]);
    agent.api(async |mut api| {
        let target =
            ProcessTarget { pid: plain.pid, namespaces: (1..=8).collect(), ..Default::default() };
        assert!(target.namespaces.contains(&(NamespaceType::User as i32)));
        let spec = SessionSpec {
            target: Some(SessionTarget { target: Some(session_target::Target::Process(target)) }),
            process: Some(process(["true"])),
            policy: None,
        };
        let wire = wire::Wire::open(&mut api, wire::start(spec)).await.expect("starts");
        assert_eq!(conti_tests::api::exit_code(&wire.collect().await.end), 0);
    });
    drop(plain);
    agent.finish();
}

#[test]
fn a_container_says_when_its_process_started_so_that_parts_of_it_can_be_entered_for_sure() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--hostname", "inside", "--", "sleep", "1000"]);
    let json = agent.ctl(["inspect", "c"]).run().success().json();
    let pid = json["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    let pinned = host::pinned(pid).expect("it is alive");
    assert_eq!(json["pid_start_ticks"], pinned.start_ticks);
    assert_eq!(agent.ok(["enter", "c", "-u", "--", "hostname"]), "inside");
    agent.ok(["kill", "c"]);
    agent.ctl(["wait", "c"]).run().exits(137);
    assert_eq!(agent.ctl(["inspect", "c"]).run().success().json()["pid_start_ticks"], 0);
    agent.finish();
}

#[test]
fn a_user_namespace_that_denies_groups_or_has_no_root_is_entered_and_debugged() {
    let agent = Agent::start();
    // As unshare -r, bwrap and flatpak make them: one id each, and setgroups denied.
    for (flags, id) in [
        (["--user", "--map-user=0", "--map-group=0"], "0"),
        (["--user", "--map-user=1000", "--map-group=1000"], "1000"),
    ] {
        let plain = Plain::after(":", &flags);
        let pid = plain.pid.to_string();
        assert_eq!(
            fs::read_to_string(format!("/proc/{pid}/setgroups")).expect("setgroups").trim(),
            "deny"
        );
        let facts = enter(&agent, plain.pid, &["-a"]);
        for kind in ["mnt", "uts", "ipc", "net", "pid", "user"] {
            assert_eq!(facts.namespace(kind), namespace(&pid, kind), "{id}: {kind}");
        }
        assert_eq!(facts.status("Uid").split_whitespace().next(), Some(id));
        assert_eq!(facts.status("Gid").split_whitespace().next(), Some(id));
        assert_eq!(facts.status("Groups"), "");
        let map = agent.ok(["debug", &plain.target(), "--", "cat", "/proc/self/uid_map"]);
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), [id, "0", "1"]);
        // A group that cannot be had is refused, and not left out.
        let args = ["enter", "--target", &pid, "-a", "--group-add", id, "--", "true"];
        let refused = agent.ctl(args).run().exits(125).errors();
        assert!(refused.contains(&format!("could not take on the group {id:?}")), "{refused}");
        assert!(refused.contains("setgroups"), "{refused}");
        drop(plain);
    }
    agent.finish();
}

/// Whoever is root in there has put any program into its mounts: with other rights than its own nothing is run there.
#[test]
fn mounts_of_a_user_namespace_are_entered_in_that_one_only() {
    let agent = Agent::start();
    // A root directory is chosen by root of its user namespace too, also in mounts that belong to the host's.
    let own_mounts = Plain::after(":", &["--user", "--map-root-user"]);
    let hosts_mounts = Plain::below_host_mounts();
    let error = |pid: u32, flags: &[&str]| {
        let pid = pid.to_string();
        let args = [&["enter", "--target", &pid], flags, &["--", "true"]].concat();
        agent.ctl(args).run().exits(125).errors()
    };
    for flags in [&["-m"][..], &["-m", "-p", "-n"], &["-m", "-r", "-w"]] {
        let error = error(own_mounts.pid, flags);
        let says = format!("cannot enter the mount namespace of process \"{}\"", own_mounts.pid);
        assert!(error.contains(&says) && error.contains("(-U)"), "{flags:?}: {error}");
    }
    for pid in [own_mounts.pid, hosts_mounts.pid] {
        let error = error(pid, &["-r"]);
        let says = format!("cannot take the root directory of process \"{pid}\"");
        assert!(error.contains(&says) && error.contains("(-U)"), "{error}");
    }
    for (plain, flags) in [
        (&own_mounts, &["-m", "-U"][..]),
        (&own_mounts, &["-m", "-U", "-r"]),
        (&own_mounts, &["-U", "-r"]),
        (&hosts_mounts, &["-U", "-r"]),
        (&hosts_mounts, &["-m"]),
    ] {
        let of = |joined: bool| if joined { plain.pid.to_string() } else { "self".to_owned() };
        // Their /proc knows the probe only in their pid namespace.
        let facts = enter(&agent, plain.pid, &[flags, &["-p"]].concat());
        for (flag, kind) in [("-U", "user"), ("-m", "mnt")] {
            let expected = namespace(&of(flags.contains(&flag)), kind);
            assert_eq!(facts.namespace(kind), expected, "{flags:?}: {kind}");
        }
    }
    // What holds no programs is entered by itself.
    for flags in [&["-n"][..], &["-u", "-i"], &["-U"]] {
        enter(&agent, own_mounts.pid, flags);
    }
    drop((own_mounts, hosts_mounts));
    agent.finish();
}

#[test]
fn mounts_of_a_user_namespace_above_the_targets_are_entered_with_both() {
    let agent = Agent::start();
    let inner = ["--user", "--map-root-user", "unshare", "--user", "--map-root-user"];
    let plain = Plain::after(":", &inner);
    let facts = enter(&agent, plain.pid, &["-a"]);
    for kind in ["mnt", "user"] {
        assert_eq!(facts.namespace(kind), namespace(&plain.pid.to_string(), kind), "{kind}");
    }
    assert_eq!(agent.ok(["debug", &plain.target(), "--", "id", "-u"]), "0");
    drop(plain);
    agent.finish();
}

#[test]
fn a_process_that_is_not_in_the_user_namespace_of_its_mounts_is_not_entered() {
    let agent = Agent::start();
    let theirs = Plain::after(":", &["--user", "--map-root-user"]);
    let plain = Plain::in_mounts_of(&theirs);
    let (pid, target) = (plain.pid.to_string(), plain.target());
    for args in [
        &["enter", "--target", &pid, "-a", "--", "true"][..],
        &["enter", "--target", &pid, "-m", "--", "true"],
        &["debug", &target, "--", "true"],
    ] {
        let error = agent.ctl(args).run().exits(125).errors();
        let says = format!("cannot enter the mount namespace of process \"{pid}\"");
        assert!(error.contains(&says) && !error.contains("(-U)"), "{args:?}: {error}");
    }
    assert_eq!(agent.ok(["enter", "--target", &pid, "-n", "--", "id", "-u"]), "0");
    drop((plain, theirs));
    agent.finish();
}

mod needs_user_namespaces {
    use super::*;

    #[test]
    fn mounts_of_a_container_are_entered_with_its_ids_only() {
        let agent = Agent::start();
        agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
        let error = agent.ctl(["enter", "c", "-m", "--", "true"]).run().exits(125).errors();
        assert!(
            error.contains("cannot enter the mount namespace") && error.contains("(-U)"),
            "{error}"
        );
        let script = "id -u; readlink /proc/self/ns/user; readlink /proc/self/ns/mnt";
        let pid = agent.api(async |mut api| api.get("c").await.expect("there").pid).to_string();
        let facts =
            agent.ok(["enter", "c", "-m", "-U", "-p", "-n", "-i", "--", "sh", "-c", script]);
        let own = format!("0\n{}\n{}", namespace(&pid, "user"), namespace(&pid, "mnt"));
        assert_eq!(facts, own);
        agent.finish();
    }
}
