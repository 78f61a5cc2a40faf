//! What a session can reach beside what its own confinement lets it: facts by which it is decided who might have
//! started it, and so may read what it wrote. They are kept with the session and with its recording, which
//! outlive the container.

use std::collections::{HashSet, VecDeque};

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
            let known =
                container.now().quarantined.is_none() && self.mounts_are_known_in(&container.id);
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

    /// Notes that something is mounted into a container that lives: what runs there, or in a container that has
    /// joined it, may read it from now on, and show it to those who read its output.
    pub(super) fn note_mount(&self, container: &str, mount: &Mount) {
        let all = self.registry.containers();
        let reaching = all.iter().filter(|one| self.reaches(one, container));
        for id in reaching.map(|one| one.id.as_str()) {
            for session in self.registry.sessions_and_opening(id) {
                if let Err(error) = session.add_mount(mount) {
                    warn!(session = session.id, %error, "cannot note a mount in a session's record");
                }
            }
            if let Err(error) = self.recordings().add_mount(id, mount) {
                warn!(container = id, %error, "cannot note a mount in the container's recordings");
            }
        }
    }

    /// Whether a container is another one, or has joined it, by whatever containers are in between.
    fn reaches(&self, container: &Container, other: &str) -> bool {
        let mut seen = HashSet::from([container.id.clone()]);
        let mut left: Vec<String> = container.spec.joins().cloned().collect();
        let known = |container: &Container| container.now().quarantined.is_none();
        if !known(container) {
            return true;
        }
        while let Some(key) = left.pop() {
            // What is not known may lead there.
            let Ok(joined) = self.registry.container(&key) else { return true };
            if seen.len() > JOINED_MAX || !known(&joined) {
                return true;
            }
            if seen.insert(joined.id.clone()) {
                left.extend(joined.spec.joins().cloned());
            }
        }
        seen.contains(other)
    }

    /// Looks again at what a session can reach that is about to run: something may have been mounted since.
    pub(super) fn catch_up(&self, session: &Session) -> std::io::Result<()> {
        let Some(container) = &session.record.container else { return Ok(()) };
        // Held meanwhile: what is mounted from now on is noted behind it.
        let mut reached = session.reached();
        let container = self.registry.container(&container.id).ok();
        let now = container.and_then(|container| self.surroundings(&container));
        if *reached == now {
            return Ok(());
        }
        reached.clone_from(&now);
        session.write_record(&now)?;
        match session.record.io.policy.record {
            Some(_) => self.recordings().set_surroundings(&session.id, now),
            None => Ok(()),
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
        self.write_record(&reached)
    }

    fn write_record(&self, surroundings: &Surroundings) -> std::io::Result<()> {
        let surroundings = surroundings.clone();
        super::session::store::Record { surroundings, ..self.record.clone() }.write(&self.dir)
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
