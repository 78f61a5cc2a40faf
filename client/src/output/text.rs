//! How single values look in tables.

use std::time::{Duration, SystemTime};

use conti_proto::v1::{SessionEnd, session_end::Reason};
use conti_shared::text::is_deceptive;
pub use conti_shared::text::{bytes, json};
use prost_types::Timestamp;

/// How many characters of an id a table shows.
const SHORT_ID: usize = 12;
/// How many characters of a command a table shows.
const COMMAND: usize = 40;

/// Text without characters that are not seen: what comes from an agent or a container is not to steer the
/// terminal, nor to look like something else.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match is_deceptive(c) {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    plain
}

/// A number of bytes in units of 1024, rounded up as df(1) and du(1) do.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut unit = 1u64 << 10;
    for name in UNITS {
        // Tenths where one digit would say too little.
        let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(unit));
        if tenths < 100 {
            return format!("{}.{}{name}", tenths / 10, tenths % 10);
        }
        if tenths.div_ceil(10) < 1024 || name == "E" {
            return format!("{}{name}", tenths.div_ceil(10));
        }
        unit <<= 10;
    }
    format!("{bytes}B")
}

/// A number, or a dash for 0.
pub fn or_dash(number: u64) -> String {
    if number == 0 { "-".to_owned() } else { number.to_string() }
}

/// A text, or a dash where it is empty: what it says is not known, or there is nothing to say.
pub fn known(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// The beginning of an id.
pub fn short_id(id: &str) -> String {
    id.chars().take(SHORT_ID).collect()
}

/// A command line, cut to what a table can hold.
pub fn command(argv: &[String]) -> String {
    cut(&argv.join(" "))
}

/// A text, cut to what a table can hold.
pub fn cut(line: &str) -> String {
    if line.chars().count() <= COMMAND {
        line.to_owned()
    } else {
        line.chars().take(COMMAND - 1).chain(['…']).collect()
    }
}

/// A pid, or nothing.
pub fn pid(pid: u32) -> String {
    if pid == 0 { "-".to_owned() } else { pid.to_string() }
}

/// The value of an enum as it is written in the proto, without the enum's name, in lower case.
pub fn enum_name(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

/// A point in time, where it is one.
pub fn system_time(time: Option<&Timestamp>) -> Option<SystemTime> {
    time.and_then(|time| SystemTime::try_from(*time).ok())
}

/// A point in time as RFC 3339, where it is one that can be written so.
pub fn rfc3339(time: Option<&Timestamp>) -> Option<String> {
    // Formatting fails beyond the year 9999.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let time = system_time(time).filter(|t| (SystemTime::UNIX_EPOCH..end).contains(t))?;
    Some(humantime::format_rfc3339_nanos(time).to_string())
}

/// A point in time to the second, as RFC 3339 has it and in UTC, e.g. `2026-01-31T12:00:00Z`. `contid` writes them
/// alike.
pub fn date(time: Option<&Timestamp>) -> String {
    let text = rfc3339(time).unwrap_or_else(|| "-".to_owned());
    // Without the fraction of a second.
    text.split_once('.').map_or_else(|| text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

/// How long ago something was, e.g. `3h ago`.
pub fn age(time: Option<&Timestamp>) -> String {
    let Some(time) = system_time(time) else { return "-".to_owned() };
    // The clocks of two machines differ: a little in the future is now.
    let seconds = SystemTime::now().duration_since(time).map_or(0, |age| age.as_secs());
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// How something ended, in a few words.
pub fn end(end: Option<&SessionEnd>) -> String {
    match end.and_then(|end| end.reason.as_ref()) {
        None => "-".to_owned(),
        Some(Reason::ExitCode(code)) => format!("exit {code}"),
        Some(Reason::Signal(signal)) => signal.name.clone(),
        Some(Reason::OutOfMemory(_)) => "out of memory".to_owned(),
        Some(Reason::Deadline(_)) => "deadline".to_owned(),
        Some(Reason::Killed(_)) => "killed".to_owned(),
        Some(Reason::ContainerGone(_)) => "container gone".to_owned(),
        Some(Reason::StartFailed(_)) => "start failed".to_owned(),
        Some(Reason::Lost(_)) => "lost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_command_is_cut_between_characters() {
        assert_eq!(command(&["ä".repeat(50)]), format!("{}…", "ä".repeat(39)));
        assert_eq!(command(&["sh".to_owned(), "-c".to_owned()]), "sh -c");
    }

    #[test]
    fn times_say_that_they_are_in_utc() {
        let time = Timestamp { seconds: 1_769_860_800, nanos: 999_999_999 };
        assert_eq!(date(Some(&time)), "2026-01-31T12:00:00Z");
        assert_eq!(date(None), "-");
    }

    #[test]
    fn sizes_are_rounded_up_to_two_digits_or_whole_units() {
        let sizes = [0, 1023, 1024, 1025, 10_240, 1_047_553, 1 << 20, 252 << 30, u64::MAX];
        let texts = ["0B", "1023B", "1.0K", "1.1K", "10K", "1.0M", "1.0M", "252G", "16E"];
        assert_eq!(sizes.map(size), texts);
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\u{9b}"), "a\\u{1b}[2Jb\\u{9b}");
    }

    #[test]
    fn what_is_not_seen_is_written_out() {
        assert_eq!(
            plain("a\u{202e}b\u{200b}\u{feff}\u{2028}c"),
            "a\\u{202e}b\\u{200b}\\u{feff}\\u{2028}c"
        );
        assert_eq!(plain("ä中🦀\u{2010}"), "ä中🦀\u{2010}");
    }

    proptest! {
        #[test]
        fn json_says_the_same_and_shows_all_of_it(text in any::<String>(), pretty in any::<bool>()) {
            let value = serde_json::json!({ "x": [text.clone()], text: "\u{7f}\u{9b}\u{202e}\u{2066}" });
            let written = if pretty { format!("{value:#}") } else { value.to_string() };
            let shown = json(&written);
            prop_assert!(!shown.chars().any(|c| is_deceptive(c) && !(pretty && c == '\n')));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }

        #[test]
        fn no_time_of_an_agent_panics(seconds in any::<i64>(), nanos in any::<i32>()) {
            let time = Timestamp { seconds, nanos };
            let _ = date(Some(&time));
            let _ = age(Some(&time));
        }
    }
}
