//! The API from another machine: gRPC over TLS, without contictl.

use std::{io, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::{api::Api, pki::Identity};

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The agent's port on this machine.
    pub port: u16,
    /// The authority of the agent: PEM.
    pub authority: String,
    /// What it shows of itself.
    pub identity: Option<Identity>,
    /// The application protocols that it offers.
    pub alpn: Vec<Vec<u8>>,
}

impl Remote {
    /// One that does as it should.
    pub fn new(port: u16, authority: &str, identity: Option<&Identity>) -> Remote {
        let alpn = vec![b"h2".to_vec()];
        Remote { port, authority: authority.to_owned(), identity: identity.cloned(), alpn }
    }

    /// The configuration of its TLS.
    pub fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.authority.as_bytes()) {
            roots.add(certificate.expect("PEM")).expect("an authority");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("a version")
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a certificate and its key")
            }
        };
        config.alpn_protocols = self.alpn.clone();
        config
    }

    /// Shakes hands. With TLS 1.3 the client has done its part before the agent has looked at its
    /// certificate: whether it is let in shows later.
    pub async fn shake(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(self.config())).connect(name, stream).await
    }

    /// Connects.
    pub async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        self.channel_with(2 << 20).await
    }

    async fn channel_with(&self, window: u32) -> Result<Channel, tonic::transport::Error> {
        let remote = self.clone();
        let connector = service_fn(move |_: Uri| {
            let remote = remote.clone();
            async move { remote.shake().await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint
            .connect_timeout(Duration::from_secs(20))
            .initial_connection_window_size(256 << 20)
            .initial_stream_window_size(window)
            .connect_with_connector(connector)
            .await
    }

    /// As [`Remote::api`], where each answer is taken no faster than it is read: so many bytes ahead.
    pub async fn narrow_api(&self, window: u32) -> Result<Api, String> {
        let channel = self.channel_with(window).await.map_err(|error| format!("{error:?}"))?;
        Api::over(channel).await
    }

    /// Connects, and asks the agent for its description.
    pub async fn api(&self) -> Result<Api, String> {
        let channel = self.channel().await.map_err(|error| format!("{error:?}"))?;
        Api::over(channel).await
    }

    /// Calls a method by its path with one empty message, and tells what came of it: `Ok` for an answer
    /// of any kind, or the status. `None`: the connection was not let in.
    pub async fn knock(&self, path: &str) -> Option<Code> {
        match self.channel().await {
            Err(_) => None,
            Ok(channel) => knock(channel, path).await.map(|status| status.code()),
        }
    }
}

/// Calls a method by its path with one empty message. `None`: the connection broke off instead.
pub async fn knock(channel: Channel, path: &str) -> Option<Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    if grpc.ready().await.is_err() {
        return None;
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = path.parse().expect("a path");
    let messages = tokio_stream::iter([()]);
    let answer = grpc.streaming(tonic::Request::new(messages), path, codec).await;
    let status = match answer {
        Ok(answer) => {
            // What is in the answer's messages plays no part; those that wait for something are left.
            let mut messages = answer.into_inner();
            match tokio::time::timeout(Duration::from_secs(2), messages.message()).await {
                Ok(Err(status)) => status,
                Ok(Ok(_)) | Err(_) => Status::ok(""),
            }
        }
        Err(status) => status,
    };
    let broken = std::error::Error::source(&status).is_some();
    (!broken).then_some(status)
}
