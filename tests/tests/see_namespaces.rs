//! `ns ls`, `ns show` and `ns tree`, against lsns(8) and /proc.

use std::{collections::BTreeMap, fs, process::Command};

use conti_proto::v1::ListNamespacesRequest;
use conti_tests::{Agent, host, plain::Plain};
use serde_json::Value;

const TYPES: [&str; 8] = ["mnt", "uts", "ipc", "net", "pid", "cgroup", "user", "time"];

/// What `ns ls` says, by inode number.
fn list(agent: &Agent, args: &[&str]) -> BTreeMap<u64, Value> {
    let json = agent.ctl([&["-o", "json", "ns"], args].concat()).run().success().json();
    let all = json.as_array().expect("a list").iter();
    all.map(|ns| (ns["inode"].as_u64().expect("an inode"), ns.clone())).collect()
}

/// The inode number of a namespace of a process.
fn inode(pid: &str, kind: &str) -> u64 {
    let link = host::namespace(pid, kind);
    let digits = link.trim_end_matches(']').rsplit('[').next().expect("type:[inode]");
    digits.parse().expect("a number")
}

/// What lsns(8) says, by inode number.
fn lsns() -> BTreeMap<u64, Value> {
    let columns = "NS,TYPE,NPROCS,PID,UID,USER,COMMAND,ONS,PNS";
    let output = Command::new("lsns").args(["-J", "-o", columns]).output().expect("lsns(8)");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let all = json["namespaces"].as_array().expect("a list").iter();
    all.map(|ns| (ns["ns"].as_u64().expect("an inode"), ns.clone())).collect()
}

#[test]
fn namespaces_are_those_that_lsns_lists() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "a", "--", "sh", "-c", "sleep 1000 & sleep 1000"]);
    let map =
        ["--ns", "user=private", "--uid-map", "0:300000:65536", "--gid-map", "0:300000:65536"];
    agent.ok([&["run", "-d", "--name", "b"], &map[..], &["--", "sleep", "1000"]].concat());
    agent.ok(["run", "-d", "--name", "c", "--ns", "net=container:a", "--", "sleep", "1000"]);
    let plain = Plain::start(&["--user", "--map-root-user", "--cgroup"]);
    let pid = |name: &str| {
        agent.ctl(["-o", "json", "inspect", name]).run().success().json()["pid"].to_string()
    };
    let pids = [pid("a"), pid("b"), pid("c"), plain.pid.to_string()];

    let (ours, theirs) = (list(&agent, &["ls"]), lsns());
    let mut compared = 0;
    for pid in &pids {
        for kind in TYPES {
            let inode = inode(pid, kind);
            if inode == self::inode("self", kind) {
                assert_eq!(ours[&inode]["host"], true, "{kind} of {pid}");
                continue;
            }
            let one = &ours[&inode];
            // lsns of util-linux 2.38 leaves out a pid namespace now and then.
            let Some(other) = theirs.get(&inode) else {
                assert_eq!((kind, &one["process_count"]), ("pid", &1.into()), "{one}");
                continue;
            };
            assert_eq!(one["type"], other["type"], "{one} {other}");
            assert_eq!(one["process_count"], other["nprocs"], "{one} {other}");
            assert_eq!(one["lowest"]["pid"], other["pid"], "{one} {other}");
            assert_eq!(one["lowest"]["uid"], other["uid"], "{one} {other}");
            assert_eq!(one["lowest"]["command"], other["command"], "{one} {other}");
            // lsns writes 0 or null for none, and names no owner of a user namespace.
            let relation = |value: &Value| value.as_u64().filter(|&inode| inode != 0);
            assert_eq!(relation(&one["parent_inode"]), relation(&other["pns"]), "{one} {other}");
            if kind != "user" {
                assert_eq!(relation(&one["owner_inode"]), relation(&other["ons"]), "{one} {other}");
            }
            compared += 1;
        }
    }
    assert!(compared >= 20, "{compared} were compared");

    // Whose they are, and that of the host belong to nobody.
    assert_eq!(ours[&inode(&pids[0], "net")]["container_names"].to_string(), r#"["a","c"]"#);
    assert_eq!(ours[&inode(&pids[1], "user")]["container_names"].to_string(), r#"["b"]"#);
    assert_eq!(ours[&inode(&pids[1], "user")]["creator_uid"], 0);
    assert_eq!(ours[&inode("self", "uts")]["container_names"].to_string(), "[]");
    drop(plain);
    agent.finish();
}

#[test]
fn what_is_asked_of_a_target_is_told_of_no_other() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    let plain = Plain::start(&[]);
    for (target, pid) in [
        ("host".to_owned(), "self".to_owned()),
        (plain.target(), plain.pid.to_string()),
        ("c".to_owned(), {
            agent.ctl(["-o", "json", "inspect", "c"]).run().success().json()["pid"].to_string()
        }),
    ] {
        let found = list(&agent, &["show", &target]);
        assert_eq!(found.len(), TYPES.len(), "{target}: {found:?}");
        for kind in TYPES {
            assert_eq!(found[&inode(&pid, kind)]["type"], kind, "{target}");
        }
        let found = list(&agent, &["ls", "--type", "mnt", "--type", "net", &target]);
        assert_eq!(found.len(), 2, "{target}: {found:?}");
    }
    // Read by people.
    let shown = agent.ok(["ns", "show", "c"]);
    assert!(shown.contains("(host)") && shown.contains("SHARED WITH"), "{shown}");
    let tree = agent.ok(["ns", "tree"]);
    let line = format!("mnt:[{}]", inode(&plain.pid.to_string(), "mnt"));
    assert!(tree.lines().any(|l| l.contains(&line) && l.contains("├─")), "{tree}");
    drop(plain);
    agent.finish();
}

#[test]
fn a_namespace_without_processes_says_what_holds_it() {
    let agent = Agent::start();
    let names = agent.scratch("names");
    fs::create_dir(&names).expect("a directory");
    // The mount is made in a mount namespace of its own, which goes with this process.
    let script = format!(
        "touch '{0}/a b'; unshare --net mount --bind /proc/self/ns/net '{0}/a b'
         stat -L -c %i '{0}/a b' > {0}/mounted
         unshare --net sleep 3 & net=$!
         sleep 0.3; exec 9< /proc/$net/ns/net; readlink /proc/self/fd/9 > {0}/open; kill $net; wait $net || true",
        names.display()
    );
    let plain = Plain::after(&script, &["--propagation", "private"]);
    let read = |name: &str| -> u64 {
        let text = fs::read_to_string(names.join(name)).expect("the script wrote it");
        text.trim().trim_start_matches("net:[").trim_end_matches(']').parse().expect("an inode")
    };
    let found = list(&agent, &["ls"]);
    let mounted = &found[&read("mounted")];
    assert_eq!((&mounted["process_count"], &mounted["lowest"]), (&0.into(), &Value::Null));
    assert_eq!(mounted["type"], "net");
    let holders = mounted["holders"].as_array().expect("holders");
    let path = format!("{}/a b", names.display());
    let mount = holders.iter().map(|holder| &holder["mount"]).find(|mount| mount["path"] == path);
    let seen_by = mount.unwrap_or_else(|| panic!("{mounted}"))["pid"].to_string();
    assert_eq!(inode(&seen_by, "mnt"), inode(&plain.pid.to_string(), "mnt"));
    assert_eq!(mounted["owner_inode"], inode("self", "user"));

    let open = &found[&read("open")];
    assert_eq!(open["process_count"], 0);
    let expected = serde_json::json!({"fd": {"pid": plain.pid, "fd": 9}});
    assert!(open["holders"].as_array().expect("holders").contains(&expected), "{open}");
    let shown = agent.ok(["ns", "ls", "--type", "net"]);
    assert!(shown.contains(&format!("held by fd 9 of {}", plain.pid)), "{shown}");
    drop(plain);
    agent.finish();
}

#[test]
fn looking_leaves_nothing_and_holds_nothing() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    list(&agent, &["ls"]);
    // Slots are still refilled behind the run: a few files and processes more, whatever is asked.
    const REFILLED: usize = 16;
    let held = || (host::open_files(agent.pid()), host::descendants(agent.pid()).len());
    let before = held();
    for _ in 0..20 {
        list(&agent, &["ls", "c"]);
    }
    // A client that goes away in the middle.
    agent.api(async |mut api| {
        for _ in 0..20 {
            let stream = api.namespaces.list_namespaces(ListNamespacesRequest::default()).await;
            drop(stream.expect("it is answered"));
        }
    });
    conti_tests::wait::until_true("nothing is left of it", || {
        let now = held();
        now.0 <= before.0 + REFILLED && now.1 <= before.1 + REFILLED
    });
    agent.finish();
}

#[test]
fn a_target_that_is_not_there_is_an_error_of_its_own() {
    let agent = Agent::start();
    let error = |target: &str| agent.ctl(["ns", "show", target]).run().exits(125).errors();
    assert!(error("nobody").contains("there is no container"), "{}", error("nobody"));
    assert!(error("pid:2147483646").contains("no such process"), "{}", error("pid:2147483646"));
    let own = host::pinned(std::process::id()).expect("this process");
    let other = format!("pid:{}@{}", own.pid, own.start_ticks + 1);
    assert!(error(&other).contains("now that of another"), "{}", error(&other));
    agent.ok(["create", "--name", "c", "--", "true"]);
    assert!(error("c").contains("it must be running"), "{}", error("c"));
    agent.finish();
}
