//! The command line of the agent.
//!
//! - [`Args`]: how it serves; [`material`]: the files of its TLS;
//! - [`pki`]: the commands that work on its authority, whether it runs or not.

pub mod material;
pub mod pki;

use std::{env, io, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use conti_shared::endpoint::{self, Endpoint};

use crate::{
    engine::{id_ranges::Pool, userns},
    metrics::Address,
    reserve,
};

/// Where the agent keeps what outlives the host's being up.
const DATA_DIR: &str = "/var/lib/conti";

/// The agent of Conti: runs containers and sessions on this machine for its clients.
#[derive(Debug, Parser)]
#[command(name = "contid", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = false)]
pub struct Args {
    /// What is done instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where to listen: unix:///PATH, or tcp://ADDRESS:PORT with mutual TLS. May be given several times.
    #[arg(long, value_name = "URL", default_value = endpoint::DEFAULT, value_parser = local)]
    pub listen: Vec<Endpoint>,
    #[command(flatten)]
    pub tls: material::TlsFlags,
    /// Who may do what (TOML); read again when it changes [default: root and the agent's own user are
    /// admins, certificates have the role that their organisational unit names].
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    pub policy: Option<PathBuf>,
    /// Where to serve metrics for Prometheus: unix:///PATH, or a loopback address as tcp://127.0.0.1:PORT.
    /// They ask nobody who they are. GET /metrics and /healthz.
    #[arg(long, value_name = "URL")]
    pub metrics_listen: Option<Address>,
    /// Where to send spans for OpenTelemetry, by OTLP over gRPC: http://HOST:PORT.
    #[cfg(feature = "otel")]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = collector)]
    pub otel_endpoint: Option<String>,
    /// Directory for what lives as long as the host is up: sessions and their sockets.
    #[arg(long, value_name = "DIR", default_value = "/run/conti", value_parser = absolute)]
    pub state_dir: PathBuf,
    /// Directory for the records of containers and their private layers.
    #[arg(long, global = true, value_name = "DIR", default_value = DATA_DIR, value_parser = absolute)]
    pub data_dir: PathBuf,
    /// Whose user namespace containers get that do not say: each its own (auto) if the host can do that, or
    /// the host's.
    #[arg(long, value_name = "auto|host", default_value = "auto")]
    pub userns: userns::Default,
    /// The ids that user namespaces of containers get, 65536 each: the first and how many, or a user who has them
    /// in /etc/subuid and /etc/subgid. Two agents on one machine must not share them.
    #[arg(long, value_name = "FIRST:COUNT|USER", default_value_t)]
    pub userns_pool: Pool,
    /// The program conti-runtime [default: beside contid].
    #[arg(long, value_name = "PATH")]
    pub runtime: Option<PathBuf>,
    /// Where it is recorded who did what, or `none`. Two agents need two files.
    #[arg(long, value_name = "PATH|none", default_value = "/var/log/conti/audit.jsonl")]
    audit_log: PathBuf,
    /// Room that is kept for the agent's records and the audit log on each filesystem that they lie on, in bytes;
    /// no more than 1/100 of it. 0: none.
    #[arg(long, value_name = "BYTES", default_value_t = reserve::DEFAULT_BYTES)]
    pub reserve_bytes: u64,
    /// How the log is written to stderr. `auto`: for humans on a terminal, else as JSON.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
    /// What is logged: off, error, warn, info, debug or trace, or directives such as
    /// `warn,contid::engine=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "CONTID_LOG")]
    pub log_level: String,
}

/// What can be done instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Work on the certificate authority of this agent
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    /// Invite somebody to join this agent from another machine: prints the code for `contictl join`
    Invite(pki::Invite),
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For humans on a terminal, else as JSON.
    Auto,
    /// One readable line for each event.
    Human,
    /// One JSON object for each event.
    Json,
}

impl Args {
    /// The program conti-runtime: as given, or the one beside this program.
    pub fn runtime(&self) -> io::Result<PathBuf> {
        match &self.runtime {
            Some(path) => Ok(path.clone()),
            None => Ok(env::current_exe()?.with_file_name("conti-runtime")),
        }
    }

    /// The audit log; `None`: there is to be none.
    pub fn audit_log(&self) -> io::Result<Option<PathBuf>> {
        match self.audit_log.as_os_str() == "none" {
            true => Ok(None),
            false => std::path::absolute(&self.audit_log).map(Some),
        }
    }
}

/// An address that the agent can listen on.
fn local(text: &str) -> Result<Endpoint, String> {
    match text.parse().map_err(|error: endpoint::ParseError| error.to_string())? {
        here @ (Endpoint::Unix(_) | Endpoint::Tcp(_)) => Ok(here),
        #[cfg(feature = "vsock")]
        here @ Endpoint::Vsock { .. } => Ok(here),
        #[cfg(not(feature = "vsock"))]
        Endpoint::Vsock { .. } => {
            Err("this contid was built without the feature `vsock`".to_owned())
        }
        Endpoint::Ssh { .. } => Err(format!(
            "{text}: nothing listens for ssh: a client connects with `contictl --host {text}` to the sshd \
             of this machine"
        )),
    }
}

/// The address of a collector of spans.
#[cfg(feature = "otel")]
fn collector(text: &str) -> Result<String, &'static str> {
    let uri: http::Uri = text.parse().map_err(|_| "is no URL; write http://HOST:PORT")?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(text.to_owned()),
        _ => Err("only http://HOST:PORT can be given: have a collector on this machine pass it on"),
    }
}

/// A path that stays the same path whatever the working directory of a later process is.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    std::path::absolute(&path)
        .map_err(|error| format!("no absolute path can be made of it: {error}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let args = Args::parse_from(["contid"]);
        assert_eq!(args.listen, [Endpoint::default()]);
        assert_eq!(args.state_dir, Path::new("/run/conti"));
        assert_eq!(args.data_dir, Path::new("/var/lib/conti"));
        assert_eq!(args.log_format, LogFormat::Auto);
        assert!(args.runtime().unwrap().ends_with("conti-runtime"));
        let audit_log = args.audit_log().unwrap().unwrap();
        assert_eq!(audit_log, Path::new("/var/log/conti/audit.jsonl"));
    }

    #[test]
    fn several_addresses_can_be_given_and_replace_the_default() {
        let args = Args::parse_from([
            "contid",
            "--listen",
            "unix:///a.sock",
            "--listen",
            "tcp://0.0.0.0:7443",
        ]);
        assert_eq!(args.listen.len(), 2);
        assert!(Args::try_parse_from(["contid", "--listen", "ssh://host"]).is_err());
    }

    #[test]
    fn the_lines_of_the_manual_are_understood() {
        for line in [
            "pki init --name web.example --name *.example --name 192.0.2.1 --name 2001:db8::1",
            "--data-dir /d pki init",
            "pki ls",
            "pki renew",
            "pki revoke alice",
            "invite --role operator --name alice --expires 1h",
            "invite --role admin --name bob --cert-expires 30days --address web:7443 --data-dir /d",
            "invite --role viewer --name carol --address vsock://3:7443",
            "invite ls",
            "invite rm 0123456789abcdef",
        ] {
            let args = std::iter::once("contid").chain(line.split(' '));
            assert!(Args::try_parse_from(args).is_ok(), "{line}");
        }
        for line in [
            "invite",
            "invite --role root --name a",
            "invite --role admin",
            "pki",
            "pki init --name a\u{a0}b",
            "pki init --name web:7443",
            "pki renew --name tcp://web",
        ] {
            let args = std::iter::once("contid").chain(line.split(' '));
            assert!(Args::try_parse_from(args).is_err(), "{line}");
        }
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn there_need_not_be_an_audit_log() {
        let of = |path| Args::parse_from(["contid", "--audit-log", path]).audit_log().unwrap();
        assert_eq!(of("none"), None);
        assert!(of("audit.jsonl").unwrap().is_absolute());
    }

    #[test]
    fn metrics_are_served_only_where_asked_and_once() {
        assert_eq!(Args::parse_from(["contid"]).metrics_listen, None);
        let once = ["contid", "--metrics-listen", "tcp://127.0.0.1:9100"];
        assert!(Args::parse_from(once).metrics_listen.is_some());
        let twice = once.iter().chain(&once[1..]);
        assert!(Args::try_parse_from(twice).is_err());
        assert!(Args::try_parse_from(["contid", "--metrics-listen", "tcp://0.0.0.0:1"]).is_err());
    }

    #[test]
    fn directories_become_absolute() {
        let args = Args::parse_from(["contid", "--state-dir", "state"]);
        assert!(args.state_dir.is_absolute());
    }
}
