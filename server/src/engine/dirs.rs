//! The two directories of an agent: taken by one agent at a time, and only where they are Conti's own.
//!
//! An agent locks the directories themselves, so that it is no matter what becomes of the files in them. It holds a lock
//! file in each as well, which is all that agents before that look at, and on filesystems that lock no directories
//! (NFS). And it locks its cgroups, which are named after the path of its state directory: with that one moved away
//! and made anew, the path is still taken.

use std::{
    ffi::OsString,
    fs::{File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use conti_runtime::{host, own};
use rustix::{
    fs::{FlockOperation, flock, major, minor},
    io::Errno,
};

use super::error::{Error, Result};

/// Says that a directory is Conti's own.
const MARKER: &str = ".conti";
/// What stands in it, for people.
const MARK: &str = "This directory belongs to contid, the agent of Conti. It may be removed when no agent uses it.\n";
/// The lock, beside which agents before the marker have made one of these.
const LOCK: &str = "lock";

/// A directory of an agent.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// What lives as long as the host is up.
    State,
    /// What is to last.
    Data,
}

impl Kind {
    fn flag(self) -> &'static str {
        match self {
            Kind::State => "--state-dir",
            Kind::Data => "--data-dir",
        }
    }

    /// The directory that every agent has made there.
    fn layout(self) -> &'static str {
        match self {
            Kind::State => "sessions",
            Kind::Data => "containers",
        }
    }

    /// The directories that may be there before an agent has run: `contid pki init` makes one, the root of a
    /// filesystem has another, and each may lie on a filesystem of its own.
    fn early(self) -> &'static [&'static str] {
        match self {
            Kind::State => &["sessions", "mounts", "lost+found"],
            Kind::Data => &["pki", "containers", "recordings", "host-view", "lost+found"],
        }
    }
}

/// Takes both directories, which must be two: makes them for root alone where they are not there, and holds their
/// locks for as long as the files live.
///
/// # Errors
///
/// A directory that is there and not Conti's own is left as it is, and so is one that another agent uses.
pub fn take(state: &Path, data: &Path) -> Result<Vec<File>> {
    let (mut locks, data_locks) = (take_one(state, Kind::State)?, take_one(data, Kind::Data));
    let id = |dir: &Path| own::metadata(dir).map(|found| (found.dev(), found.ino())).ok();
    if id(state).is_some_and(|found| id(data) == Some(found)) {
        let (flag, path) = (Kind::State.flag(), state.display());
        return Err(refused(Kind::Data, data, &format!("is the same directory as {flag} {path}")));
    }
    locks.extend(data_locks?);
    Ok(locks)
}

/// Locks a directory that only one agent may use. `None`: its filesystem locks no directories.
///
/// # Errors
///
/// Another agent has it, which is named.
pub fn lock(dir: &Path) -> Result<Option<File>> {
    let at = |error: io::Error| Error::Exhausted {
        what: format!("cannot lock the directory {}", dir.display()),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    };
    let file = own::open_dir(dir).map_err(at)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::AGAIN) => Err(taken(dir, &file)),
        Err(_) => Ok(None),
    }
}

/// Another agent holds the lock of a file in a directory, or of the directory.
fn taken(dir: &Path, locked: &File) -> Error {
    let by = holder(locked).map(|by| format!(" ({by})")).unwrap_or_default();
    let dir = dir.display();
    Error::Exhausted {
        what: format!(
            "another agent{by} uses the directory {dir}; stop it, or choose others with --state-dir and --data-dir"
        ),
        errno: libc::EBUSY,
    }
}

/// Who holds the lock of a file, as /proc/locks tells it. `None`: nobody of this pid namespace, or it has another device
/// there than its metadata say.
fn holder(locked: &File) -> Option<String> {
    let found = locked.metadata().ok()?;
    let (major, minor, inode) = (major(found.dev()), minor(found.dev()), found.ino());
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = host::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        // NUMBER: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file.as_str()))
            .then(|| words[4].to_owned())
    })?;
    Some(format!("process {pid}"))
}

fn refused(kind: Kind, dir: &Path, why: &str) -> Error {
    let problem = format!("{} {why}; choose another, an empty or a new one", dir.display());
    Error::Invalid { field: kind.flag().to_owned(), problem }
}

fn take_one(dir: &Path, kind: Kind) -> Result<Vec<File>> {
    let at = |error: io::Error| Error::Exhausted {
        what: format!("cannot use the directory {}", dir.display()),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    };
    own::make_dirs(dir, 0o700).map_err(at)?;
    if let Some(why) = foreign(dir, kind).map_err(at)? {
        return Err(refused(kind, dir, &why));
    }
    let mut locks: Vec<File> = lock(dir)?.into_iter().collect();
    let path = dir.join(LOCK);
    let file = own::create(&path).map_err(|error| match error.raw_os_error() {
        Some(errno) => Error::Exhausted { what: format!("cannot open {}", path.display()), errno },
        None => {
            let problem = format!("cannot be used because of {}: {error}", path.display());
            Error::Invalid { field: kind.flag().to_owned(), problem }
        }
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => locks.push(file),
        Err(Errno::AGAIN) => return Err(taken(dir, &file)),
        Err(errno) => return Err(at(errno.into())),
    }
    own::set_permissions(dir, Permissions::from_mode(0o700)).map_err(at)?;
    // On a full disk it is known by its layout.
    if let Err(error) = mark(dir) {
        tracing::warn!(dir = %dir.display(), %error, "a directory could not be marked as Conti's own");
    }
    Ok(locks)
}

fn mark(dir: &Path) -> io::Result<()> {
    let marker = dir.join(MARKER);
    match own::symlink_metadata(&marker) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => own::write(marker, MARK),
        found => found.map(drop),
    }
}

/// Why a directory is not Conti's own. `None`: it is.
fn foreign(dir: &Path, kind: Kind) -> io::Result<Option<String>> {
    let found = own::metadata(dir)?;
    if !found.is_dir() {
        return Ok(Some("is no directory".to_owned()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Ok(Some(format!("belongs to user {}", found.uid())));
    }
    let is_dir =
        |name: &str| own::symlink_metadata(dir.join(name)).is_ok_and(|found| found.is_dir());
    let is_file =
        |name: &str| own::symlink_metadata(dir.join(name)).is_ok_and(|found| found.is_file());
    // Of an agent from before there was a marker.
    let known = is_file(MARKER) || (is_file(LOCK) && is_dir(kind.layout()));
    if known {
        return Ok(None);
    }
    let other = |name: &OsString| {
        let name = name.to_str().filter(|name| kind.early().contains(name));
        !name.is_some_and(is_dir)
    };
    let mut names = own::read_named_dir(dir)?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let other = names.find(other);
    Ok(other.map(|name| format!("is there already, and is not Conti's own: it has {name:?}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mode(dir: &Path) -> u32 {
        fs::metadata(dir).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (state, data) = (dir.path().join("a/state"), dir.path().join("data"));
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(data.join("letter"), "").unwrap();
        let problem = take(&state, &data).unwrap_err().to_string();
        assert!(problem.starts_with("--data-dir") && problem.contains("letter"), "{problem}");
        assert_eq!(mode(&data), 0o755);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
        fs::remove_file(data.join("letter")).unwrap();
        drop(take(&state, &data).unwrap());
        assert_eq!((mode(&state), mode(&data)), (0o700, 0o700));
        // What is in it by now is its own.
        fs::write(data.join("letter"), "").unwrap();
        drop(take(&state, &data).unwrap());
    }

    #[test]
    fn a_directory_from_before_there_was_a_marker_is_known_by_its_layout() {
        let dir = tempfile::tempdir().unwrap();
        let (state, data) = (dir.path().join("state"), dir.path().join("data"));
        for (dir, layout) in [(&state, "sessions"), (&data, "containers")] {
            fs::create_dir_all(dir.join(layout)).unwrap();
            fs::write(dir.join("lock"), "").unwrap();
            fs::write(dir.join("more"), "").unwrap();
        }
        drop(take(&state, &data).unwrap());
        assert!(data.join(MARKER).is_file());
    }

    #[test]
    fn an_authority_and_filesystems_may_be_there_before_the_agent_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (state, data) = (dir.path().join("state"), dir.path().join("data"));
        for name in ["pki", "lost+found", "recordings"] {
            fs::create_dir_all(data.join(name)).unwrap();
        }
        drop(take(&state, &data).unwrap());
        let (state, data) = (dir.path().join("state2"), dir.path().join("data2"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("pki"), "").unwrap();
        assert!(take(&state, &data).is_err(), "it is no directory");
    }

    #[test]
    fn a_directory_is_taken_whatever_becomes_of_the_files_in_it_and_by_whom_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (state, data) = (dir.path().join("state"), dir.path().join("data"));
        let held = take(&state, &data).unwrap();
        fs::remove_file(state.join(LOCK)).unwrap();
        fs::remove_file(data.join(LOCK)).unwrap();
        for (state, data) in [(&state, &dir.path().join("other")), (&dir.path().join("new"), &data)]
        {
            let problem = take(state, data).unwrap_err().to_string();
            let by = format!("another agent (process {}) uses", std::process::id());
            assert!(problem.contains(&by), "{problem}");
        }
        drop(held);
        take(&state, &data).unwrap();
    }

    #[test]
    fn one_directory_is_not_two() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("both"), &link).unwrap();
        for other in [dir.path().join("both"), link] {
            let problem = take(&dir.path().join("both"), &other).unwrap_err().to_string();
            assert!(problem.contains("the same directory"), "{problem}");
        }
    }
}
