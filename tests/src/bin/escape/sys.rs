//! System calls as an attacker makes them: by number, with arguments that no library would allow.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_long},
    io::{Read as _, Write as _},
};

use rustix::io::Errno;

/// An argument of a system call.
pub enum Arg<'a> {
    /// A number, a flag, an fd.
    Number(usize),
    /// Text or a structure that the kernel reads.
    In(&'a [u8]),
    /// Room that the kernel writes to.
    Out(&'a mut [u8]),
}

impl From<usize> for Arg<'_> {
    fn from(number: usize) -> Self {
        Arg::Number(number)
    }
}

impl From<i32> for Arg<'_> {
    fn from(number: i32) -> Self {
        Arg::Number(number as usize)
    }
}

impl<'a> From<&'a CStr> for Arg<'a> {
    fn from(text: &'a CStr) -> Self {
        Arg::In(text.to_bytes_with_nul())
    }
}

impl<'a> From<&'a CString> for Arg<'a> {
    fn from(text: &'a CString) -> Self {
        Arg::In(text.as_bytes_with_nul())
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Arg::In(bytes)
    }
}

impl<'a> From<&'a mut [u8]> for Arg<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Arg::Out(bytes)
    }
}

/// Makes a system call with up to six arguments.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::sys::make($number, &mut [$($crate::sys::Arg::from($argument)),*])
    };
}
pub(crate) use call;

/// Makes a system call: see [`call!`].
pub fn make(number: c_long, arguments: &mut [Arg<'_>]) -> Result<usize, Errno> {
    let mut words = [0usize; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            Arg::Number(number) => *number,
            Arg::In(bytes) => bytes.as_ptr() as usize,
            Arg::Out(bytes) => bytes.as_mut_ptr() as usize,
        };
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: each pointer is of memory that is borrowed for the call, and as long as the callers say beside it.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer >= 0 {
        return Ok(answer as usize);
    }
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Err(Errno::from_raw_os_error(errno))
}

/// Runs an attempt in a child, so that what it changes of itself (its root, namespaces, ids) ends with it. A child
/// that is killed answers with the signal.
pub fn in_child(attempt: impl FnOnce() -> String) -> String {
    let (mut from, mut to) = std::io::pipe().expect("a pipe");
    // SAFETY: this program has a single thread.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        drop(from);
        let _ = to.write_all(attempt().as_bytes());
        exit_now();
    }
    drop(to);
    let mut answer = String::new();
    let _ = from.read_to_string(&mut answer);
    match wait(pid) {
        0 => answer,
        signal => format!("killed-by-{signal}"),
    }
}

/// Waits for a child: the signal that ended it, or 0.
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the status is an int of ours.
    unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
    if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 }
}

/// Makes a child with clone(2) and its flags, which ends at once.
pub fn clone(flags: i32) -> Result<usize, Errno> {
    // SAFETY: without CLONE_VM the child has a copy of this stack; it ends before it touches anything.
    let pid = call!(libc::SYS_clone, (flags | libc::SIGCHLD) as usize, 0, 0, 0, 0)?;
    if pid == 0 {
        exit_now();
    }
    wait(pid as i32);
    Ok(pid)
}

/// Ends this process without any cleaning up.
pub fn exit_now() -> ! {
    // SAFETY: nothing is run any more.
    unsafe { libc::_exit(0) }
}

/// getpid(2) through the gate of 32-bit programs.
#[cfg(target_arch = "x86_64")]
pub fn old_gate() -> i32 {
    let answer: i32;
    // SAFETY: the gate changes the registers that are named here alone.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") 20 => answer,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    answer
}

/// The name of an errno, or its number.
pub fn name(errno: Errno) -> String {
    let known = [
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NXIO, "ENXIO"),
        (Errno::NODEV, "ENODEV"),
        (Errno::ROFS, "EROFS"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::INVAL, "EINVAL"),
        (Errno::BUSY, "EBUSY"),
        (Errno::FAULT, "EFAULT"),
        (Errno::BADF, "EBADF"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::SRCH, "ESRCH"),
        (Errno::NOKEY, "ENOKEY"),
        (Errno::AFNOSUPPORT, "EAFNOSUPPORT"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::STALE, "ESTALE"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::IO, "EIO"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::NOEXEC, "ENOEXEC"),
        (Errno::LOOP, "ELOOP"),
    ];
    let known = known.iter().find(|(e, _)| *e == errno);
    known.map_or_else(|| errno.raw_os_error().to_string(), |(_, name)| (*name).to_owned())
}

/// `ok`, or what the kernel answered.
pub fn told<T>(answer: Result<T, Errno>) -> String {
    answer.map_or_else(name, |_| "ok".to_owned())
}

/// The same for what the standard library gave.
pub fn told_io<T>(answer: std::io::Result<T>) -> String {
    answer.map_or_else(
        |e| {
            e.raw_os_error()
                .map_or_else(|| "error".to_owned(), |n| name(Errno::from_raw_os_error(n)))
        },
        |_| "ok".to_owned(),
    )
}

/// Text for the kernel.
pub fn c(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}
