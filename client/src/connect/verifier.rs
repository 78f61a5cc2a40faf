//! Whether an agent's certificate is good.

use std::sync::Arc;

use conti_shared::{anchors::Anchors, tls::provider};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Verifies agents, with no more authorities between an agent and a trusted one than that allows.
#[derive(Debug)]
pub struct Agents {
    anchors: Anchors<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Agents {
    /// Trusts these authorities.
    pub fn of(authorities: &[CertificateDer<'static>]) -> Result<Agents, String> {
        let anchors = Anchors::of(authorities, |roots| {
            WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| error.to_string())
        })?;
        Ok(Agents { anchors, provider: provider() })
    }
}

impl ServerCertVerifier for Agents {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.anchors.verify(chain, |verifier, chain| {
            verifier.verify_server_cert(leaf, chain, name, ocsp, now)
        })
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
