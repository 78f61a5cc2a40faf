//! The log: to stderr, for humans or as JSON.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, util::SubscriberInitExt as _};

use crate::cli::LogFormat;

/// Starts the log of this process.
pub fn start(format: LogFormat, level: &str) -> Result<(), ParseError> {
    // A plain level speaks of the agent: of each frame on the wire only who asks for it hears.
    let plain = level.chars().all(char::is_alphabetic) && level != "trace";
    let quiet = ["h2", "hyper", "tonic", "tower"].map(|name| format!(",{name}=info")).concat();
    let filter = match plain {
        true => EnvFilter::try_new(format!("{level}{quiet}"))?,
        false => EnvFilter::try_new(level)?,
    };
    let terminal = io::stderr().is_terminal();
    let human = match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let log = fmt().with_env_filter(filter).with_writer(io::stderr);
    // There is only this one: the first cannot be refused.
    let _ = match human {
        true => {
            log.with_ansi(terminal && std::env::var_os("NO_COLOR").is_none()).finish().try_init()
        }
        false => log.json().flatten_event(true).finish().try_init(),
    };
    Ok(())
}
