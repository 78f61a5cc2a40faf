//! One call of each method on each thing, harmless where it is carried out.

use conti_proto::v1::{self, delete_mount_request::Which, target};
use conti_tests::{
    api::{Api, inside, process, reason, session},
    wire::{self, Wire},
};
use tonic::{Code, Status};

use crate::{
    history,
    model::{Caller, Kind, Made, Mounted, Verdict, World},
};

/// What a method is told of.
#[derive(Debug, Clone)]
pub enum Thing {
    Nothing,
    Container(usize),
    /// A container that is to be made.
    New(Kind, Option<&'static str>),
    Session(usize),
    /// The request of the same caller that has made a container, once more.
    CreateAgain(usize),
    /// The request of the same caller that has started a session, once more.
    StartAgain(usize),
    /// One with the id of that request, for another container.
    StartElsewhere(usize, usize),
    /// A mount by its id.
    Mount(Made),
    /// A mount that is to be made in a container.
    NewMount(usize, Mounted),
    Host,
}

/// Methods whose calls end something, or wait for an end. They are made last.
pub const ENDING: [&str; 4] = ["StopContainer", "WaitContainer", "WaitSession", "DeleteContainer"];

type Cases = Vec<(Thing, Verdict)>;

/// What a method may answer a caller about each thing. `None`: there is no rule for it.
pub fn cases(world: &World, caller: &Caller, method: &str) -> Option<Cases> {
    let here = world.first..world.containers.len();
    let containers = |rule: &dyn Fn(usize) -> Verdict| -> Cases {
        here.clone().map(|one| (Thing::Container(one), rule(one))).collect()
    };
    let sessions = |rule: &dyn Fn(usize) -> Verdict| -> Cases {
        (0..world.sessions.len()).map(|one| (Thing::Session(one), rule(one))).collect()
    };
    let by_role = |allowed: bool| if allowed { Verdict::Done } else { Verdict::Denied };
    let nothing = |allowed| vec![(Thing::Nothing, by_role(allowed))];
    let enter = |one| world.enter(caller, one);
    let create_again = |same| -> Cases {
        let own = here.clone().filter(|one| {
            let container = &world.containers[*one];
            container.maker == caller.name && !container.gone
        });
        own.map(|one| (Thing::CreateAgain(one), world.create_again(caller, one, same))).collect()
    };
    // As `Stream`, or as `StartSession`.
    let start_again = |streamed| -> Cases {
        let mut all = Vec::new();
        for (index, session) in world.sessions.iter().enumerate() {
            if session.asked.is_none() || session.maker != caller.name || session.gone {
                continue;
            }
            let again = world.start_session_again(caller, index, session.streamed == streamed);
            all.push((Thing::StartAgain(index), again));
            let others = here.clone().filter(|other| *other != session.of);
            all.extend(others.map(|other| {
                let elsewhere = world.start_session_elsewhere(caller, other);
                (Thing::StartElsewhere(index, other), elsewhere)
            }));
        }
        all
    };
    let target = || {
        let mut all = containers(&enter);
        // An admin may look at the host, which takes its time.
        if !caller.is_admin() {
            all.push((Thing::Host, Verdict::Denied));
        }
        all
    };
    let mut cases = match method {
        "GetAgent" | "GetCaller" | "RenewCertificate" => nothing(true),
        "ListContainers" | "ListSessions" | "ListRecordings" => nothing(true),
        "CreateInvitation" | "ListInvitations" | "DeleteInvitation" | "ListCertificates"
        | "RevokeCertificate" | "BuildRootfs" | "ExportRootfs" => nothing(caller.is_admin()),
        "CreateContainer" => {
            let joins = here.clone().map(Kind::Joins);
            let plain = (Thing::New(Kind::Plain, None), world.create(caller, Kind::Plain, None));
            let mut all = vec![plain];
            for kind in history::KINDS.into_iter().chain(joins) {
                let team = Some("blue");
                all.push((Thing::New(kind, team), world.create(caller, kind, team)));
            }
            all.extend(create_again(true));
            all
        }
        "StartContainer" => containers(&|one| world.start_again(caller, one)),
        "StopContainer" | "KillContainer" | "DeleteContainer" => {
            containers(&|one| world.end(caller, one))
        }
        "GetContainer" | "WaitContainer" => containers(&|one| world.see(caller, one)),
        "ListDirectory" | "ReadFile" | "MeasureUsage" | "ListMounts" | "ListNetwork"
        | "ListSockets" | "ListProcesses" | "WatchProcesses" => target(),
        "StartSession" => target().into_iter().chain(start_again(false)).collect(),
        "ListNamespaces" => {
            let mut all = target();
            if !caller.is_admin() {
                all.push((Thing::Nothing, Verdict::Denied));
            }
            all
        }
        "CreateMount" => {
            let mut all = Vec::new();
            for one in here {
                for what in history::mounts_of(caller) {
                    let may = world.mount(caller, one, what);
                    all.push((Thing::NewMount(one, what), may));
                }
            }
            if !caller.is_admin() {
                all.push((Thing::Host, Verdict::Denied));
            }
            all
        }
        "DeleteMount" => {
            // By its place: nothing was made at /tmp.
            let own = |one| match enter(one) {
                Verdict::Done if !caller.is_admin() => Verdict::Denied,
                other => other,
            };
            let mut all = containers(&own);
            for (index, container) in world.containers.iter().enumerate() {
                let made = container.made.iter().filter(|made| made.there && !container.gone);
                all.extend(made.map(|made| (Thing::Mount(made.clone()), enter(index))));
            }
            all
        }
        // To run a container, to start a session and to drive one; to look only has a viewer's role.
        "Stream" => {
            let operator = caller.role >= v1::Role::Operator;
            let mut all = target();
            let new = cases(world, caller, "CreateContainer")?.into_iter();
            all.extend(new.filter(|(thing, _)| !matches!(thing, Thing::CreateAgain(_))));
            all.extend(create_again(false));
            all.extend(start_again(true));
            all.extend(sessions(&|one| world.read_session(caller, one)));
            for (thing, verdict) in all.iter_mut().filter(|_| !operator) {
                // A session is looked for first.
                if !matches!((&thing, &verdict), (Thing::Session(_), Verdict::NotThere)) {
                    *verdict = Verdict::Denied;
                }
            }
            return Some(all);
        }
        "ReadSession" | "WriteSession" | "ResizeSession" => {
            sessions(&|one| world.read_session(caller, one))
        }
        "CloseSessionInput" | "SignalSession" => sessions(&|one| world.end_session(caller, one)),
        "GetSession" | "WaitSession" => sessions(&|one| world.see_session(caller, one)),
        "ReadRecording" => sessions(&|one| world.recording(caller, one)),
        _ => return None,
    };
    if caller.role < least(method) {
        cases.iter_mut().for_each(|(_, verdict)| *verdict = Verdict::Denied);
    }
    Some(cases)
}

/// The least role of a method, as docs/authorization.md has it.
fn least(method: &str) -> v1::Role {
    match crate::table::rows().remove(method).map(|row| row.role).as_deref() {
        Some("viewer") => v1::Role::Viewer,
        Some("operator") => v1::Role::Operator,
        _ => v1::Role::Admin,
    }
}

pub fn verdict(answer: &Result<(), Status>) -> Verdict {
    match answer.as_ref().map_err(Status::code) {
        Err(Code::PermissionDenied) => Verdict::Denied,
        Err(Code::NotFound) => Verdict::NotThere,
        Err(Code::AlreadyExists) if is_taken(answer) => Verdict::Taken,
        Err(Code::Unauthenticated | Code::Unimplemented | Code::Internal | Code::Unknown) => {
            panic!("no answer: {answer:?}")
        }
        _ => Verdict::Done,
    }
}

fn is_taken(answer: &Result<(), Status>) -> bool {
    answer.as_ref().is_err_and(|status| reason(status) == "REQUEST_ID_TAKEN")
}

/// Makes a call. A container that is named by `New` is never made: its name is taken.
pub async fn call(api: &mut Api, method: &str, world: &World, thing: &Thing) -> Result<(), Status> {
    let (key, id) = match thing {
        Thing::Container(index) | Thing::NewMount(index, _) => {
            (world.containers[*index].id.clone(), String::new())
        }
        Thing::Session(index) => (String::new(), world.sessions[*index].id.clone()),
        _ => (String::new(), String::new()),
    };
    let of = match thing {
        Thing::Host => Some(target::Target::Host(v1::HostTarget {})),
        Thing::Nothing => None,
        _ => Some(target::Target::Container(key.clone())),
    };
    let of = of.map(|of| v1::Target { target: Some(of) });
    let container = || key.clone();
    macro_rules! plain {
        ($client:ident.$method:ident($message:expr)) => {
            api.$client.$method($message).await.map(|_| ())
        };
    }
    macro_rules! stream {
        ($client:ident.$method:ident($message:expr)) => {
            match api.$client.$method($message).await {
                Ok(answer) => answer.into_inner().message().await.map(|_| ()),
                Err(status) => Err(status),
            }
        };
    }
    let new = |kind: Kind, team| {
        // Taken by the world itself, for as long as it lives.
        let mut spec = history::spec(world, "taken", kind, team);
        spec.auto_remove = false;
        spec
    };
    let exec = |key: &str| match thing {
        Thing::Host => v1::SessionSpec {
            target: Some(v1::SessionTarget {
                target: Some(v1::session_target::Target::Unshare(v1::UnshareTarget::default())),
            }),
            ..session("x", process(["true"]))
        },
        _ => session(key, process(["true"])),
    };
    match method {
        "GetAgent" => plain!(agent.get_agent(v1::GetAgentRequest {})),
        "GetCaller" => plain!(agent.get_caller(v1::GetCallerRequest {})),
        "CreateInvitation" => plain!(pki.create_invitation(v1::CreateInvitationRequest::default())),
        "ListInvitations" => plain!(pki.list_invitations(v1::ListInvitationsRequest::default())),
        "DeleteInvitation" => plain!(pki.delete_invitation(v1::DeleteInvitationRequest::default())),
        "ListCertificates" => plain!(pki.list_certificates(v1::ListCertificatesRequest::default())),
        "RevokeCertificate" => {
            plain!(pki.revoke_certificate(v1::RevokeCertificateRequest::default()))
        }
        "RenewCertificate" => plain!(pki.renew_certificate(v1::RenewCertificateRequest::default())),
        "BuildRootfs" => plain!(rootfs.build_rootfs(v1::BuildRootfsRequest::default())),
        "ExportRootfs" => stream!(rootfs.export_rootfs(v1::ExportRootfsRequest::default())),
        "ListContainers" => {
            plain!(containers.list_containers(v1::ListContainersRequest::default()))
        }
        "ListSessions" => plain!(sessions.list_sessions(v1::ListSessionsRequest::default())),
        "ListRecordings" => plain!(sessions.list_recordings(v1::ListRecordingsRequest::default())),
        "CreateContainer" => {
            if let Thing::CreateAgain(index) = *thing {
                let request = history::create_request(&world.containers[index].asked);
                return plain!(containers.create_container(request));
            }
            let Thing::New(kind, team) = *thing else { panic!("no container to make") };
            let spec = Some(new(kind, team));
            plain!(
                containers
                    .create_container(v1::CreateContainerRequest { spec, ..Default::default() })
            )
        }
        "StartContainer" => plain!(containers.start_container(v1::StartContainerRequest {
            container: container(),
            ..Default::default()
        })),
        "StopContainer" => plain!(containers.stop_container(v1::StopContainerRequest {
            container: container(),
            grace: Some(prost_types::Duration::default()),
            ..Default::default()
        })),
        "KillContainer" => plain!(containers.kill_container(v1::KillContainerRequest {
            container: container(),
            signal: "CONT".into()
        })),
        "DeleteContainer" => plain!(containers.delete_container(v1::DeleteContainerRequest {
            container: container(),
            force: true,
            allow_missing: false
        })),
        "GetContainer" => {
            plain!(containers.get_container(v1::GetContainerRequest { container: container() }))
        }
        "WaitContainer" => {
            plain!(containers.wait_container(v1::WaitContainerRequest { container: container() }))
        }
        "ListDirectory" => {
            let path = "/etc".into();
            stream!(files.list_directory(v1::ListDirectoryRequest { target: of, path }))
        }
        "ReadFile" => stream!(files.read_file(v1::ReadFileRequest {
            target: of,
            path: "/etc/hostname".into(),
            ..Default::default()
        })),
        "MeasureUsage" => stream!(files.measure_usage(v1::MeasureUsageRequest {
            target: of,
            paths: vec!["/dev/null".into()],
            ..Default::default()
        })),
        "ListMounts" => stream!(mounts.list_mounts(v1::ListMountsRequest {
            target: of,
            skip_usage: true,
            ..Default::default()
        })),
        "CreateMount" => {
            let what = match thing {
                Thing::NewMount(_, what) => *what,
                _ => Mounted::Tmpfs,
            };
            let request = history::mount_request(of, &key, "/mnt", what);
            plain!(mounts.create_mount(v1::CreateMountRequest { dry_run: true, ..request }))
        }
        "DeleteMount" => {
            let which = match thing {
                Thing::Mount(made) => Which::Id(made.id.clone()),
                _ => Which::Point(v1::MountPoint { target: of, point: "/tmp".into() }),
            };
            plain!(mounts.delete_mount(v1::DeleteMountRequest {
                which: Some(which),
                lazy: true,
                dry_run: true
            }))
        }
        "ListNamespaces" => stream!(
            namespaces
                .list_namespaces(v1::ListNamespacesRequest { target: of, ..Default::default() })
        ),
        "ListNetwork" => stream!(network.list_network(v1::ListNetworkRequest { target: of })),
        "ListSockets" => stream!(
            network.list_sockets(v1::ListSocketsRequest { target: of, ..Default::default() })
        ),
        "ListProcesses" => {
            stream!(processes.list_processes(v1::ListProcessesRequest { target: of }))
        }
        "WatchProcesses" => stream!(
            processes
                .watch_processes(v1::WatchProcessesRequest { target: of, ..Default::default() })
        ),
        "StartSession" => {
            if let Some(asked) = repeated(world, thing) {
                return plain!(sessions.start_session(history::start_request(&asked)));
            }
            let spec = Some(exec(&key));
            plain!(sessions.start_session(v1::StartSessionRequest { spec, ..Default::default() }))
        }
        "Stream" => {
            let open = match thing {
                Thing::New(kind, team) => wire::run(new(*kind, *team)),
                Thing::Session(_) => wire::attach(&id, None),
                Thing::CreateAgain(index) => {
                    let (id, spec) = &world.containers[*index].asked;
                    v1::StreamOpen { request_id: id.clone(), ..wire::run(spec.clone()) }
                }
                Thing::StartAgain(_) | Thing::StartElsewhere(..) => {
                    history::start_stream(&repeated(world, thing).expect("a request"))
                }
                _ => wire::start(exec(&key)),
            };
            Wire::open(api, open).await.map(drop)
        }
        "ReadSession" => stream!(
            sessions.read_session(v1::ReadSessionRequest { session_id: id, ..Default::default() })
        ),
        "WriteSession" => plain!(sessions.write_session(v1::WriteSessionRequest {
            session_id: id,
            data: "x".into(),
            ..Default::default()
        })),
        "CloseSessionInput" => {
            plain!(sessions.close_session_input(v1::CloseSessionInputRequest { session_id: id }))
        }
        "ResizeSession" => {
            let size = Some(v1::TerminalSize { columns: 80, rows: 24 });
            plain!(sessions.resize_session(v1::ResizeSessionRequest { session_id: id, size }))
        }
        "SignalSession" => plain!(
            sessions
                .signal_session(v1::SignalSessionRequest { session_id: id, signal: "CONT".into() })
        ),
        "WaitSession" => {
            plain!(sessions.wait_session(v1::WaitSessionRequest { session_id: id }))
        }
        "GetSession" => plain!(sessions.get_session(v1::GetSessionRequest { session_id: id })),
        "ReadRecording" => {
            stream!(sessions.read_recording(v1::ReadRecordingRequest { session_id: id }))
        }
        other => panic!("{other} is called in no way"),
    }
}

/// A request for a session that is repeated, with its id.
fn repeated(world: &World, thing: &Thing) -> Option<(String, v1::SessionSpec)> {
    match thing {
        Thing::StartAgain(index) => world.sessions[*index].asked.clone(),
        Thing::StartElsewhere(index, other) => {
            let (id, spec) = world.sessions[*index].asked.clone()?;
            let target = Some(inside(&world.containers[*other].id));
            Some((id, v1::SessionSpec { target, ..spec }))
        }
        _ => None,
    }
}
