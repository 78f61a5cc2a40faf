//! Messages for property tests: any that can be encoded, and valid ones.

use std::collections::BTreeMap;

use conti_proto::v1::{self, mount, rootfs, session_target};
use proptest::{collection::vec, option, prelude::*};

/// Strings as they come from careless and from hostile clients.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(String::new()),
        3 => "[a-z0-9/._:=-]{0,12}",
        2 => "/[a-z./]{0,20}",
        1 => any::<String>(),
        1 => Just("..".to_owned()),
        1 => Just("a\0b".to_owned()),
        1 => Just("x".repeat(5000)),
    ]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

fn map() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(text(), text(), 0..4)
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![-1..10, any::<i32>()]
}

fn duration() -> impl Strategy<Value = prost_types::Duration> {
    let seconds = prop_oneof![0i64..100, any::<i64>()];
    let nanos = prop_oneof![0i32..1_000_000_000, any::<i32>()];
    (seconds, nanos).prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos })
}

fn namespace() -> impl Strategy<Value = v1::Namespace> {
    (number(), text()).prop_map(|(mode, container)| v1::Namespace { mode, container })
}

fn id_mapping() -> impl Strategy<Value = v1::IdMapping> {
    let id = || prop_oneof![0u32..100, any::<u32>()];
    (id(), id(), id()).prop_map(|(inside, outside, count)| v1::IdMapping { inside, outside, count })
}

fn namespaces() -> impl Strategy<Value = v1::Namespaces> {
    let all = vec(option::of(namespace()), 8);
    (all, vec(id_mapping(), 0..4), vec(id_mapping(), 0..4)).prop_map(|(all, uids, gids)| {
        let mut all = all.into_iter();
        let mut next = || all.next().flatten();
        v1::Namespaces {
            mount: next(),
            pid: next(),
            uts: next(),
            ipc: next(),
            net: next(),
            cgroup: next(),
            user: next(),
            time: next(),
            uid_mappings: uids,
            gid_mappings: gids,
        }
    })
}

fn mount_message() -> impl Strategy<Value = v1::Mount> {
    let bind = (text(), any::<bool>(), any::<bool>(), number()).prop_map(
        |(source, non_recursive, recursive_read_only, propagation)| {
            let bind = v1::BindMount { source, non_recursive, recursive_read_only, propagation };
            mount::Source::Bind(bind)
        },
    );
    let tmpfs = (any::<u64>(), option::of(any::<u32>()))
        .prop_map(|(size_bytes, mode)| mount::Source::Tmpfs(v1::TmpfsMount { size_bytes, mode }));
    let device = (text(), text(), texts()).prop_map(|(source, fs_type, options)| {
        mount::Source::Device(v1::DeviceMount { source, fs_type, options })
    });
    let overlay = (texts(), text(), text()).prop_map(|(lowers, upper, work)| {
        mount::Source::Overlay(v1::OverlayMount { lowers, upper, work })
    });
    let source = option::of(prop_oneof![bind, tmpfs, device, overlay]);
    (text(), source, any::<bool>()).prop_map(|(target, source, read_only)| v1::Mount {
        target,
        source,
        read_only,
    })
}

fn device() -> impl Strategy<Value = v1::Device> {
    (text(), text(), text()).prop_map(|(path, path_in_container, access)| v1::Device {
        path,
        path_in_container,
        access,
    })
}

fn rootfs_message() -> impl Strategy<Value = v1::Rootfs> {
    let dir = (text(), any::<bool>())
        .prop_map(|(path, overlay)| rootfs::Source::Dir(v1::DirRootfs { path, overlay }));
    option::of(prop_oneof![Just(rootfs::Source::Host(v1::HostRootfs {})), dir])
        .prop_map(|source| v1::Rootfs { source })
}

fn confinement() -> impl Strategy<Value = v1::Confinement> {
    let flag = || option::of(any::<bool>());
    (texts(), texts(), flag(), number(), flag()).prop_map(
        |(cap_add, cap_drop, allow_new_privileges, seccomp, privileged)| v1::Confinement {
            cap_add,
            cap_drop,
            allow_new_privileges,
            seccomp,
            privileged,
        },
    )
}

fn user() -> impl Strategy<Value = v1::User> {
    (text(), text(), texts()).prop_map(|(user, group, additional_groups)| v1::User {
        user,
        group,
        additional_groups,
    })
}

fn terminal() -> impl Strategy<Value = v1::Terminal> {
    let size =
        (any::<u32>(), any::<u32>()).prop_map(|(columns, rows)| v1::TerminalSize { columns, rows });
    option::of(size).prop_map(|size| v1::Terminal { size })
}

fn rlimit() -> impl Strategy<Value = v1::Rlimit> {
    (text(), any::<u64>(), any::<u64>()).prop_map(|(name, soft, hard)| v1::Rlimit {
        name,
        soft,
        hard,
    })
}

/// Any process.
pub fn process() -> impl Strategy<Value = v1::ProcessSpec> {
    let what = (texts(), map(), text(), option::of(user()), option::of(terminal()));
    let how = (
        any::<bool>(),
        vec(rlimit(), 0..3),
        option::of(confinement()),
        option::of(any::<i32>()),
        option::of(any::<u32>()),
    );
    (what, how).prop_map(|((argv, env, cwd, user, terminal), how)| {
        let (stdin, rlimits, confinement, oom_score_adj, umask) = how;
        v1::ProcessSpec {
            argv,
            env,
            cwd,
            user,
            terminal,
            stdin,
            rlimits,
            confinement,
            oom_score_adj,
            umask,
        }
    })
}

fn policy() -> impl Strategy<Value = v1::SessionPolicy> {
    let time = || option::of(duration());
    (number(), time(), time(), time(), any::<bool>()).prop_map(
        |(disconnect_policy, disconnect_timeout, drain_timeout, deadline, record)| {
            v1::SessionPolicy {
                disconnect_policy,
                disconnect_timeout,
                drain_timeout,
                deadline,
                record,
            }
        },
    )
}

/// Any container.
pub fn container() -> impl Strategy<Value = v1::ContainerSpec> {
    let names = (text(), map(), text(), text(), map());
    let places = (
        option::of(rootfs_message()),
        option::of(namespaces()),
        vec(mount_message(), 0..4),
        vec(device(), 0..3),
    );
    let rest = (option::of(process()), any::<[bool; 3]>(), option::of(policy()));
    (names, places, rest).prop_map(|(names, places, rest)| {
        let (name, labels, hostname, domainname, sysctls) = names;
        let (rootfs, namespaces, mounts, devices) = places;
        let (process, [read_only_root, init, auto_remove], session_policy) = rest;
        v1::ContainerSpec {
            name,
            labels,
            rootfs,
            namespaces,
            mounts,
            process,
            hostname,
            domainname,
            devices,
            read_only_root,
            init,
            sysctls,
            auto_remove,
            session_policy,
        }
    })
}

/// Any session.
pub fn session() -> impl Strategy<Value = v1::SessionSpec> {
    let process_target = (any::<u32>(), any::<u64>(), vec(number(), 0..10), any::<[bool; 6]>())
        .prop_map(|(pid, start_ticks, namespaces, [cgroup, root, cwd, env, user, groups])| {
            session_target::Target::Process(v1::ProcessTarget {
                pid,
                start_ticks,
                namespaces,
                cgroup,
                root,
                cwd,
                env,
                user,
                groups,
            })
        });
    let maps = || {
        vec((any::<u32>(), any::<u32>(), any::<u32>()), 0..3).prop_map(|ranges| {
            let range = |(inside, outside, count)| v1::IdMapping { inside, outside, count };
            ranges.into_iter().map(range).collect::<Vec<_>>()
        })
    };
    let unshare = (vec(number(), 0..10), maps(), maps(), number(), any::<[bool; 2]>()).prop_map(
        |(namespaces, uid_mappings, gid_mappings, propagation, [keep_propagation, mount_proc])| {
            session_target::Target::Unshare(v1::UnshareTarget {
                namespaces,
                uid_mappings,
                gid_mappings,
                propagation,
                keep_propagation,
                mount_proc,
            })
        },
    );
    let container = text().prop_map(session_target::Target::Container);
    let debug = (option::of(text()), option::of(text())).prop_map(|(container, directory)| {
        let target = container.map(v1::target::Target::Container);
        session_target::Target::Debug(v1::DebugTarget {
            target: Some(v1::Target { target }),
            tools: directory.map(v1::debug_target::Tools::Directory),
        })
    });
    let place = prop_oneof![container, process_target, unshare, debug];
    let target = option::of(option::of(place).prop_map(|target| v1::SessionTarget { target }));
    (target, option::of(process()), option::of(policy()))
        .prop_map(|(target, process, policy)| v1::SessionSpec { target, process, policy })
}

/// Makes what is random valid, field by field, and keeps what is valid already.
pub fn mend(mut spec: v1::ContainerSpec) -> v1::ContainerSpec {
    let good = |text: &str| {
        !text.is_empty() && text.len() < 60 && text.bytes().all(|b| b.is_ascii_lowercase())
    };
    let path = |text: &str| {
        format!("/p{}", text.replace(['\0', '.'], "_").chars().take(40).collect::<String>())
    };
    if !good(&spec.name) {
        spec.name.clear();
    }
    let seen = |value: &str| conti_shared::name::check_label_value(value).is_ok();
    spec.labels.retain(|name, value| good(name) && seen(value));
    spec.hostname.retain(|c| c.is_ascii_alphanumeric());
    spec.hostname.truncate(64);
    spec.domainname.clear();
    spec.sysctls = spec
        .sysctls
        .into_keys()
        .filter(|k| good(k))
        .map(|k| (format!("net.{k}"), "1".into()))
        .collect();
    match spec.rootfs.as_mut().map(|rootfs| &mut rootfs.source) {
        Some(Some(rootfs::Source::Dir(dir))) => dir.path = path(&dir.path),
        Some(Some(rootfs::Source::Host(_))) => {}
        _ => spec.rootfs = None,
    }
    if let Some(namespaces) = &mut spec.namespaces {
        mend_namespaces(namespaces, good);
    }
    for (index, mount) in spec.mounts.iter_mut().enumerate() {
        mount.target = format!("/m{index}{}", path(&mount.target));
        match &mut mount.source {
            Some(mount::Source::Bind(bind)) => {
                bind.source = path(&bind.source);
                bind.recursive_read_only &= mount.read_only && !bind.non_recursive;
                bind.propagation = bind.propagation.rem_euclid(4);
            }
            Some(mount::Source::Tmpfs(tmpfs)) => tmpfs.mode = tmpfs.mode.map(|mode| mode & 0o7777),
            Some(mount::Source::Device(device)) => {
                device.source = path(&device.source);
                device.fs_type = "ext4".to_owned();
                device.options.retain(|option| good(option));
            }
            Some(mount::Source::Overlay(overlay)) => {
                overlay.lowers.resize(2, String::new());
                overlay.lowers.iter_mut().for_each(|lower| *lower = path(lower));
                (overlay.upper, overlay.work) = match mount.read_only {
                    true => Default::default(),
                    false => (path(&overlay.upper), path(&overlay.work)),
                };
            }
            None => mount.source = Some(mount::Source::Tmpfs(v1::TmpfsMount::default())),
        }
    }
    for (index, device) in spec.devices.iter_mut().enumerate() {
        device.path = path(&device.path);
        device.path_in_container = format!("/dev/d{index}");
        device.access = ["", "r", "rw", "mw"][index % 4].to_owned();
    }
    mend_process(spec.process.get_or_insert_default(), good, path);
    if let Some(policy) = &mut spec.session_policy {
        policy.disconnect_policy = policy.disconnect_policy.rem_euclid(5);
        if policy.disconnect_policy != v1::DisconnectPolicy::Keep as i32 {
            policy.disconnect_timeout = None;
        }
        let times =
            [&mut policy.disconnect_timeout, &mut policy.drain_timeout, &mut policy.deadline];
        for time in times.into_iter().flatten() {
            time.seconds = time.seconds.rem_euclid(1_000_000);
            time.nanos = 1 + time.nanos.rem_euclid(999_999_999);
        }
    }
    spec
}

fn mend_namespaces(namespaces: &mut v1::Namespaces, good: impl Fn(&str) -> bool) {
    let fix = |namespace: &mut Option<v1::Namespace>| {
        if let Some(namespace) = namespace {
            let named = good(&namespace.container);
            namespace.mode = if named { 3 } else { namespace.mode.rem_euclid(3) };
            if !named {
                namespace.container.clear();
            }
        }
    };
    namespaces.mount = None;
    // Host names and sysctls need these.
    (namespaces.uts, namespaces.net) = (None, None);
    for namespace in [
        &mut namespaces.pid,
        &mut namespaces.ipc,
        &mut namespaces.cgroup,
        &mut namespaces.user,
        &mut namespaces.time,
    ] {
        fix(namespace);
    }
    let private = namespaces.user.as_ref().is_some_and(|user| user.mode == 1);
    let map =
        if private { vec![v1::IdMapping { inside: 0, outside: 9, count: 7 }] } else { vec![] };
    (namespaces.uid_mappings, namespaces.gid_mappings) = (map.clone(), map);
}

fn mend_process(
    process: &mut v1::ProcessSpec,
    good: impl Fn(&str) -> bool,
    path: impl Fn(&str) -> String,
) {
    process.argv.insert(0, "true".to_owned());
    process.argv.retain(|argument| !argument.contains('\0'));
    process.env.retain(|name, value| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    });
    if !process.cwd.is_empty() {
        process.cwd = path(&process.cwd);
    }
    if let Some(user) = &mut process.user {
        for text in [&mut user.user, &mut user.group] {
            if !good(text) {
                text.clear();
            }
        }
        user.additional_groups.retain(|group| good(group));
    }
    if let Some(size) = process.terminal.as_mut().and_then(|terminal| terminal.size.as_mut()) {
        (size.columns, size.rows) = (size.columns % 65535 + 1, size.rows % 65535 + 1);
    }
    let names = ["nofile", "core", "as"];
    for (limit, name) in process.rlimits.iter_mut().zip(names) {
        limit.name = name.to_owned();
        limit.soft = limit.soft.min(limit.hard);
    }
    if let Some(confinement) = &mut process.confinement {
        confinement.seccomp = confinement.seccomp.rem_euclid(3);
        let odd = confinement.cap_add.len() % 2 == 1;
        confinement.cap_add = if odd { vec!["net_admin".to_owned()] } else { vec![] };
        let drops = confinement.cap_drop.len() % 2 == 1 && !confinement.privileged();
        confinement.cap_drop = if drops { vec!["ALL".to_owned()] } else { vec![] };
    }
    process.oom_score_adj = process.oom_score_adj.map(|adj| adj % 1001);
    process.umask = process.umask.map(|umask| umask & 0o777);
}
