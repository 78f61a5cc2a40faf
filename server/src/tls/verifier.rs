//! Whether a client's certificate is good.

use std::sync::Arc;

use conti_shared::{anchors::Anchors, tls::provider};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::parse_x509_certificate;

use crate::{access::identity::serial, pki::issued::Revocations};

/// Verifies clients, with no more authorities between a client and a trusted one than that allows.
#[derive(Debug)]
pub struct Clients {
    anchors: Anchors<Arc<dyn ClientCertVerifier>>,
    revoked: Revocations,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl Clients {
    /// Trusts these authorities, and nobody whom one of these lists revokes, or whose certificate is in
    /// `revoked`.
    pub fn of(
        authorities: &[CertificateDer<'static>],
        lists: &[CertificateRevocationListDer<'static>],
        revoked: Revocations,
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
        Ok(Clients { anchors, revoked, hints, provider: provider() })
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
        let verify = |verifier: &Arc<dyn ClientCertVerifier>, chain: &[CertificateDer<'_>]| {
            verifier.verify_client_cert(leaf, chain, now)
        };
        let verified = self.anchors.verify(chain, verify)?;
        let (_, parsed) = parse_x509_certificate(leaf)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match self.revoked.has(&serial(parsed.raw_serial())) {
            true => Err(Error::InvalidCertificate(CertificateError::Revoked)),
            false => Ok(verified),
        }
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
