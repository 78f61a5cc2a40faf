//! The connection to an agent: HTTP/2 over a transport, without a layer that is not used.
//!
//! - [`Destination`]: where the agent is, what proves who is who, and what goes with every call;
//! - [`transport`]: what HTTP/2 runs over, and what is remembered of its failure;
//! - [`unix`], [`tcp`] with [`tls`], and [`ssh`]: the transports;
//! - [`pinned`]: how an agent is known by the fingerprint of an invitation;
//! - `verifier`: whether an agent's certificate is good;
//! - [`fault`]: what is wrong with a secure connection, and what to do;
//! - [`metadata`]: the reason and the trace that calls carry;
//! - [`service`]: the services of the API.
//!
//! A session reconnects in its own way and has to know when its connection is gone, so there is no
//! balancing, buffering or lazily reconnecting channel in between.

pub mod fault;
pub mod metadata;
mod pinned;
mod service;
mod ssh;
mod tcp;
pub mod tls;
mod transport;
#[cfg(unix)]
mod unix;
mod verifier;
#[cfg(all(feature = "vsock", target_os = "linux"))]
mod vsock;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use conti_shared::{endpoint::Endpoint, invitation::Fingerprint, tls::ALPN_API};
use http::HeaderMap;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use tokio::sync::watch;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service},
};

use crate::{
    connect::{
        tls::Material,
        transport::{Seen, Transport, Watched},
    },
    error::{Error, Result},
};

// One stream moves all the bytes, so its window is what a slow reader may leave unread here.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;
// Large frames are what makes streams fast on one machine: fewer, larger reads and writes.
const MAX_FRAME: u32 = 1 << 20;
const SEND_BUFFER: usize = 1 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a call that failed waits for the end of its connection, which says why.
const END_OF_CONNECTION: Duration = Duration::from_secs(1);

/// How many entries are asked for at once.
pub const PAGE_SIZE: u32 = 100;

/// Where an agent is and how it is talked to. Connecting again does all of it again: files are read
/// anew, so that a certificate that was renewed meanwhile is used.
#[derive(Debug, Clone, Default)]
pub struct Destination {
    /// The agent's address.
    pub endpoint: Endpoint,
    /// What proves who the two ends are, where the transport needs it.
    pub tls: Material,
    /// What goes with every call.
    pub headers: HeaderMap,
}

/// A connection to an agent. Clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    requests: http2::SendRequest<Body>,
    destination: Arc<Destination>,
    seen: Seen,
    ended: watch::Receiver<()>,
}

/// Connects to an agent.
pub async fn connect(destination: &Destination) -> Result<Connection> {
    let endpoint = &destination.endpoint;
    let transport: Box<dyn Transport> = match endpoint {
        #[cfg(unix)]
        Endpoint::Unix(path) => Box::new(unix::connect(endpoint, path).await?),
        #[cfg(not(unix))]
        Endpoint::Unix(_) => {
            return Err(Error::Usage(format!(
                "{endpoint}: agents do not run on this system; name one elsewhere with --host or \
                 --context"
            )));
        }
        Endpoint::Tcp(_) | Endpoint::Vsock { .. } => {
            secure(destination, || tls::config(&destination.tls, ALPN_API)).await?
        }
        Endpoint::Ssh { .. } => Box::new(ssh::connect(endpoint)?),
    };
    over(transport, destination).await
}

/// Connects to an agent that is known by nothing but the fingerprint of its authority, and only to
/// join it.
pub async fn connect_to_join(
    destination: &Destination,
    authority: Fingerprint,
) -> Result<Connection> {
    over(secure(destination, || Ok(pinned::config(authority))).await?, destination).await
}

/// TLS with another machine.
async fn secure(
    destination: &Destination,
    config: impl FnOnce() -> Result<Arc<ClientConfig>>,
) -> Result<Box<dyn Transport>> {
    let Destination { endpoint, tls: material, .. } = destination;
    match endpoint {
        Endpoint::Tcp(place) => Ok(Box::new(tls::connect(place, material, config()?).await?)),
        #[cfg(all(feature = "vsock", target_os = "linux"))]
        Endpoint::Vsock { cid, port } => {
            let config = config()?;
            let socket = vsock::connect(endpoint, *cid, *port).await?;
            // A machine has no name there; the agent's own authority names this one in each certificate.
            Ok(Box::new(tls::over(socket, endpoint, "localhost", material, config).await?))
        }
        #[cfg(not(all(feature = "vsock", target_os = "linux")))]
        Endpoint::Vsock { .. } => Err(Error::Usage(format!(
            "{endpoint}: this contictl was built without the feature `vsock`; use tcp:// or ssh://"
        ))),
        Endpoint::Unix(_) | Endpoint::Ssh { .. } => {
            Err(Error::Usage(format!("{endpoint}: there is no TLS to such an address")))
        }
    }
}

async fn over(transport: Box<dyn Transport>, destination: &Destination) -> Result<Connection> {
    let (transport, seen) = Watched::new(transport);
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| {
            let endpoint = destination.endpoint.clone();
            match seen.fault() {
                Some(fault) => Error::Fault { endpoint, fault: Box::new(fault) },
                None => Error::Handshake { endpoint, problem: error.to_string() },
            }
        })?;
    let (alive, ended) = watch::channel(());
    tokio::spawn(async move {
        // What ended it is seen by the calls that ran over it, and by those who watched.
        let _ = connection.await;
        drop(alive);
    });
    Ok(Connection { requests, destination: Arc::new(destination.clone()), seen, ended })
}

impl Connection {
    /// HTTP/2 wants a name, which a socket has not.
    fn origin(&self) -> http::Uri {
        match &self.destination.endpoint {
            Endpoint::Tcp(place) => format!("https://{place}").parse().unwrap_or_default(),
            _ => http::Uri::from_static("http://localhost"),
        }
    }
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = Status;
    type Future = BoxFuture<Self::Response, Self::Error>;

    /// A connection that is gone is told by the call, which knows why.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if !self.destination.headers.is_empty() {
            request.headers_mut().extend(self.destination.headers.clone());
        }
        let sent = self.requests.send_request(request);
        let (seen, mut ended) = (self.seen.clone(), self.ended.clone());
        let endpoint = self.destination.endpoint.clone();
        Box::pin(async move {
            let error = match sent.await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            // Nothing is ever sent: this ends when the connection has.
            let _ = tokio::time::timeout(END_OF_CONNECTION, ended.changed()).await;
            Err(match seen.fault() {
                Some(fault) => fault::status(endpoint, fault),
                None => Status::from_error(Box::new(error)),
            })
        })
    }
}
