//! Loop devices (loop(4)), as far as mounting an image file needs them.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use crate::host;

// linux/loop.h
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// struct loop_config of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// struct loop_info64 of linux/loop.h.
#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// A loop device that stands for an image. It goes by itself when its last user is gone
/// (LO_FLAGS_AUTOCLEAR): hold `file` until it is mounted.
#[derive(Debug)]
pub struct LoopDevice {
    /// The open device.
    pub file: File,
    /// Its number: /dev/loopN.
    pub number: u32,
}

/// What a loop device stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The image, by its device as stat(2) tells it and its inode number.
    pub image: (u64, u64),
    /// Whether it is all of the image, from its first byte to its last.
    pub whole: bool,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// What a device stands for, while its file is held. ENXIO: nothing, it is free.
pub fn bound(device: &File) -> io::Result<Bound> {
    // SAFETY: all fields are integers and arrays of integers, for which zero is a value.
    let mut info: LoopInfo64 = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a struct loop_info64 that outlives the call; the kernel only fills it.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Bound {
        image: (info.device, info.inode),
        whole: info.offset == 0 && info.sizelimit == 0,
        read_only: info.flags & LO_FLAGS_READ_ONLY != 0,
    })
}

/// Attaches an image to a free loop device. `control`: /dev/loop-control, open.
pub fn attach(control: &File, image: BorrowedFd<'_>, read_only: bool) -> io::Result<LoopDevice> {
    // Others take free devices too: the number may be gone when we come to use it.
    for _ in 0..64 {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number or an error.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut options = OpenOptions::new();
        options.read(true).write(!read_only).custom_flags(libc::O_CLOEXEC);
        let file = host::open_with(&options, format!("/dev/loop{number}"))?;
        let flags = LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
        // SAFETY: all fields are integers and arrays of integers, for which zero is a value.
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = image.as_raw_fd() as u32;
        config.info.flags = flags;
        // SAFETY: `config` is a struct loop_config that outlives the call; the kernel only reads it.
        let rc = unsafe { libc::ioctl(file.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        if rc == 0 {
            return Ok(LoopDevice { file, number: number as u32 });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}
