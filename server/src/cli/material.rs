//! The files of the agent's TLS, as they are given or as `contid pki init` makes them.

use std::path::PathBuf;

use clap::Args;

use super::absolute;
use crate::{
    pki::Pki,
    tls::{Material, Revoked},
};

/// The files of the agent's TLS, for those who have a PKI of their own.
#[derive(Debug, Args)]
pub struct TlsFlags {
    /// The agent's certificate and what leads to its authority, PEM [default: that of `contid pki init`].
    #[arg(long, value_name = "FILE", value_parser = absolute, requires = "tls_key", requires = "tls_client_ca")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", value_parser = absolute, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The authorities of clients, PEM.
    #[arg(long, value_name = "FILE", value_parser = absolute, requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// The revocation lists of these authorities, PEM.
    #[arg(long, value_name = "FILE", value_parser = absolute, requires = "tls_cert")]
    tls_crl: Option<PathBuf>,
}

impl TlsFlags {
    /// The files: those given, or else those of the agent's own authority. `None`: there are none.
    pub fn material(&self, pki: &Pki) -> Option<Material> {
        match (&self.tls_cert, &self.tls_key, &self.tls_client_ca) {
            (Some(certificate), Some(key), Some(client_ca)) => Some(Material {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: client_ca.clone(),
                revoked: self.tls_crl.clone().map_or(Revoked::Nobody, Revoked::Lists),
            }),
            _ => pki.is_there().then(|| pki.material()),
        }
    }
}
