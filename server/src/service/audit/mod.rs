//! The layer that has each call recorded: before its method is asked, and when its last byte has gone.
//!
//! It reads the first message of a request itself ([`mod@first`]), so that no method can be reached without its record
//! ([`subject`] says what stands in it), and gives the method a [`Ticket`] to add what it finds out:
//! which container was meant, which session was started. Denials at the door are recorded by
//! [`super::access`].
//!
//! A call whose caller goes before it is answered ends when what it has begun has been carried out, which writes what it
//! makes into its record itself ([`carry`]); the end says whether anything was.
//!
//! A call whose session outlives it has two ends: its own, and later that of the session, with the same
//! `call`; [`ends`] writes that too where the agent was started again meanwhile.

mod ends;
mod first;
mod response;
mod subject;
mod ticket;

#[cfg(test)]
pub(super) use self::{
    first::content,
    subject::{known, of as subject_of},
};

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::Engine as _;
use http::{HeaderMap, Request, Response, request::Parts};
use tokio::time::sleep;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    access,
    edge::{DECODE_MAX, GUEST_DECODE_MAX},
    status,
    stopping::Stopping,
    traceparent::Traceparent,
};
use crate::{
    access::{
        Caller, Role,
        policy::CurrentPolicy,
        records::{AuditedArguments, AuditedCalls, OnAuditFailure, check_reason},
    },
    audit::{self, Log, Subject, Who},
    engine::carry,
    listen::PeerInfo,
    metrics::AuditFailures,
    redact::{self, Arguments, Fingerprint},
};
pub use ends::resume;
use subject::{Known, Reach};
pub use ticket::Ticket;

/// The metadata in which a caller says why it calls: bytes of UTF-8.
const REASON: &str = "conti-reason-bin";

/// How long a call waits whose caller fills the log too fast. What takes longer is refused, or let in if it ends
/// something.
const HELD_UP: Duration = Duration::from_secs(30);

/// The one method of guests.
const JOIN: &str = "/conti.v1.JoinService/Join";

/// Wraps all services of the agent.
#[derive(Debug, Clone)]
pub struct AuditLayer {
    policy: CurrentPolicy,
    log: Log,
    stopping: Stopping,
    failures: AuditFailures,
    fingerprint: Fingerprint,
}

impl AuditLayer {
    /// Records in a log what a policy wants to be recorded.
    pub fn new(
        policy: CurrentPolicy,
        log: Log,
        stopping: Stopping,
        failures: AuditFailures,
        fingerprint: Fingerprint,
    ) -> AuditLayer {
        AuditLayer { policy, log, stopping, failures, fingerprint }
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = Audit<S>;

    fn layer(&self, inner: S) -> Audit<S> {
        Audit { inner, layer: self.clone() }
    }
}

/// See [`AuditLayer`].
#[derive(Debug, Clone)]
pub struct Audit<S> {
    inner: S,
    layer: AuditLayer,
}

impl<S> Service<Request<Body>> for Audit<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send,
    S: 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let least = access::least(path);
        let known = subject::known(path, least);
        let policy = self.layer.policy.now();
        let all = policy.audit.calls == AuditedCalls::All && !path.starts_with("/grpc.health.");
        if known == Known::Looks && !all {
            return Box::pin(self.inner.call(request));
        }
        // The one that is ready is used, and a fresh one stays.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let layer = self.layer.clone();
        Box::pin(async move {
            match layer.begin(request, known, all).await {
                Ok((request, None)) => inner.call(request).await,
                Ok((request, Some((ticket, came)))) => {
                    // Where its caller goes, the record goes on with what is carried out all the same.
                    let witness = Arc::new(ticket.clone());
                    let response = carry::before(witness, inner.call(request)).await?;
                    Ok(response::watched(response, ticket, came))
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

/// What a call that is recorded goes on with.
type Begun = Option<(Ticket, first::Came)>;

impl AuditLayer {
    /// Has a call recorded, where it is one that must be.
    async fn begin(
        &self,
        request: Request<Body>,
        known: Known,
        all: bool,
    ) -> Result<(Request<Body>, Begun), Status> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let guest = parts.extensions.get::<Caller>().is_none();
        if guest && path != JOIN {
            return Err(status::unknown_method(&path));
        }
        let (who, role) = who(&parts)?;
        // What ends or removes something is what one does when the disk is full, or when a script runs wild.
        let ends = audit::ends(&path);
        // Before its message takes room.
        let held_up = self.log.held_up(&who);
        if held_up > HELD_UP && !ends {
            let status = status::too_much_recorded(&who.identity);
            return Err(self.denied(who, &path, Subject::default(), status));
        }
        if !held_up.is_zero() {
            self.stopping.or(sleep(held_up.min(HELD_UP))).await?;
        }
        // Larger ones are refused by their method.
        let max = if guest { GUEST_DECODE_MAX } else { DECODE_MAX };
        let (message, body, came) = self.stopping.or(first::read(body, max)).await?;
        let policy = self.policy.now();
        let shown = match policy.audit.arguments {
            AuditedArguments::Redacted => Arguments::Redacted,
            AuditedArguments::Hashed => Arguments::Hashed(&self.fingerprint),
        };
        let (mut subject, reach) = subject::of(&path, &message, known, shown);
        if reach == Reach::Looks && !all {
            return Ok((Request::from_parts(parts, body), None));
        }
        if guest && !self.log.has_room_for(&who) {
            return Err(status::too_many_guests());
        }
        match reason(&parts.headers) {
            Ok(reason) => subject.reason = reason.map(|reason| redact::text(&reason).into_owned()),
            Err(status) => return Err(self.denied(who, &path, subject, status)),
        }
        let missing = subject.reason.is_none() && role.is_some_and(|r| policy.requires_reason(r));
        if missing && reach == Reach::Changes {
            let status = status::reason_required(&who.identity);
            return Err(self.denied(who, &path, subject, status));
        }
        let open = match (self.log.has_room_for_failures(&who, &path), ends) {
            (true, _) => {
                let refuses = reach != Reach::Looks
                    && policy.audit.on_failure == OnAuditFailure::Refuse
                    && !ends;
                self.open(who, &path, subject, refuses).await?
            }
            (false, true) => self.log.begin_late(who, &path, subject),
            (false, false) => {
                let status = status::too_many_failures(&who.identity);
                return Err(self.denied(who, &path, subject, status));
            }
        };
        let ticket = Ticket::new(open);
        parts.extensions.insert(ticket.clone());
        Ok((Request::from_parts(parts, body), Some((ticket, came))))
    }

    /// Records that a call begins. `refuses`: whether it is refused where it cannot be recorded.
    async fn open(
        &self,
        who: Who,
        path: &str,
        subject: Subject,
        refuses: bool,
    ) -> Result<audit::Open, Status> {
        let failed = match self.log.begin(who.clone(), path, subject.clone()).await {
            Ok(open) => return Ok(open),
            Err(failed) => failed,
        };
        self.failures.count();
        if refuses {
            return Err(status::audit_failed(&failed));
        }
        self.failures.count_carried_out();
        Ok(self.log.unrecorded(who, path, subject))
    }

    fn denied(&self, who: Who, path: &str, subject: Subject, status: Status) -> Status {
        let code = status::code_name(status.code());
        self.log.denied(who, path, subject, code, status.message());
        status
    }
}

/// Who calls, and in which role; guests have none.
fn who(parts: &Parts) -> Result<(Who, Option<Role>), Status> {
    let mut who = match parts.extensions.get::<Caller>() {
        Some(caller) => (Who::of(caller), Some(caller.role)),
        None => {
            let peer = parts.extensions.get::<PeerInfo>();
            (Who::nobody(&peer.ok_or_else(status::unauthenticated)?.0), None)
        }
    };
    let trace = Traceparent::of(&parts.headers);
    who.0.trace = trace.map(|trace| trace.trace_id.to_string());
    Ok(who)
}

/// Why the caller says that it calls.
pub(in crate::service) fn reason(headers: &HeaderMap) -> Result<Option<String>, Status> {
    let Some(value) = headers.get(REASON) else { return Ok(None) };
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::general_purpose::NO_PAD
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let text = engine.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| status::bad_reason("is not UTF-8"))?;
    check_reason(&text).map_err(status::bad_reason)?;
    Ok(Some(text))
}
