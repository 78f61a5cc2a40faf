//! Ways round the confinement of a container, and round the rights of others, that an operator does not have.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use conti_proto::v1::{self, ContainerSpec, target};
use conti_tests::{
    api::{self, Api, bind, container, metadata, process, session, shell, sleeper},
    rootfs, wait,
    wire::{self, Wire},
    world::World,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tonic::{Code, Status};

fn of(container: &str) -> Option<v1::Target> {
    Some(v1::Target { target: Some(target::Target::Container(container.to_owned())) })
}

/// Binds a path of a container into the same container.
async fn copy(api: &mut Api, source: &str, recursive: bool) -> Result<(), Status> {
    let bind = v1::BindMount {
        source: source.to_owned(),
        non_recursive: !recursive,
        ..Default::default()
    };
    let mount = v1::Mount {
        target: "/mnt".into(),
        source: Some(v1::mount::Source::Bind(bind)),
        read_only: false,
    };
    let request = v1::CreateMountRequest {
        target: of("own"),
        mount: Some(mount),
        source_container: "own".into(),
        ..Default::default()
    };
    api.mounts.create_mount(request).await.map(|_| ())
}

async fn unmount(api: &mut Api, point: &str) -> Result<(), Status> {
    let point = v1::MountPoint { target: of("own"), point: point.as_bytes().to_vec().into() };
    let which = Some(v1::delete_mount_request::Which::Point(point));
    let request = v1::DeleteMountRequest { which, lazy: true, dry_run: false };
    api.mounts.delete_mount(request).await.map(|_| ())
}

async fn run(api: &mut Api, script: &str) -> (i32, String) {
    let wire = Wire::open(api, wire::start(session("own", shell(script)))).await.expect("it may");
    let all = wire.collect().await;
    (api::exit_code(&all.end), String::from_utf8_lossy(&all.stdout).into_owned())
}

#[test]
fn what_hides_parts_of_proc_is_neither_unmounted_nor_got_round_by_a_copy() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        for point in
            ["/proc/sys", "/proc/sysrq-trigger", "/proc/kcore", "/proc", "/sys", "/dev", "/tmp"]
        {
            let refused = unmount(&mut api, point).await.expect_err(point);
            assert_eq!(refused.code(), Code::PermissionDenied, "{point}: {refused:?}");
        }
        let (code, _) = run(&mut api, "ln -s /proc /usr/p && ln -s /proc/sys /usr/s").await;
        assert_eq!(code, 0);
        for source in [
            "/proc",
            "/proc/sys",
            "/proc/sys/kernel",
            "/sys",
            "/usr/p",
            "/usr/s",
            "/proc/self/root/proc",
        ] {
            for recursive in [false, true] {
                copy(&mut api, source, recursive).await.expect_err(source);
            }
        }
        let (code, _) = run(&mut api, "echo x > /proc/sys/kernel/core_pattern").await;
        assert_ne!(code, 0, "it is as it was");
        // What is its own it binds, and takes away again.
        copy(&mut api, "/etc", true).await.expect("a copy of its own files");
        let (_, shown) = run(&mut api, "ls /mnt/passwd").await;
        assert_eq!(shown.trim(), "/mnt/passwd");
        unmount(&mut api, "/mnt").await.expect("it was mounted there");
        for target in ["/proc", "/proc/sys", "/sys", "/dev", "/"] {
            let tmpfs = v1::mount::Source::Tmpfs(v1::TmpfsMount::default());
            let mount = v1::Mount { target: target.into(), source: Some(tmpfs), read_only: false };
            let spec = ContainerSpec { mounts: vec![mount], ..sleeper("over") };
            let refused = api.create(spec).await.expect_err(target);
            let wanted = [Code::PermissionDenied, Code::InvalidArgument];
            assert!(wanted.contains(&refused.code()), "{target}: {refused:?}");
        }
    });
    world.agent.finish();
}

#[test]
fn a_session_with_more_rights_than_the_operator_could_give_is_not_driven_by_it() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        admin.run(sleeper("own")).await.expect("an admin may");
        let mut strong = process(["cat"]);
        strong.stdin = true;
        strong.confinement = Some(v1::Confinement { privileged: Some(true), ..Default::default() });
        let mut weak = process(["cat"]);
        weak.stdin = true;
        let mut start = async |process| {
            let request = v1::StartSessionRequest {
                spec: Some(session("own", process)),
                request_id: String::new(),
            };
            let started = admin.sessions.start_session(request).await.expect("an admin may");
            started.into_inner().session.expect("a session").id
        };
        let (strong, weak) = (start(strong).await, start(weak).await);
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let write = |session_id: &str| v1::WriteSessionRequest {
            session_id: session_id.to_owned(),
            data: "x".into(),
            ..Default::default()
        };
        let refused =
            api.sessions.write_session(write(&strong)).await.expect_err("it is not confined");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        for open in [wire::attach(&strong, None), wire::view(&strong)] {
            let attached = Wire::open(&mut api, open).await;
            assert_eq!(attached.err().expect("nor is this").code(), Code::PermissionDenied);
        }
        let request = v1::ReadSessionRequest { session_id: strong.clone(), ..Default::default() };
        let read = api.sessions.read_session(request.clone()).await.expect_err("nor this");
        assert_eq!(read.code(), Code::PermissionDenied, "{read:?}");
        let mut viewer = world.as_role("vera", "viewer").api().await.expect("it may look");
        let read = viewer.sessions.read_session(request).await.expect_err("a viewer even less");
        assert_eq!(read.code(), Code::PermissionDenied, "{read:?}");
        api.sessions.write_session(write(&weak)).await.expect("one that it could have started");
    });
    world.agent.finish();
}

#[test]
fn a_container_with_paths_of_the_host_is_not_started_again_by_the_rights_of_another() {
    let world = World::start("");
    let granted = world.agent.scratch("granted");
    fs::create_dir_all(granted.join("x")).expect("a directory");
    fs::create_dir_all(granted.join("roots")).expect("a directory");
    let policy = format!(
        "[operator]\nmounts = [{0:?}]\nrootfs = [{1:?}]\n",
        granted.display().to_string(),
        granted.join("roots").display().to_string()
    );
    world.files.put("policy.toml", &policy);
    wait::until_true("the policy was read again", || {
        world.agent.log().contains("the policy was read again")
    });
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mounts = vec![bind(&granted.join("x"), "/m")];
        let theirs = ContainerSpec { mounts, ..container("theirs", process(["true"])) };
        admin.run(theirs).await.expect("an admin may");
        let end = v1::WaitContainerRequest { container: "theirs".into() };
        admin.containers.wait_container(end).await.expect("it ends");
        fs::remove_dir(granted.join("x")).expect("it is empty");
        symlink("/etc", granted.join("x")).expect("a link");
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let again = v1::StartContainerRequest { container: "theirs".into(), ..Default::default() };
        let refused = api.containers.start_container(again).await.expect_err("/etc would be in it");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        // A granted directory below another one is not what a link in its place leads to.
        fs::remove_dir(granted.join("roots")).expect("it is empty");
        symlink("/", granted.join("roots")).expect("a link");
        let root = v1::rootfs::Source::Dir(v1::DirRootfs {
            path: granted.join("roots").display().to_string(),
            overlay: true,
        });
        let spec =
            ContainerSpec { rootfs: Some(v1::Rootfs { source: Some(root) }), ..sleeper("r") };
        let refused = api.create(spec).await.expect_err("it is the host's root");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    });
    world.agent.finish();
}

#[test]
fn a_name_that_somebody_else_has_taken_since_makes_no_container_look_confined() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let host =
            Some(v1::Namespace { mode: v1::NamespaceMode::Host.into(), ..Default::default() });
        let pid = v1::Namespaces { pid: host.clone(), user: host, ..Default::default() };
        admin
            .run(ContainerSpec { namespaces: Some(pid), ..sleeper("web") })
            .await
            .expect("an admin may");
        let joined =
            v1::Namespace { mode: v1::NamespaceMode::Container.into(), container: "web".into() };
        let pid = v1::Namespaces { pid: Some(joined), ..Default::default() };
        admin
            .run(ContainerSpec { namespaces: Some(pid), ..sleeper("own") })
            .await
            .expect("an admin may");
        admin.delete("web").await.expect("an admin may");
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("web")).await.expect("one of its own");
        let entered = Wire::open(&mut api, wire::start(session("own", process(["ps"])))).await;
        let refused = entered.err().expect("it is in the host's pid namespace");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert_eq!(metadata(&refused)["needs"], "admin");
    });
    world.agent.finish();
}

/// The whole procs that are mounted in a process's namespace, each with what is mounted onto it: the type and the
/// directory or file of its filesystem. By number, since names change.
fn procs(pid: u32) -> Vec<BTreeSet<(String, String)>> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("the process is there");
    // proc(5): number, parent, device, root, mount point, ..., " - " and the type.
    let mounts: Vec<[String; 4]> = table
        .lines()
        .map(|line| {
            let (about, kind) = line.split_once(" - ").expect("a line has two parts");
            let fields: Vec<&str> = about.split(' ').collect();
            let kind = kind.split(' ').next().unwrap_or_default();
            [fields[0], fields[1], fields[3], kind].map(str::to_owned)
        })
        .collect();
    let on = |number: &str| {
        let children = mounts.iter().filter(|[_, parent, ..]| parent == number);
        children.map(|[_, _, root, kind]| (kind.clone(), root.clone())).collect()
    };
    let whole = mounts.iter().filter(|[_, _, root, kind]| kind == "proc" && root == "/");
    whole.map(|[number, ..]| on(number)).collect()
}

#[test]
fn who_writes_to_a_root_filesystem_meanwhile_does_not_get_a_proc_that_is_open() {
    let world = World::start("");
    let root = world.agent.scratch("root");
    rootfs::build_empty(&root);
    for dir in ["proc", "sys", "dev", "away"] {
        fs::create_dir(root.join(dir)).expect("a directory");
    }
    symlink("away", root.join("other")).expect("a link");
    // A directory and a link change places all the time, as another container with this root could do.
    let goes_on = Arc::new(AtomicBool::new(true));
    let (proc, other, on) = (root.join("proc"), root.join("other"), goes_on.clone());
    let usual = world.agent.api(async |mut api| {
        let made = api.run(sleeper("usual")).await.expect("it runs");
        procs(made.pid).pop().expect("it has a proc")
    });
    assert!(usual.contains(&("proc".to_owned(), "/sys".to_owned())), "{usual:?}");
    let swapper = thread::spawn(move || {
        while on.load(Ordering::Relaxed) {
            renameat_with(CWD, &proc, CWD, &other, RenameFlags::EXCHANGE)
                .expect("they change places");
        }
    });
    let source =
        v1::rootfs::Source::Dir(v1::DirRootfs { path: root.display().to_string(), overlay: false });
    let spec = ContainerSpec {
        rootfs: Some(v1::Rootfs { source: Some(source) }),
        ..container("c", process(["/pause"]))
    };
    let mut all = Vec::new();
    for _ in 0..40 {
        world.agent.api(async |mut api| {
            // It may fail: nothing says that such a root filesystem can be used.
            if let Ok(made) = api.run(spec.clone()).await {
                all.extend(procs(made.pid));
            }
            api.delete("c").await.expect("it is deleted");
        });
    }
    goes_on.store(false, Ordering::Relaxed);
    swapper.join().expect("no panic");
    assert!(!all.is_empty(), "some start");
    for mounted in all {
        assert_eq!(mounted, usual, "what hides parts of proc");
    }
    world.agent.finish();
}

#[test]
fn a_container_is_closed_by_what_an_admin_does_to_one_in_its_pid_namespace() {
    let world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        for name in ["own", "second", "third"] {
            let mut spec = sleeper(name);
            if name != "own" {
                let mode = v1::NamespaceMode::Container.into();
                let first = v1::Namespace { mode, container: "own".into() };
                spec.namespaces = Some(v1::Namespaces {
                    pid: Some(first.clone()),
                    user: Some(first),
                    ..Default::default()
                });
            }
            api.run(spec).await.expect("it may");
        }
        let may_run = async |api: &mut Api, container: &str| {
            let spec = session(container, process(["true"]));
            Wire::open(api, wire::start(spec)).await.map(drop).map_err(|status| status.code())
        };
        let all = ["own", "second", "third"];
        for name in all {
            assert_eq!(may_run(&mut api, name).await, Ok(()), "{name}");
        }
        world.agent.ok(["mount", "second", &format!("{}:/mnt/e", secret.display()), "--mkdir"]);
        for name in all {
            let denied = Err(Code::PermissionDenied);
            assert_eq!(may_run(&mut api, name).await, denied, "/proc/PID/root of {name}");
        }
        // It is not there any more.
        world.agent.ok(["stop", "-t", "0", "second"]);
        for name in ["own", "third"] {
            assert_eq!(may_run(&mut api, name).await, Ok(()), "{name}");
        }
        // The same with one that the admin has made.
        let volume = format!("{}:/mnt/e", secret.display());
        let joined = ["--ns", "pid=container:own", "--userns", "container:own"];
        let run = ["run", "-d", "--name", "admins", "-v", &volume];
        world.agent.ok([&run[..], &joined, &["--", "sleep", "1000"]].concat());
        assert_eq!(may_run(&mut api, "own").await, Err(Code::PermissionDenied));
        world.agent.ok(["rm", "-f", "admins"]);
        assert_eq!(may_run(&mut api, "own").await, Ok(()));
    });
    world.agent.finish();
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
        for (session, may) in [(before, false), (during, false), (after, true)] {
            let viewed = Wire::open(&mut api, wire::view(&session)).await.map(drop);
            assert_eq!(viewed.is_ok(), may, "{viewed:?}");
            let request = v1::ReadRecordingRequest { session_id: session };
            let read = api.sessions.read_recording(request).await.map(drop);
            assert_eq!(read.is_ok(), may, "{read:?}");
        }
        assert_eq!(may_run(&mut api, "own").await, Ok(()), "it is over");
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

#[test]
fn what_is_mounted_into_a_container_while_it_is_copied_from_is_not_copied() {
    let slow = |_: &std::path::Path| {
        ["env", "CONTI_TEST_DELAYS=create_mount.checked=300"].map(Into::into).to_vec()
    };
    let world = World::start_behind(slow, "");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    fs::write(secret.join("key"), "x").expect("a file");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut refused = 0;
        for round in 0..12 {
            api.run(sleeper("own")).await.expect("it may");
            let mut spec = beside("source", "own");
            spec.namespaces.as_mut().expect("some").pid = None;
            api.run(spec).await.expect("it may");
            let mount = |source: &str, of: &str, from: &str, to: &str| v1::CreateMountRequest {
                target: Some(v1::Target { target: Some(target::Target::Container(of.into())) }),
                mount: Some(bind(std::path::Path::new(source), to)),
                source_container: from.to_owned(),
                create_point: true,
                ..Default::default()
            };
            let admins = mount(&secret.display().to_string(), "source", "", "/tmp/e");
            let copy = mount("/tmp", "own", "source", "/mnt/c");
            let (mut other, mut own) = (admin.clone(), api.clone());
            let admins = async { other.mounts.create_mount(admins).await };
            let copy = async { own.mounts.create_mount(copy).await };
            let (mounted, copied) = tokio::join!(admins, copy);
            mounted.expect("an admin may");
            let script = "test ! -e /mnt/c/e/key";
            let spec = session("own", shell(script));
            let seen = Wire::open(&mut admin, wire::start(spec)).await.expect("an admin may");
            assert_eq!(api::exit_code(&seen.collect().await.end), 0, "{round}: {copied:?}");
            refused += usize::from(copied.is_err());
            for name in ["own", "source"] {
                admin.delete(name).await.expect("an admin may");
            }
        }
        assert!(refused > 0, "it was refused where it came too late");
    });
    world.agent.finish();
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
