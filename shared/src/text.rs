//! Characters that make a text look like another one, or steer the terminal that shows it; bytes that are no text.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character is not seen, or changes how others are:
///
/// - control characters (C0, DEL, C1), and separators of lines and paragraphs;
/// - those that are not drawn by default (`Default_Ignorable_Code_Point` of the Unicode Character Database):
///   among them are all without width, those that set the direction of writing (Unicode Standard Annex 9), tags,
///   and those that choose the shape of the character before them;
/// - what encloses annotations.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// JSON with such characters escaped, which it may always be: to programs it says the same. Newlines
/// stand only between values.
pub fn json(text: &str) -> Cow<'_, str> {
    let escaped = |c: char| c != '\n' && is_deceptive(c);
    if !text.contains(escaped) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if !escaped(c) {
            plain.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // A String takes all that is written.
            let _ = write!(plain, "\\u{unit:04x}");
        }
    }
    Cow::Owned(plain)
}

/// Bytes that may not be UTF-8, as text: those that are not are written `\xHH`, as lsns(8) and findmnt(8) do, and a
/// backslash is always written twice, as ls -b does. So no two names look the same, and all others stay as they are.
pub fn bytes(bytes: &[u8]) -> String {
    bytes
        .utf8_chunks()
        .flat_map(|chunk| {
            let bad = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
            std::iter::once(chunk.valid().replace('\\', "\\\\")).chain(bad)
        })
        .collect()
}

/// Bytes that may not be UTF-8, in quotes: as Rust quotes a string, and what is no text as [`bytes`] has it.
pub fn quoted(bytes: &[u8]) -> String {
    let mut shown = String::from('"');
    for chunk in bytes.utf8_chunks() {
        let quoted = format!("{:?}", chunk.valid());
        shown.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
        shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    shown.push('"');
    shown
}

/// Bytes in base64 with padding (RFC 4648), as JSON has them.
pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_text_is_written_in_hexadecimal_digits() {
        assert_eq!(bytes(b"a\xff\xfeb\xc3\xa4"), "a\\xff\\xfeb\u{e4}");
        assert_eq!(bytes(br"a\xff\n"), r"a\\xff\\n");
    }

    #[test]
    fn what_is_quoted_is_escaped_once() {
        assert_eq!(quoted(b"a\xff\n\"b"), r#""a\xff\n\"b""#);
        assert_eq!(quoted(br"a\xff"), r#""a\\xff""#);
        assert_eq!(quoted("\u{202e}ä".as_bytes()), r#""\u{202e}ä""#);
    }

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

    #[test]
    fn what_is_never_drawn_is_not_seen_either() {
        for c in [0xad, 0x34f, 0x115f, 0x1160, 0x17b4, 0x180b, 0x180e, 0x2061, 0x2064, 0x206a] {
            assert!(char::from_u32(c).is_some_and(is_deceptive), "{c:x}");
        }
        for c in [0x206f, 0x3164, 0xfe00, 0xfe0f, 0xffa0, 0xfff9, 0xfffb, 0x1bca0, 0x1d173] {
            assert!(char::from_u32(c).is_some_and(is_deceptive), "{c:x}");
        }
        for c in [0xe0001, 0xe0041, 0xe007f, 0xe0100, 0xe01ef] {
            assert!(char::from_u32(c).is_some_and(is_deceptive), "{c:x}");
        }
        assert!(!"\u{ac}\u{ae}\u{350}\u{2070}\u{3163}\u{fffc}\u{fffd}".chars().any(is_deceptive));
    }

    #[test]
    fn json_is_escaped_in_units_of_utf_16() {
        assert_eq!(json("\"a\u{202e}\u{9b}b\"\n"), "\"a\\u202e\\u009bb\"\n");
        assert_eq!(json("\"\u{e0041}\""), "\"\\udb40\\udc41\"");
        assert!(matches!(json("\"ä中🦀\"\n"), Cow::Borrowed(_)));
    }

    /// The name that is shown so.
    fn named(mut shown: &str) -> Vec<u8> {
        let mut name = Vec::new();
        while let Some(c) = shown.chars().next() {
            let length = match shown.get(..2) {
                Some(r"\x") => {
                    name.push(u8::from_str_radix(&shown[2..4], 16).unwrap());
                    4
                }
                Some(r"\\") => {
                    name.push(b'\\');
                    2
                }
                _ => {
                    name.extend(c.to_string().bytes());
                    c.len_utf8()
                }
            };
            shown = &shown[length..];
        }
        name
    }

    proptest! {
        #[test]
        fn no_two_names_look_the_same(
            name in prop::collection::vec(prop::sample::select(b"\\x0af\xc3\xa4\xff".to_vec()), 0..12),
        ) {
            prop_assert_eq!(named(&bytes(&name)), name);
        }
    }
}
