//! The namespaces of the host, in one pass over /proc.
//!
//! A namespace lives as long as something holds it: processes that are in it, a bind mount of its file,
//! an open file, a process whose children it is for, a namespace that it owns or is the parent of.
//! All but the last two of these stand in /proc; those the kernel tells by ioctl_nsfs(2).

use std::{
    cell::OnceCell,
    collections::{BTreeMap, btree_map},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{Dir, Mode, OFlags, openat, readlinkat_raw};

use super::{
    answers::Answers,
    process::{self, Pinned, namespace_of, parse_namespace},
    question::{Answer, Brief, Failure, Holder, Namespace},
};
use crate::{
    mountinfo::{Entry, unescape},
    plan::NsType,
    protocol::ProcessId,
    sys::ns,
};

type Key = (NsKey, u64);

/// A type of namespace by its place in [`NsType::ALL`], so that it has an order.
type NsKey = usize;

/// The types whose children may be born in another namespace than their parent's.
const FOR_CHILDREN: [(NsType, &str); 2] =
    [(NsType::Pid, "pid_for_children"), (NsType::Time, "time_for_children")];

/// Answers [`super::question::Question::Namespaces`].
pub fn answer(of: Option<ProcessId>, answers: &mut Answers<'_>) -> Result<(), Failure> {
    let wanted = of.map(namespaces_of).transpose()?;
    let mut found = Found::default();
    // The inspector itself is there only because somebody looks.
    let own = rustix::process::getpid().as_raw_pid();
    for (pid, directory) in process::all()?.filter(|(pid, _)| *pid != own) {
        found.look_at(pid, &directory);
    }
    found.name_relations();
    for ((_, inode), namespace) in found.namespaces {
        let kind = namespace.kind;
        if wanted.as_ref().is_none_or(|wanted| wanted.contains(&(kind, inode))) {
            answers.add(&Answer::Namespace(namespace))?;
        }
    }
    Ok(())
}

/// The namespaces that a process is in.
fn namespaces_of(process: ProcessId) -> Result<Vec<(NsType, u64)>, Failure> {
    let pinned = Pinned::same(process)?;
    let directory = process::directory(pinned.pid())?;
    let failed = |errno: rustix::io::Errno| process::gone(process.pid, &errno.into());
    let links = process::namespaces(&directory).map_err(failed)?;
    let mut all = Vec::new();
    for kind in NsType::ALL {
        let found = process::readable_namespace(&links, kind.file_name()).map_err(failed)?;
        all.extend(found.map(|inode| (kind, inode)));
    }
    pinned.still_there()?;
    Ok(all)
}

#[derive(Debug, Default)]
struct Found {
    namespaces: BTreeMap<Key, Namespace>,
    /// Namespaces whose owner and parent are still to be found out.
    open: Vec<(NsType, u64, OwnedFd)>,
}

impl Found {
    fn look_at(&mut self, pid: i32, directory: &OwnedFd) {
        let Ok(links) = process::namespaces(directory) else { return };
        // Read where it is wanted, and once for all of its namespaces.
        let brief = OnceCell::new();
        for kind in NsType::ALL {
            let Some(inode) = namespace_of(&links, kind.file_name()) else { continue };
            if !self.count(kind, inode) {
                self.add(kind, inode, open(&links, kind.file_name()));
                if kind == NsType::Mount {
                    self.look_at_mounts(pid, directory);
                }
            }
            self.join(kind, inode, || {
                brief.get_or_init(|| process::brief(pid, directory).ok()).clone()
            });
        }
        for (kind, file) in FOR_CHILDREN {
            match namespace_of(&links, file) {
                Some(inode) if Some(inode) != namespace_of(&links, kind.file_name()) => {
                    self.hold(kind, inode, Holder::ForChildren { pid }, || open(&links, file));
                }
                _ => {}
            }
        }
        self.look_at_files(pid, directory);
    }

    /// Counts a process in a namespace that is known. Whether it is.
    fn count(&mut self, kind: NsType, inode: u64) -> bool {
        match self.namespaces.get_mut(&key(kind, inode)) {
            Some(namespace) => {
                namespace.processes += 1;
                true
            }
            None => false,
        }
    }

    /// Adds a namespace without processes.
    fn add(&mut self, kind: NsType, inode: u64, file: Option<OwnedFd>) {
        if let btree_map::Entry::Vacant(entry) = self.namespaces.entry(key(kind, inode)) {
            entry.insert(Namespace {
                kind,
                inode,
                processes: 0,
                lowest: None,
                owner: None,
                parent: None,
                creator: None,
                holders: Vec::new(),
            });
            if let Some(file) = file {
                self.open.push((kind, inode, file));
                // As few as possible are held at one time.
                self.name_relations();
            }
        }
    }

    /// Notes the lowest process of a namespace. Processes come in the order of their pids.
    fn join(&mut self, kind: NsType, inode: u64, brief: impl FnOnce() -> Option<Brief>) {
        let Some(namespace) = self.namespaces.get_mut(&key(kind, inode)) else { return };
        if namespace.lowest.is_none() {
            namespace.processes = namespace.processes.max(1);
            namespace.lowest = brief();
        }
    }

    /// Notes what holds a namespace.
    fn hold(
        &mut self,
        kind: NsType,
        inode: u64,
        holder: Holder,
        file: impl FnOnce() -> Option<OwnedFd>,
    ) {
        if !self.namespaces.contains_key(&key(kind, inode)) {
            self.add(kind, inode, file());
        }
        if let Some(namespace) = self.namespaces.get_mut(&key(kind, inode))
            && namespace.holders.len() < Namespace::MAX_HOLDERS
        {
            namespace.holders.push(holder);
        }
    }

    /// Finds bind mounts of namespaces among the mounts that a process sees.
    fn look_at_mounts(&mut self, pid: i32, directory: &OwnedFd) {
        let Ok(text) = process::mountinfo(directory) else { return };
        if !text.windows(8).any(|part| part == b" - nsfs ") {
            return;
        }
        for mount in Entry::all(&text).filter(|mount| mount.fs_type == b"nsfs") {
            let Some((kind, inode)) = parse_namespace(mount.root) else { continue };
            let path = unescape(mount.point);
            // Reached through the process's own root: its view is where the path is true.
            let inside: Vec<u8> = path.strip_prefix(b"/").unwrap_or(&path).to_vec();
            let holder = Holder::Mount { pid, path };
            self.hold(kind, inode, holder, || open_in_root(directory, &inside, inode));
        }
    }

    /// Finds namespaces among the open files of a process.
    fn look_at_files(&mut self, pid: i32, directory: &OwnedFd) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(files) = openat(directory, "fd", flags, Mode::empty()) else { return };
        let Ok(entries) = Dir::read_from(&files) else { return };
        for entry in entries.filter_map(Result::ok) {
            let mut buffer = [MaybeUninit::uninit(); 64];
            let name = entry.file_name();
            let Ok((link, _)) = readlinkat_raw(&files, name, &mut buffer) else { continue };
            let Some((kind, inode)) = parse_namespace(link) else { continue };
            let Some(fd) = name.to_str().ok().and_then(|name| name.parse().ok()) else { continue };
            self.hold(kind, inode, Holder::Fd { pid, fd }, || open(&files, name));
        }
    }

    /// Asks the kernel for owners and parents, also of those that are found by this.
    fn name_relations(&mut self) {
        while let Some((kind, inode, file)) = self.open.pop() {
            let owner = ns::owner(&file).ok();
            let has_parent = matches!(kind, NsType::User | NsType::Pid);
            let parent = if has_parent { ns::parent(&file).ok() } else { None };
            let creator = if kind == NsType::User { ns::creator(&file).ok() } else { None };
            let number = |fd: &Option<OwnedFd>| process::inode(fd.as_ref()?).ok();
            let (owner_inode, parent_inode) = (number(&owner), number(&parent));
            if let Some(namespace) = self.namespaces.get_mut(&key(kind, inode)) {
                (namespace.owner, namespace.parent) = (owner_inode, parent_inode);
                namespace.creator = creator;
            }
            let holder = Holder::Descendant { kind, inode };
            if let Some(above) = parent_inode {
                self.hold(kind, above, holder.clone(), || parent);
            }
            if let Some(above) = owner_inode.filter(|_| kind != NsType::User) {
                self.hold(NsType::User, above, holder, || owner);
            }
        }
    }
}

fn key(kind: NsType, inode: u64) -> Key {
    (NsType::ALL.iter().position(|ns| *ns == kind).unwrap_or_default(), inode)
}

fn open(at: impl AsFd, name: impl rustix::path::Arg) -> Option<OwnedFd> {
    openat(at, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Opens the file of a namespace below the root of a process, if it is that namespace's.
fn open_in_root(directory: &OwnedFd, path: &[u8], inode: u64) -> Option<OwnedFd> {
    // Looked at before it is opened: another may lie on it, and opening may do things.
    let found = process::root(directory).ok()?.point(path).ok()?;
    let is_nsfs = rustix::fs::fstatfs(&found).ok()?.f_type as u64 == NSFS_MAGIC;
    if !is_nsfs || process::inode(&found).ok()? != inode {
        return None;
    }
    let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    open(rustix::fs::CWD, name)
}

/// include/uapi/linux/magic.h
const NSFS_MAGIC: u64 = 0x6e73_6673;
