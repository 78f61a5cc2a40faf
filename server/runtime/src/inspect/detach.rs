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
use crate::{fault, kernel_fs::Tree, mountinfo::unescape, protocol::ProcessId};

/// How many mounts are named that keep another one in use.
const NAMED: usize = 8;

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
            Errno::BUSY => match joined.mountinfo() {
                Ok(text) => Failure::unfit(&in_use(&Tree::of(&text).below(top.id)), point),
                Err(failure) => failure,
            },
            errno => refused("cannot unmount", errno),
        })?;
    }
    match Tree::of(&joined.mountinfo()?).has(top.id) {
        true => Err(Failure::unfit("another mount was unmounted in place of the one on", point)),
        false => Ok(()),
    }
}

/// Says by what a mount is in use, below which these lie.
fn in_use(below: &[&[u8]]) -> String {
    let quoted = |point: &&[u8]| format!("{:?}", String::from_utf8_lossy(&unescape(point)));
    let named: Vec<String> = below.iter().take(NAMED).map(quoted).collect();
    let more = match below.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match named.is_empty() {
        true => "in use, by an open file or a working directory in it, say; it can only be unmounted lazily (--lazy):"
            .to_owned(),
        false => format!(
            "in use by what is mounted below it, on {}{more}; unmount that first, in this order, or all of it lazily \
             (--lazy):",
            named.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_names_some_of_what_is_mounted_below_it() {
        assert!(in_use(&[]).starts_with("in use, by an open file"));
        let told = in_use(&[b"/a/b\\012", b"/a"]);
        assert!(told.contains(r#"on "/a/b\n", "/a"; unmount"#), "{told}");
        let told = in_use(&[&b"/x"[..]; NAMED + 5]);
        assert_eq!((told.matches("/x").count(), told.contains(" and 5 more;")), (NAMED, true));
    }
}
