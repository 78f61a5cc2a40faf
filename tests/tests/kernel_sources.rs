//! What the kernel shows of itself, somewhere below what an operator was granted or among the host's programs, comes
//! into no container: not as a layer, not alone, not with a root.

use std::{ffi::OsString, path::Path};

use conti_proto::v1::{self, ContainerSpec, DirRootfs, OverlayMount, Rootfs, rootfs, target};
use conti_tests::{
    Agent,
    api::{Api, sleeper},
    host_mount::HostMount,
    wait,
    world::World,
};
use rustix::mount::MountFlags;
use tonic::{Code, Status};

fn bound(source: &Path) -> v1::Mount {
    let source = source.display().to_string();
    let bind = v1::BindMount { source, non_recursive: true, ..Default::default() };
    let source = Some(v1::mount::Source::Bind(bind));
    v1::Mount { target: "/mnt/m".to_owned(), source, read_only: false }
}

fn layers(lowers: &[&Path]) -> v1::Mount {
    let lowers = lowers.iter().map(|lower| lower.display().to_string()).collect();
    let overlay = OverlayMount { lowers, ..Default::default() };
    let source = Some(v1::mount::Source::Overlay(overlay));
    v1::Mount { target: "/mnt/m".to_owned(), source, read_only: true }
}

/// A container with the ids of the host, for which the kernel's own rights are no obstacle.
fn host_ids(name: &str) -> ContainerSpec {
    let host = v1::Namespace { mode: v1::NamespaceMode::Host.into(), ..Default::default() };
    let namespaces = v1::Namespaces { user: Some(host), ..Default::default() };
    ContainerSpec { namespaces: Some(namespaces), ..sleeper(name) }
}

async fn mount(api: &mut Api, mount: v1::Mount) -> Result<(), Status> {
    let target = Some(v1::Target { target: Some(target::Target::Container("own".to_owned())) });
    let request = v1::CreateMountRequest {
        target,
        mount: Some(mount),
        create_point: true,
        ..Default::default()
    };
    api.mounts.create_mount(request).await.map(drop)
}

#[test]
fn what_an_operator_was_granted_has_none_of_it() {
    let world = World::start("");
    let granted = world.agent.scratch("granted");
    let plain = granted.join("plain");
    let other = granted.join("other");
    for dir in [&plain, &other] {
        std::fs::create_dir_all(dir).expect("a directory");
    }
    let policy = format!(
        "[operator]\nmounts = [{granted:?}]\nrootfs = [{granted:?}]\nhost_user_namespace = true\n"
    );
    world.files.put("policy.toml", &policy);
    wait::until_true("the policy was read again", || {
        world.agent.log().contains("the policy was read again")
    });
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        api.run(host_ids("own")).await.expect("it may");
        let layered = |mount: v1::Mount| ContainerSpec { mounts: vec![mount], ..host_ids("c") };
        for kind in ["sysfs", "devtmpfs", "cgroup2"] {
            let held = HostMount::new(kind, &granted.join(kind), MountFlags::empty());
            let at = held.path();
            let root = |overlay| Rootfs {
                source: Some(rootfs::Source::Dir(DirRootfs {
                    path: at.display().to_string(),
                    overlay,
                })),
            };
            let refused = |answer: Result<(), Status>, what: &str| {
                let refused = answer.expect_err(what);
                let said = [Code::PermissionDenied, Code::FailedPrecondition];
                assert!(said.contains(&refused.code()), "{kind}, {what}: {refused:?}");
            };
            for mounts in [bound(at), layers(&[at, &plain]), layers(&[&plain, at])] {
                let what = format!("{mounts:?}");
                refused(mount(&mut api, mounts.clone()).await, &what);
                refused(api.run(layered(mounts)).await.map(drop), &what);
            }
            for overlay in [false, true] {
                let spec = ContainerSpec { rootfs: Some(root(overlay)), ..host_ids("c") };
                refused(api.run(spec).await.map(drop), "a root");
                let spec = ContainerSpec { rootfs: Some(root(overlay)), ..sleeper("c") };
                refused(api.run(spec).await.map(drop), "a root with ids of its own");
            }
            // As a layer it is nobody's.
            refused(admin.run(layered(layers(&[at, &plain]))).await.map(drop), "an admin's");
        }
        mount(&mut api, layers(&[&plain, &other])).await.expect("these it may");
        assert_eq!(api.list().await.len(), 1);
    });
    world.agent.finish();
}

/// What is mounted on a directory may hide or protect what lies there.
#[test]
fn nothing_is_laid_bare_by_leaving_out_what_is_mounted_below() {
    let world = World::start("");
    let granted = world.agent.scratch("granted");
    let below = granted.join("a/below");
    std::fs::create_dir_all(&below).expect("a directory");
    let policy = format!(
        "[operator]\nmounts = [{granted:?}]\nrootfs = [{granted:?}]\nhost_user_namespace = true\n"
    );
    world.files.put("policy.toml", &policy);
    wait::until_true("the policy was read again", || {
        world.agent.log().contains("the policy was read again")
    });
    let (a, plain) = (granted.join("a"), granted.join("plain"));
    std::fs::create_dir(&plain).expect("a directory");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        api.run(sleeper("own")).await.expect("it may");
        let root = Rootfs {
            source: Some(rootfs::Source::Dir(DirRootfs {
                path: a.display().to_string(),
                overlay: true,
            })),
        };
        let rooted = ContainerSpec { rootfs: Some(root), ..sleeper("c") };
        let with = |mount| ContainerSpec { mounts: vec![mount], ..sleeper("c") };
        let held = HostMount::read_only(&below);
        // Recursive binds leave these out.
        let unbindable = rustix::mount::MountPropagationFlags::UNBINDABLE;
        rustix::mount::mount_change(&below, unbindable).expect("it is unbindable");
        let whole = |source: &Path| {
            let mut whole = bound(source);
            if let Some(v1::mount::Source::Bind(bind)) = &mut whole.source {
                bind.non_recursive = false;
            }
            whole
        };
        for wanted in [whole(&a), whole(&granted)] {
            let refused = mount(&mut api, wanted.clone()).await.expect_err("nor alive");
            assert!(refused.message().contains("mounted below"), "{refused:?}");
            let refused = api.run(with(wanted)).await.expect_err("it leaves out what protects");
            assert!(refused.message().contains("mounted below"), "{refused:?}");
        }
        let private = rustix::mount::MountPropagationFlags::PRIVATE;
        rustix::mount::mount_change(&below, private).expect("it is private");
        for spec in [with(bound(&a)), with(bound(&granted)), rooted] {
            let refused = api.run(spec).await.expect_err("it leaves out what protects");
            assert!(refused.message().contains("mounted below"), "{refused:?}");
        }
        for wanted in [bound(&a), layers(&[&a, &plain])] {
            let refused = mount(&mut api, wanted).await.expect_err("nor alive");
            assert!(refused.message().contains("mounted below"), "{refused:?}");
        }
        admin.run(with(bound(&a))).await.expect("an admin may");
        admin.delete("c").await.expect("it is there");
        // With it, and then without it from there.
        let whole = whole(&a);
        for spec in [with(whole.clone()), ContainerSpec { mounts: vec![whole], ..host_ids("c") }] {
            api.run(spec).await.expect("as it is on the host");
            let target = Some(v1::Target { target: Some(target::Target::Container("c".into())) });
            let request = v1::CreateMountRequest {
                target,
                mount: Some(v1::Mount { target: "/mnt/bare".into(), ..bound("/mnt/m".as_ref()) }),
                source_container: "c".into(),
                create_point: true,
                ..Default::default()
            };
            let refused = api.mounts.create_mount(request).await.expect_err("it leaves it out");
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
            api.delete("c").await.expect("its own");
        }
        // What is mounted itself, and what has nothing below.
        for source in [&below, &plain] {
            api.run(with(bound(source))).await.expect("it may");
            api.delete("c").await.expect("its own");
        }
        drop(held);
        api.run(with(bound(&a))).await.expect("it may");
    });
    world.agent.finish();
}

#[test]
fn the_hosts_programs_bring_along_what_is_mounted_below_them_but_none_of_it() {
    // In a mount namespace of the agent's own, as a chroot among the programs would be, with mounts on its proc and devices;
    // and what the host hides there.
    let script = "mount --make-rprivate / && mount -t tmpfs -o mode=755 none /usr/src && cd /usr/src \
                  && mkdir proc proc-b deep hidden \
                  && mount -t proc proc proc-b && mount -t proc proc proc && mount -t tmpfs none proc/fs \
                  && mount -t tmpfs none deep && touch deep/file && echo hidden >deep/masked && mount --bind /dev/null deep/masked \
                  && touch hidden/secret && mount -t tmpfs none hidden && mount --make-unbindable hidden \
                  && mount -t devtmpfs none /usr/games && mount -t tmpfs none /usr/games/shm && exec \"$@\"";
    let words = ["unshare", "--mount", "sh", "-c", script, "sh"];
    let agent = Agent::start_behind(|_| words.map(OsString::from).to_vec());
    let look = "cd /usr/src; echo $(ls . proc deep hidden /usr/games); cat deep/masked";
    let look = ["--", "sh", "-c", look];
    let expected = ".: deep hidden proc proc-b /usr/games: deep: file masked hidden: proc:";
    for userns in ["auto", "host"] {
        agent.ok(["run", "-d", "--name", "c", "--userns", userns, "--", "sleep", "1000"]);
        for verb in ["exec", "debug"] {
            assert_eq!(agent.ok([&[verb, "c"], &look[..]].concat()), expected, "{verb}, {userns}");
        }
        let writes = "! touch /usr/src/x /usr/src/deep/x 2>/dev/null";
        agent.ok(["exec", "c", "--", "sh", "-c", writes]);
        agent.ok(["rm", "-f", "c"]);
    }
    agent.finish();
}
