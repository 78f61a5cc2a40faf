//! A small certificate authority for those who have none, in `DATA/pki`.
//!
//! ```text
//!   ca.pem  ca.key            the authority; without its key nobody can join, and all else goes on
//!   server.pem  server.key    the agent's own certificate, with the authority's behind it
//!   crl.pem                   what was revoked
//!   issued/SERIAL.json        what was issued to clients
//!   invitations/ID.json       who may join; the secret as its SHA-256 only
//! ```
//!
//! The agent and `contid pki`, `contid invite` work on the same files, one at a time under `lock`; the agent
//! sees what has changed. Knows neither gRPC nor the engine's containers.
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
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use conti_shared::{invitation::Fingerprint, tls};

use crate::{
    engine::store::{self, Durability},
    tls::Material,
};

/// The directory of an authority.
#[derive(Debug, Clone)]
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
        self.path("ca.pem").exists()
    }

    /// The files that the agent's TLS is made of.
    pub fn material(&self) -> Material {
        Material {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: self.path("ca.pem"),
            crl: Some(self.path("crl.pem")),
            crl_may_be_missing: true,
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// By what clients know it.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let chain = tls::certificates(&self.path("ca.pem")).map_err(|error| {
            Error::Certificate { what: "the authority", problem: error.to_string() }
        })?;
        chain.first().map(|der| Fingerprint::of(der)).ok_or_else(|| Error::None(self.dir.clone()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.path(name);
        fs::read_to_string(&path).map_err(|source| Error::File { what: "read", path, source })
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<()> {
        store::write_bytes(&self.dir, name, text.as_bytes(), mode, Durability::Durable)
            .map_err(|source| Error::File { what: "write", path: self.path(name), source })
    }

    fn sub_dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::File { what: "make the directory", path, source }),
        }
    }

    /// Waits until nobody else works on it, for as long as the value lives.
    fn lock(&self) -> Result<File> {
        let path = self.path("ca.pem");
        match path.try_exists() {
            Ok(true) => self.take_lock(),
            Ok(false) => Err(Error::None(self.dir.clone())),
            // Whoever may not look there does not know.
            Err(source) => Err(Error::File { what: "look for", path, source }),
        }
    }

    fn take_lock(&self) -> Result<File> {
        let path = self.path("lock");
        let lock = || {
            let file = File::create(&path)?;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
            Ok(file)
        };
        lock().map_err(|source| Error::File { what: "lock", path: path.clone(), source })
    }
}

/// Records of a directory, by their names, the damaged ones left out and told.
fn records<T: serde::de::DeserializeOwned>(dir: &Path) -> Vec<T> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter(|path| {
            path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
        })
        .collect();
    paths.sort();
    let read = |path: PathBuf| match store::read(&path) {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a record cannot be read; it is left out");
            None
        }
    };
    paths.into_iter().filter_map(read).collect()
}
