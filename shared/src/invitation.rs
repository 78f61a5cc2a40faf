//! Invitation codes: one line that lets its holder join an agent once.
//!
//! `conti-` and, in base64url without padding (RFC 4648): a version byte, the SHA-256 fingerprint of the
//! authority's certificate, the invitation's id, its secret, the agent's addresses (each a length byte
//! and its text), and the first four bytes of the SHA-256 of all that, so that a mistyped code is told
//! from a refused one.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};

use crate::endpoint::Place;

/// What every code begins with.
const PREFIX: &str = "conti-";
const VERSION: u8 = 1;
/// How many bytes an invitation's id has.
pub const ID_LEN: usize = 8;
/// How many bytes an invitation's secret has.
pub const SECRET_LEN: usize = 16;
const FINGERPRINT_LEN: usize = 32;
const CHECK_LEN: usize = 4;
/// How many addresses a code can carry.
pub const ADDRESSES_MAX: usize = 4;
/// The longest code that is read.
const CODE_MAX: usize = 4096;

/// The SHA-256 of a certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; FINGERPRINT_LEN]);

impl Fingerprint {
    /// That of a certificate.
    pub fn of(der: &[u8]) -> Fingerprint {
        Fingerprint(sha256(der))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What an invitation code carries.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// By what the agent's authority is known.
    pub authority: Fingerprint,
    /// Which invitation it is.
    pub id: [u8; ID_LEN],
    /// What proves that the holder was invited.
    pub secret: [u8; SECRET_LEN],
    /// Where the agent is, at least one and at most [`ADDRESSES_MAX`].
    pub addresses: Vec<Place>,
}

/// Nothing that shows an invitation shows its secret.
impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invitation { authority, addresses, .. } = self;
        f.debug_struct("Invitation")
            .field("id", &self.id_text())
            .field("authority", authority)
            .field("addresses", addresses)
            .finish_non_exhaustive()
    }
}

impl Invitation {
    /// The id as the API writes it, in hexadecimal.
    pub fn id_text(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Why a text is no invitation code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It does not look like one.
    #[error(
        "this is no invitation code: it must begin with `{PREFIX}`; `contid invite` prints one"
    )]
    NoCode,
    /// It was changed on the way.
    #[error(
        "the invitation code is damaged: a part of it is missing or was changed; copy all of it"
    )]
    Damaged,
    /// It was made by another version.
    #[error("the invitation code is of a newer kind ({0}); this contictl is too old for it")]
    Newer(u8),
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.payload().ok_or(fmt::Error)?;
        let check = sha256(&bytes);
        bytes.extend_from_slice(&check[..CHECK_LEN]);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Invitation {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(CodeError::NoCode)?;
        if encoded.len() > CODE_MAX {
            return Err(CodeError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| CodeError::Damaged)?;
        Invitation::parse(&bytes)
    }
}

impl Invitation {
    /// What a code carries, without its check. `None`: an address is too long for its length byte.
    pub(crate) fn payload(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.authority.0);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.secret);
        for address in self.addresses.iter().take(ADDRESSES_MAX) {
            let text = address.to_string();
            // A name has at most 253 characters; with a port that may be a few too many for a byte.
            bytes.push(u8::try_from(text.len()).ok()?);
            bytes.extend_from_slice(text.as_bytes());
        }
        Some(bytes)
    }

    /// Reads what a code carries, with its check.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, CodeError> {
        let (rest, check) = bytes.split_last_chunk::<CHECK_LEN>().ok_or(CodeError::Damaged)?;
        if sha256(rest)[..CHECK_LEN] != *check {
            return Err(CodeError::Damaged);
        }
        let (&version, rest) = rest.split_first().ok_or(CodeError::Damaged)?;
        if version != VERSION {
            return Err(CodeError::Newer(version));
        }
        let (authority, rest) = rest.split_first_chunk().ok_or(CodeError::Damaged)?;
        let (id, rest) = rest.split_first_chunk().ok_or(CodeError::Damaged)?;
        let (secret, mut rest) = rest.split_first_chunk().ok_or(CodeError::Damaged)?;
        let mut addresses = Vec::new();
        while let Some((&length, after)) = rest.split_first() {
            let (text, after) = after.split_at_checked(length.into()).ok_or(CodeError::Damaged)?;
            let text = str::from_utf8(text).map_err(|_| CodeError::Damaged)?;
            addresses.push(text.parse().map_err(|_| CodeError::Damaged)?);
            rest = after;
        }
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return Err(CodeError::Damaged);
        }
        Ok(Invitation { authority: Fingerprint(*authority), id: *id, secret: *secret, addresses })
    }
}

/// The SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn invitation(hosts: &[&str]) -> Invitation {
        Invitation {
            authority: Fingerprint([7; 32]),
            id: [1; 8],
            secret: [2; 16],
            addresses: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_code_carries_all_of_an_invitation_on_one_line() {
        let invitation = invitation(&["web.example:7443", "[fe80::1]:1", "vsock://3:7443"]);
        let code = invitation.to_string();
        assert!(code.starts_with("conti-") && !code.contains(char::is_whitespace), "{code}");
        assert_eq!(code.parse(), Ok(invitation.clone()));
        assert_eq!(format!(" {code}\n").parse(), Ok(invitation));
    }

    #[test]
    fn a_code_that_was_changed_anywhere_is_told_as_damaged() {
        let code = invitation(&["web:1"]).to_string();
        for at in PREFIX.len()..code.len() {
            let mut changed = code.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(changed.parse::<Invitation>(), Err(CodeError::Damaged), "{changed}");
            assert_eq!(code[..at].parse::<Invitation>(), Err(CodeError::Damaged));
        }
        assert_eq!("web:7443".parse::<Invitation>(), Err(CodeError::NoCode));
    }

    #[test]
    fn nothing_that_is_logged_shows_the_secret() {
        let shown = format!("{:?}", invitation(&["web:1"]));
        assert!(shown.contains("0101010101010101") && !shown.contains("02, 02"), "{shown}");
        assert!(!shown.contains("0202"), "{shown}");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = text.parse::<Invitation>();
            let _ = format!("conti-{text}").parse::<Invitation>();
        }
    }
}
