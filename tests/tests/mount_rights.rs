//! Mounts into what is alive: which places and which sources are not an operator's, and what an admin's
//! mount means for those who enter afterwards.

use std::{fs, os::unix::fs::symlink, path::Path};

use conti_proto::v1::{self, ContainerSpec, target};
use conti_tests::{
    api::{self, Api, session, shell, sleeper},
    host_mount::HostMount,
    rootfs, wait,
    wire::{self, Wire},
    world::World,
};
use rustix::mount::MountFlags;
use tonic::{Code, Status};

fn of(container: &str) -> Option<v1::Target> {
    Some(v1::Target { target: Some(target::Target::Container(container.to_owned())) })
}

fn tmpfs(target: &str) -> v1::Mount {
    let source = Some(v1::mount::Source::Tmpfs(v1::TmpfsMount::default()));
    v1::Mount { target: target.to_owned(), source, read_only: false }
}

fn bound(source: &Path, target: &str, recursive: bool) -> v1::Mount {
    let source = v1::BindMount {
        source: source.display().to_string(),
        non_recursive: !recursive,
        ..Default::default()
    };
    let source = Some(v1::mount::Source::Bind(source));
    v1::Mount { target: target.to_owned(), source, read_only: false }
}

/// Mounts something into the container `own`, from the container `from` or from the host.
async fn mount(api: &mut Api, mount: v1::Mount, from: &str) -> Result<v1::MadeMount, Status> {
    let request = v1::CreateMountRequest {
        target: of("own"),
        mount: Some(mount),
        source_container: from.to_owned(),
        create_point: true,
        ..Default::default()
    };
    let made = api.mounts.create_mount(request).await?.into_inner();
    Ok(made.mount.expect("the mount"))
}

async fn unmount(api: &mut Api, id: &str) -> Result<(), Status> {
    let which = Some(v1::delete_mount_request::Which::Id(id.to_owned()));
    let request = v1::DeleteMountRequest { which, lazy: true, dry_run: false };
    api.mounts.delete_mount(request).await.map(|_| ())
}

/// A container with the ids of the host.
fn host_ids(name: &str) -> ContainerSpec {
    let host = v1::Namespace { mode: v1::NamespaceMode::Host.into(), ..Default::default() };
    let namespaces = v1::Namespaces { user: Some(host), ..Default::default() };
    ContainerSpec { namespaces: Some(namespaces), ..sleeper(name) }
}

/// Runs a script in the container `own`: its exit code and what it wrote.
async fn run(api: &mut Api, script: &str) -> Result<(i32, String), Status> {
    let wire = Wire::open(api, wire::start(session("own", shell(script)))).await?;
    let all = wire.collect().await;
    Ok((api::exit_code(&all.end), String::from_utf8_lossy(&all.stdout).into_owned()))
}

async fn read(api: &mut Api, path: &str) -> Result<(), Status> {
    let request = v1::ReadFileRequest {
        target: of("own"),
        path: path.as_bytes().to_vec().into(),
        ..Default::default()
    };
    let mut answer = api.files.read_file(request).await?.into_inner();
    answer.message().await.map(|_| ())
}

#[test]
fn a_link_is_no_way_to_mount_where_the_kernel_shows_itself() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        let links = "mkdir /usr/w && cd /usr/w && ln -s /proc p && ln -s /sys s && ln -s /dev d \
                     && ln -s /proc/sys y && ln -s / r";
        assert_eq!(run(&mut api, links).await.expect("it may").0, 0);
        for place in [
            "p/sys",
            "p/sys/kernel",
            "y/kernel",
            "s/fs",
            "s/kernel",
            "d/shm",
            "d/new",
            "r/proc/sys",
        ] {
            let refused = mount(&mut api, tmpfs(&format!("/usr/w/{place}")), "").await;
            let refused = refused.expect_err(place);
            assert_eq!(refused.code(), Code::PermissionDenied, "{place}: {refused:?}");
        }
        let (code, _) = run(&mut api, "test -e /dev/new").await.expect("it may");
        assert_eq!(code, 1, "nothing was made in /dev");
        let made = mount(&mut api, tmpfs("/usr/w/own"), "").await.expect("a place of its own");
        unmount(&mut api, &made.id).await.expect("and away again");
        // An admin may.
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        mount(&mut admin, tmpfs("/usr/w/d/shm"), "").await.expect("an admin may");
    });
    world.agent.finish();
}

#[test]
fn a_link_in_a_root_filesystem_leads_no_mount_of_an_operator_there_either() {
    let world = World::start("");
    let roots = world.agent.scratch("roots");
    rootfs::build_empty(&roots.join("bad"));
    for (name, to) in
        [("p", "/proc"), ("s", "/sys"), ("d", "/dev"), ("y", "/proc/sys"), ("f", "/own")]
    {
        symlink(to, roots.join("bad").join(name)).expect("a link");
    }
    world
        .files
        .put("policy.toml", &format!("[operator]\nrootfs = [{:?}]\n", roots.display().to_string()));
    wait::until_true("the policy was read again", || {
        world.agent.log().contains("the policy was read again")
    });
    let source = |overlay| {
        v1::rootfs::Source::Dir(v1::DirRootfs {
            path: roots.join("bad").display().to_string(),
            overlay,
        })
    };
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        for overlay in [true, false] {
            let spec = |place: &str| ContainerSpec {
                rootfs: Some(v1::Rootfs { source: Some(source(overlay)) }),
                mounts: vec![tmpfs(place)],
                ..api::container("c", api::process(["/pause"]))
            };
            for place in ["/p/sys", "/y/kernel", "/p", "/s/fs", "/d/shm", "/d", "/d/new"] {
                let refused = api.run(spec(place)).await.expect_err(place);
                assert_eq!(refused.code(), Code::FailedPrecondition, "{place}: {refused:?}");
                assert!(refused.message().contains("/proc, /sys or /dev"), "{place}: {refused:?}");
            }
            api.run(spec("/f/place")).await.expect("another link does no harm");
            api.delete("c").await.expect("it is deleted");
            admin.run(spec("/d/shm")).await.expect("an admin may");
            admin.delete("c").await.expect("it is deleted");
        }
    });
    world.agent.finish();
}

#[test]
fn a_tree_with_a_proc_in_it_is_an_operators_to_bind_in_no_way() {
    let world = World::start("");
    let granted = world.agent.scratch("granted");
    fs::create_dir_all(granted.join("plain/below")).expect("a directory");
    world.files.put(
        "policy.toml",
        &format!("[operator]\nmounts = [{:?}]\n", granted.display().to_string()),
    );
    wait::until_true("the policy was read again", || {
        world.agent.log().contains("the policy was read again")
    });
    let held = HostMount::new("proc", &granted.join("deep/er/proc"), MountFlags::empty());
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        // Its own root, and what was granted on the host.
        for (source, from) in [
            (Path::new("/"), "own"),
            (Path::new("/dev"), "own"),
            (granted.as_path(), ""),
            (&granted.join("deep"), ""),
            (held.path(), ""),
        ] {
            let refused = mount(&mut api, bound(source, "/mnt/r", true), from).await;
            let refused = refused.expect_err("it holds a filesystem of the kernel");
            let said = [Code::PermissionDenied, Code::FailedPrecondition];
            assert!(said.contains(&refused.code()), "{source:?}: {refused:?}");
        }
        for source in [&granted, &granted.join("deep")] {
            let spec = ContainerSpec { mounts: vec![bound(source, "/m", true)], ..sleeper("c") };
            let refused = api.run(spec).await.expect_err("it holds a filesystem of the kernel");
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        }
        assert_eq!(run(&mut api, "ls /mnt").await.expect("it may").1, "");
        // Without what is mounted below it would be laid bare.
        let alone = bound(&granted, "/mnt/r", false);
        let refused = mount(&mut api, alone.clone(), "").await.expect_err("what lies below");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        let spec = ContainerSpec { mounts: vec![alone], ..sleeper("c") };
        let refused = api.run(spec).await.expect_err("what lies below");
        assert!(refused.message().contains("mounted below"), "{refused:?}");
        let root = mount(&mut api, bound(Path::new("/"), "/mnt/r", false), "own").await;
        assert_eq!(root.expect_err("with all below").code(), Code::FailedPrecondition);
        for (source, recursive, from) in [
            (Path::new("/tmp"), false, "own"),
            (&granted.join("plain"), false, ""),
            (&granted.join("plain"), true, ""),
        ] {
            let made = mount(&mut api, bound(source, "/mnt/r", recursive), from).await;
            let made = made.unwrap_or_else(|error| panic!("{source:?}: {error:?}"));
            unmount(&mut api, &made.id).await.expect("and away again");
        }
    });
    drop(held);
    world.agent.finish();
}

/// What is there when it is asked for is judged; what comes later could not be.
#[test]
fn what_the_host_mounts_later_comes_into_no_container_that_an_operator_has() {
    let world = World::start("");
    let granted = world.agent.scratch("granted");
    let shared = HostMount::tmpfs(&granted);
    shared.share();
    let policy = format!("[operator]\nmounts = [{granted:?}]\nhost_user_namespace = true\n");
    world.files.put("policy.toml", &policy);
    wait::until_true("the policy was read again", || {
        world.agent.log().contains("the policy was read again")
    });
    let with = |name: &str, propagation: v1::MountPropagation| {
        let mut one = bound(&granted, "/mnt/r", true);
        if let Some(v1::mount::Source::Bind(bind)) = &mut one.source {
            bind.propagation = propagation.into();
        }
        ContainerSpec { mounts: vec![one], ..host_ids(name) }
    };
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        api.run(host_ids("own")).await.expect("it may");
        for how in [v1::MountPropagation::Slave, v1::MountPropagation::Shared] {
            let spec = with("c", how);
            let refused = mount(&mut api, spec.mounts[0].clone(), "").await.expect_err("nor alive");
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
            let refused = api.run(spec).await.expect_err("it takes in what comes");
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        }
        api.run(with("private", v1::MountPropagation::Private)).await.expect("it may");
        // An admin may, and is alone in it.
        mount(&mut admin, with("", v1::MountPropagation::Slave).mounts[0].clone(), "")
            .await
            .expect("an admin may");
        admin.run(with("admins", v1::MountPropagation::Slave)).await.expect("an admin may");
        let proc = HostMount::new("proc", &granted.join("later"), MountFlags::empty());
        for name in ["own", "admins"] {
            let open = wire::start(session(name, shell("true")));
            let refused = Wire::open(&mut api, open).await.map(drop).expect_err("not its own");
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        }
        for (name, found) in [("private", "0\n"), ("own", "1\n"), ("admins", "1\n")] {
            let script = "ls /mnt/r/later | grep -cx sys";
            let open = wire::start(session(name, shell(script)));
            let all = Wire::open(&mut admin, open).await.expect("it may").collect().await;
            assert_eq!(String::from_utf8_lossy(&all.stdout), found, "{name}");
        }
        drop(proc);
    });
    drop(shared);
    world.agent.finish();
}

#[test]
fn a_copy_of_a_root_that_an_admin_binds_keeps_the_covers_of_its_proc() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        admin.run(sleeper("own")).await.expect("it may");
        let writes = |at: &str| {
            format!(
                "grep -q ' {at}/sys ro,' /proc/self/mountinfo || exit 8; \
             for file in {at}/sys/kernel/core_pattern {at}/sys/vm/drop_caches; do \
                 (: >> $file) 2>/dev/null && exit 9; done; test ! -s {at}/kcore"
            )
        };
        assert_eq!(run(&mut admin, &writes("/proc")).await.expect("it may").0, 0);
        for (source, recursive, at) in
            [("/", true, "/mnt/r/proc"), ("/proc", true, "/mnt/r"), ("/proc", false, "/mnt/r")]
        {
            let made =
                mount(&mut admin, bound(Path::new(source), "/mnt/r", recursive), "own").await;
            let made = made.expect("an admin may");
            let (code, out) = run(&mut admin, &writes(at)).await.expect("it may");
            assert_eq!(code, 0, "{source}, recursive: {recursive}: {out}");
            unmount(&mut admin, &made.id).await.expect("and away again");
        }
        let made = mount(&mut admin, bound(Path::new("/proc/sys"), "/mnt/r", false), "own").await;
        made.expect("an admin may");
        let script = "grep -q ' /mnt/r ro,' /proc/self/mountinfo && ! (: >> /mnt/r/kernel/core_pattern) 2>/dev/null";
        assert_eq!(run(&mut admin, script).await.expect("it may").0, 0);
    });
    world.agent.finish();
}

#[test]
fn what_an_admin_has_mounted_into_a_container_makes_it_one_that_an_operator_could_not_have_made() {
    let mut world = World::start("");
    let secret = world.agent.scratch("secret");
    fs::create_dir(&secret).expect("a directory");
    fs::write(secret.join("key"), "of the host\n").expect("a file");
    async fn denied(api: &mut Api) {
        let refused = read(api, "/mnt/r/key").await.expect_err("it is the admin's");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        let refused = run(api, "cat /mnt/r/key").await.expect_err("nor is it entered");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        let refused = mount(api, bound(Path::new("/mnt/r"), "/mnt/copy", false), "own").await;
        assert_eq!(refused.expect_err("nor bound").code(), Code::PermissionDenied);
    }
    let id = world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        // What it could have had itself changes nothing.
        mount(&mut admin, tmpfs("/mnt/t"), "").await.expect("an admin may");
        assert_eq!(run(&mut api, "true").await.expect("it may still").0, 0);
        let made =
            mount(&mut admin, bound(&secret, "/mnt/r", true), "").await.expect("an admin may");
        denied(&mut api).await;
        unmount(&mut admin, &made.id).await.expect("an admin may");
        // What runs there may have it still, as a working directory say.
        denied(&mut api).await;
        world.agent.ok(["stop", "-t", "0", "own"]);
        world.agent.ok(["start", "own"]);
        assert_eq!(run(&mut api, "true").await.expect("it may again").0, 0);
        let own = api.get("own").await.expect("it runs");
        // By a process of the container's it is the same place.
        let process = v1::ProcessId { pid: own.pid, start_ticks: 0 };
        let request = v1::CreateMountRequest {
            target: Some(v1::Target { target: Some(target::Target::Process(process)) }),
            mount: Some(bound(&secret, "/mnt/r", true)),
            ..Default::default()
        };
        let made = admin.mounts.create_mount(request).await.expect("an admin may").into_inner();
        denied(&mut api).await;
        made.mount.expect("the mount").id
    });
    world.agent.kill();
    world.agent.restart();
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        denied(&mut api).await;
        let refused = unmount(&mut api, &id).await.expect_err("it is not its own");
        assert!([Code::PermissionDenied, Code::NotFound].contains(&refused.code()), "{refused:?}");
    });
    // A record without the facts, as an older agent wrote it: nothing is known, so that it is an admin's.
    let mounts = world.agent.path("state/mounts");
    world.agent.kill();
    for entry in fs::read_dir(&mounts).expect("records") {
        let path = entry.expect("a record").path();
        let text = fs::read_to_string(&path).expect("a record");
        let mut record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        record.as_object_mut().expect("an object").remove("facts");
        fs::write(&path, record.to_string()).expect("written");
    }
    world.agent.restart();
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        denied(&mut api).await;
        unmount(&mut admin, &id).await.expect("an admin may");
        let refused = run(&mut api, "true").await.expect_err("the tmpfs is unknown as well");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    });
    world.agent.finish();
}
