//! TLS 1.3 over TCP: what is read for it, and its handshake.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use conti_shared::{
    endpoint::{Endpoint, HostPort},
    tls,
};
use rustls::{ClientConfig, client::Resumption, pki_types::ServerName, version::TLS13};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    connect::{fault::Fault, tcp, transport::Transport, verifier::Agents},
    error::{Error, Result},
};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The files that prove who the two ends of a connection are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Material {
    /// The certificates of the authorities that agents' certificates come from, PEM.
    pub authorities: Option<PathBuf>,
    /// This client's certificate with what leads to its authority, PEM.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate, PEM; may be in the same file.
    pub key: Option<PathBuf>,
    /// The name that the agent's certificate must have. `None`: the host that is connected to.
    pub server_name: Option<String>,
}

/// What a connection with a client certificate is made with.
pub fn config(material: &Material, protocol: &[u8]) -> Result<Arc<ClientConfig>> {
    let authorities = material.authorities.as_deref().ok_or_else(|| {
        Error::Usage(
            "no authority is configured that the agent's certificate could be checked with: \
             `contictl join CODE` gets all that is needed, or name files with --tls-ca, --tls-cert \
             and --tls-key"
                .to_owned(),
        )
    })?;
    let roots = tls::authorities(authorities).map_err(Error::Files)?;
    let verifier = Agents::of(&roots).map_err(|problem| {
        Error::Usage(format!(
            "the authorities in {} cannot be used: {problem}",
            authorities.display()
        ))
    })?;
    let (chain, key) = identity(material)?;
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(cannot_be_used)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Error::Usage(format!(
                "the key in {} does not belong to the certificate in {}",
                shown(material.key.as_deref()),
                shown(material.certificate.as_deref()),
            )),
            error => cannot_be_used(error),
        })?;
    config.alpn_protocols = vec![protocol.to_vec()];
    // One connection is all that a client makes.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn identity(material: &Material) -> Result<tls::Identity> {
    let (certificate, key) = match (&material.certificate, &material.key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Err(Error::Usage(Fault::NoCertificate.to_string())),
        (Some(_), None) => return Err(half("--tls-cert", "--tls-key")),
        (None, Some(_)) => return Err(half("--tls-key", "--tls-cert")),
    };
    tls::identity(certificate, key).map_err(Error::Files)
}

fn half(given: &str, missing: &str) -> Error {
    Error::Usage(format!("a client certificate needs its key: {given} is given without {missing}"))
}

fn shown(path: Option<&Path>) -> String {
    path.unwrap_or(Path::new("")).display().to_string()
}

fn cannot_be_used(error: rustls::Error) -> Error {
    Error::Usage(format!("the certificates or the key cannot be used: {error}"))
}

/// Connects, and goes on only with the agent that the configuration trusts.
pub async fn connect(
    place: &HostPort,
    material: &Material,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>> {
    let endpoint = Endpoint::Tcp(place.clone());
    let failed = |source| Error::Connect { endpoint: endpoint.clone(), source };
    let socket = tcp::connect(place).await.map_err(failed)?;
    over(socket, &endpoint, &place.host, material, config).await
}

/// Shakes hands over what is connected, and goes on only with the agent that the configuration trusts. `host`: the
/// name that it must have where the material says nothing else.
pub async fn over<S: Transport>(
    socket: S,
    endpoint: &Endpoint,
    host: &str,
    material: &Material,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<S>> {
    let failed = |source| Error::Connect { endpoint: endpoint.clone(), source };
    let name = material.server_name.clone().unwrap_or_else(|| host.to_owned());
    let server_name = ServerName::try_from(name.clone()).map_err(|_| {
        Error::Usage(format!(
            "{name:?} is no name that a certificate can have: see --tls-server-name"
        ))
    })?;
    let protocols = config.alpn_protocols.clone();
    let handshake = TlsConnector::from(config).connect(server_name, socket);
    let stream = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(match Fault::of(&error) {
                Some(fault) => Error::Fault { endpoint: endpoint.clone(), fault: Box::new(fault) },
                None => failed(error),
            });
        }
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    };
    if !protocols.iter().any(|wanted| stream.get_ref().1.alpn_protocol() == Some(wanted)) {
        let fault = Fault::NotAnAgent("it did not agree to the protocol of the API (ALPN)".into());
        return Err(Error::Fault { endpoint: endpoint.clone(), fault: Box::new(fault) });
    }
    Ok(stream)
}
