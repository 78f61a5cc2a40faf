//! What a monitor leaves in the session's directory, for an agent that comes after it.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, OFlags, renameat, unlinkat},
    io::Errno,
};

use crate::{
    journal::{Saved, Writer},
    own,
    protocol::End,
};

/// The name of the file with the [`End`] as JSON.
pub const END_FILE: &str = "end.json";
/// The name of the file with what the journal retains ([`Saved`]); absent where that is nothing.
pub const JOURNAL_FILE: &str = "journal";

/// Writes both. The end comes last: where it is, the journal is whole.
///
/// Nothing is flushed: a session dies with the boot, and short of that the page cache survives
/// whoever is killed.
pub fn write(directory: &OwnedFd, end: &End, journal: &Writer) -> io::Result<()> {
    if journal.head() > journal.tail() {
        replace(directory, JOURNAL_FILE, |file| Saved::save(journal, file))?;
    }
    let content = serde_json::to_vec(end)?;
    replace(directory, END_FILE, |file| file.write_all(&content))
}

/// Writes a file so that under its name there is all of it or nothing.
fn replace(
    directory: &OwnedFd,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let unfinished = format!("{name}.new");
    // Whatever was left there.
    match unlinkat(directory, &unfinished, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file = own::open_at(directory, &unfinished, flags, 0o600)?;
    write(&mut file)?;
    Ok(renameat(directory, &unfinished, directory, name)?)
}
