//! What is known of a failed set-up beyond its step: what of the host, or which ids, it was about.

use std::{
    ffi::OsString,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
};

use conti_runtime::{
    host,
    inspect::process::mount_id,
    mountinfo::{Entry, unescape},
    own,
    plan::{IdMap, SetupFailure, Step},
    sys::mount::set_id_map,
    user_namespace::UserNamespace,
};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};

use super::{
    Engine, bounds,
    error::{Error, errno_text, setup_sentence},
    sources::bind::{self, HostPath},
    spec::{ContainerSpec, MountSource, Rootfs},
};

/// What of a mount takes no id map.
#[derive(Debug, PartialEq, Eq)]
struct Unmappable {
    /// What is mounted.
    source: PathBuf,
    /// What of it takes none, and why. `None`: it was not found.
    part: Option<(PathBuf, String)>,
}

impl Engine {
    /// The error for a set-up in a container that failed.
    pub(super) async fn explained(&self, failure: SetupFailure, spec: &ContainerSpec) -> Error {
        let sentence = match (failure.step, failure.errno) {
            (Step::Credentials, libc::EINVAL) => without_place(&failure, &spec.namespaces.uid_maps),
            (Step::Groups, libc::EINVAL) => without_place(&failure, &spec.namespaces.gid_maps),
            (Step::IdMap, _) => self.unmappable(&failure, spec).await,
            _ => None,
        };
        match sentence {
            Some(sentence) => Error::Explained { failure, sentence },
            None => Error::Setup(failure),
        }
    }

    async fn unmappable(&self, failure: &SetupFailure, spec: &ContainerSpec) -> Option<String> {
        let map = *spec.namespaces.uid_maps.first()?;
        let target = failure.argument.clone();
        let bounds = spec.bounds.as_ref();
        let mut within = bounds.map(|bounds| bounds.mounts.clone());
        let found = match (target.as_str(), &spec.rootfs) {
            ("/", Rootfs::Dir { path, .. }) => {
                within = bounds.map(|bounds| bounds.rootfs.clone());
                Some((path.clone(), true))
            }
            _ => {
                let mount = spec.mounts.iter().find(|mount| mount.target == target)?;
                match &mount.source {
                    MountSource::Bind { source, recursive, .. } => {
                        Some((source.clone(), *recursive))
                    }
                    MountSource::Device { source, fs_type, .. } => {
                        let part = Some((source.clone(), takes_none(fs_type)));
                        return Some(sentence(
                            failure,
                            &Unmappable { source: source.clone(), part },
                        ));
                    }
                    // Refused before, and without owners.
                    MountSource::Overlay { .. } | MountSource::Tmpfs { .. } => None,
                }
            }
        };
        let (source, recursive) = found?;
        let image = self.launcher.image().try_clone_to_owned().ok()?;
        let of = source.clone();
        let part = bounds::foreign(bounds::SOURCES, "cannot look at a mount", move || {
            let namespace = UserNamespace::new(image.as_fd(), map).ok()?;
            let source = HostPath { path: &of, within: within.as_deref() };
            unmappable_part(source, recursive, namespace.fd.as_fd())
        });
        let part = part.await.ok().flatten();
        Some(sentence(failure, &Unmappable { source, part }))
    }
}

/// Says which ids there are in place of one that has none.
fn without_place(failure: &SetupFailure, maps: &[IdMap]) -> Option<String> {
    let range = |map: &IdMap| match map.count {
        1 => map.inside.to_string(),
        count => format!("{}-{}", map.inside, map.inside.saturating_add(count - 1)),
    };
    let ranges: Vec<String> = maps.iter().map(range).collect();
    let said = setup_sentence(failure);
    let (said, _) = said.split_once(';')?;
    (!ranges.is_empty()).then(|| {
        format!("{said}; the container's user namespace has the ids {} only", ranges.join(", "))
    })
}

fn sentence(failure: &SetupFailure, what: &Unmappable) -> String {
    let (target, errno) = (&failure.argument, errno_text(failure.errno));
    format!(
        "could not map the ids of the mount on {target:?}: {errno}; {}; {WITHOUT}",
        source_words(&what.source, what.part.as_ref(), failure.errno)
    )
}

/// What to do where something takes no id map.
pub const WITHOUT: &str = "a container that is made with --userns host can have it";

/// What of a source takes no id map, in words. `errno`: that of the whole.
pub fn source_words(source: &Path, part: Option<&(PathBuf, String)>, errno: i32) -> String {
    match part {
        Some((path, why)) if path == source => format!("its source {source:?} {why}"),
        Some((path, why)) => format!("its source {source:?} holds {path:?}, which {why}"),
        None if errno == libc::EPERM => {
            format!("its source {source:?}, or what is mounted below it, {HAS_ONE}")
        }
        None => {
            format!("its source {source:?}, or what is mounted below it, is of a filesystem {NONE}")
        }
    }
}

const NONE: &str = "which supports no idmapped mounts";
/// The map of a mount that has one cannot be changed: can_idmap_mount in the kernel's fs/namespace.c.
const HAS_ONE: &str = "is mounted with an id map already, and takes no other";

/// That a filesystem of this type takes no id map, in words that go on from where it is.
pub fn takes_none(fs_type: &str) -> String {
    format!("is of type {fs_type}, {NONE}")
}

/// The first mount at a path of the host, or below it where `recursive`, that takes no id map: where it lies, and
/// why, in words that go on from there.
pub fn unmappable_part(
    source: HostPath<'_>,
    recursive: bool,
    user_ns: BorrowedFd<'_>,
) -> Option<(PathBuf, String)> {
    // As it was opened: a link may have been put in its place, which is not to tell of what lies elsewhere.
    let at = bind::open(source, "mount", "cannot open").ok()?;
    let source = source.path;
    let real = own::read_link(format!("/proc/self/fd/{}", at.as_raw_fd()));
    let (real, top) = (real.ok()?, mount_id(&at).ok()?.id);
    let text = host::read("/proc/self/mountinfo").ok()?;
    let mut all: Vec<(PathBuf, OwnedFd, String)> = Vec::new();
    for entry in Entry::all(&text) {
        let fs_type = String::from_utf8_lossy(entry.fs_type).into_owned();
        if entry.id == top {
            all.insert(0, (source.to_owned(), at.try_clone().ok()?, fs_type));
            continue;
        }
        let point = PathBuf::from(OsString::from_vec(unescape(entry.point)));
        let Some(below) = point.strip_prefix(&real).ok().filter(|_| recursive) else { continue };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(opened) = open(&point, flags, Mode::empty()) else { continue };
        // Another one may lie on top of it.
        if mount_id(&opened).is_ok_and(|id| id.id == entry.id) {
            all.push((source.join(below), opened, fs_type));
        }
    }
    let problem = |mount: &OwnedFd, fs_type: &str| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let copy = open_tree(mount, c"", flags).ok()?;
        match set_id_map(copy.as_fd(), user_ns).err()? {
            Errno::PERM => Some(HAS_ONE.to_owned()),
            _ => Some(takes_none(fs_type)),
        }
    };
    all.into_iter().find_map(|(path, mount, fs_type)| Some((path, problem(&mount, &fs_type)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_without_a_place_is_told_with_the_ranges() {
        let failure =
            SetupFailure { step: Step::Groups, argument: "7".into(), errno: libc::EINVAL };
        let maps = [(0, 5), (9, 1)].map(|(inside, count)| IdMap { inside, outside: 0, count });
        let said = without_place(&failure, &maps).unwrap();
        assert!(said.contains("group \"7\"") && said.ends_with("the ids 0-4, 9 only"), "{said}");
        assert_eq!(without_place(&failure, &[]), None);
    }
}
