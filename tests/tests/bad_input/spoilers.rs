//! The ways to spoil the description of a container.

use conti_proto::v1::{
    BindMount, Confinement, ContainerSpec, Device, IdMapping, Mount, Namespace, Namespaces, Rlimit,
    Rootfs, SessionPolicy, Terminal, TerminalSize, TmpfsMount, User, mount, rootfs,
};
use conti_tests::api::{bind, process};

/// A change that spoils a good request, and the field that must be named for it.
pub type Spoiler = (&'static str, &'static str, fn(&mut ContainerSpec));

fn argv(spec: &mut ContainerSpec, argv: &[&str]) {
    spec.process = Some(process(argv.iter().copied()));
}

/// The process of a container that has one.
pub fn of_process(spec: &mut ContainerSpec) -> &mut conti_proto::v1::ProcessSpec {
    spec.process.as_mut().expect("a process")
}

fn confine(spec: &mut ContainerSpec, confinement: Confinement) {
    of_process(spec).confinement = Some(confinement);
}

fn namespaces(spec: &mut ContainerSpec) -> &mut Namespaces {
    spec.namespaces.get_or_insert_default()
}

fn mode(mode: i32, container: &str) -> Option<Namespace> {
    Some(Namespace { mode, container: container.to_owned() })
}

fn tmpfs(spec: &mut ContainerSpec, target: &str) {
    let source = Some(mount::Source::Tmpfs(TmpfsMount::default()));
    spec.mounts.push(Mount { target: target.to_owned(), source, read_only: false });
}

/// Each spoils a good request in one way.
pub const SPOILERS: &[Spoiler] = &[
    ("no process", "process", |s| s.process = None),
    ("empty argv", "argv", |s| argv(s, &[])),
    ("empty command", "argv", |s| argv(s, &[""])),
    ("NUL in the command", "argv", |s| argv(s, &["a\0b"])),
    ("NUL in an argument", "argv", |s| argv(s, &["true", "a\0"])),
    ("empty variable name", "env", |s| drop(of_process(s).env.insert("".into(), "x".into()))),
    ("= in a variable name", "env", |s| drop(of_process(s).env.insert("A=B".into(), "x".into()))),
    ("NUL in a value", "env", |s| drop(of_process(s).env.insert("A".into(), "x\0".into()))),
    ("3 MiB of environment", "env", |s| {
        of_process(s).env.insert("A".into(), "x".repeat(3 << 20));
    }),
    ("relative cwd", "cwd", |s| of_process(s).cwd = "usr/bin".into()),
    (".. in cwd", "cwd", |s| of_process(s).cwd = "/usr/../etc".into()),
    ("NUL in cwd", "cwd", |s| of_process(s).cwd = "/usr\0".into()),
    ("colon in user", "user", |s| {
        of_process(s).user = Some(User { user: "a:b".into(), ..Default::default() });
    }),
    ("user id beyond the last", "user", |s| {
        of_process(s).user = Some(User { user: "4294967295".into(), ..Default::default() });
    }),
    ("user id that wraps around", "user", |s| {
        of_process(s).user = Some(User { user: "4294967296".into(), ..Default::default() });
    }),
    ("newline in group", "user", |s| {
        of_process(s).user = Some(User { group: "a\nb".into(), ..Default::default() });
    }),
    ("terminal without rows", "terminal", |s| {
        let size = Some(TerminalSize { columns: 80, rows: 0 });
        of_process(s).terminal = Some(Terminal { size });
    }),
    ("terminal too wide", "terminal", |s| {
        let size = Some(TerminalSize { columns: 65_536, rows: 24 });
        of_process(s).terminal = Some(Terminal { size });
    }),
    ("unknown limit", "rlimits", |s| {
        of_process(s).rlimits = vec![Rlimit { name: "moon".into(), soft: 1, hard: 1 }];
    }),
    ("soft limit above the hard one", "rlimits", |s| {
        of_process(s).rlimits = vec![Rlimit { name: "nofile".into(), soft: 2, hard: 1 }];
    }),
    ("oom score too high", "oom_score_adj", |s| of_process(s).oom_score_adj = Some(1001)),
    ("umask too wide", "umask", |s| of_process(s).umask = Some(0o1000)),
    ("unknown capability", "cap_add", |s| {
        confine(s, Confinement { cap_add: vec!["CAP_MOON".into()], ..Default::default() });
    }),
    ("unknown capability dropped", "cap_drop", |s| {
        confine(s, Confinement { cap_drop: vec!["".into()], ..Default::default() });
    }),
    ("unknown seccomp mode", "seccomp", |s| {
        confine(s, Confinement { seccomp: 99, ..Default::default() });
    }),
    ("privileged and less than that", "cap_drop", |s| {
        let cap_drop = vec!["CAP_KILL".into()];
        confine(s, Confinement { privileged: Some(true), cap_drop, ..Default::default() });
    }),
    ("name with a slash", "name", |s| s.name = "a/b".into()),
    ("name in capitals", "name", |s| s.name = "Web".into()),
    ("name of dots", "name", |s| s.name = "..".into()),
    ("name too long", "name", |s| s.name = "a".repeat(64)),
    ("empty label name", "labels", |s| drop(s.labels.insert("".into(), "x".into()))),
    ("label value too long", "labels", |s| drop(s.labels.insert("a".into(), "x".repeat(4097)))),
    ("no source of the root", "rootfs", |s| s.rootfs = Some(Rootfs { source: None })),
    ("relative root", "rootfs", |s| {
        let dir = conti_proto::v1::DirRootfs { path: "root".into(), overlay: false };
        s.rootfs = Some(Rootfs { source: Some(rootfs::Source::Dir(dir)) });
    }),
    (".. in root", "rootfs", |s| {
        let dir = conti_proto::v1::DirRootfs { path: "/a/../b".into(), overlay: false };
        s.rootfs = Some(Rootfs { source: Some(rootfs::Source::Dir(dir)) });
    }),
    ("host mount namespace", "mount", |s| namespaces(s).mount = mode(2, "")),
    ("unknown namespace mode", "net", |s| namespaces(s).net = mode(42, "")),
    ("container mode without container", "net", |s| namespaces(s).net = mode(3, "")),
    ("container without its mode", "net", |s| namespaces(s).net = mode(1, "other")),
    ("user namespace with a map of groups alone", "uid_mappings", |s| {
        namespaces(s).user = mode(1, "");
        let map = IdMapping { inside: 0, outside: 100_000, count: 10 };
        namespaces(s).gid_mappings.push(map);
    }),
    ("relative mount target", "mounts", |s| tmpfs(s, "data")),
    (".. in a mount target", "mounts", |s| tmpfs(s, "/data/../etc")),
    ("root as mount target", "mounts", |s| tmpfs(s, "/")),
    ("no mount source", "mounts", |s| {
        s.mounts.push(Mount { target: "/data".into(), source: None, read_only: false });
    }),
    ("relative bind source", "mounts", |s| s.mounts.push(bind("etc".as_ref(), "/data"))),
    ("unknown propagation", "mounts", |s| {
        let source = "/etc".into();
        let bind = BindMount { source, propagation: 77, ..Default::default() };
        let source = Some(mount::Source::Bind(bind));
        s.mounts.push(Mount { target: "/data".into(), source, read_only: false });
    }),
    ("tmpfs mode beyond 07777", "mounts", |s| {
        let tmpfs = TmpfsMount { size_bytes: 0, mode: Some(0o10000) };
        let source = Some(mount::Source::Tmpfs(tmpfs));
        s.mounts.push(Mount { target: "/data".into(), source, read_only: false });
    }),
    ("device mount without type", "mounts", |s| {
        let device = conti_proto::v1::DeviceMount { source: "/dev/x".into(), ..Default::default() };
        let source = Some(mount::Source::Device(device));
        s.mounts.push(Mount { target: "/data".into(), source, read_only: false });
    }),
    ("host name too long", "hostname", |s| s.hostname = "a".repeat(65)),
    ("NUL in the host name", "hostname", |s| s.hostname = "a\0".into()),
    ("host name for the host", "hostname", |s| {
        s.hostname = "pluto".into();
        namespaces(s).uts = mode(2, "");
    }),
    ("relative device", "devices", |s| {
        s.devices.push(Device { path: "null".into(), ..Default::default() });
    }),
    ("unknown access", "devices", |s| {
        s.devices.push(Device {
            path: "/dev/null".into(),
            access: "rx".into(),
            ..Default::default()
        });
    }),
    ("device outside of /dev", "devices", |s| {
        let path_in_container = "/etc/null".into();
        s.devices.push(Device {
            path: "/dev/null".into(),
            path_in_container,
            ..Default::default()
        });
    }),
    ("kernel parameter of the host", "sysctls", |s| {
        s.sysctls.insert("kernel.core_pattern".into(), "|/bin/x".into());
    }),
    ("kernel parameter with ..", "sysctls", |s| {
        s.sysctls.insert("net/../kernel/core_pattern".into(), "x".into());
    }),
    ("network parameter of the host", "sysctls", |s| {
        s.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
        namespaces(s).net = mode(2, "");
    }),
    ("negative deadline", "session_policy", |s| {
        let deadline = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        s.session_policy = Some(SessionPolicy { deadline, ..Default::default() });
    }),
    ("unknown disconnect policy", "session_policy", |s| {
        s.session_policy = Some(SessionPolicy { disconnect_policy: 9, ..Default::default() });
    }),
];
