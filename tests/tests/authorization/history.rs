//! Random histories: what was made, by whom, and what happened to it since.

use std::{path::PathBuf, sync::OnceLock};

use conti_proto::v1::{
    self, BindMount, ContainerSpec, CreateMountRequest, NamespaceMode, SessionPolicy, SessionSpec,
    mount::Source, target,
};
use conti_tests::{
    api::{Api, bind, process, session, sleeper},
    wire::{self, Wire},
};
use tonic::{Code, Status};

use crate::{
    calls::verdict,
    model::{
        CALLERS, Caller, Confined, Container, Kind, Made, Mounted, Reached, Session, Verdict, World,
    },
};

/// Kinds of containers that stand alone.
pub const KINDS: [Kind; 9] = [
    Kind::Plain,
    Kind::Privileged,
    Kind::HostNetwork,
    Kind::HostUsers,
    Kind::ChosenIds,
    Kind::BindsSecret,
    Kind::BindsGranted,
    Kind::BindsPlanted,
    Kind::NetAdmin,
];

/// Numbers from a seed (splitmix64).
#[derive(Debug)]
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// The directory that was granted to one caller, and one that was granted to nobody.
pub static PLACES: OnceLock<[PathBuf; 2]> = OnceLock::new();

fn place(granted: bool) -> &'static PathBuf {
    &PLACES.get().expect("they were made")[usize::from(!granted)]
}

/// The name of a link in the granted directory that leads to the other one.
pub const LINK: &str = "link";

/// The mounts that a caller may ask for.
pub fn mounts_of(caller: &Caller) -> [Mounted; 5] {
    let copy = Mounted::Copy(caller.role, caller.granted);
    [Mounted::Tmpfs, Mounted::Secret, Mounted::Granted, Mounted::Planted, copy]
}

/// A container of a kind.
pub fn spec(world: &World, name: &str, kind: Kind, team: Option<&str>) -> ContainerSpec {
    let mut spec = sleeper(name);
    spec.labels = team.map(|team| ("team".to_owned(), team.to_owned())).into_iter().collect();
    let host = || Some(v1::Namespace { mode: NamespaceMode::Host.into(), ..Default::default() });
    let mut namespaces = v1::Namespaces::default();
    let main = spec.process.as_mut().expect("a process");
    match kind {
        Kind::Plain => {}
        Kind::Privileged => main.confinement = confinement(Confined::Privileged),
        Kind::NetAdmin => main.confinement = confinement(Confined::NetAdmin),
        Kind::HostNetwork => namespaces.net = host(),
        Kind::HostUsers => namespaces.user = host(),
        Kind::ChosenIds => {
            let map = v1::IdMapping { inside: 0, outside: 300_000, count: 65_536 };
            let mode = NamespaceMode::Private.into();
            namespaces.user = Some(v1::Namespace { mode, ..Default::default() });
            namespaces.uid_mappings = vec![map];
            namespaces.gid_mappings = vec![map];
        }
        Kind::BindsSecret => spec.mounts = vec![bind(place(false), "/m")],
        Kind::BindsGranted => spec.mounts = vec![bind(place(true), "/m")],
        Kind::BindsPlanted => spec.mounts = vec![bind(&place(true).join(LINK), "/m")],
        Kind::Joins(other) => {
            let container = world.containers[other].id.clone();
            let mode = NamespaceMode::Container.into();
            namespaces.uts = Some(v1::Namespace { mode, container });
        }
        Kind::Beside(other, secret) => {
            let container = world.containers[other].id.clone();
            let mode = NamespaceMode::Container.into();
            let joined = Some(v1::Namespace { mode, container });
            (namespaces.pid, namespaces.user) = (joined.clone(), joined);
            spec.mounts = secret.then(|| bind(place(false), "/m")).into_iter().collect();
        }
    }
    spec.namespaces = Some(namespaces);
    spec.session_policy = Some(lasting(false));
    spec
}

/// A session that goes on when whoever drives it has gone.
fn lasting(record: bool) -> SessionPolicy {
    let disconnect_policy = v1::DisconnectPolicy::Detach.into();
    SessionPolicy { disconnect_policy, record, ..Default::default() }
}

fn confinement(confined: Confined) -> Option<v1::Confinement> {
    match confined {
        Confined::Usual => None,
        Confined::NetAdmin => {
            Some(v1::Confinement { cap_add: vec!["NET_ADMIN".into()], ..Default::default() })
        }
        Confined::Privileged => {
            Some(v1::Confinement { privileged: Some(true), ..Default::default() })
        }
    }
}

/// What has a container or a session that is confined as it is made.
fn confined(kind: Kind) -> Confined {
    match kind {
        Kind::Privileged => Confined::Privileged,
        Kind::NetAdmin => Confined::NetAdmin,
        _ => Confined::Usual,
    }
}

/// A request for a mount.
pub fn mount_request(
    target: Option<v1::Target>,
    container: &str,
    point: &str,
    what: Mounted,
) -> CreateMountRequest {
    let mut request = CreateMountRequest { target, create_point: true, ..Default::default() };
    let mount = match what {
        Mounted::Tmpfs => v1::Mount {
            target: point.to_owned(),
            source: Some(Source::Tmpfs(v1::TmpfsMount::default())),
            read_only: false,
        },
        Mounted::Secret => bind(place(false), point),
        Mounted::Granted => bind(place(true), point),
        Mounted::Planted => bind(&place(true).join(LINK), point),
        Mounted::Copy(..) => {
            request.source_container = container.to_owned();
            let source =
                BindMount { source: "/etc".to_owned(), non_recursive: true, ..Default::default() };
            let source = Some(Source::Bind(source));
            v1::Mount { target: point.to_owned(), source, read_only: false }
        }
    };
    request.mount = Some(mount);
    request
}

/// Asks for a container as a caller, and notes it where it was made.
pub async fn create(
    apis: &mut [Api],
    world: &mut World,
    (who, kind, team): (usize, Kind, Option<&'static str>),
    name: String,
    auto_remove: bool,
) -> String {
    let caller = &CALLERS[who];
    let wanted = ContainerSpec { auto_remove, ..spec(world, &name, kind, team) };
    let may = world.create(caller, kind, team);
    let asked = (format!("create {}", world.containers.len()), wanted);
    let answer = apis[who].containers.create_container(create_request(&asked)).await;
    let did = format!("{} makes {name}, {kind:?} of {team:?}: {may:?}", caller.name);
    assert_eq!(
        verdict(&answer.as_ref().map(drop).map_err(Status::clone)),
        may,
        "{did}: {answer:?}"
    );
    if may == Verdict::Done {
        let made = answer.unwrap_or_else(|error| panic!("{did}: {error:?}")).into_inner();
        let made = made.container.expect("a container");
        let (id, maker) = (made.id, caller.name);
        let of = world.containers.len();
        let pid_namespace = match kind {
            Kind::Beside(other, _) => world.containers[other].pid_namespace,
            _ => of,
        };
        let container = Container {
            id,
            name,
            team,
            kind,
            maker,
            asked,
            auto_remove,
            made: Vec::new(),
            pid_namespace,
            runs: false,
            reached: Reached::default(),
            gone: false,
        };
        world.containers.push(container);
        world.started(of);
        world.sessions.push(Session {
            id: made.session_id,
            of,
            main: true,
            maker,
            asked: None,
            streamed: false,
            recorded: false,
            confined: confined(kind),
            reached: world.reached_from(of),
            gone: false,
        });
    }
    did
}

/// A request for a container, with its id.
pub fn create_request((id, spec): &(String, ContainerSpec)) -> v1::CreateContainerRequest {
    let (spec, request_id) = (Some(spec.clone()), id.clone());
    v1::CreateContainerRequest { spec, request_id, start: true }
}

/// A request for a session, with its id.
pub fn start_request((id, spec): &(String, SessionSpec)) -> v1::StartSessionRequest {
    v1::StartSessionRequest { spec: Some(spec.clone()), request_id: id.clone() }
}

/// As [`start_request`], as the first message of a stream.
pub fn start_stream((id, spec): &(String, SessionSpec)) -> v1::StreamOpen {
    v1::StreamOpen { request_id: id.clone(), ..wire::start(spec.clone()) }
}

/// Does something random: what was done.
pub async fn step(apis: &mut [Api], world: &mut World, chance: &mut Chance) -> String {
    let there: Vec<usize> = (world.first + 1..world.containers.len())
        .filter(|one| world.containers[*one].runs)
        .collect();
    let who = 1 + chance.below(3);
    if there.len() < 2 || chance.once_in(3) {
        let joins = there.iter().map(|one| Kind::Joins(*one));
        // Those with ids that are not the host's.
        let mapped = there.iter().filter(|one| {
            let kind = world.containers[**one].kind;
            matches!(
                kind,
                Kind::Plain
                    | Kind::BindsSecret
                    | Kind::BindsGranted
                    | Kind::Joins(_)
                    | Kind::Beside(..)
            )
        });
        let beside = mapped.flat_map(|one| [Kind::Beside(*one, false), Kind::Beside(*one, true)]);
        let kinds: Vec<Kind> =
            KINDS.into_iter().chain(joins.clone()).chain(joins).chain(beside).collect();
        let (kind, team) = (chance.of(&kinds), chance.of(&[None, Some("blue")]));
        // What is refused leaves nothing to be looked at: an admin does it instead, for the most part.
        let may = world.create(&CALLERS[who], kind, team) == Verdict::Done;
        let led_out = may && kind == Kind::BindsPlanted;
        let asks = !led_out && (may || chance.once_in(4));
        let what = (if asks { who } else { 3 }, kind, team);
        let name = format!("c{}", world.containers.len());
        // One that ends with another is not removed at a moment that nobody knows.
        let auto_remove = chance.once_in(3) && !matches!(kind, Kind::Beside(..));
        return create(apis, world, what, name, auto_remove).await;
    }
    let mut index = chance.of(&there);
    // What happens to one that was joined matters to two.
    if let Some(other) = world.containers[index].kind.joins()
        && there.contains(&other)
        && chance.once_in(2)
    {
        index = other;
    }
    match chance.below(9) {
        0..4 => mount(apis, world, chance, (who, index)).await,
        4 => unmount(&mut apis[3], world, index).await,
        5 => {
            let name = world.containers[index].name.clone();
            apis[3].delete(&name).await.expect("an admin may");
            world.gone(index);
            ended(&mut apis[3], world).await;
            // Nobody takes its place, for what has joined it, by its id as a name.
            let squatter = sleeper(&world.containers[index].id);
            let refused = apis[who].run(squatter).await.expect_err("it is an id");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
            format!("root deletes {name}")
        }
        _ => exec(apis, world, chance, (who, index)).await,
    }
}

/// Waits until all has ended that ran in what was stopped, or in its pid namespace.
pub async fn ended(admin: &mut Api, world: &World) {
    let of_ended = |session: &&Session| {
        let of = &world.containers[session.of];
        !session.gone && !of.gone && !of.runs
    };
    for session in world.sessions.iter().filter(of_ended) {
        let request = v1::WaitSessionRequest { session_id: session.id.clone() };
        admin.sessions.wait_session(request).await.expect("an admin may");
    }
}

async fn mount(
    apis: &mut [Api],
    world: &mut World,
    chance: &mut Chance,
    (who, index): (usize, usize),
) -> String {
    let who = if chance.once_in(2) { 3 } else { who };
    let caller = &CALLERS[who];
    let what = chance.of(&mounts_of(caller));
    if what == Mounted::Planted && caller.granted {
        return format!("{} would be led out of what it was granted", caller.name);
    }
    let (id, name) = (world.containers[index].id.clone(), world.containers[index].name.clone());
    let may = world.mount(caller, index, what);
    let point = format!("/mnt/{}", world.containers[index].made.len());
    let of = Some(v1::Target { target: Some(target::Target::Container(id.clone())) });
    let answer = apis[who].mounts.create_mount(mount_request(of, &id, &point, what)).await;
    let did = format!("{} mounts {what:?} into {name}: {may:?}", caller.name);
    assert_eq!(
        verdict(&answer.as_ref().map(drop).map_err(Status::clone)),
        may,
        "{did}: {answer:?}"
    );
    if may == Verdict::Done {
        let made = answer.unwrap_or_else(|error| panic!("{did}: {error:?}")).into_inner();
        let id = made.mount.expect("a mount").id;
        world.mounted(index, Made { id, what, there: true });
    }
    did
}

/// An admin takes away what was mounted last. What ran meanwhile may have read it.
async fn unmount(admin: &mut Api, world: &mut World, index: usize) -> String {
    let container = &mut world.containers[index];
    let Some(made) = container.made.iter_mut().rfind(|made| made.there) else {
        return format!("nothing is mounted in {}", container.name);
    };
    made.there = false;
    let which = Some(v1::delete_mount_request::Which::Id(made.id.clone()));
    let request = v1::DeleteMountRequest { which, lazy: true, dry_run: false };
    admin.mounts.delete_mount(request).await.expect("an admin may");
    format!("root unmounts {:?} from {}", made.what, container.name)
}

async fn exec(
    apis: &mut [Api],
    world: &mut World,
    chance: &mut Chance,
    (who, index): (usize, usize),
) -> String {
    let caller = &CALLERS[who];
    let asked = chance.of(&[Confined::Usual, Confined::NetAdmin, Confined::Privileged]);
    let recorded = !chance.once_in(3);
    let (id, kind) = (world.containers[index].id.clone(), world.containers[index].kind);
    let mut sleep = process(["sleep", "100000"]);
    (sleep.stdin, sleep.confinement) = (true, confinement(asked));
    let mut spec = session(&id, sleep);
    spec.policy = Some(lasting(recorded));
    let may = match world.enter(caller, index) {
        // What is not seen is not there, whatever is asked for.
        Verdict::Done if !caller.may_run(asked) => Verdict::Denied,
        other => other,
    };
    let streamed = chance.once_in(2);
    let request = (format!("start {}", world.sessions.len()), spec);
    let answer = match streamed {
        true => {
            let opened = Wire::open(&mut apis[who], start_stream(&request)).await;
            opened.map(|wire| wire.session().id.clone())
        }
        false => {
            let started = apis[who].sessions.start_session(start_request(&request)).await;
            started.map(|started| started.into_inner().session.expect("a session").id)
        }
    };
    let did =
        format!("{} runs {asked:?} in {}: {may:?}", caller.name, world.containers[index].name);
    assert_eq!(
        verdict(&answer.as_ref().map(drop).map_err(Status::clone)),
        may,
        "{did}: {answer:?}"
    );
    if may == Verdict::Done {
        let id = answer.unwrap_or_else(|error| panic!("{did}: {error:?}"));
        // Where nothing is said it is confined as the main process.
        let confined = if asked == Confined::Usual { confined(kind) } else { asked };
        world.sessions.push(Session {
            id,
            of: index,
            main: false,
            maker: caller.name,
            asked: Some(request),
            streamed,
            recorded,
            confined,
            reached: world.reached_from(index),
            gone: false,
        });
    }
    did
}
