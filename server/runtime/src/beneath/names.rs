//! The names in a directory, a buffer at a time.

use std::{
    ffi::{CStr, CString},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{FileType, RawDir, SeekFrom, seek},
    io::Errno,
};

/// How much is read at once, in bytes: the names that are held of one directory are bounded by it.
pub(super) const BUFFER: usize = 16 * 1024;

/// A name, and what it probably names: somebody may exchange it meanwhile.
#[derive(Debug)]
pub(super) struct Name {
    pub name: CString,
    pub kind: FileType,
}

/// A reader of names. The place in the directory is the fd's.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Names that were read, the next one last.
    read: Vec<Name>,
    over: bool,
}

impl Names {
    /// The next name but for `.` and `..`. `None`: that was all.
    pub fn next(
        &mut self,
        directory: BorrowedFd<'_>,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Option<Name>, Errno> {
        if self.read.is_empty() && !self.over {
            self.fill(directory, buffer)?;
        }
        Ok(self.read.pop())
    }

    /// Begins again: what was skipped or has come meanwhile is met then.
    pub fn rewind(&mut self, directory: impl AsFd) -> Result<(), Errno> {
        seek(directory, SeekFrom::Start(0))?;
        *self = Names::default();
        Ok(())
    }

    fn fill(
        &mut self,
        directory: BorrowedFd<'_>,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<(), Errno> {
        let mut entries = RawDir::new(directory, buffer);
        loop {
            match entries.next() {
                // Removed while it is read.
                None | Some(Err(Errno::NOENT)) => {
                    self.over = true;
                    return Ok(());
                }
                Some(Ok(entry)) => {
                    let name: &CStr = entry.file_name();
                    if !matches!(name.to_bytes(), b"." | b"..") {
                        self.read.push(Name { name: name.to_owned(), kind: entry.file_type() });
                    }
                    // What was read is used up: more would be another call.
                    if entries.is_buffer_empty() && !self.read.is_empty() {
                        return Ok(());
                    }
                }
                Some(Err(Errno::INTR)) => {}
                Some(Err(errno)) => {
                    self.over = true;
                    return Err(errno);
                }
            }
        }
    }
}
