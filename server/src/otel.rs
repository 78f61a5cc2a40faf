//! Spans for OpenTelemetry, over OTLP.
//!
//! The spans are those of the log, from debug level on. One of a call whose caller tells its trace is
//! a child of the caller's span; any other begins a trace.

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
        TracerProvider as _,
    },
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, Tracer},
};
use tracing::{Level, Span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer as _, filter::Targets};

use crate::{logging::Listener, service::traceparent::Traceparent};

/// The header of a trace's further state, which is passed on as it is.
const TRACESTATE: &str = "tracestate";

/// Sends spans to a collector, in the background.
#[derive(Debug, Clone)]
pub struct Exporter {
    provider: SdkTracerProvider,
    tracer: Tracer,
}

impl Exporter {
    /// For the collector at `endpoint`, as `http://127.0.0.1:4317`. It need not answer yet. Must be called
    /// inside of the runtime.
    pub fn new(endpoint: &str) -> Result<Exporter, ExporterBuildError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let resource = Resource::builder()
            .with_service_name("contid")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("contid");
        Ok(Exporter { provider, tracer })
    }

    /// What takes the agent's own spans, and hands them over.
    pub fn listener(&self) -> Listener {
        let layer = tracing_opentelemetry::layer().with_tracer(self.tracer.clone());
        // What the exporter itself does must not make spans to be exported.
        layer.with_filter(Targets::new().with_target("contid", Level::DEBUG)).boxed()
    }

    /// Sends what is left, and ends. The runtime must still run.
    pub async fn stop(self) {
        // It waits for the collector, a few seconds at most.
        let flushed = tokio::task::spawn_blocking(move || self.provider.shutdown()).await;
        if let Ok(Err(error)) = flushed {
            warn!(%error, "the last spans did not reach the collector");
        }
    }
}

/// Makes a call's span part of its caller's trace, or else begins one, and notes its id.
pub fn join(span: &Span, method: &str, caller: Option<Traceparent>, headers: &HeaderMap) {
    if let Some(caller) = &caller {
        // Where no exporter takes it there is no parent to be set.
        let _ = span.set_parent(Context::new().with_remote_span_context(context(caller, headers)));
    }
    let begun = span.context();
    let own = begun.span();
    own.update_name(method.trim_start_matches('/').to_owned());
    let trace_id = own.span_context().trace_id();
    if caller.is_none() && trace_id != TraceId::INVALID {
        span.record("trace_id", tracing::field::display(trace_id));
    }
}

fn context(caller: &Traceparent, headers: &HeaderMap) -> SpanContext {
    let states: Vec<&str> =
        headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    SpanContext::new(
        TraceId::from(caller.trace_id.0),
        SpanId::from(caller.span_id.0),
        if caller.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
        true,
        // One that is malformed is left out; the trace goes on.
        states.join(",").parse::<TraceState>().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use opentelemetry_proto::tonic::{
        collector::trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
        trace::v1::Span as Exported,
    };
    use prometheus_client::registry::Registry;
    use tokio::{net::TcpListener, sync::mpsc};
    use tonic::{Status, body::Body, transport::server::TcpIncoming};
    use tower::{Layer as _, ServiceExt as _, service_fn};
    use tracing_subscriber::{layer::SubscriberExt as _, registry};

    use super::*;
    use crate::{metrics::Calls, service::trace::TraceLayer};

    /// A collector that hands on what it gets.
    struct Collector(mpsc::UnboundedSender<Exported>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: tonic::Request<ExportTraceServiceRequest>,
        ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
            let scopes =
                request.into_inner().resource_spans.into_iter().flat_map(|r| r.scope_spans);
            for span in scopes.flat_map(|scope| scope.spans) {
                self.0.send(span).map_err(|_| Status::unavailable("the test is over"))?;
            }
            Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
        }
    }

    /// Has calls with these headers answered, by a service that makes a span of its own; returns all
    /// spans that reached a collector until the exporter was stopped.
    async fn exported(calls: &[&[(&str, &str)]]) -> Vec<Exported> {
        let (spans, mut received) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Collector(spans)))
            .serve_with_incoming(TcpIncoming::from(listener));
        let collector = tokio::spawn(collector);

        let exporter = Exporter::new(&endpoint).unwrap();
        let listening = tracing::subscriber::set_default(registry().with(exporter.listener()));
        let service = service_fn(|_: Request<Body>| async {
            tracing::debug_span!("step").in_scope(|| ());
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("0"));
            Ok::<_, Infallible>(response)
        });
        let layer = TraceLayer::new(Calls::register(&mut Registry::default()));
        for headers in calls {
            let mut request = Request::builder().uri("/conti.v1.AgentService/GetAgent");
            for (name, value) in *headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Body::empty()).unwrap();
            layer.layer(service).oneshot(request).await.unwrap();
        }
        drop(listening);
        exporter.stop().await;
        collector.abort();
        let mut all = Vec::new();
        received.recv_many(&mut all, usize::MAX).await;
        all
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_call_reaches_the_collector_as_a_child_of_its_caller_with_its_steps_below() {
        let caller = [
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"),
            ("tracestate", "vendor=abc"),
        ];
        let spans = exported(&[&caller]).await;
        let named = |name: &str| {
            let found = spans.iter().find(|span| span.name == name);
            found.unwrap_or_else(|| panic!("no span {name} in {spans:?}"))
        };
        assert_eq!(spans.len(), 2);
        let (call, step) = (named("conti.v1.AgentService/GetAgent"), named("step"));
        assert_eq!(call.trace_id, 0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes());
        assert_eq!(call.parent_span_id, 0x00f067aa0ba902b7_u64.to_be_bytes());
        assert_eq!(call.trace_state, "vendor=abc");
        assert_eq!((&step.trace_id, &step.parent_span_id), (&call.trace_id, &call.span_id));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_call_of_no_trace_begins_one_and_what_the_caller_does_not_record_is_not_sent() {
        let unsampled =
            [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00")];
        let malformed = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-zz-01")];
        let spans = exported(&[&unsampled, &malformed]).await;
        let call = spans.iter().find(|span| span.name != "step").unwrap();
        assert_eq!(spans.len(), 2, "{spans:?}");
        assert!(call.parent_span_id.is_empty());
        assert!(call.trace_id.iter().any(|byte| *byte != 0));
        assert_ne!(call.trace_id, 0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes());
    }
}
