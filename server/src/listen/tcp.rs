//! Other machines over TCP.

use std::{io, net::SocketAddr};

use conti_shared::endpoint::HostPort;
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    time::sleep,
};
use tracing::{debug, warn};

use super::{
    Error, REST,
    door::{Door, Origin},
};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 4096;
/// How long what was sent may stay unacknowledged before the connection is given up, tcp(7).
const UNACKNOWLEDGED_MS: u32 = 40_000;

/// A TCP socket of the agent.
#[derive(Debug)]
pub struct Socket {
    listener: TcpListener,
    /// Where it listens, with the port that the kernel chose where none was asked for.
    pub address: SocketAddr,
}

impl Socket {
    /// Listens. Needs a runtime.
    pub async fn open(place: &HostPort) -> Result<Socket, Error> {
        let at = |what: &'static str| {
            move |source: io::Error| Error::Remote { what, place: place.to_string(), source }
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
            socket.listen(BACKLOG)
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
                () = door.closed() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    set_options(&stream, address);
                    let (host, address) = (address.ip(), address.to_string());
                    door.receive(stream, Origin { address, host, transport: "tcp" });
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

fn set_options(stream: &TcpStream, address: SocketAddr) {
    let options = stream
        .set_nodelay(true)
        .and_then(|()| Ok(sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?));
    if let Err(error) = options {
        debug!(%address, %error, "cannot set the options of a connection");
    }
}
