//! Taking a mount out of a living mount namespace.

use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
    process::fchdir,
};

use super::{
    joined::{Joined, Point},
    process::mount_id,
    question::{Failure, MountId},
};
use crate::{fault, kernel_fs::Tree, protocol::ProcessId};

/// Answers [`super::question::Question::Detach`].
pub(super) fn detach(
    (from, namespace): (ProcessId, u64),
    point: &[u8],
    only: Option<MountId>,
    (lazy, dry_run): (bool, bool),
) -> Result<(), Failure> {
    let joined = Joined::enter(from, Some(namespace))?;
    let place = Point::find(&joined.root, point)?;
    let refused = |tried, errno| Failure::refused(tried, point, errno);
    let target = place.open().map_err(|errno| place.refusal("cannot unmount", point, errno))?;
    let (top, around) = mount_id(&target)
        .and_then(|top| Ok((top, mount_id(&place.parent)?)))
        .map_err(|errno| refused("cannot look at", errno))?;
    if top == around {
        return Err(Failure::unfit("nothing is mounted on", point));
    }
    if only.is_some_and(|only| only != top) {
        return Err(Failure::unfit("another mount lies on top of", point));
    }
    if dry_run {
        return Ok(());
    }
    fault::point("detach.checked");
    if lazy {
        joined.unmount(&target).map_err(|errno| refused("cannot unmount", errno))?;
    } else {
        // Held by nothing of ours, which would make it busy, it is named: by a directory that is held and a
        // name that cannot be given to another mount, as a mount point is not renamed in its own namespace. The
        // agent lets nobody else change this namespace meanwhile.
        drop(target);
        fchdir(&place.parent).map_err(|errno| refused("cannot enter the directory of", errno))?;
        unmount(place.name, UnmountFlags::NOFOLLOW).map_err(|errno| match errno {
            Errno::BUSY => {
                Failure::unfit("in use, so that it can only be unmounted lazily:", point)
            }
            errno => refused("cannot unmount", errno),
        })?;
    }
    match Tree::of(&joined.mountinfo()?).has(top.id) {
        true => Err(Failure::unfit("another mount was unmounted in place of the one on", point)),
        false => Ok(()),
    }
}
