//! Filesystems through which the kernel shows itself and is told what to do: proc, sysfs and their kin.
//!
//! In a container parts of them are hidden behind covers, or read-only, by mounts on top of them. Whoever
//! could mount there, or have a copy of them without the covers, would get round that. So rules about such places
//! look at what was opened, and never at a path: any path may lead there by a link.

use std::{collections::HashMap, os::fd::AsFd, sync::OnceLock};

use rustix::{
    fs::{fstat, fstatfs},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use crate::mountinfo::Entry;

/// Where a container has them, and its devices. All below belongs to them.
pub const PLACES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Their names in mountinfo, and what statfs(2) calls them (linux/magic.h, or the filesystem's own source).
/// 0: no number of its own, as devtmpfs has that of tmpfs.
const TYPES: [(&str, u32); 20] = [
    ("binfmt_misc", 0x4249_4e4d),
    ("bpf", 0xcafe_4a11),
    ("cgroup", 0x0027_e0eb),
    ("cgroup2", 0x6367_7270),
    ("configfs", 0x6265_6570),
    ("debugfs", 0x6462_6720),
    ("devpts", 0x1cd1),
    ("devtmpfs", 0),
    ("efivarfs", 0xde5e_81e4),
    ("fusectl", 0x6573_5543),
    ("mqueue", 0x1980_0202),
    ("nfsd", 0x6e66_7364),
    ("nsfs", 0x6e73_6673),
    ("proc", 0x9fa0),
    ("pstore", 0x6165_676c),
    ("resctrl", 0x0765_5821),
    ("rpc_pipefs", 0x6759_6969),
    ("securityfs", 0x7363_6673),
    ("sysfs", 0x6265_6572),
    ("tracefs", 0x7472_6163),
];

/// Security modules' own, which are as well.
const OF_SECURITY_MODULES: [(&str, u32); 2] =
    [("selinuxfs", 0xf97c_ff8c), ("smackfs", 0x4341_5d53)];

fn all() -> impl Iterator<Item = &'static (&'static str, u32)> {
    TYPES.iter().chain(&OF_SECURITY_MODULES)
}

/// Whether an open file, by whatever path it was come to, is of one of them.
pub fn holds(file: impl AsFd) -> Result<bool, Errno> {
    let file = file.as_fd();
    let magic = (fstatfs(file)?.f_type as u64 & 0xffff_ffff) as u32;
    if LIKE_DEVTMPFS.contains(&magic) {
        let device = fstat(file)?.st_dev;
        return Ok(devtmpfs() == Some(device));
    }
    Ok(magic != 0 && all().any(|(_, number)| *number == magic))
}

/// What statfs(2) says of a devtmpfs: tmpfs or ramfs, as which it is made (the kernel's drivers/base/devtmpfs.c).
const LIKE_DEVTMPFS: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// The device number of the host's devtmpfs: however often it is mounted, it is one. `None`: there is none, or this process
/// may not mount it.
fn devtmpfs() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let context = fsopen("devtmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        fsconfig_create(&context).ok()?;
        let attributes = MountAttrFlags::empty();
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).ok()?;
        Some(fstat(&mounted).ok()?.st_dev)
    })
}

/// Whether a filesystem of this type, as mountinfo names it, is one of them.
pub fn is_type(name: &[u8]) -> bool {
    all().any(|(known, _)| known.as_bytes() == name)
}

/// The mounts of one namespace, by their ids.
pub struct Tree<'a>(HashMap<u64, Entry<'a>>);

impl<'a> Tree<'a> {
    /// Those of a text of mountinfo.
    pub fn of(mountinfo: &'a [u8]) -> Tree<'a> {
        Tree(Entry::all(mountinfo).map(|entry| (entry.id, entry)).collect())
    }

    /// The ids of all.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.keys().copied()
    }

    /// Whether a mount is there.
    pub fn has(&self, id: u64) -> bool {
        self.0.contains_key(&id)
    }

    /// Whether a mount or one below it is of the kernel's: the point of the first that was found.
    pub fn kernels_at_or_below(&self, id: u64) -> Option<&'a [u8]> {
        let mut below: HashMap<u64, Vec<u64>> = HashMap::new();
        for entry in self.0.values() {
            below.entry(entry.parent).or_default().push(entry.id);
        }
        // Downwards, each mount once: from each of the kernel's upwards would take hours where 100,000 of them
        // lie on one another.
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            match self.0.get(&id) {
                Some(entry) if is_type(entry.fs_type) => return Some(entry.point),
                _ => open.extend(below.remove(&id).unwrap_or_default()),
            }
        }
        None
    }

    /// Where those lie that are mounted below a mount: each before what it lies on.
    pub fn below(&self, id: u64) -> Vec<&'a [u8]> {
        let mut on: HashMap<u64, Vec<&Entry<'a>>> = HashMap::new();
        for entry in self.0.values() {
            on.entry(entry.parent).or_default().push(entry);
        }
        let mut found: Vec<&Entry<'a>> = on.remove(&id).unwrap_or_default();
        let mut next = 0;
        while let Some(entry) = found.get(next) {
            let mut above = on.remove(&entry.id).unwrap_or_default();
            above.sort_unstable_by_key(|entry| entry.id);
            found.extend(above);
            next += 1;
        }
        found.iter().rev().map(|entry| entry.point).collect()
    }

    /// Whether a mount is of the kernel's, or brings such a one along, or lies on one or at one of the [`PLACES`].
    /// `None`: it is not there, or not all that it lies on is seen.
    pub fn is_kernels(&self, id: u64) -> Option<bool> {
        let on: Vec<Entry<'_>> = self.upwards(self.0.get(&id)?.parent).collect();
        on.last().filter(|last| last.point == b"/")?;
        let lies = self.lies_in_places(id) || on.iter().any(|entry| is_type(entry.fs_type));
        Some(lies || self.kernels_at_or_below(id).is_some())
    }

    /// Whether a mount lies at one of the [`PLACES`] or below one.
    pub fn lies_in_places(&self, id: u64) -> bool {
        let is_place = |entry: &Entry<'_>| PLACES.iter().any(|of| of.as_bytes() == entry.point);
        self.upwards(id).any(|entry| is_place(&entry))
    }

    /// A mount, the one that it lies on, and so on up to the root of the namespace.
    fn upwards(&self, id: u64) -> impl Iterator<Item = Entry<'a>> + '_ {
        let next = |entry: &Entry<'a>| self.0.get(&entry.parent).copied();
        // No longer than there are mounts: a text that was read while mounts were moved may hold a ring.
        std::iter::successors(self.0.get(&id).copied(), next).take(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"1 0 0:1 / / rw - overlay o rw\n\
        2 1 0:2 / /proc rw - proc proc rw\n\
        3 2 0:2 /sys /proc/sys ro - proc proc rw\n\
        4 1 0:4 / /dev rw - tmpfs tmpfs rw\n\
        5 4 0:5 / /dev/shm rw - tmpfs tmpfs rw\n\
        6 1 0:6 / /mnt rw - tmpfs tmpfs rw\n\
        7 6 0:7 / /mnt/a rw - tmpfs tmpfs rw\n\
        8 7 0:8 / /mnt/a/cg rw - cgroup2 none rw\n\
        10 11 0:9 / /x rw - tmpfs tmpfs rw\n\
        11 10 0:9 / /y rw - tmpfs tmpfs rw\n";

    #[test]
    fn what_lies_below_a_mount_is_found_by_ids() {
        let tree = Tree::of(TABLE);
        assert!(tree.kernels_at_or_below(1).is_some());
        assert_eq!(tree.kernels_at_or_below(3), Some(&b"/proc/sys"[..]));
        assert_eq!(tree.kernels_at_or_below(6), Some(&b"/mnt/a/cg"[..]));
        for plain in [4, 5, 10, 99] {
            assert_eq!(tree.kernels_at_or_below(plain), None, "{plain}");
        }
    }

    #[test]
    fn what_lies_below_a_mount_is_told_from_above() {
        let tree = Tree::of(TABLE);
        assert_eq!(tree.below(6), [&b"/mnt/a/cg"[..], b"/mnt/a"]);
        assert_eq!(tree.below(8), [&b""[..]; 0]);
        // A ring ends.
        assert_eq!(tree.below(10), [&b"/x"[..], b"/y"]);
    }

    #[test]
    fn a_mount_is_the_kernels_by_what_it_is_what_it_brings_and_where_it_lies() {
        let tree = Tree::of(TABLE);
        for (id, is) in [(2, true), (3, true), (5, true), (6, true), (7, true), (8, true)] {
            assert_eq!(tree.is_kernels(id), Some(is), "{id}");
        }
        let plain = b"1 0 0:1 / / rw - overlay o rw\n\
            2 1 0:2 / /mnt rw - tmpfs tmpfs rw\n\
            3 1 0:3 / /cg rw - cgroup2 none rw\n\
            4 3 0:4 / /cg/a rw - tmpfs tmpfs rw\n";
        let tree = Tree::of(plain);
        assert_eq!([2, 3, 4].map(|id| tree.is_kernels(id)), [Some(false), Some(true), Some(true)]);
        // What it lies on is not seen, or it is not there.
        let tree = Tree::of(TABLE);
        assert_eq!([10, 11, 99].map(|id| tree.is_kernels(id)), [None; 3]);
        assert_eq!(Tree::of(b"7 6 0:7 / /mnt/a rw - tmpfs t rw\n").is_kernels(7), None);
    }

    #[test]
    fn a_hundred_thousand_mounts_on_one_another_are_gone_through_once() {
        let line = |id: u64, kind| format!("{id} {} 0:1 / /x rw - {kind} x rw\n", id - 1);
        let deep: String = (1..=100_000).map(|id| line(id, "tmpfs")).collect();
        let last = line(100_001, "proc");
        let text = format!("{deep}{last}");
        let tree = Tree::of(text.as_bytes());
        assert_eq!(tree.kernels_at_or_below(1), Some(&b"/x"[..]));
        assert!(!tree.lies_in_places(100_001));
        // From each of them it would be 5,000,000,000 steps.
        let aside = format!("{}200000 0 0:1 / /y rw - tmpfs x rw\n", text.replace("tmpfs", "proc"));
        assert_eq!(Tree::of(aside.as_bytes()).kernels_at_or_below(200_000), None);
    }

    #[test]
    fn places_are_those_of_the_mounts_and_all_below() {
        let tree = Tree::of(TABLE);
        for (id, inside) in
            [(2, true), (3, true), (4, true), (5, true), (6, false), (1, false), (10, false)]
        {
            assert_eq!(tree.lies_in_places(id), inside, "{id}");
        }
    }
}
