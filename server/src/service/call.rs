//! One call: who makes it, and whether it may have what it asks for.
//!
//! That a caller may use a method at all was decided in [`super::access`]; here is decided what of a
//! request its role allows. What a caller must not see is answered as if it were not there.

use std::{collections::HashSet, sync::Arc};

use conti_runtime::plan::Confinement;
use tonic::{Request, Status};

use super::{audit::Ticket, share::Backlog, status};
use crate::{
    access::{
        Caller, Role, reached,
        rules::{self, Beyond},
    },
    engine::{
        Engine,
        container::Container,
        error::Error,
        mounts::live::Which,
        recording::{About, Wanted},
        scope::Scope,
        session::Session,
        spec::{
            ContainerSpec, Mount, MountSource, Namespace, SessionIo, SessionSpec, SessionTarget,
            Target, Tools,
        },
        surroundings::Reached,
    },
};

/// How many containers are looked at that have joined the namespaces of one another.
const JOINED_MAX: usize = 64;

/// A call that is being handled.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who makes it.
    pub caller: Caller,
    /// What waits of all calls of its caller.
    pub backlog: Backlog,
    /// Its record, where it is recorded.
    record: Option<Ticket>,
}

/// What is stored with a session: how it is confined, with its oom_score_adj, and what it reaches.
type Facts<'a> = (Option<(Confinement, Option<i32>)>, Option<&'a Vec<Reached>>);

impl Call {
    /// The call of a request. One that nobody has let in is refused.
    pub fn of<T>(request: &Request<T>) -> Result<Call, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let backlog = request.extensions().get::<Backlog>().cloned().unwrap_or_default();
        let record = request.extensions().get::<Ticket>().cloned();
        Ok(Call { caller: caller.ok_or_else(status::unauthenticated)?, backlog, record })
    }

    /// Whether the caller may do everything.
    pub fn is_admin(&self) -> bool {
        self.caller.role == Role::Admin
    }

    /// Finds a container to look at its description.
    pub fn see(&self, engine: &Engine, key: &str) -> Result<Arc<Container>, Status> {
        let container = engine.find(&self.caller.scope, key).map_err(status::of)?;
        if let Some(record) = &self.record {
            record.container(&container);
        }
        Ok(container)
    }

    /// Whether and how a session is recorded that the call starts now: where it was asked for, or the policy of the
    /// moment wants it, and as that wants it.
    pub fn recorded(&self, io: &SessionIo) -> Option<Wanted> {
        let recording = self.caller.recording;
        let wanted = recording.wants(io.terminal.is_some()).then_some(Wanted::DEFAULT);
        let wanted = io.policy.record.or(wanted)?;
        Some(Wanted { input: recording.input, ..wanted })
    }

    /// Whether the recording of a session is one that the caller may read: it might have started the session. For the
    /// moment not where something is being mounted around it.
    pub fn may_read(&self, engine: &Engine, about: &About) -> bool {
        let of = about.container.as_ref().filter(|_| self.caller.scope.sees(&about.labels));
        let facts = (about.confinement, about.surroundings.as_ref());
        self.is_admin() || of.is_some_and(|of| self.check_facts(engine, &of.id, facts).is_ok())
    }

    /// Whether the caller might have started a session, by the facts that were stored with it: others may have
    /// started it with more rights, in a container that is gone. What is not known is for admins.
    fn check_facts(
        &self,
        engine: &Engine,
        container: &str,
        (confinement, surroundings): Facts<'_>,
    ) -> Result<(), Status> {
        let denied = |what: &str| status::denied(&self.caller, Role::Admin, "session", what);
        let (Some((confinement, oom_score_adj)), Some(surroundings)) = (confinement, surroundings)
        else {
            return Err(denied("nothing is known of how the session is confined"));
        };
        let grants = &self.caller.grants;
        rules::confinement("process", confinement, oom_score_adj, grants)
            .and_then(|()| {
                let check = |one| reached::reached(one, grants, engine.userns());
                surroundings.iter().try_for_each(check)
            })
            .map_err(|Beyond { field, problem, grant }| match self.caller.scope.0.is_empty() {
                true => {
                    let what = format!("the session is not confined: {field} {problem}");
                    status::denied_without(&self.caller, Role::Admin, grant, "session", &what)
                }
                // Whose that is, it need not see.
                false => {
                    denied("the session reaches, or has reached, what this caller may not have")
                }
            })?;
        // Also if the caller does not see it: one that is damaged has no labels.
        match engine.stored(&Scope::default(), container) {
            Ok(container) => self.check_inside_now(engine, &container),
            Err(_) => Ok(()),
        }
    }

    /// Finds a container to act in it or to look into it. One that its caller may not have made is a way to more than
    /// it may have. To end it: [`Call::end`].
    pub async fn enter(&self, engine: &Engine, key: &str) -> Result<Arc<Container>, Status> {
        let container = self.see(engine, key)?;
        self.check_inside(engine, &container).await?;
        Ok(container)
    }

    /// Whether the caller may act in a container that it sees, and look into it.
    pub(super) async fn check_inside(
        &self,
        engine: &Engine,
        container: &Container,
    ) -> Result<(), Status> {
        let check = || self.check_inside_now(engine, container);
        self.settled(engine, &container.id, check).await
    }

    fn check_inside_now(&self, engine: &Engine, container: &Container) -> Result<(), Status> {
        if self.is_admin() {
            return Ok(());
        }
        if container.now().quarantined.is_some() {
            let what = "nothing is known of how the container is confined";
            return Err(status::denied(&self.caller, Role::Admin, "container", what));
        }
        self.confined(engine, container).map_err(|beyond| {
            let Beyond { field, problem, grant } = beyond;
            let name = &container.spec.name;
            let what = format!("container {name} is not confined: {field} {problem}");
            status::denied_without(&self.caller, Role::Admin, grant, &field, &what)
        })
    }

    /// Whether a container, each whose namespaces it has joined, and each that is in its pid namespace, is one that the
    /// caller may have. Each is looked at once, however they have joined one another.
    fn confined(&self, engine: &Engine, container: &Container) -> Result<(), Beyond> {
        let joins = |problem| Beyond { field: "namespaces".to_owned(), problem, grant: None };
        self.confined_alone(engine, container)?;
        let mut seen = HashSet::from([container.id.clone()]);
        let mut left: Vec<String> = container.spec.joins().cloned().collect();
        while let Some(id) = left.pop() {
            let other = engine.stored(&self.caller.scope, &id).map_err(|_| {
                joins(format!("has joined container {id}, of which nothing is known"))
            })?;
            if !seen.insert(other.id.clone()) {
                continue;
            }
            if other.now().quarantined.is_some() {
                return Err(joins(format!("has joined container {id}, of which nothing is known")));
            }
            if seen.len() > JOINED_MAX {
                return Err(joins(format!("has joined more than {JOINED_MAX} others")));
            }
            self.confined_alone(engine, &other)?;
            left.extend(other.spec.joins().cloned());
        }
        let neighbours = engine.in_pid_namespace_of(container);
        let mut unseen = neighbours.iter().filter(|other| !seen.contains(&other.id));
        unseen.try_for_each(|other| {
            let known = other.now().quarantined.is_none();
            let alone =
                if known { self.confined_alone(engine, other) } else { Err(joins(String::new())) };
            // It may be none that the caller sees.
            alone.map_err(|_| {
                joins("shares its pid namespace with a container that is not confined".to_owned())
            })
        })?;
        let grants = &self.caller.grants;
        let may_have = |all: Vec<Reached>| {
            all.iter().all(|one| reached::reached(one, grants, engine.userns()).is_ok())
        };
        match engine.surroundings(container).is_some_and(may_have) {
            true => Ok(()),
            false => rules::beyond(
                "mounts",
                "that were taken away, or containers that it reaches or has reached by others, gave its processes what the \
                 caller may not have; this counts until the container is stopped",
            ),
        }
    }

    /// As [`Call::confined`], without those that it has joined.
    fn confined_alone(&self, engine: &Engine, container: &Container) -> Result<(), Beyond> {
        let grants = &self.caller.grants;
        rules::container(&container.spec, grants, engine.userns())?;
        let opened = container.now().opened.clone();
        reached::opened(&container.spec, opened.as_ref(), grants)?;
        if !engine.mounts_are_known_in(&container.id) {
            return rules::beyond(
                "mounts",
                "has something mounted since of which nothing is known",
            );
        }
        let made = engine.mounts_made_in(&container.id);
        made.iter().try_for_each(|made| reached::made(&made.shown(), grants, engine.userns()))
    }

    /// Checks a target, and gives it with the id of its container. All but containers are for admins.
    pub async fn target(&self, engine: &Engine, target: Target) -> Result<Target, Status> {
        match target {
            Target::Container(key) => {
                Ok(Target::Container(self.enter(engine, &key).await?.id.clone()))
            }
            Target::Process { .. } => {
                self.admin("target.process", "it reaches processes of the host")?;
                Ok(target)
            }
            Target::Host => {
                self.admin("target.host", "it reaches the host")?;
                Ok(target)
            }
        }
    }

    /// Whether the caller may look into a target still that it was given.
    pub async fn check_target(&self, engine: &Engine, target: &Target) -> Result<(), Status> {
        match target {
            Target::Container(id) if !self.is_admin() => {
                let container = engine.stored(&self.caller.scope, id).map_err(status::of)?;
                self.check_inside(engine, &container).await
            }
            _ => Ok(()),
        }
    }

    /// Refuses all but admins.
    pub fn admin(&self, field: &str, what: &str) -> Result<(), Status> {
        self.at_least(Role::Admin, field, what)
    }

    /// Refuses callers of a lower role.
    pub fn at_least(&self, role: Role, field: &str, what: &str) -> Result<(), Status> {
        match self.caller.role >= role {
            true => Ok(()),
            false => Err(status::denied(&self.caller, role, field, what)),
        }
    }

    /// Whether a session is one that the caller sees. Those of the host are for admins.
    pub fn sees(&self, session: &Session) -> bool {
        let record = &session.record;
        self.is_admin() || (record.container.is_some() && self.caller.scope.sees(&record.labels))
    }

    /// Finds a session to look at it.
    pub fn session(&self, engine: &Engine, id: &str) -> Result<Arc<Session>, Status> {
        let session = engine.session(id).map_err(status::of)?;
        match self.sees(&session) {
            true => {
                if let Some(record) = &self.record {
                    record.session(&session);
                }
                Ok(session)
            }
            false => Err(status::of(Error::NoSuchSession(id.to_owned()))),
        }
    }

    /// Finds a session to act on it.
    pub async fn drive(&self, engine: &Engine, id: &str) -> Result<Arc<Session>, Status> {
        let session = self.session(engine, id)?;
        self.check_driver(engine, &session).await?;
        Ok(session)
    }

    /// Whether the caller may write to a session that it sees.
    pub async fn check_driver(&self, engine: &Engine, session: &Session) -> Result<(), Status> {
        self.at_least(Role::Operator, "session", "it drives a session")?;
        self.check_reader(engine, session).await
    }

    /// Whether the caller may read what a session that it sees writes.
    pub async fn check_reader(&self, engine: &Engine, session: &Session) -> Result<(), Status> {
        match &session.record.container {
            // One of the host is seen by admins only.
            _ if self.is_admin() => Ok(()),
            None => self.admin("session", "it reads from the host"),
            Some(container) => {
                let check = || {
                    let surroundings = session.surroundings();
                    let facts = (session.record.confinement, surroundings.as_ref());
                    self.check_facts(engine, &container.id, facts)
                };
                self.settled(engine, &container.id, check).await
            }
        }
    }

    /// Finds a container to start it again. Its paths of the host are those of who made it: one who was
    /// granted others, or could change what lies there, must not have them looked up anew.
    pub async fn restart(&self, engine: &Engine, key: &str) -> Result<Arc<Container>, Status> {
        let container = self.enter(engine, key).await?;
        let own = container.spec.bounds.as_ref() == Some(&self.caller.grants.bounds);
        if !self.is_admin() && !own && rules::uses_host_paths(&container.spec) {
            let what = "the container uses paths of the host by the rights of who made it";
            return Err(status::denied(&self.caller, Role::Admin, "container", what));
        }
        Ok(container)
    }

    /// Checks a container that is to be made. `at`: the path of its specification in the request.
    pub async fn container(
        &self,
        engine: &Engine,
        at: &str,
        mut spec: ContainerSpec,
    ) -> Result<ContainerSpec, Status> {
        self.at_least(Role::Operator, at, "it makes a container")?;
        spec.maker = Some(self.caller.name());
        // Before anything is chosen by them: what the caller does not see is not there, and another container may
        // have the name one day.
        for key in joined(&mut spec) {
            match engine.find(&self.caller.scope, key) {
                Ok(found) => key.clone_from(&found.id),
                // The engine says more to one who may know all: it finds nothing by a name.
                Err(Error::NoSuchContainer(_)) if self.is_admin() => {}
                Err(error) => return Err(status::of(error)),
            }
        }
        engine.choose_user_namespace(&mut spec);
        if self.is_admin() {
            return Ok(spec);
        }
        let grants = &self.caller.grants;
        let chosen = !spec.namespaces.uid_maps.is_empty() && !grants.host_user_namespace;
        let own_ids = match chosen {
            true => rules::without(
                "host_user_namespace",
                "namespaces.uid_mappings",
                "chooses ids of the host",
            ),
            false => Ok(()),
        };
        own_ids
            .and_then(|()| rules::container(&spec, grants, engine.userns()))
            .map_err(|beyond| self.beyond(at, beyond))?;
        if let Some((name, value)) =
            self.caller.scope.0.iter().find(|(name, value)| spec.labels.get(*name) != Some(value))
        {
            let what = format!(
                "it may only make containers with the label {name}={value}, and this one has it not"
            );
            return Err(status::denied(&self.caller, Role::Admin, &format!("{at}.labels"), &what));
        }
        let ids: Vec<String> = spec.joins().cloned().collect();
        for id in ids {
            let other = self.see(engine, &id)?;
            if self.check_inside_now(engine, &other).is_err() {
                // Counted while it may have to wait.
                let _held = engine.hold(&spec).map_err(status::of)?;
                self.check_inside(engine, &other).await?;
            }
        }
        spec.bounds = Some(self.caller.grants.bounds.clone());
        Ok(spec)
    }

    /// What went wrong with making a container, without what the caller may not know of others.
    pub fn hide(&self, engine: &Engine, error: Error) -> Error {
        match error {
            Error::NameTaken { name, id } => {
                let id = id.filter(|id| engine.stored(&self.caller.scope, id).is_ok());
                Error::NameTaken { name, id }
            }
            error => error,
        }
    }

    /// Checks a session that is to be started. `at`: the path of its specification in the request.
    pub async fn start(
        &self,
        engine: &Engine,
        at: &str,
        mut spec: SessionSpec,
    ) -> Result<SessionSpec, Status> {
        self.at_least(Role::Operator, at, "it starts a session")?;
        spec.io.policy.record = self.recorded(&spec.io);
        spec.maker = Some(self.caller.name());
        // What is checked is what it is started in, whoever has the name then.
        let container = match spec.target.container_mut() {
            Some(key) => {
                let found = self.see(engine, key)?;
                key.clone_from(&found.id);
                Some(found)
            }
            None => None,
        };
        if let Some(container) = &container
            && self.check_inside_now(engine, container).is_err()
        {
            // Counted while it may have to wait.
            let _held = engine.hold_command(&spec).map_err(status::of)?;
            self.check_inside(engine, container).await?;
        }
        if self.is_admin() {
            return Ok(spec);
        }
        // What it would be in its container, whatever of it was said.
        let process = match &container {
            Some(container) => spec.process.inside(&container.spec.process),
            None => spec.process.clone().alone(),
        };
        let process = rules::process("process", &process, &self.caller.grants);
        process.map_err(|beyond| self.beyond(at, beyond))?;
        match &spec.target {
            SessionTarget::Container(_)
            | SessionTarget::Debug(Target::Container(_), Tools::Host) => {}
            SessionTarget::Debug(target, Tools::Host) => {
                self.target(engine, target.clone()).await?;
            }
            SessionTarget::Process(_) => self.admin(
                &format!("{at}.target"),
                "where it enters only parts of a target, the rest is the host's; a container is entered as a whole",
            )?,
            _ => self.admin(&format!("{at}.target"), "it reaches the host")?,
        }
        Ok(spec)
    }

    /// Checks a mount that is to be made in a target, and tells which directories its source must stay in.
    pub fn mount(
        &self,
        mount: &Mount,
        in_container: bool,
    ) -> Result<Option<Vec<std::path::PathBuf>>, Status> {
        if self.is_admin() {
            return Ok(None);
        }
        let checked = rules::target("mount.target", &mount.target)
            .and_then(|()| rules::propagation("mount", mount));
        checked.map_err(|beyond| self.denied(beyond))?;
        // A path of a container that the caller may enter is none of the host.
        let inside = in_container && matches!(mount.source, MountSource::Bind { .. });
        if !inside {
            let checked = rules::mount("mount", mount, &self.caller.grants);
            checked.map_err(|beyond| self.denied(beyond))?;
        }
        Ok(Some(self.caller.grants.bounds.mounts.clone()))
    }

    /// Checks which mount is to be taken away.
    pub async fn unmount(&self, engine: &Engine, which: Which) -> Result<Which, Status> {
        match which {
            Which::Point(target, point) if self.is_admin() => {
                Ok(Which::Point(self.target(engine, target).await?, point))
            }
            Which::Id(_) if self.is_admin() => Ok(which),
            // Others are part of the container, some of them of its confinement.
            Which::Point(target, point) => {
                let made = match self.target(engine, target).await? {
                    Target::Container(id) => engine.mount_made_at(&id, &point),
                    Target::Process { .. } | Target::Host => None,
                };
                let made = made.ok_or_else(|| {
                    let what = format!(
                        "nothing was mounted on {:?} while the container ran, and the rest is a part of it",
                        String::from_utf8_lossy(&point)
                    );
                    status::denied(&self.caller, Role::Admin, "point", &what)
                })?;
                Ok(Which::Id(made.id.clone()))
            }
            Which::Id(id) => {
                let absent = || status::of(Error::NoSuchMount(id.clone()));
                let made = engine.made_mount(&id).map_err(status::of)?;
                let container = made.container_id.as_ref().ok_or_else(absent)?;
                self.see(engine, container).map_err(|_| absent())?;
                self.enter(engine, container).await?;
                Ok(Which::Id(id))
            }
        }
    }

    fn beyond(&self, at: &str, beyond: Beyond) -> Status {
        self.denied(Beyond { field: format!("{at}.{}", beyond.field), ..beyond })
    }

    fn denied(&self, Beyond { field, problem, grant }: Beyond) -> Status {
        let what = format!("{field} {problem}");
        status::denied_without(&self.caller, Role::Admin, grant, &field, &what)
    }
}

/// The containers whose namespaces a specification joins.
fn joined(spec: &mut ContainerSpec) -> impl Iterator<Item = &mut String> {
    let namespaces = &mut spec.namespaces;
    let all = [
        &mut namespaces.pid,
        &mut namespaces.uts,
        &mut namespaces.ipc,
        &mut namespaces.net,
        &mut namespaces.cgroup,
        &mut namespaces.user,
        &mut namespaces.time,
    ];
    all.into_iter().filter_map(|namespace| match namespace {
        Namespace::Container(key) => Some(key),
        Namespace::Private | Namespace::Host | Namespace::Unspecified => None,
    })
}
