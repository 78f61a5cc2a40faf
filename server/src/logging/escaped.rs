//! The log as it is written: what others chose, such as a path, is not to steer the terminal that it is read in,
//! nor to look like something else.

use std::io;

use conti_shared::text::{is_deceptive, json};
use tracing_subscriber::fmt::MakeWriter;

/// How characters are written that are not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As JSON has them.
    Json,
    /// As people read them.
    Human {
        /// Whether the formatter gives colours.
        colours: bool,
    },
}

/// Makes writers to `out`.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<W> {
    /// Where to.
    pub out: W,
    /// How.
    pub form: Form,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Escaped<W> {
    type Writer = Escaped<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Escaped { out: self.out.make_writer(), form: self.form }
    }
}

impl<W: io::Write> io::Write for Escaped<W> {
    /// Takes a whole line, which is what the formatter gives.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.out.write_all(self.form.of(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Form {
    fn of(self, line: &str) -> String {
        let (text, end) = match line.strip_suffix('\n') {
            Some(text) => (text, "\n"),
            None => (line, ""),
        };
        let Form::Human { colours } = self else { return format!("{}{end}", json(text)) };
        let mut shown = String::with_capacity(line.len());
        for (at, c) in text.char_indices() {
            match is_deceptive(c) && !(colours && is_colour(&text[at..])) {
                true => shown.extend(c.escape_default()),
                false => shown.push(c),
            }
        }
        shown + end
    }
}

/// Whether a text begins with one of the few sequences that the formatter writes. It does not write out those in
/// all that it is given.
fn is_colour(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("\u{1b}[") else { return false };
    ["0m", "1m", "2m", "3m", "31m", "32m", "33m", "34m", "35m"]
        .iter()
        .any(|end| rest.starts_with(end))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use tracing_subscriber::{fmt, layer::SubscriberExt as _, registry};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const ODD: &str = "/\u{202e}evil\u{9b}31m\u{200b}\u{e0041}\u{1b}[2J\nnext";

    /// What is logged of an odd path, as a value and as text.
    fn logged(form: Form) -> String {
        let kept = Kept::default();
        let out = kept.clone();
        let log = fmt::layer().with_writer(Escaped { out: move || out.clone(), form });
        let say = || tracing::info!(point = ODD, shown = %ODD, "mounted {ODD}");
        match form {
            Form::Json => {
                let listener = registry().with(log.json().flatten_event(true));
                tracing::subscriber::with_default(listener, say);
            }
            Form::Human { colours } => {
                let listener = registry().with(log.with_ansi(colours));
                tracing::subscriber::with_default(listener, say);
            }
        }
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_logged_as_json_shows_all_and_says_the_same() {
        let line = logged(Form::Json);
        assert!(!line.trim_end_matches('\n').chars().any(is_deceptive), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["point"], &value["shown"]), (&ODD.into(), &ODD.into()));
    }

    #[test]
    fn what_is_logged_for_humans_is_one_line_and_shows_all() {
        let line = logged(Form::Human { colours: false });
        let text = line.strip_suffix('\n').unwrap();
        assert!(!text.chars().any(is_deceptive), "{text:?}");
        assert!(text.contains("\\u{202e}evil"), "{text}");
    }

    #[test]
    fn colours_stay_and_nothing_else_steers_the_terminal() {
        let line = logged(Form::Human { colours: true });
        let text = line.strip_suffix('\n').unwrap();
        assert!(text.contains("\u{1b}[32m"), "{text:?}");
        assert!(!text.chars().any(|c| c != '\u{1b}' && is_deceptive(c)), "{text:?}");
        let steers = |rest: &str| !is_colour(rest);
        let escapes: Vec<_> = text.match_indices('\u{1b}').map(|(at, _)| &text[at..]).collect();
        assert!(!escapes.into_iter().any(steers), "{text:?}");
    }
}
