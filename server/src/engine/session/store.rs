//! The directory of a session: its record, its monitor's socket, and what the monitor leaves.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use conti_runtime::{
    beneath, fault,
    journal::Saved,
    own,
    plan::Confinement,
    protocol::{End, ProcessId},
};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{
        recording::{Wanted, tape},
        spec::{ContainerSpec, SessionIo},
        store,
        surroundings::Surroundings,
    },
    reserve,
};

/// The monitor's listening socket, in the session's directory.
pub const SOCKET: &str = "monitor.sock";
/// The end, written by the monitor.
pub const END: &str = "end.json";
/// What was written and not read by then, written by the monitor.
pub const JOURNAL: &str = "journal";
const RECORD: &str = "session.json";
/// What the name of a directory ends with once its removal has begun.
const REMOVED: &str = "removed";
/// What those outside the engine must know of it after a restart.
const NOTE: &str = "note";
/// Says that a client has left it running.
const LEFT: &str = "left";

/// What a session was started as.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its container.
    pub container: Option<ContainerRef>,
    /// The labels of its container, which it may outlive.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whoever started it, or made the container that it is the main process of, by the name of its identity: it may
    /// end it. `None`: it is not known.
    #[serde(default)]
    pub maker: Option<String>,
    /// Whether it is the main process of that container.
    pub main: bool,
    /// How its command is confined in fact, whatever was asked for, and what the kernel adds to its badness. `None`:
    /// it is not known.
    #[serde(default)]
    pub confinement: Option<(Confinement, Option<i32>)>,
    /// What it could reach beside that when it was started; [`Session::surroundings`] has what came since.
    ///
    /// [`Session::surroundings`]: super::Session::surroundings
    #[serde(default)]
    pub surroundings: Surroundings,
    /// Whether it has a directory of the host as its tools, which an admin alone may lend: nobody else may have what
    /// it reaches.
    #[serde(default)]
    pub host_tools: bool,
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// How it is talked to.
    pub io: SessionIo,
    /// When it was started.
    pub start_time: SystemTime,
    /// The id of the request that started it, among those of all clients.
    pub request_id: Option<String>,
    /// The digest of that request.
    #[serde(default)]
    pub request_digest: Option<String>,
    /// Whether a client was to drive it from its start.
    pub streamed: bool,
    /// Its monitor. `None`: it is not known.
    #[serde(default)]
    pub monitor: Option<ProcessId>,
    /// The name of the cgroups of its container. `None`: it has none, or it is not known.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// Whether it stands in for a record that cannot be read.
    #[serde(skip)]
    pub unknown: bool,
}

impl Record {
    /// That of a session whose own cannot be read: nothing is known but what lies in its directory.
    pub fn unknown(dir: &Path) -> Record {
        let start_time = own::metadata(dir).and_then(|found| found.modified());
        let ContainerSpec { mut io, .. } = ContainerSpec::unknown();
        io.policy.record = tape::is_begun(dir).then_some(Wanted::DEFAULT);
        Record {
            id: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            container: None,
            labels: BTreeMap::new(),
            maker: None,
            main: false,
            confinement: None,
            surroundings: None,
            argv: Vec::new(),
            io,
            start_time: start_time.unwrap_or(SystemTime::UNIX_EPOCH),
            request_id: None,
            request_digest: None,
            host_tools: true,
            streamed: false,
            monitor: None,
            cgroup: None,
            unknown: true,
        }
    }

    /// Writes it in the place of the one before. One that cannot be read stays.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        if self.unknown {
            return Ok(());
        }
        store::write(dir, RECORD, self, store::Durability::Boot)
    }
}

/// A container, for people and for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// Makes the directory of a session below `sessions`, with its record.
pub fn create(sessions: &Path, record: &Record) -> io::Result<PathBuf> {
    let dir = sessions.join(&record.id);
    reserve::with_room(sessions, || own::make_dir(&dir, 0o700))?;
    if let Err(error) = record.write(&dir) {
        remove(&dir);
        return Err(error);
    }
    Ok(dir)
}

/// Reads the record of a session.
pub fn read(dir: &Path) -> io::Result<Record> {
    let record: Record = store::read(&dir.join(RECORD))?;
    match dir.file_name().is_some_and(|name| name == record.id.as_str()) {
        true => Ok(record),
        false => {
            let problem = format!("the record is that of session {:?}", record.id);
            Err(io::Error::new(io::ErrorKind::InvalidData, problem))
        }
    }
}

/// Whether something was left of a session in its directory that somebody may ask for.
pub fn tells_something(dir: &Path) -> bool {
    [RECORD, END, NOTE].iter().any(|name| own::symlink_metadata(dir.join(name)).is_ok())
}

/// Reads the end that a monitor left.
pub fn read_end(dir: &Path) -> io::Result<End> {
    store::read(&dir.join(END))
}

/// Reads the output that a monitor left. `None`: nothing was left unread.
pub fn read_journal(dir: &Path) -> Option<Saved> {
    let mut file = own::open(dir.join(JOURNAL)).ok()?;
    Saved::load(&mut file).ok()
}

/// Leaves a note, for its owner only. One that is there stays.
pub fn leave_note(dir: &Path, note: &[u8]) -> io::Result<()> {
    if own::symlink_metadata(dir.join(NOTE)).is_ok() {
        return Ok(());
    }
    store::write_bytes(dir, NOTE, note, 0o600, store::Durability::Boot)
}

/// Reads the note. `None`: there is none.
pub fn read_note(dir: &Path) -> Option<Vec<u8>> {
    own::read(dir.join(NOTE)).ok()
}

/// Removes the note. Where the directory is gone it is gone too.
pub fn remove_note(dir: &Path) {
    let _ = own::remove_file(dir.join(NOTE));
}

/// Notes that a client has left it running.
pub fn leave_running(dir: &Path) -> io::Result<()> {
    store::write_bytes(dir, LEFT, b"", 0o600, store::Durability::Boot)
}

/// Whether a client has left it running.
pub fn is_left_running(dir: &Path) -> bool {
    own::exists(dir.join(LEFT))
}

/// Removes the directory. It has another name before anything of it goes: what is left of it, if the agent ends
/// meanwhile, is not taken for a session that has lost its record or its socket.
pub fn remove(dir: &Path) {
    let removed = dir.with_extension(REMOVED);
    let dir = match own::rename(dir, &removed) {
        Ok(()) => &removed,
        Err(_) => dir,
    };
    fault::stop("session.remove");
    finish_removal(dir);
}

/// Removes what is left of a directory whose removal has begun.
pub fn finish_removal(dir: &Path) {
    if let Err(error) = beneath::remove(dir) {
        tracing::warn!(%error, "a session's directory could not be removed");
    }
}

/// Whether the removal of a directory has begun.
pub fn is_being_removed(dir: &Path) -> bool {
    dir.extension().is_some_and(|extension| extension == REMOVED)
}
