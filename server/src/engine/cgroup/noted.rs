//! What the agent notes on the cgroup of a container, in extended attributes: facts that the kernel keeps for as long
//! as anything of the container may run, whatever becomes of files. Nothing in a container can change them (`trusted.*`,
//! see xattr(7)). They tell of what a record is missing; where a record can be read it is what holds.
//!
//! Where the kernel or the rights of the agent do not allow them, nothing is noted.

use std::path::PathBuf;

use rustix::{
    buffer::spare_capacity,
    fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr},
    io::Errno,
};

use super::Cgroup;
use crate::engine::id;

/// The id of its container. Empty: nothing of that should run any more.
const CONTAINER: &str = "trusted.conti.container";
/// With the id of a mount behind it, for each that was made in the container.
const MOUNT: &str = "trusted.conti.mount.";
/// The most that the kernel lists.
const LIST_MAX: usize = 1 << 16;

/// Whose a cgroup is.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner {
    /// That of a container, by its id.
    Container(String),
    /// Nobody's: what is left in it is to end.
    Nobody,
}

impl Cgroup {
    /// Where it is noted: in one hierarchy, for all.
    fn noted(&self) -> Option<&PathBuf> {
        self.dirs().next()
    }

    fn note(&self, name: &str, value: &str) {
        let Some(dir) = self.noted() else { return };
        if let Err(error) = setxattr(dir, name, value.as_bytes(), XattrFlags::empty()) {
            tracing::debug!(cgroup = self.name, name, %error, "it cannot be noted on the cgroup");
        }
    }

    /// Notes whose it is.
    pub fn note_container(&self, id: &str) {
        self.note(CONTAINER, id);
    }

    /// Notes that nothing in it should run any more.
    pub fn note_over(&self) {
        self.note(CONTAINER, "");
    }

    /// Whose it is. `None`: that is not noted.
    pub fn noted_owner(&self) -> Option<Owner> {
        let mut value = Vec::with_capacity(id::LENGTH);
        getxattr(self.noted()?, CONTAINER, spare_capacity(&mut value)).ok()?;
        match String::from_utf8(value).ok()? {
            id if id.is_empty() => Some(Owner::Nobody),
            id => id::is_one(&id).then_some(Owner::Container(id)),
        }
    }

    /// Notes a mount that is made in its container.
    pub fn note_mount(&self, id: &str) {
        self.note(&format!("{MOUNT}{id}"), "");
    }

    /// Takes the note of a mount away.
    pub fn forget_mount(&self, id: &str) {
        if let Some(dir) = self.noted() {
            // It was not noted, or went with the container.
            let _ = removexattr(dir, format!("{MOUNT}{id}"));
        }
    }

    /// The ids of the mounts that are noted. `None`: they cannot be listed.
    pub fn noted_mounts(&self) -> Option<Vec<String>> {
        let mut names = Vec::with_capacity(LIST_MAX);
        match listxattr(self.noted()?, spare_capacity(&mut names)) {
            Ok(_) => {}
            Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::PERM) => return Some(Vec::new()),
            Err(_) => return None,
        }
        let names = names.split(|byte| *byte == 0).filter_map(|name| str::from_utf8(name).ok());
        Some(names.filter_map(|name| name.strip_prefix(MOUNT)).map(str::to_owned).collect())
    }
}
