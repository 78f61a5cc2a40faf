//! What happens before a call: connections, certificates, the audit log. Handles for those who do it.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Counts connections.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    accepted: Family<By, Counter>,
    open: Family<By, Gauge>,
    rejected: Family<For, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct For {
    transport: &'static str,
    reason: &'static str,
}

/// A connection that is counted as open until this is dropped.
#[derive(Debug)]
pub struct Open(Gauge);

impl Connections {
    pub(super) fn register(registry: &mut Registry) -> Connections {
        let connections = Connections::default();
        registry.register(
            "connections",
            "Connections that were let in, by transport",
            connections.accepted.clone(),
        );
        registry.register(
            "connections_open",
            "Connections that are open, by transport",
            connections.open.clone(),
        );
        registry.register(
            "connections_rejected",
            "Connections that were not let in, by transport and reason",
            connections.rejected.clone(),
        );
        connections
    }

    /// Counts a connection that was let in over a transport: `unix`, `tcp` or `vsock`.
    pub fn opened(&self, transport: &'static str) -> Open {
        let by = By { transport };
        self.accepted.get_or_create(&by).inc();
        let open = self.open.get_or_create_owned(&by);
        open.inc();
        Open(open)
    }

    /// Counts a connection that was not let in. `reason` is a word of the code, as `peer` or
    /// `handshake`, and nothing that the other side has said.
    pub fn rejected(&self, transport: &'static str, reason: &'static str) {
        self.rejected.get_or_create(&For { transport, reason }).inc();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Shows when certificates expire. One that was never told is not shown.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    expiry: Family<Of, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    certificate: &'static str,
}

impl Certificates {
    pub(super) fn register(registry: &mut Registry) -> Certificates {
        let certificates = Certificates::default();
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When a certificate expires, in seconds since 1970",
            Unit::Seconds,
            certificates.expiry.clone(),
        );
        certificates
    }

    /// Tells when the agent's own certificate expires.
    pub fn server(&self, expires: SystemTime) {
        self.tell("server", expires);
    }

    /// Tells when the certificate expires that signs those of clients.
    pub fn client_ca(&self, expires: SystemTime) {
        self.tell("client_ca", expires);
    }

    /// Tells when the first of the certificates expires that clients connect with.
    pub fn first_client(&self, expires: SystemTime) {
        self.tell("first_client", expires);
    }

    fn tell(&self, certificate: &'static str, expires: SystemTime) {
        let seconds = expires.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        self.expiry.get_or_create(&Of { certificate }).set(seconds);
    }
}

/// Counts what could not be written into the audit log.
#[derive(Debug, Clone, Default)]
pub struct AuditFailures {
    all: Counter,
    carried_out: Counter,
}

impl AuditFailures {
    pub(super) fn register(registry: &mut Registry) -> AuditFailures {
        let failures = AuditFailures::default();
        registry.register(
            "audit_failures",
            "Calls that could not be written into the audit log",
            failures.all.clone(),
        );
        registry.register(
            "audit_unrecorded",
            "Calls that were carried out all the same: they only ended or removed something, or the policy allows it",
            failures.carried_out.clone(),
        );
        failures
    }

    /// Counts one more.
    pub fn count(&self) {
        self.all.inc();
    }

    /// Counts one of them that is carried out all the same.
    pub fn count_carried_out(&self) {
        self.carried_out.inc();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn what_the_edge_tells_is_shown() {
        let mut registry = Registry::default();
        let connections = Connections::register(&mut registry);
        let certificates = Certificates::register(&mut registry);
        let failures = AuditFailures::register(&mut registry);
        let open = connections.opened("unix");
        drop(connections.opened("unix"));
        connections.rejected("tcp", "handshake");
        certificates.server(UNIX_EPOCH + Duration::from_secs(4_000_000_000));
        certificates.client_ca(UNIX_EPOCH);
        certificates.first_client(UNIX_EPOCH + Duration::from_secs(7));
        failures.count();
        failures.count_carried_out();
        let mut shown = String::new();
        text::encode(&mut shown, &registry).unwrap();
        for line in [
            "connections_total{transport=\"unix\"} 2",
            "connections_open{transport=\"unix\"} 1",
            "connections_rejected_total{transport=\"tcp\",reason=\"handshake\"} 1",
            "certificate_expiry_timestamp_seconds{certificate=\"server\"} 4000000000",
            "certificate_expiry_timestamp_seconds{certificate=\"client_ca\"} 0",
            "certificate_expiry_timestamp_seconds{certificate=\"first_client\"} 7",
            "audit_failures_total 1",
            "audit_unrecorded_total 1",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
        }
        drop(open);
    }
}
