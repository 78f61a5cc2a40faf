//! The log: to stderr, for humans or as JSON.

mod escaped;

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{LevelFilter, ParseError},
    fmt,
    layer::SubscriberExt as _,
    registry,
    util::SubscriberInitExt as _,
};

use crate::cli::LogFormat;
use escaped::{Escaped, Form};

/// Who else hears of spans and events, with a filter of its own.
pub type Listener = Box<dyn Layer<Registry> + Send + Sync>;

/// Why a level cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A word alone stands for a level. The library would take any other for the name of a target, of which there is
    /// none: nothing would be logged, errors neither.
    #[error(
        "{0:?} is no level: write off, error, warn, info, debug or trace, or TARGET=LEVEL for a part of the program"
    )]
    Level(String),
    /// The library does not understand it.
    #[error(transparent)]
    Directive(ParseError),
}

/// Starts the log of this process. `more` hears what it asks for, whatever the level of the log is.
pub fn start(format: LogFormat, level: &str, more: Option<Listener>) -> Result<(), Error> {
    let filter = filter(level)?;
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

/// What is logged at a level, or by directives.
fn filter(level: &str) -> Result<EnvFilter, Error> {
    // The fields of a span stand in brackets, with commas between them.
    let mut depth = 0_i32;
    let ends = |c: char| {
        depth += i32::from(c == '[') - i32::from(c == ']');
        c == ',' && depth == 0
    };
    let words: Vec<&str> = level.split(ends).map(str::trim).collect();
    let of = |word: &str| word.parse::<LevelFilter>().ok().filter(|_| !word.is_empty());
    let bare = words.iter().filter(|word| !word.contains(['=', '[']));
    if let Some(word) = bare.copied().find(|word| of(word).is_none()) {
        return Err(Error::Level(word.to_owned()));
    }
    // A plain level speaks of the agent: of each frame on the wire only who asks for it hears.
    let quiet = ["h2", "hyper", "tonic", "tower"].map(|name| format!(",{name}=info")).concat();
    let plain = words.len() == 1 && of(words[0]).is_some_and(|level| level != LevelFilter::TRACE);
    let directives = if plain { words[0].to_owned() + &quiet } else { level.to_owned() };
    EnvFilter::try_new(directives).map_err(Error::Directive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_understood() {
        for level in [
            "off",
            "error",
            "info",
            "DEBUG",
            "trace",
            "warn,contid::engine=debug",
            "contid=info,h2=off",
            "info,[call{id=1}]=trace",
        ] {
            assert!(filter(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_instead_of_silence() {
        for level in ["inof", "", " ", "info,", "info,debgu", "contid", "contid::engine,warn"] {
            assert!(matches!(filter(level), Err(Error::Level(_))), "{level:?}");
        }
        assert!(matches!(filter("contid=foo"), Err(Error::Directive(_))));
    }

    #[test]
    fn a_plain_level_leaves_out_the_frames_on_the_wire() {
        let of = |level| filter(level).unwrap().to_string();
        assert!(of("debug").contains("h2=info") && of("Debug").contains("h2=info"));
        assert!(!of("trace").contains("h2=info") && !of("debug,contid=info").contains("h2=info"));
    }
}
