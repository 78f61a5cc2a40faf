//! The command of a container or a session: its arguments, environment, user, limits and more.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
};

use conti_proto::v1::Rlimit;
use conti_tests::{
    Agent,
    api::{container, session, sleeper},
    facts::{Facts, PROBE, probe_mount, probe_process, probe_volume},
    rootfs, wire,
};
use serde_json::json;

/// A root filesystem with users of its own and the probe in it.
fn with_users(agent: &Agent) -> String {
    let root = agent.scratch("root");
    rootfs::build(&root);
    // The probe needs the libraries of the host it was built on.
    rootfs::copy_program(&conti_tests::facts::probe(), &root, PROBE);
    format!("dir:{}", root.display())
}

#[test]
fn arguments_arrive_byte_by_byte() {
    let agent = Agent::start();
    let odd = ["", " ", "a b", "'\"$HOME`;&|", "ü→😀", "-x", "--", "line\nbreak"];
    let mut args = vec!["run", "--rm", "--", "printf", "[%s]"];
    args.extend(odd);
    let expected: String = odd.iter().map(|a| format!("[{a}]")).collect();
    assert_eq!(agent.ok(args), expected);
    agent.finish();
}

#[test]
fn the_environment_is_what_was_asked_for_and_nothing_of_the_agents() {
    let agent = Agent::start();
    let facts = Facts::of_run(&agent, &["-e", "A=1", "-e", "B=x=y z", "-e", "EMPTY="]);
    let env = facts.0["env"].as_object().expect("env");
    assert_eq!((&env["A"], &env["B"], &env["EMPTY"]), (&json!("1"), &json!("x=y z"), &json!("")));
    assert_eq!(env["PATH"], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    assert_eq!(env["HOME"], "/root");
    for name in env.keys() {
        let known = ["A", "B", "EMPTY", "PATH", "HOME", "HOSTNAME"].contains(&name.as_str());
        assert!(known, "{name} was not asked for");
    }
    agent.finish();
}

#[test]
fn a_command_is_looked_up_in_the_path_that_was_given() {
    let agent = Agent::start();
    agent.ctl(["run", "--rm", "-e", "PATH=/nowhere", "--", "true"]).run().exits(127);
    agent.ctl(["run", "--rm", "-e", "PATH=/nowhere:/usr/bin", "--", "true"]).run().exits(0);
    agent.finish();
}

#[test]
fn the_working_directory_is_set_and_made_where_it_is_missing() {
    let agent = Agent::start();
    assert_eq!(Facts::of_run(&agent, &["-w", "/usr/bin"]).text("cwd"), "/usr/bin");
    assert_eq!(Facts::of_run(&agent, &["-w", "/made/for/it"]).text("cwd"), "/made/for/it");
    assert_eq!(Facts::of_run(&agent, &[]).text("cwd"), "/");
    agent.finish();
}

#[test]
fn users_and_groups_are_read_from_the_root_filesystem_itself() {
    let agent = Agent::start();
    let root = with_users(&agent);
    let run = |flags: &[&str]| {
        let mut args = vec!["run", "--rm", "--rootfs", &root, "--overlay"];
        args.extend(flags);
        args.extend(["--", PROBE]);
        Facts::of(agent.ctl(args).run())
    };
    let groups = |facts: &Facts| {
        let mut groups: Vec<u64> = facts.0["groups"]
            .as_array()
            .expect("groups")
            .iter()
            .map(|g| g.as_u64().expect("a number"))
            .collect();
        groups.sort_unstable();
        groups
    };

    let facts = run(&["-u", "alice"]);
    assert_eq!((&facts.0["uid"], &facts.0["gid"]), (&json!([1000, 1000]), &json!([1000, 1000])));
    assert!(groups(&facts).ends_with(&[2000, 3000]), "{:?}", groups(&facts));
    assert_eq!(facts.0["env"]["HOME"], "/home/alice");
    assert_eq!(facts.capabilities("CapEff"), 0, "no user but root has capabilities");
    assert_eq!(facts.capabilities("CapPrm"), 0);

    let facts = run(&["-u", "alice:wheel"]);
    assert_eq!((&facts.0["uid"], &facts.0["gid"]), (&json!([1000, 1000]), &json!([2000, 2000])));
    let facts = run(&["-u", "1234:5678"]);
    assert_eq!((&facts.0["uid"], &facts.0["gid"]), (&json!([1234, 1234]), &json!([5678, 5678])));
    let facts = run(&["-u", "1234"]);
    assert_eq!((&facts.0["uid"], &facts.0["gid"]), (&json!([1234, 1234]), &json!([0, 0])));
    let facts = run(&["-u", "1234", "--group-add", "media", "--group-add", "77"]);
    assert!(groups(&facts).contains(&77) && groups(&facts).contains(&3000));
    // A user namespace of the container's own maps the first 65,536 alone.
    let facts = run(&["--userns", "host", "-u", "4294967294:4294967294"]);
    assert_eq!(facts.0["uid"], json!([4_294_967_294_u32, 4_294_967_294_u32]));
    agent.finish();
}

#[test]
fn exec_runs_as_the_user_it_is_told() {
    let agent = Agent::start();
    let root = with_users(&agent);
    agent.ok(["run", "-d", "--name", "c", "--rootfs", &root, "--overlay", "--", "sleep", "1000"]);
    let facts = Facts::of(
        agent.ctl(["exec", "-u", "alice", "-w", "/tmp", "-e", "X=1", "c", "--", PROBE]).run(),
    );
    assert_eq!(facts.0["uid"], json!([1000, 1000]));
    assert_eq!(facts.text("cwd"), "/tmp");
    assert_eq!(facts.0["env"]["X"], "1");
    assert_eq!(facts.0["env"]["HOME"], "/home/alice");
    agent.finish();
}

#[test]
fn a_user_by_its_id_has_the_groups_of_its_name() {
    let agent = Agent::start();
    let root = with_users(&agent);
    let groups = |user: &str| {
        let run = ["run", "--rm", "--rootfs", &root, "--overlay", "-u", user, "--", PROBE];
        Facts::of(agent.ctl(run).run()).0["groups"].clone()
    };
    assert_eq!(groups("1000"), json!([1000, 2000, 3000]));
    assert_eq!(groups("alice"), json!([1000, 2000, 3000]));
    assert_eq!(groups("1000:77"), json!([77, 2000, 3000]), "as docker has it");
    assert_eq!(groups("1234"), json!([0]), "of whom nothing is known");
    agent.finish();
}

/// What is kept from a group is kept from its members also when they change their group: it is one of their
/// supplementary groups too (CVE-2022-36109).
#[test]
fn a_program_that_sets_its_group_takes_nobody_out_of_a_group() {
    let agent = Agent::start();
    let root = with_users(&agent);
    let inside = |path: &str| agent.scratch("root").join(path);
    rootfs::copy_named("cat", &agent.scratch("root"), "/usr/bin/cat-of-media");
    fs::write(inside("for-others"), "kept from a group").expect("a file");
    for (path, group, mode) in [("for-others", 2000, 0o604), ("usr/bin/cat-of-media", 3000, 0o2755)]
    {
        chown(inside(path), Some(0), Some(group)).expect("another group");
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(inside(path), mode).expect("another mode");
    }
    let cat = |user: &str, program: &str| {
        let free =
            ["run", "--rm", "--rootfs", &root, "--overlay", "--security", "no-new-privs=false"];
        agent.ctl([&free[..], &["-u", user, "--", program, "/for-others"]].concat()).run()
    };
    assert_eq!(cat("1234:5678", "cat").text(), "kept from a group");
    assert_eq!(cat("1234:5678", "cat-of-media").text(), "kept from a group");
    for program in ["cat", "cat-of-media"] {
        assert!(
            cat("1234:2000", program).exits(1).errors().contains("Permission denied"),
            "{program}"
        );
    }
    agent.finish();
}

#[test]
fn limits_umask_and_oom_score_are_set() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut process = probe_process();
        process.rlimits = vec![
            Rlimit { name: "nofile".into(), soft: 512, hard: 1024 },
            Rlimit { name: "core".into(), soft: 0, hard: 0 },
        ];
        process.umask = Some(0o077);
        process.oom_score_adj = Some(500);
        let facts = Facts::of_container(&mut api, container("", process.clone())).await;
        check(&facts);
        let mut spec = sleeper("c");
        spec.mounts.push(probe_mount());
        api.run(spec).await.expect("runs");
        check(&Facts::of_stream(&mut api, wire::start(session("c", process))).await);
    });
    fn check(facts: &Facts) {
        let limits = facts.text("limits");
        let line = |name: &str| {
            let line = limits.lines().find(|line| line.starts_with(name)).expect(name);
            line.split_whitespace().rev().skip(1).take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(line("Max open files"), ["1024", "512"]);
        assert_eq!(line("Max core file size"), ["0", "0"]);
        assert_eq!(facts.0["umask"], 0o077);
        assert_eq!(facts.text("oom_score_adj"), "500");
    }
    agent.finish();
}

#[test]
fn the_default_umask_is_022() {
    let agent = Agent::start();
    assert_eq!(Facts::of_run(&agent, &[]).0["umask"], 0o022);
    agent.finish();
}

#[test]
fn an_oom_score_that_may_not_be_set_is_raised_instead_of_refused() {
    let agent = Agent::start();
    agent.api(async |mut api| {
        let mut process = probe_process();
        process.oom_score_adj = Some(-1000);
        let facts = Facts::of_container(&mut api, container("", process)).await;
        let got: i32 = facts.text("oom_score_adj").parse().expect("a number");
        assert!((-1000..=1000).contains(&got));
    });
    agent.finish();
}

#[test]
fn every_session_is_the_leader_of_its_own() {
    let agent = Agent::start();
    let volume = probe_volume();
    agent.ok(["run", "-d", "--name", "c", "-v", &volume, "--", "sleep", "1000"]);
    for facts in
        [Facts::of_run(&agent, &[]), Facts::of(agent.ctl(["exec", "c", "--", PROBE]).run())]
    {
        assert_eq!(facts.0["sid"], facts.0["pid"]);
        assert_eq!(facts.0["pgid"], facts.0["pid"]);
        assert_eq!(facts.0["tty"]["controlling"], false);
    }
    agent.finish();
}

#[test]
fn a_huge_group_file_or_a_fifo_in_its_place_harms_nobody() {
    let agent = Agent::start();
    let root = with_users(&agent);
    let group = agent.scratch("root/etc/group");
    std::fs::remove_file(&group).expect("removed");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &group,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .expect("a fifo");
    let out = agent.ctl(["run", "--rm", "--rootfs", &root, "-u", "0:media", "--", "true"]).run();
    assert_eq!(out.code, 125, "{}", out.errors());
    agent.ctl(["run", "--rm", "--rootfs", &root, "-u", "0:0", "--", "true"]).run().exits(0);
    std::fs::remove_file(&group).expect("removed");
    std::fs::File::create(&group).and_then(|f| f.set_len(1 << 30)).expect("a huge file");
    let out = agent.ctl(["run", "--rm", "--rootfs", &root, "-u", "0:media", "--", "true"]).run();
    assert_eq!(out.code, 125, "{}", out.errors());
    agent.finish();
}
