//! Who may join.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use conti_runtime::own;
use conti_shared::{
    endpoint::{DEFAULT_PORT, HostPort, Place},
    invitation::{ADDRESSES_MAX, ID_LEN, Invitation, SECRET_LEN, sha256},
};
use serde::{Deserialize, Serialize};

use super::{
    Error, Pki, Result,
    authority::{Issued, signing_request},
    names, readable, records,
};
use crate::{
    access::Role,
    engine::store::{self, Durability},
};

/// For how long an invitation can be used, where nothing was said.
pub const EXPIRES: Duration = Duration::from_secs(3600);
/// For how long a certificate holds, where nothing was said.
pub const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
const EXPIRES_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const LIFETIME_MIN: Duration = Duration::from_secs(60);
pub(super) const LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const NAME_MAX: usize = 63;
/// How many there are at most: each is a file.
const COUNT_MAX: usize = 1000;

/// Who is to be invited.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whom the certificate will name.
    pub name: String,
    /// The role that it will give.
    pub role: Role,
    /// For how long the invitation can be used.
    pub expires: Duration,
    /// For how long the certificate will hold.
    pub lifetime: Duration,
    /// Where clients reach the agent. Empty: by the names of its certificate.
    pub addresses: Vec<Place>,
    /// Where the agent listens. Empty: that is not known.
    pub listens: Vec<SocketAddr>,
}

/// An invitation that was not used yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its id, in hexadecimal.
    pub id: String,
    /// Whom the certificate will name.
    pub name: String,
    /// The role that it will give.
    pub role: String,
    /// Until when it can be used.
    pub expire_time: SystemTime,
    /// For how long the certificate will hold.
    pub lifetime: Duration,
    /// The SHA-256 of its secret.
    secret: [u8; 32],
}

impl Pki {
    /// Invites somebody. Returns the code as well, which is not kept.
    pub fn invite(&self, wanted: Wanted) -> Result<(Record, Invitation)> {
        check(&wanted)?;
        let _lock = self.lock()?;
        // Without the key nobody could join.
        self.issuer()?;
        let dir = self.sub_dir("invitations")?;
        self.sweep()?;
        if records::<Record>(&dir)?.len() >= COUNT_MAX {
            let problem = format!("are {COUNT_MAX} already; withdraw some with `contid invite rm`");
            return Err(Error::Invalid { field: "invitations", problem });
        }
        let addresses = match wanted.addresses.is_empty() {
            false => wanted.addresses,
            true => self.default_addresses(&wanted.listens)?,
        };
        let invitation = Invitation {
            authority: self.fingerprint()?,
            id: rand::random::<[u8; ID_LEN]>(),
            secret: rand::random::<[u8; SECRET_LEN]>(),
            addresses,
        };
        let record = Record {
            id: invitation.id_text(),
            name: wanted.name,
            role: wanted.role.as_str().to_owned(),
            expire_time: SystemTime::now() + wanted.expires,
            lifetime: wanted.lifetime,
            secret: sha256(&invitation.secret),
        };
        let name = format!("{}.json", record.id);
        let bytes = serde_json::to_vec_pretty(&record).map_err(|error| Error::Certificate {
            what: "cannot write the invitation",
            problem: error.to_string(),
        })?;
        store::write_bytes(&dir, &name, &bytes, 0o600, Durability::Durable)
            .map_err(|source| Error::File { what: "write", path: dir.join(&name), source })?;
        Ok((record, invitation))
    }

    fn default_addresses(&self, listens: &[SocketAddr]) -> Result<Vec<Place>> {
        let addresses = reached(&self.server_names()?, listens);
        if addresses.is_empty() {
            let problem = "must be given: the agent's certificate names none that others can use";
            return Err(Error::Invalid { field: "addresses", problem: problem.to_owned() });
        }
        Ok(addresses)
    }

    /// The invitations that can be used, by their ids.
    pub fn invitations(&self) -> Result<Vec<Record>> {
        let _lock = self.lock()?;
        self.sweep()?;
        Ok(readable(records(&self.path("invitations"))?).collect())
    }

    /// Takes an invitation back.
    pub fn withdraw(&self, id: &str) -> Result<()> {
        let _lock = self.lock()?;
        let absent = || Error::NoInvitation(id.to_owned());
        let path = self.invitation_path(id).ok_or_else(absent)?;
        own::remove_file(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => absent(),
            // It may be there, and can be used.
            _ => Error::File { what: "remove", path, source },
        })
    }

    /// Lets somebody in: an invitation, used once, becomes a certificate.
    pub fn join(&self, id: &str, secret: &[u8], request: &[u8]) -> Result<Issued> {
        // Before the invitation is used up.
        signing_request(request)?;
        let _lock = self.lock()?;
        self.issuer()?;
        let path = self.invitation_path(id).ok_or(Error::Refused("its id is none"))?;
        let record: Record =
            store::read(&path).map_err(|_| Error::Refused("there is no such invitation"))?;
        if sha256(secret) != record.secret {
            return Err(Error::Refused("its secret is wrong"));
        }
        if record.expire_time <= SystemTime::now() {
            return Err(Error::Refused("it has expired"));
        }
        let role = Role::parse(&record.role).ok_or(Error::Refused("its role is none"))?;
        // First of all, and for good: a crash costs the invitation, and never lets two in.
        let used = own::remove_file(&path)
            .and_then(|()| own::open_dir(self.path("invitations"))?.sync_all());
        used.map_err(|source| Error::File { what: "use up", path, source })?;
        self.issue(&record.name, role, record.lifetime, None, request)
    }

    /// Ids come from outside: none is a path but such as was made here.
    fn invitation_path(&self, id: &str) -> Option<PathBuf> {
        let good =
            id.len() == 2 * ID_LEN && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| self.path("invitations").join(format!("{id}.json")))
    }

    /// Removes what has expired.
    fn sweep(&self) -> Result<()> {
        let now = SystemTime::now();
        for record in readable(records::<Record>(&self.path("invitations"))?) {
            if record.expire_time <= now
                && let Some(path) = self.invitation_path(&record.id)
            {
                // One that stays is refused all the same.
                let _ = own::remove_file(path);
            }
        }
        Ok(())
    }
}

/// Where others reach an agent that is called by some names and listens on some addresses. Where it listens to its own
/// machine alone, that is there.
fn reached(names: &[String], listens: &[SocketAddr]) -> Vec<Place> {
    let is_local = !listens.is_empty() && listens.iter().all(|at| at.ip().is_loopback());
    let names = names.iter().filter(|name| names::is_loopback(name) == is_local);
    let places = names.flat_map(|name| {
        let heard = listens.iter().filter(|at| at.ip().is_loopback() == is_local);
        let ports: Vec<u16> = match listens {
            [] => vec![DEFAULT_PORT],
            _ => heard.filter(|at| answers(at.ip(), name)).map(SocketAddr::port).collect(),
        };
        ports.into_iter().map(|port| HostPort { host: name.clone(), port })
    });
    // What no client could read is left out.
    let readable = |place: &HostPort| place.to_string().parse() == Ok(place.clone());
    places.filter(readable).map(Place::Tcp).take(ADDRESSES_MAX).collect()
}

/// Whether who listens on an address can be reached by a name of its machine.
fn answers(listens: IpAddr, name: &str) -> bool {
    match (name.parse::<IpAddr>(), listens) {
        (Ok(name), IpAddr::V4(_)) => {
            listens == name || (listens.is_unspecified() && name.is_ipv4())
        }
        // It takes IPv4 as well, unless net.ipv6.bindv6only is set.
        (Ok(name), IpAddr::V6(_)) => listens == name || listens.is_unspecified(),
        (Err(_), _) => true,
    }
}

fn check(wanted: &Wanted) -> Result<()> {
    let invalid = |field, problem: String| Err(Error::Invalid { field, problem });
    let name = &wanted.name;
    let good = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(good) {
        let problem = format!(
            "is {name:?}: 1 to {NAME_MAX} of a-z, A-Z, 0-9, `_`, `.`, `@` and `-` are allowed"
        );
        return invalid("name", problem);
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || name == "guest" {
        return invalid(
            "name",
            format!("is {name:?}: it must begin with a letter or digit and not be `guest`"),
        );
    }
    if wanted.expires.is_zero() || wanted.expires > EXPIRES_MAX {
        return invalid("expires", "is not in 1 second to 30 days".to_owned());
    }
    if !(LIFETIME_MIN..=LIFETIME_MAX).contains(&wanted.lifetime) {
        return invalid("certificate_lifetime", "is not in 1 minute to 10 years".to_owned());
    }
    if wanted.addresses.len() > ADDRESSES_MAX {
        let count = wanted.addresses.len();
        return invalid("addresses", format!("are {count}, at most {ADDRESSES_MAX} are allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_leads_to_where_the_agent_listens() {
        let names = ["web", "10.0.0.1", "fd00::1", "localhost", "127.0.0.1", "::1", "*.example"];
        let names = names.map(str::to_owned);
        let leads = |listens: &[&str]| {
            let listens: Vec<SocketAddr> = listens.iter().map(|at| at.parse().unwrap()).collect();
            let places = reached(&names, &listens);
            places.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(leads(&[]), "web:7443 10.0.0.1:7443 [fd00::1]:7443");
        assert_eq!(leads(&["0.0.0.0:1"]), "web:1 10.0.0.1:1");
        assert_eq!(leads(&["[::]:1"]), "web:1 10.0.0.1:1 [fd00::1]:1");
        assert_eq!(leads(&["10.0.0.1:1", "127.0.0.1:2"]), "web:1 10.0.0.1:1");
        assert_eq!(leads(&["127.0.0.1:2"]), "localhost:2 127.0.0.1:2");
        assert_eq!(leads(&["0.0.0.0:1", "0.0.0.0:2", "[::]:3"]).split(' ').count(), ADDRESSES_MAX);
    }
}
