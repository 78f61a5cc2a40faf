//! What a session can reach beside what its own confinement lets it: facts by which it is decided who might have
//! started it, and so may read what it wrote. They are kept with the session and with its recording, which
//! outlive the container.

use std::{io, sync::Arc};

use conti_runtime::{inspect::held_namespaces::HeldNamespaces, plan::NsType};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Engine,
    container::{Container, PidNamespace},
    error::{Error, Result},
    holdings::size,
    io_error,
    mounts::made::Shown,
    opened::Opened,
    process,
    session::{Session, store::Record},
    spec::{ContainerSpec, Namespace},
};

/// Up to how many different containers others bring what a session reaches.
const NEIGHBOURS_MAX: usize = 64;
/// With how many it is started: more than others can have brought those whose namespaces it joins.
const REACHED_MAX: usize = 8 * NEIGHBOURS_MAX;

/// A container, and all that it reaches, as far as the rules for those who make containers ask. `None`: not all of it
/// is known, or an admin alone may have it.
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

/// A container as it stands to others.
struct Place<'a> {
    container: &'a Container,
    /// The pid namespace that it is in.
    now: PidNamespace,
    /// The same, or the one that it would be in if it were started now.
    would_be: PidNamespace,
}

impl Place<'_> {
    /// Whether what runs in a container can get at what another one has, of itself: it has joined its namespaces, or
    /// sees its processes. Who reaches whom is this, by whatever containers are in between.
    fn leads_to(&self, other: &Place<'_>) -> bool {
        self.container.joined.contains(&other.container.id) || self.sees(other)
    }

    /// Whether the other is in its pid namespace. One of which that is not known may be in any.
    fn sees(&self, other: &Place<'_>) -> bool {
        let (own, other) = (&self.would_be, &other.now);
        let nowhere = [own, other].contains(&&PidNamespace::None);
        let anywhere = [own, other].contains(&&PidNamespace::Unknown);
        !nowhere && (anywhere || own == other)
    }

    /// Whether it is known where it is. Else it may be anywhere, and what it leads to need not be in reach.
    fn is_known(&self) -> bool {
        self.now != PidNamespace::Unknown && self.container.now().quarantined.is_none()
    }
}

impl Engine {
    fn place_of<'a>(&self, container: &'a Container) -> Place<'a> {
        let now = container.now().pid_namespace.clone();
        let would_be = match (&now, &container.spec.namespaces.pid) {
            (PidNamespace::None, Namespace::Container(id)) => {
                let other = self.registry.container(id);
                other.map_or(PidNamespace::None, |other| other.now().pid_namespace.clone())
            }
            _ => now.clone(),
        };
        Place { container, now, would_be }
    }

    /// The containers whose processes a container sees in its pid namespace, and that run: /proc/PID/root leads into
    /// each of them, whichever of them has joined the other, and also if those in between are gone.
    pub fn in_pid_namespace_of(&self, container: &Container) -> Vec<Arc<Container>> {
        let own = self.place_of(container);
        let sees = |one: &Arc<Container>| one.id != container.id && own.sees(&self.place_of(one));
        self.registry.containers().into_iter().filter(sees).collect()
    }

    /// The others that a container reaches.
    fn reached_from(&self, container: &Container) -> Vec<Arc<Container>> {
        self.follow(container, |at, next| at.leads_to(next))
    }

    /// The others that reach a container.
    fn reaching(&self, container: &Container) -> Vec<Arc<Container>> {
        self.follow(container, |at, next| next.leads_to(at))
    }

    fn follow(
        &self,
        start: &Container,
        is_next: impl Fn(&Place<'_>, &Place<'_>) -> bool,
    ) -> Vec<Arc<Container>> {
        let all = self.registry.containers();
        let others = all.iter().filter(|one| one.id != start.id);
        let mut left: Vec<_> = others.map(|one| (one, self.place_of(one))).collect();
        let (mut found, mut ends) = (Vec::new(), vec![self.place_of(start)]);
        while let Some(at) = ends.pop() {
            let (next, rest) = left.into_iter().partition(|(_, place)| is_next(&at, place));
            left = rest;
            for (one, place) in next {
                found.push(one.clone());
                if place.is_known() {
                    ends.push(place);
                }
            }
        }
        found
    }

    /// The containers whose namespaces one joins, with those that these have joined, which may be gone one day.
    pub(super) fn all_joined(&self, spec: &ContainerSpec) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for id in spec.joins() {
            let other = self.registry.container(id);
            let others = other.map(|other| other.joined.clone()).unwrap_or_default();
            for id in others.into_iter().chain([id.clone()]) {
                if !all.contains(&id) {
                    all.push(id);
                }
            }
        }
        all
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
        self.all_shown_in(container).filter(|all| all.len() <= REACHED_MAX)
    }

    /// What a container and all that it reaches have. What is gone that it has joined is not known.
    fn all_shown_in(&self, container: &Container) -> Surroundings {
        let are_there = container.joined.iter().all(|id| self.registry.container(id).is_ok());
        let mut all = self.shown_in(container).filter(|_| are_there);
        let others = self.reached_from(container);
        others.iter().for_each(|other| add(&mut all, &self.shown_in(other)));
        all
    }

    /// What has been shown to what runs in a container, since that began. A mount that is gone may be in use in there
    /// still, as a working directory or in the mount namespace of a session with tools, and a container that has ended
    /// may have left it open files: both count until all of it has ended.
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

    /// Notes that a container begins to run: what runs in those that reach it may read what it has, and what it
    /// reaches, and show it to those who read their output.
    ///
    /// # Errors
    ///
    /// There is no room for it with one of the sessions that run there, which nobody but admins could read then; or it
    /// cannot be written, and would be forgotten with this agent. The container must not run then.
    pub(super) fn note_start(&self, container: &Container) -> Result<()> {
        let reaching = self.reaching(container);
        if reaching.is_empty() {
            return Ok(());
        }
        let brought = self.all_shown_in(container);
        let bytes = size(&brought);
        let by = container.spec.maker.as_deref();
        let mut more = 0;
        let mut is_too_much = |session: &Arc<Session>| {
            let before = session.surroundings();
            let mut now = before.clone();
            add(&mut now, &brought);
            if session.ended() || before == now {
                return false;
            }
            more += bytes;
            let grows = |before: Vec<Reached>, now: Vec<Reached>| {
                now.len() > NEIGHBOURS_MAX && now.len() > before.len()
            };
            before.zip(now).is_some_and(|(before, now)| grows(before, now))
        };
        for other in &reaching {
            let sessions = self.registry.sessions_and_opening(&other.id);
            if sessions.iter().any(&mut is_too_much) {
                // Whose session that is, the caller need not see.
                return Err(Error::Exhausted {
                    what: format!(
                        "{NEIGHBOURS_MAX} different containers have been within reach of one that shares namespaces with \
                         container {} since a session in there began; join another one, or start those again that \
                         have joined the same",
                        container.spec.name
                    ),
                    errno: libc::EAGAIN,
                });
            }
        }
        // What it is made of is kept with each of them, and counts to who brings it.
        self.holdings.check(by, more)?;
        // One that has ended reads nothing of it.
        let runs = |session: &Session| !session.ended();
        let note =
            |other: &Arc<Container>| self.note_in(&other.id, by, runs, |of| add(of, &brought));
        reaching.iter().try_for_each(note)
    }

    /// Notes that something is mounted into a container that lives: what runs there, or in a container that reaches
    /// it, may read it from now on, and show it to those who read its output. Not `there`: that it could not
    /// be mounted.
    ///
    /// # Errors
    ///
    /// It is noted with all of them, and cannot be written with one, so that it would be forgotten with this agent.
    pub(super) fn note_mount(&self, container: &str, shown: &Shown, there: bool) -> Result<()> {
        let all = self.with_reaching(container);
        // What has ended in between may have seen it, and is told what is known of it in the end.
        let concerns =
            |session: &Session| !session.ended() || has_noted(&session.reached(), &shown.id);
        let by = self.registry.container(container).ok().and_then(|one| one.spec.maker.clone());
        let note =
            |id| self.note_in(id, by.as_deref(), concerns, |of| note_mount(of, shown, there));
        let noted = all.iter().map(|id| note(id));
        noted.fold(Ok(()), Result::and)
    }

    /// A container, and those that reach it. Itself also where it has gone meanwhile: it may have sessions still.
    fn with_reaching(&self, container: &str) -> Vec<String> {
        let found = self.registry.container(container);
        let reaching = found.map(|container| self.reaching(&container)).unwrap_or_default();
        reaching.iter().map(|one| one.id.clone()).chain([container.to_owned()]).collect()
    }

    /// Notes something with those sessions in a container that it concerns, and with their recordings. `by`: who brings
    /// it.
    fn note_in(
        &self,
        container: &str,
        by: Option<&str>,
        concerns: impl Fn(&Session) -> bool,
        change: impl Fn(&mut Surroundings),
    ) -> Result<()> {
        let mut all = self.registry.sessions_and_opening(container);
        all.retain(|session| concerns(session));
        let noted = all.into_iter().map(|session| {
            let mut reached = session.reached();
            change(&mut reached);
            match self.write_surroundings(&session, &reached, by) {
                // Its record, or its recording, has been removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                written => written.map_err(io_error("cannot write what a session comes to reach")),
            }
        });
        noted.fold(Ok(()), Result::and)
    }

    fn write_surroundings(
        &self,
        session: &Session,
        now: &Surroundings,
        by: Option<&str>,
    ) -> io::Result<()> {
        session.surroundings_changes.send_replace(());
        session.write_record(now, by)?;
        match session.recorded() {
            Some(_) => self.recordings().set_surroundings(&session.id, now.clone()),
            None => Ok(()),
        }
    }

    /// How many sessions a mount in a container is kept with.
    pub(super) fn sessions_reaching(&self, container: &str) -> usize {
        let all = self.with_reaching(container).into_iter();
        all.map(|one| self.registry.sessions_and_opening(&one).len()).sum()
    }

    /// Whether a container is another one, or reaches it.
    pub(super) fn reaches(&self, container: &Container, other: &str) -> bool {
        let reached = |container| self.reached_from(container);
        container.id == other || reached(container).iter().any(|one| one.id == other)
    }

    /// Looks again at what a session can reach that is about to run: something may have been mounted since.
    pub(super) fn catch_up(&self, session: &Session) -> io::Result<()> {
        let Some(container) = &session.record.container else { return Ok(()) };
        let container = self.registry.container(&container.id).ok();
        let container = container.filter(|_| !session.record.host_tools);
        // Not while its own are held: those of others are asked for.
        let now = || container.as_ref().and_then(|container| self.surroundings(container));
        session.reached().get_or_insert_default();
        // What was mounted before is found, and what is mounted from here on is noted with it.
        loop {
            let found = now();
            renew(&mut session.reached(), &found);
            // What was being attached when it was found, and is known by now, was noted before that was here.
            let is_provisional =
                found.iter().flatten().any(|one| one.made.iter().any(is_provisional));
            if !is_provisional || now() == found {
                break;
            }
        }
        let reached = session.reached();
        match *reached == session.record.surroundings {
            true => Ok(()),
            false => self.write_surroundings(session, &reached, None),
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

    /// Writes its record with what has changed since it was opened. `by`: who changed it, if not whoever started it.
    pub(super) fn write_record(
        &self,
        surroundings: &Surroundings,
        by: Option<&str>,
    ) -> io::Result<()> {
        let surroundings = surroundings.clone();
        let mut record = Record { surroundings, ..self.record.clone() };
        record.io.policy.record = self.recorded();
        self.count(size(&record), by);
        record.write(&self.dir)
    }
}

/// Adds others to some surroundings, once each, and of a mount what is known in the end. Where not all is known, nothing
/// is.
fn add(surroundings: &mut Surroundings, others: &Surroundings) {
    let (Some(all), Some(others)) = (surroundings.as_mut(), others) else {
        *surroundings = None;
        return;
    };
    let mut others = others.clone();
    settle(all, &others);
    settle(&mut others, all);
    for other in others {
        let same = |one: &&mut Reached| (&one.spec, &one.opened) == (&other.spec, &other.opened);
        let Some(one) = all.iter_mut().find(same) else {
            all.push(other);
            continue;
        };
        for made in other.made {
            if !one.made.iter().any(|own| own.is_like(&made)) {
                one.made.push(made);
            }
        }
    }
}

/// Adds what was found to what was known before. What was being attached then, and was not found any more, is nowhere.
fn renew(surroundings: &mut Surroundings, found: &Surroundings) {
    for reached in surroundings.iter_mut().flatten() {
        reached.made.retain(|made| !is_provisional(made) || has_noted(found, &made.id));
    }
    add(surroundings, found);
}

/// Drops what is provisional of mounts that others know in the end.
fn settle(all: &mut [Reached], others: &[Reached]) {
    let is_known = |made: &Shown| {
        let mut known = others.iter().flat_map(|other| &other.made);
        known.any(|other| other.id == made.id && !is_provisional(other))
    };
    for reached in all {
        reached.made.retain(|made| !is_provisional(made) || !is_known(made));
    }
}

/// Whether a mount is being attached, so that not all is known of it.
fn is_provisional(shown: &Shown) -> bool {
    shown.facts.as_ref().is_some_and(|facts| facts.kernel.is_none())
}

fn has_noted(surroundings: &Surroundings, mount: &str) -> bool {
    let mut all = surroundings.iter().flatten().flat_map(|reached| &reached.made);
    all.any(|made| made.id == mount)
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
