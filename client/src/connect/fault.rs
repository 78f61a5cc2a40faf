//! What is wrong with a secure connection, in words that say what to do.

use std::{
    io,
    time::{Duration, SystemTime},
};

use conti_shared::endpoint::Endpoint;
use rustls::{AlertDescription, CertificateError, pki_types::UnixTime};
use tonic::Status;

/// Why a connection was not made, or was ended, by one of its ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The agent's certificate comes from somebody else.
    #[error(
        "its certificate does not come from the authority that this client trusts. Either it is \
         another machine, or the agent has a new authority: join it again with a new invitation, \
         or name the right authority with --tls-ca"
    )]
    UnknownAuthority,
    /// The agent's certificate is too old.
    #[error(
        "its certificate expired{}; renew it on the agent's host, and see that the clock of this \
         machine is right", at(.0)
    )]
    Expired(Option<SystemTime>),
    /// The agent's certificate is too young.
    #[error(
        "its certificate is not valid yet, but only{}; see that the clocks of both machines are \
         right", from(.0)
    )]
    NotYetValid(Option<SystemTime>),
    /// The agent's certificate names another host.
    #[error(
        "its certificate is not for {wanted} but for {}; connect by that name, or tell it with \
         --tls-server-name where it is the right machine", list(.names)
    )]
    OtherName {
        /// What the client connected to.
        wanted: String,
        /// The names in the certificate.
        names: Vec<String>,
    },
    /// The agent's certificate cannot be used for another reason.
    #[error("its certificate cannot be used: {0}")]
    BadCertificate(String),
    /// The authority's fingerprint is not that of the invitation.
    #[error(
        "this is not the agent of the invitation: its authority has another fingerprint than the \
         code says. The secret was not sent. Check the address, and whom the code comes from"
    )]
    NotTheInviter,
    /// This client has no certificate to show.
    #[error(
        "the agent wants to know who calls, and no client certificate is configured: \
         `contictl join CODE` gets one, or name files with --tls-cert and --tls-key"
    )]
    NoCertificate,
    /// This client's certificate is too old.
    #[error(
        "this client's certificate has expired, so it cannot be renewed any more: ask for a new \
         invitation and `contictl join` again"
    )]
    ClientExpired,
    /// This client's certificate was revoked.
    #[error("this client's certificate was revoked; who manages the agent can invite you again")]
    ClientRevoked,
    /// This client's certificate comes from somebody whom the agent does not know.
    #[error(
        "the agent does not know the authority of this client's certificate: it is for another \
         agent, or the agent has a new authority; `contictl join` with a new invitation"
    )]
    ClientUnknown,
    /// This client's certificate was refused for another reason.
    #[error("the agent refused this client's certificate ({0}); is it one for clients?")]
    ClientRefused(String),
    /// Something else answers.
    #[error("what answers there is no agent of Conti: {0}")]
    NotAnAgent(String),
    /// The program that was to connect is not there.
    #[error(
        "cannot start {program:?}: {problem}; install OpenSSH's client, or name it in $CONTI_SSH"
    )]
    NoSsh {
        /// The program.
        program: String,
        /// Why it cannot be started.
        problem: String,
    },
    /// The program that was to connect gave up.
    #[error("ssh could not connect; what it said stands above. `ssh {0}` tells more")]
    SshFailed(String),
    /// There is no client on the other side.
    #[error(
        "contictl was not found on the other side: install it there, where a shell without a \
         login finds it"
    )]
    NoProxy,
    /// The client on the other side failed.
    #[error("`contictl proxy` failed on the other side ({0}); what it said stands above")]
    ProxyFailed(String),
}

impl Fault {
    /// What an error of a transport means, where it is one of these.
    pub fn of(error: &io::Error) -> Option<Fault> {
        let inner = error.get_ref()?;
        if let Some(fault) = inner.downcast_ref::<Fault>() {
            return Some(fault.clone());
        }
        inner.downcast_ref::<rustls::Error>().map(Fault::of_tls)
    }

    fn of_tls(error: &rustls::Error) -> Fault {
        use rustls::Error as E;
        let not_an_agent = |problem: &str| Fault::NotAnAgent(problem.to_owned());
        match error {
            E::InvalidCertificate(problem) => Fault::of_certificate(problem),
            E::AlertReceived(alert) => Fault::of_alert(*alert),
            E::InvalidMessage(_) | E::InappropriateMessage { .. } => {
                not_an_agent("it does not speak TLS")
            }
            E::PeerIncompatible(_) => not_an_agent("it does not speak TLS 1.3"),
            E::NoApplicationProtocol => not_an_agent("it does not speak the API's protocol (ALPN)"),
            other => Fault::NotAnAgent(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Fault {
        use CertificateError as C;
        match error {
            C::UnknownIssuer | C::BadSignature => Fault::UnknownAuthority,
            C::Expired => Fault::Expired(None),
            C::ExpiredContext { not_after, .. } => Fault::Expired(time(*not_after)),
            C::NotValidYet => Fault::NotYetValid(None),
            C::NotValidYetContext { not_before, .. } => Fault::NotYetValid(time(*not_before)),
            C::NotValidForName => {
                Fault::OtherName { wanted: "this host".to_owned(), names: Vec::new() }
            }
            C::NotValidForNameContext { expected, presented } => Fault::OtherName {
                wanted: expected.to_str().into_owned(),
                names: presented.iter().map(|name| bare(name)).collect(),
            },
            C::ApplicationVerificationFailure => Fault::NotTheInviter,
            other => Fault::BadCertificate(other.to_string()),
        }
    }

    /// The agent says by an alert (RFC 8446, 6.2) what it has against this client.
    fn of_alert(alert: AlertDescription) -> Fault {
        use AlertDescription as A;
        match alert {
            A::CertificateRequired => Fault::NoCertificate,
            A::CertificateExpired => Fault::ClientExpired,
            A::CertificateRevoked => Fault::ClientRevoked,
            // An authority that was made anew has its old name: then it is the signature that is wrong.
            A::UnknownCA | A::DecryptError => Fault::ClientUnknown,
            A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateUnknown
            | A::AccessDenied => Fault::ClientRefused(format!("{alert:?}")),
            A::NoApplicationProtocol => {
                Fault::NotAnAgent("it does not speak the API's protocol (ALPN)".to_owned())
            }
            A::ProtocolVersion => Fault::NotAnAgent("it does not speak TLS 1.3".to_owned()),
            other => Fault::NotAnAgent(format!("it ended the connection with {other:?}")),
        }
    }

    /// Whether another try can only fail in the same way. What stands between the two ends may answer in
    /// the agent's place as long as that is away.
    pub fn is_final(&self) -> bool {
        !matches!(self, Fault::SshFailed(_) | Fault::ProxyFailed(_) | Fault::NotAnAgent(_))
    }
}

/// What a call failed with whose connection was ended by a fault. [`found`] finds it again.
pub fn status(endpoint: Endpoint, fault: Fault) -> Status {
    let mut status = Status::unavailable(fault.to_string());
    status.set_source(std::sync::Arc::new(Ended { endpoint, fault }));
    status
}

/// The fault that made a call fail, and where.
pub fn found(status: &Status) -> Option<(&Endpoint, &Fault)> {
    let ended: &Ended = std::error::Error::source(status)?.downcast_ref()?;
    Some((&ended.endpoint, &ended.fault))
}

#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: {fault}")]
struct Ended {
    endpoint: Endpoint,
    fault: Fault,
}

/// `DnsName("a")` and `IpAddress(b)` without what is around the name.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"').to_owned()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no host at all".to_owned() } else { names.join(", ") }
}

fn time(time: UnixTime) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()))
}

fn at(time: &Option<SystemTime>) -> String {
    time.map_or_else(String::new, |time| format!(" on {}", humantime::format_rfc3339_seconds(time)))
}

fn from(time: &Option<SystemTime>) -> String {
    time.map_or_else(String::new, |time| {
        format!(" from {} on", humantime::format_rfc3339_seconds(time))
    })
}
