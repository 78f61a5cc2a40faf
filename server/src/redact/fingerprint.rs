//! A hash in the place of arguments.

use std::fmt::Write as _;

use ring::hmac;

use super::argv;

/// Shows of a command its program alone, and a hash of its arguments.
///
/// The hash is HMAC-SHA256 with a random key of this agent. A plain hash of `mysql -pMonday1` is undone by
/// hashing what people choose as passwords; with a key only its holder can check a guess. Equal commands
/// have equal hashes as long as the key is kept.
#[derive(Debug, Clone)]
pub struct Fingerprint(hmac::Key);

impl Fingerprint {
    /// The length of a key, in bytes.
    pub const KEY_LEN: usize = 32;

    /// Hashes with this key.
    pub fn new(key: &[u8; Self::KEY_LEN]) -> Fingerprint {
        Fingerprint(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The program, without what looks like a secret, and `hmac-sha256:` with the hash of all arguments, the
    /// program's name among them. Each argument is hashed with its length before it (8 bytes, little endian).
    pub fn argv(&self, words: &[String]) -> Vec<String> {
        let Some(program) = words.first() else { return Vec::new() };
        let mut context = hmac::Context::with_key(&self.0);
        for word in words {
            context.update(&(word.len() as u64).to_le_bytes());
            context.update(word.as_bytes());
        }
        let mut hash = "hmac-sha256:".to_owned();
        for byte in context.sign().as_ref() {
            // A String takes all that is written.
            let _ = write!(hash, "{byte:02x}");
        }
        argv(std::slice::from_ref(program)).into_iter().chain([hash]).collect()
    }
}

/// How arguments are shown.
#[derive(Debug, Clone, Copy)]
pub enum Arguments<'a> {
    /// Without what looks like a secret.
    Redacted,
    /// As a hash.
    Hashed(&'a Fingerprint),
}

impl Arguments<'_> {
    /// The arguments of a command as they may be logged.
    pub fn shown(self, words: &[String]) -> Vec<String> {
        match self {
            Arguments::Redacted => argv(words),
            Arguments::Hashed(fingerprint) => fingerprint.argv(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn equal_commands_have_equal_hashes_and_others_have_others() {
        let (one, other) = (Fingerprint::new(&[1; 32]), Fingerprint::new(&[2; 32]));
        let shown = one.argv(&words(&["mysql", "-phunter2", "db"]));
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[0], "mysql");
        assert_eq!(shown[1].len(), "hmac-sha256:".len() + 64);
        assert_eq!(shown, one.argv(&words(&["mysql", "-phunter2", "db"])));
        assert_ne!(shown, other.argv(&words(&["mysql", "-phunter2", "db"])));
        // Where one argument ends and the next begins counts.
        let cut = |a: &str, b: &str| one.argv(&words(&["x", a, b]));
        assert_ne!(cut("ab", "c"), cut("a", "bc"));
        assert!(one.argv(&[]).is_empty());
    }
}
