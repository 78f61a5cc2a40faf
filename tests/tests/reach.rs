//! What a container reaches by way of others: those in its pid namespace, mounts from other containers, and commands of
//! admins that are in its sight. Who may have the one may have the other, or is refused.

use std::{fs, path::Path};

use conti_proto::v1::{self, ContainerSpec, target};
use conti_tests::{
    api::{self, Api, bind, container, process, session, shell, sleeper},
    rootfs, wait,
    wire::{self, Wire},
    world::World,
};
use tonic::Code;

fn of(container: &str) -> Option<v1::Target> {
    Some(v1::Target { target: Some(target::Target::Container(container.to_owned())) })
}

/// Whether somebody may run something in a container.
async fn may_run(api: &mut Api, container: &str) -> Result<(), Code> {
    let spec = session(container, process(["true"]));
    Wire::open(api, wire::start(spec)).await.map(drop).map_err(|status| status.code())
}

/// `name` in the pid and user namespace of another.
fn beside(name: &str, other: &str) -> ContainerSpec {
    let mode = v1::NamespaceMode::Container.into();
    let other = Some(v1::Namespace { mode, container: other.into() });
    let namespaces = v1::Namespaces { pid: other.clone(), user: other, ..Default::default() };
    ContainerSpec { namespaces: Some(namespaces), ..sleeper(name) }
}

#[test]
fn a_container_is_closed_by_what_an_admin_does_to_one_in_its_pid_namespace() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        for name in ["own", "second", "third"] {
            let spec = if name == "own" { sleeper(name) } else { beside(name, "own") };
            api.run(spec).await.expect("it may");
        }
        let all = ["own", "second", "third"];
        for name in all {
            assert_eq!(may_run(&mut api, name).await, Ok(()), "{name}");
        }
        world.agent.ok(["mount", "second", &format!("{}:/mnt/e", secret.display()), "--mkdir"]);
        for name in all {
            let denied = Err(Code::PermissionDenied);
            assert_eq!(may_run(&mut api, name).await, denied, "/proc/PID/root of {name}");
        }
        // What runs beside it may have some of it still, as an open file say.
        world.agent.ok(["stop", "-t", "0", "second"]);
        for name in ["own", "third"] {
            assert_eq!(may_run(&mut api, name).await, Err(Code::PermissionDenied), "{name}");
        }
        world.agent.ok(["stop", "-t", "0", "own"]);
        for name in ["own", "third"] {
            world.agent.ok(["start", name]);
            assert_eq!(may_run(&mut api, name).await, Ok(()), "{name}");
        }
        // The same with one that the admin has made.
        let volume = format!("{}:/mnt/e", secret.display());
        let joined = ["--ns", "pid=container:own", "--userns", "container:own"];
        let run = ["run", "-d", "--name", "admins", "-v", &volume];
        world.agent.ok([&run[..], &joined, &["--", "sleep", "1000"]].concat());
        assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied));
        world.agent.ok(["rm", "-f", "admins"]);
        assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied));
        world.agent.ok(["stop", "-t", "0", "own"]);
        world.agent.ok(["start", "own"]);
        assert_eq!(may_run(&mut api, "own").await, Ok(()));
    });
    world.agent.finish();
}

/// Who has CAP_SYS_ADMIN in there puts another root on top: what lies below is not listed any more, and is there.
#[test]
fn a_mount_that_was_hidden_in_its_container_counts_all_the_same() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    let volume = format!("{}:/mnt", secret.display());
    world.agent.ok(["run", "-d", "--name", "own", "--", "sleep", "100000"]);
    world.agent.ok(["mount", "own", &volume]);
    let hides =
        ["exec", "--cap-add", "SYS_ADMIN", "own", "--", "mount", "-t", "tmpfs", "none", "/"];
    world.agent.ok(hides);
    for _ in 0..2 {
        world.agent.block_on(async {
            let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
            assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied));
        });
        world.agent.kill();
        world.agent.restart();
    }
    world.agent.finish();
}

#[test]
fn a_mount_beside_a_container_counts_for_it() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    let volume = format!("{}:/tmp", secret.display());
    world.agent.ok(["run", "-d", "--name", "own", "--", "sleep", "100000"]);
    let debug = world.agent.ctl(["debug", "own", "--", "sleep", "100000"]).spawn();
    let pid = wait::until("the tools run", || {
        let sessions = world.agent.ctl(["-o", "json", "sessions", "own"]).run().json();
        let all = sessions.as_array()?.iter();
        all.filter(|one| one["main"] == false)
            .find_map(|one| one["pid"].as_u64().filter(|pid| *pid > 0))
    });
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        assert_eq!(may_run(&mut api, "own").await, Ok(()), "nothing is there yet");
        world.agent.ok(["mount", &format!("pid:{pid}"), &volume]);
        let denied = Err(Code::PermissionDenied);
        assert_eq!(may_run(&mut api, "own").await, denied, "/proc/PID/root leads there");
    });
    world.agent.ok(["stop", "-t", "0", "own"]);
    debug.wait();
    world.agent.finish();
}

#[test]
fn neighbours_in_a_pid_namespace_stay_neighbours_without_the_one_in_between() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        api.run(beside("between", "own")).await.expect("it may");
        api.run(sleeper("apart")).await.expect("it may");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mounts = vec![bind(&secret, "/mnt/e")];
        let admins = ContainerSpec { mounts, ..beside("admins", "between") };
        admin.run(admins).await.expect("an admin may");
        api.delete("between").await.expect("it is its own");
        assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied));
        // What joins it is beside the admin's as well.
        let joins = api.run(beside("joins", "own")).await.expect_err("it would see the secret");
        assert_eq!(joins.code(), Code::PermissionDenied, "{joins:?}");
        assert_eq!(may_run(&mut api, "apart").await, Ok(()));
    });
    // The same for an agent that finds the admin's container, with or without its record.
    for damage in [false, true] {
        world.agent.kill();
        if damage {
            for dir in fs::read_dir(world.agent.path("data/containers")).expect("a directory") {
                let record = dir.expect("an entry").path().join("container.json");
                let text = fs::read_to_string(&record).expect("a record");
                if text.contains("\"admins\"") {
                    fs::write(&record, &text[..text.len() / 2]).expect("cut");
                }
            }
        }
        world.agent.restart();
        world.agent.block_on(async {
            let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
            assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied), "{damage}");
            assert_eq!(may_run(&mut api, "apart").await, Ok(()), "{damage}");
        });
    }
    world.agent.finish();
}

#[test]
fn what_was_read_of_a_neighbour_is_told_to_nobody_who_may_not_have_it() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let start = async |admin: &mut Api, record| {
            let policy = v1::SessionPolicy { record, ..Default::default() };
            let spec = session("own", shell("sleep 100000"));
            let spec = Some(v1::SessionSpec { policy: Some(policy), ..spec });
            let request = v1::StartSessionRequest { spec, ..Default::default() };
            let started = admin.sessions.start_session(request).await.expect("an admin may");
            started.into_inner().session.expect("a session").id
        };
        let before = start(&mut admin, true).await;
        let mounts = vec![bind(&secret, "/mnt/e")];
        let admins = ContainerSpec { mounts, ..beside("admins", "own") };
        admin.run(admins).await.expect("an admin may");
        let during = start(&mut admin, true).await;
        admin.delete("admins").await.expect("an admin may");
        let after = start(&mut admin, true).await;
        // What ran beside the admin's may have kept some of it, and what is started afterwards may get it from there.
        assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied));
        for session in [before, during, after] {
            let viewed = Wire::open(&mut api, wire::view(&session)).await.map(drop);
            assert!(viewed.is_err(), "{viewed:?}");
            let request = v1::ReadRecordingRequest { session_id: session };
            let read = api.sessions.read_recording(request).await.map(drop);
            assert!(read.is_err(), "{read:?}");
        }
        world.agent.ok(["stop", "-t", "0", "own"]);
        world.agent.ok(["start", "own"]);
        assert_eq!(may_run(&mut api, "own").await, Ok(()), "it is over");
        let own = start(&mut admin, true).await;
        Wire::open(&mut api, wire::view(&own)).await.map(drop).expect("it might have started it");
    });
    world.agent.finish();
}

#[test]
fn a_mount_from_a_container_is_had_by_those_who_may_have_that_container() {
    let world = World::start("");
    let root = world.agent.scratch("roots").join("r");
    rootfs::build_empty(&root);
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let of_host = |overlay| {
            let path = root.display().to_string();
            let source = Some(v1::rootfs::Source::Dir(v1::DirRootfs { path, overlay }));
            Some(v1::Rootfs { source })
        };
        admin.run(sleeper("own")).await.expect("an admin may");
        let user = |name: &str| {
            let mut spec = beside(name, "own");
            spec.namespaces.as_mut().expect("some").pid = None;
            spec
        };
        admin.run(user("plain")).await.expect("an admin may");
        let command = Some(process(["/pause"]));
        let rooted = ContainerSpec { rootfs: of_host(false), process: command, ..user("rooted") };
        admin.run(rooted).await.expect("an admin may");
        world.agent.ok(["mount", "plain", "--from", "rooted", "/:/mnt", "--mkdir"]);
        world.agent.ok(["mount", "own", "--from", "plain", "/mnt:/mnt", "--mkdir"]);
        for name in ["own", "plain", "rooted"] {
            assert_eq!(may_run(&mut api, name).await, Err(Code::PermissionDenied), "{name}");
        }
        // Also when the container is gone that it came from.
        admin.delete("rooted").await.expect("an admin may");
        for name in ["own", "plain"] {
            assert_eq!(may_run(&mut api, name).await, Err(Code::PermissionDenied), "{name}");
        }
        world.agent.ok(["umount", "--lazy", "own", "/mnt"]);
        assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied), "it may be in use");
        world.agent.ok(["stop", "-t", "0", "own"]);
        world.agent.ok(["start", "own"]);
        assert_eq!(may_run(&mut api, "own").await, Ok(()));
    });
    world.agent.finish();
}

#[test]
fn a_container_that_has_changed_its_root_hides_no_mount_from_the_agent() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    fs::write(secret.join("key"), "x").expect("a file");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let waits = "mkdir /mnt/e; until test -e /mnt/e/key; do sleep 0.05; done; \
                     exec chroot /usr /bin/sleep 100000";
        api.run(container("own", shell(waits))).await.expect("it may");
        let pid = api.get("own").await.expect("it runs").pid;
        let root = || fs::read_link(format!("/proc/{pid}/root")).expect("it has a root");
        wait::until_true("there is a place", || {
            fs::symlink_metadata(format!("/proc/{pid}/root/mnt/e")).is_ok()
        });
        world.agent.ok(["mount", "own", &format!("{}:/mnt/e", secret.display())]);
        wait::until_true("it has gone to another root", || root().ends_with("usr"));
        assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied));
        // With each change it is looked what is still there.
        world.agent.ok(["mount", "own", "type=tmpfs,dst=/local"]);
        world.agent.ok(["umount", "own", "/local"]);
        assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied));
    });
    world.agent.kill();
    world.agent.restart();
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied));
    });
    world.agent.finish();
}

/// Copies something from a container into another of the same operator, again and again, while an admin mounts something
/// into the first one, and does something more. Returns how often it was refused.
fn copied_meanwhile(more: impl AsyncFn(&mut Api)) -> usize {
    let slow = |_: &Path| ["env", "CONTI_TEST_DELAYS=create_mount.c=300"].map(Into::into).to_vec();
    let world = World::start_behind(slow, "");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    fs::write(secret.join("key"), "x").expect("a file");
    let refused = world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut refused = 0;
        for round in 0..16 {
            api.run(sleeper("own")).await.expect("it may");
            let mut spec = beside("source", "own");
            spec.namespaces.as_mut().expect("some").pid = None;
            api.run(spec).await.expect("it may");
            let mount = |source: &str, of: &str, from: &str, to: &str| v1::CreateMountRequest {
                target: self::of(of),
                mount: Some(bind(Path::new(source), to)),
                source_container: from.to_owned(),
                create_point: true,
                ..Default::default()
            };
            let admins = mount(&secret.display().to_string(), "source", "", "/tmp/e");
            let copy = mount("/tmp", "own", "source", "/mnt/c");
            let (mut other, mut own) = (admin.clone(), api.clone());
            let admins = async {
                other.mounts.create_mount(admins).await.expect("an admin may");
                more(&mut other).await;
            };
            let copy = async { own.mounts.create_mount(copy).await };
            let ((), copied) = tokio::join!(admins, copy);
            let script = "test ! -e /mnt/c/e/key";
            let spec = session("own", shell(script));
            let seen = Wire::open(&mut admin, wire::start(spec)).await.expect("an admin may");
            assert_eq!(api::exit_code(&seen.collect().await.end), 0, "{round}: {copied:?}");
            refused += usize::from(copied.is_err());
            for name in ["own", "source"] {
                admin.delete(name).await.expect("an admin may");
            }
        }
        refused
    });
    world.agent.finish();
    refused
}

#[test]
fn what_is_mounted_into_a_container_while_it_is_copied_from_is_not_copied() {
    assert!(copied_meanwhile(async |_| {}) > 0, "it was refused where it came too late");
}

/// What it has reached is forgotten with its end.
#[test]
fn what_is_mounted_into_a_container_that_ends_while_it_is_copied_from_is_not_copied() {
    let ends = async |api: &mut Api| {
        let kill = v1::KillContainerRequest { container: "source".into(), signal: "KILL".into() };
        api.containers.kill_container(kill).await.expect("an admin may");
    };
    assert!(copied_meanwhile(ends) > 0, "it was refused where it came too late");
}

/// Root of a container traces what is in its pid namespace and in its user namespace.
#[test]
fn an_admin_that_enters_a_container_lends_it_nothing_of_the_host() {
    let world = World::start("");
    world.agent.ok(["run", "-d", "--name", "ids", "--", "sleep", "1000"]);
    world.agent.ok(["run", "-d", "--name", "hosts", "--userns", "host", "--", "sleep", "1000"]);
    let pid = |name: &str| {
        let json = world.agent.ctl(["inspect", name]).run().success().json();
        json["pid"].to_string()
    };
    let enter = |name: &str, flags: &str, command: &[&str]| {
        let pid = pid(name);
        let flags: Vec<_> = flags.split(' ').collect();
        world.agent.ctl([&["enter", "-t", &pid], &flags[..], &["--"], command].concat()).run()
    };
    for (name, flags, missing) in [
        ("hosts", "-p", "(-m -n -i)"),
        ("hosts", "-p -m", "(-n -i)"),
        ("ids", "-p -U", "(-m -n -i)"),
        ("ids", "-p -U -n", "(-m -i)"),
        ("ids", "-p -U -m -i", "(-n)"),
    ] {
        let refused = enter(name, flags, &["true"]).exits(125).errors();
        assert!(refused.contains(missing) && refused.contains(&pid(name)), "{refused}");
    }
    // What is in a pid namespace below theirs is in their sight as well.
    let below = ["sh", "-c", "exec unshare -p -f sleep 1000"];
    world.agent.ok([&["exec", "-d", "--privileged", "hosts", "--"][..], &below].concat());
    let child = wait::until("it is there", || {
        let all = world.agent.ok(["-o", "json", "procs", "hosts"]);
        let all: serde_json::Value = serde_json::from_str(&all).expect("JSON");
        let sleeps = |one: &&serde_json::Value| one["argv"].to_string().contains("sleep\",\"1000");
        let own = pid("hosts");
        let mut pids = all.as_array()?.iter().filter(sleeps).map(|one| one["pid"].to_string());
        pids.find(|pid| {
            let ns = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            ns(pid).is_some() && ns(pid) != ns(&own)
        })
    });
    let call = ["enter", "-t", &child, "-p", "--", "true"];
    let refused = world.agent.ctl(call).run().exits(125).errors();
    assert!(refused.contains("(-m -n -i)"), "{refused}");
    // It is in their sight no longer, or has what they have.
    for (name, flags) in [
        ("hosts", "-m"),
        ("hosts", "-p -m -n -i"),
        ("ids", "-p"),
        ("ids", "-a"),
        ("ids", "-n -U -m"),
    ] {
        enter(name, flags, &["true"]).success();
    }
    // Outside of its cgroups nothing keeps it from devices but that it makes none.
    let makes = ["mknod", "/tmp/device", "b", "7", "0"];
    for flags in ["-a", "-p -m -n -i"] {
        assert!(!enter("hosts", flags, &makes).errors().is_empty(), "{flags}");
    }
    world.agent.finish();
}

#[test]
fn nobody_closes_a_container_to_its_maker_by_many_neighbours_or_mounts() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut bob = world.as_role("bob", "operator").api().await.expect("it may look");
        let own = api.run(sleeper("own")).await.expect("it may");
        let tmpfs = |target: String| {
            let source = Some(v1::mount::Source::Tmpfs(v1::TmpfsMount::default()));
            v1::Mount { target, source, read_only: false }
        };
        let mut refused = None;
        for n in 0..70 {
            let mounts = vec![tmpfs(format!("/m{n}"))];
            match bob.run(ContainerSpec { mounts, ..beside("bobs", "own") }).await {
                Ok(_) => bob.delete("bobs").await.expect("its own"),
                Err(status) => {
                    refused = Some(status);
                    break;
                }
            }
        }
        let refused = refused.expect("there is room for some");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        // Whose session that is, who asks need not see.
        assert!(refused.message().contains("container bobs"), "{refused:?}");
        let others = [own.name.as_str(), &own.id, &own.session_id, "olga"];
        let text = format!("{:?}", api::metadata(&refused)) + refused.message();
        assert!(!others.iter().any(|other| text.contains(other)), "{refused:?}");
        let mounted = async |n: usize| {
            let request = v1::CreateMountRequest {
                target: of("own"),
                mount: Some(tmpfs(format!("/mnt/{n}"))),
                create_point: true,
                ..Default::default()
            };
            bob.clone().mounts.create_mount(request).await
        };
        for n in 0..256 {
            mounted(n).await.expect("there is room");
        }
        let refused = mounted(256).await.expect_err("that is all");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert_eq!(may_run(&mut api, "own").await, Ok(()));
        Wire::open(&mut api, wire::view(&own.session_id)).await.map(drop).expect("its own");
    });
    world.agent.finish();
}

#[test]
fn a_container_of_which_nothing_runs_closes_no_other_one() {
    let mut world = World::start("");
    let ended = world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let ended = api.run(sleeper("ended")).await.expect("it may");
        world.agent.ok(["stop", "-t", "0", "ended"]);
        api.run(sleeper("own")).await.expect("it may");
        ended
    });
    world.agent.kill();
    fs::write(world.agent.path(&format!("data/containers/{}/container.json", ended.id)), "{")
        .expect("damaged");
    fs::remove_dir_all(world.agent.path(&format!("state/sessions/{}", ended.session_id)))
        .expect("as after a reboot");
    world.agent.restart();
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        assert_eq!(may_run(&mut api, "own").await, Ok(()));
        assert_eq!(may_run(&mut api, &ended.id).await, Err(Code::PermissionDenied));
    });
    world.agent.finish();
}

/// `name` in the net and user namespace of another, but not in its pid namespace.
fn net_of(name: &str, other: &str) -> ContainerSpec {
    let mut spec = beside(name, other);
    let namespaces = spec.namespaces.as_mut().expect("some");
    (namespaces.pid, namespaces.net) = (None, namespaces.user.clone());
    spec
}

fn recorded(spec: ContainerSpec) -> ContainerSpec {
    let policy = v1::SessionPolicy { record: true, ..Default::default() };
    ContainerSpec { session_policy: Some(policy), ..spec }
}

/// The sessions whose recordings somebody is shown.
async fn recordings(api: &mut Api) -> Vec<String> {
    let listed = api.sessions.list_recordings(v1::ListRecordingsRequest::default()).await;
    let all = listed.expect("it may look").into_inner().recordings;
    all.into_iter().map(|one| one.session_id).collect()
}

/// What a container has joined may hand on what it sees of its neighbours.
#[test]
fn what_comes_to_one_that_a_container_has_joined_counts_until_that_container_is_stopped() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    let volume = format!("{}:/mnt/e", secret.display());
    let denied = Err(Code::PermissionDenied);
    // By a neighbour that has it, or by a mount into one that is there.
    let session = world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        for (joined, joins) in [("a", "x"), ("b", "y")] {
            api.run(sleeper(joined)).await.expect("it may");
            api.run(recorded(net_of(joins, joined))).await.expect("it may");
        }
        let admins = ContainerSpec { mounts: vec![bind(&secret, "/mnt/e")], ..beside("n", "a") };
        admin.run(admins).await.expect("an admin may");
        // By way of two, in one of which it is not mounted.
        api.run(sleeper("far")).await.expect("it may");
        let mut between = beside("between", "b");
        between.namespaces.as_mut().expect("some").uts =
            net_of("", "far").namespaces.expect("some").net;
        api.run(between).await.expect("it may");
        assert_eq!(may_run(&mut api, "y").await, Ok(()));
        world.agent.ok(["mount", "far", &volume, "--mkdir"]);
        for name in ["a", "x", "b", "y", "between", "far"] {
            assert_eq!(may_run(&mut api, name).await, denied, "{name}");
        }
        world.agent.ok(["umount", "--lazy", "far", "/mnt/e"]);
        // What runs in the others was not stopped, and may have kept a part of it.
        for name in ["a", "b", "far"] {
            world.agent.ok(["stop", "-t", "0", name]);
            world.agent.ok(["start", name]);
            assert_eq!(may_run(&mut api, name).await, Ok(()), "{name}");
        }
        for name in ["x", "y"] {
            assert_eq!(may_run(&mut api, name).await, denied, "{name}");
        }
        api.get("x").await.expect("it is there").session_id
    });
    world.agent.kill();
    world.agent.restart();
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        for name in ["x", "y"] {
            assert_eq!(may_run(&mut api, name).await, denied, "{name}");
            world.agent.ok(["stop", "-t", "0", name]);
            assert_eq!(recordings(&mut api).await, [""; 0], "{name}");
            world.agent.ok(["rm", name]);
        }
        assert_eq!(recordings(&mut api).await, [""; 0]);
        let request = v1::ReadRecordingRequest { session_id: session };
        let read = api.sessions.read_recording(request).await.expect_err("it may show the secret");
        assert_eq!(read.code(), Code::NotFound, "{read:?}");
    });
    world.agent.finish();
}

#[test]
fn a_container_reaches_what_one_has_joined_that_is_gone() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    let volume = format!("{}:/mnt/e", secret.display());
    for restarts in [false, true] {
        world.agent.block_on(async {
            let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
            api.run(sleeper("last")).await.expect("it may");
            api.run(sleeper("apart")).await.expect("it may");
            api.run(net_of("between", "last")).await.expect("it may");
            api.run(recorded(net_of("first", "between"))).await.expect("it may");
            api.run(recorded(net_of("other", "apart"))).await.expect("it may");
            api.delete("between").await.expect("it is its own");
        });
        if restarts {
            world.agent.kill();
            world.agent.restart();
        }
        world.agent.block_on(async {
            let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
            let id = |one: v1::Container| one.session_id;
            let first = id(api.get("first").await.expect("it is there"));
            let other = id(api.get("other").await.expect("it is there"));
            world.agent.ok(["mount", "last", &volume, "--mkdir"]);
            for name in ["first", "other", "apart", "last"] {
                world.agent.ok(["rm", "-f", name]);
            }
            let shown = recordings(&mut api).await;
            assert!(!shown.contains(&first), "it may show the secret");
            assert!(shown.contains(&other), "it cannot");
        });
    }
    world.agent.finish();
}

#[test]
fn nobody_closes_a_container_that_has_joined_another_by_neighbours_of_that_one() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut bob = world.as_role("bob", "operator").api().await.expect("it may look");
        for spec in [sleeper("own"), net_of("runs", "own"), net_of("stopped", "own")] {
            api.run(spec).await.expect("it may");
        }
        world.agent.ok(["stop", "-t", "0", "stopped"]);
        let tmpfs = |size_bytes| {
            let source = v1::mount::Source::Tmpfs(v1::TmpfsMount { size_bytes, mode: None });
            v1::Mount { target: "/mnt".into(), source: Some(source), read_only: false }
        };
        let mut refused = None;
        for n in 1..70 {
            let mounts = vec![tmpfs(n * 4096)];
            match bob.run(ContainerSpec { mounts, ..beside("bobs", "own") }).await {
                Ok(_) => bob.delete("bobs").await.expect("its own"),
                Err(status) => {
                    refused = Some(status);
                    break;
                }
            }
        }
        let refused = refused.expect("there is room for some");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        // One that was there before brings nothing.
        bob.run(ContainerSpec { mounts: vec![tmpfs(4096)], ..beside("bobs", "own") })
            .await
            .expect("it may");
        world.agent.ok(["start", "stopped"]);
        for name in ["own", "runs", "stopped"] {
            assert_eq!(may_run(&mut api, name).await, Ok(()), "{name}");
            let main = api.get(name).await.expect("it is there").session_id;
            Wire::open(&mut api, wire::view(&main)).await.map(drop).expect("its own");
        }
    });
    world.agent.finish();
}

/// A directory in the place of the file that a record is written to first: as on a full disk, nothing is written.
#[test]
fn what_cannot_be_noted_with_those_that_it_reaches_is_neither_mounted_nor_started() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    let volume = format!("{}:/mnt/e", secret.display());
    let in_the_way =
        |session: &str| world.agent.path(&format!("state/sessions/{session}/.session.json.new"));
    let mains = world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let own = api.run(sleeper("own")).await.expect("it may");
        let joins = api.run(net_of("joins", "own")).await.expect("it may");
        [own.session_id, joins.session_id].map(|main| in_the_way(&main))
    });
    let joined = ["--ns", "pid=container:own", "--userns", "container:own"];
    let run = ["run", "-d", "--name", "admins", "-v", &volume];
    let run = [&run[..], &joined, &["--", "sleep", "1000"]].concat();
    let mount = ["mount", "own", &volume, "--mkdir"];
    for main in &mains {
        fs::create_dir_all(main.join("full")).expect("a directory");
        for call in [&mount[..], &run] {
            let refused = world.agent.ctl(call).run().exits(125).errors();
            assert!(refused.contains("cannot write what a session comes to reach"), "{refused}");
        }
        assert!(!world.agent.ok(["mounts", "own"]).contains("/mnt/e"));
        assert!(!world.agent.ok(["ps", "-a"]).contains("admins"));
        fs::remove_dir_all(main).expect("room again");
    }
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let own = api.get("own").await.expect("it is there");
        assert_eq!(own.state(), v1::ContainerState::Running);
    });
    // What is refused is not tried again by itself: what is told as done is remembered.
    world.agent.ok(["stop", "-t", "0", "joins"]);
    world.agent.ok(["stop", "-t", "0", "own"]);
    for name in ["own", "joins"] {
        world.agent.ok(["start", name]);
    }
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        for name in ["own", "joins"] {
            assert_eq!(may_run(&mut api, name).await, Ok(()), "{name}");
        }
    });
    world.agent.ok(mount);
    world.agent.ok(["umount", "--lazy", "own", "/mnt/e"]);
    world.agent.kill();
    world.agent.restart();
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        for name in ["own", "joins"] {
            assert_eq!(may_run(&mut api, name).await, Err(Code::PermissionDenied), "{name}");
        }
    });
    world.agent.finish();
}
