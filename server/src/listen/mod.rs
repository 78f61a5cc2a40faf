//! Listening, and who is at the other end.
//!
//! - [`unix`]: sockets of this machine, whose peers the kernel names;
//! - [`tcp`], and `vsock` where it is built in: other machines; [`door`]: their TLS, and who is let in by its
//!   certificate;
//! - [`lobby`]: those who are not known yet; [`guests`]: those who want to join;
//! - [`open`]: connections that are open and counted, and closing them;
//! - [`connection`]: one of them.
//!
//! What a peer may do is decided for each call, in [`crate::service::access`].

pub mod connection;
pub mod door;
pub mod guests;
pub mod lobby;
pub mod open;
pub mod tcp;
pub mod unix;
#[cfg(feature = "vsock")]
pub mod vsock;

use std::{io, path::PathBuf, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;

pub use connection::{Connection, PeerInfo};

use crate::{access::policy::CurrentPolicy, audit::Log, metrics::Connections};

/// How long accepting rests when the host is out of files or memory.
const REST: Duration = Duration::from_millis(100);

/// The connections of several sockets of this machine, and those that come from elsewhere. `open` counts
/// those of this machine.
pub fn all(
    sockets: Vec<unix::Socket>,
    policy: CurrentPolicy,
    open: open::Open,
    log: Log,
    counts: Connections,
    remote: mpsc::Receiver<Connection>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let local = stream::select_all(sockets.into_iter().map(|socket| {
        local(socket, policy.clone(), open.clone(), log.clone(), counts.clone()).boxed()
    }));
    stream::select(local.map(Ok), connections(remote))
}

/// The same without those that are narrow, which go elsewhere.
pub fn set_apart(
    connections: impl Stream<Item = io::Result<Connection>> + Send,
    narrow: mpsc::Sender<Connection>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    connections.filter_map(move |connection| {
        let narrow = narrow.clone();
        async move {
            match connection {
                Ok(connection) if connection.is_narrow => {
                    // Where nobody takes it, the agent stops.
                    let _ = narrow.send(connection).await;
                    None
                }
                other => Some(other),
            }
        }
    })
}

/// The connections of a socket of this machine, as they come. Never ends.
pub fn local(
    socket: unix::Socket,
    policy: CurrentPolicy,
    open: open::Open,
    log: Log,
    counts: Connections,
) -> impl Stream<Item = Connection> + Send {
    stream::unfold((socket, policy, open, log, counts), |all| async move {
        let (socket, policy, open, log, counts) = &all;
        let connection = socket.accept(policy, open, log, counts).await;
        Some((connection, all))
    })
}

/// Connections that are sent from elsewhere, as they come. Never ends: when serving ends is said otherwise.
pub fn connections(
    sent: mpsc::Receiver<Connection>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    stream::unfold(sent, |mut sent| async move {
        match sent.recv().await {
            Some(connection) => Some((Ok(connection), sent)),
            None => std::future::pending().await,
        }
    })
}

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a step.
    #[error("cannot {what} the socket {}: {source}; choose another address", path.display())]
    Io {
        /// The step.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("cannot {what} {place}: {source}; choose another address")]
    Remote {
        /// The step.
        what: &'static str,
        /// The address.
        place: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("somebody answers on the socket {}: is an agent running? Stop it, or choose another address", .0.display())]
    Answered(PathBuf),
    /// Something else is there.
    #[error("{} is there and is no socket; remove it, or choose another address", .0.display())]
    NoSocket(PathBuf),
}
