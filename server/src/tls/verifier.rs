//! Whether a client's certificate is good.

use std::sync::Arc;

use conti_shared::{anchors::Anchors, tls::provider};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

/// Verifies clients, with no more authorities between a client and a trusted one than that allows.
#[derive(Debug)]
pub struct Clients {
    anchors: Anchors<Arc<dyn ClientCertVerifier>>,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl Clients {
    /// Trusts these authorities, and nobody whom one of these lists revokes.
    pub fn of(
        authorities: &[CertificateDer<'static>],
        lists: &[CertificateRevocationListDer<'static>],
    ) -> Result<Clients, String> {
        let anchors = Anchors::of(authorities, |roots| {
            WebPkiClientVerifier::builder_with_provider(roots, provider())
                .with_crls(lists.iter().cloned())
                .only_check_end_entity_revocation()
                // Of authorities that have no list here, nothing is revoked.
                .allow_unknown_revocation_status()
                .build()
                .map_err(|error| error.to_string())
        })?;
        let hints = anchors.verifiers().flat_map(|one| one.root_hint_subjects().to_vec()).collect();
        Ok(Clients { anchors, hints, provider: provider() })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.anchors.verify(chain, |verifier, chain| verifier.verify_client_cert(leaf, chain, now))
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
