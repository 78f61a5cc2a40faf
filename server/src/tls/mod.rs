//! TLS at the agent's end: 1.3 only, a client certificate required, and all of it exchangeable while calls
//! are in flight.
//!
//! - [`Material`]: which files; [`Tls`]: what was made of them; [`CurrentTls`]: what holds now;
//! - [`verifier`]: whether a client's certificate is good;
//! - [`reload`]: sees that files have changed.
//!
//! There is no resumption: a resumed session would show the certificate that was verified when it began,
//! whatever was revoked since.

pub mod reload;
mod verifier;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use conti_runtime::own;
use conti_shared::tls::{self, ALPN_API, ALPN_JOIN, provider};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    version::TLS13,
};

use crate::pki::{self, Pki, issued::Revocations};
use verifier::Clients;

/// The files that TLS is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// The agent's certificate and what leads to its authority: PEM.
    pub certificate: PathBuf,
    /// Its key: PEM.
    pub key: PathBuf,
    /// The authorities of clients: PEM.
    pub client_ca: PathBuf,
    /// What tells whose certificates were revoked.
    pub revoked: Revoked,
}

/// What tells whose certificates were revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// Nobody's were.
    Nobody,
    /// Revocation lists: PEM.
    Lists(PathBuf),
    /// The agent's own authority.
    Own(Pki),
}

/// What was made of the files.
#[derive(Debug)]
pub struct Tls {
    /// For clients with a certificate.
    pub api: Arc<ServerConfig>,
    /// For clients that want to join.
    pub join: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// When the agent's certificate expires.
    pub not_after: SystemTime,
    /// When the first of the authorities of clients expires.
    pub clients_not_after: Option<SystemTime>,
    /// Whom the agent's certificate names.
    pub name: String,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{0}")]
    File(#[source] tls::Error),
    /// Nothing is known of who was revoked.
    #[error("{0}")]
    Revoked(#[source] pki::Error),
    /// The files do not go together.
    #[error("cannot use {}: {problem}", path.display())]
    Content {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Material {
    /// All files.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.certificate.clone(), self.key.clone(), self.client_ca.clone()];
        files.extend(match &self.revoked {
            Revoked::Nobody => None,
            Revoked::Lists(path) => Some(path.clone()),
            Revoked::Own(pki) => Some(pki.list()),
        });
        files
    }

    /// Reads the files.
    pub fn load(&self) -> Result<Tls, Error> {
        let chain = read("the certificate", &self.certificate, tls::certificates_in)?;
        let key = read("the private key", &self.key, tls::private_key_in)?;
        let authorities =
            read("the certificates of authorities", &self.client_ca, tls::authorities_in)?;
        let (lists, revoked) = match &self.revoked {
            Revoked::Nobody => (Vec::new(), Revocations::default()),
            Revoked::Lists(path) => {
                let lists = read("the revocation list", path, tls::revocation_lists_in)?;
                (lists, Revocations::default())
            }
            Revoked::Own(pki) => (Vec::new(), pki.revoked().map_err(Error::Revoked)?),
        };
        let revoking = match &self.revoked {
            Revoked::Lists(path) => path,
            Revoked::Nobody | Revoked::Own(_) => &self.client_ca,
        };
        let at = |path: &PathBuf| {
            let path = path.clone();
            move |problem: String| Error::Content { path, problem }
        };
        let leaf = chain.first().ok_or_else(|| at(&self.certificate)("it is empty".to_owned()))?;
        let (name, not_after) = about(leaf).map_err(at(&self.certificate))?;
        let known = authorities.iter().filter_map(|one| about(one).ok());
        let clients_not_after = known.map(|(_, not_after)| not_after).min();
        let verifier: Arc<dyn ClientCertVerifier> =
            Arc::new(Clients::of(&authorities, &lists, revoked).map_err(at(revoking))?);
        let api = config(ALPN_API, Some(verifier.clone()), chain.clone(), key.clone_key())
            .map_err(at(&self.key))?;
        let join = config(ALPN_JOIN, None, chain, key).map_err(at(&self.key))?;
        Ok(Tls { api, join, verifier, not_after, clients_not_after, name })
    }
}

/// Reads a file that an administrator has named, and nothing but a regular one.
fn read<T>(
    what: &'static str,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, Error> {
    let at = |source| tls::Error::Read { what, path: path.to_owned(), source };
    let bytes = own::read_named(path, tls::FILE_MAX).map_err(at).map_err(Error::File)?;
    let content = |problem| tls::Error::Content { what, path: path.to_owned(), problem };
    parse(&bytes).map_err(content).map_err(Error::File)
}

/// Whom a certificate names, and when it expires.
fn about(leaf: &CertificateDer<'_>) -> Result<(String, SystemTime), String> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let not_after = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(not_after);
    Ok((leaf.subject().to_string(), not_after))
}

fn config(
    protocol: &[u8],
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, String> {
    let text = |error: rustls::Error| error.to_string();
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(text)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    // That the key is the certificate's is checked here.
    let mut config = builder.with_single_cert(chain, key).map_err(text)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

impl Tls {
    /// Whether a client's certificates pass now. An error says why not.
    pub fn passes(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        let (leaf, rest) = chain.split_first().ok_or("there is none")?;
        let verified = self.verifier.verify_client_cert(leaf, rest, UnixTime::now());
        verified.map(|_| ()).map_err(|error| error.to_string())
    }
}

/// TLS as it is now. Clones share it.
#[derive(Debug, Clone)]
pub struct CurrentTls(Arc<RwLock<Arc<Tls>>>);

impl CurrentTls {
    /// Begins with this.
    pub fn new(tls: Tls) -> CurrentTls {
        CurrentTls(Arc::new(RwLock::new(Arc::new(tls))))
    }

    /// What holds at this moment.
    pub fn now(&self) -> Arc<Tls> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another in its place: the next handshake is done with it.
    pub fn replace(&self, tls: Tls) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tls);
    }
}
