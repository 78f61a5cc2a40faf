//! The one place where errors become gRPC statuses.
//!
//! Each carries a `google.rpc.ErrorInfo` with a [`Reason`] and every value that its message speaks
//! of; faulty fields come as `BadRequest`, a wrong state as `PreconditionFailure`.

use std::collections::HashMap;

use conti_runtime::plan::Step;
use conti_shared::{
    name::{CONTAINER_NAME_MAX, ID_LEN},
    reason::{DOMAIN, Reason},
    text,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::convert::{Violations, checked, violation::cut};
use crate::{
    access::{Caller, Peer, Role},
    audit::Failed,
    engine::error::{Error, Stuck, is_want},
    pki, reserve,
};

/// How much of one value is told, in bytes: all of a status must fit into the headers that a
/// client takes, 8 KiB with some, and most of it is told twice.
const MAX_VALUE: usize = 1024;
/// How much of a sentence is told, in bytes.
const MAX_MESSAGE: usize = 512;
/// How much of one problem of a field or state is told, in bytes.
const MAX_PROBLEM: usize = 240;

/// The status of an error of the engine.
pub fn of(error: Error) -> Status {
    let reason = error.reason();
    let message = error.to_string();
    let mut details = ErrorDetails::new();
    let (code, metadata) = describe(error, &mut details);
    build(code, message, reason, metadata, details)
}

/// What is told of an error beside its sentence and its reason.
fn describe(error: Error, details: &mut ErrorDetails) -> (Code, Vec<(&'static str, String)>) {
    match error {
        Error::NoSuchContainer(key) => (Code::NotFound, vec![("container", key)]),
        Error::AmbiguousContainer(key) => {
            let problem = "fits more than one container";
            details.add_precondition_failure_violation("AMBIGUOUS", cut_key(&key), problem);
            (Code::FailedPrecondition, vec![("container", key)])
        }
        Error::NoSuchMount(key) => (Code::NotFound, vec![("mount", key)]),
        Error::NoSuchRecording(key) => (Code::NotFound, vec![("session", key)]),
        Error::NoSuchSession(key) => (Code::NotFound, vec![("session", key)]),
        Error::NameTaken { name, id } => {
            let id = id.map(|id| ("container_id", id));
            (Code::AlreadyExists, id.into_iter().chain([("name", name)]).collect())
        }
        Error::RequestIdTaken(id) => (Code::AlreadyExists, vec![("request_id", id)]),
        Error::WrongState { container, action, state, because: _, wanted } => {
            let problem = format!("it is {state}, it must be {wanted}");
            details.add_precondition_failure_violation("STATE", cut_key(&container), problem);
            let metadata = vec![
                ("container", container),
                ("action", action.to_owned()),
                ("state", state.to_owned()),
                ("wanted", wanted.to_owned()),
            ];
            (Code::FailedPrecondition, metadata)
        }
        Error::WrongSessionState { session, problem } => {
            details.add_precondition_failure_violation("STATE", cut_key(&session), problem);
            let metadata = vec![("session", session), ("problem", problem.to_owned())];
            (Code::FailedPrecondition, metadata)
        }
        Error::TargetGone { pid, problem } => {
            let shown = cut(problem.clone(), MAX_PROBLEM);
            details.add_precondition_failure_violation("PROCESS", pid.to_string(), shown);
            (Code::FailedPrecondition, vec![("pid", pid.to_string()), ("problem", problem)])
        }
        Error::Frozen { target, file, problem: _ } => {
            let problem = format!("it is frozen, as {} says", cut(file.clone(), MAX_PROBLEM));
            details.add_precondition_failure_violation("FROZEN", cut_key(&target), problem);
            (Code::FailedPrecondition, vec![("target", target), ("file", file)])
        }
        Error::Stuck(stuck) => {
            let Stuck { tried, role, pid, state, .. } = *stuck;
            let pid = pid.to_string();
            let problem = format!("{} is {state}", cut(role.clone(), MAX_PROBLEM));
            details.add_precondition_failure_violation("PROCESS", pid.as_str(), problem);
            let metadata = vec![("pid", pid), ("state", state), ("role", role), ("tried", tried)];
            (Code::FailedPrecondition, metadata)
        }
        Error::Setup(failure) | Error::Explained { failure, .. } => {
            let step = step_name(failure.step);
            (code_of_setup(failure.errno), setup(step, failure.argument, failure.errno))
        }
        Error::Source { step, argument, errno, .. } => {
            (code_of_setup(errno), setup(step.to_owned(), argument, errno))
        }
        Error::Refused { tried, argument, errno } => {
            let code = match errno {
                libc::ENOENT => Code::NotFound,
                libc::EACCES | libc::EPERM => Code::PermissionDenied,
                _ => code_of_setup(errno),
            };
            let errno = errno.to_string();
            let argument = text::bytes(&argument);
            (code, vec![("tried", tried), ("argument", argument), ("errno", errno)])
        }
        Error::Invalid { field, problem } => {
            let shown = cut(problem.clone(), MAX_PROBLEM);
            details.set_bad_request(vec![FieldViolation::new(field.clone(), shown)]);
            (Code::InvalidArgument, vec![("field", field), ("problem", problem)])
        }
        Error::InputOffset { offset, taken } => {
            let metadata = vec![("offset", offset.to_string()), ("taken", taken.to_string())];
            (Code::OutOfRange, metadata)
        }
        Error::MountUnderWay(container) => (Code::Aborted, vec![("container", container)]),
        Error::Exhausted { what, errno } => {
            (Code::ResourceExhausted, vec![("what", what), ("errno", errno.to_string())])
        }
        Error::Stopping => (Code::Unavailable, Vec::new()),
        Error::Internal(message) => (Code::Internal, vec![("message", message)]),
    }
}

/// Whether the host was out of something, or something else was in the way.
fn code_of_setup(errno: i32) -> Code {
    match is_want(errno) {
        true => Code::ResourceExhausted,
        false => Code::FailedPrecondition,
    }
}

/// The status of a request whose fields are at fault.
pub fn invalid(violations: &Violations) -> Status {
    let mut budget = 2 * MAX_VALUE;
    let mut fields = Vec::new();
    for (field, problem) in violations.named() {
        let size = field.len() + problem.len();
        if size > budget {
            break;
        }
        budget -= size;
        fields.push(FieldViolation::new(field, problem));
    }
    let metadata = vec![("violations", violations.total().to_string())];
    let details = ErrorDetails::with_bad_request(fields);
    build(Code::InvalidArgument, violations.to_string(), Reason::InvalidField, metadata, details)
}

/// Validates a request: all of its faults make one status.
pub fn valid<T>(convert: impl FnOnce(&mut Violations) -> T) -> Result<T, Status> {
    checked(convert).map_err(|violations| invalid(&violations))
}

/// The status of a stream whose client sent a message that cannot come there.
pub fn sequence(problem: &str) -> Status {
    let details = ErrorDetails::with_bad_request_violation("message", problem);
    let message = format!("the message {problem}");
    build(Code::InvalidArgument, message, Reason::InvalidSequence, Vec::new(), details)
}

/// The status of a call whose caller may not have what it asks for. `field`: what of the request it is;
/// `what`: the same as a sentence.
pub fn denied(caller: &Caller, needs: Role, field: &str, what: &str) -> Status {
    denied_without(caller, needs, None, field, what)
}

/// As [`denied`], where a grant would do as well, as policies write it.
pub fn denied_without(
    caller: &Caller,
    needs: Role,
    grant: Option<&str>,
    field: &str,
    what: &str,
) -> Status {
    let (name, role) = (caller.name(), caller.role.as_str());
    let needs = needs.as_str();
    let or = grant.map(|grant| format!(" or a grant of it: {grant} in the agent's policy"));
    let or = or.unwrap_or_default();
    let message =
        format!("{name} may not do this: {what} (its role is {role}, this needs {needs}{or})");
    let mut metadata = vec![
        ("identity", name),
        ("role", role.to_owned()),
        ("needs", needs.to_owned()),
        ("field", field.to_owned()),
    ];
    metadata.extend(grant.map(|grant| ("grant", grant.to_owned())));
    let details = ErrorDetails::new();
    build(Code::PermissionDenied, message, Reason::PermissionDenied, metadata, details)
}

/// The status of a call by somebody who is known and has no role.
pub fn no_role(peer: &Peer) -> Status {
    let name = peer.identity.name();
    let why = match peer.identity.certificate() {
        Some(_) => "neither its certificate's organisational unit nor the agent's policy gives one",
        None => "the agent's policy gives it none",
    };
    let message = format!("{name} has no role on this agent: {why}");
    let metadata = vec![("identity", name), ("role", String::new())];
    let details = ErrorDetails::new();
    build(Code::PermissionDenied, message, Reason::PermissionDenied, metadata, details)
}

/// The status of a call by somebody who is not known.
pub fn unauthenticated() -> Status {
    let message = "the agent does not know who calls".to_owned();
    build(Code::Unauthenticated, message, Reason::Unauthenticated, Vec::new(), ErrorDetails::new())
}

/// The status of a call whose caller has to say why it makes it.
pub fn reason_required(identity: &str) -> Status {
    let message =
        "this agent wants to know why: give a reason with `contictl --reason TEXT` (in the API: \
                   metadata `conti-reason-bin`)"
            .to_owned();
    let metadata =
        vec![("identity", identity.to_owned()), ("metadata", "conti-reason-bin".to_owned())];
    let details = ErrorDetails::with_precondition_failure_violation(
        "REASON",
        "conti-reason-bin",
        "no reason was given",
    );
    build(Code::FailedPrecondition, message, Reason::ReasonRequired, metadata, details)
}

/// The status of a call whose reason cannot be taken.
pub fn bad_reason(problem: &str) -> Status {
    invalid(&Violations::one("conti-reason-bin", problem))
}

/// The status of a call that could not be recorded, and was not carried out for that.
pub fn audit_failed(failed: &Failed) -> Status {
    let problem = failed.to_string();
    let mut message =
        format!("the call could not be recorded, so it was not carried out: {problem}");
    let code = match failed.no_room {
        true => Code::ResourceExhausted,
        false => Code::Unavailable,
    };
    if failed.no_room {
        message.push_str("; containers can still be stopped and deleted, which makes room");
    }
    let metadata = vec![("problem", problem)];
    build(code, message, Reason::AuditFailed, metadata, ErrorDetails::new())
}

/// The status of a guest whose address has tried too often.
pub fn too_many_guests() -> Status {
    let message = "too many have tried to join from there; try again in a minute".to_owned();
    let what = vec![("what", "attempts to join".to_owned())];
    build(Code::ResourceExhausted, message, Reason::ResourceExhausted, what, ErrorDetails::new())
}

/// The status of a caller whose calls have failed too often.
pub fn too_many_failures(name: &str) -> Status {
    let message = format!(
        "too many calls of {name} have failed, and each leaves a line in the audit log; try again in some seconds, and \
         look at why they fail"
    );
    let what = vec![("identity", name.to_owned()), ("what", "calls that fail".to_owned())];
    exhausted(message, what)
}

/// The status of a caller whose calls fill the audit log too fast.
pub fn too_much_recorded(name: &str) -> Status {
    let message = format!(
        "the calls of {name} fill the audit log so fast that what others did would be pushed out of it; make fewer, or \
         give the log more room ([audit] max_bytes and keep in the agent's policy)"
    );
    let what = vec![("identity", name.to_owned()), ("what", "recorded calls".to_owned())];
    exhausted(message, what)
}

/// The status of a call whose caller has too much under way already. `what`: of what there are `limit` at most.
pub fn too_much(name: &str, what: &str, limit: usize) -> Status {
    let message =
        format!("{name} has {limit} {what} already, which is all it may; end or read some of them");
    exhausted(message, vec![("identity", name.to_owned()), ("what", what.to_owned())])
}

/// The status of a call whose large message is one too many.
pub fn too_large_together(name: &str) -> Status {
    let what = "large messages under way";
    let message = format!("{name} has too many {what} at a time; send one after the other");
    exhausted(message, vec![("identity", name.to_owned()), ("what", what.to_owned())])
}

/// The status of a call with input for a process, where too much of it waits already.
pub fn too_much_input(name: &str) -> Status {
    let what = "input that no process reads";
    let message = format!(
        "{name} has too much {what}, in all of its sessions together; end some, or let them read"
    );
    exhausted(message, vec![("identity", name.to_owned()), ("what", what.to_owned())])
}

/// The status of a call whose message does not come.
pub fn too_slow(name: &str) -> Status {
    let message = "the message was not there in time; is the network too slow for it?".to_owned();
    let metadata = vec![("identity", name.to_owned()), ("what", "time for a message".to_owned())];
    exhausted(message, metadata)
}

fn exhausted(message: String, metadata: Vec<(&'static str, String)>) -> Status {
    build(
        Code::ResourceExhausted,
        message,
        Reason::ResourceExhausted,
        metadata,
        ErrorDetails::new(),
    )
}

/// The status of a call of a method that is not there.
pub fn unknown_method(path: &str) -> Status {
    let message = "this agent has no such method; is it older than its client?".to_owned();
    let metadata = vec![("path", path.to_owned())];
    build(Code::Unimplemented, message, Reason::MethodUnknown, metadata, ErrorDetails::new())
}

/// The status of a request that is no call: what is wrong with it.
pub fn no_call(problem: &str) -> Status {
    let message = format!("this is no call of gRPC: {problem}");
    build(Code::Unimplemented, message, Reason::MethodUnknown, Vec::new(), ErrorDetails::new())
}

/// The status of what goes wrong with the agent's own authority.
pub fn pki(error: pki::Error) -> Status {
    let message = error.to_string();
    let (code, reason, metadata) = match error {
        pki::Error::None(_) | pki::Error::Exists(_) => {
            (Code::FailedPrecondition, Reason::NoAuthority, Vec::new())
        }
        pki::Error::File { what, path, source } => {
            let path = path.to_string_lossy().into_owned();
            let metadata = vec![("what", what.to_owned()), ("path", path)];
            match reserve::is_full(&source) {
                true => (Code::ResourceExhausted, Reason::ResourceExhausted, metadata),
                false => (Code::Unavailable, Reason::NoAuthority, metadata),
            }
        }
        pki::Error::Certificate { what, problem } => {
            let metadata = vec![("what", what.to_owned()), ("problem", problem)];
            (Code::Internal, Reason::Internal, metadata)
        }
        pki::Error::Invalid { field, problem } => {
            return invalid(&Violations::one(field, problem));
        }
        pki::Error::Refused(_) => (Code::PermissionDenied, Reason::InvitationRefused, Vec::new()),
        pki::Error::NoInvitation(id) => {
            (Code::NotFound, Reason::InvitationNotFound, vec![("id", id)])
        }
        pki::Error::NoCertificate(key) => {
            (Code::NotFound, Reason::CertificateNotFound, vec![("certificate", key)])
        }
        pki::Error::Unread { serials, .. } => {
            (Code::DataLoss, Reason::CertificateUnread, vec![("serials", serials.join(","))])
        }
    };
    build(code, message, reason, metadata, ErrorDetails::new())
}

/// The status of a call that an agent which stops cannot carry on.
pub fn stopping() -> Status {
    of(Error::Stopping)
}

/// The status in place of one that tonic made for a message that it could not read, too large or
/// malformed: as it stands it would speak of a range or of a defect of the agent. `None`: it
/// speaks of something else, such as a client that is gone.
pub fn unreadable(status: &Status) -> Option<Status> {
    let ours = !status.details().is_empty();
    if ours || !matches!(status.code(), Code::OutOfRange | Code::Internal) {
        return None;
    }
    let problem = cut(status.message().to_owned(), MAX_PROBLEM);
    let details = ErrorDetails::with_bad_request_violation("message", &problem);
    let message = format!("the request could not be read: {problem}");
    let metadata = vec![("problem", problem)];
    Some(build(Code::InvalidArgument, message, Reason::InvalidField, metadata, details))
}

/// The name of a code, as gRPC writes it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn build(
    code: Code,
    message: String,
    reason: Reason,
    metadata: Vec<(&'static str, String)>,
    mut details: ErrorDetails,
) -> Status {
    let metadata: HashMap<String, String> = metadata
        .into_iter()
        .map(|(name, value)| (name.to_owned(), cut(value, MAX_VALUE)))
        .collect();
    details.set_error_info(reason.as_str(), DOMAIN, metadata);
    Status::with_error_details(code, cut(message, MAX_MESSAGE), details)
}

fn setup(step: String, argument: String, errno: i32) -> Vec<(&'static str, String)> {
    vec![("step", step), ("argument", argument), ("errno", errno.to_string())]
}

/// The name of a step as it stands in the API: that of its serialised form.
pub fn step_name(step: Step) -> String {
    match serde_json::to_value(step) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{step:?}").to_lowercase(),
    }
}

fn cut_key(key: &str) -> String {
    cut(key.to_owned(), CONTAINER_NAME_MAX.max(ID_LEN))
}

#[cfg(test)]
mod tests {
    use conti_runtime::plan::SetupFailure;

    use super::*;

    fn reason(status: &Status) -> String {
        let details = status.get_error_details();
        let info = details.error_info().expect("an ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        info.reason.clone()
    }

    #[test]
    fn a_failed_step_is_told_with_its_argument_and_errno() {
        let failure =
            SetupFailure { step: Step::PivotRoot, argument: "/x".into(), errno: libc::EBUSY };
        let status = of(Error::Setup(failure));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(reason(&status), "SETUP_FAILED");
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!(metadata["step"], "pivot_root");
        assert_eq!(metadata["argument"], "/x");
        assert_eq!(metadata["errno"], libc::EBUSY.to_string());
    }

    #[test]
    fn too_little_of_something_is_no_fault_of_what_was_asked_for() {
        let source = |errno| Error::Source {
            step: "rootfs",
            what: "cannot open",
            argument: "/x".into(),
            errno,
            hint: "it must be a directory",
        };
        let refused =
            |errno| Error::Refused { tried: "cannot open".into(), argument: b"/x".into(), errno };
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            let status = of(source(errno));
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert!(!status.message().contains("directory"), "{}", status.message());
            assert_eq!(of(refused(errno)).code(), Code::ResourceExhausted);
        }
        assert!(of(refused(libc::EMFILE)).message().contains("ulimit -n"));
        let status = of(source(libc::ENOTDIR));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().ends_with("; it must be a directory"), "{}", status.message());
    }

    #[test]
    fn faulty_fields_come_as_bad_request() {
        let status = of(Error::Invalid { field: "spec.a".into(), problem: "is odd".into() });
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "spec.a");
        let status = invalid(&Violations::one("spec.b", "is empty"));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "spec.b is empty"));
        assert_eq!(reason(&status), "INVALID_FIELD");
    }

    #[test]
    fn a_wrong_state_comes_as_precondition_failure() {
        let error = Error::WrongState {
            container: "c".into(),
            action: "start",
            state: "running",
            because: None,
            wanted: "created",
        };
        let status = of(error);
        assert_eq!(status.code(), Code::FailedPrecondition);
        let details = status.get_error_details();
        assert_eq!(details.precondition_failure().unwrap().violations[0].subject, "c");
    }

    #[test]
    fn a_status_fits_into_the_headers_that_clients_take() {
        let long = "\u{1F980}".repeat(10_000);
        let mut violations = Violations::default();
        for _ in 0..1000 {
            violations.add(super::super::convert::Field::root(&long), &long);
        }
        for status in [
            of(Error::Internal(long.clone())),
            of(Error::NoSuchContainer(long.clone())),
            of(Error::AmbiguousContainer(long.clone())),
            of(Error::Invalid { field: "f".into(), problem: long.clone() }),
            of(Error::TargetGone { pid: 1, problem: long.clone() }),
            invalid(&violations),
            sequence("is odd"),
            unreadable(&Status::internal(long.clone())).unwrap(),
        ] {
            reason(&status);
            let mut headers = http::HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            let size: usize = headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 32).sum();
            assert!(size < 8 * 1024, "{size}: {:.80}", status.message());
        }
    }

    #[test]
    fn only_what_tonic_made_of_a_bad_message_is_put_in_other_words() {
        assert!(unreadable(&Status::out_of_range("too large")).is_some());
        assert!(unreadable(&Status::internal("failed to decode")).is_some());
        assert!(unreadable(&Status::cancelled("gone")).is_none());
        assert!(unreadable(&of(Error::InputOffset { offset: 2, taken: 1 })).is_none());
    }
}
