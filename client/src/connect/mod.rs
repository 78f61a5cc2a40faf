//! The connection to an agent: HTTP/2 over its socket, without a layer that is not used.
//!
//! A session reconnects in its own way and has to know when its connection is gone, so there is no
//! balancing, buffering or lazily reconnecting channel in between.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use conti_proto::v1::{
    agent_service_client::AgentServiceClient, container_service_client::ContainerServiceClient,
    file_service_client::FileServiceClient, mount_service_client::MountServiceClient,
    namespace_service_client::NamespaceServiceClient, network_service_client::NetworkServiceClient,
    process_service_client::ProcessServiceClient, rootfs_service_client::RootfsServiceClient,
    session_service_client::SessionServiceClient,
};
use conti_shared::endpoint::Endpoint;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service},
};

use crate::error::{Error, Result};

// One stream moves all the bytes, so its window is what a slow reader may leave unread here.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
// Large frames are what makes streams fast on one machine: fewer, larger reads and writes.
const MAX_FRAME: u32 = 1 << 20;
const SEND_BUFFER: usize = 1 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The largest message of a stream: 1 MiB of output and what is around it, with room to spare.
const STREAM_MESSAGE_MAX: usize = 8 << 20;
/// The largest list: a page of containers, each with an environment of up to 1 MiB.
const LIST_MESSAGE_MAX: usize = 128 << 20;

/// How many entries are asked for at once.
pub const PAGE_SIZE: u32 = 100;

/// A connection to an agent. Clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    requests: http2::SendRequest<Body>,
}

/// Connects to an agent.
pub async fn connect(endpoint: &Endpoint) -> Result<Connection> {
    let path = endpoint.socket_path().ok_or_else(|| {
        Error::Usage(format!("{endpoint}: only unix:///PATH can be connected to so far"))
    })?;
    let socket = UnixStream::connect(path)
        .await
        .map_err(|source| Error::Connect { endpoint: endpoint.clone(), source })?;
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(|e| Error::Handshake { endpoint: endpoint.clone(), problem: e.to_string() })?;
    // What ends the connection is seen by the calls that run over it.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(Connection { requests })
}

impl Connection {
    /// The agent's description.
    pub fn agent(&self) -> AgentServiceClient<Connection> {
        AgentServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Containers.
    pub fn containers(&self) -> ContainerServiceClient<Connection> {
        ContainerServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Sessions, but for their streams.
    pub fn sessions(&self) -> SessionServiceClient<Connection> {
        SessionServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Namespaces.
    pub fn namespaces(&self) -> NamespaceServiceClient<Connection> {
        NamespaceServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Mounts.
    pub fn mounts(&self) -> MountServiceClient<Connection> {
        MountServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Files.
    pub fn files(&self) -> FileServiceClient<Connection> {
        FileServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Processes.
    pub fn processes(&self) -> ProcessServiceClient<Connection> {
        ProcessServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Networks.
    pub fn network(&self) -> NetworkServiceClient<Connection> {
        NetworkServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// Root filesystems.
    pub fn rootfs(&self) -> RootfsServiceClient<Connection> {
        RootfsServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LIST_MESSAGE_MAX)
    }

    /// The stream of a session.
    pub fn stream(&self) -> SessionServiceClient<Connection> {
        SessionServiceClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(STREAM_MESSAGE_MAX)
    }
}

/// A socket has no name of its own, but HTTP/2 wants one.
fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}
