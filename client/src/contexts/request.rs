//! Asking an agent for a certificate: a key that never leaves this machine, and a request that it signs.

use conti_shared::tls;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    contexts::files::Credentials,
    error::{Error, Result},
};

/// A new key, and the request for its certificate.
pub struct Request {
    key: KeyPair,
    /// PKCS #10, DER.
    pub der: Vec<u8>,
}

impl Request {
    /// Makes a key: ECDSA on P-256.
    pub fn new() -> Result<Request> {
        let make = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            // Who this is says the agent, by the invitation or by the certificate that is renewed.
            params.distinguished_name = DistinguishedName::new();
            let der = params.serialize_request(&key)?.der().to_vec();
            Ok(Request { key, der })
        };
        make().map_err(|error: rcgen::Error| Error::Usage(format!("cannot make a key: {error}")))
    }

    /// What is to be kept of the agent's answer: PEM.
    pub fn answered(&self, certificate: String, authority: String) -> Result<Credentials> {
        let broken = |what: &str| {
            Error::Stream(format!("the agent answered with {what}; nothing is kept of it"))
        };
        tls::authorities_in(authority.as_bytes())
            .map_err(|problem| broken(&format!("an authority that cannot be used ({problem})")))?;
        let chain = tls::certificates_in(certificate.as_bytes())
            .map_err(|problem| broken(&format!("a certificate that cannot be used ({problem})")))?;
        let leaf = chain.first().map(|first| X509Certificate::from_der(first));
        match leaf {
            Some(Ok((_, leaf)))
                if leaf.public_key().raw == self.key.subject_public_key_info().as_slice() => {}
            _ => return Err(broken("a certificate for another key")),
        }
        Ok(Credentials { authority, certificate, key: self.key.serialize_pem() })
    }
}
