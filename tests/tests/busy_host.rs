//! What is shown of a busy host: 100 containers and 1,000 mounts, beside whatever else runs on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use conti_tests::{Agent, api, host, plain::Plain};
use serde_json::Value;

const CONTAINERS: usize = 100;
const MOUNTS: usize = 1000;
const TYPES: [&str; 6] = ["mnt", "uts", "ipc", "net", "pid", "cgroup"];

fn list(agent: &Agent, args: &[&str]) -> Vec<Value> {
    let json = agent.ctl([&["-o", "json"], args].concat()).run().success().json();
    json.as_array().expect("a list").clone()
}

fn inode(pid: u32, kind: &str) -> u64 {
    let link = host::namespace(&pid.to_string(), kind);
    let digits = link.trim_end_matches(']').rsplit('[').next().expect("type:[inode]");
    digits.parse().expect("a number")
}

#[test]
fn a_hundred_containers_are_told_apart() {
    let agent = Agent::start();
    let pids: BTreeMap<String, u32> = agent.api(async |mut api| {
        let mut pids = BTreeMap::new();
        for number in 0..CONTAINERS {
            let name = format!("c{number}");
            let container = api.run(api::sleeper(&name)).await.expect("it runs");
            pids.insert(name, container.pid);
        }
        pids
    });
    // Every namespace of every container is there once, and is its own.
    let ours: BTreeMap<u64, Value> = list(&agent, &["ns", "ls"])
        .into_iter()
        .map(|ns| (ns["inode"].as_u64().expect("an inode"), ns))
        .collect();
    let columns = ["-J", "-o", "NS,TYPE,NPROCS,PID,COMMAND"];
    let lsns = Command::new("lsns").args(columns).output().expect("lsns(8)").stdout;
    let lsns: Value = serde_json::from_slice(&lsns).expect("JSON");
    let theirs: BTreeMap<u64, &Value> = lsns["namespaces"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|ns| (ns["ns"].as_u64().expect("an inode"), ns))
        .collect();
    let mut compared = 0;
    for (name, pid) in &pids {
        for kind in TYPES {
            let inode = inode(*pid, kind);
            let one = &ours[&inode];
            assert_eq!(one["container_names"], Value::from(vec![name.as_str()]), "{one}");
            assert_eq!((&one["type"], &one["process_count"]), (&kind.into(), &1.into()), "{one}");
            assert_eq!(one["lowest"]["pid"], *pid, "{one}");
            // lsns of util-linux 2.38 leaves out a pid namespace now and then.
            let Some(other) = theirs.get(&inode) else { continue };
            assert_eq!(one["process_count"], other["nprocs"], "{one} {other}");
            assert_eq!(one["lowest"]["pid"], other["pid"], "{one} {other}");
            assert_eq!(one["lowest"]["command"], other["command"], "{one} {other}");
            compared += 1;
        }
    }
    assert!(compared > CONTAINERS * (TYPES.len() - 1), "{compared}");
    // Every process is told with its container, and every container with its process.
    let mut found: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for process in list(&agent, &["procs", "host"]) {
        if let Some(name) =
            process["container_name"].as_str().filter(|_| process["name"] == "sleep")
        {
            let pid = process["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid");
            found.entry(name.to_owned()).or_default().insert(pid);
        }
    }
    assert_eq!(found.len(), CONTAINERS);
    for (name, pid) in &pids {
        assert_eq!(found[name], [*pid].into(), "{name}");
    }
    for name in ["c0", "c50", "c99"] {
        let one = list(&agent, &["procs", name]);
        assert_eq!((one.len(), &one[0]["pid"]), (1, &pids[name].into()));
        let net = agent.ctl(["-o", "json", "net", name]).run().success().json();
        assert_eq!(net["links"].as_array().map(Vec::len), Some(1));
    }
    let names: Vec<&str> = pids.keys().map(String::as_str).collect();
    agent.ok([&["rm", "-f"], &names[..]].concat());
    agent.finish();
}

#[test]
fn a_thousand_mounts_are_those_that_findmnt_lists() {
    let agent = Agent::start();
    let dir = agent.scratch("many");
    let script = format!(
        "mkdir {0}; mount -t tmpfs many {0}; cd {0}; for n in $(seq {MOUNTS}); do mkdir \"$n x\"; mount --bind . \"$n x\"; done",
        dir.display()
    );
    let plain = Plain::after(&script, &["--propagation", "private"]);
    let ours: BTreeMap<u64, Value> = list(&agent, &["mounts", &plain.target()])
        .into_iter()
        .map(|mount| (mount["id"].as_u64().expect("an id"), mount))
        .collect();
    let args =
        ["findmnt", "--json", "--list", "--nofsroot", "-o", "ID,PARENT,TARGET,SOURCE,FSROOT"];
    let findmnt = plain.inside().args(args).output().expect("findmnt(8)").stdout;
    let findmnt: Value = serde_json::from_slice(&findmnt).expect("JSON");
    let theirs = findmnt["filesystems"].as_array().expect("a list");
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > MOUNTS);
    for other in theirs {
        let one = &ours[&other["id"].as_u64().expect("an id")];
        for (field, column) in
            [("parent_id", "parent"), ("point", "target"), ("source", "source"), ("root", "fsroot")]
        {
            assert_eq!(one[field], other[column], "{one} {other}");
        }
    }
    assert_eq!(list(&agent, &["mounts", "--source", "many", &plain.target()]).len(), MOUNTS + 1);
    drop(plain);
    agent.finish();
}
