//! A user namespace of its own for each container, with ids that the agent chooses.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
};

use conti_tests::{Agent, facts::Facts, rootfs};
use serde_json::Value;

/// The ids of a container as `inspect` shows them: first one outside, and how many.
fn range(agent: &Agent, name: &str) -> (u64, u64) {
    let json: Value = serde_json::from_str(&agent.ok(["inspect", name])).expect("JSON");
    let container = json.as_array().map_or(&json, |all| &all[0]);
    let find = |which: &str| {
        let map = &container["spec"]["namespaces"][which][0];
        assert_eq!(map["inside"], 0, "{container}");
        let number = |key: &str| map[key].as_u64().expect("a number");
        (number("outside"), number("count"))
    };
    let (users, groups) = (find("uid_mappings"), find("gid_mappings"));
    assert_eq!(users, groups);
    users
}

mod needs_user_namespaces {
    use super::*;

    #[test]
    fn what_containers_get_is_told_of_the_agent() {
        for (flags, told) in [
            (&[][..], "each container has its own, with ids of"),
            (&["--userns-pool", "1700000000:131072"], "1700000000:131072"),
            (&["--userns", "host"], "contid runs with --userns host"),
        ] {
            let flags: Vec<std::ffi::OsString> = flags.iter().map(Into::into).collect();
            let agent = Agent::start_with(|_| flags);
            let info = agent.ok(["info"]);
            let line = info.lines().find(|line| line.starts_with("user_namespaces"));
            assert!(line.is_some_and(|line| line.contains(told)), "{info}");
            agent.finish();
        }
    }

    #[test]
    fn each_container_has_ids_that_no_other_has_also_after_a_restart_of_the_agent() {
        let mut agent = Agent::start();
        let run = |name: &str| {
            ["run", "-d", "--name", name, "--userns", "auto", "--", "sleep", "1000"]
                .map(str::to_owned)
        };
        agent.ok(run("a"));
        agent.ok(run("b"));
        let (a, b) = (range(&agent, "a"), range(&agent, "b"));
        assert_eq!((a.1, b.1), (65_536, 65_536));
        assert!(a.0.abs_diff(b.0) >= 65_536, "{a:?} {b:?}");
        agent.kill();
        agent.restart();
        agent.ok(run("c"));
        let c = range(&agent, "c");
        for other in [a, b] {
            assert!(c.0.abs_diff(other.0) >= 65_536, "{c:?} {other:?}");
        }
        let map = agent.ok(["exec", "c", "--", "cat", "/proc/self/uid_map"]);
        let map: Vec<&str> = map.split_whitespace().collect();
        assert_eq!(map, ["0", &c.0.to_string(), "65536"]);
        // What is root inside is nobody outside, also what is started there later.
        let facts = Facts::of_run(&agent, &["--userns", "auto"]);
        assert_eq!(facts.status("Uid").split_whitespace().next(), Some("0"));
        agent.finish();
    }

    /// As root inside would, which may do everything in a directory of any of its ids.
    #[test]
    fn a_point_is_made_in_a_directory_of_another_user_of_the_container() {
        let agent = Agent::start();
        agent.ok(["run", "-d", "--name", "c", "--userns", "auto", "--", "sleep", "1000"]);
        let script = "mkdir /of && chown 1000:1000 /of && chmod 700 /of";
        agent.ok(["exec", "c", "--", "sh", "-c", script]);
        agent.ok(["mount", "--mkdir", "c", "type=tmpfs,dst=/of/tmpfs"]);
        agent.ok(["umount", "c", "/of/tmpfs"]);
        let owner = agent.ok(["exec", "c", "--", "stat", "-c", "%u:%g", "/of/tmpfs"]);
        assert_eq!(owner, "0:0");
        agent.finish();
    }

    #[test]
    fn ids_are_taken_as_long_as_anybody_has_them() {
        // Room for two.
        let mut agent =
            Agent::start_with(|_| ["--userns-pool", "1700000000:131072"].map(Into::into).to_vec());
        agent.ok(["run", "-d", "--name", "a", "--", "sleep", "1000"]);
        let a = range(&agent, "a");
        agent.ok(["run", "-d", "--name", "b", "--userns", "container:a", "--", "sleep", "1000"]);
        agent.ok(["rm", "-f", "a"]);
        agent.kill();
        agent.restart();
        agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
        assert_ne!(range(&agent, "c"), a, "b has them still");
        let full = agent.ctl(["run", "-d", "--", "true"]).run().exits(125).errors();
        assert!(full.contains("--userns-pool"), "{full}");
        agent.ok(["rm", "-f", "b"]);
        agent.ok(["run", "-d", "--name", "d", "--", "sleep", "1000"]);
        assert_eq!(range(&agent, "d"), a);
        agent.finish();
    }

    #[test]
    fn ids_of_a_container_that_is_there_are_not_given_from_a_pool_that_was_moved() {
        let pool = |dir: &Path| dir.join("pool");
        // The agent is started by a script that reads the pool: another one at each start.
        let mut agent = Agent::start_behind(|dir| {
            fs::write(pool(dir), "1700000000:131072").expect("a file");
            let script = format!("exec \"$@\" --userns-pool \"$(cat {})\"", pool(dir).display());
            ["sh", "-c", &script, "sh"].map(Into::into).to_vec()
        });
        let sleeps =
            |name: &str| ["run", "-d", "--name", name, "--", "sleep", "1000"].map(str::to_owned);
        agent.ok(sleeps("a"));
        // The first one was tried at the start, and rests.
        assert_eq!(range(&agent, "a"), (1_700_065_536, 65_536));
        agent.kill();
        // Two ranges, of which the first has half of the ids of that container.
        fs::write(pool(&agent.path("")), "1700098304:131072").expect("a file");
        agent.restart();
        agent.ok(sleeps("b"));
        assert_eq!(range(&agent, "b").0, 1_700_098_304 + 65_536);
        let full = agent.ctl(sleeps("c")).run().exits(125).errors();
        assert!(full.contains("--userns-pool"), "{full}");
        agent.ok(["rm", "-f", "a"]);
        agent.ok(sleeps("c"));
        assert_eq!(range(&agent, "c").0, 1_700_098_304);
        agent.finish();
    }

    #[test]
    fn ids_that_the_agent_gives_cannot_be_chosen() {
        let agent =
            Agent::start_with(|_| ["--userns-pool", "1700000000:131072"].map(Into::into).to_vec());
        for first in [1_700_000_000u32, 1_700_131_071, 1_699_999_999] {
            let map = format!("0:{first}:65536");
            let run = ["run", "--rm", "--uid-map", &map, "--gid-map", &map, "--", "true"];
            let refused = agent.ctl(run).run().exits(125).errors();
            assert!(refused.contains("--userns-pool"), "{refused}");
        }
        let map = "0:1700131072:65536";
        agent.ok(["run", "--rm", "--uid-map", map, "--gid-map", map, "--", "true"]);
        agent.finish();
    }

    #[test]
    fn a_joined_network_is_shown_and_not_the_hosts() {
        let agent = Agent::start();
        agent.ok(["run", "-d", "--name", "a", "--", "sleep", "1000"]);
        let show = "ls /sys/class/net 2>/dev/null; ls /sys/fs/cgroup 2>/dev/null; true";
        let run = |flags: &[&str]| {
            agent.ok([&["run", "--rm"], flags, &["--", "sh", "-c", show]].concat())
        };
        let own = run(&[]);
        assert!(own.starts_with("lo"), "{own}");
        assert_eq!(run(&["--ns", "net=container:a"]), own);
        // One that belongs to another user namespace is shown by nothing.
        assert_eq!(run(&["--ns", "net=container:a", "--userns", "auto"]), "");
        agent.finish();
    }

    #[test]
    fn what_is_said_twice_is_refused_and_what_has_no_owners_needs_no_map() {
        let agent = Agent::start();
        let twice = ["run", "--rm", "--ns", "user=private", "--userns", "host", "--", "true"];
        let refused = agent.ctl(twice).run().exits(125).errors();
        assert!(refused.contains("both choose the user namespace"), "{refused}");
        agent.ok([
            "run",
            "--rm",
            "-v",
            "/dev/null:/etc/hosts",
            "--",
            "sh",
            "-c",
            "echo x > /etc/hosts",
        ]);
        // A map stands for a namespace of its own, and one that has the host's has none to join.
        let maps = ["--uid-map", "0:100000:1000", "--gid-map", "0:100000:1000"];
        let run = [&["run", "--rm"], &maps[..], &["--", "cat", "/proc/self/uid_map"]].concat();
        let map = agent.ok(run);
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
        agent.ok(["run", "-d", "--name", "h", "--userns", "host", "--", "sleep", "1000"]);
        let joined = ["run", "--rm", "--userns", "container:h", "--", "cat", "/proc/self/uid_map"];
        let map = agent.ok(joined);
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
        agent.finish();
    }

    #[test]
    fn files_keep_their_owners_on_both_sides_of_a_bind() {
        let agent = Agent::start();
        let dir = agent.scratch("shared");
        fs::create_dir(&dir).expect("a directory");
        fs::write(dir.join("root"), "r").expect("a file");
        fs::write(dir.join("ann"), "a").expect("a file");
        chown(dir.join("ann"), Some(1000), Some(1000)).expect("an owner");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("a mode");
        let volume = format!("{}:/s", dir.display());
        let script =
            "stat -c %u:%g /s/root /s/ann; echo x > /s/new; chown 1000:7 /s/new; cat /s/ann";
        let args = ["run", "--rm", "--userns", "auto", "-v", &volume, "--", "sh", "-c", script];
        assert_eq!(agent.ok(args), "0:0\n1000:1000\na");
        let owner = |path: &Path| {
            let meta = fs::metadata(path).expect("it is there");
            (meta.uid(), meta.gid())
        };
        assert_eq!(owner(&dir.join("new")), (1000, 7));
        agent.finish();
    }

    #[test]
    fn a_mount_that_cannot_be_mapped_is_refused_by_name_and_works_without() {
        let agent = Agent::start();
        // procfs knows no idmapped mounts.
        let mount = "type=bind,src=/proc/fs,dst=/mnt/p";
        let args = |userns| {
            ["run", "--rm", "--userns", userns, "--mount", mount, "--", "true"].map(str::to_owned)
        };
        let refused = agent.ctl(args("auto")).run().exits(125).errors();
        assert!(refused.contains("/mnt/p"), "{refused}");
        assert!(refused.contains("--userns host"), "{refused}");
        agent.ok(args("host"));
        agent.finish();
    }

    #[test]
    fn roots_of_each_kind_and_what_enters_later_have_the_same_ids() {
        let agent = Agent::start();
        let root = agent.scratch("root");
        rootfs::build(&root);
        let dir = format!("dir:{}", root.display());
        for flags in [vec![], vec!["--rootfs", &dir], vec!["--rootfs", &dir, "--overlay"]] {
            let mut args = vec!["run", "-d", "--name", "c", "--userns", "auto"];
            args.extend(flags.iter().copied());
            args.extend(["--", "sleep", "1000"]);
            agent.ok(args);
            let (first, _) = range(&agent, "c");
            let wanted = format!("         0 {first:>10}      65536");
            for verb in [vec!["exec", "c"], vec!["enter", "c"], vec!["debug", "c"]] {
                let mut args = verb.clone();
                args.extend(["--", "cat", "/proc/self/uid_map"]);
                let map = agent.ok(args);
                assert_eq!(
                    map.split_whitespace().collect::<Vec<_>>(),
                    wanted.split_whitespace().collect::<Vec<_>>(),
                    "{verb:?} {flags:?}"
                );
            }
            let script = "touch /new && test $(stat -c %u /new) = 0 && test $(stat -c %u /etc) = 0";
            agent.ok(["exec", "c", "--", "sh", "-c", script]);
            agent.ok(["rm", "-f", "c"]);
        }
        agent.finish();
    }
}
