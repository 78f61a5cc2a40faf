//! Memory that is shared with another process.
//!
//! The other side may write at any moment, so no reference to the bytes is ever made: words are
//! atomics, bytes are copied by value or by the kernel. What was copied may be torn; the journal tells
//! so by reading its tail again afterwards.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    ptr,
    ptr::NonNull,
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
};

use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
};

/// A part of a mapping: where it begins and how long it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// How many.
    pub len: usize,
}

/// A shared, writable mapping of a file from its beginning.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this object alone and is bound to no thread; munmap may be called
// from any.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` words are reached as atomics and bytes by raw copies only, never by
// reference. Which bytes may be written when is agreed by the journal's atomics; a torn copy is noticed
// and thrown away, and any bytes are a valid `[u8]`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes. The file must be at least so long and sealed against shrinking: access beyond
    /// its end would raise SIGBUS.
    pub fn new(file: impl AsFd, len: usize) -> io::Result<Mapping> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint lets the kernel choose free addresses, so that no mapping is replaced.
        let address = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, file, 0) }?;
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping { address, len };
        mapping.keep_from_children()?;
        Ok(mapping)
    }

    /// As [`Mapping::new`], of memory that no file stands for. Children of this process share it.
    fn anonymous(len: usize) -> Result<Mapping, Errno> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint lets the kernel choose free addresses, so that no mapping is replaced.
        let address = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, MapFlags::SHARED) }?;
        let address = NonNull::new(address.cast()).ok_or(Errno::NOMEM)?;
        Ok(Mapping { address, len })
    }

    /// Has children of this process not get the mapping: one that is traced by others gives nothing away.
    fn keep_from_children(&self) -> Result<(), Errno> {
        // SAFETY: address and length are those of the mapping. LINUX_DONT_FORK changes nothing in this
        // process; a child has no object that would reach what it lacks, because it becomes another
        // program or ends without looking at it.
        unsafe { madvise(self.address.as_ptr().cast(), self.len, Advice::LinuxDontFork) }
    }

    /// The word at `offset`, a multiple of 8.
    ///
    /// # Panics
    ///
    /// Where it does not lie inside. Offsets come from a layout that was checked when it was mapped.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.len && self.len - offset >= 8);
        // SAFETY: the word lies inside the mapping and is aligned (a mapping begins at a page), both
        // checked above. All access to words, here and on the other side, is atomic.
        unsafe { AtomicU64::from_ptr(self.address.as_ptr().add(offset).cast()) }
    }

    /// Appends the bytes of a span to a buffer.
    ///
    /// # Panics
    ///
    /// As [`Mapping::word`].
    pub fn append_to(&self, span: Span, buffer: &mut Vec<u8>) {
        self.check(span);
        buffer.reserve(span.len);
        // SAFETY: the source lies inside the mapping (checked above); the buffer has room for as much
        // (reserved above); they cannot overlap, because the mapping is no memory of the allocator; the
        // new length covers what was just written.
        unsafe {
            let end = buffer.as_mut_ptr().add(buffer.len());
            ptr::copy_nonoverlapping(self.address.as_ptr().add(span.start), end, span.len);
            buffer.set_len(buffer.len() + span.len);
        }
    }

    /// Copies bytes in, as many as both sides have.
    ///
    /// # Panics
    ///
    /// As [`Mapping::word`].
    pub fn copy_from(&self, span: Span, bytes: &[u8]) -> usize {
        self.check(span);
        let len = span.len.min(bytes.len());
        // SAFETY: the target lies inside the mapping (checked above), the source is `len` bytes or more
        // long; they cannot overlap, because no slice of the mapping is ever made.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.as_ptr().add(span.start), len);
        }
        len
    }

    /// readv(2) into two spans.
    ///
    /// # Panics
    ///
    /// As [`Mapping::word`].
    pub fn read_from(&self, file: impl AsFd, spans: [Span; 2]) -> io::Result<usize> {
        let vectors = spans.map(|span| self.vector(span));
        // SAFETY: both vectors lie inside the mapping, which lives through the call.
        let n = unsafe { libc::readv(file.as_fd().as_raw_fd(), vectors.as_ptr(), 2) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// writev(2) out of two spans.
    ///
    /// # Panics
    ///
    /// As [`Mapping::word`].
    pub fn write_to(&self, file: impl AsFd, spans: [Span; 2]) -> io::Result<usize> {
        let vectors = spans.map(|span| self.vector(span));
        // SAFETY: both vectors lie inside the mapping, which lives through the call.
        let n = unsafe { libc::writev(file.as_fd().as_raw_fd(), vectors.as_ptr(), 2) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn vector(&self, span: Span) -> libc::iovec {
        self.check(span);
        // SAFETY: the span lies inside the mapping, as was just checked.
        let base = unsafe { self.address.as_ptr().add(span.start) };
        libc::iovec { iov_base: base.cast(), iov_len: span.len }
    }

    fn check(&self, span: Span) {
        assert!(span.start <= self.len && span.len <= self.len - span.start);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping; no reference into it outlives `self`.
        // A failure would leave it mapped, which harms nothing.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.len) };
    }
}

/// What a stage ([`crate::init`]) tells the process that made it: the pid of what it has cloned, or which step
/// failed. It is memory and no pipe, because the clone, which others may trace, must not have it.
#[derive(Debug)]
pub struct StageReport(Mapping);

/// How many numbers a report has: the pid, and the step, item and errno of a failure.
const REPORT_NUMBERS: usize = 4;

impl StageReport {
    /// An empty one, shared with the children that this process makes from now on.
    pub fn new() -> Result<StageReport, Errno> {
        Mapping::anonymous(REPORT_NUMBERS * size_of::<i32>()).map(StageReport)
    }

    /// Has children that are made from now on not share it.
    pub fn keep_from_children(&self) -> Result<(), Errno> {
        self.0.keep_from_children()
    }

    /// Reports a failed step.
    pub fn fail(&self, numbers: [i32; 3]) {
        for (index, number) in numbers.into_iter().enumerate() {
            self.number(index + 1).store(number, Ordering::Release);
        }
    }

    /// Reports the pid of a clone, where the kernel did not ([`super::clone::OnlyThread::clone_sibling`]).
    pub fn born(&self, pid: i32) {
        self.number(0).store(pid, Ordering::Release);
    }

    /// The pid of the clone; `None` where nothing was cloned.
    pub fn pid(&self) -> Option<i32> {
        Some(self.number(0).load(Ordering::Acquire)).filter(|pid| *pid > 0)
    }

    /// What [`StageReport::fail`] reported; zeros where it was not called.
    pub fn failure(&self) -> [i32; 3] {
        [1, 2, 3].map(|index| self.number(index).load(Ordering::Acquire))
    }

    /// Where the kernel stores the pid.
    pub(super) fn pid_address(&self) -> *mut libc::pid_t {
        self.number(0).as_ptr()
    }

    fn number(&self, index: usize) -> &AtomicI32 {
        assert!(index < REPORT_NUMBERS);
        // SAFETY: the number lies inside the mapping (checked above) and is aligned, because a mapping
        // begins at a page. All access to it, here and in the children, is atomic, but for the kernel's
        // one store of a pid.
        unsafe { AtomicI32::from_ptr(self.0.address.as_ptr().cast::<i32>().add(index)) }
    }
}
