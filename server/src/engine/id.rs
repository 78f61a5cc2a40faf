//! Ids: 128 random bits as 32 hexadecimal digits.

use std::fmt::Write as _;

/// How many characters an id has.
pub const LENGTH: usize = 32;

/// How many characters of an id stand for all of it, at least.
pub const PREFIX_MIN: usize = 4;

/// Whether a text has the form of an id.
pub fn is_one(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Makes a new id.
pub fn new() -> String {
    let mut text = String::with_capacity(LENGTH);
    for byte in rand::random::<[u8; 16]>() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_by_its_form() {
        assert!(is_one(&new()));
        for other in ["", "c", &"A".repeat(32), &"a".repeat(33)] {
            assert!(!is_one(other), "{other}");
        }
    }
}
