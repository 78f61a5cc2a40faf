//! What a session can reach beside what its own confinement lets it: facts by which it is decided who might have
//! started it, and so may read what it wrote. They are kept with the session and with its recording, which
//! outlive the container.

use std::collections::VecDeque;

use tracing::warn;

use super::{
    Engine,
    container::Container,
    session::Session,
    spec::{ContainerSpec, Mount, Namespace},
};

/// How many containers are followed that have joined the namespaces of one another.
const JOINED_MAX: usize = 64;

/// A container, and all whose namespaces it has joined, as far as the rules for those who make containers ask.
/// What was mounted since is among the mounts. `None`: not all of it is known.
pub type Surroundings = Option<Vec<ContainerSpec>>;

impl ContainerSpec {
    /// What of it decides who might have made it, without what may hold secrets.
    fn facts(&self) -> ContainerSpec {
        let mut facts = ContainerSpec {
            rootfs: self.rootfs.clone(),
            namespaces: self.namespaces.clone(),
            mounts: self.mounts.clone(),
            devices: self.devices.clone(),
            ..ContainerSpec::unknown()
        };
        facts.process.confinement = self.process.confinement;
        facts.process.oom_score_adj = self.process.oom_score_adj;
        facts
    }

    /// The containers whose namespaces it joins.
    pub fn joins(&self) -> impl Iterator<Item = &String> {
        let namespaces = &self.namespaces;
        let all = [
            &namespaces.pid,
            &namespaces.uts,
            &namespaces.ipc,
            &namespaces.net,
            &namespaces.cgroup,
            &namespaces.user,
            &namespaces.time,
        ];
        all.into_iter().filter_map(|namespace| match namespace {
            Namespace::Container(key) => Some(key),
            Namespace::Unspecified | Namespace::Private | Namespace::Host => None,
        })
    }
}

impl Engine {
    /// Those of what is started in a container now.
    pub(super) fn surroundings(&self, container: &Container) -> Surroundings {
        let facts = |container: &Container| {
            let known = container.now().quarantined.is_none();
            let mut facts = container.spec.facts();
            let made = self.mounts_made_in(&container.id);
            facts.mounts.extend(made.iter().map(|made| made.mount.clone()));
            known.then_some(facts)
        };
        let mut all = vec![facts(container)?];
        let mut joined: VecDeque<String> = container.spec.joins().cloned().collect();
        while let Some(key) = joined.pop_front() {
            if all.len() > JOINED_MAX {
                return None;
            }
            let other = self.registry.container(&key).ok()?;
            joined.extend(other.spec.joins().cloned());
            all.push(facts(&other)?);
        }
        Some(all)
    }

    /// Notes that something is mounted into a container that lives: what runs there may read it from now on, and
    /// show it to those who read its output.
    pub(super) fn note_mount(&self, container: &str, mount: &Mount) {
        for session in self.registry.sessions(Some(container)) {
            if let Err(error) = session.add_mount(mount) {
                warn!(session = session.id, %error, "cannot note a mount in a session's record");
            }
        }
        if let Err(error) = self.recordings().add_mount(container, mount) {
            warn!(container, %error, "cannot note a mount in the container's recordings");
        }
    }
}

impl Session {
    /// What it can reach.
    pub fn surroundings(&self) -> Surroundings {
        self.reached().clone()
    }

    fn add_mount(&self, mount: &Mount) -> std::io::Result<()> {
        let mut reached = self.reached();
        add_mount(&mut reached, mount);
        super::session::store::Record { surroundings: reached.clone(), ..self.record.clone() }
            .write(&self.dir)
    }
}

/// Adds a mount to the first container of some surroundings.
pub(super) fn add_mount(surroundings: &mut Surroundings, mount: &Mount) {
    if let Some(first) = surroundings.as_mut().and_then(|all| all.first_mut())
        && !first.mounts.contains(mount)
    {
        first.mounts.push(mount.clone());
    }
}
