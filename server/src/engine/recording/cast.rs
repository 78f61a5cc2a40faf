//! Terminals as asciicast v2: one JSON document for each line, as asciinema and its players read it.
//!
//! A header, then `[seconds, code, data]` with the codes `o` (output), `i` (input), `r` (size) and `m` (a mark:
//! what is missing, and how the session ended). Data is text: bytes that are no UTF-8 become U+FFFD.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::{About, part::Part};

/// The first line.
pub fn header(about: &About) -> Vec<u8> {
    let size = about.terminal.map_or((80, 24), |size| (size.columns, size.rows));
    let since = about.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let command = about.argv.join(" ");
    let place = about.container.as_ref().map_or("host", |container| &container.name);
    line(&json!({
        "version": 2,
        "width": size.0,
        "height": size.1,
        "timestamp": since.as_secs(),
        "title": format!("{place}: {command}"),
        "command": command,
    }))
}

/// A part as lines, and how many bytes of its data stand in them: a character that is not complete
/// yet is left out unless it is the `last`.
pub fn encode(part: Part<'_>, time: Duration, last: bool) -> (Vec<u8>, usize) {
    let event = |code: &str, data: &str| {
        // Microseconds, as asciinema itself writes them.
        line(&json!([time.as_micros() as f64 / 1e6, code, data]))
    };
    match part {
        Part::Output { data, .. } => {
            let whole = if last { data.len() } else { complete(data) };
            let text = String::from_utf8_lossy(&data[..whole]);
            (if whole == 0 { Vec::new() } else { event("o", &text) }, whole)
        }
        Part::Input(data) => (event("i", &String::from_utf8_lossy(data)), data.len()),
        Part::Resize(size) => (event("r", &format!("{}x{}", size.columns, size.rows)), 0),
        Part::Gap { length, .. } => (event("m", &format!("{length} bytes are missing here")), 0),
        Part::Full => (event("m", "the recording is full: nothing more is recorded"), 0),
        Part::End(end) => (event("m", &format!("end {end}")), 0),
    }
}

/// How much of some bytes does not end in the middle of a character.
fn complete(data: &[u8]) -> usize {
    // At most three bytes of a character can be there without its last.
    let from = data.len().saturating_sub(3);
    match data[from..].iter().rposition(|byte| *byte >= 0xc0) {
        Some(at) => match std::str::from_utf8(&data[from + at..]) {
            Err(error) if error.error_len().is_none() => from + at,
            _ => data.len(),
        },
        None => data.len(),
    }
}

fn line(value: &serde_json::Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a player shows of it.
    fn shown(lines: &[u8]) -> String {
        let events = serde_json::Deserializer::from_slice(lines).into_iter::<serde_json::Value>();
        events.map(|event| event.unwrap()[2].as_str().unwrap().to_owned()).collect()
    }

    proptest! {
        #[test]
        fn text_is_the_same_wherever_it_was_cut(text in any::<String>(), cuts in prop::collection::vec(1usize..7, 1..200)) {
            let bytes = text.as_bytes();
            let (mut at, mut seen, mut lines) = (0, 0, Vec::new());
            for cut in cuts.iter().cycle() {
                seen = (seen + cut).min(bytes.len());
                let part = Part::Output { offset: 0, stderr: false, data: &bytes[at..seen] };
                let (more, taken) = encode(part, Duration::ZERO, seen == bytes.len());
                lines.extend(more);
                at += taken;
                if at == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(shown(&lines), text);
        }

        #[test]
        fn bytes_that_are_no_text_never_stop_it(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let part = Part::Output { offset: 0, stderr: false, data: &bytes };
            let (_, taken) = encode(part, Duration::ZERO, false);
            prop_assert!(taken + 3 >= bytes.len());
            let (lines, taken) = encode(part, Duration::ZERO, true);
            prop_assert_eq!(taken, bytes.len());
            prop_assert_eq!(shown(&lines), String::from_utf8_lossy(&bytes));
        }
    }
}
