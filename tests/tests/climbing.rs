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
