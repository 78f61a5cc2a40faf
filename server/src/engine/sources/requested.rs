//! What a user asks to be mounted, as a detached mount.

use std::path::{Path, PathBuf};

use rustix::mount::MountAttrFlags;

use super::{
    bind::{self, Bind},
    filesystem,
};
use crate::engine::{error::Result, spec::MountSource};

/// Makes what is to be mounted. `owner`: who the root of a tmpfs belongs to; `nodev`: whether device nodes
/// on a bind mount cannot be opened.
pub fn make(source: &MountSource, read_only: bool, owner: (u32, u32), nodev: bool) -> Result<Bind> {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    let fd = match source {
        MountSource::Bind { source, recursive, recursive_read_only, propagation } => {
            let options = bind::Options {
                recursive: *recursive,
                read_only,
                recursive_read_only: *recursive_read_only,
                nodev,
                propagation: *propagation,
            };
            return bind::clone(source, options);
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            filesystem::tmpfs(*size_bytes, *mode, owner, attributes)?
        }
        MountSource::Device { source, fs_type, options } => {
            filesystem::device(source, fs_type, options, read_only)?
        }
        MountSource::Overlay { lowers, upper } => {
            let open = |path: &PathBuf| directory(path);
            let lowers = lowers.iter().map(open).collect::<Result<Vec<_>>>()?;
            let upper = match upper {
                Some((upper, work)) => Some((directory(upper)?, directory(work)?)),
                None => None,
            };
            filesystem::layers(&lowers, upper.as_ref(), attributes)?
        }
    };
    Ok(Bind { fd, dir: true })
}

fn directory(path: &Path) -> Result<std::os::fd::OwnedFd> {
    bind::open(path, "mount", "cannot open a layer of the overlay")
}
