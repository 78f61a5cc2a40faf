//! New superblocks, as detached mounts; [`devpts`](super::devpts) has a place of its own.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Uid, chownat, fstat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen,
    },
};

use super::{bind, failed, image};
use crate::engine::error::Result;

/// Makes a filesystem of type `fs` with options as `(name, Some(value))` or `(name, None)`.
pub fn make(
    fs: &str,
    options: &[(&str, Option<String>)],
    attributes: MountAttrFlags,
) -> std::result::Result<OwnedFd, Refused> {
    let context = fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| Refused { errno, words: String::new() })?;
    let made = (|| {
        for (name, value) in options {
            match value {
                Some(value) => fsconfig_set_string(context.as_fd(), *name, value.as_str())?,
                None => fsconfig_set_flag(context.as_fd(), *name)?,
            }
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    })();
    made.map_err(|errno| Refused { errno, words: words_of(context) })
}

/// A filesystem that the kernel did not want to make.
#[derive(Debug)]
pub struct Refused {
    /// Its errno.
    pub errno: Errno,
    /// What it had to say besides, from the context's log. Often empty.
    pub words: String,
}

impl Refused {
    pub(super) fn on(
        self,
        step: &'static str,
        what: &'static str,
        argument: &str,
        hint: &'static str,
    ) -> crate::engine::error::Error {
        let argument = match self.words.is_empty() {
            true => argument.to_owned(),
            false => format!("{argument} ({})", self.words),
        };
        failed(step, what, argument, self.errno, hint)
    }
}

/// Reads the messages that the kernel left on a filesystem context (fsopen(2)).
fn words_of(context: OwnedFd) -> String {
    let mut file = File::from(context);
    let mut words = Vec::new();
    let mut buffer = [0; 512];
    while let Ok(len @ 1..) = file.read(&mut buffer) {
        // Each message is `e`, `w` or `i`, a blank, and the text.
        let text = String::from_utf8_lossy(&buffer[..len]);
        words.push(text.get(2..).unwrap_or_default().trim().to_owned());
    }
    words.join("; ")
}

/// Makes a tmpfs. `size` 0: the kernel's default. `owner`: uid and gid of its root on the host.
pub fn tmpfs(
    size: u64,
    mode: u32,
    owner: (u32, u32),
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let mut options = vec![("mode", Some(format!("{mode:o}")))];
    if size > 0 {
        options.push(("size", Some(size.to_string())));
    }
    if owner != (0, 0) {
        options.push(("uid", Some(owner.0.to_string())));
        options.push(("gid", Some(owner.1.to_string())));
    }
    make("tmpfs", &options, attributes).map_err(|refused| {
        refused.on(
            "mount",
            "cannot make a tmpfs",
            &format!("size={size}"),
            "check its size and mode",
        )
    })
}

/// Gives what lies at a name to a user and group of the host; a link itself, and with no name the directory.
pub fn give(
    at: BorrowedFd<'_>,
    name: &str,
    (uid, gid): (u32, u32),
) -> std::result::Result<(), Errno> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    chownat(at, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
}

/// Lays a writable layer over a read-only one. All are named by fds of this process, so that no
/// path can be exchanged and no special character matters.
pub fn overlay(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    work: BorrowedFd<'_>,
    volatile: bool,
) -> Result<OwnedFd> {
    let mut options = vec![
        ("source", Some("conti".to_owned())),
        ("lowerdir", Some(by_fd(lower))),
        ("upperdir", Some(by_fd(upper))),
        ("workdir", Some(by_fd(work))),
    ];
    if volatile {
        options.push(("volatile", None));
    }
    make("overlay", &options, MountAttrFlags::empty()).map_err(|refused| {
        refused.on(
            "rootfs",
            "cannot make the overlay of",
            "the private layer",
            "the agent's --data-dir must be on a filesystem that takes overlay layers (not on overlayfs or NFS)",
        )
    })
}

/// Lays directories over one another, the topmost first; `upper` and its work directory take what is
/// written.
pub fn layers(
    lowers: &[OwnedFd],
    upper: Option<&(OwnedFd, OwnedFd)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let names: Vec<String> = lowers.iter().map(|fd| by_fd(fd.as_fd())).collect();
    let mut options =
        vec![("source", Some("overlay".to_owned())), ("lowerdir", Some(names.join(":")))];
    if let Some((upper, work)) = upper {
        options.push(("upperdir", Some(by_fd(upper.as_fd()))));
        options.push(("workdir", Some(by_fd(work.as_fd()))));
    }
    make("overlay", &options, attributes).map_err(|refused| {
        refused.on(
            "mount",
            "cannot lay over one another",
            "the directories of the overlay",
            "the upper and the work directory must be on one filesystem that takes layers, work must be empty, and no layer may be part of another",
        )
    })
}

fn by_fd(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Options of mount(8) that are attributes of a mount (mount_setattr(2)).
const ATTRIBUTES: [(&str, MountAttrFlags); 8] = [
    ("ro", MountAttrFlags::MOUNT_ATTR_RDONLY),
    ("nosuid", MountAttrFlags::MOUNT_ATTR_NOSUID),
    ("nodev", MountAttrFlags::MOUNT_ATTR_NODEV),
    ("noexec", MountAttrFlags::MOUNT_ATTR_NOEXEC),
    ("relatime", MountAttrFlags::MOUNT_ATTR_RELATIME),
    ("noatime", MountAttrFlags::MOUNT_ATTR_NOATIME),
    ("strictatime", MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    ("nodiratime", MountAttrFlags::MOUNT_ATTR_NODIRATIME),
];

/// Mounts a block device, or an image file by way of a loop device.
pub fn device(
    source: &Path,
    fs_type: &str,
    options: &[String],
    read_only: bool,
) -> Result<OwnedFd> {
    let name = source.to_string_lossy();
    let opened = bind::open(source, "mount", "cannot open the source of the mount")?;
    let kind = fstat(&opened).map(|stat| FileType::from_raw_mode(stat.st_mode));
    // Kept until the filesystem holds the device.
    let mut image = None;
    let device = match kind {
        Ok(FileType::BlockDevice) => format!("/proc/self/fd/{}", opened.as_raw_fd()),
        Ok(FileType::RegularFile) => {
            let attached = image::attach(&opened, &name, read_only)?;
            let path = attached.path();
            image = Some(attached);
            path
        }
        _ => {
            let hint = "the source of a device mount is a block device or an image file";
            return Err(failed("mount", "cannot mount", &*name, Errno::NOTBLK, hint));
        }
    };
    let mut settings: Vec<(&str, Option<String>)> = vec![("source", Some(device))];
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    for option in options {
        // Some options of mount(8) are the mount's and not the filesystem's.
        if let Some((_, attribute)) = ATTRIBUTES.iter().find(|(name, _)| name == option) {
            attributes |= *attribute;
            continue;
        }
        match option.split_once('=') {
            Some((name, value)) => settings.push((name, Some(value.to_owned()))),
            None => settings.push((option, None)),
        }
    }
    let mounted = if read_only {
        settings.push(("ro", None));
        let mounted = make(fs_type, &settings, attributes);
        settings.pop();
        match mounted {
            // It is mounted writable elsewhere. The kernel has one filesystem for both, which cannot be
            // read-only; this mount of it can.
            Err(Refused { errno: Errno::BUSY, .. }) if image.as_ref().is_some_and(|i| i.shared) => {
                make(fs_type, &settings, attributes)
            }
            other => other,
        }
    } else {
        make(fs_type, &settings, attributes)
    };
    let mounted = mounted.map_err(|refused| {
        let argument = format!("{name} as {fs_type}");
        let hint = match refused.errno {
            Errno::NODEV => "the kernel does not know this filesystem type",
            Errno::BUSY => {
                "it is mounted elsewhere in a way that does not go together with this one (read-only and \
                 writable, or as another type), or another program uses it"
            }
            _ => "check the filesystem's type and options",
        };
        refused.on("mount", "cannot mount", &argument, hint)
    });
    drop(image);
    mounted
}
