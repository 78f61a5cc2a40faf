//! `mount` and `umount`: mounts that are put into what is alive, and taken away again.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use conti_tests::{Agent, host, plain::Plain};
use serde_json::Value;

fn with_container() -> Agent {
    let agent = Agent::start();
    agent.ok(["run", "-d", "--name", "c", "--", "sleep", "1000"]);
    agent
}

/// A directory of the host with a file in it.
fn source(agent: &Agent) -> String {
    let dir = agent.scratch("source");
    fs::create_dir_all(dir.join("below")).expect("a directory");
    fs::write(dir.join("file"), "of the host\n").expect("a file");
    dir.display().to_string()
}

fn cat(agent: &Agent, container: &str, path: &str) -> String {
    agent.ok(["exec", container, "--", "cat", path])
}

fn errors(agent: &Agent, args: &[&str]) -> String {
    agent.ctl(args.iter().copied()).run().exits(125).errors()
}

/// The pid of a container's main process.
fn pid_of(agent: &Agent, container: &str) -> u64 {
    let json = agent.ctl(["inspect", container]).run().success().json();
    let container = json.as_array().map_or(&json, |all| &all[0]);
    container["pid"].as_u64().expect("a pid")
}

fn made(agent: &Agent, target: &str) -> Vec<Value> {
    let all = agent.ctl(["-o", "json", "mounts", target]).run().success().json();
    let all = all.as_array().expect("a list").iter();
    all.map(|mount| mount["made"].clone()).filter(|made| !made.is_null()).collect()
}

#[test]
fn a_directory_of_the_host_appears_in_a_living_container_and_goes_again() {
    let mut agent = with_container();
    let source = source(&agent);
    // Others mount something on the host meanwhile.
    let here = agent.path("").display().to_string();
    let before = host::mounts_mentioning(&here);
    let id = agent.ok(["mount", "c", &format!("{source}:/mnt:ro")]);
    assert_eq!(id.len(), 32, "{id}");
    assert_eq!(cat(&agent, "c", "/mnt/file"), "of the host");
    let refused = agent.ctl(["exec", "c", "--", "touch", "/mnt/x"]).run();
    assert!(refused.errors().contains("Read-only"), "{refused:?}");
    // It is private: nothing that is mounted on it comes to the host.
    agent.ok(["mount", "c", "type=tmpfs,dst=/mnt/below"]);
    assert_eq!(host::mounts_mentioning(&here), before);

    // It is listed with who made it, also by an agent that was started again.
    let listed = made(&agent, "c");
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["mount"]["source"]),
        (&id.clone().into(), &source.into())
    );
    assert!(
        listed[0]["made_by"].as_str().is_some_and(|by| by.starts_with("uid 0, pid ")),
        "{listed:?}"
    );
    assert!(listed[0]["create_time"].is_string());
    agent.kill();
    agent.restart();
    assert_eq!(made(&agent, "c"), listed);
    assert!(agent.ok(["mounts", "c"]).contains(&id));

    // What lies on it goes first.
    agent.ok(["mount", "--mkdir", "c", "type=tmpfs,dst=/mnt/below/deep"]);
    for which in [&["--id", &id][..], &["c", "/mnt"]] {
        let refused = errors(&agent, &[&["umount"], which].concat());
        assert!(refused.contains("in use"), "{refused}");
        assert!(refused.contains(r#"on "/mnt/below/deep", "/mnt/below"; unmount"#), "{refused}");
    }
    agent.ok(["umount", "c", "/mnt/below/deep"]);
    agent.ok(["umount", "c", "/mnt/below"]);
    agent.ok(["umount", "--id", &id]);
    assert!(errors(&agent, &["umount", "--id", &id]).contains("there is no mount"));
    assert!(made(&agent, "c").is_empty());
    assert_eq!(agent.ok(["exec", "c", "--", "ls", "/mnt"]), "");
    agent.finish();
}

#[test]
fn every_kind_of_mount_can_be_made() {
    let agent = with_container();
    let source = source(&agent);
    agent.ok(["mount", "--mkdir", "c", "type=tmpfs,dst=/data,size=1m,mode=0700"]);
    assert_eq!(agent.ok(["exec", "c", "--", "stat", "-c", "%a", "/data"]), "700");
    agent.ok(["mount", "--mkdir", "c", &format!("{source}/file:/one file")]);
    assert_eq!(cat(&agent, "c", "/one file"), "of the host");
    for name in ["lower", "upper", "work"] {
        fs::create_dir(agent.scratch(name)).expect("a directory");
    }
    fs::write(agent.scratch("lower/low"), "low\n").expect("a file");
    let scratch = agent.scratch("").display().to_string();
    let scratch = scratch.trim_end_matches('/');
    // An overlay knows no id maps.
    agent.ok(["run", "-d", "--name", "h", "--userns", "host", "--", "sleep", "1000"]);
    let over = format!(
        "type=overlay,lower={scratch}/lower,upper={scratch}/upper,work={scratch}/work,dst=/over"
    );
    let refused = errors(&agent, &["mount", "--mkdir", "c", &over]);
    assert!(refused.contains("/over") && refused.contains("--userns host"), "{refused}");
    assert!(
        refused.contains("overlayfs takes no id map") && !refused.contains("lower"),
        "{refused}"
    );
    agent.ok(["mount", "--mkdir", "h", &over]);
    agent.ok(["exec", "h", "--", "sh", "-c", "cat /over/low > /over/new"]);
    assert_eq!(fs::read_to_string(agent.scratch("upper/new")).expect("written"), "low\n");
    let both = format!("type=overlay,lower={scratch}/lower,lower={source},dst=/both");
    agent.ok(["mount", "--mkdir", "h", &both]);
    assert_eq!(agent.ok(["exec", "h", "--", "ls", "/both"]), "below\nfile\nlow");
    agent.ok(["exec", "c", "--", "touch", "/data/own"]);

    // From another container, which need not share anything with the host, but the ids with the target.
    agent.ok(["run", "-d", "--name", "strange", "--", "sleep", "1000"]);
    let refused = errors(&agent, &["mount", "--mkdir", "--from", "strange", "c", "/tmp:/theirs"]);
    assert!(refused.contains("--userns container:NAME"), "{refused}");
    agent.ok([
        "run",
        "-d",
        "--name",
        "other",
        "--userns",
        "container:c",
        "--",
        "sh",
        "-c",
        "echo mine > /tmp/note; sleep 1000",
    ]);
    conti_tests::wait::until_true("it is written", || {
        agent.ctl(["exec", "other", "--", "cat", "/tmp/note"]).run().code == 0
    });
    agent.ok(["mount", "--mkdir", "--from", "other", "c", "/tmp:/theirs:ro"]);
    assert_eq!(cat(&agent, "c", "/theirs/note"), "mine");
    assert_eq!(made(&agent, "c").len(), 3);
    agent.ok(["rm", "-f", "other"]);
    assert_eq!(cat(&agent, "c", "/theirs/note"), "mine");
    agent.finish();
}

mod needs_loop_device {
    use super::*;

    #[test]
    fn an_image_is_mounted_and_its_loop_device_goes_with_it() {
        let agent = with_container();
        let image = agent.scratch("image");
        fs::File::create(&image).and_then(|file| file.set_len(8 << 20)).expect("an image");
        let made = std::process::Command::new("mkfs.ext4").arg("-q").arg(&image).status();
        assert!(made.expect("mkfs.ext4").success());
        let spec = format!("type=device,src={},fs=ext4,dst=/disk", image.display());
        let id = agent.ok(["mount", "--mkdir", "c", &spec]);
        agent.ok(["exec", "c", "--", "sh", "-c", "echo kept > /disk/note"]);
        agent.ok(["umount", "--id", &id]);
        agent.ok(["mount", "c", &format!("{spec},ro")]);
        assert_eq!(cat(&agent, "c", "/disk/note"), "kept");
        agent.ok(["umount", "c", "/disk"]);
        conti_tests::wait::until_true("the loop device is gone", || {
            host::loop_devices_of(&agent.scratch("")).is_empty()
        });
        agent.finish();
    }
}

mod needs_user_namespaces {
    use super::*;

    /// A process in a user namespace of its own in which nobody is root.
    #[test]
    fn a_point_is_made_where_no_id_is_that_of_root() {
        let agent = Agent::start();
        let plain = Plain::without_root();
        let (source, target) = (source(&agent), plain.target());
        agent.ok(["mount", "--mkdir", &target, &format!("{source}:/mnt/new")]);
        let own = |path: &str| format!("/proc/{}/root/mnt/{path}", plain.pid);
        assert!(Path::new(&own("new/file")).exists());
        agent.ok(["umount", &target, "/mnt/new"]);
        // It belongs to the owner of the directory that it was made in.
        let owner = |path| fs::metadata(own(path)).map(|of| (of.uid(), of.gid())).expect("there");
        assert_eq!((owner("new"), owner("")), ((1000, 1000), (1000, 1000)));
        agent.ok(["mount", "--mkdir", &target, &format!("{source}/file:/mnt/one")]);
        assert_eq!(fs::read_to_string(own("one")).expect("there"), "of the host\n");
        drop(plain);
        agent.finish();
    }

    #[test]
    fn ids_are_those_of_the_targets_user_namespace_when_asked() {
        let agent = Agent::start();
        let map =
            ["--ns", "user=private", "--uid-map", "0:300000:65536", "--gid-map", "0:300000:65536"];
        agent.ok([&["run", "-d", "--name", "c"], &map[..], &["--", "sleep", "1000"]].concat());
        let source = source(&agent);
        let owner = |path: &str| agent.ok(["exec", "c", "--", "stat", "-c", "%u", path]);
        let plain = format!("pid:{}", pid_of(&agent, "c"));
        // Into a container it is so without being asked for, however that is named.
        agent.ok(["mount", "--mkdir", &plain, &format!("{source}:/plain")]);
        assert_eq!(owner("/plain/file"), "0");
        agent.ok(["mount", "--mkdir", "c", &format!("{source}:/mapped")]);
        assert_eq!(owner("/mapped/file"), "0");
        agent.ok(["umount", "c", "/mapped"]);
        agent.ok(["mount", "--idmapped", &plain, &format!("{source}:/mapped")]);
        assert_eq!(owner("/mapped/file"), "0");
        agent.ok(["exec", "c", "--", "touch", "/mapped/new"]);
        assert_eq!(fs::metadata(Path::new(&source).join("new")).expect("made").uid(), 0);
        // What was made for it belongs to its root.
        agent.ok(["umount", "c", "/plain"]);
        assert_eq!(owner("/plain"), "0");
        agent.ok(["run", "-d", "--name", "d", "--userns", "host", "--", "sleep", "1000"]);
        let refused = errors(&agent, &["mount", "--idmapped", "d", &format!("{source}:/mnt")]);
        assert!(refused.contains("no user namespace of its own"), "{refused}");
        agent.finish();
    }
}

#[test]
fn a_plain_process_and_its_mounts_are_reached_as_well() {
    let agent = Agent::start();
    let plain = Plain::start(&["--propagation", "private"]);
    let source = source(&agent);
    let point = agent.scratch("point");
    fs::create_dir(&point).expect("a directory");
    let path = point.display().to_string();
    agent.ok(["mount", &plain.target(), &format!("{source}:{path}")]);
    assert!(!point.join("file").exists(), "the host does not see it");
    assert!(Path::new(&format!("/proc/{}/root{path}/file", plain.pid)).exists());
    agent.ok(["umount", &plain.target(), &path]);
    assert!(!Path::new(&format!("/proc/{}/root{path}/file", plain.pid)).exists());
    let error = errors(&agent, &["umount", &plain.target(), &path]);
    assert!(error.contains("nothing is mounted"), "{error}");
    drop(plain);
    agent.finish();
}

#[test]
fn what_cannot_be_mounted_is_said_and_nothing_is_left() {
    let agent = with_container();
    let source = source(&agent);
    let bind = |point: &str| format!("{source}:{point}");
    let before = agent.ok(["-o", "json", "mounts", "--no-usage", "c"]);
    agent.ok([
        "exec",
        "c",
        "--",
        "sh",
        "-c",
        "ln -s /mnt /link; ln -s / /out; mkdir /dir; echo > /file",
    ]);
    for (mount, said) in [
        (bind("/link"), "must not be a symbolic link"),
        (bind("/nowhere"), "No such file"),
        (bind("/no/where"), "No such file"),
        (bind("/file"), "cannot mount a directory on a file"),
        (format!("{source}/file:/dir"), "cannot mount a file on a directory"),
        (format!("{source}/nothing:/dir"), "cannot open the source"),
        (bind("/"), "would hide all"),
        (bind("/../dir"), ".."),
        (
            "type=device,src=/etc/hostname,fs=nofs,dst=/dir".to_owned(),
            "does not know this filesystem",
        ),
        (
            format!("type=overlay,lower={source},lower={source}/nothing,dst=/dir"),
            "layer of the overlay",
        ),
    ] {
        let error = errors(&agent, &["mount", "c", &mount]);
        assert!(error.contains(said), "{mount}: {error}");
        // What it would have made is not there either.
        errors(
            &agent,
            &[
                "mount",
                "--mkdir",
                "c",
                &mount.replace("/no/where", "/no/where/x").replace("/nowhere", "/no/x"),
            ],
        );
    }
    assert!(errors(&agent, &["umount", "c", "/dir"]).contains("nothing is mounted"));
    assert!(errors(&agent, &["umount", "c", "/"]).contains("stays as it is"));
    assert!(errors(&agent, &["umount", "c", "dir"]).contains("absolute"));
    assert!(errors(&agent, &["umount", "--id", "x"]).contains("there is no mount"));
    // A dry run says yes and does nothing.
    agent.ok(["mount", "--dry-run", "c", &bind("/dir")]);
    agent.ok(["mount", "--dry-run", "--mkdir", "c", &bind("/new")]);
    assert_eq!(agent.ok(["-o", "json", "mounts", "--no-usage", "c"]), before);
    assert_eq!(agent.ctl(["exec", "c", "--", "test", "-e", "/new"]).run().code, 1);

    // In use.
    agent.ok(["mount", "c", &bind("/dir")]);
    agent.ok(["exec", "-d", "-w", "/dir", "c", "--", "sleep", "1000"]);
    let refused = errors(&agent, &["umount", "c", "/dir"]);
    assert!(refused.contains("in use, by an open file"), "{refused}");
    agent.ok(["umount", "--lazy", "c", "/dir"]);
    assert_eq!(agent.ok(["-o", "json", "mounts", "--no-usage", "c"]), before);
    // Covered by another.
    let first = agent.ok(["mount", "c", &bind("/dir")]);
    agent.ok(["mount", "c", "type=tmpfs,dst=/dir"]);
    assert!(errors(&agent, &["umount", "--id", &first]).contains("another mount lies on top"));
    agent.ok(["rm", "-f", "c"]);
    assert!(errors(&agent, &["mount", "c", &bind("/dir")]).contains("there is no container"));
    agent.finish();
}

/// The path is exchanged for a link that leads to the host's own directory, as a container can do, as often
/// as possible: the mount lands in the container or not at all.
#[test]
fn a_path_that_is_swapped_never_leads_out_of_the_target() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let agent = Agent::start();
    let root = agent.scratch("root");
    conti_tests::rootfs::build_empty(&root);
    let outside = agent.scratch("outside");
    fs::create_dir_all(outside.join("dir")).expect("a directory");
    fs::create_dir_all(root.join("way/dir")).expect("a directory");
    fs::create_dir(root.join("dir")).expect("a directory");
    symlink(&outside, root.join("other")).expect("a link");
    symlink(outside.join("dir"), root.join("link")).expect("a link");
    let rootfs = format!("dir:{}", root.display());
    agent.ok(["run", "-d", "--name", "c", "--rootfs", &rootfs, "--", "/pause"]);
    let host_mounts = || host::mounts_mentioning(&outside.display().to_string());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let swap = |a: &str, b: &str| {
                let _ = renameat_with(CWD, root.join(a), CWD, root.join(b), RenameFlags::EXCHANGE);
            };
            while !stop.load(Ordering::Relaxed) {
                swap("way", "other");
                swap("dir", "link");
            }
        });
        agent.api(async |mut api| {
            use conti_proto::v1::*;
            let target =
                || Some(Target { target: Some(target::Target::Container("c".to_owned())) });
            let (mut mounted, mut refused) = (0, 0);
            for number in 0..1000 {
                let point = if number % 2 == 0 { "/dir" } else { "/way/dir" };
                let request = CreateMountRequest {
                    target: target(),
                    mount: Some(Mount {
                        target: point.to_owned(),
                        source: Some(mount::Source::Tmpfs(TmpfsMount::default())),
                        read_only: false,
                    }),
                    ..Default::default()
                };
                match api.mounts.create_mount(request).await {
                    Err(_) => refused += 1,
                    Ok(response) => {
                        mounted += 1;
                        let id = response.into_inner().mount.expect("the mount").id;
                        let made = |lazy| DeleteMountRequest {
                            which: Some(delete_mount_request::Which::Id(id.clone())),
                            lazy,
                            dry_run: false,
                        };
                        // Its directory may have another name just now.
                        while api.mounts.delete_mount(made(true)).await.is_err() {}
                    }
                }
            }
            assert!(mounted > 0 && refused > 0, "{mounted} mounted, {refused} refused");
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(host_mounts(), Vec::<String>::new());
    agent.finish();
}

/// Two overlays with one upper directory do not see what the other writes.
#[test]
fn a_container_is_warned_of_whose_files_of_before_are_mounted_elsewhere() {
    let agent = Agent::start();
    for name in ["c", "other"] {
        agent.ok(["run", "-d", "--name", name, "--userns", "host", "--", "sleep", "1000"]);
    }
    let started = |warned: bool| {
        agent.ok(["stop", "-t", "0", "c"]);
        agent.ok(["start", "c"]);
        let json = agent.ctl(["inspect", "c"]).run().success().json();
        let text = json.to_string();
        assert_eq!(text.contains("still mounted on /mnt in other"), warned, "{text}");
    };
    started(false);
    agent.ok(["mount", "other", "--from", "c", "/tmp:/mnt"]);
    started(true);
    agent.ok(["umount", "other", "/mnt"]);
    started(false);
    agent.finish();
}
