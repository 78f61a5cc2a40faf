//! mount_setattr(2).

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::{
    io::Errno,
    mount::{MountAttrFlags, MountPropagationFlags},
};

use super::clone::last_errno;

/// struct mount_attr.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes of the mount whose root `mount` is, and of all below it where `recursive`.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    set: MountAttrFlags,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = MountAttr { attr_set: u64::from(set.bits()), ..MountAttr::default() };
    mount_setattr(mount, recursive, &attr)
}

/// Makes the ownership of a detached mount, and of all below it, follow the id map of a user namespace. It
/// fails with EINVAL where one of their filesystems cannot do that (mount_setattr(2)).
pub fn set_id_map(mount: BorrowedFd<'_>, user_ns: BorrowedFd<'_>) -> Result<(), Errno> {
    let attr = MountAttr {
        attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits()),
        userns_fd: user_ns.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    mount_setattr(mount, true, &attr)
}

/// Says how mounts made later below `mount` are passed on (mount_namespaces(7)).
pub fn set_propagation(
    mount: BorrowedFd<'_>,
    propagation: MountPropagationFlags,
    recursive: bool,
) -> Result<(), Errno> {
    let attr = MountAttr { propagation: u64::from(propagation.bits()), ..MountAttr::default() };
    mount_setattr(mount, recursive, &attr)
}

fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` lives through the call and has the layout of struct mount_attr, whose size goes
    // along; the empty path is a C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
