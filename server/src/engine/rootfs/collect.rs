//! What a root filesystem is made of: programs of the host with all that they need.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::ResolveFlags;

use super::{
    BuiltProgram,
    elf::{self, Elf},
    loader::{Loader, Missing},
};
use crate::engine::{
    error::{Error, Result},
    sources::host_view::{DIRECTORIES, GROUP, NSSWITCH, PASSWD},
};

/// Where programs are looked for by name.
const PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Terminals that people have, and where their descriptions are.
const TERMINALS: [&str; 11] = [
    "ansi",
    "dumb",
    "linux",
    "screen",
    "screen-256color",
    "tmux",
    "tmux-256color",
    "vt100",
    "vt220",
    "xterm",
    "xterm-256color",
];
const TERMINFO: [&str; 3] = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"];
/// What the C library loads by name while a program runs, before glibc 2.34 for files too.
const NAME_SERVICES: [&str; 2] = ["libnss_files.so.2", "libnss_dns.so.2"];
/// How many links a path may lead over, as in the kernel.
const LINKS_MAX: usize = 40;
/// How long the first line of a script may be, as in the kernel.
const SCRIPT_LINE: usize = 256;
/// How many scripts may be the interpreters of one another, as in the kernel.
const SCRIPTS_MAX: usize = 5;

/// An entry of a root filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory and its permissions.
    Directory(u32),
    /// A symbolic link and what it holds.
    Link(OsString),
    /// A copy of a file of the host, and its permissions.
    File(PathBuf, u32, Kind),
    /// A file with a text of its own.
    Text(&'static str),
}

/// What a file must be when it is copied: it was that when it was looked at, by its path, and whoever owns a part of
/// the path may have put another one there since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Any regular file.
    Any,
    /// One that may be executed, as it is asked for by a name.
    Program,
    /// One that other programs load.
    Elf,
}

/// A root filesystem before it is written: entries by their paths below `/`, parents first.
#[derive(Debug, Default)]
pub struct Collected {
    /// The entries.
    pub entries: BTreeMap<PathBuf, Entry>,
    /// The programs that were asked for.
    pub programs: Vec<BuiltProgram>,
}

/// Collects programs, given by name or absolute path, with all that they need.
pub fn collect(programs: &[String]) -> Result<Collected> {
    let mut found = Collected::default();
    for (name, mode) in DIRECTORIES {
        found.entries.insert(name.into(), Entry::Directory(mode));
    }
    for (name, text) in [("passwd", PASSWD), ("group", GROUP), ("nsswitch.conf", NSSWITCH)] {
        found.entries.insert(Path::new("etc").join(name), Entry::Text(text));
    }
    let loader = Loader::of_host();
    for name in programs {
        let path = locate(name)?;
        let mut libraries = Vec::new();
        found.add_program(&path, &loader, &mut libraries, 0)?;
        libraries.sort();
        libraries.dedup();
        found.programs.push(BuiltProgram { name: name.clone(), path, libraries });
    }
    for (directory, terminal) in TERMINFO.iter().flat_map(|dir| TERMINALS.map(|name| (dir, name))) {
        let path = Path::new(directory).join(&terminal[..1]).join(terminal);
        if path.exists() {
            found.add_file(&path, Kind::Any)?;
        }
    }
    // Where libraries lie in other directories than the loader's own, this is how it finds them.
    let cache = Path::new("/etc/ld.so.cache");
    if cache.exists() && found.programs.iter().any(|program| !program.libraries.is_empty()) {
        found.add_file(cache, Kind::Any)?;
    }
    Ok(found)
}

/// The path of a program.
fn locate(name: &str) -> Result<PathBuf> {
    let is_program = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let candidates: Vec<PathBuf> = match name.starts_with('/') {
        true => vec![name.into()],
        false => PATH.iter().map(|dir| Path::new(dir).join(name)).collect(),
    };
    candidates.into_iter().find(|path| is_program(path)).ok_or_else(|| Error::Refused {
        tried: "cannot find the program".to_owned(),
        argument: name.into(),
        errno: libc::ENOENT,
    })
}

fn refused(tried: &str, path: &Path, error: &io::Error) -> Error {
    Error::Refused {
        tried: tried.to_owned(),
        argument: path.as_os_str().as_bytes().to_vec(),
        errno: error.raw_os_error().unwrap_or(libc::EINVAL),
    }
}

impl Collected {
    /// Adds a program, its loader and libraries; for a script its interpreter.
    fn add_program(
        &mut self,
        path: &Path,
        loader: &Loader,
        libraries: &mut Vec<PathBuf>,
        scripts: usize,
    ) -> Result<()> {
        self.add_file(path, Kind::Program)?;
        let unreadable = |error| refused("cannot read the program", path, &error);
        if let Some(elf) = elf::read(path).map_err(unreadable)? {
            return self.add_needed(path, &elf, loader, libraries);
        }
        for interpreter in interpreters(path).map_err(unreadable)? {
            if scripts >= SCRIPTS_MAX {
                return Err(refused(
                    "too many scripts lead to",
                    path,
                    &io::Error::from_raw_os_error(libc::ELOOP),
                ));
            }
            let interpreter = locate(&interpreter)?;
            self.add_program(&interpreter, loader, libraries, scripts + 1)?;
        }
        Ok(())
    }

    fn add_needed(
        &mut self,
        path: &Path,
        elf: &Elf,
        loader: &Loader,
        libraries: &mut Vec<PathBuf>,
    ) -> Result<()> {
        if let Some(interpreter) = &elf.interpreter {
            let interpreter = Path::new("/").join(interpreter);
            is_interpreter(&interpreter, elf).map_err(|error| {
                let tried =
                    format!("no ELF interpreter, but {} names it as its own:", path.display());
                refused(&tried, &interpreter, &error)
            })?;
            self.add_file(&interpreter, Kind::Elf)?;
        }
        let needed =
            loader.libraries(path, elf).map_err(|Missing { library, by }| Error::Refused {
                tried: format!("cannot find a library that {} needs:", by.display()),
                argument: library.into(),
                errno: libc::ENOENT,
            })?;
        let is_glibc = elf.needed.iter().any(|name| name.starts_with("libc.so."));
        let services = NAME_SERVICES.iter().filter(|_| is_glibc);
        let services = services.filter_map(|name| loader.optional(name, elf));
        for library in services.collect::<Vec<_>>() {
            self.add_file(&library, Kind::Elf)?;
        }
        for library in needed {
            self.add_file(&library, Kind::Elf)?;
            libraries.push(library);
        }
        Ok(())
    }

    /// Adds an entry. It must be what it was when it was met before: a link in the place of a directory would
    /// lead what is written below it out of the root filesystem.
    fn add(&mut self, path: PathBuf, entry: Entry) -> io::Result<()> {
        match self.entries.get(&path) {
            None => {
                self.entries.insert(path, entry);
                Ok(())
            }
            Some(before) if *before == entry => Ok(()),
            Some(_) => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
        }
    }

    /// Adds a file of the host with every directory and link that leads to it.
    fn add_file(&mut self, path: &Path, kind: Kind) -> Result<()> {
        let failed = |error| refused("cannot copy", path, &error);
        let too_many = || failed(io::Error::from_raw_os_error(libc::ELOOP));
        let mut links = 0;
        // What is still to be walked, the next part last.
        let mut rest: Vec<OsString> = parts(path);
        let mut at = PathBuf::from("/");
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            at.push(&part);
            let meta = fs::symlink_metadata(&at).map_err(failed)?;
            let below = at.strip_prefix("/").unwrap_or(&at).to_owned();
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_symlink() {
                links += 1;
                if links > LINKS_MAX {
                    return Err(too_many());
                }
                let target = fs::read_link(&at).map_err(failed)?;
                self.add(below, Entry::Link(target.clone().into())).map_err(failed)?;
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest.extend(parts(&target));
            } else if meta.is_dir() {
                // A directory of the root filesystem's own has its own permissions.
                if !matches!(self.entries.get(&below), Some(Entry::Directory(_))) {
                    self.add(below, Entry::Directory(mode)).map_err(failed)?;
                }
            } else if meta.is_file() && rest.is_empty() {
                // A library may be a program that was asked for, too: what asks for more counts.
                let mut stricter = kind;
                if let Some(Entry::File(_, _, known)) = self.entries.get_mut(&below) {
                    *known = kind.max(*known);
                    stricter = *known;
                }
                self.add(below, Entry::File(at.clone(), mode, stricter)).map_err(failed)?;
            } else {
                return Err(failed(io::Error::from_raw_os_error(libc::ENOTDIR)));
            }
        }
        Ok(())
    }
}

/// Whether a file is what the kernel would take as the interpreter of a program: whoever makes a program can name
/// any file there, and what is named is copied with the rights of the agent.
fn is_interpreter(path: &Path, of: &Elf) -> io::Result<()> {
    match elf::read(path)? {
        Some(found) if found.loadable && found.machine == of.machine => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ELIBBAD)),
    }
}

/// The parts of a path, the first last.
fn parts(path: &Path) -> Vec<OsString> {
    let normal = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut all: Vec<OsString> = normal.collect();
    all.reverse();
    all
}

/// The programs in the first line of a script; with env(1) the one that it starts too.
fn interpreters(path: &Path) -> io::Result<Vec<String>> {
    use std::io::Read as _;
    let mut line = Vec::new();
    super::open_regular(path, ResolveFlags::empty())?
        .take(SCRIPT_LINE as u64)
        .read_to_end(&mut line)?;
    Ok(interpreters_in(&line))
}

pub(in crate::engine) fn interpreters_in(script: &[u8]) -> Vec<String> {
    let Some(line) = script.strip_prefix(b"#!") else { return Vec::new() };
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    let line = String::from_utf8_lossy(&line[..end]).into_owned();
    let mut words = line.split_whitespace().map(str::to_owned);
    let Some(first) = words.next() else { return Vec::new() };
    let is_env = Path::new(&first).file_name().is_some_and(|name| name == "env");
    let takes_next = |word: &str| matches!(word, "-u" | "--unset" | "-C" | "--chdir");
    let mut started = None;
    while let Some(word) = words.next().filter(|_| started.is_none()) {
        if takes_next(&word) {
            words.next();
        } else if !word.starts_with('-') && !word.contains('=') {
            started = Some(word);
        }
    }
    std::iter::once(first).chain(started.filter(|_| is_env)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_names_its_interpreters() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("script");
        for (text, wanted) in [
            ("#!/bin/sh\necho", vec!["/bin/sh"]),
            ("#! /bin/sh -e", vec!["/bin/sh"]),
            ("#!/usr/bin/env python3\n", vec!["/usr/bin/env", "python3"]),
            ("#!/usr/bin/env -S A=b python3 -u\n", vec!["/usr/bin/env", "python3"]),
            ("#!/usr/bin/env -S -u A python3\n", vec!["/usr/bin/env", "python3"]),
            ("#!/usr/bin/python3 -E\n", vec!["/usr/bin/python3"]),
            ("#!\n", vec![]),
            ("", vec![]),
            ("text", vec![]),
        ] {
            fs::write(&path, text).expect("written");
            assert_eq!(interpreters(&path).expect("read"), wanted, "{text:?}");
        }
    }

    #[test]
    fn links_on_the_way_are_entries_too() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dir = fs::canonicalize(dir.path()).expect("its path");
        fs::create_dir(dir.join("real")).expect("made");
        fs::write(dir.join("real/file"), "x").expect("written");
        std::os::unix::fs::symlink("real", dir.join("link")).expect("linked");
        std::os::unix::fs::symlink("../link/file", dir.join("real/again")).expect("linked");
        let mut found = Collected::default();
        found.add_file(&dir.join("link/again"), Kind::Any).expect("added");
        let entry = |name: &str| {
            found.entries.get(dir.strip_prefix("/").expect("absolute").join(name).as_path())
        };
        assert_eq!(entry("link"), Some(&Entry::Link("real".into())));
        assert_eq!(entry("real/again"), Some(&Entry::Link("../link/file".into())));
        assert!(matches!(entry("real/file"), Some(Entry::File(..))));
        std::os::unix::fs::symlink("circle", dir.join("circle")).expect("linked");
        found.add_file(&dir.join("circle"), Kind::Any).expect_err("it has no end");
    }
}
