//! What a request is about, read from its first message.
//!
//! What is not known here is recorded all the same, with its method alone.

use conti_proto::v1::{
    self, mount::Source, session_target, stream_open::Open, stream_request::Message as Sent,
    target::Target,
};
use conti_shared::text;
use prost::Message;

use crate::{access::Role, audit::Subject, redact::Arguments};

/// How far a call reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It looks at containers.
    Looks,
    /// It looks at the host, or at a process of it.
    Host,
    /// It needs more than a viewer.
    Changes,
}

/// What a method alone says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It looks at containers.
    Looks,
    /// It needs more than a viewer.
    Changes,
    /// Its request says it.
    Asks,
}

const STREAM: &str = "/conti.v1.SessionService/Stream";
/// Services whose requests have a target as their first field.
const TARGETED: [&str; 5] = [
    "/conti.v1.FileService/",
    "/conti.v1.ProcessService/",
    "/conti.v1.NetworkService/",
    "/conti.v1.NamespaceService/",
    "/conti.v1.MountService/",
];

/// What is known of a method. `least`: the least role that may call it; `None`: guests.
pub fn known(path: &str, least: Option<Role>) -> Known {
    match least {
        // It gives its caller a certificate.
        Some(Role::Viewer) if path == "/conti.v1.PkiService/RenewCertificate" => Known::Changes,
        Some(Role::Viewer) => {
            let asks = path == STREAM || TARGETED.iter().any(|service| path.starts_with(service));
            if asks { Known::Asks } else { Known::Looks }
        }
        Some(Role::Operator | Role::Admin) | None => Known::Changes,
    }
}

/// What a request is about, with the arguments of commands shown so, and how far it reaches.
pub fn of(path: &str, message: &[u8], known: Known, shown: Arguments<'_>) -> (Subject, Reach) {
    let mut subject = Subject::default();
    let reach = match known {
        Known::Looks => Reach::Looks,
        Known::Changes => Reach::Changes,
        // What cannot be read may be anything.
        Known::Asks => Reach::Host,
    };
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    let asked = match (service, method) {
        ("conti.v1.SessionService", "Stream") => stream(message, &mut subject, shown),
        ("conti.v1.SessionService", "StartSession") => {
            let request: v1::StartSessionRequest = decoded(message);
            session(&request.spec.unwrap_or_default(), &mut subject, shown);
            Reach::Changes
        }
        // Its field 1 is another.
        ("conti.v1.SessionService", "ListSessions" | "ListRecordings") => Reach::Looks,
        ("conti.v1.SessionService", "SignalSession") => {
            let request: v1::SignalSessionRequest = decoded(message);
            subject.session = some(request.session_id);
            subject.detail = some(request.signal);
            Reach::Changes
        }
        ("conti.v1.SessionService", _) => {
            subject.session = some(decoded::<v1::GetSessionRequest>(message).session_id);
            Reach::Looks
        }
        ("conti.v1.ContainerService", "CreateContainer") => {
            let request: v1::CreateContainerRequest = decoded(message);
            container(&request.spec.unwrap_or_default(), &mut subject, shown);
            Reach::Changes
        }
        ("conti.v1.ContainerService", "ListContainers") => Reach::Looks,
        ("conti.v1.ContainerService", "KillContainer") => {
            let request: v1::KillContainerRequest = decoded(message);
            subject.target = some(request.container);
            subject.detail = some(request.signal);
            Reach::Changes
        }
        ("conti.v1.ContainerService", _) => {
            subject.target = some(decoded::<v1::GetContainerRequest>(message).container);
            Reach::Looks
        }
        ("conti.v1.MountService", "CreateMount") => {
            let request: v1::CreateMountRequest = decoded(message);
            let mount = request.mount.unwrap_or_default();
            let of = match request.source_container.as_str() {
                "" => String::new(),
                container => format!(" of container {container}"),
            };
            let source = source(mount.source);
            subject.detail = Some(format!("{source}{of} on {}", mount.target));
            target(request.target.and_then(|target| target.target), &mut subject)
        }
        ("conti.v1.MountService", "DeleteMount") => {
            match decoded::<v1::DeleteMountRequest>(message).which {
                Some(v1::delete_mount_request::Which::Id(id)) => subject.detail = Some(id),
                Some(v1::delete_mount_request::Which::Point(at)) => {
                    subject.detail = Some(text::bytes(&at.point));
                    target(at.target.and_then(|target| target.target), &mut subject);
                }
                None => {}
            }
            Reach::Changes
        }
        ("conti.v1.FileService", "MeasureUsage") => {
            let request: v1::MeasureUsageRequest = decoded(message);
            target(request.target.and_then(|target| target.target), &mut subject)
        }
        ("conti.v1.FileService", _) => {
            let request: v1::ReadFileRequest = decoded(message);
            subject.detail = Some(text::bytes(&request.path));
            target(request.target.and_then(|target| target.target), &mut subject)
        }
        (
            "conti.v1.ProcessService"
            | "conti.v1.NetworkService"
            | "conti.v1.NamespaceService"
            | "conti.v1.MountService",
            _,
        ) => {
            let request: v1::ListProcessesRequest = decoded(message);
            target(request.target.and_then(|target| target.target), &mut subject)
        }
        ("conti.v1.RootfsService", "BuildRootfs") => {
            let request: v1::BuildRootfsRequest = decoded(message);
            (subject.target, subject.detail) = (Some("host".to_owned()), some(request.directory));
            Reach::Changes
        }
        ("conti.v1.PkiService", "CreateInvitation") => {
            let request: v1::CreateInvitationRequest = decoded(message);
            let role = v1::Role::try_from(request.role).map_or("", |role| role.as_str_name());
            subject.detail = Some(format!("{} as {role}", request.name));
            Reach::Changes
        }
        ("conti.v1.PkiService", "RevokeCertificate") => {
            let request: v1::RevokeCertificateRequest = decoded(message);
            subject.detail = request.which.map(|which| match which {
                v1::revoke_certificate_request::Which::Serial(serial) => serial,
                v1::revoke_certificate_request::Which::Name(name) => name,
            });
            Reach::Changes
        }
        ("conti.v1.PkiService", "DeleteInvitation") => {
            subject.detail = some(decoded::<v1::DeleteInvitationRequest>(message).id);
            Reach::Changes
        }
        ("conti.v1.JoinService", "Join") => {
            // Its secret must not be kept.
            subject.detail = some(decoded::<v1::JoinRequest>(message).invitation_id);
            Reach::Changes
        }
        _ => reach,
    };
    let reach = match known {
        Known::Looks => Reach::Looks,
        Known::Changes => Reach::Changes,
        Known::Asks => asked,
    };
    subject.shorten();
    (subject, reach)
}

fn stream(message: &[u8], subject: &mut Subject, shown: Arguments<'_>) -> Reach {
    let Some(Sent::Open(open)) = decoded::<v1::StreamRequest>(message).message else {
        return Reach::Changes;
    };
    match open.open {
        Some(Open::Run(run)) => {
            container(&run.spec.unwrap_or_default(), subject, shown);
            Reach::Changes
        }
        Some(Open::Start(spec)) => {
            session(&spec, subject, shown);
            Reach::Changes
        }
        Some(Open::Attach(attach)) => {
            subject.session = some(attach.session_id);
            subject.target = some(attach.container);
            if attach.view_only { Reach::Looks } else { Reach::Changes }
        }
        None => Reach::Changes,
    }
}

fn container(spec: &v1::ContainerSpec, subject: &mut Subject, shown: Arguments<'_>) {
    subject.target = some(spec.name.clone());
    process(spec.process.as_ref(), subject, shown);
}

fn session(spec: &v1::SessionSpec, subject: &mut Subject, shown: Arguments<'_>) {
    match spec.target.as_ref().and_then(|target| target.target.as_ref()) {
        Some(session_target::Target::Container(key)) => subject.target = some(key.clone()),
        Some(session_target::Target::Process(process)) => {
            subject.target = Some(format!("pid:{}", process.pid));
        }
        Some(session_target::Target::Unshare(_)) => subject.target = Some("host".to_owned()),
        Some(session_target::Target::Debug(debug)) => {
            target(debug.target.clone().and_then(|target| target.target), subject);
        }
        None => {}
    }
    process(spec.process.as_ref(), subject, shown);
}

fn process(process: Option<&v1::ProcessSpec>, subject: &mut Subject, shown: Arguments<'_>) {
    let Some(process) = process else { return };
    let names: Vec<String> = process.env.keys().cloned().collect();
    subject.command(shown.shown(&process.argv), &names, process.terminal.is_some());
    subject.user = process.user.as_ref().and_then(|user| some(user.user.clone()));
}

fn target(target: Option<Target>, subject: &mut Subject) -> Reach {
    let (name, reach) = match target {
        Some(Target::Container(key)) => (key, Reach::Looks),
        Some(Target::Process(process)) => (format!("pid:{}", process.pid), Reach::Host),
        // Where it may be left out, all of the host is meant.
        Some(Target::Host(_)) | None => ("host".to_owned(), Reach::Host),
    };
    subject.target = some(name);
    reach
}

fn source(source: Option<Source>) -> String {
    match source {
        Some(Source::Bind(bind)) => bind.source,
        Some(Source::Device(device)) => device.source,
        Some(Source::Tmpfs(_)) => "tmpfs".to_owned(),
        Some(Source::Overlay(v1::OverlayMount { lowers, upper, .. })) => {
            let upper = if upper.is_empty() { upper } else { format!(", writable in {upper}") };
            format!("overlay of {}{upper}", lowers.join(":"))
        }
        None => String::new(),
    }
}

/// What cannot be read stands for nothing; its method will say so.
fn decoded<M: Message + Default>(message: &[u8]) -> M {
    M::decode(message).unwrap_or_default()
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use conti_proto::METHODS;

    use super::*;
    use crate::service::access;

    #[test]
    fn every_method_that_needs_more_than_a_viewer_is_recorded_whatever_it_is_sent() {
        for (path, role) in METHODS {
            let known = known(path, access::least(path));
            for message in [&b""[..], b"\xff\xff", b"\x0a\x03abc"] {
                let (_, reach) = of(path, message, known, Arguments::Redacted);
                let more = !matches!(role, v1::Role::Viewer);
                assert!(!more || reach == Reach::Changes, "{path} {message:?}");
            }
        }
    }

    #[test]
    fn what_only_ends_or_removes_is_known_by_its_name() {
        let ending: Vec<&str> =
            METHODS.iter().map(|(path, _)| *path).filter(|path| crate::audit::ends(path)).collect();
        let wanted = [
            "/conti.v1.ContainerService/StopContainer",
            "/conti.v1.ContainerService/KillContainer",
            "/conti.v1.ContainerService/DeleteContainer",
            "/conti.v1.MountService/DeleteMount",
            "/conti.v1.PkiService/DeleteInvitation",
            "/conti.v1.PkiService/RevokeCertificate",
            "/conti.v1.SessionService/SignalSession",
        ];
        assert_eq!(ending.len(), wanted.len(), "{ending:?}");
        assert!(wanted.iter().all(|path| ending.contains(path)), "{ending:?}");
    }

    #[test]
    fn a_look_at_the_host_is_told_from_one_at_a_container() {
        let of = |path: &str, message: &v1::ListProcessesRequest| {
            let known = known(path, access::least(path));
            of(path, &message.encode_to_vec(), known, Arguments::Redacted)
        };
        let request =
            |target| v1::ListProcessesRequest { target: Some(v1::Target { target: Some(target) }) };
        let path = "/conti.v1.ProcessService/ListProcesses";
        let (subject, reach) = of(path, &request(Target::Container("web".into())));
        assert_eq!((subject.target.as_deref(), reach), (Some("web"), Reach::Looks));
        let process = v1::ProcessId { pid: 7, start_ticks: 0 };
        let (subject, reach) = of(path, &request(Target::Process(process)));
        assert_eq!((subject.target.as_deref(), reach), (Some("pid:7"), Reach::Host));
        let (subject, reach) =
            of("/conti.v1.NamespaceService/ListNamespaces", &v1::ListProcessesRequest::default());
        assert_eq!((subject.target.as_deref(), reach), (Some("host"), Reach::Host));
    }

    #[test]
    fn a_mount_says_from_which_container_and_of_which_directories_it_is() {
        let detail = |source, from: &str| {
            let mount =
                v1::Mount { target: "/m".into(), source: Some(source), ..Default::default() };
            let request = v1::CreateMountRequest {
                mount: Some(mount),
                source_container: from.into(),
                ..Default::default()
            };
            let path = "/conti.v1.MountService/CreateMount";
            let known = known(path, access::least(path));
            let (subject, _) = of(path, &request.encode_to_vec(), known, Arguments::Redacted);
            subject.detail.expect("a detail")
        };
        let bind = || Source::Bind(v1::BindMount { source: "/etc".into(), ..Default::default() });
        assert_eq!(detail(bind(), ""), "/etc on /m");
        assert_eq!(detail(bind(), "web"), "/etc of container web on /m");
        let lowers = vec!["/a".into(), "/b".into()];
        let mut overlay = v1::OverlayMount { lowers, ..Default::default() };
        assert_eq!(detail(Source::Overlay(overlay.clone()), ""), "overlay of /a:/b on /m");
        overlay.upper = "/u".into();
        assert_eq!(detail(Source::Overlay(overlay), ""), "overlay of /a:/b, writable in /u on /m");
    }

    #[test]
    fn a_stream_that_starts_or_drives_something_is_no_look() {
        let of = |open| {
            let open = v1::StreamOpen { open: Some(open), ..Default::default() };
            let message = v1::StreamRequest { message: Some(Sent::Open(open)) };
            of(STREAM, &message.encode_to_vec(), Known::Asks, Arguments::Redacted).1
        };
        let attach =
            |view_only| Open::Attach(v1::AttachSession { view_only, ..Default::default() });
        assert_eq!(of(attach(true)), Reach::Looks);
        assert_eq!(of(attach(false)), Reach::Changes);
        assert_eq!(of(Open::Start(v1::SessionSpec::default())), Reach::Changes);
        assert_eq!(of(Open::Run(v1::RunContainer::default())), Reach::Changes);
    }
}
