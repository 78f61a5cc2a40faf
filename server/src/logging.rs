//! The log: to stderr, for humans or as JSON.

mod escaped;

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt as _,
};

use crate::cli::LogFormat;
use escaped::{Escaped, Form};

/// Who else hears of spans and events, with a filter of its own.
pub type Listener = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts the log of this process. `more` hears what it asks for, whatever the level of the log is.
pub fn start(format: LogFormat, level: &str, more: Option<Listener>) -> Result<(), ParseError> {
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
    let colours = terminal && std::env::var_os("NO_COLOR").is_none();
    let form = if human { Form::Human { colours } } else { Form::Json };
    let log = fmt::layer().with_writer(Escaped { out: io::stderr, form });
    let mut listeners = vec![match human {
        true => log.with_ansi(colours).with_filter(filter).boxed(),
        false => log.json().flatten_event(true).with_filter(filter).boxed(),
    }];
    listeners.extend(more);
    // There is only this one: the first cannot be refused.
    let _ = registry().with(listeners).try_init();
    Ok(())
}
