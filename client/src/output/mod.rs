//! All that the client says by itself: data on stdout, as tables or JSON, and notes on stderr.
//!
//! - [`processes`]: what is said of processes;
//! - [`pki`]: who may call;
//! - [`mod@json`]: messages as stable JSON;
//! - [`text`]: how single values look in tables;
//! - [`tree`]: what hangs below what;
//! - this file: where it goes.

pub mod json;
pub mod pki;
pub mod processes;
pub mod text;
pub mod tree;

use std::{
    env,
    io::{self, Write as _},
};

use anstyle::{AnsiColor, Style};
use comfy_table::{Table, presets};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    terminal,
};

/// How data is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Aligned tables for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Writes text to stdout. A reader that has seen enough is [`Error::OutputClosed`].
pub fn print(text: &str) -> Result<()> {
    raw(text.as_bytes())
}

/// Writes bytes to stdout, as they are.
pub fn raw(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|source| match source.kind() {
        io::ErrorKind::BrokenPipe => Error::OutputClosed,
        _ => Error::Local { what: "cannot write to stdout", source },
    })
}

/// Writes a line to stdout.
pub fn line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Writes JSON to stdout: indented for people, on one line for programs.
pub fn json(value: &Value) -> Result<()> {
    match terminal::stdout_is_terminal() {
        true => line(&text::json(&format!("{value:#}"))),
        false => json_line(value),
    }
}

/// Writes JSON to stdout on one line.
pub fn json_line(value: &Value) -> Result<()> {
    line(&text::json(&value.to_string()))
}

/// Writes an aligned table to stdout.
pub fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> Result<()> {
    let bold = style(terminal::stdout_is_terminal(), Style::new().bold());
    let mut text = String::new();
    for (number, row) in lines(header, rows).enumerate() {
        match number {
            0 => text.push_str(&format!("{bold}{row}{bold:#}\n")),
            _ => text.push_str(&format!("{row}\n")),
        }
    }
    print(&text)
}

/// Writes what is known of one thing to stdout, a fact on each line.
pub fn facts(facts: &[(&str, String)]) -> Result<()> {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines =
        facts.iter().map(|(name, value)| format!("{name:<width$}  {}\n", text::plain(value)));
    print(&lines.collect::<String>())
}

/// The lines of an aligned table.
pub fn lines<const N: usize>(
    header: [&str; N],
    rows: Vec<[String; N]>,
) -> impl Iterator<Item = String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| text::plain(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.into_iter()
}

/// Says something on stderr.
pub fn note(text: &str) {
    // Where stderr is closed there is nowhere left to say it.
    let _ = io::stderr().lock().write_all(note_line(text).as_bytes());
}

/// Says on stderr what the agent did otherwise than asked.
pub fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
}

/// Says on stderr why Conti failed.
pub fn error(error: &Error) {
    if !error.is_silent() {
        note(&error.to_string());
    }
}

/// The line of a note. What comes from an agent or a container cannot steer the terminal.
pub fn note_line(text: &str) -> String {
    let name = style(terminal::stderr_is_terminal(), AnsiColor::Yellow.on_default());
    let text: Vec<String> = text.lines().map(text::plain).collect();
    // A raw terminal does not go to the first column by itself.
    let newline = if terminal::is_raw() { "\r\n" } else { "\n" };
    format!("{name}contictl:{name:#} {}{newline}", text.join(newline))
}

/// A style, or none where nobody sees it or nobody wants it (no-color.org).
fn style(is_terminal: bool, style: Style) -> Style {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || env::var_os("TERM").is_some_and(|value| value == "dumb");
    if is_terminal && !unwanted { style } else { Style::new() }
}
