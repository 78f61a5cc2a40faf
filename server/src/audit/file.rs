//! The file of the log: lines are added to it, never in part; when it is full it gets a number and a new
//! one begins.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use conti_runtime::own;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The size at which a file is full, in bytes.
    pub max_bytes: u64,
    /// How many full files are kept.
    pub keep: usize,
}

/// The file that is written to.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    limits: Limits,
    dir: File,
    file: File,
    len: u64,
    /// A part of a line stands at the end and could not be taken back.
    torn: bool,
}

impl LogFile {
    /// Opens a log, and makes it with its directory where it is not there. A line that a crash left half
    /// written is ended, so that the next one is whole.
    pub fn open(path: &Path, limits: Limits) -> io::Result<LogFile> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        own::make_dirs(parent, 0o700)?;
        let dir = own::open_dir(parent)?;
        let file = open(path)?;
        let len = file.metadata()?.len();
        let mut last = [b'\n'];
        if len > 0 {
            file.read_exact_at(&mut last, len - 1)?;
        }
        dir.sync_all()?;
        Ok(LogFile { path: path.to_owned(), limits, dir, file, len, torn: last != *b"\n" })
    }

    /// Adds whole lines. Where that fails, none of them stands in the file.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.len > 0 && self.len + lines.len() as u64 > self.limits.max_bytes {
            self.rotate()?;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
            self.len += 1;
            self.torn = false;
        }
        let mut written = 0;
        while written < lines.len() {
            match self.file.write(&lines[written..]) {
                Ok(0) => return Err(self.take_back(written, io::ErrorKind::WriteZero.into())),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.take_back(written, error)),
            }
        }
        self.len += written as u64;
        Ok(())
    }

    /// Has what was written on disk.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether somebody has moved the file away or removed it.
    pub fn is_gone(&self) -> bool {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        match (own::symlink_metadata(&self.path).map(id), self.file.metadata().map(id)) {
            (Ok(there), Ok(ours)) => there != ours,
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    fn take_back(&mut self, written: usize, error: io::Error) -> io::Error {
        if written > 0 && self.file.set_len(self.len).is_err() {
            self.len += written as u64;
            self.torn = true;
        }
        error
    }

    /// Gives the full file the next number and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        // What has a number is complete, on disk too.
        self.file.sync_data()?;
        let numbers = self.numbers();
        let next = numbers.last().map_or(1, |last| last + 1);
        let from = self.path.file_name().unwrap_or_default();
        let to = self.numbered(next);
        rustix::fs::renameat_with(&self.dir, from, &self.dir, &to, RenameFlags::NOREPLACE)?;
        self.file = match open(&self.path) {
            Ok(file) => file,
            Err(error) => {
                // It goes on being the one that is written to, until there is room for another.
                rustix::fs::renameat_with(&self.dir, &to, &self.dir, from, RenameFlags::NOREPLACE)?;
                return Err(error);
            }
        };
        self.len = self.file.metadata()?.len();
        self.torn = false;
        let spare = (numbers.len() + 1).saturating_sub(self.limits.keep);
        for number in numbers.into_iter().chain([next]).take(spare) {
            let name = self.numbered(number);
            if let Err(error) = own::remove_file(self.path.with_file_name(&name)) {
                tracing::warn!(file = ?name, %error, "a full audit log could not be removed");
            }
        }
        self.dir.sync_all()
    }

    /// `audit.jsonl.000007`: with the zeros they stand in order in every listing.
    fn numbered(&self, number: u64) -> OsString {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{number:06}"));
        name
    }

    fn numbers(&self) -> Vec<u64> {
        let own = self.path.file_name().unwrap_or_default();
        let number = |name: &OsStr| {
            name.to_str()?.strip_prefix(own.to_str()?)?.strip_prefix('.')?.parse().ok()
        };
        let parent = self.path.parent().unwrap_or(Path::new("."));
        let entries = own::read_named_dir(parent).into_iter().flatten().flatten();
        let mut numbers: Vec<u64> =
            entries.filter_map(|entry| number(&entry.file_name())).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// Opens the file itself, for its owner and this agent only.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
    let file = own::open_with(path, flags, 0o600)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN) => {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another agent writes to it"));
        }
        // Where there are no locks there is but one agent.
        Err(Errno::OPNOTSUPP | Errno::NOLCK) | Ok(()) => {}
        Err(errno) => return Err(errno.into()),
    }
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const SMALL: Limits = Limits { max_bytes: 100, keep: 3 };

    #[test]
    fn full_files_get_numbers_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit/log");
        let mut log = LogFile::open(&path, SMALL).unwrap();
        for n in 0..60 {
            log.append(format!("{n:019}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join("audit").join(name)).unwrap();
        let all: String = ["log.000009", "log.000010", "log.000011", "log"].map(read).concat();
        let wanted: String = (40..60).map(|n| format!("{n:019}\n")).collect();
        assert_eq!(all, wanted);
        assert_eq!(fs::read_dir(dir.path().join("audit")).unwrap().count(), 4);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(mode(&dir.path().join("audit/log.000009")), 0o600);
    }

    #[test]
    fn two_agents_do_not_write_to_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let first = LogFile::open(&path, SMALL).unwrap();
        let problem = LogFile::open(&path, SMALL).unwrap_err().to_string();
        assert!(problem.contains("another agent"), "{problem}");
        drop(first);
        LogFile::open(&path, SMALL).unwrap();
    }

    #[test]
    fn a_line_that_a_crash_cut_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "whole\nhal").unwrap();
        LogFile::open(&path, SMALL).unwrap().append(b"next\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nhal\nnext\n");
    }

    #[test]
    fn what_is_no_file_of_its_own_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (link, fifo) = (dir.path().join("link"), dir.path().join("fifo"));
        std::os::unix::fs::symlink(dir.path().join("else"), &link).unwrap();
        assert!(LogFile::open(&link, SMALL).is_err());
        assert!(!dir.path().join("else").exists());
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(LogFile::open(&fifo, SMALL).is_err());
        assert!(LogFile::open(dir.path(), SMALL).is_err());
    }
}
