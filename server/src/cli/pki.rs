//! `contid pki` and `contid invite`: they work on the files of the authority, and the agent, where it runs,
//! sees what has changed.

use std::{
    error::Error,
    io::{self, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand, ValueEnum};
use conti_shared::endpoint::Place;
use rustls::pki_types::ServerName;

use super::{Command, DATA_DIR};
use crate::{
    access::Role,
    pki::{
        Pki,
        invitations::Wanted,
        issued::{Record, Which},
    },
};

/// What can be done with the authority.
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a certificate authority, and the agent's own certificate
    Init(Names),
    /// Make another certificate for the agent
    Renew(Names),
    /// List the certificates of clients
    Ls,
    /// Revoke the certificates of a client: its connections are closed
    Revoke {
        /// Whom they name, or the serial number of one
        client: String,
    },
}

/// Whom the agent's certificate names besides the machine's own names and addresses.
#[derive(Debug, Args)]
pub struct Names {
    /// A name or address that clients call this machine by. May be given several times
    #[arg(long, value_name = "HOST", value_parser = host)]
    name: Vec<String>,
}

/// What clients can call a machine by. A certificate may stand for all names of a domain: `*.example`.
fn host(text: &str) -> Result<String, &'static str> {
    match ServerName::try_from(text.strip_prefix("*.").unwrap_or(text)) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("no host can be called so; write a name or an address, without a port"),
    }
}

/// Invites somebody.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Invite {
    #[command(subcommand)]
    command: Option<InviteCommand>,
    /// What the client may do
    #[arg(long, required = true)]
    role: Option<RoleName>,
    /// Whom the client's certificate names
    #[arg(long, required = true)]
    name: Option<String>,
    /// For how long the code can be used
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// For how long the client's certificate holds
    #[arg(long, default_value = "90days", value_parser = humantime::parse_duration)]
    cert_expires: Duration,
    /// Where clients reach this agent: HOST, HOST:PORT or vsock://CID:PORT [default: the names of its
    /// certificate, with port 7443]. May be given several times
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<Place>,
}

/// What can be done with invitations.
#[derive(Debug, Subcommand)]
enum InviteCommand {
    /// List the invitations that were not used yet
    Ls,
    /// Take an invitation back
    Rm {
        /// Its id
        id: String,
    },
}

/// A role that can be given.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Viewer,
    Operator,
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Viewer => Role::Viewer,
            RoleName::Operator => Role::Operator,
            RoleName::Admin => Role::Admin,
        }
    }
}

/// Does what the command line says.
pub fn run(command: Command, data_dir: &Path) -> Result<(), Box<dyn Error>> {
    let pki = Pki::of(data_dir);
    let mut out = io::stdout().lock();
    match command {
        Command::Pki(PkiCommand::Init(Names { name })) => {
            let names = pki.init(&name)?;
            writeln!(out, "The authority is in {}", pki.dir().display())?;
            writeln!(out, "Clients know it by   {}", pki.fingerprint()?)?;
            writeln!(out, "The agent is called  {}", names.join(", "))?;
            let here = match data_dir == Path::new(DATA_DIR) {
                true => String::new(),
                false => format!(" --data-dir {}", quoted(data_dir)),
            };
            writeln!(
                out,
                "\nNext: contid --listen {} --listen tcp://0.0.0.0:7443{here}",
                conti_shared::endpoint::DEFAULT
            )?;
            writeln!(out, "      contid invite --role operator --name NAME{here}")?;
        }
        Command::Pki(PkiCommand::Renew(Names { name })) => {
            let names = pki.renew_server(&name)?;
            writeln!(out, "The agent is called {}", names.join(", "))?;
        }
        Command::Pki(PkiCommand::Ls) => table(&mut out, &pki.certificates()?)?,
        Command::Pki(PkiCommand::Revoke { client }) => {
            let serial = client.len() == 32 && client.bytes().all(|b| b.is_ascii_hexdigit());
            let which = if serial { Which::Serial(client) } else { Which::Name(client) };
            table(&mut out, &pki.revoke(&which)?)?;
        }
        Command::Invite(Invite { command: Some(InviteCommand::Ls), .. }) => {
            let all = pki.invitations()?;
            writeln!(out, "{:<18}{:<10}{:<22}NAME", "ID", "ROLE", "EXPIRES")?;
            for one in all {
                let expires = time(one.expire_time);
                writeln!(out, "{:<18}{:<10}{expires:<22}{}", one.id, one.role, one.name)?;
            }
        }
        Command::Invite(Invite { command: Some(InviteCommand::Rm { id }), .. }) => {
            pki.withdraw(&id)?;
        }
        Command::Invite(Invite { role, name, expires, cert_expires, address, .. }) => {
            let (role, name) = role.zip(name).ok_or("--role and --name are required")?;
            let given = !address.is_empty();
            let (_, code) = pki.invite(Wanted {
                name,
                role: role.into(),
                expires,
                lifetime: cert_expires,
                addresses: address,
                // Of an agent that may run these files do not know.
                listens: Vec::new(),
            })?;
            writeln!(out, "{code}")?;
            let leads: Vec<String> = code.addresses.iter().map(Place::to_string).collect();
            let change =
                if given { "" } else { "; if it listens elsewhere, give --address HOST:PORT" };
            // Beside the code, which is for scripts as well.
            writeln!(io::stderr(), "contid: it leads to {}{change}", leads.join(", "))?;
        }
    }
    Ok(())
}

fn table(out: &mut impl io::Write, records: &[Record]) -> io::Result<()> {
    writeln!(out, "{:<34}{:<10}{:<22}{:<22}NAME", "SERIAL", "ROLE", "EXPIRES", "REVOKED")?;
    for record in records {
        let Record { serial, role, name, not_after, revoked, .. } = record;
        let known = Some(*not_after).filter(|time| *time != SystemTime::UNIX_EPOCH);
        let [expires, revoked] =
            [known, *revoked].map(|at| at.map_or_else(|| "-".to_owned(), time));
        writeln!(out, "{serial:<34}{role:<10}{expires:<22}{revoked:<22}{name}")?;
    }
    Ok(())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
