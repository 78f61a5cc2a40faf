//! Points at which a test can have a call wait, see [`conti_runtime::fault`].

use conti_runtime::fault;

/// Waits at a point, where that was asked for; others go on meanwhile.
pub async fn point(name: &str) {
    if let Some(delay) = fault::delay(name) {
        tokio::time::sleep(delay).await;
    }
}
