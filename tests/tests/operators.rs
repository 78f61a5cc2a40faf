//! What an operator may not have, and what one that is limited by labels does not see.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::Path,
};

use conti_proto::v1::{self, ContainerSpec, session_target, target};
use conti_tests::{
    api::{self, Api, bind, container, inside, metadata, process, reason, session, sleeper},
    wire::{self, Wire},
    world::World,
};
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

fn labelled(name: &str, team: &str) -> ContainerSpec {
    let labels = BTreeMap::from([("team".to_owned(), team.to_owned())]);
    ContainerSpec { labels, ..sleeper(name) }
}

const BLUE: &str =
    "[[caller]]\nidentity = \"blue\"\nrole = \"operator\"\nlabels = { team = \"blue\" }\n";

/// What every method that can be told of a container or a session answers when it is told of this one.
async fn tell_all(
    api: &mut Api,
    key: &str,
    id: &str,
) -> BTreeMap<&'static str, Result<(), Status>> {
    let target = || Some(v1::Target { target: Some(target::Target::Container(key.into())) });
    let key = || key.to_owned();
    let id = || id.to_owned();
    let mut all = BTreeMap::new();
    macro_rules! tell {
        ($name:literal, $client:ident.$method:ident($message:expr)) => {
            // What is streamed says no before its first message, or with it.
            let answer = api.$client.$method($message).await;
            all.insert($name, answer.map(|_| ()));
        };
    }
    macro_rules! stream {
        ($name:literal, $client:ident.$method:ident($message:expr)) => {
            let answer = match api.$client.$method($message).await {
                Ok(answer) => answer.into_inner().message().await.map(|_| ()),
                Err(status) => Err(status),
            };
            all.insert($name, answer);
        };
    }
    tell!("GetContainer", containers.get_container(v1::GetContainerRequest { container: key() }));
    tell!(
        "StartContainer",
        containers
            .start_container(v1::StartContainerRequest { container: key(), ..Default::default() })
    );
    tell!(
        "KillContainer",
        containers
            .kill_container(v1::KillContainerRequest { container: key(), signal: "CONT".into() })
    );
    let joined = v1::Namespace { mode: v1::NamespaceMode::Container.into(), container: key() };
    let joins = ContainerSpec {
        namespaces: Some(v1::Namespaces { net: Some(joined), ..Default::default() }),
        ..labelled("joins", "blue")
    };
    tell!(
        "CreateContainer",
        containers.create_container(v1::CreateContainerRequest {
            spec: Some(joins),
            ..Default::default()
        })
    );
    stream!(
        "ListDirectory",
        files.list_directory(v1::ListDirectoryRequest { target: target(), ..Default::default() })
    );
    stream!(
        "ReadFile",
        files.read_file(v1::ReadFileRequest {
            target: target(),
            path: "/etc/hostname".into(),
            ..Default::default()
        })
    );
    stream!(
        "MeasureUsage",
        files.measure_usage(v1::MeasureUsageRequest {
            target: target(),
            paths: vec!["/etc".into()],
            ..Default::default()
        })
    );
    stream!(
        "ListMounts",
        mounts.list_mounts(v1::ListMountsRequest { target: target(), ..Default::default() })
    );
    let tmpfs = v1::mount::Source::Tmpfs(v1::TmpfsMount::default());
    let mount = v1::Mount { target: "/mnt".into(), source: Some(tmpfs), read_only: false };
    tell!(
        "CreateMount",
        mounts.create_mount(v1::CreateMountRequest {
            target: target(),
            mount: Some(mount),
            dry_run: true,
            ..Default::default()
        })
    );
    let point = v1::MountPoint { target: target(), point: "/tmp".into() };
    tell!(
        "DeleteMount",
        mounts.delete_mount(v1::DeleteMountRequest {
            which: Some(v1::delete_mount_request::Which::Point(point)),
            dry_run: true,
            ..Default::default()
        })
    );
    stream!(
        "ListNamespaces",
        namespaces
            .list_namespaces(v1::ListNamespacesRequest { target: target(), ..Default::default() })
    );
    stream!("ListNetwork", network.list_network(v1::ListNetworkRequest { target: target() }));
    stream!(
        "ListSockets",
        network.list_sockets(v1::ListSocketsRequest { target: target(), ..Default::default() })
    );
    stream!(
        "ListProcesses",
        processes.list_processes(v1::ListProcessesRequest { target: target() })
    );
    stream!(
        "WatchProcesses",
        processes
            .watch_processes(v1::WatchProcessesRequest { target: target(), ..Default::default() })
    );
    let spec = Some(session(&key(), process(["true"])));
    tell!(
        "StartSession",
        sessions.start_session(v1::StartSessionRequest { spec, ..Default::default() })
    );
    tell!("GetSession", sessions.get_session(v1::GetSessionRequest { session_id: id() }));
    stream!(
        "ReadSession",
        sessions.read_session(v1::ReadSessionRequest { session_id: id(), ..Default::default() })
    );
    tell!(
        "WriteSession",
        sessions.write_session(v1::WriteSessionRequest {
            session_id: id(),
            data: "x".into(),
            ..Default::default()
        })
    );
    tell!(
        "CloseSessionInput",
        sessions.close_session_input(v1::CloseSessionInputRequest { session_id: id() })
    );
    let size = Some(v1::TerminalSize { columns: 80, rows: 24 });
    tell!(
        "ResizeSession",
        sessions.resize_session(v1::ResizeSessionRequest { session_id: id(), size })
    );
    tell!(
        "SignalSession",
        sessions
            .signal_session(v1::SignalSessionRequest { session_id: id(), signal: "CONT".into() })
    );
    tell!(
        "ListSessions",
        sessions.list_sessions(v1::ListSessionsRequest { container: key(), ..Default::default() })
    );
    let opened = wire::Wire::open(api, wire::attach(&id(), None)).await;
    all.insert("Stream", opened.map(|_| ()));
    stream!(
        "ReadRecording",
        sessions.read_recording(v1::ReadRecordingRequest { session_id: id() })
    );
    // What is there is not there any more after these.
    tell!(
        "StopContainer",
        containers
            .stop_container(v1::StopContainerRequest { container: key(), ..Default::default() })
    );
    // What its caller may not stop goes on.
    let denied = |answer: &Result<(), Status>| match answer {
        Err(status) => status.code() == Code::PermissionDenied,
        Ok(()) => false,
    };
    if !denied(&all["StopContainer"]) {
        tell!(
            "WaitContainer",
            containers.wait_container(v1::WaitContainerRequest { container: key() })
        );
        tell!("WaitSession", sessions.wait_session(v1::WaitSessionRequest { session_id: id() }));
    }
    tell!(
        "DeleteContainer",
        containers.delete_container(v1::DeleteContainerRequest {
            container: key(),
            ..Default::default()
        })
    );
    all
}

/// The methods whose request can name a container or a session, from the descriptors.
fn naming() -> BTreeSet<String> {
    fn names(message: &MessageDescriptor, depth: usize) -> bool {
        depth < 12
            && message.fields().any(|field| match field.kind() {
                Kind::Message(inner) => names(&inner, depth + 1),
                Kind::String => {
                    ["container", "session_id", "source_container"].contains(&field.name())
                }
                _ => false,
            })
    }
    let pool = DescriptorPool::decode(conti_proto::DESCRIPTORS).expect("descriptors");
    let services = pool.services().filter(|service| service.package_name() == "conti.v1");
    let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .filter(|method| names(&method.input(), 0))
        .map(|method| method.name().to_owned())
        .collect()
}

#[test]
fn what_an_operator_may_not_see_is_answered_by_every_method_as_what_is_not_there() {
    let world = World::start(BLUE);
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let red = admin.run(labelled("red", "red")).await.expect("an admin makes anything");
        let mut blue = world.as_role("blue", "operator").api().await.expect("it may look");
        let absent = "0123456789abcdef0123456789abcdef";
        let of_absent = tell_all(&mut blue, absent, absent).await;
        for key in [red.id.as_str(), &red.id[..8], "red"] {
            let of_red = tell_all(&mut blue, key, &red.session_id).await;
            let told: BTreeSet<String> = of_red.keys().map(|name| (*name).to_owned()).collect();
            assert_eq!(told, naming(), "a method that names containers is not tried here");
            for (method, answer) in of_red {
                let refused = answer.expect_err(method);
                let other = of_absent[method].as_ref().expect_err(method);
                let hidden = |text: &str| {
                    let text = text.replace(absent, "X").replace(&red.session_id, "X");
                    text.replace(key, "X")
                };
                assert_eq!(refused.code(), Code::NotFound, "{method}: {refused:?}");
                assert_eq!(hidden(refused.message()), hidden(other.message()), "{method}");
                assert_eq!(reason(&refused), reason(other), "{method}");
            }
        }
        assert!(blue.list().await.is_empty());
        assert!(blue.all_ids().await.is_empty(), "neither containers nor sessions are listed");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        assert_eq!(
            api::state(&admin.get("red").await.expect("it is there")),
            v1::ContainerState::Running
        );
        let of_admin = tell_all(&mut admin, "red", &red.session_id).await;
        let found = of_admin
            .values()
            .filter(|answer| !matches!(answer, Err(s) if s.code() == Code::NotFound));
        assert!(found.count() > 15, "the same is there for an admin: {of_admin:?}");
    });
    world.agent.finish();
}

#[test]
fn an_operator_with_labels_makes_and_keeps_only_what_has_them() {
    let world = World::start(BLUE);
    world.agent.block_on(async {
        let mut blue = world.as_role("blue", "operator").api().await.expect("it may look");
        let other = blue.run(labelled("a", "red")).await.expect_err("of another team");
        assert_eq!(
            (other.code(), reason(&other).as_str()),
            (Code::PermissionDenied, "PERMISSION_DENIED")
        );
        assert_eq!(metadata(&other)["field"], "spec.labels");
        assert!(other.message().contains("team=blue"), "{}", other.message());
        blue.run(labelled("mine", "blue")).await.expect("of its own team");
        assert_eq!(blue.list().await.len(), 1);
        let all =
            wire::Wire::open(&mut blue, wire::start(session("mine", process(["true"])))).await;
        assert_eq!(api::exit_code(&all.expect("it may").collect().await.end), 0);
        // The name of what it does not see cannot be taken either, but nothing else is told of it.
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let red = admin.create(labelled("red", "red")).await.expect("an admin makes anything");
        let taken = blue.create(labelled("red", "blue")).await.expect_err("the name is taken");
        assert_eq!(taken.code(), Code::AlreadyExists);
        assert!(!format!("{taken:?}").contains(&red.id), "{taken:?}");
        // A request id of another caller is none of its own.
        let request = |spec| v1::CreateContainerRequest {
            spec: Some(spec),
            request_id: "1".into(),
            start: false,
        };
        let made = admin.containers.create_container(request(labelled("x", "red"))).await;
        let made = made.expect("an admin makes anything").into_inner().container.expect("it");
        let mine = blue.containers.create_container(request(labelled("y", "blue"))).await;
        let mine = mine.expect("its own").into_inner().container.expect("it");
        assert_ne!(made.id, mine.id);
    });
    world.agent.finish();
}

#[test]
fn what_of_another_team_has_joined_ones_own_is_not_named() {
    let world = World::start(BLUE);
    world.agent.block_on(async {
        let mut blue = world.as_role("blue", "operator").api().await.expect("it may look");
        blue.run(labelled("mine", "blue")).await.expect("of its own team");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let joined =
            v1::Namespace { mode: v1::NamespaceMode::Container.into(), container: "mine".into() };
        let joins = v1::Namespaces { pid: Some(joined), ..Default::default() };
        let red = ContainerSpec { namespaces: Some(joins.clone()), ..labelled("theirs", "red") };
        admin.run(red).await.expect("an admin joins anything");
        let mine = || Some(v1::Target { target: Some(target::Target::Container("mine".into())) });
        // Its processes are in sight, as they are inside. Whose they are is not.
        for (api, told) in [(&mut admin, true), (&mut blue, false)] {
            let request = v1::ListNamespacesRequest { target: mine(), ..Default::default() };
            let namespaces = api.namespaces.list_namespaces(request).await.expect("it may");
            let namespaces = namespaces.into_inner().collect::<Vec<_>>().await;
            assert_eq!(format!("{namespaces:?}").contains("theirs"), told, "{namespaces:?}");
            let request = v1::ListProcessesRequest { target: mine() };
            let processes = api.processes.list_processes(request).await.expect("it may");
            let processes = processes.into_inner().collect::<Vec<_>>().await;
            let shown = format!("{processes:?}");
            assert!(shown.matches("sleep").count() >= 2, "{shown}");
            assert_eq!(shown.contains("theirs"), told, "{shown}");
        }
        // Nor what it is made of, where that closes what one could have before.
        let secret = world.agent.scratch("codename");
        std::fs::create_dir(&secret).expect("a directory");
        let mut joins = joins;
        joins.user = joins.pid.clone();
        let zebra = ContainerSpec {
            namespaces: Some(joins),
            mounts: vec![bind(&secret, "/zebra")],
            ..labelled("zebra", "red")
        };
        let session = blue.get("mine").await.expect("its own").session_id;
        admin.run(zebra).await.expect("an admin joins anything");
        for open in [wire::attach(&session, None), wire::view(&session)] {
            let refused = wire::Wire::open(&mut blue, open).await.err().expect("not any more");
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
            let said = format!("{refused:?}");
            assert!(!said.contains("codename") && !said.contains("zebra"), "{refused:?}");
        }
    });
    world.agent.finish();
}

#[test]
fn an_operator_cannot_become_root_of_the_host_by_what_it_asks_for() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let with = |change: &dyn Fn(&mut ContainerSpec)| {
            let mut spec = sleeper("x");
            change(&mut spec);
            spec
        };
        let confined = |change: &dyn Fn(&mut v1::Confinement)| {
            with(&|spec| {
                let mut confinement = v1::Confinement::default();
                change(&mut confinement);
                spec.process.as_mut().expect("a process").confinement = Some(confinement);
            })
        };
        let namespaces = |change: &dyn Fn(&mut v1::Namespaces, v1::Namespace)| {
            with(&|spec| {
                let mut namespaces = v1::Namespaces::default();
                let host = v1::NamespaceMode::Host.into();
                change(&mut namespaces, v1::Namespace { mode: host, ..Default::default() });
                spec.namespaces = Some(namespaces);
            })
        };
        let dir = |path: &str| v1::Rootfs {
            source: Some(v1::rootfs::Source::Dir(v1::DirRootfs {
                path: path.into(),
                overlay: true,
            })),
        };
        let device = v1::mount::Source::Device(v1::DeviceMount {
            source: "/dev/loop0".into(),
            fs_type: "ext4".into(),
            options: vec![],
        });
        let cases = [
            ("spec.process.confinement.privileged", confined(&|c| c.privileged = Some(true))),
            (
                "spec.process.confinement.cap_add",
                confined(&|c| c.cap_add = vec!["SYS_ADMIN".into()]),
            ),
            (
                "spec.process.confinement.seccomp",
                confined(&|c| c.seccomp = v1::SeccompMode::Unconfined.into()),
            ),
            ("spec.namespaces.pid", namespaces(&|n, host| n.pid = Some(host))),
            ("spec.namespaces.net", namespaces(&|n, host| n.net = Some(host))),
            ("spec.namespaces.ipc", namespaces(&|n, host| n.ipc = Some(host))),
            ("spec.namespaces.uts", namespaces(&|n, host| n.uts = Some(host))),
            ("spec.namespaces.cgroup", namespaces(&|n, host| n.cgroup = Some(host))),
            ("spec.mounts[0].bind.source", with(&|s| s.mounts = vec![bind("/etc".as_ref(), "/m")])),
            (
                "spec.mounts[0].device.source",
                with(&|s| {
                    s.mounts = vec![v1::Mount {
                        target: "/m".into(),
                        source: Some(device.clone()),
                        read_only: true,
                    }];
                }),
            ),
            ("spec.rootfs.dir.path", with(&|s| s.rootfs = Some(dir("/")))),
            (
                "spec.devices[0].path",
                with(&|s| {
                    s.devices = vec![v1::Device { path: "/dev/mem".into(), ..Default::default() }];
                }),
            ),
            (
                "spec.process.oom_score_adj",
                with(&|s| {
                    s.process.as_mut().expect("a process").oom_score_adj = Some(-500);
                }),
            ),
        ];
        for (field, spec) in cases {
            let refused = api.run(spec).await.expect_err(field);
            assert_eq!(refused.code(), Code::PermissionDenied, "{field}: {refused:?}");
            let facts = metadata(&refused);
            assert_eq!((facts["field"].as_str(), facts["needs"].as_str()), (field, "admin"));
            // What the owner of the machine would write, where there is something.
            let grant = match field {
                "spec.process.confinement.cap_add" => Some("capabilities"),
                "spec.mounts[0].bind.source" => Some("mounts"),
                "spec.rootfs.dir.path" => Some("rootfs"),
                "spec.devices[0].path" => Some("devices"),
                _ => None,
            };
            assert_eq!(facts.get("grant").map(String::as_str), grant, "{field}");
            let named = grant.is_none_or(|grant| refused.message().contains(grant));
            assert!(named, "{}", refused.message());
        }
        assert!(api.list().await.is_empty(), "nothing was made");

        // Nor by a way round: what an admin has made is not entered.
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let strong = confined(&|c| c.privileged = Some(true));
        let strong = admin
            .run(ContainerSpec { name: "strong".into(), ..strong })
            .await
            .expect("an admin may");
        let joined =
            v1::Namespace { mode: v1::NamespaceMode::Container.into(), container: "strong".into() };
        let joins = v1::Namespaces { ipc: Some(joined), ..Default::default() };
        let joins = ContainerSpec { namespaces: Some(joins), ..sleeper("joins") };
        assert_eq!(
            api.run(joins).await.expect_err("it would join it").code(),
            Code::PermissionDenied
        );
        for (method, answer) in tell_all(&mut api, "strong", &strong.session_id).await {
            let harmless = [
                "GetContainer",
                "GetSession",
                "ListSessions",
                // There is none.
                "ReadRecording",
            ];
            if !harmless.contains(&method) {
                let refused = answer.expect_err(method);
                assert_eq!(refused.code(), Code::PermissionDenied, "{method}: {refused:?}");
            }
        }

        let still = api.get("strong").await.expect("it is there").state;
        assert_eq!(still, i32::from(v1::ContainerState::Running));

        // And nothing of the host itself.
        let host = Some(v1::Target { target: Some(target::Target::Host(v1::HostTarget {})) });
        let look = v1::ListDirectoryRequest { target: host, path: "/".into() };
        let refused = api.files.list_directory(look).await.expect_err("files of the host");
        assert_eq!(refused.code(), Code::PermissionDenied);
        let of = |target| v1::SessionSpec {
            target: Some(v1::SessionTarget { target: Some(target) }),
            ..session("x", process(["true"]))
        };
        let enter = v1::ProcessTarget { pid: 1, ..Default::default() };
        for target in [
            session_target::Target::Process(enter),
            session_target::Target::Unshare(v1::UnshareTarget::default()),
        ] {
            let refused = wire::Wire::open(&mut api, wire::start(of(target))).await;
            assert_eq!(refused.err().expect("the host").code(), Code::PermissionDenied);
        }
    });
    world.agent.finish();
}

#[test]
fn no_link_leads_an_operator_out_of_the_directories_that_it_was_granted() {
    let world = World::start("");
    let granted = world.agent.scratch("granted");
    fs::create_dir_all(granted.join("data")).expect("a directory");
    fs::write(granted.join("data/file"), "mine").expect("a file");
    symlink("/etc", granted.join("out")).expect("a link");
    symlink("data", granted.join("in")).expect("a link");
    let policy = format!(
        "[operator]\nmounts = [{0:?}]\nrootfs = [{0:?}]\ncapabilities = [\"NET_ADMIN\"]\n",
        granted.display().to_string()
    );
    world.files.put("policy.toml", &policy);
    conti_tests::wait::until_true("the policy was read again", || {
        world.agent.log().contains("the policy was read again")
    });
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let read = |source: &str| ContainerSpec {
            mounts: vec![bind(&granted.join(source), "/m")],
            auto_remove: true,
            ..container("", process(["cat", "/m/file"]))
        };
        for source in ["data", "in"] {
            let wire = wire::Wire::open(&mut api, wire::run(read(source))).await;
            let all = wire.unwrap_or_else(|e| panic!("{source}: {e:?}")).collect().await;
            assert_eq!(all.stdout, b"mine", "{source}");
        }
        let out =
            wire::Wire::open(&mut api, wire::run(read("out"))).await.err().expect("it leads out");
        assert_eq!(out.code(), Code::FailedPrecondition, "{out:?}");
        assert!(out.message().contains("leads out"), "{}", out.message());
        let rootfs = v1::rootfs::Source::Dir(v1::DirRootfs {
            path: granted.join("out").display().to_string(),
            overlay: true,
        });
        let spec =
            ContainerSpec { rootfs: Some(v1::Rootfs { source: Some(rootfs) }), ..sleeper("r") };
        let out = api.create(spec).await.expect_err("it leads out");
        assert!(out.message().contains("leads out"), "{}", out.message());
        // A link that comes later does not either: the container is started again with what it had.
        let kept = ContainerSpec { auto_remove: false, name: "kept".into(), ..read("data") };
        api.run(kept).await.expect("it may");
        api.containers
            .wait_container(v1::WaitContainerRequest { container: "kept".into() })
            .await
            .expect("it ends");
        fs::rename(granted.join("data"), granted.join("before")).expect("renamed");
        symlink("/etc", granted.join("data")).expect("a link");
        let again = v1::StartContainerRequest { container: "kept".into(), ..Default::default() };
        let out = api.containers.start_container(again).await.expect_err("it leads out");
        assert!(out.message().contains("leads out"), "{}", out.message());
        // What was mounted into what is alive is held to the same.
        api.run(sleeper("alive")).await.expect("it may");
        let mount = v1::CreateMountRequest {
            target: Some(v1::Target { target: Some(target::Target::Container("alive".into())) }),
            mount: Some(bind(&granted.join("out"), "/mnt")),
            ..Default::default()
        };
        let out = api.mounts.create_mount(mount).await.expect_err("it leads out");
        assert!(out.message().contains("leads out"), "{}", out.message());
        let _ = inside("alive");
    });
    world.agent.finish();
}

#[test]
fn a_viewer_sees_and_changes_nothing() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let made = admin.run(sleeper("a")).await.expect("an admin may");
        let mut viewer = world.as_role("vera", "viewer").api().await.expect("it may look");
        assert_eq!(viewer.list().await.len(), 1);
        let looking = wire::Wire::open(&mut viewer, wire::view(&made.session_id)).await;
        looking.expect("a viewer reads what a session writes");
        let driving = wire::Wire::open(&mut viewer, wire::attach(&made.session_id, None)).await;
        let refused = driving.err().expect("it would drive it");
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("--view"), "{refused:?}");
        let running = wire::Wire::open(&mut viewer, wire::run(sleeper("b"))).await;
        assert_eq!(running.err().expect("it would make one").code(), Code::PermissionDenied);
        let starting =
            wire::Wire::open(&mut viewer, wire::start(session("a", process(["true"])))).await;
        assert_eq!(starting.err().expect("it would start one").code(), Code::PermissionDenied);
        let stop = v1::StopContainerRequest { container: "a".into(), ..Default::default() };
        let refused = viewer.containers.stop_container(stop).await.expect_err("it would stop it");
        let said = "stop container (conti.v1.ContainerService/StopContainer)";
        assert!(refused.message().contains(said), "{refused:?}");
    });
    world.agent.finish();
}

#[test]
fn containers_that_join_one_another_in_a_long_chain_are_each_looked_at_once_and_can_be_ended() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("k0")).await.expect("it may");
        // Looked at once for each way to it, the last one would be looked at more than 10^9 times.
        for n in 1..16 {
            let joined = Some(v1::Namespace {
                mode: v1::NamespaceMode::Container.into(),
                container: format!("k{}", n - 1),
            });
            let namespaces = v1::Namespaces {
                uts: joined.clone(),
                ipc: joined.clone(),
                net: joined.clone(),
                user: joined,
                ..Default::default()
            };
            let spec =
                v1::ContainerSpec { namespaces: Some(namespaces), ..sleeper(&format!("k{n}")) };
            api.run(spec).await.expect("it may");
        }
        for n in (0..16).rev() {
            api.delete(&format!("k{n}")).await.expect("what it has made it may remove");
        }
    });
    world.agent.finish();
}

/// Whose choice the ids of a container are is stored with it, and not told by the pool of the moment.
#[test]
fn the_ids_of_a_container_are_those_of_the_agent_by_its_record_whatever_the_pool_is() {
    let pool = |dir: &Path| dir.join("pool");
    let with_pool = |dir: &Path| {
        fs::write(pool(dir), "1700000000:131072").expect("a file");
        let script = format!("exec \"$@\" --userns-pool \"$(cat {})\"", pool(dir).display());
        ["sh", "-c", &script, "sh"].map(Into::into).to_vec()
    };
    let mut world = World::start_behind(with_pool, "");
    let map = v1::IdMapping { inside: 0, outside: 1_800_000_000, count: 65_536 };
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("given")).await.expect("it may");
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        let private = v1::NamespaceMode::Private.into();
        let namespaces = v1::Namespaces {
            user: Some(v1::Namespace { mode: private, ..Default::default() }),
            uid_mappings: vec![map],
            gid_mappings: vec![map],
            ..Default::default()
        };
        let spec = ContainerSpec { namespaces: Some(namespaces), ..sleeper("chosen") };
        admin.run(spec).await.expect("an admin may");
    });
    world.agent.kill();
    // The ids that the agent gave are none of its pool any more, and those that the admin chose are.
    fs::write(pool(&world.agent.path("")), "1800000000:131072").expect("a file");
    world.agent.restart();
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let mut run = async |name: &str| {
            let wire =
                wire::Wire::open(&mut api, wire::start(session(name, process(["true"])))).await;
            wire.map(drop)
        };
        run("given").await.expect("it is its own still");
        let refused = run("chosen").await.expect_err("an admin chose its ids");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert_eq!(metadata(&refused)["field"], "namespaces.uid_mappings");
    });
    world.agent.finish();
}

#[test]
fn an_operator_has_no_more_ranges_of_ids_than_are_left_for_others() {
    // Four ranges.
    let pool = |_: &Path| ["--userns-pool", "1700000000:262144"].map(Into::into).to_vec();
    let mut world = World::start_with("", pool);
    let full = |refused: Status| {
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("--userns-pool"), "{refused:?}");
    };
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        api.run(sleeper("a")).await.expect("one of four");
        api.run(sleeper("b")).await.expect("two of four");
        full(api.run(sleeper("c")).await.expect_err("more than the two that are left"));
    });
    world.agent.kill();
    world.agent.restart();
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        full(api.run(sleeper("c")).await.expect_err("whose they are is known still"));
        let mut other = world.as_role("otto", "operator").api().await.expect("it may look");
        other.run(sleeper("d")).await.expect("one of the two that are left");
        full(other.run(sleeper("e")).await.expect_err("as many as are left"));
        let mut admin = world.as_role("root", "admin").api().await.expect("it may look");
        admin.run(sleeper("f")).await.expect("the last one");
        api.delete("a").await.expect("its own");
        other.delete("d").await.expect("its own");
        api.run(sleeper("c")).await.expect("one of the two that are left");
    });
    world.agent.finish();
}

/// What counts is how a command would be confined in its container, whichever part of that it names.
#[test]
fn an_operator_gives_a_command_in_a_container_what_it_could_give_the_container() {
    let world = World::start("");
    world.agent.block_on(async {
        let mut api = world.as_role("olga", "operator").api().await.expect("it may look");
        let confined = |change: &dyn Fn(&mut v1::Confinement)| {
            let mut confinement = v1::Confinement::default();
            change(&mut confinement);
            Some(confinement)
        };
        let mut bare = sleeper("bare");
        bare.process.as_mut().expect("a process").confinement =
            confined(&|c| c.cap_drop = vec!["ALL".into()]);
        api.run(bare).await.expect("it may");
        let status = |confinement| {
            let mut process =
                process(["grep", "-E", "^(CapEff|Seccomp|NoNewPrivs):", "/proc/self/status"]);
            process.confinement = confinement;
            wire::start(session("bare", process))
        };
        type Change<'a> = &'a dyn Fn(&mut v1::Confinement);
        let cases: [(&str, Change<'_>); 4] = [
            ("privileged", &|c| c.privileged = Some(true)),
            ("seccomp", &|c| c.set_seccomp(v1::SeccompMode::Unconfined)),
            ("cap_add", &|c| c.cap_add = vec!["SYS_PTRACE".into()]),
            ("cap_add", &|c| {
                c.cap_add = vec!["ALL".into()];
                c.cap_drop = vec!["SYS_ADMIN".into()];
            }),
        ];
        for (field, change) in cases {
            let refused = Wire::open(&mut api, status(confined(change))).await.err().expect(field);
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
            let wanted = format!("open.start.process.confinement.{field}");
            assert_eq!(metadata(&refused)["field"], wanted, "{refused:?}");
        }
        let cases: [(&str, Change<'_>); 3] = [
            ("0000000000000000 1 2", &|_| {}),
            ("0000000000000000 0 2", &|c| c.allow_new_privileges = Some(true)),
            ("0000000000000001 1 2", &|c| c.cap_add = vec!["CHOWN".into()]),
        ];
        for (wanted, change) in cases {
            let ran = Wire::open(&mut api, status(confined(change))).await.expect("it may");
            let out = ran.collect().await.stdout;
            let out = String::from_utf8_lossy(&out);
            let got: Vec<&str> =
                out.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
            assert_eq!(got.join(" "), wanted);
        }
    });
    world.agent.finish();
}
