//! The keys that give up a session and leave it running.

use std::str::FromStr;

/// The longest sequence of keys.
const MAX: usize = 16;

/// A sequence of keys. Empty: there is none, and nothing detaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

impl Default for Keys {
    /// ctrl-p ctrl-q.
    fn default() -> Self {
        Keys(vec![0x10, 0x11])
    }
}

impl FromStr for Keys {
    type Err = String;

    /// Understands `ctrl-p,ctrl-q`, also with spaces, single characters and `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "none" {
            return Ok(Keys(Vec::new()));
        }
        let keys: Vec<u8> = text
            .split([',', ' '])
            .filter(|key| !key.is_empty())
            .map(key)
            .collect::<Result<_, _>>()?;
        match keys.len() {
            0 => Err("names no key; write `none` to have none".to_owned()),
            length if length > MAX => Err(format!("has {length} keys, at most {MAX} are allowed")),
            _ => Ok(Keys(keys)),
        }
    }
}

fn key(text: &str) -> Result<u8, String> {
    let wrong = || {
        format!("{text:?} is no key: write ctrl-X with one of a-z @ [ \\ ] ^ _, or one character")
    };
    if let Some(control) = text.strip_prefix("ctrl-") {
        return match control.as_bytes() {
            [c @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
                Ok(c.to_ascii_uppercase() & 0x1f)
            }
            _ => Err(wrong()),
        };
    }
    match text.as_bytes() {
        [c] if c.is_ascii_graphic() => Ok(*c),
        _ => Err(wrong()),
    }
}

/// Finds the keys in what is typed. What may be their beginning is held back until it is known.
#[derive(Debug)]
pub struct Matcher {
    keys: Vec<u8>,
    held: usize,
}

impl Matcher {
    /// Looks for these keys.
    pub fn new(keys: Keys) -> Matcher {
        Matcher { keys: keys.0, held: 0 }
    }

    /// Takes typed bytes. Returns what is to be passed on, and whether the keys were pressed; what
    /// was typed after them is dropped.
    pub fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut passed = Vec::with_capacity(typed.len() + self.held);
        for &byte in typed {
            // What is held back is always a beginning of the keys, so its length says it all.
            let mut window = self.keys[..self.held].to_vec();
            window.push(byte);
            while !self.keys.starts_with(&window) {
                passed.push(window.remove(0));
            }
            self.held = window.len();
            if self.held == self.keys.len() {
                self.held = 0;
                return (passed, true);
            }
        }
        (passed, false)
    }

    /// Whether something is held back.
    pub fn is_holding(&self) -> bool {
        self.held > 0
    }

    /// Gives out what is held back, e.g. because no further key came.
    pub fn release(&mut self) -> Vec<u8> {
        self.keys[..std::mem::take(&mut self.held)].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_written_in_several_ways() {
        for text in ["ctrl-p,ctrl-q", "ctrl-p ctrl-q", "ctrl-p, ctrl-q"] {
            assert_eq!(text.parse(), Ok(Keys::default()), "{text}");
        }
        assert_eq!("a,ctrl-[,ctrl-@".parse(), Ok(Keys(vec![b'a', 0x1b, 0])));
        assert_eq!("none".parse(), Ok(Keys(vec![])));
        for text in ["ctrl-", "ctrl-P", "ctrl-pq", "ab", ",", "ä", "\n"] {
            assert!(text.parse::<Keys>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_first_key_alone_is_passed_on_later() {
        let mut matcher = Matcher::new(Keys::default());
        assert_eq!(matcher.feed(b"a\x10"), (b"a".to_vec(), false));
        assert!(matcher.is_holding());
        assert_eq!(matcher.feed(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(matcher.feed(b"\x10"), (vec![], false));
        assert_eq!(matcher.release(), b"\x10");
        assert_eq!(matcher.feed(b"\x11"), (b"\x11".to_vec(), false));
        assert_eq!(matcher.feed(b"\x10\x10\x11x"), (b"\x10".to_vec(), true));
    }

    proptest! {
        #[test]
        fn keys_are_found_wherever_input_is_cut(
            keys in proptest::collection::vec(0..3u8, 1..5),
            chunks in proptest::collection::vec(proptest::collection::vec(0..3u8, 0..6), 0..20),
        ) {
            let mut matcher = Matcher::new(Keys(keys.clone()));
            let (mut passed, mut found) = (Vec::new(), false);
            for chunk in &chunks {
                let (bytes, pressed) = matcher.feed(chunk);
                passed.extend(bytes);
                if pressed {
                    found = true;
                    break;
                }
            }
            passed.extend(matcher.release());
            let all = chunks.concat();
            let place = all.windows(keys.len()).position(|w| w == keys);
            prop_assert_eq!(found, place.is_some());
            prop_assert_eq!(&passed[..], &all[..place.unwrap_or(all.len())]);
        }
    }
}
