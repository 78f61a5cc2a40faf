//! Serves metrics over HTTP/1.1: one question on each connection, and every limit set on purpose.

use std::{convert::Infallible, io, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{Address, Metrics};
use crate::{
    access::{Policy, policy::CurrentPolicy},
    audit::Log,
    listen::{self, open::Open, unix},
};

/// Connections at a time; others wait in the kernel until one is over.
const CONNECTIONS: usize = 16;
/// How long a client may take to say what it wants.
const HEADERS: Duration = Duration::from_secs(3);
/// How long a connection may take in all.
const WHOLE: Duration = Duration::from_secs(10);
/// The most bytes that a request's head has; hyper takes no less as a limit.
const HEAD_MAX: usize = 8 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 64;
/// How long accepting rests when the host is out of files or memory.
const REST: Duration = Duration::from_millis(100);

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What comes from a client and goes to it.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Connections = Pin<Box<dyn Stream<Item = io::Result<Box<dyn Io>>> + Send>>;

/// Serves the metrics of an agent until it is stopped.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
}

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The unix socket cannot be had.
    #[error("cannot serve metrics (--metrics-listen): {0}")]
    Unix(#[source] listen::Error),
    /// The port cannot be had.
    #[error(
        "cannot serve metrics on {address}: {source}; choose another address with --metrics-listen"
    )]
    Tcp {
        /// The address that was tried.
        address: Address,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Server {
    /// Begins to serve. Needs a runtime.
    pub async fn start(address: &Address, metrics: Metrics) -> Result<Server, Error> {
        let (connections, address): (Connections, Address) = match address {
            Address::Unix(path) => {
                let socket = unix::Socket::open(path, false).map_err(Error::Unix)?;
                // Root and the agent's own user, whoever else may call the API; and none of its numbers.
                let policy = CurrentPolicy::new(Policy::default());
                // Nobody but administrators gets in, who are not counted.
                let open = Open::new(0);
                // Nor does the audit log have those who do not.
                let (log, counts) = (Log::none(), super::Connections::default());
                let connections = listen::local(socket, policy, open, log, counts);
                let boxed = connections.map(|connection| Ok(Box::new(connection) as Box<dyn Io>));
                (Box::pin(boxed), address.clone())
            }
            Address::Tcp(wanted) => {
                let failed = |source| Error::Tcp { address: address.clone(), source };
                let listener = TcpListener::bind(wanted).await.map_err(failed)?;
                let address = listener.local_addr().map(Address::Tcp).map_err(failed)?;
                (Box::pin(accepted(listener)), address)
            }
        };
        info!(%address, "metrics are served");
        Ok(Server { task: tokio::spawn(serve(connections, metrics)) })
    }

    /// Ends it. The socket is gone afterwards.
    pub async fn stop(self) {
        self.task.abort();
        // That it was aborted is no news.
        let _ = self.task.await;
    }
}

/// The connections of a TCP listener, as they come. Never ends.
fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<Box<dyn Io>>> + Send {
    stream::unfold(listener, |listener| async move {
        let connection = listener.accept().await;
        Some((connection.map(|(stream, _)| Box::new(stream) as Box<dyn Io>), listener))
    })
}

async fn serve(mut connections: Connections, metrics: Metrics) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // Dropped with this future, it ends them all.
    let mut tasks = JoinSet::new();
    // Never closed, so that it always gives.
    while let Ok(turn) = room.clone().acquire_owned().await {
        while tasks.try_join_next().is_some() {}
        match connections.next().await {
            Some(Ok(connection)) => {
                let metrics = metrics.clone();
                tasks.spawn(async move {
                    answer(connection, metrics).await;
                    drop(turn);
                });
            }
            // Without a rest this would turn at full speed until a file is closed.
            Some(Err(error)) if error.kind() != io::ErrorKind::ConnectionAborted => {
                warn!(%error, "cannot accept connections for metrics; trying again");
                sleep(REST).await;
            }
            Some(Err(_)) => {}
            None => return,
        }
    }
}

/// Answers the one request of a connection.
async fn answer(connection: Box<dyn Io>, metrics: Metrics) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &metrics);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), service);
    match timeout(WHOLE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection for metrics broke"),
        Err(_) => debug!("a connection for metrics took too long"),
    }
}

fn respond<B>(request: &Request<B>, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, OPEN_METRICS, metrics.text()),
        (&Method::GET, "/healthz") => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        (_, "/metrics" | "/healthz") => {
            (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET is answered\n".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, PLAIN, "there are /metrics and /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
    }
    response
}
