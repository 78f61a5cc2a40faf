//! What the author of a root filesystem puts in the place of a file or a directory.

use std::{
    fs,
    fs::File,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// A way to replace something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A link to a directory of the host.
    HostDirectory,
    /// A link to a file of the host.
    HostFile,
    /// The same by `..`, further up than any root is deep.
    Upwards,
    /// What the process that assembles the container has open.
    OpenFile,
    /// The root of what is PID 1 there.
    RootOfInit,
    /// A link to nothing.
    Dangling,
    /// A link to itself.
    Loop,
    /// Blocks whoever opens it.
    Fifo,
    Socket,
    /// Never ends.
    Zero,
    BlockDevice,
    /// A directory where a file should be, and the other way round.
    Opposite,
    /// A file of 1 TiB that takes no room.
    Sparse,
}

pub const KINDS: [Kind; 13] = [
    Kind::HostDirectory,
    Kind::HostFile,
    Kind::Upwards,
    Kind::OpenFile,
    Kind::RootOfInit,
    Kind::Dangling,
    Kind::Loop,
    Kind::Fifo,
    Kind::Socket,
    Kind::Zero,
    Kind::BlockDevice,
    Kind::Opposite,
    Kind::Sparse,
];

/// What is replaced: each of these directories by itself; what is
/// looked at only, or covered by another mount, together.
pub const GROUPS: [&[&str]; 9] = [
    &["proc"],
    &["sys"],
    &["dev"],
    &["etc"],
    &["tmp"],
    &["run"],
    &["etc/passwd", "etc/group"],
    &["etc/hosts", "etc/hostname", "etc/resolv.conf"],
    &["dev/null", "dev/pts", "dev/console", "dev/ptmx"],
];

/// Whether a directory belongs there.
fn is_directory(name: &str) -> bool {
    !name.contains('/') || matches!(name, "dev/pts" | "dev/shm")
}

impl Kind {
    /// Puts it at a path where nothing is; `canary` is a directory of the host.
    pub fn put(self, root: &Path, name: &str, canary: &Path) {
        let path = root.join(name);
        let link = |to: &Path| symlink(to, &path).expect("a link");
        match self {
            Kind::HostDirectory => link(canary),
            Kind::HostFile => link(&canary.join("file")),
            Kind::Upwards => {
                let below = canary.strip_prefix("/").expect("an absolute path");
                link(&Path::new(&"../".repeat(40)).join(below));
            }
            Kind::OpenFile => link(Path::new("/proc/self/fd/5")),
            Kind::RootOfInit => link(Path::new("/proc/1/root")),
            Kind::Dangling => link(Path::new("/no/such/thing")),
            Kind::Loop => link(path.file_name().expect("a name").as_ref()),
            Kind::Fifo => node(&path, FileType::Fifo, 0, 0),
            Kind::Socket => drop(UnixListener::bind(&path).expect("a socket")),
            Kind::Zero => node(&path, FileType::CharacterDevice, 1, 5),
            Kind::BlockDevice => node(&path, FileType::BlockDevice, 7, 0),
            Kind::Opposite if is_directory(name) => fs::write(&path, "a file").expect("a file"),
            Kind::Opposite => fs::create_dir_all(path.join("below")).expect("a directory"),
            Kind::Sparse => {
                let file = File::create(&path).expect("a file");
                file.set_len(1 << 40).expect("a file system with large files");
            }
        }
    }
}

fn node(path: &Path, kind: FileType, major: u32, minor: u32) {
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, path, kind, mode, makedev(major, minor)).expect("a node");
}
