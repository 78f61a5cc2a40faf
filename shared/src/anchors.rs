//! How many authorities may stand between a certificate and the one that is trusted.
//!
//! To webpki a trust anchor is a name and a key (RFC 5280, 6.1.1 (d)); the `pathLenConstraint` of its own
//! certificate (4.2.1.9) is not looked at. An authority that says 0 means that nobody whom it signs may sign others:
//! here that holds.

use std::{fmt, sync::Arc};

use rustls::{CertificateError, Error, OtherError, RootCertStore, pki_types::CertificateDer};
use x509_parser::parse_x509_certificate;

/// What chains to some authorities are verified with.
#[derive(Debug)]
pub struct Anchors<V>(Vec<(Bound, V)>);

/// How many authorities may stand below an anchor. `None`: any number.
type Bound = Option<usize>;

impl<V> Anchors<V> {
    /// Makes a verifier for each bound that there is among the authorities.
    pub fn of(
        authorities: &[CertificateDer<'static>],
        make: impl Fn(Arc<RootCertStore>) -> Result<V, String>,
    ) -> Result<Anchors<V>, String> {
        let mut stores: Vec<(Bound, RootCertStore)> = Vec::new();
        for authority in authorities {
            let bound = bound(authority)?;
            let at = stores.iter().position(|(known, _)| *known == bound);
            let at = at.unwrap_or_else(|| {
                stores.push((bound, RootCertStore::empty()));
                stores.len() - 1
            });
            let added = stores[at].1.add(authority.clone());
            added.map_err(|error| format!("one cannot be used: {error}"))?;
        }
        let made = stores.into_iter().map(|(bound, store)| Ok((bound, make(Arc::new(store))?)));
        let made: Vec<_> = made.collect::<Result<_, String>>()?;
        if made.is_empty() { Err("there is no authority".to_owned()) } else { Ok(Anchors(made)) }
    }

    /// Verifies a chain without its leaf, in the order of TLS: each certificate signs the one before it.
    pub fn verify<T>(
        &self,
        chain: &[CertificateDer<'_>],
        verify: impl Fn(&V, &[CertificateDer<'_>]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut why = None;
        for (bound, verifier) in &self.0 {
            // Behind those that count there is only the anchor itself, or one too many.
            let length = bound.map_or(chain.len(), |bound| bound.min(chain.len()));
            let error = match verify(verifier, &chain[..length]) {
                Ok(verified) => return Ok(verified),
                Err(error) => error,
            };
            let too_long = length < chain.len() && verify(verifier, chain).is_ok();
            let error = if too_long { PathTooLong.into() } else { error };
            // Of all of them, what says more than that another authority has signed it.
            let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
            if why.as_ref().is_none_or(|why| *why == unknown) {
                why = Some(error);
            }
        }
        Err(why.unwrap_or(Error::InvalidCertificate(CertificateError::UnknownIssuer)))
    }

    /// The verifiers.
    pub fn verifiers(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, verifier)| verifier)
    }
}

fn bound(authority: &CertificateDer<'_>) -> Result<Bound, String> {
    let text = |error: &dyn fmt::Display| format!("one cannot be used: {error}");
    let (_, certificate) = parse_x509_certificate(authority).map_err(|error| text(&error))?;
    let constraints = certificate.basic_constraints().map_err(|error| text(&error))?;
    Ok(constraints.and_then(|found| found.value.path_len_constraint).map(|length| length as usize))
}

/// More authorities stand below an anchor than its certificate allows.
#[derive(thiserror::Error)]
#[error("an authority that was not allowed to has signed it (pathLenConstraint)")]
struct PathTooLong;

/// What rustls shows of an error that is not its own.
impl fmt::Debug for PathTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<PathTooLong> for Error {
    fn from(problem: PathTooLong) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(problem))))
    }
}
