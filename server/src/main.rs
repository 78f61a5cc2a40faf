//! The agent of Conti.
//!
//! - [`cli`], [`logging`]: what it is told and what it tells;
//! - [`listen`]: its sockets, and who is at the other end; [`tls`], [`pki`]: certificates;
//! - [`access`]: who may do what; [`audit`]: who did what; [`redact`]: without secrets;
//! - [`privileges`]: what it must be allowed to do; [`reserve`]: room on disk for what must be written;
//! - [`serve`]: all of it put together;
//! - [`service`]: the gRPC edge; [`engine`]: containers and sessions;
//! - [`metrics`]: numbers of all of them, for Prometheus; `otel`, where it is built in: spans.
//!
//! `main` only starts things, and stops them in order.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod access;
mod audit;
mod cli;
mod engine;
mod listen;
mod logging;
mod metrics;
#[cfg(feature = "otel")]
mod otel;
mod pki;
mod privileges;
mod redact;
mod reserve;
mod serve;
mod service;
mod tls;

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
    sync::Mutex,
    thread,
    time::Duration,
};

use clap::Parser as _;
use conti_shared::memory;
use tokio::runtime::{self, Runtime};
use tracing::{Level, error};

use cli::Args;

/// How many threads the agent has soon after its start: workers, and those for what may block.
const THREADS: usize = 8;
/// How long threads have to end that are in the middle of something, when the agent stops.
const THREADS_END: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let mut args = Args::parse();
    if let Some(command) = args.command.take() {
        return match cli::pki::run(command, &args.data_dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                // There is nobody else to tell.
                let _ = writeln!(std::io::stderr(), "contid: {problem}");
                ExitCode::FAILURE
            }
        };
    }
    memory::keep_buffers();
    let runtime = runtime();
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
        Ok(runtime) => runtime.block_on(serve::run(args)),
        Err(problem) => Err(format!(
            "cannot start the threads of the agent: {problem}; it, its launcher and its containers need more processes \
             (pids.max of its cgroup and of those above, TasksMax, kernel.pid_max)"
        )
        .into()),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            if !tracing::enabled!(Level::ERROR) {
                // Whatever the log leaves out: an agent does not end without a word.
                let _ = writeln!(std::io::stderr(), "contid: {problem}");
            }
            ExitCode::FAILURE
        }
    };
    #[cfg(feature = "otel")]
    if let (Some(exporter), Ok(runtime)) = (exporter, &runtime) {
        runtime.block_on(exporter.stop());
    }
    if let Ok(runtime) = runtime {
        // A thread that hangs in the kernel does not keep the agent: it ends with the process.
        runtime.shutdown_timeout(THREADS_END);
    }
    code
}

/// Makes what runs the agent.
fn runtime() -> io::Result<Runtime> {
    check_threads()?;
    // Two workers: a client that moves much data does not hold up the others.
    runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("contid")
        .enable_all()
        .build()
}

/// Checks that there can be as many threads as the agent has from the beginning on: it would panic at one that it
/// does not get.
fn check_threads() -> io::Result<()> {
    let gate = Mutex::new(());
    let closed = gate.lock();
    thread::scope(|scope| {
        let wait = || drop(gate.lock());
        let all = (0..THREADS)
            .try_for_each(|_| thread::Builder::new().spawn_scoped(scope, wait).map(drop));
        drop(closed);
        all
    })
}

/// Ends the agent, because what was given with a flag cannot be used.
fn wrong(flag: &str, value: &str, problem: &dyn Error) -> ! {
    let text = format!("{flag} {value:?}: {problem}\n");
    clap::Error::raw(clap::error::ErrorKind::InvalidValue, text).exit()
}
