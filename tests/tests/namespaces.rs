//! The namespaces of a container: private, the host's, or another container's; and what belongs to
//! each of them.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use conti_tests::{
    Agent,
    damage::kill,
    facts::{Facts, PROBE, probe, probe_volume},
    host::{mentioning, namespace},
    wait,
};
use rustix::process::Signal;

const PRIVATE_BY_DEFAULT: [&str; 6] = ["mnt", "pid", "uts", "ipc", "net", "cgroup"];

#[test]
fn a_container_has_its_own_namespaces_but_time_and_where_asked_user() {
    let agent = Agent::start();
    for (flags, shared) in [(&[][..], &["time"][..]), (&["--userns", "host"], &["user", "time"])] {
        let facts = Facts::of_run(&agent, flags);
        for kind in PRIVATE_BY_DEFAULT {
            assert_ne!(facts.namespace(kind), namespace("self", kind), "{kind}");
        }
        for kind in shared {
            assert_eq!(facts.namespace(kind), namespace("self", kind), "{kind}");
        }
    }
    let facts = Facts::of_run(&agent, &[]);
    assert_eq!(facts.0["pid"], 1);
    assert_eq!(facts.0["ppid"], 0);
    assert_eq!(facts.0["processes"], 1, "it sees itself alone");
    agent.finish();
}

#[test]
fn each_namespace_can_be_the_hosts() {
    let agent = Agent::start();
    for (kind, flag) in [
        ("pid", "pid=host"),
        ("uts", "uts=host"),
        ("ipc", "ipc=host"),
        ("net", "net=host"),
        ("cgroup", "cgroup=host"),
    ] {
        let facts = Facts::of_run(&agent, &["--ns", flag, "--userns", "host"]);
        assert_eq!(facts.namespace(kind), namespace("self", kind), "{flag}");
        // What shows the others belongs to the user namespace that owns them.
        let own = agent.ctl(["run", "--rm", "--ns", flag, "--", "true"]).run();
        match kind {
            "uts" | "net" => own.success(),
            _ => own.exits(125),
        };
        for other in PRIVATE_BY_DEFAULT.iter().filter(|other| **other != kind) {
            assert_ne!(facts.namespace(other), namespace("self", other), "{flag}: {other}");
        }
    }
    agent.finish();
}

#[test]
fn each_namespace_can_be_another_containers() {
    let agent = Agent::start();
    let volume = probe_volume();
    agent.ok(["run", "-d", "--name", "first", "-v", &volume, "--", "sleep", "1000"]);
    let first = Facts::of(agent.ctl(["exec", "first", "--", PROBE]).run());
    for kind in ["pid", "uts", "ipc", "net", "cgroup"] {
        let flag = format!("{kind}=container:first");
        let facts = Facts::of_run(&agent, &["--ns", &flag]);
        assert_eq!(facts.namespace(kind), first.namespace(kind), "{flag}");
        for other in PRIVATE_BY_DEFAULT.iter().filter(|other| **other != kind) {
            assert_ne!(facts.namespace(other), first.namespace(other), "{flag}: {other}");
        }
    }
    agent.finish();
}

#[test]
fn a_time_namespace_is_made_on_request() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &["--ns", "time=private"]);
    assert_ne!(facts.namespace("time"), namespace("self", "time"));
    agent.finish();
}

#[test]
fn exec_joins_all_namespaces_of_the_container() {
    let agent = Agent::start();
    let volume = probe_volume();
    agent.ok(["run", "-d", "--name", "c", "-v", &volume, "--", "sleep", "1000"]);
    let pid = agent.api(async |mut api| api.get("c").await.expect("there").pid);
    let facts = Facts::of(agent.ctl(["exec", "c", "--", PROBE]).run());
    for kind in ["mnt", "pid", "uts", "ipc", "net", "cgroup", "user", "time"] {
        assert_eq!(facts.namespace(kind), namespace(&pid.to_string(), kind), "{kind}");
    }
    assert_ne!(facts.0["pid"], 1);
    agent.finish();
}

#[test]
fn a_private_network_has_the_loopback_interface_up_and_no_other() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &[]);
    assert_eq!(facts.0["interfaces"], serde_json::json!(["lo"]));
    assert_eq!(facts.0["loopback"], "ok", "two ends can talk over 127.0.0.1");
    agent.finish();
}

#[test]
fn two_containers_of_one_network_reach_each_other() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "server", "--", "sleep", "1000"]);
    // Both see the same sockets in /proc/net.
    let facts = Facts::of_run(&agent, &["--ns", "net=container:server"]);
    let server = agent.ok(["exec", "server", "--", "readlink", "/proc/self/ns/net"]);
    assert_eq!(facts.namespace("net"), server);
    agent.finish();
}

#[test]
fn host_name_and_domain_name_are_the_containers_own() {
    let agent = Agent::start();
    let before = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let facts = Facts::of_run(&agent, &["--hostname", "pluto", "--domainname", "outer.example"]);
    assert_eq!(facts.text("hostname"), "pluto");
    assert_eq!(facts.text("domainname"), "outer.example");
    let after = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(before, after, "the host keeps its name");
    agent.finish();
}

#[test]
fn the_default_host_name_is_the_beginning_of_the_id() {
    let agent = Agent::start();
    let id = agent.ok(["run", "-d", "--", "sleep", "1000"]);
    assert_eq!(agent.ok(["exec", &id, "--", "cat", "/proc/sys/kernel/hostname"]), id[..12]);
    agent.finish();
}

#[test]
fn kernel_parameters_of_the_containers_own_network_are_set() {
    let agent = Agent::start();
    let path = "/proc/sys/net/ipv4/ip_default_ttl";
    let before = std::fs::read_to_string(path).expect("the host has it");
    let flag = "net.ipv4.ip_default_ttl=77";
    assert_eq!(agent.ok(["run", "--rm", "--sysctl", flag, "--", "cat", path]), "77");
    assert_eq!(std::fs::read_to_string(path).expect("the host has it"), before);
    agent.finish();
}

#[test]
fn the_cgroup_namespace_is_rooted_at_the_containers_own_cgroup() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &[]);
    for line in facts.text("cgroup").lines() {
        let path = line.splitn(3, ':').nth(2).expect("three fields");
        assert!(path == "/" || path.starts_with("/.."), "{line}");
    }
    assert!(
        facts.text("cgroup").lines().any(|line| line.ends_with(":/")),
        "{}",
        facts.text("cgroup")
    );
    agent.finish();
}

/// Kernels can be built or set up without user namespaces.
mod needs_user_namespaces {
    use super::*;

    const MAP: [&str; 6] =
        ["--ns", "user=private", "--uid-map", "0:200000:65536", "--gid-map", "0:200000:65536"];

    #[test]
    fn a_user_namespace_maps_ids_as_asked() {
        let agent = Agent::start();
        let facts = Facts::of_run(&agent, &MAP);
        assert_ne!(facts.namespace("user"), namespace("self", "user"));
        let words: Vec<String> =
            facts.text("uid_map").split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["0", "200000", "65536"]);
        assert_eq!(facts.0["uid"], serde_json::json!([0, 0]));
        assert_eq!(facts.0["gid"], serde_json::json!([0, 0]));
        agent.finish();
    }

    #[test]
    fn the_host_sees_the_mapped_id_and_exec_gets_the_same() {
        let agent = Agent::start();
        let mut args = vec!["run", "-d", "--name", "c"];
        args.extend(MAP);
        args.extend(["--", "sleep", "1000"]);
        agent.ok(args);
        let pid = agent.api(async |mut api| api.get("c").await.expect("there").pid);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("Uid");
        assert_eq!(uid.split_whitespace().next(), Some("200000"));
        assert_eq!(agent.ok(["exec", "c", "--", "id", "-u"]), "0");
        // Root inside may write where root may, and the host's files look like nobody's or mapped.
        agent.ok(["exec", "c", "--", "sh", "-c", "touch /root-was-here && rm /root-was-here"]);
        agent.finish();
    }

    #[test]
    fn a_user_namespace_works_with_the_hosts_network() {
        let agent = Agent::start();
        let mut flags = MAP.to_vec();
        flags.extend(["--ns", "net=host"]);
        let facts = Facts::of_run(&agent, &flags);
        assert_eq!(facts.namespace("net"), namespace("self", "net"));
        assert!(facts.mount_has("/sys", "ro"), "/sys is there, read-only");
        agent.finish();
    }

    #[test]
    fn all_users_ping_and_open_any_port_also_with_ids_of_their_own() {
        let agent = Agent::start();
        check_network(&agent, &["--userns", "auto"]);
        let maps = ["--ns", "user=private", "--uid-map", "0:400000:65536"];
        let maps =
            [&maps[..], &["--gid-map", "0:400000:1", "--gid-map", "1:500000:65535"]].concat();
        // The group that pings must be in the first part of the map.
        assert_eq!(opens(&agent, &maps), (true, false));
        agent.finish();
    }
}

/// Whether a user other than root opens a port below 1024 and a socket to ping with, in a container with these flags.
fn opens(agent: &Agent, flags: &[&str]) -> (bool, bool) {
    let volume = probe_volume();
    let run = ["run", "--rm", "-u", "1000:1000", "-v", &volume];
    let facts = agent.ctl([&run[..], flags, &["--", PROBE, "network"]].concat()).run();
    let facts = facts.success().json();
    let opened = |name: &str| match facts[name].as_str() {
        Some("ok") => true,
        Some("EACCES") => false,
        other => panic!("{flags:?}: {name}: {other:?}"),
    };
    (opened("port"), opened("ping"))
}

/// All users open both in each kind of network of a container's own.
fn check_network(agent: &Agent, flags: &[&str]) {
    assert_eq!(opens(agent, flags), (true, true));
    // What was asked for comes last.
    let limits = [
        "--sysctl=net.ipv4.ip_unprivileged_port_start=1024",
        "--sysctl=net.ipv4.ping_group_range=1 0",
    ];
    assert_eq!(opens(agent, &[flags, &limits[..1]].concat()), (false, true));
    assert_eq!(opens(agent, &[flags, &limits[1..]].concat()), (true, false));
    // Whatever lies on its /proc, and with the proc of another container.
    let covered = ["-v", "/usr:/proc/sys:ro"];
    assert_eq!(opens(agent, &[flags, &covered].concat()), (true, true));
    agent.ok([&["run", "-d", "--name", "a"], flags, &["--", "sleep", "1000"]].concat());
    assert_eq!(opens(agent, &["--ns", "pid=container:a"]), (true, true));
    assert_eq!(opens(agent, &["--ns", "net=container:a"]), (true, true));
    agent.ok(["rm", "-f", "a"]);
}

#[test]
fn all_users_ping_and_open_any_port_in_a_network_of_their_own() {
    let agent = Agent::start();
    let read = |name| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect(name);
    let host = || ["ip_unprivileged_port_start", "ping_group_range"].map(read);
    let before = host();
    check_network(&agent, &["--userns", "host"]);
    assert_eq!(host(), before, "the host's is as it was");
    agent.finish();
}

/// A process that is traced, and stays a zombie when it has ended.
struct Kept(Child);

impl Kept {
    fn process(pid: u32) -> Kept {
        let binary = probe().with_file_name("escape");
        let mut tracer = Command::new(binary);
        tracer.args(["hold", "trace-one", &pid.to_string()]).stdout(Stdio::piped());
        let mut tracer = Kept(tracer.spawn().expect("it can be started"));
        let mut line = String::new();
        let told = tracer.0.stdout.take().expect("a pipe");
        BufReader::new(told).read_line(&mut line).expect("it tells");
        assert_eq!(line, "holds\n");
        tracer
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Its first process ends only when all others are gone, and nothing can be started meanwhile.
#[test]
fn who_comes_into_a_pid_namespace_that_ends_is_told_so() {
    let agent = Agent::start();
    let marker = agent.path("marker").display().to_string();
    let script = format!("sh -c 'sleep 100000; : {marker}' & exec sleep 100000");
    agent.ok(["run", "-d", "--name", "a", "--", "sh", "-c", &script]);
    let inspected = agent.ctl(["-o", "json", "inspect", "a"]).run().success().json();
    let main = u32::try_from(inspected["pid"].as_u64().expect("a pid")).expect("a pid");
    let pid_namespace = namespace(&main.to_string(), "pid");
    let child = || {
        let others = mentioning(&marker).into_iter().map(|other| other.pid);
        let mut others = others.filter(|pid| *pid != main);
        others.find(|pid| namespace(&pid.to_string(), "pid") == pid_namespace)
    };
    wait::until_true("it has its child", || child().is_some());
    let kept = Kept::process(child().expect("its child"));
    kill(main, Signal::KILL);
    let run = ["run", "--rm", "--ns", "pid=container:a", "--", "true"];
    for (call, why) in [
        (&run[..], "its first one has ended"),
        (&["exec", "a", "--", "true"], "container \"a\" is ending"),
    ] {
        let mut said = String::new();
        wait::until_true("nothing can be started there", || {
            said = agent.ctl(call.iter().copied()).run().errors();
            !said.is_empty()
        });
        assert!(said.contains(why), "{call:?}: {said}");
    }
    drop(kept);
    agent.ctl(["wait", "a"]).run().exits(137);
    let said = agent.ctl(run).run().errors();
    assert!(said.contains("to join the pid namespace of it, it must be running"), "{said}");
    agent.finish();
}
