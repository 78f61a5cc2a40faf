//! The mounts of a container.

use std::{collections::BTreeSet, path::PathBuf};

use conti_proto::v1::{self, MountPropagation, mount::Source};

use super::{Field, Violations, text, violation::quote};
use crate::engine::spec::{Mount, MountSource, Propagation};

/// The mode of the root of a tmpfs, where nothing was said.
const TMPFS_MODE: u32 = 0o1777;
/// The longest name or value of a filesystem's option (fsconfig(2)).
const OPTION_MAX: usize = 255;
/// The most lower directories: their names must fit into one option.
const LOWERS_MAX: usize = 8;

/// The most mounts: for each one the kernel and the agent look at those before it.
const MOUNTS_MAX: usize = 256;

/// Checks the mounts of a container.
pub fn mounts(v: &mut Violations, at: Field<'_>, messages: Vec<v1::Mount>) -> Vec<Mount> {
    if messages.len() > MOUNTS_MAX {
        v.add(at, format_args!("has {} mounts, at most {MOUNTS_MAX} are allowed", messages.len()));
        return Vec::new();
    }
    let mut targets: BTreeSet<Vec<String>> = BTreeSet::new();
    let mut mounts = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let at = at.index(index);
        let target_at = at.name("target");
        text::absolute_path(v, target_at, &message.target);
        let place: Vec<String> =
            text::parts(&message.target).into_iter().map(str::to_owned).collect();
        if place.is_empty() && message.target.starts_with('/') {
            v.add(target_at, "is `/`: the root filesystem is chosen with rootfs");
        } else if !targets.insert(place) {
            v.add(
                target_at,
                format_args!("{} is the target of two mounts", quote(&message.target)),
            );
        }
        mounts.push(one(v, at, message));
    }
    mounts
}

/// Checks a single mount, but for its target.
fn one(v: &mut Violations, at: Field<'_>, message: v1::Mount) -> Mount {
    let source = match message.source {
        Some(source) => mount_source(v, at, source, message.read_only),
        None => {
            v.add(at, "has no source: give `bind`, `tmpfs`, `device` or `overlay`");
            MountSource::Tmpfs { size_bytes: 0, mode: TMPFS_MODE }
        }
    };
    Mount { target: message.target, source, read_only: message.read_only }
}

/// Checks a mount into a target that is alive.
pub fn live_mount(v: &mut Violations, at: Field<'_>, message: Option<v1::Mount>) -> Mount {
    let message = message.unwrap_or_else(|| {
        v.add(at, "is missing");
        v1::Mount::default()
    });
    text::absolute_path(v, at.name("target"), &message.target);
    if text::parts(&message.target).is_empty() && message.target.starts_with('/') {
        v.add(at.name("target"), "is `/`, which would hide all of the target");
    }
    one(v, at, message)
}

fn mount_source(v: &mut Violations, at: Field<'_>, source: Source, read_only: bool) -> MountSource {
    match source {
        Source::Bind(bind) => {
            let at = at.name("bind");
            text::absolute_path(v, at.name("source"), &bind.source);
            if bind.recursive_read_only && (!read_only || bind.non_recursive) {
                let problem = "needs read_only, and the mounts below (not non_recursive)";
                v.add(at.name("recursive_read_only"), problem);
            }
            MountSource::Bind {
                source: PathBuf::from(bind.source),
                recursive: !bind.non_recursive,
                recursive_read_only: bind.recursive_read_only,
                propagation: propagation(v, at.name("propagation"), bind.propagation),
            }
        }
        Source::Tmpfs(tmpfs) => {
            let mode = tmpfs.mode.unwrap_or(TMPFS_MODE);
            if mode > 0o7777 {
                let at = at.name("tmpfs");
                v.add(at.name("mode"), format_args!("is 0o{mode:o}, a mode is 0 to 0o7777"));
            }
            MountSource::Tmpfs { size_bytes: tmpfs.size_bytes, mode }
        }
        Source::Device(device) => {
            let at = at.name("device");
            text::absolute_path(v, at.name("source"), &device.source);
            fs_type(v, at.name("fs_type"), &device.fs_type);
            let options_at = at.name("options");
            for (index, option) in device.options.iter().enumerate() {
                fs_option(v, options_at.index(index), option);
            }
            MountSource::Device {
                source: PathBuf::from(device.source),
                fs_type: device.fs_type,
                options: device.options,
            }
        }
        Source::Overlay(overlay) => overlay_source(v, at.name("overlay"), overlay, read_only),
    }
}

fn overlay_source(
    v: &mut Violations,
    at: Field<'_>,
    message: v1::OverlayMount,
    read_only: bool,
) -> MountSource {
    let v1::OverlayMount { lowers, upper, work } = message;
    let lowers_at = at.name("lowers");
    for (index, lower) in lowers.iter().enumerate() {
        text::absolute_path(v, lowers_at.index(index), lower);
    }
    let least = if upper.is_empty() { 2 } else { 1 };
    if !(least..=LOWERS_MAX).contains(&lowers.len()) {
        v.add(
            lowers_at,
            format_args!("are {}, they must be {least} to {LOWERS_MAX}", lowers.len()),
        );
    }
    if upper.is_empty() != work.is_empty() {
        v.add(at.name("work"), "and upper belong together: give both or none");
    }
    if !upper.is_empty() {
        text::absolute_path(v, at.name("upper"), &upper);
        text::absolute_path(v, at.name("work"), &work);
        if read_only {
            v.add(at.name("upper"), "takes what is written, but the mount is read_only");
        }
    }
    let upper = (!upper.is_empty()).then(|| (PathBuf::from(upper), PathBuf::from(work)));
    MountSource::Overlay { lowers: lowers.into_iter().map(PathBuf::from).collect(), upper }
}

/// Checks how mounts are passed on.
pub fn propagation(v: &mut Violations, at: Field<'_>, value: i32) -> Propagation {
    match text::known(v, at, value) {
        MountPropagation::Unspecified | MountPropagation::Private => Propagation::Private,
        MountPropagation::Slave => Propagation::Slave,
        MountPropagation::Shared => Propagation::Shared,
    }
}

fn fs_type(v: &mut Violations, at: Field<'_>, text: &str) {
    const MAX: usize = 64;
    let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.is_empty() {
        v.add(at, "is empty: give the filesystem's type, e.g. ext4");
    } else if text.len() > MAX || !text.chars().all(good) {
        v.add(at, format_args!("is {}, which is no filesystem's type", quote(text)));
    }
}

fn fs_option(v: &mut Violations, at: Field<'_>, text: &str) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    text::no_nul(v, at, text);
    if name.is_empty() {
        v.add(at, format_args!("is {}: write `name` or `name=value`", quote(text)));
    } else if name.len() > OPTION_MAX || value.len() > OPTION_MAX {
        v.add(at, format_args!("has a name or value of more than {OPTION_MAX} bytes"));
    }
}

/// A mount as a message.
pub fn mount_back(mount: Mount) -> v1::Mount {
    let source = match mount.source {
        MountSource::Bind { source, recursive, recursive_read_only, propagation } => {
            let propagation = match propagation {
                Propagation::Private => MountPropagation::Private,
                Propagation::Slave => MountPropagation::Slave,
                Propagation::Shared => MountPropagation::Shared,
            };
            Source::Bind(v1::BindMount {
                source: super::back::path(source),
                non_recursive: !recursive,
                recursive_read_only,
                propagation: propagation.into(),
            })
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            Source::Tmpfs(v1::TmpfsMount { size_bytes, mode: Some(mode) })
        }
        MountSource::Device { source, fs_type, options } => {
            Source::Device(v1::DeviceMount { source: super::back::path(source), fs_type, options })
        }
        MountSource::Overlay { lowers, upper } => {
            let (upper, work) = upper.unwrap_or_default();
            Source::Overlay(v1::OverlayMount {
                lowers: lowers.into_iter().map(super::back::path).collect(),
                upper: super::back::path(upper),
                work: super::back::path(work),
            })
        }
    };
    v1::Mount { target: mount.target, source: Some(source), read_only: mount.read_only }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(messages: Vec<v1::Mount>) -> Vec<String> {
        let mut v = Violations::default();
        mounts(&mut v, Field::root("m"), messages);
        v.named().iter().map(|(field, _)| field.clone()).collect()
    }

    #[test]
    fn mounts_are_bounded() {
        let some = |count: usize| (0..count).map(|n| tmpfs(&format!("/m{n}"), None)).collect();
        assert!(faults(some(MOUNTS_MAX)).is_empty());
        assert_eq!(faults(some(MOUNTS_MAX + 1)), ["m"]);
    }

    fn tmpfs(target: &str, mode: Option<u32>) -> v1::Mount {
        let source = Some(Source::Tmpfs(v1::TmpfsMount { size_bytes: 0, mode }));
        v1::Mount { target: target.to_owned(), source, read_only: false }
    }

    fn bind(edit: impl FnOnce(&mut v1::BindMount), read_only: bool) -> v1::Mount {
        let mut bind = v1::BindMount { source: "/srv".into(), ..Default::default() };
        edit(&mut bind);
        v1::Mount { target: "/a".into(), source: Some(Source::Bind(bind)), read_only }
    }

    fn device(fs_type: &str, options: &[&str]) -> v1::Mount {
        let source = Source::Device(v1::DeviceMount {
            source: "/dev/vda".into(),
            fs_type: fs_type.into(),
            options: options.iter().map(|&o| o.to_owned()).collect(),
        });
        v1::Mount { target: "/a".into(), source: Some(source), read_only: false }
    }

    #[test]
    fn targets_are_below_the_root_and_each_is_used_once() {
        assert!(faults(vec![tmpfs("/a", None), tmpfs("/a/b", None)]).is_empty());
        assert_eq!(faults(vec![tmpfs("/", None)]), ["m[0].target"]);
        assert_eq!(faults(vec![tmpfs("//.", None)]), ["m[0].target"]);
        assert_eq!(faults(vec![tmpfs("a", None)]), ["m[0].target"]);
        assert_eq!(faults(vec![tmpfs("/a/../b", None)]), ["m[0].target"]);
        assert_eq!(faults(vec![tmpfs("/a", None), tmpfs("/./a/", None)]), ["m[1].target"]);
    }

    #[test]
    fn sources_are_checked() {
        assert_eq!(faults(vec![tmpfs("/a", Some(0o10000))]), ["m[0].tmpfs.mode"]);
        assert_eq!(faults(vec![v1::Mount { target: "/a".into(), ..Default::default() }]), ["m[0]"]);
        let relative = bind(|b| b.source = "srv".into(), false);
        assert_eq!(faults(vec![relative]), ["m[0].bind.source"]);
        assert!(faults(vec![bind(|b| b.recursive_read_only = true, true)]).is_empty());
        let writable = bind(|b| b.recursive_read_only = true, false);
        assert_eq!(faults(vec![writable]), ["m[0].bind.recursive_read_only"]);
        let unknown = bind(|b| b.propagation = 9, false);
        assert_eq!(faults(vec![unknown]), ["m[0].bind.propagation"]);
        assert!(faults(vec![device("ext4", &["noatime", "data=ordered"])]).is_empty());
        assert_eq!(faults(vec![device("", &[])]), ["m[0].device.fs_type"]);
        assert_eq!(faults(vec![device("../ext4", &[])]), ["m[0].device.fs_type"]);
        let options = faults(vec![device("ext4", &["", "=x", "a\0", &"a".repeat(256)])]);
        assert_eq!(options.len(), 4);
    }
}
