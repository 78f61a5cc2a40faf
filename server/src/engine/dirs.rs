//! The two directories of an agent: taken by one agent at a time, and only where they are Conti's own.

use std::{
    ffi::OsString,
    fs::{File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use conti_runtime::own;

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
pub fn take(state: &Path, data: &Path) -> Result<[File; 2]> {
    let (state_lock, data_lock) = (take_one(state, Kind::State)?, take_one(data, Kind::Data));
    let id = |dir: &Path| own::metadata(dir).map(|found| (found.dev(), found.ino())).ok();
    if id(state).is_some_and(|found| id(data) == Some(found)) {
        let (flag, path) = (Kind::State.flag(), state.display());
        return Err(refused(Kind::Data, data, &format!("is the same directory as {flag} {path}")));
    }
    Ok([state_lock, data_lock?])
}

fn refused(kind: Kind, dir: &Path, why: &str) -> Error {
    let problem = format!("{} {why}; choose another, an empty or a new one", dir.display());
    Error::Invalid { field: kind.flag().to_owned(), problem }
}

fn take_one(dir: &Path, kind: Kind) -> Result<File> {
    let at = |error: io::Error| Error::Exhausted {
        what: format!("cannot use the directory {}", dir.display()),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    };
    own::make_dirs(dir, 0o700).map_err(at)?;
    if let Some(why) = foreign(dir, kind).map_err(at)? {
        return Err(refused(kind, dir, &why));
    }
    let path = dir.join(LOCK);
    let lock = own::create(&path).map_err(|error| match error.raw_os_error() {
        Some(errno) => Error::Exhausted { what: format!("cannot open {}", path.display()), errno },
        None => {
            let problem = format!("cannot be used because of {}: {error}", path.display());
            Error::Invalid { field: kind.flag().to_owned(), problem }
        }
    })?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::AGAIN) => {
            return Err(Error::Exhausted {
                what: format!(
                    "another agent uses the directory {}; stop it, or choose others with --state-dir and --data-dir",
                    dir.display()
                ),
                errno: libc::EBUSY,
            });
        }
        Err(errno) => return Err(at(errno.into())),
    }
    own::set_permissions(dir, Permissions::from_mode(0o700)).map_err(at)?;
    // On a full disk it is known by its layout.
    if let Err(error) = mark(dir) {
        tracing::warn!(dir = %dir.display(), %error, "a directory could not be marked as Conti's own");
    }
    Ok(lock)
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
    let mut names = own::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.file_name()));
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
