//! Why a verb did not do what it was asked for, and the exit code that says so.

use std::{error::Error as _, io};

use conti_shared::{endpoint::Endpoint, reason::Reason, tls};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::connect::fault::{self, Fault};

/// Conti itself failed: the command's own code is not known.
pub const FAILED: u8 = 125;
/// The command could not be run.
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;

/// The result of a verb: the exit code, or why there is none of the command's own.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent could not be connected to.
    #[error("cannot connect to {endpoint}: {}", connect_reason(.endpoint, .source))]
    Connect {
        /// Where the agent was sought.
        endpoint: Endpoint,
        /// What came of it.
        source: io::Error,
    },
    /// The two ends do not trust one another, or what was to connect them failed.
    #[error("cannot connect to {endpoint}: {fault}")]
    Fault {
        /// Where the agent was sought.
        endpoint: Endpoint,
        /// What is wrong.
        fault: Box<Fault>,
    },
    /// A certificate or key of this client's own cannot be used.
    #[error("{0}")]
    Files(tls::Error),
    /// Something answered, but it does not speak HTTP/2, or closed the connection at once.
    #[error(
        "cannot begin to speak with {endpoint}: {problem}; it is no agent of Conti, or closes the connection since too \
         many are open already: try again"
    )]
    Handshake {
        /// What was connected to.
        endpoint: Endpoint,
        /// What went wrong.
        problem: String,
    },
    /// The agent refused the call, or the call broke off.
    #[error("{}", rpc_sentence(.0))]
    Rpc(Box<Status>),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A call of the client's own system failed.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The agent broke the rules of the API, or the stream ended without its end.
    #[error("{0}")]
    Stream(String),
    /// Nobody reads stdout any more.
    #[error("stdout was closed")]
    OutputClosed,
    /// Several things failed; each has been said already.
    #[error("")]
    Reported,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match fault::found(&status) {
            Some((endpoint, fault)) => {
                Error::Fault { endpoint: endpoint.clone(), fault: Box::new(fault.clone()) }
            }
            None => Error::Rpc(Box::new(status)),
        }
    }
}

impl Error {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Rpc(status) => match reason(status) {
                Some(Reason::CommandNotFound) => NOT_FOUND,
                Some(Reason::CommandNotExecutable) => NOT_EXECUTABLE,
                _ => FAILED,
            },
            // A list that is cut short by `head` is a success.
            Error::OutputClosed => 0,
            _ => FAILED,
        }
    }

    /// Whether there is nothing to say.
    pub fn is_silent(&self) -> bool {
        matches!(self, Error::OutputClosed | Error::Reported)
    }

    /// The machine-readable reason of an agent's refusal.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Error::Rpc(status) => reason(status),
            _ => None,
        }
    }

    /// Whether another try can only fail in the same way.
    pub fn is_final(&self) -> bool {
        match self {
            Error::Fault { fault, .. } => fault.is_final(),
            Error::Usage(_) | Error::Files(_) => true,
            _ => false,
        }
    }
}

fn reason(status: &Status) -> Option<Reason> {
    status.get_details_error_info().and_then(|info| Reason::parse(&info.reason))
}

/// Whether a status says that the connection is gone, and not that the agent refused: a refusal
/// carries its reason, a status that was made up on this side of a broken connection does not.
pub fn is_broken(status: &Status) -> bool {
    if fault::found(status).is_some() {
        return false;
    }
    match status.code() {
        Code::Unavailable => reason(status) != Some(Reason::AuditFailed),
        Code::Unknown | Code::Internal | Code::Cancelled => reason(status).is_none(),
        _ => status.source().is_some(),
    }
}

/// A short text for why a connection broke off.
pub fn broken_reason(status: &Status) -> String {
    let mut source = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    if text.is_empty() { "the agent closed it".to_owned() } else { text }
}

fn connect_reason(endpoint: &Endpoint, error: &io::Error) -> String {
    let is_socket = matches!(endpoint, Endpoint::Unix(_));
    let text = match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such socket; start contid on that machine, or name another agent with \
             --host, --context or $CONTI_HOST"
        }
        io::ErrorKind::ConnectionRefused if is_socket => {
            "nobody listens there; start contid, or name another agent with --host, --context or \
             $CONTI_HOST"
        }
        io::ErrorKind::ConnectionRefused if matches!(endpoint, Endpoint::Vsock { .. }) => {
            "nobody listens there; does contid run on that machine with --listen vsock://any:PORT, \
             and is this the port?"
        }
        io::ErrorKind::ConnectionRefused => {
            "nobody listens there; does contid run on that machine with --listen tcp://…, and is \
             this the port?"
        }
        io::ErrorKind::PermissionDenied if is_socket => {
            "permission denied; the socket belongs to the user that contid runs as: try as root"
        }
        io::ErrorKind::TimedOut => "the agent does not answer",
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset if !is_socket => {
            "the connection was closed before it was secure"
        }
        _ if is_socket => "the socket cannot be used; is it the one that contid listens on?",
        _ => return error.to_string(),
    };
    text.to_owned()
}

fn rpc_sentence(status: &Status) -> String {
    if is_broken(status) && reason(status).is_none() {
        return format!("the connection to the agent broke off: {}", broken_reason(status));
    }
    let mut text = match status.code() {
        Code::Unimplemented => {
            format!("this agent does not know the call; is it older than contictl? ({status})")
        }
        code if status.message().is_empty() => code.description().to_owned(),
        _ => status.message().to_owned(),
    };
    if let Some(request) = status.get_details_bad_request() {
        for violation in &request.field_violations {
            let line = format!("{}: {}", violation.field, violation.description);
            // A message that is made of its one violation need not say it twice.
            if !text.contains(&violation.description) {
                text.push_str("\n  ");
                text.push_str(&line);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use conti_shared::reason::DOMAIN;
    use tonic_types::ErrorDetails;

    use super::*;

    fn refusal(reason: Reason) -> Error {
        let details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, []);
        Status::with_error_details(Code::FailedPrecondition, "no", details).into()
    }

    #[test]
    fn a_command_that_could_not_be_run_has_the_codes_of_a_shell() {
        assert_eq!(refusal(Reason::CommandNotFound).exit_code(), 127);
        assert_eq!(refusal(Reason::CommandNotExecutable).exit_code(), 126);
        assert_eq!(refusal(Reason::SetupFailed).exit_code(), 125);
    }

    #[test]
    fn every_violation_is_said_once() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("spec.name", "is empty");
        details.add_bad_request_violation("spec.cwd", "is not absolute");
        let status =
            Status::with_error_details(Code::InvalidArgument, "spec.name: is empty", details);
        assert_eq!(
            Error::from(status).to_string(),
            "spec.name: is empty\n  spec.cwd: is not absolute"
        );
    }

    #[test]
    fn a_refusal_is_not_taken_for_a_broken_connection() {
        let Error::Rpc(status) = refusal(Reason::Internal) else { unreachable!() };
        assert!(!is_broken(&status));
        assert!(is_broken(&Status::unavailable("stopping")));
        assert!(is_broken(&Status::unknown("transport")));
        assert!(!is_broken(&Status::invalid_argument("x")));
    }
}
