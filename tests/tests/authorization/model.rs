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
    /// What was mounted into it, or into what it has joined, since it was started: also what is gone.
    pub shown: Vec<Mounted>,
    pub gone: bool,
}

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
    /// What it could reach: kinds of containers, and what was mounted into them. `None`: not all is known.
    pub reached: Option<(Vec<Kind>, Vec<Mounted>)>,
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
            Kind::Plain | Kind::Joins(_) => true,
            Kind::Privileged | Kind::HostNetwork => false,
            Kind::BindsSecret | Kind::BindsPlanted => false,
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

impl World {
    /// "see": the container is there, and the caller's labels fit.
    pub fn see(&self, caller: &Caller, index: usize) -> Verdict {
        let container = &self.containers[index];
        match !container.gone && caller.sees(container.team) {
            true => Verdict::Done,
            false => Verdict::NotThere,
        }
    }

    /// "enter": seen, and the caller might have made it, all that it has joined, and what was mounted into each since it
    /// was started, also what is gone.
    pub fn enter(&self, caller: &Caller, index: usize) -> Verdict {
        match self.see(caller, index) {
            Verdict::Done if self.might_be_of(caller, index) => Verdict::Done,
            Verdict::Done => Verdict::Denied,
            other => other,
        }
    }

    fn might_be_of(&self, caller: &Caller, index: usize) -> bool {
        let container = &self.containers[index];
        let own = caller.may_have(container.kind)
            && container.shown.iter().all(|what| caller.may_have_mounted(*what));
        caller.is_admin()
            || own
                && match container.kind {
                    Kind::Joins(other) => self.enter(caller, other) == Verdict::Done,
                    _ => true,
                }
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
        let paths =
            matches!(container.kind, Kind::BindsSecret | Kind::BindsGranted | Kind::BindsPlanted);
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
        // A path of a container is one of the host to whoever does not know the container any more.
        let kept = |what: &Mounted| match what {
            Mounted::Copy(..) => caller.is_admin(),
            what => caller.may_have_mounted(*what),
        };
        let container = &self.containers[session.of];
        caller.may_run(session.confined)
            && kinds.iter().all(|kind| caller.may_have(*kind))
            && mounted.iter().all(kept)
            && (container.gone || self.might_be_of(caller, session.of))
    }

    /// What can be reached from a container. `None`: not all of it is known.
    pub fn reached_from(&self, index: usize) -> Option<(Vec<Kind>, Vec<Mounted>)> {
        let container = &self.containers[index];
        if container.gone {
            return None;
        }
        let (mut kinds, mut mounted) = match container.kind {
            Kind::Joins(other) => self.reached_from(other)?,
            _ => Default::default(),
        };
        kinds.push(container.kind);
        mounted.extend(&container.shown);
        Some((kinds, mounted))
    }

    /// Whether what is mounted into `target` can be reached from a container, as far as is known.
    fn reaches(&self, index: usize, target: usize) -> bool {
        match self.containers[index].kind {
            _ if index == target => true,
            Kind::Joins(other) => self.containers[other].gone || self.reaches(other, target),
            _ => false,
        }
    }

    /// Notes what was mounted into a container.
    pub fn mounted(&mut self, target: usize, made: Made) {
        for index in 0..self.sessions.len() {
            let of = self.sessions[index].of;
            if !self.containers[of].gone
                && self.reaches(of, target)
                && let Some((_, mounted)) = &mut self.sessions[index].reached
            {
                mounted.push(made.what);
            }
        }
        for index in 0..self.containers.len() {
            if !self.containers[index].gone && self.reaches(index, target) {
                self.containers[index].shown.push(made.what);
            }
        }
        self.containers[target].made.push(made);
    }

    /// Notes that all that ran in a container has ended.
    pub fn stopped(&mut self, index: usize) {
        self.containers[index].made.clear();
        self.containers[index].shown.clear();
    }

    /// Notes that a container is gone. Its sessions go with it, but for the main one of what removes itself.
    pub fn gone(&mut self, index: usize) {
        self.containers[index].gone = true;
        let auto_remove = self.containers[index].auto_remove;
        for session in self.sessions.iter_mut().filter(|session| session.of == index) {
            session.gone = !(session.main && auto_remove);
        }
    }

    /// Notes that the agent was started again: sessions that only it remembered are forgotten.
    pub fn restarted(&mut self) {
        for session in &mut self.sessions {
            session.gone |= self.containers[session.of].gone;
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
        let joined = match kind {
            Kind::Joins(other) if !caller.is_admin() => match self.see(caller, other) {
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
