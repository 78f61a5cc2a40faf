//! The assembly of a new container, from a fresh clone to a pivoted root.
//!
//! ```text
//!  step              why here
//!  ----------------  ------------------------------------------------------------------------
//!  join namespaces   of others, while this process still has its rights over them
//!  cgroup namespace  once it is in its cgroup, which becomes the root of the view
//!  ipc namespace     once it is root in its user namespace, whose message queues these are
//!  names, loopback   belong to the namespaces alone
//!  propagation       before the first mount, or the mounts would show elsewhere
//!  root              attached first: every target is looked up below it
//!  mounts            in the plan's order; proc and sysfs while the launcher's unmasked ones are
//!                    mounted, without which a user namespace may not make its own; defaults of
//!                    the network by way of that proc, before anything is mounted on it
//!  sysctls           for the same reason
//!  masks, read-only  when nothing more is mounted over them
//!  cwd               made while the root can be written
//!  read-only root    last of what is below it
//!  pivot             lets go of the launcher's namespace
//! ```

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    system::{setdomainname, sethostname},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use super::{
    PlanFds,
    child::Start,
    failure::{At as _, Fail},
    hide::{Cover, make_read_only},
    mounts::{
        Guard, Scene, attach_layers, attach_root, holds_no_kernel_fs, make_private,
        make_root_read_only, mount, pivot,
    },
    path::{Kind, is_dir, open_or_create},
    sysctl::{PrivateProc, set_in},
};
use crate::{
    kernel_fs::PLACES,
    plan::{ContainerPlan, Mount, MountWhat, Namespaces, NsSource, NsType, Step},
    sys::ns::{loopback_up, unshare_cgroup, unshare_ipc},
};

/// Assembles a container. Afterwards `/` is its root.
pub(super) fn assemble(container: &ContainerPlan, start: &Start<'_>) -> Result<(), Fail> {
    enter_namespaces(container, start)?;
    make_private().at(Step::Propagation)?;
    let user_ns = container.namespaces.user != NsSource::Host;
    if user_ns {
        attach_layers(container, start.fds).at(Step::Root)?;
    }
    let root = attach_root(&container.root, start.fds, user_ns).at(Step::Root)?;
    if container.guarded_from.is_some() {
        holds_no_kernel_fs(root.as_fd()).at(Step::Root)?;
    }
    let mounts = mount_all(container, start, &root, user_ns)?;
    set_sysctls(container, start)?;
    cover(container, &root, &mounts)?;
    if start.plan.process.create_cwd {
        create_cwd(&root, &start.plan.process.cwd).at(Step::Cwd)?;
    }
    if container.read_only_root {
        make_root_read_only(root.as_fd()).at_item(Step::ReadOnlyPath, usize::MAX)?;
    }
    pivot(root.as_fd()).at(Step::PivotRoot)
}

/// Joins what is joined, unless that had to be done before already, and names what is new.
fn enter_namespaces(container: &ContainerPlan, start: &Start<'_>) -> Result<(), Fail> {
    let namespaces = &container.namespaces;
    if !start.joined {
        join_all(namespaces, start.fds, &[NsType::User])?;
    }
    if namespaces.cgroup == NsSource::New {
        unshare_cgroup().at(Step::Clone)?;
    }
    if namespaces.ipc == NsSource::New {
        unshare_ipc().at(Step::Clone)?;
    }
    if let Some(name) = &container.hostname {
        only_in_new(namespaces.uts)
            .and_then(|()| sethostname(name.as_bytes()))
            .at(Step::Hostname)?;
    }
    if let Some(name) = &container.domainname {
        let set = only_in_new(namespaces.uts).and_then(|()| setdomainname(name.as_bytes()));
        set.at(Step::Domainname)?;
    }
    if namespaces.net == NsSource::New {
        loopback_up().at(Step::Loopback)?;
    }
    Ok(())
}

/// Whatever a plan says: the name of the host is not a container's to set.
fn only_in_new(uts: NsSource) -> Result<(), Errno> {
    if uts == NsSource::New { Ok(()) } else { Err(Errno::PERM) }
}

/// Joins every namespace that comes from somebody else, but for those in `except`.
pub(super) fn join_all(
    namespaces: &Namespaces,
    fds: &PlanFds,
    except: &[NsType],
) -> Result<(), Fail> {
    for (index, ns) in NsType::ALL.into_iter().enumerate() {
        if let (NsSource::Join(fd), false) = (namespaces.source(ns), except.contains(&ns)) {
            fds.borrow(fd)
                .and_then(|fd| move_into_thread_name_spaces(fd, ns.set()))
                .at_item(Step::JoinNamespace, index)?;
        }
    }
    Ok(())
}

fn mount_all(
    container: &ContainerPlan,
    start: &Start<'_>,
    root: &OwnedFd,
    user_ns: bool,
) -> Result<Vec<OwnedFd>, Fail> {
    let pid_ns = joined_pid_ns(container, start)?;
    let terminal = start.terminal();
    let scene = Scene { root: root.as_fd(), fds: start.fds, pid_ns, user_ns, terminal };
    let mut all: Vec<OwnedFd> = Vec::with_capacity(container.mounts.len());
    for (index, one) in container.mounts.iter().enumerate() {
        let guarded = container.guarded_from.is_some_and(|from| index >= from as usize);
        let guard = if guarded { Guard::On(places(container, &all)) } else { Guard::Off };
        let made = mount(one, &scene, &guard).at_item(Step::Mount, index)?;
        if is_own_proc(one) {
            set_net_defaults(container, |name, value| set_in(made.as_fd(), name, value))?;
        }
        all.push(made);
    }
    Ok(all)
}

/// Whether a mount is a proc that was made for this container.
fn is_own_proc(mount: &Mount) -> bool {
    matches!(&mount.what, MountWhat::Fresh { fs } if fs == "proc")
}

/// The mounts of the plan that lie where a container has what the kernel shows of itself. `mounts`: those that
/// are made.
fn places<'a>(container: &ContainerPlan, mounts: &'a [OwnedFd]) -> Vec<BorrowedFd<'a>> {
    let is_in = |target: &str| PLACES.iter().any(|of| target == *of || below(target, of).is_some());
    let made = container.mounts.iter().zip(mounts);
    made.filter(|(mount, _)| is_in(&mount.target)).map(|(_, fd)| fd.as_fd()).collect()
}

/// The pid namespace of others that the container is in.
fn joined_pid_ns<'a>(
    container: &ContainerPlan,
    start: &Start<'a>,
) -> Result<Option<BorrowedFd<'a>>, Fail> {
    match container.namespaces.pid {
        NsSource::Join(fd) => start.fds.borrow(fd).map(Some).at(Step::Plan),
        NsSource::New | NsSource::Host => Ok(None),
    }
}

/// Sets what the plan has for a new network namespace, and no other.
fn set_net_defaults(
    container: &ContainerPlan,
    set: impl Fn(&str, &str) -> Result<(), Errno>,
) -> Result<(), Fail> {
    if container.namespaces.net != NsSource::New {
        return Ok(());
    }
    for (index, (name, value)) in container.net_defaults.iter().enumerate() {
        match set(name, value) {
            // Nobody has asked for them: where the proc at hand is of another user namespace, the kernel's stay.
            Ok(()) | Err(Errno::NOENT | Errno::PERM | Errno::ACCESS) => {}
            // Named behind those that were asked for.
            refused => refused.at_item(Step::Sysctl, container.sysctls.len() + index)?,
        }
    }
    Ok(())
}

fn set_sysctls(container: &ContainerPlan, start: &Start<'_>) -> Result<(), Fail> {
    // The proc of another container may have anything mounted on it.
    let has_defaults = container.mounts.iter().any(is_own_proc);
    if container.sysctls.is_empty() && (has_defaults || container.net_defaults.is_empty()) {
        return Ok(());
    }
    let proc = match PrivateProc::open(joined_pid_ns(container, start)?) {
        // Of another user namespace, none can be had: without defaults, which nobody has asked for, it goes on.
        Err(_) if container.sysctls.is_empty() => return Ok(()),
        opened => opened.at(Step::Sysctl)?,
    };
    if !has_defaults {
        set_net_defaults(container, |name, value| proc.set(name, value))?;
    }
    for (index, (name, value)) in container.sysctls.iter().enumerate() {
        proc.set(name, value).at_item(Step::Sysctl, index)?;
    }
    Ok(())
}

/// Covers what must not be read or written. `mounts`: those of the plan, in its order.
fn cover(container: &ContainerPlan, root: &OwnedFd, mounts: &[OwnedFd]) -> Result<(), Fail> {
    // What lies in a mount is looked up from that mount. On the way there from the root, somebody who writes to
    // the root filesystem could have put a link or another directory in the place of its target meanwhile.
    let find = |path: &'_ str| {
        let all = container.mounts.iter().zip(mounts).rev();
        let mut within = all.filter_map(|(mount, fd)| Some((fd, below(path, &mount.target)?)));
        within
            .next()
            .map_or((root.as_fd(), path.to_owned()), |(fd, rest)| (fd.as_fd(), rest.to_owned()))
    };
    if !container.masked_paths.is_empty() {
        let cover = place_of_cover().and_then(|at| Cover::kept_on(at.as_fd()));
        let cover = cover.at(Step::MaskPath)?;
        for (index, path) in container.masked_paths.iter().enumerate() {
            let (at, path) = find(path);
            cover.hide(at, &path).at_item(Step::MaskPath, index)?;
        }
    }
    for (index, path) in container.read_only_paths.iter().enumerate() {
        let (at, path) = find(path);
        make_read_only(at, &path).at_item(Step::ReadOnlyPath, index)?;
    }
    Ok(())
}

/// A directory of the launcher's mount namespace that is not needed any more, and goes away at the pivot.
fn place_of_cover() -> Result<OwnedFd, Errno> {
    openat(CWD, "/sys", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// What is left of a path below a directory.
fn below<'a>(path: &'a str, dir: &str) -> Option<&'a str> {
    path.strip_prefix(dir.trim_end_matches('/'))?.strip_prefix('/').filter(|rest| !rest.is_empty())
}

fn create_cwd(root: &OwnedFd, path: &str) -> Result<(), Errno> {
    let dir = open_or_create(root.as_fd(), path, Kind::Dir)?;
    if is_dir(dir.as_fd())? { Ok(()) } else { Err(Errno::NOTDIR) }
}

impl Namespaces {
    /// Where the namespace of a type comes from.
    pub(super) fn source(&self, ns: NsType) -> NsSource {
        match ns {
            NsType::Mount => NsSource::New,
            NsType::Uts => self.uts,
            NsType::Ipc => self.ipc,
            NsType::Net => self.net,
            NsType::Pid => self.pid,
            NsType::Cgroup => self.cgroup,
            NsType::User => self.user,
            NsType::Time => self.time,
        }
    }
}

impl NsType {
    /// As setns(2) takes it.
    pub(crate) fn set(self) -> ThreadNameSpaceType {
        ThreadNameSpaceType::from_bits_retain(self.clone_flag() as u32)
    }
}
