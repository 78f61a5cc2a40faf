//! What names and ids look like.
//!
//! Each check returns the [`Problem`] as the end of a sentence that begins with the field's name,
//! e.g. `name` + ` is empty`.

use crate::text::is_deceptive;

/// The longest name of a container, in characters.
pub const CONTAINER_NAME_MAX: usize = 63;
/// The longest request id, in characters.
pub const REQUEST_ID_MAX: usize = 128;
/// The length of an id, in hexadecimal digits.
pub const ID_LEN: usize = 32;
/// The longest name of a label, in characters.
pub const LABEL_NAME_MAX: usize = 128;
/// The longest value of a label, in characters.
pub const LABEL_VALUE_MAX: usize = 4096;

/// What is wrong with a name or an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing was given.
    #[error("is empty")]
    Empty,
    /// It is a word with a meaning of its own.
    #[error("is {name:?}, which means {meaning}; choose another")]
    Taken {
        /// The name.
        name: &'static str,
        /// What it means.
        meaning: &'static str,
    },
    /// It looks like an id of the agent's making.
    #[error("has the form of an id (32 characters of 0-9 and a-f); choose another")]
    LikeAnId,
    /// It has too many characters.
    #[error("has {length} characters, at most {max} are allowed")]
    TooLong {
        /// How many it has.
        length: usize,
        /// How many it may have.
        max: usize,
    },
    /// It has not the one length that is allowed.
    #[error("has {length} characters instead of {wanted}")]
    WrongLength {
        /// How many it has.
        length: usize,
        /// How many it must have.
        wanted: usize,
    },
    /// Its first character may not come first.
    #[error("begins with {found:?}, the first character must be {allowed}")]
    BadFirst {
        /// The character.
        found: char,
        /// What may stand there.
        allowed: &'static str,
    },
    /// A character is not allowed at all.
    #[error("holds {found:?}, only {allowed} are allowed")]
    BadCharacter {
        /// The character.
        found: char,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// The name that stands for the machine itself wherever a target is asked for.
pub const HOST: &str = "host";

/// Checks the name of a container: `[a-z0-9][a-z0-9_.-]{0,62}`, not `host`, and not like an id: who chooses a name
/// must not choose what is found by an id.
pub fn check_container_name(name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    check_length(name, CONTAINER_NAME_MAX)?;
    if name == HOST {
        return Err(Problem::Taken { name: HOST, meaning: "the machine itself" });
    }
    check_characters(name, "a-z, 0-9, `_`, `.` and `-`", |c| plain(c) || "_.-".contains(c))?;
    match name.chars().next() {
        Some(found) if !plain(found) => {
            Err(Problem::BadFirst { found, allowed: "one of a-z and 0-9" })
        }
        _ if check_id(name).is_ok() => Err(Problem::LikeAnId),
        _ => Ok(()),
    }
}

/// Checks an id that a client has chosen for its request: 1 to 128 printable ASCII characters,
/// the space among them.
pub fn check_request_id(id: &str) -> Result<(), Problem> {
    check_length(id, REQUEST_ID_MAX)?;
    check_characters(id, "printable ASCII characters", |c| matches!(c, ' '..='~'))
}

/// Checks an id of the agent's making: 32 lower case hexadecimal digits.
pub fn check_id(id: &str) -> Result<(), Problem> {
    check_characters(id, "0-9 and a-f", |c| matches!(c, '0'..='9' | 'a'..='f'))?;
    match id.len() {
        ID_LEN => Ok(()),
        length => Err(Problem::WrongLength { length, wanted: ID_LEN }),
    }
}

/// Checks the name of a label: 1 to 128 characters without `=`, white space and control
/// characters, so that `NAME=VALUE` can be taken apart again.
pub fn check_label_name(name: &str) -> Result<(), Problem> {
    check_length(name, LABEL_NAME_MAX)?;
    check_characters(name, "characters that are seen but `=` and white space", |c| {
        c != '=' && !c.is_whitespace() && !is_deceptive(c)
    })
}

/// Checks the value of a label: at most 4096 characters that are seen, tabs and newlines.
pub fn check_label_value(value: &str) -> Result<(), Problem> {
    match value.chars().count() {
        length if length > LABEL_VALUE_MAX => {
            Err(Problem::TooLong { length, max: LABEL_VALUE_MAX })
        }
        _ => check_characters(value, "characters that are seen, tabs and newlines", |c| {
            !is_deceptive(c) || matches!(c, '\t' | '\n')
        }),
    }
}

fn check_length(text: &str, max: usize) -> Result<(), Problem> {
    match text.chars().count() {
        0 => Err(Problem::Empty),
        length if length > max => Err(Problem::TooLong { length, max }),
        _ => Ok(()),
    }
}

fn check_characters(
    text: &str,
    allowed: &'static str,
    good: impl Fn(char) -> bool,
) -> Result<(), Problem> {
    match text.chars().find(|&c| !good(c)) {
        Some(found) => Err(Problem::BadCharacter { found, allowed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_would_mislead_are_refused() {
        for name in ["", ".", "..", "-rm", "_a", "A", "a/b", "a b", "ä", "a\0", "a\n", "host"] {
            assert!(check_container_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "0", "web-1", "a.b_c", "hosts", &"a".repeat(63)] {
            assert_eq!(check_container_name(name), Ok(()), "{name:?}");
        }
        for id in ["0123456789abcdef0123456789abcdef", &"0".repeat(32), &"a".repeat(32)] {
            assert_eq!(check_container_name(id), Err(Problem::LikeAnId), "{id}");
        }
        for name in [&"a".repeat(31), &"0".repeat(33), &"g".repeat(32)] {
            assert_eq!(check_container_name(name), Ok(()), "{name}");
        }
        assert_eq!(
            check_container_name(&"a".repeat(64)),
            Err(Problem::TooLong { length: 64, max: 63 })
        );
    }

    #[test]
    fn labels_can_be_written_as_name_and_value() {
        assert_eq!(check_label_name("org.example/role"), Ok(()));
        for name in ["", "a=b", "a b", "a\0", "a\u{a0}b", "a\u{202e}b", "a\u{200b}"] {
            assert!(check_label_name(name).is_err(), "{name:?}");
        }
        assert_eq!(check_label_value(""), Ok(()));
        for value in ["\0", "a\u{1b}[2J", "a\u{9b}", "a\u{202e}b", "\u{2066}", "\u{feff}"] {
            assert!(check_label_value(value).is_err(), "{value:?}");
        }
        assert_eq!(check_label_value("{\n\t\"a\": 1\n}"), Ok(()));
        assert!(check_label_value(&"x".repeat(4097)).is_err());
    }

    proptest! {
        #[test]
        fn what_the_pattern_makes_is_a_name(name in "[a-z0-9][a-z0-9_.-]{0,62}") {
            prop_assume!(name != HOST && check_id(&name).is_err());
            prop_assert_eq!(check_container_name(&name), Ok(()));
        }

        #[test]
        fn ids_are_32_lower_hexadecimal_digits(id in "[0-9a-f]{32}", other in "[0-9a-f]{0,31}") {
            prop_assert_eq!(check_id(&id), Ok(()));
            prop_assert!(check_id(&other).is_err());
            let bad = format!("{other}G");
            prop_assert!(check_id(&bad).is_err());
        }

        #[test]
        fn request_ids_are_printable_ascii(id in "[ -~]{1,128}", other in "\\PC*") {
            prop_assert_eq!(check_request_id(&id), Ok(()));
            let good = !other.is_empty() && other.len() <= 128 && other.is_ascii();
            prop_assert_eq!(check_request_id(&other).is_ok(), good);
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = check_container_name(&text);
            let _ = check_label_name(&text);
            let _ = check_label_value(&text);
            let _ = check_id(&text);
        }
    }
}
