//! New containers, from inside.

use conti_runtime::{
    init::{ChildStdio, Status, end_of_command},
    plan::*,
    protocol::WaitStatus,
};
use rustix::{fs::Mode, pty::OpenptFlags};

use crate::world::*;

pub fn a_default_container_is_alone_confined_and_whole(world: &mut World) {
    world.make_container();
    world.container().masked_paths =
        ["/proc/cpuinfo", "/proc/keys", "/sys/firmware", "/no/such", "/proc/acpi"]
            .map(str::to_owned)
            .into();
    world.container().read_only_paths = ["/proc/sys", "/gone"].map(str::to_owned).into();
    world.container().sysctls = vec![("net.core.somaxconn".to_owned(), "77".to_owned())];
    world.container().read_only_root = true;
    world.plan.process.cwd = "/srv/dir".to_owned();
    world.script(
        "echo pid=$$; echo host=$(hostname); echo cwd=$PWD; echo home=$HOME; \
         echo procs=$(ls -d /proc/[0-9]* | wc -l); echo fds=$(ls /proc/self/fd | wc -l); \
         echo cpuinfo=$(wc -c < /proc/cpuinfo); echo keys=$(wc -c < /proc/keys); \
         echo firmware=$(ls /sys/firmware | wc -l); echo max=$(cat /proc/sys/net/core/somaxconn); \
         (echo 5 > /proc/sys/net/core/somaxconn) 2>/dev/null || echo sysro=yes; \
         touch /x 2>/dev/null || echo rootro=yes; touch /dev/x && echo devrw=yes; \
         echo lo=$(cat /sys/class/net/lo/operstate); echo links=$(ls /sys/class/net); \
         echo mounts=$(wc -l < /proc/self/mountinfo); echo umask=$(umask); echo cg=$(cut -d: -f3 /proc/self/cgroup | sort -u | head -1);
         echo oom=$(cat /proc/self/oom_score_adj); grep -v '^[A-Z].*:$' /proc/self/status; \
         unshare -m true 2>&1; mount -t tmpfs x /tmp 2>&1; chroot / true && echo chroot=yes; ls /newroot 2>/dev/null; \
         cat /proc/1/attr/current >/dev/null 2>&1; ip link 2>/dev/null | grep -c UP; exit 7",
    );
    let out = world.run();
    assert_eq!(out.end, 7, "{out:?}");
    assert_eq!(out.statuses, [Status::Ready, Status::Executing]);
    for (name, value) in [
        ("pid", "1"),
        ("host", "box"),
        ("cwd", "/srv/dir"),
        ("home", "/root"),
        ("fds", "4"),
        ("cpuinfo", "0"),
        ("keys", "0"),
        ("firmware", "0"),
        ("max", "77"),
        ("sysro", "yes"),
        ("rootro", "yes"),
        ("devrw", "yes"),
        ("links", "lo"),
        ("lo", "unknown"),
        ("umask", "0022"),
        ("oom", "0"),
        ("chroot", "yes"),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "00000000a80425fb"),
        ("CapEff", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("SigBlk", "0000000000000000"),
        ("SigIgn", "0000000000000000"),
    ] {
        assert_eq!(out.value(name), value, "{name} in {out:?}");
    }
    assert!(
        out.stdout.contains("Operation not permitted") || out.stderr.contains("permi"),
        "{out:?}"
    );
}

pub fn a_user_has_its_own_ids_and_no_capabilities(world: &mut World) {
    for (no_new_privs, birth) in [(true, Birth::Child), (false, Birth::Sibling)] {
        world.make_container();
        world.plan.process.confinement.no_new_privs = no_new_privs;
        world.plan.process.identity = Identity::Lookup {
            user: "ann".to_owned(),
            group: String::new(),
            additional_groups: vec!["4242".to_owned()],
        };
        world.script(
            "echo id=$(id -u):$(id -g):$(id -G); echo home=$HOME; cat /proc/self/status; \
             echo again > /proc/self/fd/2; unshare -U true",
        );
        let out = world.run_as(birth);
        world.container().mounts.clear();
        assert_eq!(out.value("id"), "1000:1001:1001 29 4242", "{out:?}");
        assert_eq!(out.value("home"), "/home/ann");
        for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(out.value(name), "0000000000000000", "{name} {out:?}");
        }
        assert_eq!(out.value("CapBnd"), "00000000a80425fb");
        assert_eq!(out.value("NoNewPrivs"), if no_new_privs { "1" } else { "0" });
        assert_eq!(out.value("Seccomp"), "2");
        assert!(out.stderr.contains("again"), "{out:?}");
        assert!(out.stderr.contains("unshare failed"), "{out:?}");
    }
}

pub fn a_failed_step_is_named_and_nothing_runs(world: &mut World) {
    type Change = fn(&mut World);
    let cases: &[(Change, Step, i32, &str)] = &[
        (|w| w.plan.process.argv = vec!["nope".into()], Step::Exec, libc::ENOENT, "nope"),
        (
            |w| w.plan.process.argv = vec!["/etc/passwd".into()],
            Step::Exec,
            libc::EACCES,
            "/etc/passwd",
        ),
        (|w| w.plan.process.argv = vec!["/etc".into()], Step::Exec, libc::EACCES, "/etc"),
        (|w| w.plan.process.argv.clear(), Step::Plan, libc::EINVAL, "argv is empty"),
        (|w| w.plan.process.cwd = "/etc/passwd".into(), Step::Cwd, libc::ENOTDIR, "/etc/passwd"),
        (|w| w.plan.process.cwd = "/../x".into(), Step::Cwd, libc::EINVAL, "/../x"),
        (|w| w.container().root = Root::Mount(Fd(99)), Step::Plan, libc::EBADF, "fd 99 of 3"),
        (|w| w.container().hostname = Some("x".repeat(65)), Step::Hostname, libc::EINVAL, ""),
        (
            |w| w.container().sysctls = vec![("kernel.no_such".into(), "1".into())],
            Step::Sysctl,
            libc::ENOENT,
            "kernel.no_such=1",
        ),
        (
            |w| w.mount(MountWhat::Fresh { fs: "ext4".into() }, "/mnt"),
            Step::Mount,
            libc::ENODEV,
            "/mnt",
        ),
        (
            |w| w.mount(MountWhat::Fresh { fs: "proc".into() }, "/etc/passwd"),
            Step::Mount,
            libc::ENOTDIR,
            "/etc/passwd",
        ),
        (|w| w.mount(MountWhat::HostSysfs, "/"), Step::Mount, libc::EBUSY, "/"),
        (
            |w| w.mount(MountWhat::Console, "/dev/console"),
            Step::Mount,
            libc::ENOTTY,
            "/dev/console",
        ),
        (
            |w| w.plan.process.rlimits = vec![Rlimit { resource: 7, soft: 9, hard: 3 }],
            Step::Rlimit,
            libc::EINVAL,
            "nofile=9:3",
        ),
        (
            |w| {
                w.plan.process.identity = Identity::Lookup {
                    user: "bob".into(),
                    group: "".into(),
                    additional_groups: vec![],
                }
            },
            Step::User,
            0,
            "bob",
        ),
        (
            |w| w.plan.process.identity = Identity::Ids { uid: u32::MAX, gid: 0, groups: vec![] },
            Step::Credentials,
            libc::EINVAL,
            "4294967295:0",
        ),
    ];
    for (change, step, errno, argument) in cases {
        let before = world.plan.clone();
        world.make_container();
        world.script("echo ran");
        change(world);
        let out = world.run();
        assert_eq!(out.stdout, "", "{out:?}");
        let got = out.failed();
        assert_eq!((got.0, got.1), (*step, *errno), "{out:?}");
        assert!(got.2.contains(argument), "{out:?}");
        world.plan = before;
    }
}

pub fn a_paused_container_waits_and_holds_nothing_but_its_pipes(world: &mut World) {
    world.make_container();
    world.plan.paused = true;
    world.script("echo went");
    let session = world.start(Birth::Child).unwrap();
    assert_eq!(session.await_status(), Status::Ready);
    let fds = std::fs::read_dir(format!("/proc/{}/fd", session.child.pid)).unwrap().count();
    assert_eq!(fds, 5);
    session.go_on();
    let out = session.finish(&world.plan);
    assert_eq!(
        (out.stdout.as_str(), out.statuses.as_slice()),
        ("went\n", &[Status::Executing][..])
    );

    // Nobody is left to let it go on.
    world.container().mounts.clear();
    world.make_container();
    let mut session = world.start(Birth::Child).unwrap();
    assert_eq!(session.await_status(), Status::Ready);
    session.child.gate = rustix::pipe::pipe().unwrap().1;
    assert_eq!(session.finish(&world.plan).end, 1);
}

pub fn a_reaper_reaps_passes_signals_on_and_ends_as_its_child(world: &mut World) {
    for (script, end) in [
        (
            "trap 'exit 9' TERM; sh -c 'sleep 0.2 & exit 0'; echo ready; while :; do sleep 0.1; done",
            WaitStatus::Exited(9),
        ),
        ("echo ready; exec sleep 100", WaitStatus::Signaled { signal: libc::SIGTERM, core: false }),
    ] {
        world.make_container();
        world.container().init = true;
        world
            .script(&format!("echo pid=$$ $(cat /proc/1/comm) $(ls /proc/1/fd | wc -l); {script}"));
        let session = world.start(Birth::Child).unwrap();
        world.container().mounts.clear();
        let mut seen = String::new();
        while !seen.contains("ready") {
            let mut buffer = [0; 256];
            let n = rustix::io::read(&session.stdout, &mut buffer).unwrap();
            assert_ne!(n, 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        // It holds nothing but the gate.
        assert!(seen.starts_with("pid=2 conti-init 1"), "{seen}");
        std::thread::sleep(std::time::Duration::from_millis(400));
        let children = format!("/proc/{0}/task/{0}/children", session.child.pid);
        assert_eq!(std::fs::read_to_string(children).unwrap().split(' ').count(), 2);
        rustix::process::pidfd_send_signal(&session.child.pidfd, rustix::process::Signal::TERM)
            .unwrap();
        let gate = session.child.gate.try_clone().unwrap();
        let code = session.finish(&world.plan).end;
        assert_eq!(end_of_command(WaitStatus::Exited(code), gate), end);
    }
}

pub fn a_terminal_is_the_controlling_one_and_the_console(world: &mut World) {
    for (init, user) in [(false, ""), (true, "ann")] {
        world.make_container();
        world.container().init = init;
        world.plan.process.identity = Identity::Lookup {
            user: user.to_owned(),
            group: String::new(),
            additional_groups: vec![],
        };
        let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
        let devpts = filesystem("devpts", &options[1..]);
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let master = rustix::fs::openat(&devpts, "ptmx", flags, Mode::empty()).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR).unwrap();
        let fd = world.fd(devpts);
        world.mount(MountWhat::Detached { fd, dir: true }, "/dev/pts");
        world.mount(MountWhat::Console, "/dev/console");
        world.script(
            "echo tty=$(tty); echo console=$(stat -c %t:%T /dev/console); \
             echo owner=$(stat -c %u /dev/pts/0); ps -o tpgid= -p $$; echo pg=$$; \
             echo stat=$(cut -d' ' -f5-8 /proc/self/stat); true < /dev/pts/0 && echo open=yes; \
             echo ctty=$(cut -d' ' -f7 /proc/$$/stat)",
        );
        let child = world.spawn(ChildStdio::Terminal { slave }, Birth::Child).unwrap();
        let session = Session { child, stdout: master, stderr: None };
        let out = session.finish(&world.plan);
        world.container().mounts.clear();
        assert_eq!(out.end, 0, "{out:?}");
        assert_eq!(out.value("tty"), "/dev/pts/0");
        assert_eq!(out.value("console"), "88:0");
        assert_eq!(out.value("owner"), if init { "1000" } else { "0" });
        assert_eq!(out.value("open"), "yes");
        assert_eq!(out.value("ctty"), "34816");
        let (pg, shell) = if init { ("2", "2") } else { ("1", "1") };
        assert_eq!(out.value("stat").split(' ').nth(1), Some(shell), "session {out:?}");
        assert_eq!(out.value("pg"), pg);
    }
}

pub fn a_user_namespace_maps_ids_and_owns_its_overlay(world: &mut World) {
    for birth in [Birth::Child, Birth::Sibling] {
        let (lower, layer) = (tmpfs(&[("mode", "0755")]), tmpfs(&[("mode", "0755")]));
        world.fill_root(&lower);
        for dir in ["upper", "work"] {
            rustix::fs::mkdirat(&layer, dir, Mode::from_raw_mode(0o755)).unwrap();
        }
        world.make_container();
        let open = |name| {
            let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
            rustix::fs::openat(&layer, name, flags, Mode::empty()).unwrap()
        };
        let (upper, work) = (world.fd(open("upper")), world.fd(open("work")));
        let (lower, layer) = (world.fd(lower), world.fd(layer));
        let map = vec![IdMap { inside: 0, outside: 300_000, count: 65_536 }];
        let container = world.container();
        container.namespaces.user = NsSource::New;
        container.uid_maps = map.clone();
        container.gid_maps = map;
        container.idmapped = vec![lower, layer];
        container.root = Root::Overlay(Overlay { lower, upper, work, volatile: true });
        container.mounts.retain(|m| m.target != "/dev");
        container.mounts.retain(|m| m.target != "/dev/mqueue");
        container.masked_paths = vec!["/proc/kcore".into(), "/sys/firmware".into()];
        container.sysctls = vec![("net.core.somaxconn".to_owned(), "99".to_owned())];
        world.plan.process.identity =
            Identity::Lookup { user: "ann".into(), group: "".into(), additional_groups: vec![] };
        world.script(
            "echo id=$(id -u); echo map=$(cat /proc/self/uid_map); echo etc=$(stat -c %u /etc); \
             echo a > /proc/self/fd/2; cat /proc/self/status; echo x=$(cat /proc/sys/net/core/somaxconn)",
        );
        let out = world.run_as(birth);
        world.container().mounts.clear();
        assert_eq!(out.end, 0, "{out:?}");
        assert_eq!(out.value("id"), "1000");
        assert_eq!(out.value("map"), "0 300000 65536");
        assert_eq!(out.value("etc"), "0");
        assert_eq!(out.value("x"), "99");
        assert_eq!(out.value("CapEff"), "0000000000000000");
        assert_eq!(out.value("CapBnd"), "00000000a80425fb");
    }
}

pub fn a_target_that_leads_out_of_the_root_by_a_link_ends_inside(world: &mut World) {
    world.make_container();
    let root = tmpfs(&[("mode", "0755")]);
    world.fill_root(&root);
    rustix::fs::symlinkat("/../../../proc/../deep", &root, "out").unwrap();
    let fd = world.fd(root);
    world.container().root = Root::Mount(fd);
    let source = tmpfs(&[]);
    write_at(&source, "marker", "here");
    let fd = world.fd(source);
    world.mount(MountWhat::Detached { fd, dir: true }, "/out/dir");
    world.container().mounts.last_mut().unwrap().attrs.read_only = true;
    world.script("cat /deep/dir/marker; touch /deep/dir/x || echo ro; echo tree=$(ls /)");
    let out = world.run();
    assert!(out.stdout.starts_with("herero"), "{out:?}");
    assert_eq!(out.value("tree"), "bin deep dev etc lib lib64 out proc sbin sys tmp usr");
}

pub fn a_process_is_born_in_its_cgroup_which_is_the_root_of_its_view(world: &mut World) {
    let mounted = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let is_v2 = |dir: &&&str| std::path::Path::new(**dir).join("cgroup.controllers").exists();
    let unified = mounted.iter().find(is_v2).expect("a mounted cgroup version 2 hierarchy");
    world.make_container();
    let dir = tempfile::Builder::new().prefix("conti-test-init-").tempdir_in(unified).unwrap();
    // Its files are the kernel's and go with it: only the directory itself can be removed.
    let dir = dir.keep();
    world.mount(MountWhat::Fresh { fs: "cgroup2".to_owned() }, "/cgroup");
    world.plan.cgroup = Some(world.fd(std::fs::File::open(&dir).unwrap()));
    world.script("echo unified=$(grep ^0: /proc/self/cgroup); grep -qx 1 /cgroup/cgroup.procs && echo there=yes");
    let session = world.start(Birth::Sibling);
    let out = session.map(|session| session.finish(&world.plan));
    let removed = std::fs::remove_dir(&dir);
    let out = out.unwrap();
    removed.unwrap();
    assert_eq!(out.value("unified"), "0::/", "{out:?}");
    assert_eq!(out.value("there"), "yes");
}
