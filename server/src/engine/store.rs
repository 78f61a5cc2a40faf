//! Small JSON records on disk: written whole or not at all.

use std::{
    io::{self, Write as _},
    path::Path,
};

use conti_runtime::own;
use rustix::fs::OFlags;
use serde::{Serialize, de::DeserializeOwned};

use crate::reserve;

/// Whether a record must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// File and directory are flushed before the call returns.
    Durable,
    /// The record dies with the boot anyway (a container that removes itself, a session).
    Boot,
}

/// Writes `value` as `name` in `dir`: a reader sees the old record or the new one, never a part. One that is larger than
/// what is read ([`own::READ_MAX`]) is refused: the next agent would not know what it tells.
pub fn write<T: Serialize>(
    dir: &Path,
    name: &str,
    value: &T,
    durability: Durability,
) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    if bytes.len() as u64 > own::READ_MAX {
        let (size, most) = (bytes.len() >> 20, own::READ_MAX >> 20);
        let problem =
            format!("the record {name} would be of {size} MiB, and is read up to {most} MiB");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    write_bytes(dir, name, &bytes, 0o644, durability)
}

/// As [`write()`], for bytes, with a mode of the file. On a full disk it takes of the room that is kept for that.
pub fn write_bytes(
    dir: &Path,
    name: &str,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    reserve::with_room(dir, || replace(dir, name, bytes, mode, durability))
}

fn replace(
    dir: &Path,
    name: &str,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    // One that was left behind may have another mode.
    match own::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file = own::open_with(&temporary, flags, mode)?;
    let written = file.write_all(bytes).and_then(|()| match durability {
        Durability::Durable => file.sync_all(),
        Durability::Boot => Ok(()),
    });
    if let Err(error) = written.and_then(|()| own::rename(&temporary, dir.join(name))) {
        // What is half written must not take the room of what comes next.
        let _ = own::remove_file(&temporary);
        return Err(error);
    }
    if durability == Durability::Durable {
        own::open_dir(dir)?.sync_all()?;
    }
    Ok(())
}

/// Reads a record. What is no regular file, is larger than [`own::READ_MAX`] or does not parse is an error.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    parse(&own::read(path)?)
}

/// The record that a file holds.
pub(super) fn parse<T: DeserializeOwned>(content: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(content)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_truncated_record_is_an_error_at_every_length() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write(dir.path(), "r.json", &vec!["a", "b"], Durability::Durable).expect("written");
        let path = dir.path().join("r.json");
        let whole = fs::read(&path).expect("read back");
        assert_eq!(read::<Vec<String>>(&path).expect("parsed"), ["a", "b"]);
        for len in 0..whole.len() - 2 {
            fs::write(&path, &whole[..len]).expect("cut");
            assert!(read::<Vec<String>>(&path).is_err(), "cut to {len} bytes");
        }
    }

    #[test]
    fn a_record_that_could_not_be_read_is_not_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let value = |len: usize| "x".repeat(len);
        // Two quotes and the end of the line.
        let most = usize::try_from(own::READ_MAX).expect("a length") - 3;
        write(dir.path(), "r.json", &value(most), Durability::Boot).expect("written");
        let error = write(dir.path(), "r.json", &value(most + 1), Durability::Boot);
        assert_eq!(error.expect_err("too large").kind(), io::ErrorKind::FileTooLarge);
        let left: String = read(&dir.path().join("r.json")).expect("that of before");
        assert_eq!(left.len(), most);
    }

    #[test]
    fn a_record_that_is_nested_without_end_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("r.json");
        for open in ["[", "{\"a\":"] {
            fs::write(&path, open.repeat(100_000)).expect("written");
            assert!(read::<Vec<String>>(&path).is_err());
            assert!(read::<serde_json::Value>(&path).is_err());
        }
    }
}
