//! TLS from other machines.
//!
//! ```text
//!   accept -> lobby -> TLS handshake -+-> h2, with a client certificate      -> the API
//!             (a task for each)       `-> conti-join/1, without one -> JoinService alone
//! ```
//!
//! Nobody without a certificate gets as far as the API's HTTP/2.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conti_shared::{endpoint::HostPort, tls::ALPN_JOIN};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor, server::TlsStream};
use tracing::{debug, info, warn};

use super::{Error, REST, connection::Connection, guests::Guests, lobby::Lobby, open::Open};
use crate::{
    access::{Certificate, Identity, Peer},
    metrics::Connections,
    tls::CurrentTls,
};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long what was sent may stay unacknowledged before the connection is given up, tcp(7).
const UNACKNOWLEDGED_MS: u32 = 40_000;
/// How near the expiry of a client's certificate is told.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a guest may stay.
const GUEST_STAY: Duration = Duration::from_secs(30);

/// A TCP socket of the agent.
#[derive(Debug)]
pub struct Socket {
    listener: TcpListener,
    /// Where it listens, with the port that the kernel chose where none was asked for.
    pub address: SocketAddr,
}

/// What all TCP sockets share.
#[derive(Debug, Clone)]
pub struct Door {
    tls: CurrentTls,
    lobby: Lobby,
    open: Open,
    guests: Guests,
    counts: Connections,
    /// Where those go who have a certificate.
    api: mpsc::Sender<Connection>,
    /// Where those go who want to join.
    join: mpsc::Sender<Connection>,
}

impl Door {
    /// A door to the API and to joining.
    pub fn new(
        tls: CurrentTls,
        lobby: Lobby,
        open: Open,
        counts: Connections,
        api: mpsc::Sender<Connection>,
        join: mpsc::Sender<Connection>,
    ) -> Door {
        let guests = Guests::default();
        Door { tls, lobby, open, guests, counts, api, join }
    }
}

impl Socket {
    /// Listens. Needs a runtime.
    pub async fn open(place: &HostPort) -> Result<Socket, Error> {
        let at = |what: &'static str| {
            move |source: io::Error| Error::Tcp { what, place: place.clone(), source }
        };
        let mut addresses = lookup_host((place.host.as_str(), place.port))
            .await
            .map_err(at("find the address of"))?;
        let address = addresses
            .next()
            .ok_or_else(|| at("find the address of")(io::ErrorKind::NotFound.into()))?;
        let listen = || {
            let socket = match address {
                SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
            };
            // An agent that is started again need not wait until old connections are forgotten.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG as u32)
        };
        let listener = listen().map_err(at("listen on"))?;
        let address = listener.local_addr().map_err(at("listen on"))?;
        Ok(Socket { listener, address })
    }

    /// Lets clients in until nobody takes them any more.
    pub async fn serve(self, door: Door) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = door.api.closed() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let place = door.lobby.enter(address.ip());
                    let door = door.clone();
                    tokio::spawn(async move {
                        let taken = place.taken.clone();
                        tokio::select! {
                            () = door.receive(stream, address) => {}
                            () = taken.cancelled() => {
                                door.counts.rejected("tcp", "slow");
                                debug!(%address, "let go of a client that was slow: others wait");
                            }
                        }
                        drop(place);
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!(%error, "cannot accept connections; trying again");
                    sleep(REST).await;
                }
            }
        }
    }
}

/// Says that a client's certificate expires soon: it may not know.
fn warn_of_expiry(peer: &Peer) {
    let Some(certificate) = peer.identity.certificate() else { return };
    let left = certificate.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    if left < EXPIRES_SOON {
        let days = left.as_secs() / 86_400;
        warn!(identity = certificate.name, days, "the certificate of a client expires soon");
    }
}

impl Door {
    /// Brings one client through its handshake.
    async fn receive(&self, stream: TcpStream, address: SocketAddr) {
        match timeout(HANDSHAKE, self.handshake(stream, address)).await {
            Ok(Ok((Identity::Guest, stream))) => self.let_guest_in(stream, address).await,
            Ok(Ok((identity, stream))) => self.let_in(identity, stream, address).await,
            Ok(Err(problem)) => {
                self.counts.rejected("tcp", "handshake");
                info!(%address, problem, "refused a connection");
            }
            Err(_) => {
                self.counts.rejected("tcp", "slow");
                debug!(%address, "refused a connection: its handshake takes too long");
            }
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(Identity, TlsStream<TcpStream>), String> {
        let options = stream
            .set_nodelay(true)
            .and_then(|()| Ok(sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS)?));
        if let Err(error) = options {
            debug!(%address, %error, "cannot set the options of a connection");
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .map_err(|error| format!("its TLS cannot be understood: {error}"))?;
        let tls = self.tls.now();
        let joins =
            start.client_hello().alpn().is_some_and(|mut all| all.any(|one| one == ALPN_JOIN));
        let config = if joins { &tls.join } else { &tls.api };
        let stream = start.into_stream(config.clone()).await.map_err(|error| error.to_string())?;
        if joins {
            return Ok((Identity::Guest, stream));
        }
        let chain = stream.get_ref().1.peer_certificates();
        let leaf = chain.and_then(|chain| chain.first()).ok_or("it has shown no certificate")?;
        Ok((Identity::Certificate(Certificate::read(leaf)?), stream))
    }

    async fn let_in(&self, identity: Identity, stream: TlsStream<TcpStream>, address: SocketAddr) {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let shown = chain.clone();
        let peer = Arc::new(Peer { identity, address: address.to_string() });
        let registered = self.open.add(&peer, chain);
        // What was revoked while it shook hands is not seen by those that look at open connections.
        if let Err(problem) = self.tls.now().passes(&shown) {
            return info!(%address, problem, "refused a connection: its certificate holds no more");
        }
        match registered {
            Some(registered) => {
                debug!(%address, identity = peer.identity.name(), "connected");
                warn_of_expiry(&peer);
                // Where nobody takes it, the agent stops.
                let counted = self.counts.opened("tcp");
                let connection = Connection::registered(stream, peer, counted, registered);
                let _ = self.api.send(connection).await;
            }
            None => {
                self.counts.rejected("tcp", "too_many");
                warn!(%address, identity = peer.identity.name(), "refused a connection: too many");
            }
        }
    }

    async fn let_guest_in(&self, stream: TlsStream<TcpStream>, address: SocketAddr) {
        let Some(place) = self.guests.enter(address.ip()) else {
            self.counts.rejected("tcp", "too_many");
            return info!(%address, "refused a guest: too many want to join at this moment");
        };
        let peer = Arc::new(Peer { identity: Identity::Guest, address: address.to_string() });
        let connection = Connection::guest(stream, peer, place, GUEST_STAY);
        let _ = self.join.send(connection).await;
    }
}
