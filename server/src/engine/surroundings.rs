//! What a session can reach beside what its own confinement lets it: facts by which it is decided who might have
//! started it, and so may read what it wrote. They are kept with the session and with its recording, which
//! outlive the container.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use conti_runtime::{inspect::held_namespaces::HeldNamespaces, plan::NsType};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::warn;

use super::{
    Engine,
    container::{Container, PidNamespace},
    error::{Error, Result},
    holdings::size,
    mounts::made::Shown,
    opened::Opened,
    process,
    session::{Session, store::Record},
    spec::{ContainerSpec, Namespace},
};

/// How many containers are followed that have joined the namespaces of one another.
const JOINED_MAX: usize = 64;

/// A container, and all whose namespaces it has joined, as far as the rules for those who make containers ask.
/// `None`: not all of it is known, or an admin alone may have it.
pub type Surroundings = Option<Vec<Reached>>;

/// A container as it is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// What it was made from.
    #[serde(flatten)]
    pub spec: ContainerSpec,
    /// Where on the host that lay. `None`: it is not known.
    #[serde(default)]
    pub opened: Option<Opened>,
    /// What was mounted into it since. An older agent had that among the mounts of `spec`.
    #[serde(default)]
    pub made: Vec<Shown>,
}

impl ContainerSpec {
    /// What of it decides who might have made it, without what may hold secrets.
    fn facts(&self) -> ContainerSpec {
        let mut facts = ContainerSpec {
            rootfs: self.rootfs.clone(),
            namespaces: self.namespaces.clone(),
            mounts: self.mounts.clone(),
            devices: self.devices.clone(),
            bounds: self.bounds.clone(),
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
            Namespace::Container(id) => Some(id),
            Namespace::Unspecified | Namespace::Private | Namespace::Host => None,
        })
    }
}

impl Engine {
    /// The pid namespace that a container is in, or would be if it were started now.
    fn pid_namespace_of(&self, container: &Container) -> PidNamespace {
        let now = container.now().pid_namespace.clone();
        match (&now, &container.spec.namespaces.pid) {
            (PidNamespace::None, Namespace::Container(id)) => {
                let other = self.registry.container(id);
                other.map_or(PidNamespace::None, |other| other.now().pid_namespace.clone())
            }
            _ => now,
        }
    }

    /// The containers whose processes a container sees in its pid namespace, and that run: /proc/PID/root leads into
    /// each of them, whichever of them has joined the other, and also if those in between are gone. One of which that
    /// is not known may be in any.
    pub fn in_pid_namespace_of(&self, container: &Container) -> Vec<Arc<Container>> {
        let own = self.pid_namespace_of(container);
        let is_beside = |one: &Arc<Container>| {
            let other = one.now().pid_namespace.clone();
            let nowhere = [&own, &other].contains(&&PidNamespace::None);
            let anywhere = [&own, &other].contains(&&PidNamespace::Unknown);
            one.id != container.id && !nowhere && (anywhere || own == other)
        };
        self.registry.containers().into_iter().filter(is_beside).collect()
    }

    /// The container whose processes see those of a pid namespace.
    pub(super) fn container_that_sees(&self, held: &HeldNamespaces) -> Option<String> {
        if held.is_own(NsType::Pid) {
            return None;
        }
        let mut all = self.registry.containers().into_iter();
        let sees = |one: &Arc<Container>| {
            let of = one.process().and_then(|main| process::pid_namespace(main.pid));
            of.is_some_and(|of| held.sees_pid_namespace(|inode| inode == of))
        };
        all.find(sees).map(|one| one.id.clone())
    }

    /// Those of what is started in a container now.
    pub fn surroundings(&self, container: &Container) -> Surroundings {
        let beside = self.in_pid_namespace_of(container);
        let mut all = self.brought_by(container, &beside);
        beside.iter().for_each(|other| add(&mut all, &self.shown_in(other)));
        all
    }

    /// What a container brings to those in its pid namespace: what it has, and what those have that it has joined
    /// elsewhere.
    fn brought_by(&self, container: &Container, beside: &[Arc<Container>]) -> Surroundings {
        let mut all = self.shown_in(container);
        let mut seen = HashSet::from([container.id.clone()]);
        let mut joined: VecDeque<String> = container.spec.joins().cloned().collect();
        while let Some(id) = joined.pop_front() {
            let other = self.registry.container(&id).ok()?;
            if !seen.insert(other.id.clone()) {
                continue;
            }
            if seen.len() > JOINED_MAX {
                return None;
            }
            joined.extend(other.spec.joins().cloned());
            if !beside.iter().any(|one| one.id == other.id) {
                add(&mut all, &self.shown_in(&other));
            }
        }
        all
    }

    /// What has been shown to what runs in a container, since that began. A mount that is gone may be in use in there
    /// still, as a working directory or in the mount namespace of a session with tools, and a container that has left
    /// the pid namespace may have left it open files: both count until all of it has ended.
    fn shown_in(&self, container: &Container) -> Surroundings {
        let (opened, main) = {
            let now = container.now();
            (now.quarantined.is_none().then(|| now.opened.clone())?, now.session.clone())
        };
        if !self.mounts_are_known_in(&container.id) {
            return None;
        }
        let made = self.mounts_made_in(&container.id).iter().map(|made| made.shown()).collect();
        let now = Reached { spec: container.spec.facts(), opened, made };
        match main.filter(|main| !main.ended()) {
            Some(main) => {
                let mut all = main.surroundings();
                add(&mut all, &Some(vec![now]));
                all
            }
            None => Some(vec![now]),
        }
    }

    /// All that can be seen in a container: also what is behind the mounts from others, each of which is listed then.
    pub(super) fn all_behind(&self, container: &Container) -> Surroundings {
        let mut all = self.surroundings(container);
        let mut behind = Vec::new();
        for made in all.iter_mut().flatten().flat_map(|reached| &mut reached.made) {
            if made.of_container {
                let facts = made.facts.as_mut()?;
                behind.push(facts.from.replace(Vec::new()));
            }
        }
        behind.iter().for_each(|others| add(&mut all, others));
        all
    }

    /// Notes that a container begins to run in the pid namespace of others: what runs there may read what it has, and
    /// show it to those who read its output.
    ///
    /// # Errors
    ///
    /// There is no room for it with one of the sessions that run there, which nobody but admins could read then.
    pub(super) fn note_neighbour(&self, container: &Container) -> Result<()> {
        let beside = self.in_pid_namespace_of(container);
        if beside.is_empty() {
            return Ok(());
        }
        let reached = self.brought_by(container, &beside);
        let bytes = size(&reached);
        let mut more: HashMap<Option<String>, usize> = HashMap::new();
        let mut is_too_much = |session: &Arc<Session>| {
            let (before, mut now) = (session.surroundings(), session.surroundings());
            add(&mut now, &reached);
            if session.ended() || before == now {
                return false;
            }
            *more.entry(session.record.maker.clone()).or_default() += bytes;
            reached.is_some() && now.is_none()
        };
        for other in &beside {
            let sessions = self.registry.sessions_and_opening(&other.id);
            if sessions.iter().any(&mut is_too_much) {
                // Whose session that is, the caller need not see.
                return Err(Error::Exhausted {
                    what: format!(
                        "{JOINED_MAX} different containers have been in the pid namespace that container {} joins \
                         since a session in there began; join another one, or start the containers in there again",
                        container.spec.name
                    ),
                    errno: libc::EAGAIN,
                });
            }
        }
        // What it is made of is kept with each of them.
        more.iter().try_for_each(|(of, bytes)| self.holdings.check(of.as_deref(), *bytes))?;
        beside.iter().for_each(|other| self.note_in(&other.id, |of| add(of, &reached)));
        Ok(())
    }

    /// Notes that something is mounted into a container that lives: what runs there, or in a container that reaches
    /// it, may read it from now on, and show it to those who read its output. Not `there`: that it could not
    /// be mounted.
    pub(super) fn note_mount(&self, container: &str, shown: &Shown, there: bool) {
        let all = self.registry.containers();
        let reaching = all.iter().filter(|one| one.id != container && self.reaches(one, container));
        // Its own sessions also where it has gone meanwhile.
        for id in reaching.map(|one| one.id.as_str()).chain([container]) {
            self.note_in(id, |of| note_mount(of, shown, there));
        }
    }

    /// Notes something with the sessions that run in a container, and with their recordings.
    fn note_in(&self, container: &str, change: impl Fn(&mut Surroundings)) {
        let all = self.registry.sessions_and_opening(container);
        // One that has ended has read nothing of it.
        for session in all.into_iter().filter(|session| !session.ended()) {
            let mut reached = session.reached();
            change(&mut reached);
            if let Err(error) = self.write_surroundings(&session, &reached) {
                warn!(session = session.id, %error, "what a session reaches cannot be written");
            }
        }
    }

    fn write_surroundings(&self, session: &Session, now: &Surroundings) -> std::io::Result<()> {
        session.surroundings_changes.send_replace(());
        session.write_record(now)?;
        match session.recorded() {
            Some(_) => self.recordings().set_surroundings(&session.id, now.clone()),
            None => Ok(()),
        }
    }

    /// How many sessions of each identity a mount in a container is kept with.
    pub(super) fn sessions_reaching(&self, container: &str) -> HashMap<Option<String>, usize> {
        let all = self.registry.containers();
        let reaching = all.iter().filter(|one| self.reaches(one, container));
        let mut counts = HashMap::new();
        for session in reaching.flat_map(|one| self.registry.sessions_and_opening(&one.id)) {
            *counts.entry(session.record.maker.clone()).or_default() += 1;
        }
        counts
    }

    /// Whether a container is another one, or is in its pid namespace, or has joined it, by whatever containers are in
    /// between.
    pub(super) fn reaches(&self, container: &Container, other: &str) -> bool {
        if self.in_pid_namespace_of(container).iter().any(|one| one.id == other) {
            return true;
        }
        let mut seen = HashSet::from([container.id.clone()]);
        let mut left: Vec<String> = container.spec.joins().cloned().collect();
        let known = |container: &Container| container.now().quarantined.is_none();
        if !known(container) {
            return true;
        }
        while let Some(id) = left.pop() {
            // What is not known may lead there.
            let Ok(joined) = self.registry.container(&id) else { return true };
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
        let container = self.registry.container(&container.id).ok();
        let container = container.filter(|_| !session.record.host_tools);
        // Not while its own are held: those of others are asked for.
        let now = || container.as_ref().and_then(|container| self.surroundings(container));
        session.reached().get_or_insert_default();
        // What was mounted before is found, and what is mounted from here on is noted with it.
        let found = now();
        let mut reached = session.reached();
        add(&mut reached, &found);
        match *reached == session.record.surroundings {
            true => Ok(()),
            false => self.write_surroundings(session, &reached),
        }
    }
}

impl Session {
    /// What it can reach.
    pub fn surroundings(&self) -> Surroundings {
        self.reached().clone()
    }

    /// Tells whenever what it can reach has changed, before anything in there can show that.
    pub fn surroundings_changes(&self) -> watch::Receiver<()> {
        self.surroundings_changes.subscribe()
    }

    /// Writes its record with what has changed since it was opened.
    pub(super) fn write_record(&self, surroundings: &Surroundings) -> std::io::Result<()> {
        let surroundings = surroundings.clone();
        let mut record = Record { surroundings, ..self.record.clone() };
        record.io.policy.record = self.recorded();
        if let Some(holding) = self.holding.get() {
            holding.set(size(&record));
        }
        record.write(&self.dir)
    }
}

impl Reached {
    /// Whether who may have this may have the other.
    fn covers(&self, other: &Reached) -> bool {
        let Reached { spec, opened, made } = other;
        (spec, opened) == (&self.spec, &self.opened)
            && made.iter().all(|one| self.made.iter().any(|own| own.is_like(one)))
    }
}

/// Adds others to some surroundings, once each. Where there is no room for all, or not all is known, nothing is.
fn add(surroundings: &mut Surroundings, others: &Surroundings) {
    let (Some(all), Some(others)) = (surroundings.as_mut(), others) else {
        *surroundings = None;
        return;
    };
    for other in others {
        if !all.iter().any(|one| one.covers(other)) {
            all.push(other.clone());
        }
    }
    if all.len() > JOINED_MAX {
        *surroundings = None;
    }
}

/// Notes a mount in some surroundings, in the place of what was known of it before: with the first container, and once
/// for all that show the same.
fn note_mount(surroundings: &mut Surroundings, shown: &Shown, there: bool) {
    let Some(all) = surroundings else { return };
    all.iter_mut().for_each(|reached| reached.made.retain(|one| one.id != shown.id));
    if let Some(first) = all.first_mut()
        && there
        && !first.made.iter().any(|one| one.is_like(shown))
    {
        first.made.push(shown.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::engine::{mounts::made::Facts, spec::Mount, spec::MountSource};

    fn shown(id: &str, kernel: Option<bool>) -> Shown {
        let source = MountSource::Tmpfs { size_bytes: 0, mode: 0o755 };
        let mount = Mount { target: "/mnt".into(), source, read_only: false };
        let facts = Some(Facts { granted: None, sources: Vec::new(), kernel, from: None });
        Shown { id: id.to_owned(), mount, of_container: false, facts }
    }

    fn made(surroundings: &Surroundings) -> Vec<Vec<&str>> {
        let all = surroundings.as_ref().expect("known").iter();
        all.map(|one| one.made.iter().map(|made| made.id.as_str()).collect()).collect()
    }

    #[test]
    fn a_mount_is_noted_once_by_what_is_known_of_it_last() {
        let reached = |made| Reached { spec: ContainerSpec::unknown(), opened: None, made };
        // The second one was joined, and begun while the mount was being made.
        let mut all = Some(vec![reached(Vec::new()), reached(vec![shown("1", None)])]);
        note_mount(&mut all, &shown("1", Some(false)), true);
        assert_eq!(made(&all), [vec!["1"], vec![]]);
        note_mount(&mut all, &shown("2", None), true);
        assert_eq!(made(&all), [vec!["1", "2"], vec![]]);
        note_mount(&mut all, &shown("2", Some(false)), true);
        assert_eq!(made(&all), [vec!["1"], vec![]], "it shows what the first one does");
        note_mount(&mut all, &shown("3", None), true);
        note_mount(&mut all, &shown("3", None), false);
        assert_eq!(made(&all), [vec!["1"], vec![]], "it was never there");
        let mut unknown = None;
        note_mount(&mut unknown, &shown("1", Some(false)), true);
        assert_eq!(unknown, None);
    }
}
