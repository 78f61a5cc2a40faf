//! contictl: runs, enters and streams containers on any machine that runs contid.
//!
//! Read in this order:
//!
//! 1. [`cli`]: the command line as a whole;
//! 2. [`verb`]: one file for each verb, its flags beside its handler;
//! 3. [`flags`]: the flags that verbs share, turned once into messages of the API;
//! 4. [`stream`]: the engine behind run, exec, enter and attach;
//! 5. [`connect`]: the connection to the agent;
//! 6. [`contexts`]: the agents that a user knows by name;
//! 7. [`output`], [`terminal`] and [`error`]: tables, JSON and notes; the local terminal; failures
//!    and their exit codes.
//!
//! Everything goes through the public API: this client can do nothing that another could not.

mod cli;
mod connect;
mod contexts;
mod error;
mod flags;
mod output;
mod stream;
mod terminal;
mod verb;

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
};

use clap::error::ErrorKind;
use conti_shared::memory;

use crate::error::{Error, FAILED};

fn main() {
    memory::keep_buffers();
    terminal::restore_on_panic();
    let code = catch_unwind(AssertUnwindSafe(run)).unwrap_or(FAILED);
    terminal::restore();
    // Nobody waits for the threads: one may be reading a stdin that never ends.
    std::process::exit(code.into());
}

/// Does what the command line says and returns the exit code.
fn run() -> u8 {
    let line: Vec<OsString> = std::env::args_os().collect();
    let cli = match cli::Cli::read(&line) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &line),
    };
    // One thread: what a client does is wait, and its start-up time is part of every command.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(verb::run(cli)),
        Err(source) => Err(Error::Local { what: "cannot start", source }),
    };
    result.unwrap_or_else(|error| {
        terminal::restore();
        output::error(&error);
        error.exit_code()
    })
}

/// Says what is wrong with a command line, or gives the help that it asks for. Help goes to stdout and is a success. A wrong command line is a failure of Conti's own, so that
/// it is not taken for the command's.
fn usage(error: &clap::Error, line: &[OsString]) -> u8 {
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some(error) = cli::no_text(line)
    {
        output::error(&error);
        return error.exit_code();
    }
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // A reader of the help that has seen enough is no failure.
    let _ = error.print();
    if asked_for { 0 } else { FAILED }
}
