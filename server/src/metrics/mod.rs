//! Numbers for Prometheus: what the agent does and has, on an address of their own.
//!
//! - [`Metrics`]: all of them, and the handles that count;
//! - [`calls`], [`edge`]: what is counted at the door; [`engine`], [`process`]: what is read when
//!   somebody asks;
//! - [`address`], [`serve`]: where they are had, over HTTP.
//!
//! Names begin with `conti_` and end with their unit. Labels are words of this code or of the
//! contract, never what a client has said, so that their number is bounded. To count takes an atomic
//! addition and, to find the number of a method, a lock that readers share.

pub mod address;
pub mod calls;
pub mod edge;
pub mod engine;
pub mod process;
pub mod serve;

use std::sync::Arc;

use prometheus_client::{encoding::text, metrics::info::Info, registry::Registry};

pub use address::Address;
pub use calls::{Call, Calls};
pub use edge::{AuditFailures, Certificates, Connections};
pub use serve::Server;

use crate::engine::Engine;

/// All metrics of an agent. A clone counts into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Calls.
    pub calls: Calls,
    /// Connections of clients.
    pub connections: Connections,
    /// Certificates.
    pub certificates: Certificates,
    /// The audit log.
    pub audit_failures: AuditFailures,
    registry: Arc<Registry>,
}

impl Metrics {
    /// The metrics of an agent with this engine, which starts now.
    pub fn new(engine: Arc<Engine>) -> Metrics {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::ProcessCollector::new()));
        let conti = registry.sub_registry_with_prefix("conti");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        conti.register("build", "The version of the agent", build);
        conti.register_collector(Box::new(engine::EngineCollector(engine)));
        Metrics {
            calls: Calls::register(conti),
            connections: Connections::register(conti),
            certificates: Certificates::register(conti),
            audit_failures: AuditFailures::register(conti),
            registry: Arc::new(registry),
        }
    }

    /// All of them as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut shown = String::new();
        // A String takes all that is written.
        let _ = text::encode(&mut shown, &self.registry);
        shown
    }
}
