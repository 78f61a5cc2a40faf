//! What both ends load for TLS, and what they must agree on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

use crate::anchors::Anchors;

/// The application protocol (ALPN) of the API.
pub const ALPN_API: &[u8] = b"h2";
/// The application protocol of `conti.v1.JoinService`, for clients without a certificate.
pub const ALPN_JOIN: &[u8] = b"conti-join/1";

/// The largest file that is read, in bytes.
pub const FILE_MAX: u64 = 4 << 20;

/// The cryptography of both ends.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Why a file of certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {what} in {}: {source}", path.display())]
    Read {
        /// What was wanted, e.g. `the certificate`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It holds something else.
    #[error("cannot use {what} in {}: {problem}", path.display())]
    Content {
        /// What was wanted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let at = |source| Error::Read { what, path: path.to_owned(), source };
    if fs::metadata(path).map_err(at)?.len() > FILE_MAX {
        return Err(content(what, path, "it is larger than 4 MiB"));
    }
    fs::read(path).map_err(at)
}

fn content(what: &'static str, path: &Path, problem: impl ToString) -> Error {
    Error::Content { what, path: path.to_owned(), problem: problem.to_string() }
}

fn pem_problem(error: pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "there is none in it; it must be PEM".to_owned(),
        other => format!("it is no proper PEM: {other}"),
    }
}

/// Reads a certificate and what leads from it to its authority: PEM, the certificate first.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let what = "the certificate";
    certificates_in(&read(what, path)?).map_err(|problem| content(what, path, problem))
}

/// As [`certificates`], from bytes.
pub fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all.map_err(pem_problem)? {
        all if all.is_empty() => Err(pem_problem(pem::Error::NoItemsFound)),
        all => Ok(all),
    }
}

/// Reads a private key: PEM, PKCS #8, PKCS #1 or SEC 1.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let what = "the private key";
    private_key_in(&read(what, path)?).map_err(|problem| content(what, path, problem))
}

/// As [`private_key`], from bytes.
pub fn private_key_in(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(pem_problem)
}

/// A certificate with what leads to its authority, and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads a certificate and its key. Where both are in one file it is read once, so that the two belong
/// together even while the file is being replaced.
pub fn identity(certificate: &Path, key: &Path) -> Result<Identity, Error> {
    if certificate != key {
        return Ok((certificates(certificate)?, private_key(key)?));
    }
    let what = "the certificate";
    let pem = read(what, certificate)?;
    let chain = certificates_in(&pem).map_err(|problem| content(what, certificate, problem))?;
    let key = private_key_in(&pem).map_err(|problem| content("the private key", key, problem))?;
    Ok((chain, key))
}

/// Reads the certificates of authorities.
pub fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let what = "the certificates of authorities";
    let pem = read(what, path)?;
    authorities_in(&pem).map_err(|problem| content(what, path, problem))
}

/// As [`authorities`], from bytes.
pub fn authorities_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = certificates_in(pem)?;
    Anchors::of(&all, |_| Ok(()))?;
    Ok(all)
}

/// Takes revocation lists from bytes: PEM.
pub fn revocation_lists_in(
    pem: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    match all.map_err(pem_problem)? {
        all if all.is_empty() => Err(pem_problem(pem::Error::NoItemsFound)),
        all => Ok(all),
    }
}
