//! Recordings of sessions: what was to be seen on their terminals, or what their pipes carried.
//!
//! ```text
//!   DATA/recordings/ID.json     what was recorded: session, container, command without secrets
//!   DATA/recordings/ID.cast     a terminal: asciicast v2
//!   DATA/recordings/ID.frames   pipes: see `frames`
//! ```
//!
//! - [`cast`], [`frames`]: the two formats; [`part`]: what stands in them;
//! - [`tape`]: a file that is being written, and where an agent that was started again goes on;
//! - [`Recordings`]: those that are there.
//!
//! A recording is complete: the journal does not give room free before the recorder has written what was
//! in it, so that a recorded session waits for the disk as it waits for its client. Where the disk takes no more
//! the session goes on, and a mark stands in the place of what is missing.
//!
//! Recordings do not go with their container: one who may remove it must not remove what they did. The
//! newest are kept, the oldest go, but for those that are still being written.

pub mod cast;
pub mod frames;
pub mod part;
pub mod tape;

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use conti_runtime::{fault, own, plan::Confinement};
use conti_shared::name;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::{
    session::store::{ContainerRef, Record},
    spec::TerminalSize,
    store::{self, Durability},
    surroundings::Surroundings,
};
use crate::redact;

/// How many recordings are kept.
const KEPT: usize = 200;

/// How a session is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Whether its input is recorded too.
    pub input: bool,
    /// How large the recording may become, in bytes.
    pub max_bytes: u64,
}

impl Wanted {
    /// Where nothing else was said: output alone, 256 MiB of it.
    pub const DEFAULT: Wanted = Wanted { input: false, max_bytes: 256 << 20 };
}

/// How a recording is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// asciicast v2.
    Cast,
    /// Frames.
    Frames,
}

impl Format {
    const ALL: [Format; 2] = [Format::Cast, Format::Frames];

    fn extension(self) -> &'static str {
        match self {
            Format::Cast => "cast",
            Format::Frames => "frames",
        }
    }
}

/// What was recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The id of the session.
    pub session: String,
    /// Its container.
    pub container: Option<ContainerRef>,
    /// The labels of that container.
    pub labels: BTreeMap<String, String>,
    /// How the session was confined, as in its record.
    #[serde(default)]
    pub confinement: Option<(Confinement, Option<i32>)>,
    /// What it could reach beside that. `None`: it is not known.
    #[serde(default)]
    pub surroundings: Surroundings,
    /// The command and its arguments, without what looks like a secret.
    pub argv: Vec<String>,
    /// The terminal's size at the start.
    pub terminal: Option<TerminalSize>,
    /// When the session was started.
    pub start_time: SystemTime,
    /// How it is written.
    pub format: Format,
}

impl About {
    /// What is known of a session that is to be started.
    pub fn new(record: &Record) -> About {
        let terminal = record.io.terminal;
        About {
            session: record.id.clone(),
            confinement: record.confinement,
            surroundings: record.surroundings.clone(),
            container: record.container.clone(),
            labels: record.labels.clone(),
            argv: redact::argv(&record.argv),
            terminal,
            start_time: record.start_time,
            format: if terminal.is_some() { Format::Cast } else { Format::Frames },
        }
    }
}

/// A recording that is there.
#[derive(Debug, Clone)]
pub struct Found {
    /// What was recorded.
    pub about: About,
    /// Its size, in bytes.
    pub size: u64,
}

/// The directory of recordings.
#[derive(Debug, Clone)]
pub struct Recordings {
    dir: PathBuf,
    /// Held while one is begun and the oldest make room for it, and while what is known of one changes.
    beginning: Arc<Mutex<()>>,
    /// Who may read them all.
    listing: Arc<Semaphore>,
}

impl Recordings {
    /// Those of a directory.
    pub fn new(dir: PathBuf) -> Recordings {
        Recordings { dir, beginning: Arc::default(), listing: Arc::new(Semaphore::new(1)) }
    }

    /// Begins one, for its owner only. The oldest make room.
    fn create(&self, about: &About) -> io::Result<File> {
        let _turn = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        self.prune(KEPT - 1);
        fault::point("recording.pruned");
        let path = self.path(about);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = own::open_with(&path, flags, 0o600)?;
        hold(&file);
        let name = about_name(&about.session);
        if let Err(error) = store::write(&self.dir, &name, about, Durability::Boot) {
            let _ = own::remove_file(&path);
            return Err(error);
        }
        Ok(file)
    }

    /// Opens one, to go on with it.
    fn reopen(&self, session: &str) -> io::Result<(About, File)> {
        let about: About = store::read(&self.dir.join(about_name(session)))?;
        let file = own::open_with(self.path(&about), OFlags::WRONLY, 0)?;
        hold(&file);
        Ok((about, file))
    }

    /// Removes one of a session that never came to be.
    pub fn remove(&self, session: &str) {
        for name in [about_name(session), format!("{session}.cast"), format!("{session}.frames")] {
            match own::remove_file(self.dir.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!(file = name, %error, "a recording could not be removed");
                }
                _ => {}
            }
        }
    }

    /// Waits for the turn to read them all: one at a time, so that however many ask, one processor at most is busy with
    /// what others made. `None`: never.
    pub async fn turn_to_list(&self) -> Option<OwnedSemaphorePermit> {
        self.listing.clone().acquire_owned().await.ok()
    }

    /// All that are there, the oldest first. What cannot be read is left out. It blocks: each has a file.
    pub fn list(&self) -> Vec<Found> {
        let entries = own::read_dir(&self.dir).into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| {
            entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned)
        });
        let mut all: Vec<Found> = ids.filter_map(|id| self.find(&id).ok()).collect();
        all.sort_by(|a, b| {
            (a.about.start_time, &a.about.session).cmp(&(b.about.start_time, &b.about.session))
        });
        all
    }

    /// Finds one, by the whole id of its session.
    pub fn find(&self, session: &str) -> io::Result<Found> {
        // It becomes a part of a path.
        if name::check_id(session).is_err() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let about: About = store::read(&self.dir.join(about_name(session)))?;
        let size = own::metadata(self.path(&about))?.len();
        Ok(Found { about, size })
    }

    /// Notes what a session can reach that is recorded.
    pub fn set_surroundings(&self, session: &str, surroundings: Surroundings) -> io::Result<()> {
        let _turn = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        let about = About { surroundings, ..self.find(session)?.about };
        store::write(&self.dir, &about_name(session), &about, Durability::Boot)
    }

    /// Opens one for reading.
    pub fn open(&self, found: &Found) -> io::Result<File> {
        own::open(self.path(&found.about))
    }

    fn path(&self, about: &About) -> PathBuf {
        self.dir.join(Path::new(&about.session).with_extension(about.format.extension()))
    }

    fn prune(&self, keep: usize) {
        let entries = own::read_dir(&self.dir).into_iter().flatten().flatten();
        let ages = entries.filter_map(|entry| {
            let name = entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned)?;
            let written =
                self.files(&name).iter().find_map(|file| own::metadata(file).ok()?.modified().ok());
            Some((written.or_else(|| entry.metadata().ok()?.modified().ok())?, name))
        });
        let mut ages: Vec<(SystemTime, String)> = ages.collect();
        let beyond = ages.len().saturating_sub(keep);
        if beyond > 0 {
            ages.sort();
            // A session may be silent for days: its recording is old then, and not over.
            for (_, session) in ages.iter().filter(|(_, name)| !self.is_held(name)).take(beyond) {
                self.remove(session);
            }
        }
    }

    /// The files that a recording may be in.
    fn files(&self, session: &str) -> [PathBuf; 2] {
        Format::ALL.map(|format| self.dir.join(session).with_extension(format.extension()))
    }

    /// Whether a recording is still being written.
    fn is_held(&self, session: &str) -> bool {
        self.files(session).iter().any(|path| {
            let locked = own::open(path).map(|file| file.try_lock());
            matches!(locked, Ok(Err(TryLockError::WouldBlock)))
        })
    }
}

/// Marks a recording as one that is being written, until its file is closed. Where the filesystem has no
/// locks its age alone counts.
fn hold(file: &File) {
    let _ = file.try_lock();
}

fn about_name(session: &str) -> String {
    format!("{session}.json")
}
