//! The root filesystem of a container as its processes see it.

use std::{collections::BTreeSet, fs};

use conti_tests::{
    Agent,
    facts::{Facts, PROBE, probe_volume},
    host, rootfs,
};

#[test]
fn the_root_is_pivoted_and_no_host_mount_is_left() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &[]);
    let inside = facts.0["mounts"].as_array().expect("mounts");
    assert_eq!(inside.iter().filter(|mount| mount["point"] == "/").count(), 1, "one root");
    let allowed = ["/", "/proc", "/sys", "/dev", "/etc", "/usr", "/tmp", "/probe"];
    let allowed_below =
        ["/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib", "/bin", "/sbin", "/opt"];
    for mount in inside {
        let point = mount["point"].as_str().expect("a path");
        let known = allowed.contains(&point) || allowed_below.iter().any(|p| point.starts_with(p));
        assert!(known, "{point} is mounted inside: {mount}");
        let propagation = mount["propagation"].to_string();
        assert!(!propagation.contains("shared:"), "{point} would pass mounts on: {mount}");
        assert!(!propagation.contains("master:"), "{point} would get mounts: {mount}");
    }
    agent.finish();
}

#[test]
fn nothing_of_the_container_is_mounted_on_the_host() {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--mount", "type=tmpfs,dst=/mnt", "--", "sleep", "1000"]);
    let dir = agent.path("").to_string_lossy().into_owned();
    assert_eq!(host::mounts_mentioning(&dir), Vec::<String>::new());
    agent.finish();
}

#[test]
fn what_is_written_inside_goes_with_the_container_and_never_reaches_the_host() {
    let agent = Agent::start();
    let script = "for d in / /usr /usr/bin /etc /tmp /var /root; do \
                  mkdir -p $d && echo mine > $d/conti-test-canary || echo $d; done";
    let out =
        agent.ok(["run", "-d", "--name", "c", "--", "sh", "-c", &format!("{script}; sleep 1000")]);
    assert!(!out.is_empty());
    agent.ok(["exec", "c", "--", "sh", "-c", script]);
    assert_eq!(agent.ok(["exec", "c", "--", "cat", "/usr/bin/conti-test-canary"]), "mine");
    for dir in ["/", "/usr", "/usr/bin", "/etc", "/tmp", "/var", "/root"] {
        let path = std::path::Path::new(dir).join("conti-test-canary");
        assert!(!path.exists(), "{} reached the host", path.display());
    }
    agent.ok(["rm", "-f", "c"]);
    let out = agent.ctl(["run", "--rm", "--", "ls", "/usr/bin/conti-test-canary"]).run();
    assert_ne!(out.code, 0, "a new container has a new layer");
    agent.finish();
}

#[test]
fn the_default_root_holds_no_secret_of_the_host() {
    let agent = Agent::start();
    let passwd = agent.ok(["run", "--rm", "--", "cat", "/etc/passwd"]);
    assert!(passwd.lines().any(|line| line.starts_with("root:x:0:0:")), "{passwd}");
    let script = "ls -d /etc/shadow /etc/ssh /etc/sudoers /home/* /root/.ssh /root/.* 2>/dev/null \
                  | grep -v -e '/\\.$' -e '/\\.\\.$'; true";
    let found = agent.ok(["run", "--rm", "--", "sh", "-c", script]);
    assert_eq!(found, "", "of the host's /etc, /home and /root nothing shows");
    agent.finish();
}

#[test]
fn the_files_of_etc_name_the_container() {
    let agent = Agent::start();
    let dir = dir_root(&agent);
    for rootfs in [&["host"][..], &[&dir, "--overlay"], &[&dir]] {
        let mut args = vec!["run", "--rm", "--hostname", "pluto", "--rootfs"];
        args.extend(rootfs);
        args.extend(["--", "cat", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]);
        let out = agent.ok(args);
        assert!(out.starts_with("pluto\n"), "{rootfs:?}: {out}");
        assert!(out.contains("127.0.0.1") && out.contains("localhost"), "{rootfs:?}: {out}");
        assert!(
            out.lines().filter(|line| line.contains("pluto")).count() >= 2,
            "{rootfs:?}: {out}"
        );
    }
    agent.finish();
}

#[test]
fn the_files_of_etc_lie_on_links_and_what_those_lead_to_stays_as_it_was() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    rootfs::build(&root);
    fs::write(agent.scratch("canary"), "of the host").expect("a file");
    let names = |dir: &str| {
        let entries = fs::read_dir(root.join(dir)).expect("a directory");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        entries.map(name).collect::<BTreeSet<_>>()
    };
    let links = [
        ["hostname", "hosts", "../run/systemd/resolve/stub-resolv.conf"],
        ["/etc/hostname", "/dev/null", "/proc/net/pnp"],
        ["/proc/sys/kernel/hostname", "../../../../canary", "/no/resolv.conf"],
    ];
    let files = ["hostname", "hosts", "resolv.conf"].map(|name| format!("etc/{name}"));
    for targets in links {
        for (file, target) in files.iter().zip(targets) {
            let _ = fs::remove_file(root.join(file));
            std::os::unix::fs::symlink(target, root.join(file)).expect("a link");
        }
        let before = ["", "etc"].map(names);
        for flags in [&[][..], &["--userns", "host"], &["--overlay"], &["--read-only"]] {
            let flag = format!("dir:{}", root.display());
            let run = ["run", "--rm", "--hostname", "pluto", "--rootfs", &flag];
            let script = "cat /etc/hostname; grep -c 127.0.0.1 /etc/hosts; cat /etc/resolv.conf; \
                          cat /proc/sys/kernel/hostname; [ -c /dev/null ] && echo device";
            let out = agent.ok([&run, flags, &["--", "sh", "-c", script]].concat());
            let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let wanted = format!("pluto\n1\n{resolv}pluto\ndevice");
            assert_eq!(out, wanted, "{targets:?} {flags:?}");
            assert_eq!(
                ["", "etc"].map(names),
                before,
                "{targets:?} {flags:?}: a link was followed"
            );
        }
        for (file, target) in files.iter().zip(targets) {
            let found = fs::read_link(root.join(file)).expect("a link as it was");
            assert_eq!(found.to_str(), Some(target));
        }
    }
    assert_eq!(fs::read_to_string(agent.scratch("canary")).expect("there"), "of the host");
    agent.finish();
}

#[test]
fn files_of_etc_that_are_missing_are_made_and_a_directory_in_their_place_is_told() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    rootfs::build(&root);
    for name in ["hostname", "hosts", "resolv.conf"] {
        let _ = fs::remove_file(root.join("etc").join(name));
    }
    let flag = format!("dir:{}", root.display());
    let run = || agent.ctl(["run", "--rm", "--rootfs", &flag, "--", "cat", "/etc/hosts"]).run();
    assert!(run().success().text().contains("127.0.0.1"));
    assert_eq!(fs::read_to_string(root.join("etc/hosts")).expect("made"), "", "and left empty");
    fs::remove_file(root.join("etc/hosts")).expect("removed");
    fs::create_dir(root.join("etc/hosts")).expect("a directory");
    let refused = run().exits(125).errors();
    assert!(
        refused.contains("\"/etc/hosts\"") && refused.contains("remove the directory"),
        "{refused}"
    );
    agent.finish();
}

fn dir_root(agent: &Agent) -> String {
    let root = agent.scratch("root");
    if !root.exists() {
        rootfs::build(&root);
    }
    format!("dir:{}", root.display())
}

#[test]
fn a_directory_is_used_as_it_is() {
    let agent = Agent::start();
    let root = dir_root(&agent);
    let script = "echo here > /var/written; pwd; ls /";
    let out = agent.ok(["run", "--rm", "--rootfs", &root, "--", "sh", "-c", script]);
    assert!(out.starts_with("/\n") && out.contains("home"), "{out}");
    let written = fs::read_to_string(agent.scratch("root/var/written"));
    assert_eq!(written.expect("the directory itself was written to"), "here\n");
    agent.finish();
}

#[test]
fn a_directory_under_an_overlay_stays_as_it_was() {
    let agent = Agent::start();
    let root = dir_root(&agent);
    let script = "echo here > /var/written && rm /etc/group && cat /var/written && ls /etc";
    let out = agent.ok(["run", "--rm", "--rootfs", &root, "--overlay", "--", "sh", "-c", script]);
    assert!(out.starts_with("here\n") && !out.contains("group"), "{out}");
    assert!(!agent.scratch("root/var/written").exists());
    assert!(agent.scratch("root/etc/group").exists());
    agent.finish();
}

#[test]
fn two_containers_may_share_a_directory_under_overlays() {
    let agent = Agent::start();
    let root = dir_root(&agent);
    for name in ["a", "b"] {
        agent.ok([
            "run",
            "-d",
            "--name",
            name,
            "--rootfs",
            &root,
            "--overlay",
            "--",
            "sleep",
            "1000",
        ]);
        agent.ok(["exec", name, "--", "sh", "-c", &format!("echo {name} > /var/who")]);
    }
    assert_eq!(agent.ok(["exec", "a", "--", "cat", "/var/who"]), "a");
    assert_eq!(agent.ok(["exec", "b", "--", "cat", "/var/who"]), "b");
    agent.finish();
}

#[test]
fn a_read_only_root_takes_no_writes_but_on_its_mounts() {
    let agent = Agent::start();
    let script = "for d in / /usr /etc /var; do touch $d/x 2>&1; done | grep -c 'Read-only file system'; \
                  touch /dev/shm/x && echo shm";
    let out = agent.ok(["run", "--rm", "--read-only", "--", "sh", "-c", script]);
    assert_eq!(out, "4\nshm");
    agent.finish();
}

#[test]
fn proc_is_the_containers_own_and_sys_is_read_only() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &[]);
    let kind = |point: &str| facts.mount(point).expect(point)["type"].clone();
    assert_eq!(kind("/proc"), "proc");
    assert_eq!(kind("/sys"), "sysfs");
    assert!(facts.mount_has("/sys", "ro"));
    for point in ["/proc", "/sys"] {
        for option in ["nosuid", "nodev", "noexec"] {
            assert!(facts.mount_has(point, option), "{point} {option}");
        }
    }
    agent.finish();
}

#[test]
fn masked_paths_show_nothing_and_read_only_paths_take_nothing() {
    let agent = Agent::start();
    let volume = probe_volume();
    agent.ok(["run", "-d", "--name", "c", "-v", &volume, "--", "sleep", "1000"]);
    let host = ["run", "-d", "--name", "of-host", "--userns", "host", "-v", &volume];
    agent.ok([&host[..], &["--", "sleep", "1000"]].concat());
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"] {
        if fs::metadata(path).is_ok() {
            let size =
                agent.ok(["exec", "c", "--", "sh", "-c", &format!("head -c 9 {path} | wc -c")]);
            assert_eq!(size.trim(), "0", "{path} is hidden");
        }
    }
    for path in ["/proc/acpi", "/proc/scsi", "/sys/firmware"] {
        if fs::metadata(path).is_ok() {
            assert_eq!(agent.ok(["exec", "c", "--", "ls", path]), "", "{path} is hidden");
        }
    }
    let paths =
        ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"];
    for path in paths.into_iter().filter(|path| fs::metadata(path).is_ok()) {
        let write = |name: &str| agent.ok(["exec", name, "--", PROBE, "write", path]);
        // The files of the kernel belong to no user of a user namespace.
        assert_eq!(write("c"), format!(r#"{{"{path}":"EACCES"}}"#));
        assert_eq!(write("of-host"), format!(r#"{{"{path}":"EROFS"}}"#));
    }
    agent.finish();
}

#[test]
fn dev_holds_the_standard_nodes_and_no_others() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &[]);
    let dev = facts.0["dev"].as_object().expect("dev");
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        let node = &dev[name];
        assert_eq!(
            (&node["kind"], &node["major"], &node["minor"]),
            (&"char".into(), &1.into(), &minor.into())
        );
        assert_eq!(node["mode"], 0o666, "{name}");
    }
    assert_eq!((&dev["tty"]["major"], &dev["tty"]["minor"]), (&5.into(), &0.into()));
    for name in ["ptmx", "pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr"] {
        assert!(dev.contains_key(name), "/dev/{name} in {dev:?}");
    }
    let known = [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd",
        "stdin", "stdout", "stderr", "console", "core",
    ];
    let others: Vec<&String> = dev.keys().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(others.is_empty(), "/dev also holds {others:?}");
    agent.finish();
}

#[test]
fn symbolic_links_of_a_hostile_root_do_not_lead_out_of_it() {
    let agent = Agent::start();
    let root = agent.scratch("root");
    rootfs::build(&root);
    let canary = agent.scratch("canary");
    fs::create_dir(&canary).expect("a directory");
    for name in ["dev", "proc", "sys"] {
        fs::remove_dir(root.join(name)).expect("an empty directory");
    }
    std::os::unix::fs::symlink(&canary, root.join("dev")).expect("a link");
    std::os::unix::fs::symlink("../../../../../etc", root.join("proc")).expect("a link");
    std::os::unix::fs::symlink(&canary, root.join("sys")).expect("a link");
    std::os::unix::fs::symlink(&canary, root.join("mnt")).expect("a link");
    let flag = format!("dir:{}", root.display());
    // Whether it starts or is refused, nothing of the host is touched.
    agent
        .ctl([
            "run",
            "--rm",
            "--rootfs",
            &flag,
            "--mount",
            "type=tmpfs,dst=/mnt/below",
            "--",
            "sh",
            "-c",
            "echo x > /mnt/below/x; echo x > /dev/x",
        ])
        .run();
    assert_eq!(fs::read_dir(&canary).expect("readable").count(), 0, "the canary was touched");
    agent.finish();
}
