//! Root filesystems that are built from programs of the host.
//!
//! - [`elf`]: what a program needs to be loaded; [`loader`]: where its libraries are;
//! - [`collect`]: programs with all that they need;
//! - this file: written into a directory, or as a tar archive.

// Programs of the host are looked for by path. What is found is opened by `open_regular` alone, without a link on
// the way, and read only if it is a regular file.
#[allow(clippy::disallowed_methods)]
pub(in crate::engine) mod collect;
pub(in crate::engine) mod elf;
#[allow(clippy::disallowed_methods)]
pub(in crate::engine) mod loader;

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use collect::{Collected, Entry, Kind};
use conti_runtime::{beneath::Dir, own};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    Engine, bounds, carry,
    error::{Error, Result},
    id,
};

/// What is tried when programs are looked for and read.
const LOOKING: &str = "cannot read the programs of the root filesystem";

/// How much of an archive is sent in one part, in bytes.
const PART: usize = 256 * 1024;

/// A program that was put into a root filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltProgram {
    /// How it was asked for.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The libraries that its loader loads, in the order of their paths.
    pub libraries: Vec<PathBuf>,
}

/// A root filesystem that was built.
#[derive(Debug)]
pub struct Built {
    /// The programs.
    pub programs: Vec<BuiltProgram>,
    /// How many files it has.
    pub files: u64,
    /// What they hold, in bytes.
    pub bytes: u64,
}

/// A tar archive as it is made.
#[derive(Debug)]
pub struct Archive(mpsc::Receiver<io::Result<Bytes>>);

impl Engine {
    /// Builds a root filesystem in a directory of the host, which must be empty or not there.
    pub async fn build_rootfs(&self, programs: Vec<String>, directory: PathBuf) -> Result<Built> {
        let build = bounds::foreign(bounds::COPY, "cannot build a root filesystem", move || {
            let collected = collect::collect(&programs)?;
            write_directory(&collected, &directory).map_err(|error| Error::Refused {
                tried: "cannot build a root filesystem in".to_owned(),
                argument: directory.as_os_str().as_bytes().to_vec(),
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            })?;
            let files = collected.entries.values().filter(|one| matches!(one, Entry::File(..)));
            let bytes = files.clone().filter_map(|one| match one {
                Entry::File(path, ..) => own::symlink_metadata(path).ok().map(|meta| meta.len()),
                _ => None,
            });
            let (files, bytes) = (files.clone().count() as u64, bytes.sum());
            Ok(Built { programs: collected.programs, files, bytes })
        });
        // A thread cannot be stopped: it goes on when the caller has gone.
        carry::change(async { build.await.flatten() }).await
    }

    /// Builds a root filesystem as a tar archive. The same programs give the same archive.
    pub async fn export_rootfs(&self, programs: Vec<String>) -> Result<Archive> {
        // What cannot be found is told before anything else.
        let collect = move || collect::collect(&programs);
        let collected = bounds::foreign(bounds::SOURCES, LOOKING, collect).await.flatten()?;
        let (sender, receiver) = mpsc::channel(4);
        // It ends when the archive does, or when nobody takes that any more.
        let thread = bounds::Thread::free(bounds::SOURCES, LOOKING).await?;
        tokio::task::spawn_blocking(move || {
            let _thread = thread;
            let parts = Parts { sender: sender.clone(), part: Vec::with_capacity(PART) };
            if let Err(error) = write_archive(&collected, parts) {
                // A client that has gone away asks for nothing more.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(Archive(receiver))
    }
}

impl Archive {
    /// The next bytes. `None`: that was all.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let next = timeout(bounds::SOURCES, self.0.recv())
            .await
            .map_err(|_| bounds::silent(LOOKING, bounds::SOURCES))?;
        next.transpose().map_err(|error| Error::Refused {
            tried: "cannot read the files of".to_owned(),
            argument: "the archive".into(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

/// Opens a file that is to be copied, if it still is what it was collected as. Its path had no links in it then.
fn open_source(path: &Path, kind: Kind) -> io::Result<fs::File> {
    use std::os::unix::fs::FileExt as _;
    let file = open_regular(path, ResolveFlags::NO_SYMLINKS)?;
    let mut magic = [0; object::elf::ELFMAG.len()];
    let is_kind = match kind {
        Kind::Any => true,
        Kind::Program => file.metadata()?.permissions().mode() & 0o111 != 0,
        Kind::Elf => file.read_exact_at(&mut magic, 0).is_ok() && magic == object::elf::ELFMAG,
    };
    if is_kind { Ok(file) } else { Err(Errno::NOEXEC.into()) }
}

/// Opens a regular file for reading. Anything else might hold whoever opens it.
fn open_regular(path: &Path, resolve: ResolveFlags) -> io::Result<fs::File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    let file = fs::File::from(openat2(CWD, path, flags, Mode::empty(), resolve)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Writes all entries into a new directory, which gets its name when it is complete.
fn write_directory(collected: &Collected, directory: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // It may be in the hands of a user, who can exchange any of its entries at any moment.
    let parent = Dir::open(parent)?;
    // Told before the work; what is put there meanwhile is met by the rename.
    if parent.dir(name).is_ok_and(|there| matches!(there.is_empty(), Ok(false))) {
        return Err(Errno::NOTEMPTY.into());
    }
    let unfinished = format!("{}.unfinished-{}", name.to_string_lossy(), id::new());
    let root = parent.make_dir(&unfinished, 0o755)?;
    let written = write_entries(collected, &root).and_then(|()| {
        // Takes the place of an empty directory, and of nothing else (rename(2)).
        Ok(parent.rename(&unfinished, &parent, name)?)
    });
    if written.is_err()
        && let Err(error) = parent.remove(&unfinished)
    {
        tracing::warn!(%error, "an unfinished root filesystem could not be removed");
    }
    written
}

fn write_entries(collected: &Collected, root: &Dir) -> io::Result<()> {
    for (path, entry) in &collected.entries {
        let (above, name) = match (path.parent(), path.file_name()) {
            (Some(above), Some(name)) if !above.as_os_str().is_empty() => (above, name),
            (_, Some(name)) => (Path::new("."), name),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let above = root.dir(above)?;
        match entry {
            Entry::Directory(mode) => drop(above.make_dir(name, *mode)?),
            Entry::Link(target) => above.make_link(target, name)?,
            Entry::File(source, mode, kind) => {
                let mut from = open_source(source, *kind)?;
                let mut to = above.make_file(name, 0o600)?;
                io::copy(&mut from, &mut to)?;
                to.set_permissions(fs::Permissions::from_mode(*mode))?;
            }
            Entry::Text(text) => {
                io::Write::write_all(&mut above.make_file(name, 0o644)?, text.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// Writes all entries in the order of their paths, owned by root, without a time.
fn write_archive(collected: &Collected, parts: Parts) -> io::Result<()> {
    let mut archive = tar::Builder::new(parts);
    for (path, entry) in &collected.entries {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        match entry {
            Entry::Directory(mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                archive.append_data(&mut header, path, io::empty())?;
            }
            Entry::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                archive.append_link(&mut header, path, target)?;
            }
            Entry::File(source, mode, kind) => {
                use io::Read as _;
                let file = open_source(source, *kind)?;
                let size = file.metadata()?.len();
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                header.set_size(size);
                // One that is changed meanwhile must not disturb what follows.
                let content = file.take(size).chain(io::repeat(0)).take(size);
                archive.append_data(&mut header, path, content)?;
            }
            Entry::Text(text) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(0o644);
                header.set_size(text.len() as u64);
                archive.append_data(&mut header, path, text.as_bytes())?;
            }
        }
    }
    let mut parts = archive.into_inner()?;
    io::Write::flush(&mut parts)
}

/// Sends what is written, and waits while nobody takes it.
struct Parts {
    sender: mpsc::Sender<io::Result<Bytes>>,
    part: Vec<u8>,
}

impl io::Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART));
        let gone = |_| io::ErrorKind::BrokenPipe.into();
        self.sender.blocking_send(Ok(part.into())).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_exchanged_since_it_was_looked_at_is_not_copied() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = fs::canonicalize(dir.path()).expect("its path");
        let (secret, link, library) = (dir.join("secret"), dir.join("link"), dir.join("library"));
        fs::write(&secret, "root:hash\n").expect("written");
        std::os::unix::fs::symlink(&secret, &link).expect("linked");
        fs::copy(std::env::current_exe().expect("its own program"), &library).expect("copied");
        let opened = |path: &Path, kind| open_source(path, kind).is_ok();
        assert!(opened(&secret, Kind::Any) && !opened(&link, Kind::Any), "a link was followed");
        assert!(opened(&library, Kind::Elf) && opened(&library, Kind::Program));
        assert!(!opened(&secret, Kind::Program), "it may not be executed");
        assert!(!opened(&secret, Kind::Elf), "it is no ELF file");
        fs::write(&library, "").expect("written");
        assert!(!opened(&library, Kind::Elf), "it is empty");
    }
}
