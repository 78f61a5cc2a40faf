//! The files of a target: one directory, or the content of one file.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags, openat, readlinkat, statx},
    io::Errno,
};

use super::{
    answers::Answers,
    process::Pinned,
    question::{Answer, Entry, Failure},
    viewer::Viewer,
};
use crate::protocol::ProcessId;

/// How much of a file travels in one answer.
const CHUNK: usize = 32 * 1024;

/// Answers [`super::question::Question::List`].
pub fn list(of: ProcessId, path: &[u8], answers: &mut Answers<'_>) -> Result<(), Failure> {
    let pinned = Pinned::same(of)?;
    let mut viewer = Viewer::of(&pinned)?;
    let found = viewer.find(path)?;
    let viewer = &viewer;
    let refused = |tried| move |errno| viewer.refused(tried, path, errno);
    let about = look_at(&found, c"").map_err(refused("cannot look at"))?;
    if kind(&about) != FileType::Directory {
        answers.add(&Answer::Entry(entry(path.to_owned(), &about, &found, c"")))?;
        return pinned.still_there();
    }
    let directory = open_directory(&found, c".").map_err(refused("cannot read"))?;
    let entries = Dir::read_from(&directory).map_err(refused("cannot read"))?;
    for one in entries {
        let one = one.map_err(refused("cannot read"))?;
        let name = one.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match look_at(&directory, name) {
            Ok(about) => {
                let entry = entry(name.to_bytes().to_owned(), &about, &directory, name);
                answers.add(&Answer::Entry(entry))?;
            }
            // Gone meanwhile.
            Err(Errno::NOENT) => {}
            // A mount that has lost its server, and the like: the others are told all the same.
            Err(_) => {
                let entry = Entry { name: name.to_bytes().to_owned(), ..Entry::default() };
                answers.add(&Answer::Entry(entry))?;
            }
        }
    }
    pinned.still_there()
}

/// Answers [`super::question::Question::Read`].
pub fn read(
    of: ProcessId,
    path: &[u8],
    offset: u64,
    limit: u64,
    answers: &mut Answers<'_>,
) -> Result<(), Failure> {
    let pinned = Pinned::same(of)?;
    let mut viewer = Viewer::of(&pinned)?;
    let found = viewer.find(path)?;
    let viewer = &viewer;
    let refused = |tried| move |errno| viewer.refused(tried, path, errno);
    let about = look_at(&found, c"").map_err(refused("cannot look at"))?;
    match kind(&about) {
        FileType::RegularFile => {}
        FileType::Directory => {
            return Err(Failure::unfit("cannot read a directory as a file:", path));
        }
        _ => return Err(Failure::unfit("not a regular file, and so not opened:", path)),
    }
    answers.add(&Answer::File { size: about.stx_size })?;
    // The file that was looked at, whatever has its name by now. This /proc is the launcher's.
    let name = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = without_trace(CWD, &name, OFlags::NONBLOCK | OFlags::NOCTTY);
    let file = File::from(file.map_err(refused("cannot open"))?);
    let (mut at, end) = (offset, offset.saturating_add(limit));
    let mut buffer = vec![0; CHUNK];
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        match file.read_at(&mut buffer[..most], at) {
            Ok(0) => break,
            Ok(length) => {
                answers.add(&Answer::Data(buffer[..length].to_owned()))?;
                at += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Err(viewer.refused("cannot read", path, errno));
            }
        }
    }
    pinned.still_there()
}

/// Opens a directory for reading, without a trace of it.
pub(super) fn open_directory(at: impl AsFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    without_trace(at, name, OFlags::DIRECTORY | OFlags::NOFOLLOW)
}

/// Opens a file for reading. The time of access stays as it is, but for files of owners whom the target's
/// user namespace does not know: that is for those alone who have rights over them (open(2), O_NOATIME).
fn without_trace(
    at: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    more: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | more;
    match openat(&at, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(&at, name, flags, Mode::empty()),
        other => other,
    }
}

/// What the kernel says of a file; an empty name stands for the fd itself.
pub(super) fn look_at(at: impl AsFd, name: &std::ffi::CStr) -> Result<Statx, Errno> {
    // What is mounted on demand stays unmounted.
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(at, name, flags, StatxFlags::BASIC_STATS)
}

pub(super) fn kind(about: &Statx) -> FileType {
    FileType::from_raw_mode(about.stx_mode.into())
}

fn entry(name: Vec<u8>, about: &Statx, at: impl AsFd, link: &std::ffi::CStr) -> Entry {
    let target = match kind(about) {
        FileType::Symlink => readlinkat(at, link, Vec::new()).map(|text| text.into_bytes()),
        _ => Ok(Vec::new()),
    };
    Entry {
        name,
        mode: about.stx_mode,
        links: about.stx_nlink,
        uid: about.stx_uid,
        gid: about.stx_gid,
        size: about.stx_size,
        allocated: about.stx_blocks.saturating_mul(512),
        modified: (about.stx_mtime.tv_sec, about.stx_mtime.tv_nsec),
        inode: about.stx_ino,
        target: target.unwrap_or_default(),
        device: (about.stx_rdev_major, about.stx_rdev_minor),
    }
}
