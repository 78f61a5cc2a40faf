//! A connection to a virtual machine of this host, or to its host, vsock(7).

use std::{io, time::Duration};

use conti_shared::endpoint::Endpoint;
use rustix::io::Errno;
use tokio::time::timeout;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::error::{Error, Result};

/// How long a machine may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a port of a machine.
pub async fn connect(endpoint: &Endpoint, cid: u32, port: u32) -> Result<VsockStream> {
    let failed = |source| Error::Connect { endpoint: endpoint.clone(), source };
    match timeout(CONNECT_TIMEOUT, VsockStream::connect(VsockAddr::new(cid, port))).await {
        Ok(connected) => connected.map_err(|error| failed(as_elsewhere(error))),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

/// What the kernel says of vsock in words that other transports have for something else, or not at all.
fn as_elsewhere(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::CONNRESET) => io::ErrorKind::ConnectionRefused.into(),
        Some(Errno::NODEV) => io::Error::new(
            io::ErrorKind::HostUnreachable,
            "there is no machine of this number, or nothing that leads to it",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_where_nobody_listens_is_told_from_a_machine_that_is_not_there() {
        let kind = |errno: Errno| as_elsewhere(errno.into()).kind();
        assert_eq!(kind(Errno::CONNRESET), io::ErrorKind::ConnectionRefused);
        assert_eq!(kind(Errno::NODEV), io::ErrorKind::HostUnreachable);
        assert_eq!(kind(Errno::ACCESS), io::ErrorKind::PermissionDenied);
    }
}
