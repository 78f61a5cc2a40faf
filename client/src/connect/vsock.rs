//! A connection to a virtual machine of this host, or to its host, vsock(7).

use std::{io, time::Duration};

use conti_shared::endpoint::Endpoint;
use tokio::time::timeout;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::error::{Error, Result};

/// How long a machine may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a port of a machine.
pub async fn connect(endpoint: &Endpoint, cid: u32, port: u32) -> Result<VsockStream> {
    let failed = |source| Error::Connect { endpoint: endpoint.clone(), source };
    match timeout(CONNECT_TIMEOUT, VsockStream::connect(VsockAddr::new(cid, port))).await {
        Ok(connected) => connected.map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}
