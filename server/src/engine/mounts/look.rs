//! Looking at what is mounted: whether a mount that was made is there still, and all that are.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use conti_runtime::{
    inspect::{
        held_namespaces::{HeldNamespaces, OwnNamespaces},
        process,
        status::Status,
    },
    kernel_fs::Tree,
    plan::NsType,
    protocol::ProcessId,
};

use super::made::Made;

/// What is seen of a mount that was being attached.
#[derive(Debug)]
pub enum Seen {
    /// It is in its place: with [`super::made::Facts::kernel`].
    There(Option<bool>),
    /// It is not.
    Absent,
}

/// Whether a process lives. If that cannot be determined, it counts as alive.
pub fn lives(process: ProcessId) -> bool {
    let is_gone = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
    };
    process::Pinned::same(process).is_ok()
        || process::start_time(process.pid).is_err_and(|error| !is_gone(&error))
}

/// Looks whether a mount is in its place. If that cannot be determined, it counts as being there.
pub fn seen(made: &Made) -> Seen {
    see(made.witness(), made.namespace, |look| look.at(made))
}

/// As [`seen`], of many: each mount namespace is looked at once.
pub fn seen_each(all: Vec<Made>) -> Vec<(Made, Seen)> {
    let mut by_namespace: HashMap<_, Vec<Made>> = HashMap::new();
    for made in all {
        by_namespace.entry((made.witness(), made.namespace)).or_default().push(made);
    }
    let seen = by_namespace.into_iter().flat_map(|((witness, namespace), in_it)| {
        see(witness, namespace, |look| {
            let seen = |made: Made| {
                let seen = look.at(&made);
                (made, seen)
            };
            in_it.into_iter().map(seen).collect::<Vec<_>>()
        })
    });
    seen.collect()
}

/// What is seen of the mounts of a namespace.
enum Look<'a> {
    /// These are there, and more if some may be hidden.
    Mounts { tree: Tree<'a>, may_hide: bool },
    /// It is there and cannot be looked at.
    Unknown,
    /// Nothing is in it any more.
    Gone,
}

impl Look<'_> {
    fn at(&self, made: &Made) -> Seen {
        let id = made.mount_id.id;
        match self {
            Look::Mounts { tree, .. } if tree.has(id) => Seen::There(tree.is_kernels(id)),
            Look::Mounts { may_hide: true, .. } | Look::Unknown => Seen::There(None),
            Look::Mounts { may_hide: false, .. } | Look::Gone => Seen::Absent,
        }
    }
}

/// Looks at the mounts of a namespace that a process is in.
fn see<T>(witness: Option<ProcessId>, namespace: u64, told: impl FnOnce(Look<'_>) -> T) -> T {
    let Some(witness) = witness else { return told(Look::Gone) };
    let Some(text) = mountinfo_of(witness, namespace) else { return told(Look::Unknown) };
    told(Look::Mounts { tree: Tree::of(&text), may_hide: may_hide(witness) })
}

/// The ids of the mounts in this mount namespace, which a process is in; 0: in whichever it is. `None`: it has gone,
/// from there or altogether, or cannot be looked at, or it may hide some.
pub fn mounts_of(process: ProcessId, namespace: u64) -> Option<HashSet<u64>> {
    let text = mountinfo_of(process, namespace).filter(|_| !may_hide(process))?;
    Some(Tree::of(&text).ids().collect())
}

/// Whether there may be more mounts than are seen: who may mount may put another one on the root of the namespace, and
/// what lies below that is not listed any more, but within reach.
fn may_hide(process: ProcessId) -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = process::directory(process.pid).ok().and_then(|at| Status::read(at).ok());
    let field = status.as_ref().and_then(|status| status.field("CapBnd:"));
    let bits = field.and_then(|digits| str::from_utf8(digits).ok());
    let bits = bits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    // Of the host's own, root may do as it likes.
    let is_hosts = process.pid == std::process::id() as i32;
    !is_hosts && bits.is_none_or(|bits| bits & SYS_ADMIN != 0)
}

/// All of them, whatever root the process has: it may have taken another, from which it does not see what was mounted
/// for it.
fn mountinfo_of(process: ProcessId, namespace: u64) -> Option<Vec<u8>> {
    let pinned = process::Pinned::same(process).ok()?;
    let held = HeldNamespaces::of(&pinned, &OwnNamespaces::look().ok()?).ok()?;
    held.still_of(&pinned).ok()?;
    let is_in = namespace == 0 || held.inode(NsType::Mount) == Some(namespace);
    if !is_in {
        return None;
    }
    held.all_mounts().ok()
}
