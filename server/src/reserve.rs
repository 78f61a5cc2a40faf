//! Room that is kept on a filesystem for what the agent itself must write there.
//!
//! A container may fill the filesystem on which the agent's records or its audit log lie. Then nobody could stop that
//! container, because that could not be recorded. So the agent holds some room and some inodes: files in a
//! directory of its own, whose blocks are allocated (fallocate(2)). A write that finds no room gives up one of
//! them and is tried again, until it succeeds or none is left. They are made again when there is room.
//!
//! There is one reserve on each filesystem, whoever keeps what there. Room that was given up is there for all: a
//! container that goes on writing takes most of it. That is why it is given up in small parts.

use std::{
    fs::Metadata,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use conti_runtime::{beneath, own};
use rustix::fs::{FallocateFlags, OFlags, StatVfs};
use tracing::{info, warn};

/// Where the files lie, below the directory that they are made for.
const DIR: &str = ".conti-reserve";
/// The room that is kept where nothing else was said, in bytes; no more than 1/100 of the filesystem.
pub const DEFAULT_BYTES: u64 = 8 << 20;
/// How many files the room is divided into: so often a write can find some again.
const PARTS: u64 = 16;
/// What a file takes at least, in bytes, unless it is empty and keeps an inode alone.
const BLOCK: u64 = 4096;

/// The reserves of this process: one for each filesystem.
static RESERVES: Mutex<Vec<Reserve>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Reserve {
    /// The filesystem.
    device: u64,
    dir: PathBuf,
    /// How many files there are to be, and how large each of them.
    parts: u64,
    part_bytes: u64,
    /// Whether some are missing.
    incomplete: bool,
}

/// Keeps room on the filesystem of a directory, of which no agent has another: `bytes`, at most 1/100 of it. What
/// cannot be had now is had later. 0: none.
pub fn keep(dir: &Path, bytes: u64) {
    let files = dir.join(DIR);
    let made = || -> io::Result<Option<Reserve>> {
        let device = own::metadata(dir)?.dev();
        if bytes == 0 || reserves().iter().any(|known| known.device == device) {
            // One that is not kept any more.
            let _ = beneath::remove(&files);
            return Ok(None);
        }
        own::make_own_dir(&files, 0o700)?;
        let (parts, part_bytes) = divided(bytes, &rustix::fs::statvfs(dir)?);
        Ok(Some(Reserve { device, dir: files.clone(), parts, part_bytes, incomplete: true }))
    };
    match made() {
        Ok(None) => {}
        Ok(Some(mut reserve)) => {
            reserve.fill();
            reserves().push(reserve);
        }
        Err(error) => warn!(dir = %dir.display(), %error, "no room can be kept for records"),
    }
}

/// Writes something into a directory, again with room that was kept where there was none.
pub fn with_room<T>(dir: &Path, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match write() {
            Err(error) if is_full(&error) && give_up(dir) => {}
            result => return result,
        }
    }
}

/// Whether an error says that there is no room: on the filesystem, or in a quota.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Makes again what was given up, where there is room.
pub fn refill() {
    for reserve in reserves().iter_mut().filter(|reserve| reserve.incomplete) {
        reserve.fill();
        if !reserve.incomplete {
            info!(dir = %reserve.dir.display(), "the room for records is kept again");
        }
    }
}

fn reserves() -> std::sync::MutexGuard<'static, Vec<Reserve>> {
    RESERVES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives up a part of the reserve on the filesystem of a directory. `false`: there is none left.
fn give_up(dir: &Path) -> bool {
    let Ok(device) = own::metadata(dir).map(|found| found.dev()) else { return false };
    let mut reserves = reserves();
    let Some(reserve) = reserves.iter_mut().find(|known| known.device == device) else {
        return false;
    };
    if !reserve.incomplete {
        warn!(dir = %dir.display(), "the disk is full: room that was kept for records is given up");
    }
    reserve.incomplete = true;
    (0..reserve.parts).any(|part| own::remove_file(reserve.path(part)).is_ok())
}

/// Into how many files, and of what size, so much room is divided on such a filesystem.
fn divided(bytes: u64, found: &StatVfs) -> (u64, u64) {
    let bytes = bytes.min(found.f_blocks.saturating_mul(found.f_frsize) / 100);
    let inodes = match found.f_files {
        // It makes them as they are needed.
        0 => PARTS,
        files => (files / 100).clamp(1, PARTS),
    };
    let part = bytes / inodes / BLOCK * BLOCK;
    if part > 0 {
        (inodes, part)
    } else {
        ((bytes / BLOCK).clamp(1, inodes), BLOCK.min(bytes / BLOCK * BLOCK))
    }
}

impl Reserve {
    fn path(&self, part: u64) -> PathBuf {
        self.dir.join(part.to_string())
    }

    /// Makes the files that are missing, if all that the reserve has fits twice: what is free is for others first.
    fn fill(&mut self) {
        let is_part = |found: Metadata| found.is_file() && found.len() == self.part_bytes;
        let there = |path: &Path| own::symlink_metadata(path).is_ok_and(is_part);
        let missing: Vec<PathBuf> =
            (0..self.parts).map(|part| self.path(part)).filter(|path| !there(path)).collect();
        let wanted = 2 * missing.len() as u64;
        let has_room = rustix::fs::statvfs(&self.dir).is_ok_and(|found| {
            found.f_bfree.saturating_mul(found.f_frsize) >= wanted * self.part_bytes
                && (found.f_files == 0 || found.f_ffree >= wanted)
        });
        self.incomplete =
            !has_room || missing.iter().any(|path| allocate(path, self.part_bytes).is_err());
    }
}

/// Makes a file whose blocks are its own.
fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    // Whatever else is there.
    beneath::remove(path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut file = own::open_with(path, flags, 0o600)?;
    let allocated = match bytes {
        0 => Ok(()),
        bytes => rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes),
    };
    let allocated = match allocated {
        // Filesystems that allocate nothing before it is written.
        Err(rustix::io::Errno::OPNOTSUPP) => file.write_all(&vec![0; bytes as usize]),
        other => other.map_err(io::Error::from),
    };
    if allocated.is_err() {
        // It is one that is missing.
        let _ = own::remove_file(path);
    }
    allocated
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn filesystem(bytes: u64, files: u64) -> StatVfs {
        let mut found = rustix::fs::statvfs("/").unwrap();
        (found.f_frsize, found.f_blocks, found.f_files) = (4096, bytes / 4096, files);
        found
    }

    #[test]
    fn a_reserve_is_small_beside_its_filesystem() {
        const MIB: u64 = 1 << 20;
        for (bytes, files, wanted) in [
            (100 << 30, 1 << 20, (16, MIB / 2)),
            (100 << 30, 0, (16, MIB / 2)),
            (8 * MIB, 2048, (16, 4096)),
            (2 * MIB, 512, (5, 4096)),
            (64 << 10, 1 << 20, (1, 0)),
            (8 * MIB, 50, (1, 81920)),
        ] {
            assert_eq!(
                divided(DEFAULT_BYTES, &filesystem(bytes, files)),
                wanted,
                "{bytes} {files}"
            );
        }
        assert_eq!(divided(64 << 10, &filesystem(100 << 30, 0)), (16, 4096));
    }

    #[test]
    fn what_finds_no_room_is_tried_again_as_long_as_there_is_some_to_give() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path(), 64 << 10);
        let parts = || fs::read_dir(dir.path().join(DIR)).unwrap().count();
        assert_eq!(parts(), 16);
        let mut tries = 0;
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        with_room(dir.path(), || {
            tries += 1;
            if tries <= 3 { Err(full()) } else { Ok(()) }
        })
        .unwrap();
        assert_eq!((tries, parts()), (4, 13));
        refill();
        assert_eq!(parts(), 16, "there is room");
        let never: io::Result<()> = with_room(dir.path(), || Err(full()));
        assert!(is_full(&never.unwrap_err()));
        assert_eq!(parts(), 0);
        let other: io::Result<()> = with_room(dir.path(), || Err(io::ErrorKind::NotFound.into()));
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::NotFound);
        refill();
        // Made anew without one.
        reserves().clear();
        keep(dir.path(), 0);
        assert!(!dir.path().join(DIR).exists());
    }
}
