//! Characters that make a text look like another one, or steer the terminal that shows it; bytes that are no text.

/// Whether a character is not seen, or changes how others are: control characters (C0, DEL, C1), those that
/// set the direction of writing (Unicode Standard Annex 9), those without width, and separators of lines and
/// paragraphs.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Bytes in base64 with padding (RFC 4648), as JSON has them.
pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_told_from_what_is() {
        for c in [0, 9, 0x1b, 0x7f, 0x80, 0x9b, 0x61c, 0x200b, 0x200d, 0x200e, 0x200f, 0x2028] {
            assert!(char::from_u32(c).is_some_and(is_deceptive), "{c:x}");
        }
        for c in [0x2029, 0x202a, 0x202e, 0x2060, 0x2066, 0x2069, 0xfeff] {
            assert!(char::from_u32(c).is_some_and(is_deceptive), "{c:x}");
        }
        assert!(!"aZ ~ä\u{a0}λ中🦀\u{2010}\u{2030}".chars().any(is_deceptive));
    }
}
