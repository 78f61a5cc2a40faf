//! The names and numbers of signals, as Linux has them on x86_64 and aarch64.
//!
//! A client may run on another system than its agent, so the table is our own. Real-time signals
//! count from 34, as both C libraries of Linux have it: they keep 32 and 33 for themselves.

/// The lowest number of a signal.
pub const MIN: i32 = 1;
/// The highest number of a signal.
pub const MAX: i32 = 64;
/// Asks for an end.
pub const SIGTERM: i32 = 15;
/// Cannot be caught.
pub const SIGKILL: i32 = 9;

const RT_MIN: i32 = 34;
const RT_MAX: i32 = MAX;

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

const OTHER_NAMES: [(&str, i32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];

/// Why a text names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no signal: give a name such as SIGTERM or TERM, or a number from 1 to 64")]
pub struct ParseError(String);

/// The number of a signal written as `SIGTERM`, `TERM`, `term`, `15`, `SIGRTMIN+3` or `RTMAX-1`.
pub fn parse(text: &str) -> Result<i32, ParseError> {
    let number = if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        let upper = text.to_ascii_uppercase();
        by_name(upper.strip_prefix("SIG").unwrap_or(&upper))
    };
    number.filter(|n| (MIN..=MAX).contains(n)).ok_or_else(|| ParseError(text.to_owned()))
}

/// The name of a signal, e.g. `SIGTERM` or `SIGRTMIN+3`; its number in decimal where it has none.
/// [`parse`] takes it back for every signal there is.
pub fn name(number: i32) -> String {
    match number {
        1..=31 => format!("SIG{}", NAMES[number as usize - 1]),
        RT_MIN => "SIGRTMIN".to_owned(),
        RT_MAX => "SIGRTMAX".to_owned(),
        35..RT_MAX => format!("SIGRTMIN+{}", number - RT_MIN),
        _ => number.to_string(),
    }
}

fn by_name(name: &str) -> Option<i32> {
    if let Some(index) = NAMES.iter().position(|&n| n == name) {
        return i32::try_from(index).ok().map(|index| index + 1);
    }
    if let Some(&(_, number)) = OTHER_NAMES.iter().find(|(n, _)| *n == name) {
        return Some(number);
    }
    let distance = |rest: &str, sign: char| match rest {
        "" => Some(0),
        _ => {
            let digits = rest.strip_prefix(sign)?;
            digits.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
            digits.parse::<i32>().ok().filter(|&n| n <= RT_MAX - RT_MIN)
        }
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        distance(rest, '+').map(|n| RT_MIN + n)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        distance(rest, '-').map(|n| RT_MAX - n)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_way_to_write_a_signal_is_understood() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("term", 15),
            ("sigTerm", 15),
            ("15", 15),
            ("9", 9),
            ("SYS", 31),
            ("IOT", 6),
            ("SIGPOLL", 29),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax", 64),
            ("SIGRTMAX-30", 34),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in [
            "",
            "0",
            "65",
            "-1",
            "+9",
            "SIG",
            "SIGSIGTERM",
            "TERM ",
            "RTMIN+31",
            "RTMIN-1",
            "RTMAX+1",
            "RTMIN+",
            "RTMIN++1",
            "99999999999999999999",
            "FOO",
            "TERM\0",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn names_and_numbers_agree(number in MIN..=MAX) {
            prop_assert_eq!(parse(&name(number)), Ok(number));
        }

        #[test]
        fn nothing_panics(text in any::<String>(), number in any::<i32>()) {
            let _ = parse(&text);
            let _ = name(number);
        }
    }
}
