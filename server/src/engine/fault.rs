//! Points at which a test can have a call wait, see [`conti_runtime::fault`].

use conti_runtime::fault;

/// Waits at a point, where that was asked for; others go on meanwhile. A stop is the whole agent's.
pub async fn point(name: &str) {
    fault::stop(name);
    if let Some(delay) = fault::delay(name) {
        tokio::time::sleep(delay).await;
    }
}
