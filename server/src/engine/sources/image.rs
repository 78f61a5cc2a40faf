//! Image files, as block devices.
//!
//! One image has one loop device, whoever mounts it and however often. Two devices would be two caches of one
//! file, and two filesystems that write into it without knowing of one another: it would be damaged. With one
//! device the kernel has one filesystem, which all mounts of it share.
//!
//! Which device an image has is asked of the kernel, so that it is known after a restart too, and to other
//! agents of this host. From the question until the mount is made /dev/loop-control is locked, as losetup(8)
//! and mount(8) lock it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use conti_runtime::{
    host, own,
    sys::loopdev::{self, Bound, LoopDevice},
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, fstat, open},
    io::Errno,
};

use super::failed;
use crate::engine::error::{Error, Result};

/// How long others may hold the lock: a mount is made in milliseconds, unless the disk is slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// An image as a block device, to be held until it is mounted.
#[derive(Debug)]
pub struct Attached {
    device: LoopDevice,
    /// Whether the device was there already, for another mount.
    pub shared: bool,
    /// Locked until this is dropped.
    _control: File,
}

impl Attached {
    /// The path of the device.
    pub fn path(&self) -> String {
        format!("/dev/loop{}", self.device.number)
    }
}

/// Finds or makes the device of an image. `image`: an O_PATH fd of a regular file; `name`: its path, for
/// messages.
///
/// # Errors
///
/// EBUSY: it is in use in a way that does not go together with this one.
pub fn attach(image: &OwnedFd, name: &str, read_only: bool) -> Result<Attached> {
    let cannot = |error: io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let hint = match errno {
            Errno::BUSY => "another program holds the lock of /dev/loop-control; try again",
            _ => "does the host have /dev/loop-control?",
        };
        failed("mount", "cannot attach a loop device to", name, errno, hint)
    };
    let control = lock().map_err(cannot)?;
    let stat = fstat(image).map_err(|errno| cannot(errno.into()))?;
    let devices = devices_of((stat.st_dev, stat.st_ino)).map_err(cannot)?;
    let device = match choose(devices, read_only).map_err(|hint| busy(name, hint))? {
        Some(device) => Attached { device, shared: true, _control: control },
        None => {
            let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
            let link = format!("/proc/self/fd/{}", image.as_raw_fd());
            let opened = open(link, access | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
                failed("mount", "cannot open the image", name, errno, "check its permissions")
            })?;
            let device = loopdev::attach(&control, opened.as_fd(), read_only).map_err(cannot)?;
            Attached { device, shared: false, _control: control }
        }
    };
    Ok(device)
}

fn busy(name: &str, hint: &'static str) -> Error {
    failed("mount", "cannot mount the image", name, Errno::BUSY, hint)
}

/// The device that goes together with those that there are. `None`: a new one.
fn choose(
    devices: Vec<(LoopDevice, Bound)>,
    read_only: bool,
) -> std::result::Result<Option<LoopDevice>, &'static str> {
    let writes = !read_only || devices.iter().any(|(_, bound)| !bound.read_only);
    if writes && devices.iter().any(|(_, bound)| !bound.whole) {
        return Err(
            "a part of it has a loop device already, and one of the two would write into it",
        );
    }
    if !read_only && devices.iter().any(|(_, bound)| bound.read_only) {
        return Err(
            "it is mounted read-only already, and would change below that mount: unmount it there, \
                    or mount it read-only here too",
        );
    }
    if writes && devices.len() > 1 {
        return Err(
            "it has several loop devices already, which damage what one another write: see losetup(8)",
        );
    }
    Ok(devices.into_iter().find(|(_, bound)| bound.whole).map(|(device, _)| device))
}

/// Locks /dev/loop-control. The lock goes with the file.
fn lock() -> io::Result<File> {
    let control = host::open_with(OpenOptions::new().read(true).write(true), "/dev/loop-control")?;
    let end = Instant::now() + PATIENCE;
    loop {
        match flock(&control, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(control),
            Err(Errno::AGAIN) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            Err(Errno::AGAIN) => return Err(Errno::BUSY.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The devices of an image. They are held: none of them is given to another image meanwhile.
fn devices_of(image: (u64, u64)) -> io::Result<Vec<(LoopDevice, Bound)>> {
    let mut found = Vec::new();
    for entry in own::read_dir("/sys/block")?.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
        let Some(number) = number else { continue };
        // Only one that stands for something has this.
        if !own::exists(entry.path().join("loop")) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // One that has gone meanwhile stands for nothing.
        let Ok(fd) = open(format!("/dev/loop{number}"), flags, Mode::empty()) else { continue };
        let file = File::from(fd);
        match loopdev::bound(&file) {
            Ok(bound) if bound.image == image => {
                found.push((LoopDevice { file, number }, bound));
            }
            _ => {}
        }
    }
    Ok(found)
}
