//! The key with which arguments are hashed, for policies that want no more of them in the log.

use std::{io, path::Path};

use conti_runtime::own;
use tracing::warn;

use crate::{
    engine::store::{self, Durability},
    redact::Fingerprint,
};

/// Its file, in the data directory: raw bytes.
const NAME: &str = "audit.key";

/// The key of this agent, from its data directory; it is made where it is not there. One that cannot be kept
/// is good until the agent ends.
pub fn of(data_dir: &Path) -> Fingerprint {
    let key = load(data_dir).unwrap_or_else(|error| {
        let path = data_dir.join(NAME);
        warn!(path = %path.display(), %error, "arguments will be hashed with another key at each start");
        rand::random()
    });
    Fingerprint::new(&key)
}

fn load(data_dir: &Path) -> io::Result<[u8; Fingerprint::KEY_LEN]> {
    match own::read(data_dir.join(NAME)) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, "it does not have the length of a key")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key: [u8; Fingerprint::KEY_LEN] = rand::random();
            store::write_bytes(data_dir, NAME, &key, 0o600, Durability::Durable)?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let words = ["x".to_owned(), "y".to_owned()];
        let first = of(dir.path()).argv(&words);
        assert_eq!(of(dir.path()).argv(&words), first);
        fs::write(dir.path().join(NAME), "short").unwrap();
        assert_ne!(of(dir.path()).argv(&words), first);
        assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), b"short");
    }
}
