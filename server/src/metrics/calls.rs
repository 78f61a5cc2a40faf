//! Calls: how many, how they ended, how long they took.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use conti_proto::{DESCRIPTORS, METHODS};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::service::status::code_name;

/// Methods that the agent serves beside its own, and whether they stream.
const OTHERS: [(&str, bool); 3] = [
    ("/grpc.health.v1.Health/Check", false),
    ("/grpc.health.v1.Health/Watch", true),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true),
];

/// Seconds. Most calls take less than a millisecond, a container some.
const CALL_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Seconds. A stream takes as long as its session, or its client.
const STREAM_BUCKETS: [f64; 10] =
    [0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0];

/// Counts calls.
#[derive(Debug, Clone)]
pub struct Calls {
    /// What is known of a method, by its path in HTTP/2.
    methods: Arc<HashMap<&'static str, Kind>>,
    ended: Family<Ended, Counter>,
    in_flight: Family<Method, Gauge>,
    unary: Family<Method, Histogram, fn() -> Histogram>,
    streams: Family<Method, Histogram, fn() -> Histogram>,
}

/// What is known of a method.
#[derive(Debug, Clone, Copy)]
struct Kind {
    label: Method,
    streams: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    method: &'static str,
    code: &'static str,
}

/// What is called where no such method is.
const UNKNOWN: Kind = Kind { label: Method { method: "unknown" }, streams: false };

impl Calls {
    /// Makes a counter of calls, whose numbers are shown by `registry`.
    pub fn register(registry: &mut Registry) -> Calls {
        let streaming = streaming();
        let own = METHODS.iter().map(|(path, _)| (*path, streaming.contains(*path)));
        let kind = |path: &'static str, streams| {
            // As gRPC names them: without the slash of HTTP.
            Kind { label: Method { method: path.trim_start_matches('/') }, streams }
        };
        let methods = own.chain(OTHERS).map(|(path, streams)| (path, kind(path, streams)));
        let calls = Calls {
            methods: Arc::new(methods.collect()),
            ended: Family::default(),
            in_flight: Family::default(),
            unary: Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)),
            streams: Family::new_with_constructor(|| Histogram::new(STREAM_BUCKETS)),
        };
        registry.register(
            "calls",
            "Calls that ended, by method and gRPC code",
            calls.ended.clone(),
        );
        registry.register(
            "calls_in_flight",
            "Calls that have not ended, by method",
            calls.in_flight.clone(),
        );
        registry.register_with_unit(
            "call_duration",
            "How long calls with one answer took",
            Unit::Seconds,
            calls.unary.clone(),
        );
        registry.register_with_unit(
            "stream_duration",
            "How long calls that stream took, from their first message to their end",
            Unit::Seconds,
            calls.streams.clone(),
        );
        calls
    }

    /// Notes that a call to the method at `path` begins. Anything may be a path.
    pub fn begin(&self, path: &str) -> Call {
        let kind = self.methods.get(path).copied().unwrap_or(UNKNOWN);
        let in_flight = self.in_flight.get_or_create_owned(&kind.label);
        in_flight.inc();
        Call { calls: self.clone(), kind, in_flight, begun: Instant::now(), over: false }
    }
}

/// A call that has not ended. Dropped before its end, it was cancelled.
#[derive(Debug)]
pub struct Call {
    calls: Calls,
    kind: Kind,
    in_flight: Gauge,
    begun: Instant,
    over: bool,
}

impl Call {
    /// Notes its end. Only the first one counts.
    pub fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let Kind { label, streams } = self.kind;
        let ended = Ended { method: label.method, code: code_name(code) };
        self.calls.ended.get_or_create(&ended).inc();
        let durations = if streams { &self.calls.streams } else { &self.calls.unary };
        durations.get_or_create(&label).observe(self.begun.elapsed().as_secs_f64());
        self.in_flight.dec();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The paths of our own methods that stream in either direction.
fn streaming() -> HashSet<String> {
    // What was built in can be read: a test says so.
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
    let mut paths = HashSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                if method.client_streaming() || method.server_streaming() {
                    paths.insert(format!(
                        "/{}.{}/{}",
                        file.package(),
                        service.name(),
                        method.name()
                    ));
                }
            }
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    fn shown(registry: &Registry) -> String {
        let mut shown = String::new();
        text::encode(&mut shown, registry).unwrap();
        shown
    }

    #[test]
    fn methods_that_stream_are_known_from_the_contract() {
        let calls = Calls::register(&mut Registry::default());
        let streams = |path: &str| calls.methods.get(path).map(|kind| kind.streams);
        assert_eq!(streams("/conti.v1.SessionService/Stream"), Some(true));
        assert_eq!(streams("/conti.v1.SessionService/ReadSession"), Some(true));
        assert_eq!(streams("/conti.v1.AgentService/GetAgent"), Some(false));
        assert_eq!(calls.methods.len(), METHODS.len() + OTHERS.len());
    }

    #[test]
    fn whatever_is_called_takes_one_label_and_an_end_counts_once() {
        let mut registry = Registry::default();
        let calls = Calls::register(&mut registry);
        for path in
            ["", "/", "/a", "/conti.v1.AgentService/getagent", "//conti.v1.AgentService/GetAgent"]
        {
            calls.begin(path).end(Code::Unimplemented);
        }
        let mut call = calls.begin("/conti.v1.AgentService/GetAgent");
        let in_flight = "calls_in_flight{method=\"conti.v1.AgentService/GetAgent\"}";
        assert!(shown(&registry).contains(&format!("{in_flight} 1\n")));
        call.end(Code::Ok);
        drop(call);
        drop(calls.begin("/conti.v1.AgentService/GetAgent"));
        let shown = shown(&registry);
        for line in [
            "calls_total{method=\"unknown\",code=\"UNIMPLEMENTED\"} 5",
            "calls_total{method=\"conti.v1.AgentService/GetAgent\",code=\"OK\"} 1",
            "calls_total{method=\"conti.v1.AgentService/GetAgent\",code=\"CANCELLED\"} 1",
            &format!("{in_flight} 0"),
            "call_duration_seconds_count{method=\"conti.v1.AgentService/GetAgent\"} 2",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
        }
        assert!(!shown.contains("getagent"));
    }
}
