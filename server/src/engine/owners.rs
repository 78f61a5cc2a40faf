//! Which user namespace the namespaces of a container belong to. What shows some of them can only be mounted in that
//! one: proc, mqueue, sysfs, cgroup2.

use super::{
    Engine,
    error::{Error, Result},
    facts::CgroupVersion,
    id,
    spec::{ContainerSpec, Namespace, Namespaces},
};

/// How many containers are followed that have joined the namespaces of one another.
const JOINED_MAX: usize = 64;

/// A user namespace.
#[derive(Debug, PartialEq, Eq)]
enum User {
    Host,
    /// The one that was made for the container with this id.
    Of(String),
}

impl Engine {
    /// Refuses a container whose namespaces cannot be shown in its user namespace, since they belong to others.
    pub(super) fn check_owners(&self, spec: &ContainerSpec) -> Result<()> {
        let namespaces = &spec.namespaces;
        let own = match &namespaces.user {
            // Root of the host has all rights over all of them.
            Namespace::Host | Namespace::Unspecified => return Ok(()),
            Namespace::Private => None,
            Namespace::Container(key) => match self.user_of(key, |of| &of.user) {
                Some(User::Host) | None => return Ok(()),
                own => own,
            },
        };
        let joins_user = own.is_some();
        let with_cgroup2 = self.cgroups.version() == CgroupVersion::V2;
        for (name, namespace, of, is_shown) in [
            // A new user namespace is given a proc that was made for it, and no sysfs.
            ("pid", &namespaces.pid, (|of| &of.pid) as fn(&Namespaces) -> &Namespace, joins_user),
            ("net", &namespaces.net, |of| &of.net, joins_user),
            ("ipc", &namespaces.ipc, |of| &of.ipc, true),
            ("cgroup", &namespaces.cgroup, |of| &of.cgroup, with_cgroup2),
        ] {
            let (Namespace::Container(key), true) = (namespace, is_shown) else { continue };
            let owner = self.user_of(key, of);
            if owner.is_none() || owner == own {
                continue;
            }
            // The first characters of an id will do.
            let key = if id::is_one(key) { &key[..12] } else { key };
            return Err(Error::Invalid {
                field: format!("spec.namespaces.{name}"),
                problem: format!(
                    "is one that belongs to another user namespace than the container is to have, where \
                     it cannot be shown; give it that one (--userns container:{key})"
                ),
            });
        }
        Ok(())
    }

    /// The user namespace that a namespace of a container belongs to, or that itself. `None`: it is not known.
    fn user_of(&self, key: &str, which: fn(&Namespaces) -> &Namespace) -> Option<User> {
        let mut which = which;
        let mut key = key.to_owned();
        for _ in 0..JOINED_MAX {
            let container = self.registry.container(&key).ok()?;
            let namespaces = &container.spec.namespaces;
            match which(namespaces) {
                Namespace::Container(other) => key.clone_from(other),
                Namespace::Host | Namespace::Unspecified => return Some(User::Host),
                // Made by it, in its user namespace, which it may have joined.
                Namespace::Private => match namespaces.user {
                    Namespace::Private => return Some(User::Of(container.id.clone())),
                    Namespace::Host | Namespace::Unspecified => return Some(User::Host),
                    Namespace::Container(_) => which = |of| &of.user,
                },
            }
        }
        None
    }
}
