//! `unshare`: commands on the host's own root, in new namespaces.

use std::fs;

use conti_tests::{
    Agent,
    facts::{Facts, probe},
    host::namespace,
};

const TYPES: [(&str, &str); 8] = [
    ("-m", "mnt"),
    ("-u", "uts"),
    ("-i", "ipc"),
    ("-n", "net"),
    ("-p", "pid"),
    ("-C", "cgroup"),
    ("-U", "user"),
    ("-T", "time"),
];

fn unshare(agent: &Agent, flags: &[&str]) -> Facts {
    let probe = probe().display().to_string();
    Facts::of(agent.ctl([&["unshare"], flags, &["--", &probe]].concat()).run())
}

#[test]
fn only_what_is_asked_for_is_new() {
    let agent = Agent::start();
    let none = unshare(&agent, &[]);
    for (_, kind) in TYPES {
        assert_eq!(none.namespace(kind), namespace("self", kind), "{kind}");
    }
    for (flag, new) in TYPES {
        let facts = unshare(&agent, &[flag]);
        for (_, kind) in TYPES {
            let same = facts.namespace(kind) == namespace("self", kind);
            assert_eq!(same, kind != new, "{flag}: {kind}");
        }
    }
    let all: Vec<&str> = TYPES.iter().map(|(flag, _)| *flag).chain(["--mount-proc"]).collect();
    let facts = unshare(&agent, &all);
    for (_, kind) in TYPES {
        assert_ne!(facts.namespace(kind), namespace("self", kind), "{kind}");
    }
    assert_eq!(facts.0["pid"], 1);
    agent.finish();
}

#[test]
fn the_root_is_the_hosts_and_mounts_are_its_own() {
    let agent = Agent::start();
    let dir = agent.scratch("dir");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("mark"), "of the host\n").expect("a file");
    let path = dir.display().to_string();
    // As the tutorial has it: a mount that nobody else sees.
    let script = format!(
        "cat {path}/mark; mount -t tmpfs new {path}; ls -A {path}; findmnt -no SOURCE {path}"
    );
    assert_eq!(agent.ok(["unshare", "--mount", "--", "sh", "-c", &script]), "of the host\nnew");
    assert!(dir.join("mark").exists());
    // PID 1, and /proc knows nothing of the host.
    let script = "echo $$; ls -d /proc/[0-9]* | wc -l; hostname inside; hostname";
    let out = agent.ok(["unshare", "--pid", "--uts", "--mount-proc", "--", "sh", "-c", script]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((lines[0], lines[2]), ("1", "inside"));
    assert!(lines[1].parse::<u32>().expect("a number") <= 3, "{out}");
    let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
    assert_ne!(name.trim(), "inside");
    assert_eq!(agent.ok(["unshare", "-n", "--", "cat", "/sys/class/net/lo/operstate"]), "unknown");
    agent.finish();
}

#[test]
fn propagation_is_as_it_was_asked_for() {
    let agent = Agent::start();
    let tags = |flag: &[&str]| {
        let flags = [&["unshare", "--mount"], flag, &["--", "cat", "/proc/self/mountinfo"]];
        let mountinfo = agent.ok(flags.concat());
        let root = mountinfo.lines().find(|line| line.split(' ').nth(4) == Some("/"));
        let fields = root.expect("a root").split(" - ").next().expect("a line").to_owned();
        (fields.contains(" shared:"), fields.contains(" master:"))
    };
    assert_eq!(tags(&[]), (false, false));
    assert_eq!(tags(&["--propagation", "private"]), (false, false));
    assert!(tags(&["--propagation", "shared"]).0);
    let host = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let root = host.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
    assert_eq!(tags(&["--propagation", "unchanged"]).0, root.contains(" shared:"));
    // A slave of something only where the host's is shared.
    assert_eq!(tags(&["--propagation", "slave"]).1, root.contains(" shared:"));
    agent.finish();
}

#[test]
fn its_rights_are_the_agents_unless_it_is_to_be_confined() {
    let agent = Agent::start();
    let own = fs::read_to_string("/proc/self/status").expect("status");
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a line").trim();
    let own = u64::from_str_radix(own, 16).expect("a set");
    assert_eq!(unshare(&agent, &["-m"]).capabilities("CapEff"), own);
    let confined = unshare(&agent, &["-m", "--confined"]);
    assert_eq!(confined.capabilities("CapEff"), 0xa804_25fb & own);
    assert_eq!(confined.status("Seccomp"), "2");
    agent.finish();
}

mod needs_user_namespaces {
    use super::*;

    #[test]
    fn without_an_id_0_the_command_has_the_id_that_stands_for_the_agents() {
        let agent = Agent::start();
        let ids = |flags: &[&str]| {
            let command = ["--", "sh", "-c", "id -u; id -g; cat /proc/self/uid_map"];
            let out = agent.ok([&["unshare", "--user"], flags, &command].concat());
            out.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let one = ["--uid-map", "1000:0:1", "--gid-map", "100:0:1"];
        assert_eq!(ids(&one), ["1000", "100", "1000", "0", "1"]);
        // Where the agent has no id inside, the first that there is.
        let others = ["--uid-map", "7:300000:10", "--gid-map", "8:300000:10"];
        assert_eq!(ids(&others), ["7", "8", "7", "300000", "10"]);
        agent.finish();
    }

    #[test]
    fn ids_are_mapped_as_asked_and_else_stand_for_themselves() {
        let agent = Agent::start();
        let map = |flags: &[&str]| {
            let all = [&["unshare", "--user"], flags, &["--", "cat", "/proc/self/uid_map"]];
            agent.ok(all.concat()).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(map(&[]), ["0", "0", "4294967295"]);
        let flags = ["--uid-map", "0:300000:10", "--gid-map", "0:300000:10"];
        assert_eq!(map(&flags), ["0", "300000", "10"]);
        // Without id 0 the first id stands for root.
        let flags = ["--uid-map", "1000:0:1", "--gid-map", "1000:0:1"];
        assert_eq!(map(&flags), ["1000", "0", "1"]);
        // Root in there may mount in its own mount namespace.
        agent.ok(["unshare", "-U", "-m", "--", "mount", "-t", "tmpfs", "none", "/mnt"]);
        agent.ok(["unshare", "-U", "-p", "-m", "--mount-proc", "--", "sh", "-c", "test $$ = 1"]);
        agent.finish();
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let agent = Agent::start();
    use conti_proto::v1::{IdMapping, SessionSpec, SessionTarget, UnshareTarget, session_target};
    use conti_tests::{api, wire};
    let open = |unshare| {
        let target = SessionTarget { target: Some(session_target::Target::Unshare(unshare)) };
        wire::start(SessionSpec {
            target: Some(target),
            process: Some(api::process(["true"])),
            policy: None,
        })
    };
    let map = IdMapping { inside: 0, outside: 0, count: 1 };
    agent.api(async |mut api| {
        for (field, target) in [
            ("mount_proc", UnshareTarget { mount_proc: true, ..Default::default() }),
            ("propagation", UnshareTarget { propagation: 2, ..Default::default() }),
            ("uid_mappings", UnshareTarget { uid_mappings: vec![map], ..Default::default() }),
            (
                "gid_mappings",
                UnshareTarget {
                    namespaces: vec![7],
                    uid_mappings: vec![map],
                    ..Default::default()
                },
            ),
            ("namespaces[0]", UnshareTarget { namespaces: vec![99], ..Default::default() }),
        ] {
            let error = wire::Wire::open(&mut api, open(target)).await.err().expect(field);
            assert_eq!(error.code(), tonic::Code::InvalidArgument, "{field}");
            assert!(error.message().contains(field), "{field}: {error:?}");
        }
    });
    let error = agent.ctl(["unshare", "-m", "--", "nothing-of-the-kind"]).run().exits(127).errors();
    assert!(error.contains("could not find the command"), "{error}");
    agent.finish();
}
