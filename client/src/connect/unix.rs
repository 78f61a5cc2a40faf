//! An agent on the same machine, over its socket.

use std::path::Path;

use conti_shared::endpoint::Endpoint;
use tokio::net::UnixStream;

use crate::error::{Error, Result};

/// Connects to a socket.
pub async fn connect(endpoint: &Endpoint, path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path)
        .await
        .map_err(|source| Error::Connect { endpoint: endpoint.clone(), source })
}
