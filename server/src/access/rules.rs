//! What a container must be like so that one who is no admin may make it, or act in it.
//!
//! An operator must not become root of the host by what it asks for. What would lead there is listed
//! here, each with the field that asks for it; whatever is not listed is confined by the container
//! itself. The same list decides whom an operator may act in: one may enter only what one might have
//! made.

use std::path::Path;

use conti_runtime::{
    kernel_fs::PLACES,
    plan::{Confinement, Process, Propagation},
};

use super::Grants;
use crate::engine::{
    capability,
    mounts::made::Shown,
    scope::within,
    spec::{ContainerSpec, Mount, MountSource, Namespace, Rootfs},
    userns::{self, Userns},
};

/// What goes beyond a caller's grants: the field, and the end of a sentence that begins with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// The path of the field in a specification, e.g. `mounts[2].bind.source`.
    pub field: String,
    /// What is asked for, e.g. `mounts /etc of the host`.
    pub problem: String,
    /// The grant that allows it, as policies write it, e.g. `mounts`.
    pub grant: Option<&'static str>,
}

/// Whether something goes beyond a caller's grants.
pub type Result = std::result::Result<(), Beyond>;

/// Something that goes beyond a caller's grants.
pub fn beyond(field: impl Into<String>, problem: impl Into<String>) -> Result {
    Err(Beyond { field: field.into(), problem: problem.into(), grant: None })
}

/// Something that a grant would allow.
pub fn without(
    grant: &'static str,
    field: impl Into<String>,
    problem: impl Into<String>,
) -> Result {
    Err(Beyond { field: field.into(), problem: problem.into(), grant: Some(grant) })
}

/// Checks a container. `userns`: what user namespaces the agent gives.
pub fn container(spec: &ContainerSpec, grants: &Grants, userns: &Userns) -> Result {
    if let Rootfs::Dir { path, .. } = &spec.rootfs {
        let problem = ("rootfs", "takes its root from");
        host_path("rootfs.dir.path", problem, path, &grants.bounds.rootfs)?;
    }
    let namespaces = &spec.namespaces;
    for (name, namespace) in [
        ("pid", &namespaces.pid),
        ("uts", &namespaces.uts),
        ("ipc", &namespaces.ipc),
        ("net", &namespaces.net),
        ("cgroup", &namespaces.cgroup),
    ] {
        if *namespace == Namespace::Host {
            beyond(format!("namespaces.{name}"), "is that of the host")?;
        }
    }
    for (index, one) in spec.mounts.iter().enumerate() {
        mount(&format!("mounts[{index}]"), one, grants)?;
    }
    for (index, device) in spec.devices.iter().enumerate() {
        if !grants.devices.contains(&device.path) {
            let problem = format!("is the device {} of the host", device.path.display());
            without("devices", format!("devices[{index}].path"), problem)?;
        }
    }
    process("process", &spec.process, grants)?;
    // Last: what is privileged has the host's because of that.
    if !grants.host_user_namespace {
        if namespaces.user == Namespace::Host && userns.wanted == userns::Default::Auto {
            let why = match &userns.problem {
                Some(problem) => format!(": this host gives no other ({problem})"),
                None if spec.joins().next().is_some() => {
                    ": that of a container whose namespaces it joins".to_owned()
                }
                None => String::new(),
            };
            let problem = format!("is that of the host{why}");
            without("host_user_namespace", "namespaces.user", problem)?;
        }
        if !namespaces.uid_maps.is_empty() && !userns.gave(namespaces) {
            without("host_user_namespace", "namespaces.uid_mappings", "chooses ids of the host")?;
        }
    }
    Ok(())
}

/// Whether a specification names paths of the host that somebody else may have been granted.
pub fn uses_host_paths(spec: &ContainerSpec) -> bool {
    let of_host = |mount: &Mount| !matches!(mount.source, MountSource::Tmpfs { .. });
    matches!(spec.rootfs, Rootfs::Dir { .. }) || spec.mounts.iter().any(of_host)
}

/// Checks where something is mounted, as far as the path tells. A link in the container may lead anywhere: what was
/// opened is checked again by whoever mounts.
pub fn target(field: &str, path: &str) -> Result {
    let path = Path::new(path);
    match PLACES.iter().find(|of| path.starts_with(of) || path == Path::new("/")) {
        Some(_) => beyond(
            field,
            format!("is {}, which belongs to the container's confinement", path.display()),
        ),
        None => Ok(()),
    }
}

/// Checks how a mount is passed on. What the host mounts below a source later is judged by nobody: it may be a proc.
pub fn propagation(field: &str, mount: &Mount) -> Result {
    let MountSource::Bind { propagation, .. } = mount.source else { return Ok(()) };
    let problem = match propagation {
        Propagation::Private => return Ok(()),
        Propagation::Slave => "takes in whatever is mounted there on the host later",
        Propagation::Shared => "passes what is mounted inside on to the host",
    };
    beyond(format!("{field}.bind.propagation"), problem)
}

/// Checks a mount.
pub fn mount(field: &str, mount: &Mount, grants: &Grants) -> Result {
    target(&format!("{field}.target"), &mount.target)?;
    propagation(field, mount)?;
    let dirs = &grants.bounds.mounts;
    let verb = ("mounts", "mounts");
    match &mount.source {
        MountSource::Tmpfs { .. } => Ok(()),
        MountSource::Device { source, .. } => {
            // A filesystem's bytes are an attack on the kernel that reads them.
            let problem = format!("mounts the device or image {} of the host", source.display());
            beyond(format!("{field}.device.source"), problem)
        }
        MountSource::Bind { source, .. } => {
            host_path(&format!("{field}.bind.source"), verb, source, dirs)
        }
        MountSource::Overlay { lowers, upper } => {
            for (index, lower) in lowers.iter().enumerate() {
                host_path(&format!("{field}.overlay.lowers[{index}]"), verb, lower, dirs)?;
            }
            let Some((upper, work)) = upper else { return Ok(()) };
            host_path(&format!("{field}.overlay.upper"), verb, upper, dirs)?;
            host_path(&format!("{field}.overlay.work"), verb, work, dirs)
        }
    }
}

/// Checks a mount that was made in a living container: by the facts that were stored with it.
pub fn made(made: &Shown, grants: &Grants) -> Result {
    let at = |what: &str| {
        let problem = format!("has {what} mounted on {}, since it was started", made.mount.target);
        beyond("mounts", problem)
    };
    let Some(facts) = &made.facts else { return at("something of which nothing is known") };
    match facts.kernel {
        Some(false) => {}
        Some(true) => return at("what the kernel shows of itself"),
        None => return at("something of which not all is known"),
    }
    target("mounts.target", &made.mount.target)?;
    propagation("mounts", &made.mount)?;
    let dirs = &grants.bounds.mounts;
    let all_within =
        |paths: &[std::path::PathBuf]| paths.iter().all(|path| within(dirs, path).is_some());
    match &made.mount.source {
        MountSource::Tmpfs { .. } => return Ok(()),
        MountSource::Device { .. } => return at("a device or an image"),
        // What its maker could have entered with fewer grants, or the same.
        MountSource::Bind { .. } if made.of_container => {
            return match &facts.granted {
                Some(granted) if all_within(granted) => Ok(()),
                _ => at("a part of another container"),
            };
        }
        MountSource::Bind { .. } | MountSource::Overlay { .. } => {}
    }
    let all_known = facts.sources.len() == made.mount.source.paths().len();
    match all_known && all_within(&facts.sources) {
        true => Ok(()),
        false => at("a part of the host"),
    }
}

/// Checks a command.
pub fn process(field: &str, process: &Process, grants: &Grants) -> Result {
    confinement(field, process.confinement, process.oom_score_adj, grants)
}

/// Checks how a command is confined.
pub fn confinement(
    field: &str,
    confinement: Confinement,
    oom_score_adj: Option<i32>,
    grants: &Grants,
) -> Result {
    let Confinement { capabilities, seccomp, privileged, no_new_privs: _ } = confinement;
    let at = |name: &str| format!("{field}.confinement.{name}");
    if privileged {
        beyond(at("privileged"), "lifts all confinement")?;
    }
    if !seccomp {
        beyond(at("seccomp"), "lifts the system call filter")?;
    }
    let more = capabilities & !(Confinement::DEFAULT_CAPABILITIES | grants.capabilities);
    if more != 0 {
        let problem = format!("adds {}", capability::names(more).join(", "));
        without("capabilities", at("cap_add"), problem)?;
    }
    if oom_score_adj.is_some_and(|adj| adj < 0) {
        beyond(
            format!("{field}.oom_score_adj"),
            "protects it at the cost of the host's processes",
        )?;
    }
    Ok(())
}

/// `grant` and `verb`: what would allow it, and what it does with the path.
fn host_path(
    field: &str,
    (grant, verb): (&'static str, &str),
    path: &Path,
    dirs: &[std::path::PathBuf],
) -> Result {
    match within(dirs, path) {
        Some(_) => Ok(()),
        None => without(grant, field, format!("{verb} {} of the host", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use conti_runtime::plan::IdMap;

    use crate::engine::{id_ranges::Pool, scope::Bounds, spec::Device};

    fn grants() -> Grants {
        let bounds = Bounds { mounts: vec!["/srv".into()], rootfs: vec!["/roots".into()] };
        let devices = vec!["/dev/fuse".into()];
        Grants { bounds, capabilities: 1 << 12, devices, host_user_namespace: false }
    }

    fn field_of(change: impl FnOnce(&mut ContainerSpec)) -> Option<String> {
        let mut spec = ContainerSpec::unknown();
        change(&mut spec);
        let auto = userns::Default::Auto;
        let userns = Userns { wanted: auto, default: auto, problem: None, pool: Pool::default() };
        container(&spec, &grants(), &userns).err().map(|beyond| beyond.field)
    }

    fn bind(source: &str, propagation: Propagation) -> Mount {
        let source = MountSource::Bind {
            source: source.into(),
            recursive: true,
            recursive_read_only: false,
            propagation,
        };
        Mount { target: "/m".into(), source, read_only: true }
    }

    #[test]
    fn a_container_with_defaults_and_what_was_granted_may_be_made() {
        let allowed = field_of(|spec| {
            spec.rootfs = Rootfs::Dir { path: "/roots/a".into(), overlay: false };
            spec.mounts.push(bind("/srv/a", Propagation::Private));
            spec.process.confinement.capabilities |= 1 << 12;
            spec.process.oom_score_adj = Some(10);
            spec.devices.push(Device {
                path: "/dev/fuse".into(),
                path_in_container: "/dev/fuse".into(),
                read: true,
                write: true,
                mknod: true,
            });
        });
        assert_eq!(allowed, None);
    }

    #[test]
    fn every_way_to_the_host_is_named() {
        let of = |field: &str, change: &dyn Fn(&mut ContainerSpec)| {
            assert_eq!(field_of(change).as_deref(), Some(field));
        };
        of("rootfs.dir.path", &|s| s.rootfs = Rootfs::Dir { path: "/".into(), overlay: true });
        of("namespaces.pid", &|s| s.namespaces.pid = Namespace::Host);
        of("namespaces.uts", &|s| s.namespaces.uts = Namespace::Host);
        of("namespaces.ipc", &|s| s.namespaces.ipc = Namespace::Host);
        of("namespaces.net", &|s| s.namespaces.net = Namespace::Host);
        of("namespaces.cgroup", &|s| s.namespaces.cgroup = Namespace::Host);
        of("namespaces.user", &|s| s.namespaces.user = Namespace::Host);
        of("namespaces.uid_mappings", &|s| {
            s.namespaces.user = Namespace::Private;
            s.namespaces.uid_maps = vec![IdMap { inside: 0, outside: 0, count: 65_536 }];
            s.namespaces.gid_maps.clone_from(&s.namespaces.uid_maps);
        });
        of("mounts[0].bind.source", &|s| s.mounts.push(bind("/etc", Propagation::Private)));
        of("mounts[0].bind.source", &|s| s.mounts.push(bind("/srvx", Propagation::Private)));
        of("mounts[0].bind.propagation", &|s| s.mounts.push(bind("/srv", Propagation::Shared)));
        of("mounts[0].device.source", &|s| {
            let source = PathBuf::from("/srv/image");
            let source = MountSource::Device { source, fs_type: "ext4".into(), options: vec![] };
            s.mounts.push(Mount { target: "/m".into(), source, read_only: true });
        });
        for (lower, upper, field) in [
            ("/etc", "/srv/u", "mounts[0].overlay.lowers[0]"),
            ("/srv/l", "/etc", "mounts[0].overlay.upper"),
        ] {
            of(field, &|s| {
                let upper = Some((upper.into(), "/srv/w".into()));
                let source = MountSource::Overlay { lowers: vec![lower.into()], upper };
                s.mounts.push(Mount { target: "/m".into(), source, read_only: false });
            });
        }
        for target in ["/", "/proc", "/proc/sys", "/sys/fs/cgroup", "/dev/shm"] {
            of("mounts[0].target", &|s| {
                let mount = bind("/srv", Propagation::Private);
                s.mounts.push(Mount { target: target.into(), ..mount });
            });
        }
        of("devices[0].path", &|s| {
            s.devices.push(Device {
                path: "/dev/mem".into(),
                path_in_container: "/dev/mem".into(),
                read: true,
                write: false,
                mknod: false,
            });
        });
        let confinement = |change: &dyn Fn(&mut Confinement), field: &str| {
            of(field, &|s| change(&mut s.process.confinement));
        };
        confinement(&|c| c.privileged = true, "process.confinement.privileged");
        confinement(&|c| c.seccomp = false, "process.confinement.seccomp");
        confinement(&|c| c.capabilities |= 1 << 21, "process.confinement.cap_add");
        of("process.oom_score_adj", &|s| s.process.oom_score_adj = Some(-1));
    }
}
