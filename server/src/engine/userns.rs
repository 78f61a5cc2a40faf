//! Whose user namespace containers get: decided once for each host.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use conti_runtime::{sys::mount, user_namespace::UserNamespace};
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};

use super::{
    Engine,
    error::{Error, Result},
    id_ranges::{IdRange, IdRanges, Pool},
    spec::{ContainerSpec, Ids, Namespace, Namespaces},
};

/// What containers get whose maker says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Default {
    /// Each its own, if the host can do that.
    Auto,
    /// That of the host.
    Host,
}

/// What was decided at the start.
#[derive(Debug, Clone)]
pub struct Userns {
    /// What the agent was told to give.
    pub wanted: Default,
    /// What containers get whose maker says nothing.
    pub default: Default,
    /// Why the host cannot give each its own. `None`: it can.
    pub problem: Option<String>,
    /// The ids that containers get.
    pub pool: Pool,
}

impl Userns {
    /// Tries what a container in a user namespace needs: the namespace, and the id map of it on the filesystems
    /// of its layers and of the host's programs.
    pub fn probe(
        wanted: Default,
        image: BorrowedFd<'_>,
        ranges: &std::sync::Arc<IdRanges>,
        dirs: &[PathBuf],
    ) -> Userns {
        let tried = || -> std::result::Result<(), String> {
            // There is nothing to try it on before there is a container: the layer would have to be attached.
            let release = rustix::system::uname();
            if is_older(&release.release().to_string_lossy(), (5, 19)) {
                return Err("overlayfs takes no layers with an id map (Linux 5.19)".to_owned());
            }
            let (_range, map) = ranges.take(None, false).map_err(|error| error.to_string())?;
            let namespace = UserNamespace::new(image, map)
                .map_err(|error| format!("no user namespace can be made: {error}"))?;
            for dir in dirs {
                lay_map(dir, namespace.fd.as_fd()).map_err(|errno| {
                    format!("the filesystem of {} takes no id map: {errno}", dir.display())
                })?;
            }
            Ok(())
        };
        let problem = tried().err();
        let default = if problem.is_some() { Default::Host } else { wanted };
        Userns { wanted, default, problem, pool: ranges.pool() }
    }
}

impl Userns {
    /// Whether the agent gave a container its ids. A record of an older agent does not say: there they are, if they
    /// might be by the pool of now.
    pub fn gave(&self, namespaces: &Namespaces) -> bool {
        match namespaces.ids {
            Ids::Given => true,
            Ids::Chosen => false,
            Ids::Unknown => {
                namespaces.uid_maps == namespaces.gid_maps && self.pool.has(&namespaces.uid_maps)
            }
        }
    }
}

/// Whether a kernel of this release, e.g. `6.1.0-18-amd64`, is older than a version. One that does not say is new.
fn is_older(release: &str, than: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < than,
        _ => false,
    }
}

/// Lays an id map on a copy of a directory's mount.
fn lay_map(dir: &Path, namespace: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    let at = open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    mount::set_id_map(open_tree(&at, c"", flags)?.as_fd(), namespace)
}

impl Engine {
    /// What user namespaces containers get.
    pub fn userns(&self) -> &Userns {
        &self.userns
    }

    /// Decides about the user namespace of a container whose maker did not: a privileged one has the host's, one
    /// that joins namespaces joins the user namespace that they belong to, and all others have what the
    /// agent gives by default.
    pub fn choose_user_namespace(&self, spec: &mut ContainerSpec) {
        match &spec.namespaces.user {
            Namespace::Unspecified => spec.namespaces.user = self.user_namespace_for(spec),
            Namespace::Container(id) => {
                // One that has the host's has nothing to be joined.
                let other = self.registry.container(id);
                if other.is_ok_and(|other| other.spec.namespaces.user == Namespace::Host) {
                    spec.namespaces.user = Namespace::Host;
                }
            }
            Namespace::Private | Namespace::Host => {}
        }
    }

    /// Gives a container with a user namespace of its own its ids, where its maker chose none.
    pub(super) fn take_ids(&self, spec: &mut ContainerSpec) -> Result<Option<IdRange>> {
        let namespaces = &mut spec.namespaces;
        if let Namespace::Container(id) = &namespaces.user {
            let other = self.registry.container(id)?;
            namespaces.uid_maps.clone_from(&other.spec.namespaces.uid_maps);
            namespaces.gid_maps.clone_from(&other.spec.namespaces.gid_maps);
            namespaces.ids = other.spec.namespaces.ids;
            // It may outlive the other one, and so may the ids.
            return Ok(self.id_ranges.claim(spec));
        }
        if namespaces.user != Namespace::Private {
            return Ok(None);
        }
        // What shows them (proc, mqueue, cgroup2) belongs to the user namespace that owns them.
        let of_host =
            [("pid", &namespaces.pid), ("ipc", &namespaces.ipc), ("cgroup", &namespaces.cgroup)];
        let of_host = of_host.into_iter().find(|(_, namespace)| **namespace == Namespace::Host);
        match of_host.map(|(name, _)| name) {
            None if !namespaces.uid_maps.is_empty() => {
                namespaces.ids = Ids::Chosen;
                self.id_ranges.choose(spec).map(Some)
            }
            None => {
                // Whoever is no admin is bound to directories, and shares.
                let sharing = spec.bounds.is_some();
                let (range, map) = self.id_ranges.take(spec.maker.as_deref(), sharing)?;
                spec.namespaces.uid_maps = vec![map];
                spec.namespaces.gid_maps = vec![map];
                spec.namespaces.ids = Ids::Given;
                Ok(Some(range))
            }
            Some(name) => Err(Error::Invalid {
                field: format!("spec.namespaces.{name}"),
                problem: "is the host's, which a container with a user namespace of its own cannot have; \
                          give it the host's user namespace as well (--userns host)"
                    .to_owned(),
            }),
        }
    }

    fn user_namespace_for(&self, spec: &ContainerSpec) -> Namespace {
        if spec.process.confinement.privileged {
            return Namespace::Host;
        }
        let wanted = &spec.namespaces;
        let all =
            [&wanted.pid, &wanted.net, &wanted.ipc, &wanted.uts, &wanted.cgroup, &wanted.time];
        let joined = all.into_iter().find_map(|namespace| match namespace {
            Namespace::Container(id) => self.registry.container(id).ok(),
            _ => None,
        });
        match joined {
            Some(other) => match other.spec.namespaces.user {
                Namespace::Host | Namespace::Unspecified => Namespace::Host,
                Namespace::Private | Namespace::Container(_) => {
                    Namespace::Container(other.id.clone())
                }
            },
            None => match self.userns.default {
                Default::Auto => Namespace::Private,
                Default::Host => Namespace::Host,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for older in ["5.18.0", "5.4.0-150-generic", "4.19", "5.9-rc1"] {
            assert!(is_older(older, (5, 19)), "{older}");
        }
        for newer in ["5.19.0", "6.1.0-18-amd64", "10.0", "", "x", "6"] {
            assert!(!is_older(newer, (5, 19)), "{newer}");
        }
    }
}
