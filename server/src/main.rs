//! The agent of Conti.
//!
//! - [`cli`], [`logging`]: what it is told and what it tells;
//! - [`listen`]: its sockets, and who may connect;
//! - [`service`]: the gRPC edge; [`engine`]: containers and sessions;
//! - [`metrics`]: numbers of all of them, for Prometheus; `otel`, where it is built in: spans.
//!
//! `main` only starts things, and stops them in order.

mod cli;
mod engine;
mod listen;
mod logging;
mod metrics;
#[cfg(feature = "otel")]
mod otel;
mod service;

use std::{error::Error, process::ExitCode, time::Duration};

use clap::Parser as _;
use conti_shared::memory;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tracing::{error, info, warn};

use cli::Args;
use engine::{Config, Engine};
use listen::Socket;
use metrics::Metrics;
use service::{edge, stopping::Stopping};

/// How long clients have to take leave.
const DRAIN: Duration = Duration::from_secs(3);
/// How long the engine has to let go.
const LET_GO: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args = Args::parse();
    memory::keep_buffers();
    // Two workers: a client that moves much data does not hold up the others.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("contid")
        .enable_all()
        .build();
    #[cfg(feature = "otel")]
    let exporter = match (&args.otel_endpoint, &runtime) {
        (Some(endpoint), Ok(runtime)) => {
            let _inside = runtime.enter();
            let exporter = otel::Exporter::new(endpoint);
            Some(exporter.unwrap_or_else(|problem| wrong("--otel-endpoint", endpoint, &problem)))
        }
        _ => None,
    };
    #[cfg(feature = "otel")]
    let spans = exporter.as_ref().map(otel::Exporter::listener);
    #[cfg(not(feature = "otel"))]
    let spans = None;
    if let Err(problem) = logging::start(args.log_format, &args.log_level, spans) {
        wrong("--log-level", &args.log_level, &problem);
    }
    let result = match &runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(problem) => Err(format!("cannot start the threads of the agent: {problem}").into()),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    };
    #[cfg(feature = "otel")]
    if let (Some(exporter), Ok(runtime)) = (exporter, &runtime) {
        runtime.block_on(exporter.stop());
    }
    code
}

/// Ends the agent, because what was given with a flag cannot be used.
fn wrong(flag: &str, value: &str, problem: &dyn Error) -> ! {
    let text = format!("{flag} {value:?}: {problem}\n");
    clap::Error::raw(clap::error::ErrorKind::InvalidValue, text).exit()
}

/// Serves until SIGTERM or SIGINT. Containers and sessions stay.
async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    // First of all: a signal while the engine starts must not end it half way.
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);

    let runtime = args
        .runtime()
        .map_err(|e| format!("cannot find conti-runtime beside contid: {e}; give --runtime"))?;
    let config = Config { state_dir: args.state_dir, data_dir: args.data_dir, runtime };
    // It takes its directories before anything of an agent that runs there is touched.
    let engine = Engine::start(config).await?;

    let sockets = args.listen.iter().filter_map(|endpoint| endpoint.socket_path());
    let sockets = sockets.map(Socket::open).collect::<Result<Vec<_>, _>>()?;
    for endpoint in &args.listen {
        info!(%endpoint, version = env!("CARGO_PKG_VERSION"), "listening");
    }

    let metrics = Metrics::new(engine.clone());
    let scraped = match &args.metrics_listen {
        Some(address) => Some(metrics::Server::start(address, metrics.clone()).await?),
        None => None,
    };

    let stopping = Stopping::default();
    let router = edge::router(&engine, &stopping, &metrics.calls).await?;
    let serve = router.serve_with_incoming_shutdown(listen::all(sockets), stopping.wait());
    tokio::pin!(serve);

    tokio::select! {
        result = &mut serve => result?,
        name = async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        } => {
            info!(signal = name, "stopping; containers and sessions go on");
            stopping.begin();
            match timeout(DRAIN, serve).await {
                Ok(result) => result?,
                Err(_) => warn!("some clients did not take leave in time"),
            }
        }
    }
    if let Some(server) = scraped {
        server.stop().await;
    }
    if timeout(LET_GO, engine.shutdown()).await.is_err() {
        warn!("the engine did not let go in time; the next agent will clean up");
    }
    info!("stopped");
    Ok(())
}
