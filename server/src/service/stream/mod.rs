//! The bidirectional stream of a session.
//!
//! ```text
//!  client --open------------------> open: validates, starts or finds the session
//!         <-opened, output, gap, input_ack, driver_lost, end-- [`output`]: polled by the
//!                                                               connection itself, no task between
//!         --input, eof, resize, signal, ack, detach---> [`input`]: a task of its own, so that a
//!                                                               slow reader can still send a signal
//! ```
//!
//! The two halves share a [`link`]. When the client goes away at any point, the connection drops
//! the output half; that ends the input half and drops the driver: the session's disconnect
//! policy begins.
//!
//! - [`open`]: from the first message to a stream;
//! - [`flow`]: how much output may be under way;
//! - [`permit`]: whether it may go on, once its session reaches more;
//! - [`mod@read`]: the journal as a stream of its own.

mod flow;
mod input;
mod link;
mod output;
mod permit;
mod read;

use std::{sync::Arc, time::Duration};

use conti_proto::v1::{
    AttachSession, StreamOpen, StreamOpened, StreamRequest, StreamResponse, stream_open::Open,
    stream_request::Message,
};
use futures::Stream;
use tonic::{Status, Streaming, metadata::MetadataMap};

use super::{
    call::Call,
    convert::{Field, Violations, container, info, session, text},
    repeats,
    status::{self, valid},
    stopping::Stopping,
};
use crate::{
    access,
    engine::{Engine, error::Error, requests::Answer, session::Session},
};
use output::{Outbound, Reader};

pub use input::hold_input;
#[cfg(test)]
pub use output::output as output_message;
pub use permit::Permit;
pub use read::read;

/// The most bytes that one message carries, either way.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// What is said of a message that carries more.
pub const TOO_MUCH: &str = "has more than 1 MiB: send it in several messages";
/// The largest window that a client may ask for.
const WINDOW_MAX: u64 = 8 * 1024 * 1024;

/// What all streams of a service share.
#[derive(Debug)]
pub struct Context<'a> {
    /// What does the work.
    pub engine: &'a Arc<Engine>,
    /// The end of the agent.
    pub stopping: &'a Stopping,
    /// Who calls.
    pub call: Call,
    /// How long the call may take: what it starts is ended then.
    pub deadline: Option<Duration>,
}

/// How long a call may take, as its client says in `grpc-timeout`: at most 8 digits and a unit, see
/// gRPC over HTTP/2. The library ends only the wait for the first answer then.
pub fn deadline(metadata: &MetadataMap) -> Result<Option<Duration>, Status> {
    let Some(value) = metadata.get("grpc-timeout") else { return Ok(None) };
    let parse = || {
        let (number, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
        let digits = (1..=8).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
        let number: u64 = if digits { number.parse().ok()? } else { return None };
        Some(match unit {
            "H" => Duration::from_secs(number * 3600),
            "M" => Duration::from_secs(number * 60),
            "S" => Duration::from_secs(number),
            "m" => Duration::from_millis(number),
            "u" => Duration::from_micros(number),
            "n" => Duration::from_nanos(number),
            _ => return None,
        })
    };
    let problem = "is no time limit: at most 8 digits and one of H, M, S, m, u and n";
    let refused = || status::invalid(&Violations::one("grpc-timeout", problem));
    parse().map(Some).ok_or_else(refused)
}

/// The earlier of two deadlines.
fn earlier(policy: Option<Duration>, call: Option<Duration>) -> Option<Duration> {
    policy.into_iter().chain(call).min()
}

/// Waits for the first message of a client, does what it asks for, and returns the answers.
pub async fn open(
    service: Context<'_>,
    mut requests: Streaming<StreamRequest>,
) -> Result<impl Stream<Item = Result<StreamResponse, Status>> + Send + use<>, Status> {
    let Context { engine, stopping, ref call, deadline } = service;
    let first = stopping.or(requests.message()).await?;
    let first = first.map_err(|status| status::unreadable(&status).unwrap_or(status))?;
    let Some(first) = first else {
        return Err(status::sequence("is missing: a stream begins with `open`"));
    };
    let Some(Message::Open(message)) = first.message else {
        return Err(status::sequence("is not `open`, which must come first"));
    };
    let Plan { what, request_id, digest, window } = valid(|v| plan(v, message))?;
    let request = call.request(request_id, digest);
    let drive = |session: &Arc<Session>, from| {
        Reader::Driver(session.drive(from, call.backlog.answers.clone()))
    };
    let mut warnings = Vec::new();
    let (reader, session) = match what {
        What::Run(spec) => {
            let mut spec = call.container(engine, "open.run.spec", *spec).await?;
            spec.io.policy.deadline = earlier(spec.io.policy.deadline, deadline);
            let record = call.recorded(&spec.io);
            let ran = engine.run(spec, request, record).await;
            let Answer { made: (session, told), repeated } =
                ran.map_err(|error| within("open.run")(call.hide(engine, error)))?;
            call.answered(engine, &session, repeated).await?;
            warnings = told;
            (drive(&session, None), session)
        }
        What::Start(spec) => {
            let mut spec = call.start(engine, "open.start", *spec).await?;
            spec.io.policy.deadline = earlier(spec.io.policy.deadline, deadline);
            let started = engine.start_session(spec, request, true).await;
            let Answer { made: session, repeated } = started.map_err(within("open.start"))?;
            call.answered(engine, &session, repeated).await?;
            (drive(&session, None), session)
        }
        What::Attach(attach) => {
            let session = match attach.session_id.is_empty() {
                true => {
                    let id = &call.see(engine, &attach.container)?.id;
                    engine.main_session(id).map_err(status::of)?
                }
                false => call.session(engine, &attach.session_id)?,
            };
            match attach.view_only {
                true => call.check_reader(engine, &session).await?,
                false => {
                    let what =
                        "it drives the session (`contictl attach --view`, view_only, only looks)";
                    call.at_least(access::Role::Operator, "attach", what)?;
                    call.check_driver(engine, &session).await?
                }
            }
            let (open, from) = (Field::root("open"), attach.output_offset);
            valid(|v| reached(v, open.name("attach").name("output_offset"), from, &session))?;
            match attach.view_only {
                true => (Reader::Viewer(session.view(from, call.backlog.answers.clone())), session),
                false => (drive(&session, from), session),
            }
        }
    };
    let about = session.info();
    let opened = StreamOpened {
        container_name: about.container_name.clone().unwrap_or_default(),
        output_offset: reader.offset(),
        input_offset: session.input().0,
        session: Some(info::session(about)),
        warnings,
    };
    Ok(Outbound::start(opened, reader, session, requests, window, &service))
}

/// Checks that the journal has come to an offset: one beyond would never be sent.
pub fn reached(v: &mut Violations, at: Field<'_>, offset: Option<u64>, session: &Session) {
    let Some(offset) = offset.filter(|&offset| offset > 0) else { return };
    let written = session.info().output_offset;
    if offset > written {
        v.add(at, format_args!("is {offset}, but only {written} bytes were written"));
    }
}

/// What the first message asks for.
#[derive(Debug)]
struct Plan {
    what: What,
    request_id: Option<String>,
    digest: String,
    window: u64,
}

#[derive(Debug)]
enum What {
    Run(Box<crate::engine::spec::ContainerSpec>),
    Start(Box<crate::engine::spec::SessionSpec>),
    Attach(AttachSession),
}

fn plan(v: &mut Violations, message: StreamOpen) -> Plan {
    let at = Field::root("open");
    if message.output_window > WINDOW_MAX {
        let window = message.output_window;
        v.add(at.name("output_window"), format_args!("is {window}, at most {WINDOW_MAX}"));
    }
    let digest = match &message.open {
        Some(Open::Run(run)) => repeats::digest("Stream.run", run),
        Some(Open::Start(spec)) => repeats::digest("Stream.start", spec),
        // Nothing is made.
        Some(Open::Attach(_)) | None => String::new(),
    };
    let what = match message.open {
        Some(Open::Run(run)) => {
            let spec = container::container(v, at.name("run").name("spec"), run.spec);
            What::Run(Box::new(spec))
        }
        Some(Open::Start(spec)) => {
            What::Start(Box::new(session::session(v, at.name("start"), Some(spec))))
        }
        Some(Open::Attach(attach)) => {
            target(v, at.name("attach"), &attach);
            What::Attach(attach)
        }
        None => {
            v.add(at, "says nothing: give `run`, `start` or `attach`");
            What::Attach(AttachSession::default())
        }
    };
    let request_id = text::request_id(v, at.name("request_id"), message.request_id);
    Plan { what, request_id, digest, window: message.output_window }
}

fn target(v: &mut Violations, at: Field<'_>, attach: &AttachSession) {
    match (attach.session_id.as_str(), attach.container.as_str()) {
        ("", "") => v.add(at, "names nothing: give `session_id` or `container`"),
        (session, "") => text::session_key(v, at.name("session_id"), session),
        ("", container) => text::container_key(v, at.name("container"), container),
        _ => v.add(at, "has both `session_id` and `container`: give one of them"),
    }
}

/// The engine names fields as they stand in the plain calls; here they stand deeper.
fn within(prefix: &'static str) -> impl Fn(Error) -> Status {
    move |error| {
        status::of(match error {
            Error::Invalid { field, problem } => {
                let field = match prefix {
                    "open.start" => field.strip_prefix("spec.").unwrap_or(&field).to_owned(),
                    _ => field,
                };
                Error::Invalid { field: format!("{prefix}.{field}"), problem }
            }
            other => other,
        })
    }
}
