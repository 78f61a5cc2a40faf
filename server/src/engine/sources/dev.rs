//! The /dev of a container: a small tmpfs with the standard nodes, made before the container is.

use std::{
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
};

use conti_runtime::own;
use rustix::{
    fs::{AtFlags, FileType, Mode, makedev, mkdirat, mknodat, symlinkat},
    io::Errno,
    mount::MountAttrFlags,
};

use super::{
    bind, failed,
    filesystem::{self, give},
};
use crate::engine::{
    cgroup::devices::Rule,
    error::{Error, Result},
    opened::Place,
    spec::Device,
};

/// Group 5 owns terminals, as in Debian's and most other /etc/group.
pub const TTY_GROUP: u32 = 5;

const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the tmpfs. `owner`: the host's ids of the container's root user.
pub fn make(owner: (u32, u32), extra: &[Node], console: bool) -> Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let dev = filesystem::tmpfs(64 * 1024, 0o755, owner, attributes)?;
    let fill = || -> std::result::Result<(), (String, Errno)> {
        let at = |name: &str| {
            let name = name.to_owned();
            move |errno| (name, errno)
        };
        for (name, major, minor) in NODES {
            node(dev.as_fd(), name, FileType::CharacterDevice, makedev(major, minor), 0o666, owner)
                .map_err(at(name))?;
        }
        for (name, target) in LINKS {
            symlinkat(target, &dev, name).map_err(at(name))?;
            give(dev.as_fd(), name, owner).map_err(at(name))?;
        }
        for name in ["pts", "shm", "mqueue"] {
            directory(dev.as_fd(), name, owner).map_err(at(name))?;
        }
        if console {
            node(dev.as_fd(), "console", FileType::RegularFile, 0, 0o600, owner)
                .map_err(at("console"))?;
        }
        for extra in extra {
            for (at_byte, _) in extra.name.match_indices('/') {
                match directory(dev.as_fd(), &extra.name[..at_byte], owner) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err((extra.name.clone(), errno)),
                }
            }
            let kind = if extra.block { FileType::BlockDevice } else { FileType::CharacterDevice };
            match node(dev.as_fd(), &extra.name, kind, extra.number, extra.mode, owner) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err((extra.name.clone(), errno)),
            }
        }
        Ok(())
    };
    match fill() {
        Ok(()) => Ok(dev),
        Err((name, errno)) => Err(failed(
            "mount",
            "cannot make the device node",
            format!("/dev/{name}"),
            errno,
            "the agent needs CAP_MKNOD",
        )),
    }
}

/// A device node to be made.
#[derive(Debug)]
pub struct Node {
    /// Its path below /dev.
    name: String,
    block: bool,
    number: u64,
    mode: u32,
}

/// Whether a device lies where nobody but the host puts links.
pub fn is_in_dev(path: &Path) -> bool {
    path.starts_with("/dev")
}

/// Finds a device of the host that a container may use: the node, the policy that allows it, and where it lies.
/// `bound`: who asks for it was granted this device, and not where somebody lets a link in its place lead.
pub fn allow(device: &Device, bound: bool) -> Result<(Node, Rule, Place)> {
    let path = device.path.to_string_lossy();
    let (step, what) = ("device", "cannot open the device");
    let opened = match bound && !is_in_dev(&device.path) {
        true => bind::open_itself(&device.path, step, what)?,
        false => bind::open(&device.path, step, what)?,
    };
    let stat = rustix::fs::fstat(&opened).map_err(|errno| {
        failed("device", "cannot look at the device", &*path, errno, "is it there?")
    })?;
    let block = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => true,
        FileType::CharacterDevice => false,
        _ => {
            return Err(Error::Invalid {
                field: "spec.devices".into(),
                problem: format!("{path:?} is not a device"),
            });
        }
    };
    let name = device.path_in_container.trim_start_matches("/dev/").to_owned();
    let node = Node { name, block, number: stat.st_rdev, mode: stat.st_mode & 0o777 };
    let rule = Rule {
        block,
        major: Some(rustix::fs::major(stat.st_rdev)),
        minor: Some(rustix::fs::minor(stat.st_rdev)),
        read: device.read,
        write: device.write,
        mknod: device.mknod,
    };
    Ok((node, rule, bind::real_path(&opened)))
}

/// All device nodes of the host, for a privileged container.
pub fn all_of_host() -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let entries = own::read_named_dir(Path::new("/dev").join(&directory));
        for entry in entries.into_iter().flatten().flatten() {
            let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else {
                continue;
            };
            let path = match directory.as_str() {
                "" => name,
                above => format!("{above}/{name}"),
            };
            if kind.is_dir() && !matches!(path.as_str(), "pts" | "shm" | "mqueue" | "hugepages") {
                directories.push(path);
            } else if (kind.is_block_device() || kind.is_char_device())
                && let Ok(meta) = entry.metadata()
            {
                let (number, mode) = (meta.rdev(), meta.mode() & 0o777);
                nodes.push(Node { name: path, block: kind.is_block_device(), number, mode });
            }
        }
    }
    nodes
}

fn node(
    dev: BorrowedFd<'_>,
    name: &str,
    kind: FileType,
    number: u64,
    mode: u32,
    owner: (u32, u32),
) -> std::result::Result<(), Errno> {
    mknodat(dev, name, kind, Mode::from_raw_mode(mode), number)?;
    // mknodat is subject to the umask.
    rustix::fs::chmodat(dev, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    give(dev, name, owner)
}

fn directory(dev: BorrowedFd<'_>, name: &str, owner: (u32, u32)) -> std::result::Result<(), Errno> {
    mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
    give(dev, name, owner)
}
