//! A container that is to be made.

use std::{collections::BTreeMap, path::PathBuf};

use conti_proto::v1;
use conti_shared::name;

use super::{Field, Violations, devices, mounts, namespaces, process, sysctls, text};
use crate::engine::spec::{ContainerSpec, Namespace, Rootfs};

/// The most that the names and values of labels take, in bytes: they are shown with each container and session.
const LABELS_MAX: usize = 256 * 1024;

/// Checks a container.
pub fn container(
    v: &mut Violations,
    at: Field<'_>,
    message: Option<v1::ContainerSpec>,
) -> ContainerSpec {
    let message = message.unwrap_or_else(|| {
        v.add(at, "is missing");
        v1::ContainerSpec::default()
    });
    let main = message.process.unwrap_or_else(|| {
        v.add(at.name("process"), "is missing");
        v1::ProcessSpec::default()
    });
    if !message.name.is_empty() {
        v.check(at.name("name"), name::check_container_name(&message.name));
    }
    let namespaces = namespaces::namespaces(v, at.name("namespaces"), message.namespaces);
    for (field, text) in [("hostname", &message.hostname), ("domainname", &message.domainname)] {
        text::host_name(v, at.name(field), text);
        if !text.is_empty() && namespaces.uts != Namespace::Private {
            v.add(at.name(field), "needs a private uts namespace");
        }
    }
    sysctls::check(v, at.name("sysctls"), &message.sysctls, &namespaces);
    ContainerSpec {
        labels: labels(v, at.name("labels"), message.labels),
        rootfs: rootfs(v, at.name("rootfs"), message.rootfs),
        mounts: mounts::mounts(v, at.name("mounts"), message.mounts),
        devices: devices::devices(v, at.name("devices"), message.devices),
        io: process::io(
            v,
            at.name("process"),
            &main,
            at.name("session_policy"),
            message.session_policy,
        ),
        process: process::main(v, at.name("process"), main),
        name: message.name,
        namespaces,
        hostname: message.hostname,
        domainname: message.domainname,
        read_only_root: message.read_only_root,
        init: message.init,
        sysctls: message.sysctls,
        bounds: None,
        maker: None,
        auto_remove: message.auto_remove,
    }
}

fn labels(
    v: &mut Violations,
    at: Field<'_>,
    labels: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let total: usize = labels.iter().map(|(label, value)| label.len() + value.len()).sum();
    if total > LABELS_MAX {
        v.add(at, format_args!("take {total} bytes in all, at most {LABELS_MAX} are allowed"));
    }
    for (label, value) in &labels {
        if let Err(problem) = name::check_label_name(label) {
            v.add(at.key(label), format_args!("has a name that {problem}"));
        }
        v.check(at.key(label), name::check_label_value(value));
    }
    labels
}

fn rootfs(v: &mut Violations, at: Field<'_>, message: Option<v1::Rootfs>) -> Rootfs {
    use v1::rootfs::Source;
    match message.map(|rootfs| rootfs.source) {
        None | Some(Some(Source::Host(v1::HostRootfs {}))) => Rootfs::Host,
        Some(Some(Source::Dir(dir))) => {
            text::absolute_path(v, at.name("dir").name("path"), &dir.path);
            Rootfs::Dir { path: PathBuf::from(dir.path), overlay: dir.overlay }
        }
        Some(None) => {
            v.add(at, "has no source: give `host` or `dir`, or leave it out");
            Rootfs::Host
        }
    }
}
