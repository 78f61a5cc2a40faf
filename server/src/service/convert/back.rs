//! The engine's specification as a message again: what Get and List show. Checked once more, it
//! gives the same specification.

use std::path::PathBuf;

use conti_proto::v1;
use conti_runtime::plan::{Identity, Process};

use super::{capability, devices, mounts, namespaces, rlimit, session};
use crate::engine::spec::{ContainerSpec, Rootfs, SessionIo, TerminalSize};

/// A container's specification as a message.
pub fn container(spec: ContainerSpec) -> v1::ContainerSpec {
    use v1::rootfs::Source;
    let source = match spec.rootfs {
        Rootfs::Host => Source::Host(v1::HostRootfs {}),
        Rootfs::Dir { path: dir, overlay } => {
            Source::Dir(v1::DirRootfs { path: path(dir), overlay })
        }
    };
    v1::ContainerSpec {
        name: spec.name,
        labels: spec.labels,
        rootfs: Some(v1::Rootfs { source: Some(source) }),
        namespaces: Some(namespaces::namespaces_back(spec.namespaces)),
        mounts: spec.mounts.into_iter().map(mounts::mount_back).collect(),
        session_policy: Some(session::policy_back(&spec.io.policy)),
        process: Some(process(spec.process, &spec.io)),
        hostname: spec.hostname,
        domainname: spec.domainname,
        devices: spec.devices.into_iter().map(devices::device_back).collect(),
        read_only_root: spec.read_only_root,
        init: spec.init,
        sysctls: spec.sysctls,
        auto_remove: spec.auto_remove,
    }
}

fn process(process: Process, io: &SessionIo) -> v1::ProcessSpec {
    let variable = |text: String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text, String::new()),
    };
    let size = |size: TerminalSize| v1::TerminalSize {
        columns: size.columns.into(),
        rows: size.rows.into(),
    };
    v1::ProcessSpec {
        argv: process.argv,
        env: process.env.into_iter().map(variable).collect(),
        cwd: process.cwd,
        user: Some(user(process.identity)),
        terminal: io.terminal.map(|t| v1::Terminal { size: Some(size(t)) }),
        stdin: io.stdin,
        rlimits: process.rlimits.into_iter().map(rlimit::rlimit_back).collect(),
        confinement: Some(capability::confinement_back(process.confinement)),
        oom_score_adj: process.oom_score_adj,
        umask: Some(process.umask),
    }
}

fn user(identity: Identity) -> v1::User {
    match identity {
        Identity::Lookup { user, group, additional_groups } => {
            v1::User { user, group, additional_groups }
        }
        Identity::Ids { uid, gid, groups } => v1::User {
            user: uid.to_string(),
            group: gid.to_string(),
            additional_groups: groups.iter().map(u32::to_string).collect(),
        },
    }
}

/// A path as text. Those of a specification came as text.
pub fn path(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}
