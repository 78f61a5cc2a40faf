//! What is logged and counted of a call: its method and outcome, nothing of what it carried.
//!
//! A call whose caller tells its trace ([`super::traceparent`]) has a span at info level with the
//! trace's id, so that every line that is logged for it carries the id.
//!
//! This is also where the answer to a message that could not be read gets its proper status: it
//! never reaches a method.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, debug, info, info_span};

use super::{followed::Followed, status, traceparent::Traceparent};
use crate::{metrics::Calls, redact};

/// Wraps all services of the agent.
#[derive(Debug, Clone)]
pub struct TraceLayer {
    calls: Calls,
}

impl TraceLayer {
    /// A layer that counts with `calls`.
    pub fn new(calls: Calls) -> TraceLayer {
        TraceLayer { calls }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, calls: self.calls.clone() }
    }
}

/// See [`TraceLayer`].
#[derive(Debug, Clone)]
pub struct Trace<S> {
    inner: S,
    calls: Calls,
}

impl<S> Service<Request<Body>> for Trace<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let begun = Instant::now();
        let method = request.uri().path().to_owned();
        let span = span(&method, &request);
        let counted = self.calls.begin(&method);
        let answer = span.in_scope(|| self.inner.call(request));
        let followed = span.clone();
        let call = async move {
            let mut response = answer.await?;
            let failed = response.extensions().get::<Status>();
            if let Some(status) = failed.and_then(status::unreadable) {
                response = status.into_http();
            }
            let ms = begun.elapsed().as_secs_f64() * 1000.0;
            match response.extensions().get::<Status>() {
                Some(status) if status.code() != Code::Ok => {
                    info!(%method, code = ?status.code(), problem = %redact::text(status.message()), ms, "refused");
                }
                _ => debug!(ms, "answered"),
            }
            Ok(Followed::answer(response, counted, followed))
        };
        Box::pin(call.instrument(span))
    }
}

/// The span of a call: visible where its caller tells a trace that it is part of.
fn span(method: &str, request: &Request<Body>) -> Span {
    let caller = Traceparent::of(request.headers());
    let span = match &caller {
        Some(Traceparent { trace_id, span_id, .. }) => {
            info_span!("call", method, %trace_id, parent_span_id = %span_id)
        }
        None => unnamed(method),
    };
    #[cfg(feature = "otel")]
    crate::otel::join(&span, method, caller, request.headers());
    span
}

/// The span of a call of no known trace.
#[cfg(not(feature = "otel"))]
fn unnamed(method: &str) -> Span {
    tracing::debug_span!("call", method)
}

/// The span of a call of no known trace. Where spans are exported, it begins one.
#[cfg(feature = "otel")]
fn unnamed(method: &str) -> Span {
    info_span!("call", method, trace_id = tracing::field::Empty)
}
