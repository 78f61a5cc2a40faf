//! What of an engine one client sees, and which of the host's paths it may have mounted.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The labels that a container must have to be seen. None: all containers are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(pub BTreeMap<String, String>);

impl Scope {
    /// Whether a container with these labels is seen.
    pub fn sees(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

/// Directories of the host below which alone sources lie, whatever links are on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// For what is mounted.
    pub mounts: Vec<PathBuf>,
    /// For root filesystems.
    pub rootfs: Vec<PathBuf>,
}

/// The outermost of some directories that a path lies in, and the rest of the path. The outermost,
/// because what lies below it may be changed by those who were given it.
pub fn within<'a>(directories: &'a [PathBuf], path: &'a Path) -> Option<(&'a Path, &'a Path)> {
    let fits =
        directories.iter().filter_map(|dir| Some((dir.as_path(), path.strip_prefix(dir).ok()?)));
    fits.min_by_key(|(dir, _)| dir.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn all_labels_of_a_scope_must_fit() {
        let scope = Scope(labels(&[("team", "blue"), ("stage", "test")]));
        assert!(scope.sees(&labels(&[("team", "blue"), ("stage", "test"), ("x", "y")])));
        assert!(!scope.sees(&labels(&[("team", "blue")])));
        assert!(!scope.sees(&labels(&[("team", "red"), ("stage", "test")])));
        assert!(Scope::default().sees(&labels(&[])));
    }

    #[test]
    fn a_path_lies_in_the_outermost_directory_by_whole_parts() {
        let dirs = [PathBuf::from("/srv/a"), PathBuf::from("/srv"), PathBuf::from("/data")];
        let found = within(&dirs, Path::new("/srv/a/b"));
        assert_eq!(found, Some((Path::new("/srv"), Path::new("a/b"))));
        assert_eq!(within(&dirs, Path::new("/srv")), Some((Path::new("/srv"), Path::new(""))));
        assert_eq!(within(&dirs, Path::new("/srvx/a")), None);
        assert_eq!(within(&[], Path::new("/srv")), None);
    }
}
