//! What a container was made from is what was opened: a link below a granted directory, which whoever has that
//! directory may have planted, makes nothing of the host look granted.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use conti_proto::v1::{
    self, ContainerSpec, DirRootfs, OverlayMount, Rootfs, SessionPolicy, StartContainerRequest,
    StartSessionRequest, mount::Source, rootfs, session_target, target,
};
use conti_tests::{
    api::{Api, bind, process, reason, session, sleeper},
    rootfs as roots,
    wire::{self, Wire},
    world::World,
};
use serde_json::Value;
use tonic::{Code, Status};

/// The directories of a test.
struct Places {
    /// Granted for mounts.
    srv: PathBuf,
    /// Granted for roots.
    roots: PathBuf,
    /// Granted to nobody.
    secret: PathBuf,
}

impl Places {
    /// Makes them, with links into what was not granted, as a container could plant them that has the granted ones.
    fn make(world: &World) -> Places {
        let [srv, roots, secret] = ["srv", "roots", "secret"].map(|name| {
            let place = world.agent.scratch(name);
            fs::create_dir(&place).expect("a directory");
            place
        });
        for place in [srv.join("data"), srv.join("upper"), srv.join("work"), secret.join("data")] {
            fs::create_dir(place).expect("a directory");
        }
        fs::write(secret.join("data/file"), "secret").expect("a file");
        roots::build(&secret.join("root"));
        roots::build(&roots.join("plain"));
        symlink(secret.join("data"), srv.join("link")).expect("a link");
        symlink(secret.join("root"), roots.join("link")).expect("a link");
        let places = Places { srv, roots, secret };
        world.put_policy(&places.policy());
        places
    }

    fn policy(&self) -> String {
        let (srv, roots) = (&self.srv, &self.roots);
        format!(
            "[operator]\nhost_user_namespace = true\nmounts = [{srv:?}]\nrootfs = [{roots:?}]\n"
        )
    }

    fn root(&self, name: &str, overlay: bool) -> Option<Rootfs> {
        let path = self.roots.join(name).display().to_string();
        Some(Rootfs { source: Some(rootfs::Source::Dir(DirRootfs { path, overlay })) })
    }

    fn overlay(&self, lower: &str) -> v1::Mount {
        let [lower, upper, work] =
            [lower, "upper", "work"].map(|name| self.srv.join(name).display().to_string());
        let overlay = OverlayMount { lowers: vec![lower], upper, work };
        mount_at("/m", Source::Overlay(overlay))
    }
}

/// A container with the ids of the host: overlays take no others.
fn of_host(name: &str) -> ContainerSpec {
    let host = v1::Namespace { mode: v1::NamespaceMode::Host.into(), ..Default::default() };
    let namespaces = Some(v1::Namespaces { user: Some(host), ..Default::default() });
    ContainerSpec { namespaces, ..sleeper(name) }
}

fn mount_at(target: &str, source: Source) -> v1::Mount {
    v1::Mount { target: target.to_owned(), source: Some(source), read_only: false }
}

fn of(container: &str) -> Option<v1::Target> {
    Some(v1::Target { target: Some(target::Target::Container(container.to_owned())) })
}

async fn exec(api: &mut Api, container: &str) -> Result<(), Status> {
    Wire::open(api, wire::start(session(container, process(["true"])))).await.map(drop)
}

/// Starts a session in a container that is recorded, and goes on: its id.
async fn record(api: &mut Api, container: &str) -> String {
    let policy = SessionPolicy { record: true, ..Default::default() };
    let spec = v1::SessionSpec {
        policy: Some(policy),
        ..session(container, process(["sleep", "100000"]))
    };
    let request = StartSessionRequest { spec: Some(spec), ..Default::default() };
    let started = api.sessions.start_session(request).await.expect("it starts").into_inner();
    started.session.expect("a session").id
}

async fn recordings(api: &mut Api) -> BTreeSet<String> {
    let request = v1::ListRecordingsRequest { page_size: 1000, ..Default::default() };
    let all = api.sessions.list_recordings(request).await.expect("a list").into_inner();
    all.recordings.into_iter().map(|one| one.session_id).collect()
}

async fn attach(api: &mut Api, session: &str) -> Result<(), Status> {
    Wire::open(api, wire::attach(session, None)).await.map(drop)
}

async fn start(api: &mut Api, container: &str) -> Result<(), Status> {
    let request = StartContainerRequest { container: container.to_owned(), ..Default::default() };
    api.containers.start_container(request).await.map(drop)
}

async fn stop(api: &mut Api, container: &str) {
    let request = v1::StopContainerRequest {
        container: container.to_owned(),
        signal: "KILL".into(),
        ..Default::default()
    };
    api.containers.stop_container(request).await.expect("it is stopped");
}

fn denied<T: std::fmt::Debug>(answer: Result<T, Status>, what: &str) {
    let refused = answer.expect_err(what);
    assert_eq!(refused.code(), Code::PermissionDenied, "{what}: {refused:?}");
}

/// The field of a container's record that says where its sources lay.
const OPENED: &str = "opened";

/// Changes the record of a container.
fn edit(world: &World, id: &str, change: impl FnOnce(&mut Value)) {
    let path = world.agent.path(&format!("data/containers/{id}/container.json"));
    let text = fs::read_to_string(&path).expect("a record");
    let mut record: Value = serde_json::from_str(&text).expect("JSON");
    change(&mut record);
    fs::write(&path, record.to_string()).expect("written");
}

#[test]
fn who_was_granted_a_directory_does_not_enter_what_a_link_in_it_led_an_admin_to() {
    let mut world = World::start("");
    let places = Places::make(&world);
    let made: Vec<(&str, ContainerSpec)> = vec![
        (
            "bind",
            ContainerSpec { mounts: vec![bind(&places.srv.join("link"), "/m")], ..sleeper("bind") },
        ),
        ("below", {
            symlink(&places.secret, places.srv.join("out")).expect("a link");
            let mounts = vec![bind(&places.srv.join("out/data/file"), "/m")];
            ContainerSpec { mounts, ..sleeper("below") }
        }),
        ("lower", ContainerSpec { mounts: vec![places.overlay("link")], ..of_host("lower") }),
        ("second", {
            let mounts =
                vec![bind(&places.srv.join("data"), "/d"), bind(&places.srv.join("link"), "/m")];
            ContainerSpec { mounts, ..sleeper("second") }
        }),
        ("root", ContainerSpec { rootfs: places.root("link", true), ..sleeper("root") }),
        ("layerless", ContainerSpec { rootfs: places.root("link", false), ..sleeper("layerless") }),
        ("joins", {
            let mode = v1::NamespaceMode::Container.into();
            let joined = Some(v1::Namespace { mode, container: "bind".into() });
            let namespaces = Some(v1::Namespaces { uts: joined, ..Default::default() });
            ContainerSpec { namespaces, ..sleeper("joins") }
        }),
    ];
    let open: Vec<(&str, ContainerSpec)> = vec![
        (
            "usual",
            ContainerSpec {
                mounts: vec![bind(&places.srv.join("data"), "/m")],
                ..sleeper("usual")
            },
        ),
        ("inner", {
            symlink("data", places.srv.join("inner")).expect("a link");
            let mounts = vec![bind(&places.srv.join("inner"), "/m")];
            ContainerSpec { mounts, ..sleeper("inner") }
        }),
        ("plain", ContainerSpec { rootfs: places.root("plain", true), ..sleeper("plain") }),
    ];
    let hidden_names: Vec<&str> = made.iter().map(|(name, _)| *name).collect();
    let open_names: Vec<&str> = open.iter().map(|(name, _)| *name).collect();
    let (hidden, shown) = world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let (mut hidden, mut shown) = (BTreeSet::new(), BTreeSet::new());
        for (name, spec) in made {
            admin.run(spec).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            hidden.insert(record(&mut admin, name).await);
        }
        for (name, spec) in open {
            admin.run(spec).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            shown.insert(record(&mut admin, name).await);
        }
        (hidden, shown)
    });
    let check = async |api: &mut Api| {
        for name in &hidden_names {
            denied(exec(api, name).await, name);
            let request = v1::ListDirectoryRequest { target: of(name), path: "/m".into() };
            denied(api.files.list_directory(request).await, name);
            denied(start(api, name).await, name);
        }
        for id in &hidden {
            denied(attach(api, id).await, "a session in it");
        }
        for name in &open_names {
            exec(api, name).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        for id in &shown {
            attach(api, id).await.expect("one that it could have started");
        }
        assert_eq!(recordings(api).await, shown);
    };
    for _ in 0..2 {
        world.agent.block_on(async {
            check(&mut world.as_role("olga", "operator").api().await.expect("it may look")).await;
        });
        world.agent.kill();
        world.agent.restart();
    }
    // What is kept of sessions says so also where their containers are gone.
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        admin.delete_all().await.expect("an admin may");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        // The directories that take what is written into layers are free again.
        let spec = ContainerSpec { mounts: vec![places.overlay("data")], ..of_host("layers") };
        admin.run(spec).await.expect("an admin may");
        exec(&mut own, "layers").await.expect("it might have made it");
        assert_eq!(recordings(&mut own).await, shown);
        assert_eq!(recordings(&mut admin).await.len(), hidden.len() + shown.len());
    });
    world.agent.finish();
}

#[test]
fn what_a_container_is_made_from_is_what_was_opened_at_its_last_start() {
    let mut world = World::start("");
    let places = Places::make(&world);
    let moving = places.srv.join("moving");
    let root = places.roots.join("moving");
    let lead = |link: &Path, to: PathBuf| {
        let _ = fs::remove_file(link);
        symlink(to, link).expect("a link");
    };
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        lead(&moving, places.srv.join("data"));
        lead(&root, places.roots.join("plain"));
        let mounts = vec![bind(&moving, "/m")];
        admin.run(ContainerSpec { mounts, ..sleeper("bind") }).await.expect("an admin may");
        for (name, overlay) in [("root", true), ("layerless", false)] {
            let rootfs = places.root("moving", overlay);
            admin.run(ContainerSpec { rootfs, ..sleeper(name) }).await.expect("an admin may");
        }
        let all = ["bind", "root", "layerless"];
        for name in all {
            exec(&mut own, name).await.expect("it might have made it");
        }
        lead(&moving, places.secret.join("data"));
        lead(&root, places.secret.join("root"));
        for name in all {
            // What runs has what it had.
            exec(&mut own, name).await.expect("it might have made it");
            stop(&mut admin, name).await;
            start(&mut admin, name).await.expect("an admin may");
            denied(exec(&mut own, name).await, name);
        }
        lead(&moving, places.srv.join("data"));
        lead(&root, places.roots.join("plain"));
        for name in all {
            denied(exec(&mut own, name).await, name);
            stop(&mut admin, name).await;
            start(&mut admin, name).await.expect("an admin may");
        }
        exec(&mut own, "bind").await.expect("nothing is left of what was mounted");
        exec(&mut own, "layerless").await.expect("nor of the root");
        denied(exec(&mut own, "root").await, "its layer may have what it lay over before");
    });
    world.agent.kill();
    world.agent.restart();
    world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        exec(&mut own, "bind").await.expect("as before");
        exec(&mut own, "layerless").await.expect("as before");
        denied(exec(&mut own, "root").await, "as before");
    });
    world.agent.finish();
}

/// Records of an agent that did not keep where sources lay.
#[test]
fn where_it_is_not_known_what_was_opened_only_an_admin_enters_what_was_not_bound_to_its_grants() {
    let mut world = World::start("");
    let places = Places::make(&world);
    let ids = world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        let data = |name: &str| {
            let mounts = vec![bind(&places.srv.join("data"), "/m")];
            ContainerSpec { mounts, rootfs: places.root("plain", true), ..sleeper(name) }
        };
        let mut ids = Vec::new();
        ids.push(admin.run(data("theirs")).await.expect("an admin may").id);
        ids.push(own.run(data("own")).await.expect("it may").id);
        ids.push(admin.run(sleeper("bare")).await.expect("an admin may").id);
        for name in ["theirs", "own", "bare"] {
            exec(&mut own, name).await.expect("it might have made it");
        }
        ids
    });
    world.agent.kill();
    for id in &ids {
        edit(&world, id, |record| {
            let opened = record.as_object_mut().expect("an object").remove(OPENED);
            assert!(opened.is_some_and(|opened| opened.is_object()));
        });
    }
    world.agent.restart();
    world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        denied(exec(&mut own, "theirs").await, "an admin was led anywhere");
        exec(&mut own, "own").await.expect("no link led out of what was granted");
        exec(&mut own, "bare").await.expect("it has nothing of the host");
    });
    // What it was bound to must be granted as a whole.
    world.put_policy(&format!(
        "[operator]\nmounts = [{:?}]\nrootfs = [{:?}]\n",
        places.srv.join("data"),
        places.roots
    ));
    world.agent.block_on(async {
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        denied(exec(&mut own, "own").await, "a link may have led anywhere in what was granted");
        exec(&mut own, "bare").await.expect("it has nothing of the host");
    });
    world.agent.finish();
}

/// What is mounted into what is alive is kept with the sessions that may have read it, and with their recordings.
#[test]
fn what_a_link_led_a_live_mount_to_is_kept_with_the_sessions_that_it_reaches() {
    let world = World::start("");
    let places = Places::make(&world);
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut shown = BTreeSet::new();
        for (name, source) in [("linked", "link"), ("usual", "data")] {
            // The main session of one that removes itself is kept for a while.
            let spec = ContainerSpec { auto_remove: true, ..sleeper(name) };
            let main = admin.run(spec).await.expect("an admin may").session_id;
            let recorded = record(&mut admin, name).await;
            let mount = v1::CreateMountRequest {
                target: of(name),
                mount: Some(bind(&places.srv.join(source), "/mnt")),
                ..Default::default()
            };
            admin.mounts.create_mount(mount).await.expect("an admin may");
            let later = record(&mut admin, name).await;
            let is_shown = source == "data";
            if is_shown {
                shown.extend([recorded, later]);
            }
            admin.delete(name).await.expect("an admin may");
            let request = v1::ReadSessionRequest { session_id: main, ..Default::default() };
            match own.sessions.read_session(request).await {
                Ok(_) => assert!(is_shown, "{name}"),
                Err(status) => {
                    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
                    assert!(!is_shown, "{name}");
                }
            }
        }
        assert_eq!(recordings(&mut own).await, shown);
        assert_eq!(recordings(&mut admin).await.len(), 4);
    });
    world.agent.finish();
}

/// A device outside of /dev lies where somebody may have been granted the directory around it.
#[test]
fn no_link_in_the_place_of_a_granted_device_leads_to_another() {
    let world = World::start("");
    let places = Places::make(&world);
    // Not where directories were granted: the policy would be refused.
    let device = world.agent.scratch("device");
    let node = |path: &Path, minor| {
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::from_raw_mode(0o666),
            rustix::fs::makedev(1, minor),
        );
        made.expect("a device node");
    };
    node(&device, 3);
    world.put_policy(&format!("{}devices = [{device:?}, \"/dev/full\"]\n", places.policy()));
    let with = |name: &str, path: &Path| {
        let path_in_container = "/dev/given".into();
        let path = path.display().to_string();
        let devices = vec![v1::Device { path, path_in_container, ..Default::default() }];
        ContainerSpec { devices, ..sleeper(name) }
    };
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        own.run(with("own", &device)).await.expect("it was granted");
        exec(&mut own, "own").await.expect("its own");
        own.run(with("dev", "/dev/full".as_ref())).await.expect("it was granted");
        admin.run(with("theirs", &device)).await.expect("an admin may");
        exec(&mut own, "theirs").await.expect("it might have made it");
        fs::remove_file(&device).expect("removed");
        symlink("/dev/kmsg", &device).expect("a link");
        let refused = own.run(with("linked", &device)).await.expect_err("it is another device");
        assert_eq!(reason(&refused), "SETUP_FAILED", "{refused:?}");
        admin.run(with("led", &device)).await.expect("an admin may");
        denied(exec(&mut own, "led").await, "it has another device");
    });
    world.agent.finish();
}

/// A directory of the host lends its files to the session that has it as its tools.
#[test]
fn a_session_with_tools_of_the_host_is_driven_by_admins_alone() {
    let world = World::start("");
    let tools = world.agent.scratch("tools");
    roots::build(&tools);
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let mut own = world.as_role("olga", "operator").api().await.expect("it may look");
        own.run(sleeper("own")).await.expect("it may");
        let mut debug = async |tools: v1::debug_target::Tools| {
            let target = v1::DebugTarget { target: of("own"), tools: Some(tools) };
            let target = Some(session_target::Target::Debug(target));
            let policy = Some(SessionPolicy { record: true, ..Default::default() });
            let spec = v1::SessionSpec {
                target: Some(v1::SessionTarget { target }),
                process: Some(process(["sleep", "100000"])),
                policy,
            };
            let request = StartSessionRequest { spec: Some(spec), ..Default::default() };
            let started = admin.sessions.start_session(request).await.expect("an admin may");
            started.into_inner().session.expect("a session").id
        };
        let directory = v1::debug_target::Tools::Directory(tools.display().to_string());
        let lent = debug(directory).await;
        let usual = debug(v1::debug_target::Tools::Host(v1::HostTools {})).await;
        denied(attach(&mut own, &lent).await, "it has files of the host");
        attach(&mut own, &usual).await.expect("one that it could have started");
        // Also after something was noted with it.
        let mount = mount_at("/mnt", Source::Tmpfs(v1::TmpfsMount::default()));
        let mount =
            v1::CreateMountRequest { target: of("own"), mount: Some(mount), ..Default::default() };
        own.mounts.create_mount(mount).await.expect("its own");
        denied(attach(&mut own, &lent).await, "it has files of the host");
        attach(&mut own, &usual).await.expect("one that it could have started");
        own.delete("own").await.expect("its own");
        assert_eq!(recordings(&mut own).await, BTreeSet::from([usual]));
        assert!(recordings(&mut admin).await.contains(&lent));
    });
    world.agent.finish();
}
