//! The agent of Conti.
//!
//! - [`cli`], [`logging`]: what it is told and what it tells;
//! - [`listen`]: its sockets, and who is at the other end; [`tls`], [`pki`]: certificates;
//! - [`access`]: who may do what; [`audit`]: who did what; [`redact`]: without secrets;
//! - [`serve`]: all of it put together;
//! - [`service`]: the gRPC edge; [`engine`]: containers and sessions.
//!
//! `main` only starts things, and stops them in order.

mod access;
mod audit;
mod cli;
mod engine;
mod listen;
mod logging;
mod pki;
mod redact;
mod serve;
mod service;
mod tls;

use std::process::ExitCode;

use clap::Parser as _;
use conti_shared::memory;
use tracing::error;

use cli::Args;
use pki::Pki;

fn main() -> ExitCode {
    let mut args = Args::parse();
    if let Some(command) = args.command.take() {
        return match cli::pki::run(command, &Pki::of(&args.data_dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                use std::io::Write as _;
                // There is nobody else to tell.
                let _ = writeln!(std::io::stderr(), "contid: {problem}");
                ExitCode::FAILURE
            }
        };
    }
    memory::keep_buffers();
    if let Err(problem) = logging::start(args.log_format, &args.log_level) {
        let usage = clap::Error::raw(
            clap::error::ErrorKind::InvalidValue,
            format!("--log-level {:?}: {problem}\n", args.log_level),
        );
        usage.exit();
    }
    // Two workers: a client that moves much data does not hold up the others.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("contid")
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(serve::run(args)),
        Err(problem) => Err(format!("cannot start the threads of the agent: {problem}").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    }
}
