//! What is logged of a call: its method and outcome, nothing of what it carried.
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
use tracing::{Instrument as _, debug, debug_span, info};

use super::status;

/// Wraps all services of the agent.
#[derive(Debug, Clone, Copy)]
pub struct TraceLayer;

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner }
    }
}

/// See [`TraceLayer`].
#[derive(Debug, Clone)]
pub struct Trace<S> {
    inner: S,
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
        let span = debug_span!("call", method = %method);
        let answer = self.inner.call(request);
        let call = async move {
            let mut response = answer.await?;
            let failed = response.extensions().get::<Status>();
            if let Some(status) = failed.and_then(status::unreadable) {
                response = status.into_http();
            }
            let ms = begun.elapsed().as_secs_f64() * 1000.0;
            match response.extensions().get::<Status>() {
                Some(status) if status.code() != Code::Ok => {
                    info!(%method, code = ?status.code(), message = status.message(), ms, "refused");
                }
                _ => debug!(ms, "answered"),
            }
            Ok(response)
        };
        Box::pin(call.instrument(span))
    }
}
