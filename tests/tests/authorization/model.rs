//! Who may do what, by docs/authorization.md alone: a model that knows nothing of how the agent decides.

use conti_proto::v1::{ContainerSpec, Role, SessionSpec};

/// One who calls.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The name in its certificate.
    pub name: &'static str,
    pub role: Role,
    /// The team whose containers alone it sees.
    pub team: Option<&'static str>,
    /// Whether it was granted a directory, the host's user namespace, ids of its choice and NET_ADMIN.
    pub granted: bool,
}

pub const CALLERS: [Caller; 4] = [
    Caller { name: "vera", role: Role::Viewer, team: None, granted: false },
    Caller { name: "olga", role: Role::Operator, team: None, granted: false },
    Caller { name: "blue", role: Role::Operator, team: Some("blue"), granted: true },
    Caller { name: "root", role: Role::Admin, team: None, granted: false },
];

/// The policy that makes them so. `directory`: what is granted.
pub fn policy(directory: &str) -> String {
    format!(
        "[[caller]]\nidentity = \"blue\"\nrole = \"operator\"\nlabels = {{ team = \"blue\" }}\n\
         mounts = [{directory:?}]\nhost_user_namespace = true\ncapabilities = [\"NET_ADMIN\"]\n"
    )
}

/// What a container has that decides who might have made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Privileged,
    HostNetwork,
    HostUsers,
    ChosenIds,
    BindsSecret,
    BindsGranted,
    /// What a link in the granted directory led to, which is not granted.
    BindsPlanted,
    NetAdmin,
    /// It has joined a namespace of another one.
    Joins(usize),
    /// It is in the pid namespace of another one, with the directory that was granted to nobody or without.
    Beside(usize, bool),
}

/// What was mounted into a living container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    Tmpfs,
    Secret,
    Granted,
    /// By a link in the granted directory.
    Planted,
    /// A directory of the container itself, by one who was granted nothing, by one who was granted the directory,
    /// or by an admin.
    Copy(Role, bool),
}

#[derive(Debug, Clone)]
pub struct Made {
    pub id: String,
    pub what: Mounted,
    /// Whether it was not taken away again.
    pub there: bool,
}

#[derive(Debug, Clone)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub team: Option<&'static str>,
    pub kind: Kind,
    pub maker: &'static str,
    /// The request that made it, with its id.
    pub asked: (String, ContainerSpec),
    pub auto_remove: bool,
    pub made: Vec<Made>,
    /// The container that its pid namespace was made for.
    pub pid_namespace: usize,
    pub runs: bool,
    /// What it has and has reached since it was started: also what is gone.
    pub reached: Reached,
    pub gone: bool,
}

/// What was reached: kinds of containers, and what was mounted into them.
pub type Reached = (Vec<Kind>, Vec<Mounted>);

/// How a command is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confined {
    Usual,
    NetAdmin,
    Privileged,
}

#[derive(Debug, Clone)]
pub struct Session {
    pub id: String,
    pub of: usize,
    pub main: bool,
    pub maker: &'static str,
    /// The request that started it, with its id, if it is no main session.
    pub asked: Option<(String, SessionSpec)>,
    /// Whether that was one of `Stream`.
    pub streamed: bool,
    pub recorded: bool,
    pub confined: Confined,
    /// What it could reach. `None`: not all is known.
    pub reached: Option<Reached>,
    pub gone: bool,
}

/// What the agent may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Carried out, or refused for a reason that has nothing to do with rights.
    Done,
    Denied,
    NotThere,
    /// The request id is that of another request.
    Taken,
}

/// All that was made, with what is gone.
#[derive(Debug, Default)]
pub struct World {
    pub containers: Vec<Container>,
    pub sessions: Vec<Session>,
    /// The first container of this round: those before it are gone.
    pub first: usize,
}

impl Caller {
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    fn sees(&self, team: Option<&str>) -> bool {
        self.is_admin() || self.team.is_none() || self.team == team
    }

    /// Whether it may have what a container of this kind has.
    pub fn may_have(&self, kind: Kind) -> bool {
        match kind {
            _ if self.is_admin() => true,
            Kind::Plain | Kind::Joins(_) | Kind::Beside(_, false) => true,
            Kind::Privileged | Kind::HostNetwork => false,
            Kind::BindsSecret | Kind::BindsPlanted | Kind::Beside(_, true) => false,
            Kind::HostUsers | Kind::ChosenIds | Kind::BindsGranted | Kind::NetAdmin => self.granted,
        }
    }

    /// Whether it might have mounted this itself.
    fn may_have_mounted(&self, what: Mounted) -> bool {
        match what {
            _ if self.is_admin() => true,
            Mounted::Tmpfs => true,
            Mounted::Secret | Mounted::Planted => false,
            Mounted::Granted => self.granted,
            Mounted::Copy(role, granted) => role == Role::Operator && (!granted || self.granted),
        }
    }

    /// Whether it may ask for a container of this kind: a link is met where it is followed, and refused there.
    fn may_ask_for(&self, kind: Kind) -> bool {
        self.may_have(if kind == Kind::BindsPlanted { Kind::BindsGranted } else { kind })
    }

    /// Whether it may ask for such a mount.
    fn may_ask_to_mount(&self, what: Mounted) -> bool {
        self.may_have_mounted(if what == Mounted::Planted { Mounted::Granted } else { what })
    }

    pub fn may_run(&self, confined: Confined) -> bool {
        match confined {
            _ if self.is_admin() => true,
            Confined::Usual => true,
            Confined::NetAdmin => self.granted,
            Confined::Privileged => false,
        }
    }
}

impl Kind {
    /// The container that it joins.
    pub fn joins(self) -> Option<usize> {
        match self {
            Kind::Joins(other) | Kind::Beside(other, _) => Some(other),
            _ => None,
        }
    }
}

impl World {
    /// "see": the container is there, and the caller's labels fit.
    pub fn see(&self, caller: &Caller, index: usize) -> Verdict {
        let container = &self.containers[index];
        match !container.gone && caller.sees(container.team) {
            true => Verdict::Done,
            false => Verdict::NotThere,
        }
    }

    /// "enter": seen, and the caller might have made it, and all that it reaches, or has reached since it was started; and
    /// all that it has joined is there and seen.
    pub fn enter(&self, caller: &Caller, index: usize) -> Verdict {
        match self.see(caller, index) {
            Verdict::Done if self.might_be_of(caller, index) => Verdict::Done,
            Verdict::Done => Verdict::Denied,
            other => other,
        }
    }

    fn might_be_of(&self, caller: &Caller, index: usize) -> bool {
        let (kinds, mounted) = self.all_reached(index);
        let joined = self.joined(index);
        caller.is_admin()
            || kinds.iter().all(|kind| caller.may_have(*kind))
                && mounted.iter().all(|what| caller.may_have_mounted(*what))
                && joined.iter().all(|other| self.see(caller, *other) == Verdict::Done)
    }

    /// "end": entered, or seen and made by the caller.
    pub fn end(&self, caller: &Caller, index: usize) -> Verdict {
        match self.enter(caller, index) {
            Verdict::Denied if self.containers[index].maker == caller.name => Verdict::Done,
            other => other,
        }
    }

    /// "start again": entered; with paths of the host only by an admin or with the grants of its maker.
    pub fn start_again(&self, caller: &Caller, index: usize) -> Verdict {
        let container = &self.containers[index];
        let paths = matches!(
            container.kind,
            Kind::BindsSecret | Kind::BindsGranted | Kind::BindsPlanted | Kind::Beside(_, true)
        );
        match self.enter(caller, index) {
            Verdict::Done if paths && !caller.is_admin() && container.maker != caller.name => {
                Verdict::Denied
            }
            other => other,
        }
    }

    pub fn see_session(&self, caller: &Caller, index: usize) -> Verdict {
        let session = &self.sessions[index];
        match !session.gone && caller.sees(self.containers[session.of].team) {
            true => Verdict::Done,
            false => Verdict::NotThere,
        }
    }

    /// "read": seen, and the caller might have started it, by the facts stored with it; and its container, if that is
    /// there, is entered.
    pub fn read_session(&self, caller: &Caller, index: usize) -> Verdict {
        match self.see_session(caller, index) {
            Verdict::Done if !self.might_have_started(caller, index) => Verdict::Denied,
            other => other,
        }
    }

    pub fn end_session(&self, caller: &Caller, index: usize) -> Verdict {
        match self.read_session(caller, index) {
            Verdict::Denied if self.sessions[index].maker == caller.name => Verdict::Done,
            other => other,
        }
    }

    /// "recording": as "read", by the facts stored with the recording; else it is not there.
    pub fn recording(&self, caller: &Caller, index: usize) -> Verdict {
        let session = &self.sessions[index];
        let seen = caller.sees(self.containers[session.of].team);
        match session.recorded && seen && self.might_have_started(caller, index) {
            true => Verdict::Done,
            false => Verdict::NotThere,
        }
    }

    fn might_have_started(&self, caller: &Caller, index: usize) -> bool {
        let session = &self.sessions[index];
        let Some((kinds, mounted)) = &session.reached else { return caller.is_admin() };
        let container = &self.containers[session.of];
        caller.may_run(session.confined)
            && kinds.iter().all(|kind| caller.may_have(*kind))
            && mounted.iter().all(|what| caller.may_have_mounted(*what))
            && (container.gone || self.might_be_of(caller, session.of))
    }

    /// All whose namespaces a container has joined, by others too, there or gone.
    fn joined(&self, index: usize) -> Vec<usize> {
        let mut all = Vec::new();
        let mut next = self.containers[index].kind.joins();
        while let Some(one) = next {
            all.push(one);
            next = self.containers[one].kind.joins();
        }
        all
    }

    /// Whether a container gets at what another one has, of itself.
    fn leads(&self, from: usize, to: usize) -> bool {
        let beside = |one: &Container, other: &Container| {
            one.runs && other.runs && one.pid_namespace == other.pid_namespace
        };
        let sees = beside(&self.containers[from], &self.containers[to]);
        !self.containers[to].gone && (sees || self.joined(from).contains(&to))
    }

    /// A container and all that it reaches, by whatever others.
    fn reached_by(&self, index: usize) -> Vec<usize> {
        let mut found = vec![index];
        let mut at = 0;
        while let Some(from) = found.get(at).copied() {
            let all = 0..self.containers.len();
            let next = all.filter(|to| !found.contains(to) && self.leads(from, *to));
            found.extend(next.collect::<Vec<_>>());
            at += 1;
        }
        found
    }

    fn all_reached(&self, index: usize) -> Reached {
        let mut all = Reached::default();
        for one in self.reached_by(index) {
            let one = &self.containers[one];
            all.0.push(one.kind);
            all.0.extend(&one.reached.0);
            all.1.extend(&one.reached.1);
        }
        all
    }

    /// What can be reached from a container. `None`: not all of it is known.
    pub fn reached_from(&self, index: usize) -> Option<Reached> {
        let joined = self.joined(index);
        let is_gone = |one: usize| self.containers[one].gone;
        let known = !is_gone(index) && !joined.into_iter().any(is_gone);
        known.then(|| self.all_reached(index))
    }

    /// Notes what comes to a container with all that run and reach it, and with their sessions.
    fn comes_to(&mut self, target: usize, brought: &Reached) {
        for index in 0..self.containers.len() {
            if !self.containers[index].runs || !self.reached_by(index).contains(&target) {
                continue;
            }
            let sessions = self.sessions.iter_mut().filter(|session| session.of == index);
            let sessions = sessions.filter_map(|session| session.reached.as_mut());
            for reached in sessions.chain([&mut self.containers[index].reached]) {
                reached.0.extend(&brought.0);
                reached.1.extend(&brought.1);
            }
        }
    }

    /// Notes that a container runs.
    pub fn started(&mut self, index: usize) {
        self.containers[index].runs = true;
        let brought = self.all_reached(index);
        self.comes_to(index, &brought);
    }

    /// Notes what was mounted into a container.
    pub fn mounted(&mut self, target: usize, made: Made) {
        self.comes_to(target, &(Vec::new(), vec![made.what]));
        self.containers[target].made.push(made);
    }

    /// Notes that all that ran in a container has ended, and with it what ran in the pid namespace that was made for it.
    pub fn stopped(&mut self, index: usize) {
        let mut all = self.containers.iter_mut().enumerate();
        let ends = |(one, container): &(usize, &mut Container)| {
            *one == index || container.pid_namespace == index
        };
        for (_, container) in all.by_ref().filter(ends) {
            container.runs = false;
            container.made.clear();
            container.reached = Reached::default();
        }
    }

    /// Notes that a container is gone. Its sessions go with it, but for the main one of what removes itself.
    pub fn gone(&mut self, index: usize) {
        self.stopped(index);
        self.containers[index].gone = true;
        let auto_remove = self.containers[index].auto_remove;
        for session in self.sessions.iter_mut().filter(|session| session.of == index) {
            session.gone = !(session.main && auto_remove);
        }
    }

    /// Notes that the agent was started again: sessions that only it remembered are forgotten.
    pub fn restarted(&mut self) {
        for session in &mut self.sessions {
            session.gone |= !self.containers[session.of].runs;
        }
    }

    /// Whether a caller may mount something into a container: what it may have, where it may enter.
    pub fn mount(&self, caller: &Caller, index: usize, what: Mounted) -> Verdict {
        let copies = matches!(what, Mounted::Copy(..));
        match caller.role >= Role::Operator && (copies || caller.may_ask_to_mount(what)) {
            true => self.enter(caller, index),
            false => Verdict::Denied,
        }
    }

    /// What a caller is answered that repeats the request that has made a container, as the same method or another.
    pub fn create_again(&self, caller: &Caller, index: usize, same: bool) -> Verdict {
        let container = &self.containers[index];
        match self.create(caller, container.kind, container.team) {
            Verdict::Done if same => self.enter(caller, index),
            Verdict::Done => Verdict::Taken,
            other => other,
        }
    }

    /// What a caller is answered that repeats the request that has started a session in a container, as the same method
    /// or another.
    pub fn start_session_again(&self, caller: &Caller, index: usize, same: bool) -> Verdict {
        match self.enter(caller, self.sessions[index].of) {
            Verdict::Done if same => self.read_session(caller, index),
            Verdict::Done => Verdict::Taken,
            other => other,
        }
    }

    /// What a caller is answered that gives the id of that request to one for another container.
    pub fn start_session_elsewhere(&self, caller: &Caller, other: usize) -> Verdict {
        match self.enter(caller, other) {
            Verdict::Done => Verdict::Taken,
            other => other,
        }
    }

    /// Whether a caller may make a container.
    pub fn create(&self, caller: &Caller, kind: Kind, team: Option<&str>) -> Verdict {
        let joined = match kind.joins() {
            Some(other) if !caller.is_admin() => match self.see(caller, other) {
                Verdict::NotThere => return Verdict::NotThere,
                _ => self.enter(caller, other),
            },
            _ => Verdict::Done,
        };
        let labels = caller.is_admin() || caller.team.is_none() || caller.team == team;
        match caller.role >= Role::Operator && caller.may_ask_for(kind) && labels {
            true => joined,
            false => Verdict::Denied,
        }
    }
}
