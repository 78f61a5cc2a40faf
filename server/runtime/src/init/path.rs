//! Paths inside a root filesystem that is not trusted.
//!
//! Every lookup starts at the root's fd and is done by openat2 with RESOLVE_IN_ROOT: whatever links a
//! hostile filesystem holds, or puts in place meanwhile, a lookup ends inside it or fails. What is
//! found is used by its fd, never by its name again.

use std::{
    collections::VecDeque,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat},
    io::Errno,
};

/// As many links as the kernel follows in one path.
const MAX_LINKS: u32 = 40;
/// How often a lookup is repeated that a rename has disturbed (EAGAIN), or a part that was made is
/// looked up again: far more than chance needs, and an end where somebody does it on purpose.
const MAX_TRIES: u32 = 128;

/// What is made where a path is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory.
    Dir,
    /// An empty file.
    File,
}

/// Opens a path inside `root`; links are followed inside it, but for the magic ones of /proc.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_TRIES {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => continue,
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// An O_PATH fd of what a path inside `root` leads to. Its missing parts are made first: directories
/// with mode 0755, and at its end what `kind` says. `..` is refused; links may hold it.
pub(super) fn open_or_create(
    root: BorrowedFd<'_>,
    path: &str,
    kind: Kind,
) -> Result<OwnedFd, Errno> {
    if path.split('/').any(|part| part == "..") {
        return Err(Errno::INVAL);
    }
    match open_in(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => create(root, path, kind),
        other => other,
    }
}

/// An O_PATH fd of what has a name in a directory inside `root`: also where that is a link, which is not followed.
/// What is missing is made, the file itself empty.
pub(super) fn open_name_or_create(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let (directory, name) = path.rsplit_once('/').ok_or(Errno::INVAL)?;
    if matches!(name, "" | "." | "..") {
        return Err(Errno::INVAL);
    }
    let directory = open_or_create(root, &format!("/{directory}"), Kind::Dir)?;
    // Nobody can make it lead elsewhere: a single name has no way on, and no link is followed.
    let open = || open_in(directory.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW);
    match open() {
        Err(Errno::NOENT) => make(directory.as_fd(), name, Kind::File).and_then(|()| open()),
        found => found,
    }
}

/// Walks a path part by part, so that a link that leads to nothing yet has its target made inside
/// the root as well.
fn create(root: BorrowedFd<'_>, path: &str, kind: Kind) -> Result<OwnedFd, Errno> {
    let mut rest: VecDeque<String> = path.split('/').map(str::to_owned).collect();
    // The part of the path that is done, free of links, as names below the root.
    let mut done: Vec<String> = Vec::new();
    let mut found = open_in(root, ".", OFlags::PATH)?;
    let (mut links, mut tries) = (0, 0);
    while let Some(part) = rest.pop_front() {
        if part.is_empty() || part == "." {
            continue;
        }
        if part == ".." {
            done.pop();
            found = open_in(root, &joined(&done), OFlags::PATH | OFlags::DIRECTORY)?;
            continue;
        }
        let parent = found;
        done.push(part);
        let name = done.last().map_or("", String::as_str);
        match open_in(root, &joined(&done), OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) if is_link(&fd)? => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = readlinkat(&fd, "", Vec::new())?;
                let target = target.to_str().map_err(|_| Errno::ILSEQ)?;
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                for part in target.split('/').rev() {
                    rest.push_front(part.to_owned());
                }
                found = open_in(root, &joined(&done), OFlags::PATH)?;
            }
            Ok(fd) => found = fd,
            Err(Errno::NOENT) => {
                tries += 1;
                if tries > MAX_TRIES {
                    return Err(Errno::NOENT);
                }
                let last = rest.iter().all(|part| part.is_empty() || part == ".");
                make(parent.as_fd(), name, if last { kind } else { Kind::Dir })?;
                // What was made is opened in the next round, as anything that was there before.
                let name = done.pop().unwrap_or_default();
                rest.push_front(name);
                found = parent;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

fn make(parent: BorrowedFd<'_>, name: &str, kind: Kind) -> Result<(), Errno> {
    let made = match kind {
        Kind::Dir => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
            openat(parent, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn is_link(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Symlink)
}

/// Whether an fd is of a directory.
pub(super) fn is_dir(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

fn joined(parts: &[String]) -> String {
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn open_root(dir: &tempfile::TempDir) -> OwnedFd {
        fs::File::open(dir.path()).unwrap().into()
    }

    #[test]
    fn missing_parts_are_made_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("etc")).unwrap();
        // Leads to nothing yet, and would leave the root if it were followed outside of it.
        symlink("/run/../run/resolve/stub", root.join("etc/resolv.conf")).unwrap();
        symlink("../../../../var/tmp", root.join("up")).unwrap();
        let fd = open_root(&dir);
        for (path, kind, made) in [
            ("/a/b/c", Kind::Dir, "a/b/c"),
            ("/a/./d//file", Kind::File, "a/d/file"),
            ("/etc/resolv.conf", Kind::File, "run/resolve/stub"),
            ("/up/x", Kind::Dir, "var/tmp/x"),
        ] {
            let found = open_or_create(fd.as_fd(), path, kind).unwrap();
            let at = fs::metadata(root.join(made)).unwrap();
            assert_eq!(at.is_dir(), kind == Kind::Dir, "{path}");
            let again = fstat(&found).unwrap();
            assert_eq!(again.st_ino, std::os::unix::fs::MetadataExt::ino(&at), "{path}");
        }
    }

    #[test]
    fn a_name_is_opened_itself_and_no_link_of_it_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("etc")).unwrap();
        for (name, target) in [("gone", "../run/gone"), ("loop", "loop"), ("up", "../../../x")] {
            symlink(target, root.join("real").join(name)).unwrap();
        }
        fs::create_dir(root.join("real/dir")).unwrap();
        let before = fs::read_dir(root).unwrap().count();
        let fd = open_root(&dir);
        let open = |path: &str| open_name_or_create(fd.as_fd(), path);
        for (path, kind) in [
            ("/etc/gone", FileType::Symlink),
            ("/etc/loop", FileType::Symlink),
            ("/etc/up", FileType::Symlink),
            ("/etc/dir", FileType::Directory),
            ("/etc/new", FileType::RegularFile),
        ] {
            let found = open(path).unwrap();
            assert_eq!(FileType::from_raw_mode(fstat(&found).unwrap().st_mode), kind, "{path}");
        }
        assert_eq!(fs::read_dir(root).unwrap().count(), before, "no link had its target made");
        assert!(open("/new/etc/file").is_ok() && root.join("new/etc/file").is_file());
        for bad in ["name", "/etc/", "/etc/..", "/../x/name"] {
            assert_eq!(open(bad).unwrap_err(), Errno::INVAL, "{bad}");
        }
    }

    #[test]
    fn dots_loops_and_files_in_the_way_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        symlink("loop", root.join("loop")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let fd = open_root(&dir);
        let errno = |path| open_or_create(fd.as_fd(), path, Kind::Dir).unwrap_err();
        assert_eq!(errno("/a/../b"), Errno::INVAL);
        assert_eq!(errno("/loop/x"), Errno::LOOP);
        assert_eq!(errno("/file/x"), Errno::NOTDIR);
    }

    #[test]
    fn the_root_is_never_left_while_a_directory_and_a_link_are_swapped() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("dir")).unwrap();
        symlink(outside.path(), root.join("link")).unwrap();
        let fd = open_root(&dir);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    rustix::fs::renameat_with(&fd, "dir", &fd, "link", exchange).unwrap();
                }
            });
            for i in 0..500 {
                // Success or failure both will do; only where it ends matters.
                let _ = open_or_create(fd.as_fd(), &format!("/dir/{i}/x"), Kind::File);
                let _ = open_or_create(fd.as_fd(), &format!("/link/{i}"), Kind::Dir);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
