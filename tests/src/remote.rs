//! The API from another machine: gRPC over TLS, without contictl.

use std::{ffi::OsString, io, path::Path, sync::Arc, time::Duration};

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

use crate::{
    Agent,
    api::Api,
    pki::{Authority, Files, Identity},
};

/// An agent that listens on TCP, with a PKI that is not its own.
pub struct World {
    /// The agent.
    pub agent: Agent,
    /// The authority of clients.
    pub clients: Authority,
    /// The authority of the agent.
    pub server: Authority,
    /// The files of the agent's TLS, and its `policy.toml`.
    pub files: Files,
}

impl World {
    /// Starts one with a policy.
    pub fn start(policy: &str) -> World {
        World::start_with(policy, |_| Vec::new())
    }

    /// Starts one with a policy and further arguments, made for its directory.
    pub fn start_with(policy: &str, more: impl FnOnce(&Path) -> Vec<OsString>) -> World {
        let (server, clients) = (Authority::make("servers"), Authority::make("clients"));
        let mut files = None;
        let agent = Agent::start_with(|dir: &Path| {
            let written = Files::write(&dir.join("pki"), &server, &clients);
            written.put("policy.toml", policy);
            let mut flags: Vec<OsString> = vec!["--listen".into(), "tcp://127.0.0.1:0".into()];
            flags.extend(written.flags());
            flags.extend(["--policy".into(), written.path("policy.toml").into_os_string()]);
            flags.extend(more(dir));
            files = Some(written);
            flags
        });
        World { agent, clients, server, files: files.expect("the files were written") }
    }

    /// A client with this certificate.
    pub fn remote(&self, identity: Option<&Identity>) -> Remote {
        Remote::new(self.agent.port(), &self.server.pem, identity)
    }

    /// A client with a certificate of this name and role.
    pub fn as_role(&self, name: &str, role: &str) -> Remote {
        self.remote(Some(&self.clients.client(name, role)))
    }
}

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
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(self.config())).connect(name, stream).await
    }

    /// Connects.
    pub async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let remote = self.clone();
        let connector = service_fn(move |_: Uri| {
            let remote = remote.clone();
            async move { remote.shake().await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint
            .connect_timeout(Duration::from_secs(20))
            .initial_connection_window_size(256 << 20)
            .connect_with_connector(connector)
            .await
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
