//! A connection over TCP.

use std::{io, net::SocketAddr, time::Duration};

use conti_shared::endpoint::HostPort;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// How long all addresses of a host together may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What each of them gets at least, where there are many.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects to a host by the first of its addresses that answers.
pub async fn connect(place: &HostPort) -> io::Result<TcpStream> {
    let found = timeout(CONNECT_TIMEOUT, lookup_host((place.host.as_str(), place.port))).await;
    let unknown = |why: String| io::Error::new(io::ErrorKind::HostUnreachable, why);
    let addresses: Vec<SocketAddr> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            return Err(unknown(format!("the name {:?} has no address: {error}", place.host)));
        }
        Err(_) => {
            return Err(unknown(format!("no name server says where {:?} is", place.host)));
        }
    };
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let each = (CONNECT_TIMEOUT / count).max(ADDRESS_TIMEOUT);
    let mut last = unknown(format!("the name {:?} has no address", place.host));
    for address in addresses {
        match timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // What is written in small pieces is what somebody types.
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}
