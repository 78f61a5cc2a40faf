//! Whether one who is no admin may have what a container was started from, and what a session reached: by the facts
//! that are kept with them. What is not known is for admins.

use std::path::{Path, PathBuf};

use super::{
    Grants,
    rules::{self, Beyond, Result, beyond},
};
use crate::engine::{
    mounts::made::Shown,
    opened::Opened,
    scope::within,
    sources::dev::is_in_dev,
    spec::{ContainerSpec, Rootfs},
    surroundings::Reached,
    userns::Userns,
};

/// Checks where on the host that lay which a container was started from. Its paths were checked already ([`rules`]),
/// and tell nothing of it: a link in a directory that was granted may have led anywhere. `known`: what was opened.
pub fn opened(spec: &ContainerSpec, known: Option<&Opened>, grants: &Grants) -> Result {
    let unknown = Opened::default();
    let known = known.unwrap_or(&unknown);
    let bounds = spec.bounds.as_ref();
    if let Rootfs::Dir { path, .. } = &spec.rootfs {
        let place = Granted {
            dirs: &grants.bounds.rootfs,
            within: bounds.map(|bounds| bounds.rootfs.as_slice()),
        };
        let places = match known.rootfs.as_slice() {
            [] => &[None],
            places => places,
        };
        if !places.iter().all(|at| place.has(path, at.as_deref())) {
            led("rootfs.dir.path")?;
        }
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        let place = Granted {
            dirs: &grants.bounds.mounts,
            within: bounds.map(|bounds| bounds.mounts.as_slice()),
        };
        let paths = mount.source.paths();
        // Which of several is missing is not told.
        let places = known.mounts.get(index).filter(|places| places.len() == paths.len());
        let at = |index: usize| places.map(|places| places[index].as_path());
        if !paths.iter().enumerate().all(|(index, path)| place.has(path, at(index))) {
            led(format!("mounts[{index}]"))?;
        }
    }
    for (index, device) in spec.devices.iter().enumerate() {
        let itself = known.devices.get(index).is_some_and(|at| at.as_ref() == Some(&device.path));
        if !itself && !is_in_dev(&device.path) {
            led(format!("devices[{index}].path"))?;
        }
    }
    Ok(())
}

/// Checks what a session reached.
pub fn reached(reached: &Reached, grants: &Grants, userns: &Userns) -> Result {
    let Reached { spec, opened: known, made } = reached;
    rules::container(spec, grants, userns)?;
    opened(spec, known.as_ref(), grants)?;
    made.iter().try_for_each(|one| self::made(one, grants, userns))
}

/// Checks a mount that was made in a living container, with the container that its source is a path of.
pub fn made(made: &Shown, grants: &Grants, userns: &Userns) -> Result {
    rules::made(made, grants)?;
    let facts = made.facts.as_ref().filter(|_| made.of_container);
    let Some(facts) = facts else { return Ok(()) };
    let Some(from) = &facts.from else {
        return beyond("mounts", "has a part of a container of which not all is known");
    };
    from.iter().try_for_each(|one| reached(one, grants, userns)).map_err(|_| Beyond {
        field: "mounts".to_owned(),
        problem: format!(
            "has a part of a container that is not confined mounted on {}, since it was started",
            made.mount.target
        ),
        grant: None,
    })
}

/// What of the host a caller may have.
struct Granted<'a> {
    /// The directories that it was granted.
    dirs: &'a [PathBuf],
    /// Those that the one who asked was bound to.
    within: Option<&'a [PathBuf]>,
}

impl Granted<'_> {
    /// Whether what was opened by a path is a part of that. `place`: where it lay, as far as that is known.
    fn has(&self, path: &Path, place: Option<&Path>) -> bool {
        // Otherwise somewhere in the directory that the path was bound to, if it was.
        let bound = || Some(within(self.within?, path)?.0);
        place.or_else(bound).is_some_and(|place| within(self.dirs, place).is_some())
    }
}

fn led(field: impl Into<String>) -> Result {
    beyond(
        field,
        "is of a place of the host that was not granted, or is not known: by a link perhaps",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    use conti_runtime::plan::Propagation;

    use crate::engine::{
        id_ranges::Pool,
        mounts::made::{Facts, Shown},
        scope::Bounds,
        spec::{Device, Mount, MountSource},
        userns,
    };

    fn bounds(mounts: &str, rootfs: &str) -> Bounds {
        Bounds { mounts: vec![mounts.into()], rootfs: vec![rootfs.into()] }
    }

    fn grants() -> Grants {
        let devices = vec!["/srv/device".into(), "/dev/fuse".into()];
        let bounds = bounds("/srv", "/roots");
        Grants { bounds, capabilities: 0, devices, host_user_namespace: false }
    }

    fn mount(source: MountSource) -> Mount {
        Mount { target: "/m".into(), source, read_only: true }
    }

    fn bind(source: &str) -> Mount {
        mount(MountSource::Bind {
            source: source.into(),
            recursive: true,
            recursive_read_only: false,
            propagation: Propagation::Private,
        })
    }

    /// A container with everything of the host.
    fn spec() -> ContainerSpec {
        let device = |path: &str| Device {
            path: path.into(),
            path_in_container: "/dev/x".into(),
            read: true,
            write: true,
            mknod: true,
        };
        let upper = Some(("/srv/u".into(), "/srv/w".into()));
        ContainerSpec {
            rootfs: Rootfs::Dir { path: "/roots/a".into(), overlay: true },
            mounts: vec![
                bind("/srv/a"),
                mount(MountSource::Tmpfs { size_bytes: 0, mode: 0 }),
                mount(MountSource::Overlay { lowers: vec!["/srv/l".into()], upper }),
            ],
            devices: vec![device("/dev/fuse"), device("/srv/device")],
            ..ContainerSpec::unknown()
        }
    }

    /// What is opened without a link.
    fn plain() -> Opened {
        Opened {
            rootfs: vec![Some("/roots/a".into())],
            mounts: vec![
                vec!["/srv/a".into()],
                Vec::new(),
                ["/srv/l", "/srv/u", "/srv/w"].map(PathBuf::from).into(),
            ],
            devices: vec![Some("/dev/fuse".into()), Some("/srv/device".into())],
        }
    }

    fn field(spec: &ContainerSpec, known: Option<&Opened>) -> Option<String> {
        opened(spec, known, &grants()).err().map(|beyond| beyond.field)
    }

    fn field_of(change: impl FnOnce(&mut Opened)) -> Option<String> {
        let mut known = plain();
        change(&mut known);
        field(&spec(), Some(&known))
    }

    #[test]
    fn what_lay_where_it_was_granted_may_be_had() {
        assert_eq!(field_of(|_| {}), None);
        assert_eq!(field_of(|known| known.mounts[0] = vec!["/srv/b/c".into()]), None);
        assert_eq!(field_of(|known| known.rootfs.push(Some("/roots/b".into()))), None);
        // A name in /dev may be a link of the host's own.
        assert_eq!(field_of(|known| known.devices[0] = Some("/dev/misc/fuse".into())), None);
        assert_eq!(field(&ContainerSpec::unknown(), None), None, "it has nothing of the host");
    }

    #[test]
    fn what_a_link_led_to_is_for_admins() {
        let of = |wanted: &str, change: &dyn Fn(&mut Opened)| {
            assert_eq!(field_of(change).as_deref(), Some(wanted));
        };
        of("rootfs.dir.path", &|known| known.rootfs = vec![Some("/".into())]);
        of("rootfs.dir.path", &|known| known.rootfs.push(Some("/srv".into())));
        of("rootfs.dir.path", &|known| known.rootfs.push(None));
        of("rootfs.dir.path", &|known| known.rootfs.clear());
        of("mounts[0]", &|known| known.mounts[0] = vec!["/etc".into()]);
        of("mounts[0]", &|known| known.mounts[0] = vec!["/srvx".into()]);
        of("mounts[0]", &|known| known.mounts[0] = vec!["/roots/a".into()]);
        of("mounts[0]", &|known| known.mounts[0].clear());
        for index in 0..3 {
            of("mounts[2]", &|known| known.mounts[2][index] = "/etc".into());
            of("mounts[2]", &|known| drop(known.mounts[2].remove(index)));
        }
        of("mounts[2]", &|known| known.mounts.truncate(2));
        of("devices[1].path", &|known| known.devices[1] = Some("/dev/mem".into()));
        of("devices[1].path", &|known| known.devices[1] = None);
        of("devices[1].path", &|known| known.devices.truncate(1));
        assert_eq!(field(&spec(), None).as_deref(), Some("rootfs.dir.path"));
    }

    #[test]
    fn where_it_is_not_known_what_was_opened_it_lay_in_the_bounds_of_who_asked() {
        let bound = |mounts: &str, rootfs: &str| ContainerSpec {
            bounds: Some(bounds(mounts, rootfs)),
            devices: Vec::new(),
            ..spec()
        };
        assert_eq!(field(&bound("/srv", "/roots"), None), None);
        // More than is granted now.
        assert_eq!(field(&bound("/", "/roots"), None).as_deref(), Some("mounts[0]"));
        assert_eq!(field(&bound("/srv", "/"), None).as_deref(), Some("rootfs.dir.path"));
        // Not where it was.
        assert_eq!(field(&bound("/other", "/roots"), None).as_deref(), Some("mounts[0]"));
        let bounded = bound("/srv", "/roots");
        let led = Opened { mounts: vec![vec!["/etc".into()]], ..plain() };
        assert_eq!(field(&bounded, Some(&led)).as_deref(), Some("mounts[0]"));
    }

    #[test]
    fn a_session_reaches_what_was_mounted_since() {
        let auto = userns::Default::Auto;
        let userns = Userns { wanted: auto, default: auto, problem: None, pool: Pool::default() };
        let shown = |source: &str, kernel, of_container| {
            let kernel = Some(kernel);
            let facts = Facts { granted: None, sources: vec![source.into()], kernel, from: None };
            let mount = Mount { target: "/mnt".into(), ..bind("/srv/a") };
            Shown { id: String::new(), mount, of_container, facts: Some(facts) }
        };
        let may = |made: Vec<Shown>| {
            let spec = ContainerSpec { mounts: vec![bind("/srv/a")], ..ContainerSpec::unknown() };
            let known = Opened { mounts: vec![vec!["/srv/a".into()]], ..Opened::default() };
            reached(&Reached { spec, opened: Some(known), made }, &grants(), &userns).is_ok()
        };
        assert!(may(Vec::new()));
        assert!(may(vec![shown("/srv/b", false, false)]));
        assert!(!may(vec![shown("/srv/b", false, false), shown("/etc", false, false)]));
        assert!(!may(vec![shown("/srv/b", true, false)]));
        assert!(!may(vec![shown("/srv/b", false, true)]));
        assert!(!may(vec![Shown { facts: None, ..shown("/srv/b", false, false) }]));
    }
}
