//! What a user asks to be mounted, as a detached mount.

use std::path::PathBuf;

use rustix::mount::MountAttrFlags;

use super::{
    bind::{self, Bind, HostPath},
    filesystem,
};
use crate::engine::{
    error::{Error, Result},
    explain,
    spec::{Mount, MountSource, Propagation},
};

/// Makes what is to be mounted. `owner`: who the root of a tmpfs belongs to; `nodev`: whether device nodes
/// on a bind mount cannot be opened; `within`: the directories of the host that sources must stay in.
pub fn make(
    source: &MountSource,
    read_only: bool,
    owner: (u32, u32),
    nodev: bool,
    within: Option<&[PathBuf]>,
) -> Result<Bind> {
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    let mut sources = Vec::new();
    let fd = match source {
        MountSource::Bind { source, recursive, recursive_read_only, propagation } => {
            let options = bind::Options {
                recursive: *recursive,
                read_only,
                recursive_read_only: *recursive_read_only,
                nodev,
                propagation: *propagation,
            };
            return bind::clone(HostPath { path: source, within }, options);
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            filesystem::tmpfs(*size_bytes, *mode, owner, attributes)?
        }
        MountSource::Device { source, fs_type, options } => {
            filesystem::device(source, fs_type, options, read_only)?
        }
        MountSource::Overlay { lowers, upper } => {
            let mut open = |path: &PathBuf| {
                let opened = directory(HostPath { path, within })?;
                sources.extend(bind::real_path(&opened));
                Ok(opened)
            };
            let lowers = lowers.iter().map(&mut open).collect::<Result<Vec<_>>>()?;
            let upper = match upper {
                Some((upper, work)) => Some((open(upper)?, open(work)?)),
                None => None,
            };
            filesystem::layers(&lowers, upper.as_ref(), attributes)?
        }
    };
    Ok(Bind { fd, dir: true, sources })
}

/// Refuses a mount that passes mounts on, in a direction or both, where a user namespace of its own sees it: the kernel
/// lets no mount made there appear on the host (mount_namespaces(7)), and what the host mounts later has no id map.
/// `field`: that of the mount.
pub fn check_propagation(mount: &Mount, field: &str) -> Result<()> {
    let MountSource::Bind { source, propagation, .. } = &mount.source else { return Ok(()) };
    let why = match propagation {
        Propagation::Private => return Ok(()),
        Propagation::Slave => "what is mounted there later would have no id map",
        Propagation::Shared => "the kernel lets no mount that is made inside appear on the host",
    };
    Err(Error::Invalid {
        field: format!("{field}.bind.propagation"),
        problem: format!(
            "{} cannot be {} with a user namespace of its own: {why}; {}",
            source.display(),
            if *propagation == Propagation::Slave { "a slave" } else { "shared" },
            explain::WITHOUT
        ),
    })
}

/// Refuses an overlay where ids are mapped. `field`: that of the mount.
pub fn check_mappable(mount: &Mount, field: &str) -> Result<()> {
    match &mount.source {
        MountSource::Overlay { .. } => Err(Error::Invalid {
            field: format!("{field}.overlay"),
            problem: format!(
                "cannot be mounted on {:?}: overlayfs takes no id map, which a container with ids of its own needs; {}",
                mount.target,
                explain::WITHOUT
            ),
        }),
        _ => Ok(()),
    }
}

fn directory(path: HostPath<'_>) -> Result<std::os::fd::OwnedFd> {
    bind::open_layer(path, "mount", "cannot open a layer of the overlay")
}
