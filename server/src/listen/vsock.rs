//! Virtual machines of this host, or its host: TLS over vsock(7).

use std::{io, net::Ipv6Addr};

use conti_shared::endpoint::Endpoint;
use tokio::time::sleep;
use tokio_vsock::{VsockAddr, VsockListener};
use tracing::warn;

use super::{
    Error, REST,
    door::{Door, Origin},
};

/// A vsock socket of the agent.
#[derive(Debug)]
pub struct Socket {
    listener: VsockListener,
}

impl Socket {
    /// Listens on a port, for machines that know this one by `cid`. Needs a runtime.
    pub fn open(cid: u32, port: u32) -> Result<Socket, Error> {
        let listener = VsockListener::bind(VsockAddr::new(cid, port));
        let listener = listener.map_err(|source| Error::Remote {
            what: "listen on",
            place: Endpoint::Vsock { cid, port }.to_string(),
            source,
        })?;
        Ok(Socket { listener })
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
                    door.receive(stream, origin(address.cid(), address.port()))
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

/// Machines are told apart as networks of IPv6 are: by the first half of an address.
fn origin(cid: u32, port: u32) -> Origin {
    let [a, b, c, d] = cid.to_be_bytes();
    let half = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
    let host = Ipv6Addr::new(0x100, 0, half[0], half[1], 0, 0, 0, 0).into();
    Origin { address: format!("vsock:{cid}:{port}"), host, transport: "vsock" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_places_of_their_own() {
        assert_ne!(origin(3, 1).host, origin(4, 1).host);
        assert_eq!(origin(3, 1).host, origin(3, 2).host);
        assert_eq!(origin(3, 9).address, "vsock:3:9");
    }
}
