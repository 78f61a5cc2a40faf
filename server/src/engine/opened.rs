//! Where on the host that lay which a container was started from: facts by which it is decided who might have made it.
//!
//! The paths of a specification do not tell: links are followed where they are opened, and whoever was granted a
//! directory may have put links into it. What was opened is asked of the open files themselves, and kept with the
//! container from before its process runs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::spec::Rootfs;

/// The most directories of a root that are kept.
const ROOTS_MAX: usize = 32;

/// Where something lay, links followed. `None`: it is not known, or nobody but an admin may have it.
pub type Place = Option<PathBuf>;

/// What was opened for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The directory of its root, if it has one of the host. With a private layer, which may hold files of what it
    /// has lain over, also those of the starts before.
    pub rootfs: Vec<Place>,
    /// The sources of each mount.
    pub mounts: Vec<Vec<PathBuf>>,
    /// The devices.
    pub devices: Vec<Place>,
}

impl Opened {
    /// What of the starts before is still in a container that is started with this. `before`: what is known of them;
    /// `None`: nothing.
    pub fn after(mut self, before: Option<&Opened>, rootfs: &Rootfs) -> Opened {
        if !matches!(rootfs, Rootfs::Dir { overlay: true, .. }) {
            return self;
        }
        let unknown = [None];
        let before = before.map_or(&unknown[..], |before| &before.rootfs);
        for place in before {
            // What there is no room for is not known.
            let place = place.as_ref().filter(|_| self.rootfs.len() < ROOTS_MAX);
            let place = place.cloned();
            if !self.rootfs.contains(&place) {
                self.rootfs.push(place);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(places: &[Option<&str>]) -> Opened {
        let rootfs = places.iter().map(|place| place.map(PathBuf::from)).collect();
        Opened { rootfs, mounts: vec![vec!["/m".into()]], devices: Vec::new() }
    }

    fn dir(overlay: bool) -> Rootfs {
        Rootfs::Dir { path: "/r".into(), overlay }
    }

    #[test]
    fn a_layer_keeps_what_it_has_lain_over() {
        let first = of(&[Some("/a")]);
        let second = of(&[Some("/b")]).after(Some(&first), &dir(true));
        assert_eq!(second, of(&[Some("/b"), Some("/a")]));
        let third = of(&[Some("/a")]).after(Some(&second), &dir(true));
        assert_eq!(third, of(&[Some("/a"), Some("/b")]));
        assert_eq!(of(&[Some("/b")]).after(None, &dir(true)), of(&[Some("/b"), None]));
        for rootfs in [dir(false), Rootfs::Host] {
            let without = of(&[Some("/b")]).after(Some(&first), &rootfs);
            assert_eq!(without, of(&[Some("/b")]));
        }
    }

    #[test]
    fn more_than_can_be_kept_is_not_known() {
        let mut all = of(&[Some("/0")]);
        for n in 1..100 {
            let name = format!("/{n}");
            all = of(&[Some(&name)]).after(Some(&all), &dir(true));
        }
        assert_eq!(all.rootfs.len(), ROOTS_MAX + 1);
        assert_eq!(all.rootfs.last(), Some(&None));
        assert_eq!(all.rootfs[0], Some("/99".into()));
    }
}
