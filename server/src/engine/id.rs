//! Ids: 128 random bits as 32 hexadecimal digits.

use std::fmt::Write as _;

/// Makes a new id.
pub fn new() -> String {
    let mut text = String::with_capacity(32);
    for byte in rand::random::<[u8; 16]>() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
