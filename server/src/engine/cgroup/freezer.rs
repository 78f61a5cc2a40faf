//! Frozen cgroups: seeing that one is, and letting it go on so that what was killed can die.
//!
//! A process that a version 1 freezer holds does not die of SIGKILL before it is thawed. One that version 2 holds
//! does, but what is started in its cgroup never begins.

use std::path::{Path, PathBuf};

use conti_runtime::host;

use super::{Cgroup, tree, write_to};

/// The state of a version 1 freezer: THAWED, FREEZING or FROZEN, those of the cgroups above it included.
const V1_STATE: &str = "freezer.state";
/// Whether a version 2 cgroup is to be frozen: 0 or 1, without those above it.
const V2_FREEZE: &str = "cgroup.freeze";

impl Cgroup {
    /// What says that processes in it are held: the file, of this cgroup or one above it. `None`: it is not frozen.
    pub fn frozen(&self) -> Option<PathBuf> {
        let version_2 = self.unified.as_ref().and_then(|dir| frozen_v2(dir));
        version_2.or_else(|| self.freezer().and_then(|dir| frozen_v1(dir)))
    }

    /// Lets everything in it go on, also in the cgroups that were made below it. What a cgroup above it holds
    /// stays: that is not Conti's.
    pub fn thaw(&self) {
        for dir in
            self.unified.iter().flat_map(|dir| tree(dir).unwrap_or_else(|_| vec![dir.clone()]))
        {
            if says(&dir.join(V2_FREEZE), "1") == Some(true) {
                let _ = write_to(&dir.join(V2_FREEZE), "0");
            }
        }
        // From the top: a cgroup is not thawed below one that is frozen.
        for dir in self
            .freezer()
            .into_iter()
            .flat_map(|dir| tree(dir).unwrap_or_else(|_| vec![dir.clone()]))
        {
            if says(&dir.join(V1_STATE), "THAWED") == Some(false) {
                let _ = write_to(&dir.join(V1_STATE), "THAWED");
            }
        }
    }

    /// Its directory in the freezer of version 1.
    pub(super) fn freezer(&self) -> Option<&PathBuf> {
        self.v1.iter().find(|(controller, _)| *controller == "freezer").map(|(_, dir)| dir)
    }
}

/// The file that says that processes in a version 1 cgroup are held. It speaks for the cgroups above it as well.
/// `None`: it does not, or this is no hierarchy with a freezer.
pub fn frozen_v1(dir: &Path) -> Option<PathBuf> {
    let state = dir.join(V1_STATE);
    (says(&state, "THAWED") == Some(false)).then_some(state)
}

/// The same of version 2.
pub fn frozen_v2(dir: &Path) -> Option<PathBuf> {
    // The root of the hierarchy has no such file, nor has what lies above where it is mounted.
    for dir in dir.ancestors() {
        let file = dir.join(V2_FREEZE);
        if says(&file, "1")? {
            return Some(file);
        }
    }
    None
}

/// Whether a file holds a word. `None`: it cannot be read, since it or the cgroup is not there.
fn says(file: &Path, word: &str) -> Option<bool> {
    Some(host::read_line(file).ok()?.trim_ascii() == word.as_bytes())
}

#[cfg(test)]
mod tests {
    use conti_runtime::own;

    use super::*;

    /// Directories as the kernel shows them.
    fn hierarchy(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            own::make_dirs(path.parent().unwrap(), 0o755).unwrap();
            own::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_cgroup_below_a_frozen_one_is_frozen() {
        let root = hierarchy(&[
            ("agent/cgroup.freeze", "1\n"),
            ("agent/c/cgroup.freeze", "0\n"),
            ("other/c/cgroup.freeze", "0\n"),
            ("other/cgroup.freeze", "0\n"),
        ]);
        let file = root.path().join("agent/cgroup.freeze");
        assert_eq!(frozen_v2(&root.path().join("agent/c")), Some(file));
        assert_eq!(frozen_v2(&root.path().join("other/c")), None);
        assert_eq!(frozen_v2(&root.path().join("none")), None);
    }

    #[test]
    fn a_version_1_freezer_speaks_for_itself() {
        let root = hierarchy(&[("a/freezer.state", "FREEZING\n"), ("b/freezer.state", "THAWED\n")]);
        assert_eq!(frozen_v1(&root.path().join("a")), Some(root.path().join("a/freezer.state")));
        assert_eq!(frozen_v1(&root.path().join("b")), None);
    }
}
