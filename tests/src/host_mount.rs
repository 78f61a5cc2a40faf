//! Mounts of a test on the host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};

/// A mount of the host, which goes with the test however that ends.
#[derive(Debug)]
pub struct HostMount(PathBuf);

impl HostMount {
    /// A new filesystem on a directory, which is made where it is missing.
    pub fn new(fs_type: &str, at: &Path, flags: MountFlags) -> HostMount {
        fs::create_dir_all(at).expect("a directory");
        mount("conti-test", at, fs_type, flags, None).expect("it can be mounted");
        HostMount(at.to_owned())
    }

    /// A tmpfs.
    pub fn tmpfs(at: &Path) -> HostMount {
        HostMount::new("tmpfs", at, MountFlags::empty())
    }

    /// A directory, which is made where it is missing, on another one.
    pub fn bind(source: &Path, at: &Path) -> HostMount {
        fs::create_dir_all(source).expect("a directory");
        mount_bind(source, at).expect("it can be bound");
        HostMount(at.to_owned())
    }

    /// A directory on another one, with an id map. Both are made where they are missing.
    pub fn idmapped(source: &Path, at: &Path) -> HostMount {
        for dir in [source, at] {
            fs::create_dir_all(dir).expect("a directory");
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/idmapped.py");
        let made = Command::new("python3").arg(script).args([source, at]).status();
        assert!(made.expect("python3 runs").success(), "it can be mapped");
        HostMount(at.to_owned())
    }

    /// A directory on itself, read-only.
    pub fn read_only(at: &Path) -> HostMount {
        mount_bind(at, at).expect("it can be bound");
        let bound = HostMount(at.to_owned());
        mount_change(at, MountPropagationFlags::PRIVATE).expect("it is private");
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(at, flags, "").expect("it becomes read-only");
        bound
    }

    /// Passes what is mounted below it on to copies of it, as mounts are on a host with systemd.
    pub fn share(&self) {
        mount_change(&self.0, MountPropagationFlags::SHARED).expect("it is shared");
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
