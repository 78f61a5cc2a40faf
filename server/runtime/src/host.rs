//! Files that the kernel shows (/proc, /sys, /dev, cgroups) and that the host has (/etc, its programs). Only root can
//! change what is there.
//!
//! These are the functions of [`std::fs`] of the same names: links are followed, magic ones too, devices are opened, and
//! nothing says how large a file of the kernel is. For the agent's own files: [`crate::own`].

#![allow(
    clippy::disallowed_methods,
    reason = "the one place for what the kernel shows and the host has"
)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    path::Path,
};

/// [`File::open`].
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    File::open(path)
}

/// [`OpenOptions::open`].
pub fn open_with(options: &OpenOptions, path: impl AsRef<Path>) -> io::Result<File> {
    options.open(path)
}

/// [`fs::read`].
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// A file of the kernel's that is a line, or a word, by one read: the kernel writes such a one as a whole. Each call
/// reads some, and [`read`] takes four system calls for it.
pub fn read_line(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    // Longer than any /proc/PID/stat: 52 numbers and a name.
    let mut line = vec![0; 2048];
    let len = File::open(path)?.read(&mut line)?;
    line.truncate(len);
    Ok(line)
}

/// [`fs::read_to_string`].
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    fs::read_to_string(path)
}

/// [`fs::write`], to what is there.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    fs::write(path, bytes)
}

/// [`fs::copy`], of a file of the host to a new one.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<u64> {
    fs::copy(from, to)
}
