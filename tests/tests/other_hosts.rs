//! Hosts that are made otherwise than the one that the tests run on: each agent here sees such a
//! host, in a mount namespace of its own.

use std::{ffi::OsString, fs, path::Path};

use conti_tests::{Agent, rootfs};

/// Runs a script in a new mount namespace, with the agent's directory as `$dir`, before the agent.
fn after(script: &str, dir: &Path) -> Vec<OsString> {
    let script = format!("set -e; dir=$1; shift; {script}; exec \"$@\"");
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"];
    words.iter().map(OsString::from).chain([dir.into()]).collect()
}

/// A host on which /bin, /lib and /lib64 are directories of their own.
fn unmerged(dir: &Path) -> Vec<OsString> {
    let root = dir.join("scratch/root");
    rootfs::build_unmerged(&root);
    rootfs::copy_named("umount", &root, "/bin/umount");
    fs::create_dir(root.join("old")).expect("a directory can be made");
    fs::write(root.join("etc/shadow"), "root:secret:1::::::").expect("a file can be written");
    // The agent is linked statically: it runs on any root.
    after(
        "root=$dir/scratch/root
         mount --bind $root $root
         for name in proc sys dev; do mount --rbind /$name $root/$name; done
         bin=$(dirname $1); mkdir -p $root/$dir $root/$bin
         mount --bind $dir $root/$dir; mount --bind $bin $root/$bin
         cd $root; pivot_root . old; cd /; umount -l /old",
        dir,
    )
}

#[test]
fn the_default_root_works_where_bin_is_a_directory_of_its_own() {
    let agent = Agent::start_behind(unmerged);
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    // A directory, not a link, and what is in it is that host's.
    assert_eq!(agent.ok(["exec", "c", "--", "stat", "-c", "%F", "/bin"]), "directory");
    assert_eq!(agent.ok(["exec", "c", "--", "stat", "-c", "%F", "/lib"]), "directory");
    assert_eq!(agent.ok(["exec", "c", "--", "ls", "/usr/bin"]), "env\nhead");
    assert_eq!(agent.ok(["exec", "c", "--", "/bin/sh", "-c", "echo $0"]), "/bin/sh");
    assert_eq!(agent.ok(["exec", "c", "--", "env", "echo", "found"]), "found");
    // What is written to each of the program directories stays in the container.
    for name in ["bin", "lib", "usr/bin"] {
        let path = format!("/{name}/mine");
        agent.ok(["exec", "c", "--", "touch", &path]);
        assert!(!agent.scratch("root").join(name).join("mine").exists(), "{path}");
    }
    let secret = agent.ctl(["exec", "c", "--", "cat", "/etc/shadow"]).run();
    assert_ne!(secret.code, 0, "{secret:?}");
    agent.ok(["run", "--rm", "--", "sh", "-c", "test ! -e /bin/mine"]);
    agent.finish();
}

/// A host with version 1 of cgroups alone: without the unified hierarchy that hangs beside it. Where
/// there is no version 1, this is a host without cgroups.
#[test]
fn without_a_unified_hierarchy_containers_run_and_make_no_device_nodes() {
    let script = "for point in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); do
                      umount -l $point
                  done";
    let agent = Agent::start_behind(|dir| after(script, dir));
    let info = agent.ok(["info"]);
    assert!(!info.contains("hybrid") && !info.contains("v2"), "{info}");
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    agent.ok(["exec", "c", "--", "true"]);
    // The policy of devices hangs on the unified hierarchy: without it no node can be made.
    let node = agent.ctl(["exec", "c", "--", "mknod", "/tmp/null", "c", "1", "3"]).run();
    assert_ne!(node.code, 0, "{node:?}");
    agent.ok(["exec", "c", "--", "sh", "-c", "echo lost > /dev/null"]);
    // Everything of it ends with it, though there is no cgroup.kill.
    agent.ok(["exec", "-d", "c", "--", "sh", "-c", "setsid sleep 1000 & sleep 1000"]);
    agent.ok(["rm", "-f", "c"]);
    agent.finish();
}

mod needs_detached_layers {
    use super::*;

    /// A data directory on overlayfs, as in a container of another engine.
    #[test]
    fn where_no_layer_can_lie_on_the_data_directory_it_is_held_in_memory() {
        let script = "mkdir -p $dir/scratch/lower $dir/scratch/upper $dir/scratch/work $dir/data
                      mount -t overlay overlay $dir/data \\
                          -o lowerdir=$dir/scratch/lower,upperdir=$dir/scratch/upper,workdir=$dir/scratch/work";
        let agent = Agent::start_behind(|dir| after(script, dir));
        let script = "echo kept > /note; cat /note";
        let run = agent.ctl(["run", "--rm", "--", "sh", "-c", script]).run().success();
        assert_eq!(run.text(), "kept");
        assert!(run.errors().contains("warning: ") && run.errors().contains("memory"), "{run:?}");
        // Each way to make one says so, and a container can be asked later.
        let create =
            agent.ctl(["create", "--name", "c", "--", "sh", "-c", "test ! -e /note"]).run();
        assert!(create.errors().contains("warning: "), "{create:?}");
        assert!(agent.ok(["inspect", "c"]).contains("held in memory"));
        agent.ok(["start", "c"]);
        assert_eq!(agent.ok(["wait", "c"]), "0");
        // With a user namespace as well, whose overlay is made inside.
        let map =
            ["--ns", "user=private", "--uid-map", "0:400000:65536", "--gid-map", "0:400000:65536"];
        agent.ok([&["run", "--rm"], &map[..], &["--", "touch", "/mine"]].concat());
        agent.finish();
    }
}

/// A data directory on overlayfs, which takes no id map.
#[test]
fn an_agent_whose_containers_have_no_ids_of_their_own_warns_and_says_why() {
    let script = "mkdir -p $dir/scratch/lower $dir/scratch/upper $dir/scratch/work $dir/data
                  mount -t overlay overlay $dir/data \\
                      -o lowerdir=$dir/scratch/lower,upperdir=$dir/scratch/upper,workdir=$dir/scratch/work";
    let warned = |agent: &Agent| {
        let log = agent.log();
        let line = log.lines().find(|line| line.contains("no user namespace of their own"));
        line.map(str::to_owned)
    };
    let agent = Agent::start_behind(|dir| after(script, dir));
    assert!(agent.ok(["info"]).contains("takes no id map"), "{}", agent.ok(["info"]));
    let line = warned(&agent).unwrap_or_else(|| panic!("{}", agent.log()));
    assert!(line.contains("WARN") && line.contains("takes no id map"), "{line}");
    agent.finish();
    // Whoever wants it so is not warned.
    let host = |_: &Path| ["--userns", "host"].map(OsString::from).to_vec();
    let agent = Agent::start_as(|dir| after(script, dir), host);
    assert_eq!(warned(&agent), None);
    agent.finish();
}

/// A host whose administrator has set ids aside for containers, in subuid(5) and subgid(5).
#[test]
fn containers_get_the_ids_that_the_host_has_set_aside_for_a_user() {
    // The file of groups begins later, and has another range that the other file has not.
    let behind = |dir: &Path| {
        after(
            "touch /etc/subuid /etc/subgid
             printf 'x:100000:65536\nconti:1800000000:196608\n' > $dir/scratch/subuid
             printf 'conti:1800065536:131072\nconti:9:9\n' > $dir/scratch/subgid
             for name in subuid subgid; do mount --bind $dir/scratch/$name /etc/$name; done
             set -- \"$@\" --userns-pool conti",
            dir,
        )
    };
    let agent = Agent::start_behind(behind);
    let mut maps = Vec::new();
    for name in ["a", "b"] {
        agent.ok(["run", "-d", "--name", name, "--", "sleep", "1000"]);
        let map = agent.ok(["exec", name, "--", "cat", "/proc/self/uid_map"]);
        maps.push(map.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    maps.sort();
    assert_eq!(maps, ["0 1800065536 65536", "0 1800131072 65536"]);
    let full = agent.ctl(["run", "-d", "--", "true"]).run().exits(125).errors();
    assert!(full.contains("--userns-pool"), "{full}");
    agent.finish();
}
