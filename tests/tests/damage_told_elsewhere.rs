//! Records that are gone, or damaged together with others that tell the same. That nothing is told is not that there is
//! nothing: what the kernel shows still, or another record, keeps strangers out, and what runs running.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    process::Command,
};

use conti_proto::v1::{
    self, ContainerState, SessionState, StartContainerRequest, StopContainerRequest,
};
use conti_tests::{
    Agent,
    api::{self, Api, shell, sleeper, state},
    damage::{
        DAMAGES, Damage, Stopped, delete_stopped, denied, enter, files, get_session, of, signal,
        start, stop, the_process,
    },
    host::{self, Pinned},
    wait,
    world::World,
};
use rustix::fs::removexattr;

async fn mount(api: &mut Api, source: &Path) {
    let mount = Some(api::bind(source, "/mnt"));
    let request = v1::CreateMountRequest { target: of("own"), mount, ..Default::default() };
    api.mounts.create_mount(request).await.expect("an admin may");
}

#[test]
fn a_mount_whose_record_is_gone_is_an_admins_in_its_container() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    let mounts = world.agent.path("state/mounts");
    let lost: [Damage; 5] = [
        ("record", |record| fs::remove_file(record).expect("removed")),
        ("directory", |record| fs::remove_dir_all(record.parent().expect("one")).expect("removed")),
        ("renamed", |record| fs::rename(record, record.with_extension("bak")).expect("renamed")),
        ("of another", |record| {
            fs::remove_file(record).expect("removed");
            let name = record.file_name().expect("a name").to_string_lossy();
            let (id, _) = name.split_once('.').expect("an id");
            let other = format!("{id}.{}.json", "f".repeat(32));
            fs::write(record.with_file_name(other), "{").expect("written");
        }),
        ("record, and the main session's", |record| {
            fs::remove_file(record).expect("removed");
            let state = record.ancestors().nth(2).expect("a directory");
            for dir in fs::read_dir(state.join("sessions")).expect("a directory") {
                let record = dir.expect("an entry").path().join("session.json");
                fs::write(record, "").expect("emptied");
            }
        }),
    ];
    for (what, lose) in lost {
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
            olga.run(sleeper("own")).await.expect("it may");
            olga.run(sleeper("other")).await.expect("it may");
            mount(&mut admin, &secret).await;
        });
        world.agent.kill();
        lose(&files(&mounts, ".json")[0]);
        // The next agent knows no more.
        for _ in 0..2 {
            world.agent.restart();
            world.agent.block_on(async {
                let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
                denied(&mut olga, "own", what).await;
                // What was shown to what runs there is told by the main session's record alone.
                match what == "record, and the main session's" {
                    true => denied(&mut olga, "other", what).await,
                    false => enter(&mut olga, "other").await.expect("it is not concerned"),
                }
                let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
                enter(&mut admin, "own").await.expect("an admin may");
            });
            world.agent.kill();
        }
        world.agent.restart();
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            stop(&mut olga, "own").await;
            let request = StartContainerRequest { container: "own".into(), ..Default::default() };
            let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
            admin.containers.start_container(request).await.expect("it starts");
            enter(&mut olga, "own").await.expect("what was mounted has gone with its processes");
            for name in ["own", "other"] {
                olga.delete(name).await.expect("its own");
            }
        });
        // The agent removes nothing that it does not know.
        for put_aside in files(&mounts, ".bak") {
            fs::remove_file(put_aside).expect("removed");
        }
    }
    world.agent.finish();
}

/// What runs there may have it still; but it is not one that is there, for an id or a list.
#[test]
fn a_mount_that_was_taken_away_is_not_listed_and_counts_until_its_container_is_stopped() {
    let mut world = World::start("");
    let source = world.agent.scratch("source");
    fs::create_dir(&source).expect("a directory");
    let own = world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let own = olga.run(sleeper("own")).await.expect("it may");
        mount(&mut admin, &source).await;
        mount(&mut admin, &source).await;
        own
    });
    world.agent.ok(["umount", "own", "/mnt"]);
    world.agent.kill();
    // The other by what is in there.
    let pid = own.pid.to_string();
    let unmount = ["--target", &pid, "--mount", "umount", "/mnt"];
    assert!(Command::new("nsenter").args(unmount).status().expect("it runs").success());
    // What the first agent has found the next one does not find again.
    for _ in 0..2 {
        world.agent.restart();
        world.agent.block_on(async {
            let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
            denied(&mut olga, "own", "it may be in use").await;
        });
        assert_eq!(files(&world.agent.path("state/mounts"), ".json").len(), 0);
        world.agent.kill();
    }
    world.agent.restart();
    world.agent.block_on(async {
        let mut olga = world.as_role("olga", "operator").api().await.expect("it may look");
        stop(&mut olga, "own").await;
        world.agent.ok(["start", "own"]);
        enter(&mut olga, "own").await.expect("nothing of it is there any more");
    });
    world.agent.finish();
}

/// What is lost while the agent is away.
type Loss = (&'static str, &'static [Damage]);

fn cut(path: &Path) {
    DAMAGES[0].1(path);
}

fn gone(path: &Path) {
    match path.is_dir() {
        true => fs::remove_dir_all(path).expect("removed"),
        false => fs::remove_file(path).expect("removed"),
    }
}

const RECORD: &str = "data/containers/CONTAINER/container.json";
const MAIN: &str = "state/sessions/MAIN/session.json";
const SOCKET: &str = "state/sessions/MAIN/monitor.sock";
const EXEC: &str = "state/sessions/EXEC/session.json";
const EXEC_SOCKET: &str = "state/sessions/EXEC/monitor.sock";

const LOSSES: [Loss; 9] = [
    ("the main session's record cut, its socket gone", &[(MAIN, cut), (SOCKET, gone)]),
    ("the main session's record and its socket gone", &[(MAIN, gone), (SOCKET, gone)]),
    ("both records of the container cut", &[(RECORD, cut), (MAIN, cut)]),
    ("both records of the container gone", &[(RECORD, gone), (MAIN, gone)]),
    (
        "both records of the container and its socket gone",
        &[(RECORD, gone), (MAIN, gone), (SOCKET, gone)],
    ),
    (
        "all records and all sockets gone",
        &[(RECORD, gone), (MAIN, gone), (SOCKET, gone), (EXEC, gone), (EXEC_SOCKET, gone)],
    ),
    ("the exec's record and its socket gone", &[(EXEC, gone), (EXEC_SOCKET, gone)]),
    (
        "the directories of the container and its session gone",
        &[("data/containers/CONTAINER", gone), ("state/sessions/MAIN", gone)],
    ),
    (
        "all directories gone",
        &[
            ("data/containers/CONTAINER", gone),
            ("state/sessions/MAIN", gone),
            ("state/sessions/EXEC", gone),
        ],
    ),
];

fn uid_map(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("a map")
}

#[test]
fn what_runs_goes_on_with_its_files_and_its_ids_whatever_is_lost_until_it_is_deleted() {
    // Two ranges.
    let mut agent =
        Agent::start_with(|_| ["--userns-pool", "1998979072:131072"].map(Into::into).to_vec());
    for (what, losses) in LOSSES {
        let (container, exec) = agent.api(async |mut api| {
            let script = "echo x > /var/tmp/own; exec sleep 100000";
            let container = api.run(api::container("c", shell(script))).await.expect("runs");
            (container, start(&mut api, "c", "sleep 100000").await.expect("starts"))
        });
        let (main, ids) = (the_process(container.pid), uid_map(container.pid));
        let processes = [main, the_process(exec.pid)];
        let written = format!("/proc/{}/root/var/tmp/own", container.pid);
        wait::until_true("it has written", || fs::read(&written).is_ok_and(|all| all == b"x\n"));
        agent.kill();
        for (path, lose) in losses {
            let path = path.replace("CONTAINER", &container.id);
            let path = path.replace("MAIN", &container.session_id).replace("EXEC", &exec.id);
            lose(&agent.path(&path));
        }
        let files_are_gone = losses.iter().any(|(path, _)| path.ends_with("CONTAINER"));
        // The next agent knows no more.
        for _ in 0..2 {
            agent.restart();
            assert!(processes.iter().all(Pinned::alive), "{what}: it runs on");
            assert!(files_are_gone || fs::read(&written).is_ok(), "{what}: its files are there");
            agent.api(async |mut api| {
                api.get(&container.id).await.expect("it is shown");
                delete_stopped(&mut api, &container.id).await.expect_err("it runs");
                if !ids.contains(" 0 ") {
                    let other = api.run(sleeper("other")).await.expect("there are ids for it");
                    assert_ne!(uid_map(other.pid), ids, "{what}");
                    api.run(sleeper("third")).await.expect_err("all are taken");
                    api.delete("other").await.expect("deleted");
                }
            });
            assert!(processes.iter().all(Pinned::alive), "{what}: it runs on");
            agent.kill();
        }
        agent.restart();
        agent.api(async |mut api| {
            // A container that nothing is known of but that it runs is not stopped: that is said.
            let found = api.get(&container.id).await.expect("it is shown");
            if state(&found) == ContainerState::Quarantined {
                let request =
                    StopContainerRequest { container: container.id.clone(), ..Default::default() };
                api.containers.stop_container(request).await.expect_err("it runs on");
                assert!(processes.iter().all(Pinned::alive), "{what}: it runs on");
            }
            api.delete(&container.id).await.expect("rm -f always works");
        });
        processes.iter().for_each(Pinned::wait_gone);
        // One whose end nobody can tell is told of a moment later.
        wait::until_true(&format!("{what}: nothing is left of it"), || {
            agent.api(async |mut api| api.all_ids().await.is_empty())
        });
    }
    agent.finish();
}

#[test]
fn a_directory_that_was_put_beside_those_of_containers_is_left_alone() {
    let mut agent = Agent::start();
    let container = agent.api(async |mut api| api.run(sleeper("c")).await.expect("runs"));
    let main = the_process(container.pid);
    agent.kill();
    let own = [
        format!("data/containers/{}", container.id),
        format!("state/sessions/{}", container.session_id),
    ];
    let aside = own.map(|name| (agent.path(&name), agent.path(&format!("{name}.bak"))));
    for (own, aside) in &aside {
        fs::rename(own, aside).expect("renamed");
    }
    agent.restart();
    for (_, aside) in &aside {
        assert!(agent.log().contains(&*aside.to_string_lossy()), "it is told");
    }
    agent.api(async |mut api| {
        let all = api.all_ids().await;
        assert_eq!(all.iter().collect::<Vec<_>>(), [&container.id], "the copy is none");
        assert!(main.alive(), "it runs on");
        api.delete(&container.id).await.expect("rm -f always works");
    });
    main.wait_gone();
    for (_, aside) in aside {
        fs::remove_dir_all(aside).expect("it is there");
    }
    agent.finish();
}

#[test]
fn what_a_stopped_container_has_written_stays_though_nothing_tells_of_it_any_more() {
    let mut agent = Agent::start();
    let container = agent.api(async |mut api| {
        let script = "echo precious > /var/tmp/own; exec sleep 100000";
        api.run(api::container("c", shell(script))).await.expect("runs")
    });
    let written = format!("/proc/{}/root/var/tmp/own", container.pid);
    wait::until_true("it has written", || fs::read(&written).is_ok_and(|all| !all.is_empty()));
    agent.api(async |mut api| stop(&mut api, "c").await);
    assert!(agent.terminate().success());
    // As after a start of the host.
    let containers = agent.path("data/containers");
    for lost in [containers.join(&container.id).join("container.json"), agent.path("state")] {
        gone(&lost);
    }
    // Of one that was being made nobody was told.
    let unfinished = containers.join("0123456789abcdef0123456789abcdef");
    DirBuilder::new().mode(0o1700).create(&unfinished).expect("a directory");
    fs::create_dir(unfinished.join("layers")).expect("a directory");
    agent.restart();
    wait::until_true("what was unfinished is removed", || !unfinished.exists());
    let layers = containers.join(&container.id).join("layers");
    assert!(finds(&layers, "own"), "what it has written is there");
    agent.api(async |mut api| {
        let found = api.get(&container.id).await.expect("it is shown");
        assert_eq!(state(&found), ContainerState::Quarantined);
        api.delete(&container.id).await.expect("rm -f always works");
    });
    agent.finish();
}

/// Whether a file is somewhere below a directory.
fn finds(dir: &Path, name: &str) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("an entry"));
    entries.into_iter().any(|entry| match entry.file_type().expect("a type").is_dir() {
        true => finds(&entry.path(), name),
        false => entry.file_name() == name,
    })
}

#[test]
fn what_a_stopped_monitor_keeps_silent_about_runs_on_with_its_files() {
    let mut agent = Agent::start();
    let container = agent.api(async |mut api| {
        let script = "echo x > /var/tmp/own; exec sleep 100000";
        api.run(api::container("c", shell(script))).await.expect("runs")
    });
    let main = the_process(container.pid);
    let written = format!("/proc/{}/root/var/tmp/own", container.pid);
    wait::until_true("it has written", || fs::read(&written).is_ok());
    let _stopped = Stopped::monitor_of(container.pid);
    agent.kill();
    for record in [RECORD, MAIN] {
        let record = record.replace("CONTAINER", &container.id);
        gone(&agent.path(&record.replace("MAIN", &container.session_id)));
    }
    agent.restart();
    assert!(main.alive() && fs::read(&written).is_ok(), "it runs on with its files");
    agent.api(async |mut api| {
        delete_stopped(&mut api, &container.id).await.expect_err("it runs");
        api.delete(&container.id).await.expect("rm -f always works");
    });
    main.wait_gone();
    agent.finish();
}

#[test]
fn a_session_whose_monitor_cannot_be_asked_is_shown_as_it_runs() {
    let mut agent = Agent::start();
    let exec = agent.api(async |mut api| {
        api.run(sleeper("c")).await.expect("runs");
        start(&mut api, "c", "exec sleep 100000").await.expect("starts")
    });
    let process = the_process(exec.pid);
    agent.kill();
    for lost in [EXEC_SOCKET, EXEC] {
        gone(&agent.path(&lost.replace("EXEC", &exec.id)));
        agent.restart();
        agent.api(async |mut api| {
            let found = get_session(&mut api, &exec.id).await.expect("it is shown");
            assert_eq!((found.state(), found.pid), (SessionState::Running, exec.pid), "{lost}");
            let refused = signal(&mut api, &exec.id, "KILL").await.expect_err("nobody carries it");
            assert!(refused.message().contains("its monitor"), "{lost}: {refused:?}");
        });
        assert!(process.alive(), "{lost}: it runs on");
        agent.kill();
    }
    agent.restart();
    agent.api(async |mut api| api.delete("c").await.expect("rm -f always works"));
    process.wait_gone();
    agent.finish();
}

/// As where an older agent has started it, or the kernel keeps no notes.
#[test]
fn nothing_is_removed_while_something_runs_that_may_belong_to_it() {
    let mut agent =
        Agent::start_with(|_| ["--userns-pool", "1999110144:131072"].map(Into::into).to_vec());
    let container = agent.api(async |mut api| {
        let script = "echo x > /var/tmp/own; exec sleep 100000";
        api.run(api::container("c", shell(script))).await.expect("runs")
    });
    let (main, ids) = (the_process(container.pid), uid_map(container.pid));
    let written = format!("/proc/{}/root/var/tmp/own", container.pid);
    wait::until_true("it has written", || fs::read(&written).is_ok());
    agent.kill();
    for (path, lose) in [(RECORD, gone as fn(&Path)), (MAIN, cut)] {
        let path = path.replace("CONTAINER", &container.id);
        lose(&agent.path(&path.replace("MAIN", &container.session_id)));
    }
    let mut cgroups = host::cgroups(container.pid);
    cgroups.retain(|dir| dir.to_string_lossy().contains("/conti-"));
    for cgroup in &cgroups {
        // It is noted on one of them.
        let _ = removexattr(cgroup, "trusted.conti.container");
    }
    for _ in 0..2 {
        agent.restart();
        agent.api(async |mut api| {
            let refused = api.delete(&container.id).await.expect_err("nobody knows what ends");
            let named = format!("process {}", container.pid);
            assert!(refused.message().contains(&named), "{refused:?}");
            if !ids.contains(" 0 ") {
                let other = api.run(sleeper("other")).await.expect("there are ids for it");
                assert_ne!(uid_map(other.pid), ids);
                api.delete("other").await.expect("deleted");
            }
        });
        assert!(main.alive() && fs::read(&written).is_ok(), "it runs on with its files");
        agent.kill();
    }
    agent.restart();
    agent.api(async |mut api| {
        signal(&mut api, &container.session_id, "KILL").await.expect("it can be ended");
    });
    main.wait_gone();
    agent.api(async |mut api| api.delete(&container.id).await.expect("nothing is in doubt"));
    wait::until_true("nothing is left of it", || !cgroups.iter().any(|dir| dir.exists()));
    agent.finish();
}
