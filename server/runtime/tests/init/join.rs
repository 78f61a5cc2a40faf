//! Processes that join what exists, from inside.

use conti_runtime::{init::Status, plan::*};
use rustix::{fs::Mode, process::Pid};

use crate::world::*;

pub fn namespaces_of_another_container_are_joined_also_its_user_namespace(world: &mut World) {
    let map = vec![IdMap { inside: 0, outside: 300_000, count: 65_536 }];
    let fresh = world.plan.clone();
    for birth in [Birth::Child, Birth::Sibling] {
        world.plan = fresh.clone();
        let made = world.make_container();
        world.container().idmapped = made;
        world.container().namespaces.user = NsSource::New;
        world.container().uid_maps = map.clone();
        world.container().gid_maps = map.clone();
        world.plan.process.env.push("HOME=/".to_owned());
        world.plan.process.argv = ["sleep", "1000"].map(str::to_owned).to_vec();
        let first = world.start(Birth::Child).unwrap();
        let mut status = first.await_status();
        while status != Status::Executing {
            assert!(!matches!(status, Status::Failed { .. }), "{status:?}");
            status = first.await_status();
        }
        let pid = first.child.pid;
        world.container().mounts.clear();
        world.container().uid_maps.clear();
        world.container().gid_maps.clear();
        let made = world.make_container();
        world.container().idmapped = made;
        let join = |world: &mut World, file: &str| {
            let fd = proc_fd(pid, &format!("ns/{file}"));
            NsSource::Join(world.fd(fd))
        };
        let (user, net, ipc) = (join(world, "user"), join(world, "net"), join(world, "ipc"));
        let container_pid = join(world, "pid");
        let namespaces = &mut world.container().namespaces;
        (namespaces.user, namespaces.net, namespaces.ipc) = (user, net, ipc);
        namespaces.pid = container_pid;
        world.script(
            "for n in user net ipc pid uts mnt; do echo $n=$(readlink /proc/self/ns/$n); done",
        );
        let out = world.run_as(birth);
        world.container().mounts.clear();
        assert_eq!(out.end, 0, "{out:?}");
        for file in ["user", "net", "ipc", "pid", "uts", "mnt"] {
            let of_first = std::fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap();
            let same = out.value(file) == of_first.to_str().unwrap();
            assert_eq!(same, !["uts", "mnt"].contains(&file), "{file} {out:?}");
        }
        rustix::process::pidfd_send_signal(&first.child.pidfd, rustix::process::Signal::KILL)
            .unwrap();
        first.finish(&world.plan);
    }
}

/// The namespaces of a process but those of some types.
fn namespaces(world: &mut World, pid: Pid, except: &[NsType]) -> Vec<JoinedNamespace> {
    let all = NsType::to_join().filter(|kind| !except.contains(kind));
    let open = |kind: NsType| {
        let file = proc_fd(pid.as_raw_pid(), &format!("ns/{}", kind.file_name()));
        JoinedNamespace { kind, fd: world.fd(file) }
    };
    all.map(open).collect()
}

pub fn a_process_that_joins_is_where_its_target_is_and_as_confined(world: &mut World) {
    world.make_container();
    world.container().namespaces.time = NsSource::New;
    let script = "for n in user net ipc pid uts mnt cgroup time; do readlink /proc/self/ns/$n; done; \
                  grep -E '^(Cap|NoNew|Seccomp:|Uid|Gid|Groups|Sig(Blk|Ign|Cgt))' /proc/self/status; \
                  ls /proc/self/fd | wc -l; echo $HOME; pwd";
    world.script(&format!("{script}; echo; exec sleep 1000"));
    let session = world.start(Birth::Child).unwrap();
    let mut first = String::new();
    while !first.contains("\n\n") {
        let mut buffer = [0; 4096];
        let n = rustix::io::read(&session.stdout, &mut buffer).unwrap();
        assert_ne!(n, 0, "{first}");
        first.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    let pid = Pid::from_raw(session.child.pid).unwrap();
    let container_plan = world.plan.clone();
    // A pid namespace is joined through the caller, so that only one that is used up may come first.
    for birth in [Birth::Sibling, Birth::Child] {
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let pidfd = world.fd(pidfd);
        let namespaces = namespaces(world, pid, &[NsType::User]);
        world.plan = Plan {
            place: Place::Join(JoinPlan {
                pidfd,
                namespaces,
                uid_maps: Vec::new(),
                gid_maps: Vec::new(),
                host_mount_ns: None,
                root: None,
                cwd: None,
                tools: None,
            }),
            process: process(),
            ..container_plan.clone()
        };
        world.plan.process.create_cwd = false;
        world.script(script);
        let out = world.run_as(birth);
        assert_eq!(out.end, 0, "{out:?}");
        assert_eq!(out.stdout.trim(), first.trim());
    }
    // A directory outside of the root that was joined is no place to work in.
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let outside = std::fs::File::open("/proc").unwrap();
    let (pidfd, outside) = (world.fd(pidfd), world.fd(outside));
    let again = namespaces(world, pid, &[NsType::User]);
    if let Place::Join(join) = &mut world.plan.place {
        (join.pidfd, join.namespaces, join.cwd) = (pidfd, again, Some(outside));
    }
    let out = world.run();
    assert_eq!(out.failed(), (Step::Cwd, libc::ENOENT, "the working directory of the target"));

    // Its namespaces outlive it where they are held.
    let held = namespaces(world, pid, &[NsType::User, NsType::Pid]);
    rustix::process::pidfd_send_signal(&session.child.pidfd, rustix::process::Signal::KILL)
        .unwrap();
    let target = session.child.pidfd.try_clone().unwrap();
    session.finish(&container_plan);
    let pidfd = world.fd(target);
    if let Place::Join(join) = &mut world.plan.place {
        (join.pidfd, join.namespaces, join.cwd) = (pidfd, held, None);
    }
    let out = world.run();
    assert_eq!(out.failed(), (Step::JoinNamespace, libc::ESRCH, "time,mnt,net,uts,ipc,cgroup"));
}

pub fn a_process_that_joins_a_user_namespace_is_its_user_and_owns_its_stdio(world: &mut World) {
    let map = vec![IdMap { inside: 0, outside: 300_000, count: 65_536 }];
    let made = world.make_container();
    let container = world.container();
    container.idmapped = made;
    container.namespaces.user = NsSource::New;
    (container.uid_maps, container.gid_maps) = (map.clone(), map.clone());
    world.plan.process.argv = ["sleep", "1000"].map(str::to_owned).to_vec();
    let first = world.start(Birth::Child).unwrap();
    assert_eq!(first.await_status(), Status::Ready);
    let pid = Pid::from_raw(first.child.pid).unwrap();
    let target = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let pidfd = world.fd(target);
    let namespaces = namespaces(world, pid, &[NsType::Time]);
    let join = JoinPlan {
        pidfd,
        namespaces,
        uid_maps: map.clone(),
        gid_maps: map,
        host_mount_ns: None,
        root: None,
        cwd: None,
        tools: None,
    };
    let container_plan = world.plan.clone();
    world.plan.place = Place::Join(join);
    world.plan.process = process();
    world.plan.process.identity =
        Identity::Lookup { user: "ann".into(), group: "".into(), additional_groups: vec![] };
    world.script(
        "echo id=$(id -u); echo map=$(cat /proc/self/uid_map); echo out > /proc/self/fd/2; \
         echo owner=$(stat -Lc %u /proc/self/fd/2); cat /proc/self/status",
    );
    let out = world.run();
    assert_eq!(out.end, 0, "{out:?}");
    assert_eq!(out.value("id"), "1000");
    assert_eq!(out.value("map"), "0 300000 65536");
    assert_eq!(out.value("owner"), "1000");
    assert_eq!(out.value("CapEff"), "0000000000000000");
    assert_eq!(out.value("CapBnd"), "00000000a80425fb");
    assert_eq!(out.stderr, "out\n");
    rustix::process::pidfd_send_signal(&first.child.pidfd, rustix::process::Signal::KILL).unwrap();
    first.finish(&container_plan);
}

pub fn a_process_of_the_host_is_entered_with_its_root_and_cwd_and_without_confinement(
    world: &mut World,
) {
    // Stands for a plain process of the host: another mount namespace than the launcher's.
    world.make_container();
    world.container().namespaces.pid = NsSource::Host;
    world.plan.process.argv = ["sleep", "1000"].map(str::to_owned).to_vec();
    let first = world.start(Birth::Child).unwrap();
    let mut status = first.await_status();
    while status != Status::Executing {
        status = first.await_status();
    }
    let pid = first.child.pid;
    let open = |path: &str| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let path = format!("/proc/{pid}/{path}");
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    };
    let (root, cwd) = (open("root/usr/.."), open("root/etc"));
    let (root, cwd) = (world.fd(root), world.fd(cwd));
    let mounts = world.fd(proc_fd(pid, "ns/mnt"));
    let pidfd = rustix::process::pidfd_open(
        Pid::from_raw(pid).unwrap(),
        rustix::process::PidfdFlags::empty(),
    );
    let pidfd = world.fd(pidfd.unwrap());
    let net = world.fd(proc_fd(pid, "ns/net"));
    let container_plan = world.plan.clone();
    world.plan.place = Place::Join(JoinPlan {
        pidfd,
        namespaces: vec![JoinedNamespace { kind: NsType::Net, fd: net }],
        uid_maps: Vec::new(),
        gid_maps: Vec::new(),
        host_mount_ns: Some(mounts),
        root: Some(root),
        cwd: Some(cwd),
        tools: None,
    });
    world.plan.process.confinement = Confinement {
        capabilities: u64::MAX,
        no_new_privs: false,
        seccomp: false,
        privileged: true,
    };
    world.plan.process.oom_score_adj = Some(500);
    world.plan.process.rlimits = vec![Rlimit { resource: 7, soft: 100, hard: 200 }];
    world.plan.process.umask = 0o077;
    world.script(
        "pwd; cat /proc/self/status; echo files=$(ulimit -Sn):$(ulimit -Hn); echo umask=$(umask); \
         echo net=$(readlink /proc/self/ns/net); echo uts=$(readlink /proc/self/ns/uts); \
         unshare -m true && echo unshared=yes; cat /proc/self/oom_score_adj; echo oom=$(cat /proc/self/oom_score_adj)",
    );
    let out = world.run();
    assert_eq!(out.end, 0, "{out:?}");
    assert!(out.stdout.starts_with("/etc\n"), "{out:?}");
    for (name, value) in [
        ("NoNewPrivs", "0"),
        ("Seccomp", "0"),
        ("files", "100:200"),
        ("umask", "0077"),
        ("unshared", "yes"),
        ("oom", "500"),
    ] {
        assert_eq!(out.value(name), value, "{name} {out:?}");
    }
    let link = |pid: &str, ns: &str| std::fs::read_link(format!("/proc/{pid}/ns/{ns}")).unwrap();
    assert_eq!(out.value("net"), link(&pid.to_string(), "net").to_str().unwrap());
    assert_eq!(out.value("uts"), link("self", "uts").to_str().unwrap());
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap().trim();
    assert_eq!(out.value("CapEff"), own);
    rustix::process::pidfd_send_signal(&first.child.pidfd, rustix::process::Signal::KILL).unwrap();
    first.finish(&container_plan);
}
