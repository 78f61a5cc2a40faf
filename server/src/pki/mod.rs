//! A small certificate authority for those who have none, in `DATA/pki`.
//!
//! ```text
//!   ca.pem  ca.key            the authority; without its key nobody can join, and all else goes on
//!   server.pem  server.key    the agent's own certificate, with the authority's behind it
//!   crl.pem                   what was revoked, signed
//!   issued/SERIAL.json        what was issued to clients, and whether it was revoked
//!   invitations/ID.json       who may join; the secret as its SHA-256 only
//! ```
//!
//! The agent and `contid pki`, `contid invite` work on the same files, one at a time under `lock`; the agent
//! sees what has changed. Knows neither gRPC nor the engine's containers.
//!
//! Who was revoked stands in two places, of which each makes up for the other: see [`issued`].
//!
//! - [`authority`]: making and signing certificates;
//! - [`invitations`]: who may join; [`issued`]: who has, and revoking it;
//! - [`names`]: whom the agent's own certificate names.

pub mod authority;
#[cfg(test)]
mod fuzz;
pub mod invitations;
pub mod issued;
pub mod names;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use conti_runtime::own;
use conti_shared::{invitation::Fingerprint, tls};
use rustix::{fs::FlockOperation, io::Errno};

use crate::{
    engine::store::{self, Durability},
    tls::{Material, Revoked},
};

/// How long another who works on the authority is waited for: it may be stopped.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it is done.
const PAUSE: Duration = Duration::from_millis(10);

/// The directory of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pki {
    dir: PathBuf,
}

/// What goes wrong with an authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("there is no certificate authority in {}; `contid pki init` makes one", .0.display())]
    None(PathBuf),
    /// There is one already.
    #[error("there is a certificate authority in {} already; what it has signed would be lost: remove the directory first if that is wanted", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {what} {}: {source}{}", path.display(), hint(source))]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A certificate cannot be made or used.
    #[error("{what}: {problem}")]
    Certificate {
        /// What was tried.
        what: &'static str,
        /// Why not.
        problem: String,
    },
    /// What was asked for makes no sense.
    #[error("{field} {problem}")]
    Invalid {
        /// Which part of it.
        field: &'static str,
        /// The end of a sentence that begins with it.
        problem: String,
    },
    /// An invitation cannot be used. Why not is for the agent's log, not for who tries it.
    #[error(
        "the invitation cannot be used: it was used before, was revoked, has expired, or the code is wrong; ask for another"
    )]
    Refused(&'static str),
    /// There is no such invitation.
    #[error("there is no invitation {0:?}")]
    NoInvitation(String),
    /// There is no such certificate.
    #[error("there is no certificate of {0:?}")]
    NoCertificate(String),
    /// Certificates whose records cannot be read may be meant as well. Those that are known to be are revoked.
    #[error("{known} are revoked; but the records of others cannot be read, which may be meant as well: revoke them by their serial numbers, {}", serials.join(", "))]
    Unread {
        /// How many were revoked.
        known: usize,
        /// The serial numbers of the others.
        serials: Vec<String>,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; it is root's: try again as root",
        _ => "",
    }
}

/// The result of working on an authority.
pub type Result<T> = std::result::Result<T, Error>;

impl Pki {
    /// The authority of a data directory.
    pub fn of(data_dir: &Path) -> Pki {
        Pki { dir: data_dir.join("pki") }
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        own::exists(self.path("ca.pem"))
    }

    /// The files that the agent's TLS is made of.
    pub fn material(&self) -> Material {
        Material {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: self.path("ca.pem"),
            revoked: Revoked::Own(self.clone()),
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// By what clients know it.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let chain = tls::certificates_in(self.read("ca.pem")?.as_bytes())
            .map_err(|problem| Error::Certificate { what: "the authority", problem })?;
        chain.first().map(|der| Fingerprint::of(der)).ok_or_else(|| Error::None(self.dir.clone()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.path(name);
        own::read_to_string(&path).map_err(|source| Error::File { what: "read", path, source })
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        store::write_bytes(&self.dir, name, text.as_bytes(), mode, Durability::Durable)
            .map_err(|source| Error::File { what: "write", path: self.path(name), source })
    }

    fn sub_dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        // The data directory itself may not be there yet.
        let above = self.dir.parent().map_or(Ok(()), |above| own::make_dirs(above, 0o700));
        match above
            .and_then(|()| own::make_own_dir(&self.dir, 0o700))
            .and_then(|()| own::make_own_dir(&path, 0o700))
        {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::File { what: "make the directory", path, source }),
        }
    }

    /// Waits until nobody else works on it, for as long as the value lives.
    fn lock(&self) -> Result<File> {
        let path = self.path("ca.pem");
        match own::symlink_metadata(&path) {
            Ok(_) => self.take_lock(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::None(self.dir.clone()))
            }
            // Who may not look does not know whether there is one.
            Err(source) => Err(Error::File { what: "look at", path, source }),
        }
    }

    fn take_lock(&self) -> Result<File> {
        let path = self.path("lock");
        let lock = || {
            let file = own::create(&path)?;
            let deadline = Instant::now() + PATIENCE;
            loop {
                match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => return Ok(file),
                    Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {
                        thread::sleep(PAUSE);
                    }
                    Err(Errno::AGAIN) => return Err(busy()),
                    Err(errno) => return Err(errno.into()),
                }
            }
        };
        lock().map_err(|source| Error::File { what: "lock", path: path.clone(), source })
    }

    /// The error where others have worked on it for [`PATIENCE`].
    pub fn busy(&self) -> Error {
        Error::File { what: "lock", path: self.path("lock"), source: busy() }
    }
}

/// A record of a directory: its name without `.json`, and what stands in it, or why that cannot be read.
type Kept<T> = (String, io::Result<T>);

fn busy() -> io::Error {
    let problem = "others have been working on it for 10 seconds; try again";
    io::Error::new(io::ErrorKind::ResourceBusy, problem)
}

/// The records of a directory, by their names. A directory that is not there has none.
fn records<T: serde::de::DeserializeOwned>(dir: &Path) -> Result<Vec<Kept<T>>> {
    let failed = |source| Error::File { what: "list", path: dir.to_owned(), source };
    let entries = match own::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    let name = |entry: &std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?.strip_suffix(".json")?.to_owned();
        (!name.starts_with('.')).then_some(name)
    };
    let mut names: Vec<String> = entries.iter().filter_map(name).collect();
    names.sort();
    let read = |name: String| {
        let path = dir.join(format!("{name}.json"));
        let record = store::read(&path).inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "a record cannot be read");
        });
        (name, record)
    };
    Ok(names.into_iter().map(read).collect())
}

/// Those of some records that can be read.
fn readable<T>(records: Vec<Kept<T>>) -> impl Iterator<Item = T> {
    records.into_iter().filter_map(|(_, record)| record.ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_cannot_be_looked_for_is_not_said_to_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Pki::of(dir.path()).lock(), Err(Error::None(_))));
        // Nothing can be looked for in it, by nobody.
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let refused = Pki::of(&file).lock().unwrap_err();
        assert!(matches!(refused, Error::File { .. }), "{refused}");
    }
}
