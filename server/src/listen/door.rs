//! The door for other machines: TLS, and who is let in.
//!
//! ```text
//!   accept -> lobby -> TLS handshake -+-> h2, with a client certificate      -> the API
//!             (a task for each)       `-> conti-join/1, without one -> JoinService alone
//! ```
//!
//! Nobody without a certificate gets as far as the API's HTTP/2.

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conti_shared::tls::ALPN_JOIN;
use tokio::{sync::mpsc, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor, server::TlsStream};
use tracing::{debug, info, warn};

use super::{
    connection::{Connection, Stream},
    guests::Guests,
    lobby::Lobby,
    open::Open,
};
use crate::{
    access::{Certificate, Identity, Peer},
    audit::{Log, Who},
    metrics::Connections,
    tls::CurrentTls,
};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How near the expiry of a client's certificate is told.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a guest may stay.
const GUEST_STAY: Duration = Duration::from_secs(30);

/// What all sockets for other machines share.
#[derive(Debug, Clone)]
pub struct Door {
    tls: CurrentTls,
    lobby: Lobby,
    open: Open,
    guests: Guests,
    log: Log,
    counts: Connections,
    /// Where those go who have a certificate.
    api: mpsc::Sender<Connection>,
    /// Where those go who want to join.
    join: mpsc::Sender<Connection>,
}

/// Where somebody comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The address, for people.
    pub address: String,
    /// Whose places it takes: an address of its own for each host.
    pub host: IpAddr,
    /// What it comes over, a word for metrics.
    pub transport: &'static str,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Door {
    /// A door to the API and to joining.
    pub fn new(
        tls: CurrentTls,
        lobby: Lobby,
        open: Open,
        log: Log,
        counts: Connections,
        api: mpsc::Sender<Connection>,
        join: mpsc::Sender<Connection>,
    ) -> Door {
        Door { tls, lobby, open, guests: Guests::default(), log, counts, api, join }
    }

    /// Resolves when nobody takes connections any more.
    pub async fn closed(&self) {
        self.api.closed().await;
    }

    /// Takes one who has connected, and brings it through its handshake in a task of its own.
    pub fn receive<S: Stream + 'static>(&self, stream: S, origin: Origin) {
        let place = self.lobby.enter(origin.host);
        let door = self.clone();
        tokio::spawn(async move {
            let taken = place.taken.clone();
            tokio::select! {
                () = door.bring_in(stream, &origin) => {}
                () = taken.cancelled() => {
                    door.counts.rejected(origin.transport, "slow");
                    debug!(%origin, "let go of a client that was slow: others wait");
                }
            }
            drop(place);
        });
    }

    async fn bring_in<S: Stream + 'static>(&self, stream: S, origin: &Origin) {
        match timeout(HANDSHAKE, self.handshake(stream)).await {
            Ok(Ok((Identity::Guest, stream))) => self.let_guest_in(stream, origin).await,
            Ok(Ok((identity, stream))) => self.let_in(identity, stream, origin).await,
            Ok(Err(problem)) => {
                self.counts.rejected(origin.transport, "handshake");
                self.log.refused(Who::unknown(&origin.address), &problem);
                info!(address = %origin, problem, "refused a connection");
            }
            Err(_) => {
                self.counts.rejected(origin.transport, "slow");
                debug!(address = %origin, "refused a connection: its handshake takes too long");
            }
        }
    }

    async fn handshake<S: Stream>(&self, stream: S) -> Result<(Identity, TlsStream<S>), String> {
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

    async fn let_in<S: Stream + 'static>(
        &self,
        identity: Identity,
        stream: TlsStream<S>,
        origin: &Origin,
    ) {
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let shown = chain.clone();
        let peer = Arc::new(Peer { identity, address: origin.address.clone() });
        let registered = self.open.add(&peer, chain);
        // What was revoked while it shook hands is not seen by those that look at open connections.
        if let Err(problem) = self.tls.now().passes(&shown) {
            self.log.refused(Who::nobody(&peer), &problem);
            let address = origin;
            return info!(%address, problem, "refused a connection: its certificate holds no more");
        }
        let (address, identity) = (origin, peer.identity.name());
        match registered {
            Some(registered) => {
                debug!(%address, identity, "connected");
                warn_of_expiry(&peer);
                // Where nobody takes it, the agent stops.
                let counted = self.counts.opened(origin.transport);
                let connection = Connection::registered(stream, peer, counted, registered);
                let _ = self.api.send(connection).await;
            }
            None => {
                self.counts.rejected(origin.transport, "too_many");
                warn!(%address, identity, "refused a connection: too many");
            }
        }
    }

    async fn let_guest_in<S: Stream + 'static>(&self, stream: TlsStream<S>, origin: &Origin) {
        let Some(place) = self.guests.enter(origin.host) else {
            self.counts.rejected(origin.transport, "too_many");
            let address = origin;
            return info!(%address, "refused a guest: too many want to join at this moment");
        };
        let peer = Arc::new(Peer { identity: Identity::Guest, address: origin.address.clone() });
        let connection = Connection::guest(stream, peer, place, GUEST_STAY);
        let _ = self.join.send(connection).await;
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
