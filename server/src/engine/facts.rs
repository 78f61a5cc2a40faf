//! What the agent's host is, and what its kernel offers: found once, at the start.

use std::{io, os::fd::AsFd as _};

use conti_runtime::{host, own};
use rustix::mount::{FsOpenFlags, fsopen};

use super::{
    Config,
    cgroup::Cgroups,
    userns::{self, Userns},
};

/// The host of an agent.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Made anew at each start of the agent.
    pub instance_id: String,
    /// As uname(2) has it.
    pub hostname: String,
    /// As uname(2) has it.
    pub kernel_release: String,
    /// As uname(2) has it.
    pub architecture: String,
    /// The layout of the cgroup filesystem.
    pub cgroup_version: CgroupVersion,
    /// The controllers that containers are placed under.
    pub cgroup_controllers: Vec<String>,
    /// The id of this boot.
    pub boot_id: String,
    /// CPUs that are online.
    pub cpu_count: u32,
    /// Usable memory in bytes.
    pub memory_bytes: u64,
    /// Kernel features.
    pub features: Vec<Feature>,
    /// Where runtime state is.
    pub state_dir: std::path::PathBuf,
    /// Where records and layers are.
    pub data_dir: std::path::PathBuf,
}

/// The layout of the cgroup filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy for each controller.
    V1,
    /// The unified hierarchy.
    V2,
    /// Controllers in version 1, with a unified hierarchy beside them.
    Hybrid,
    /// None that can be used.
    None,
}

/// A kernel feature.
#[derive(Debug, Clone)]
pub struct Feature {
    /// Its name, part of the API.
    pub name: &'static str,
    /// Whether it is there.
    pub available: bool,
    /// What is done without it.
    pub detail: String,
}

impl Facts {
    /// Looks at the host.
    pub fn gather(
        config: &Config,
        cgroups: &Cgroups,
        userns: &Userns,
        (instance_id, boot_id): (String, String),
    ) -> Facts {
        let uname = rustix::system::uname();
        let text = |s: &std::ffi::CStr| s.to_string_lossy().into_owned();
        Facts {
            instance_id,
            hostname: text(uname.nodename()),
            kernel_release: text(uname.release()),
            architecture: text(uname.machine()),
            cgroup_version: cgroups.version(),
            cgroup_controllers: cgroups.controllers(),
            boot_id,
            cpu_count: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            memory_bytes: memory_bytes(),
            features: features(cgroups, userns),
            state_dir: config.state_dir.clone(),
            data_dir: config.data_dir.clone(),
        }
    }
}

/// The id of this boot. Without it nothing of what an earlier agent left could be told to be of this boot.
pub fn boot_id() -> io::Result<String> {
    let id = host::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

fn memory_bytes() -> u64 {
    let text = host::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn features(cgroups: &Cgroups, userns: &Userns) -> Vec<Feature> {
    let feature = |name, available, without: &str| Feature {
        name,
        available,
        detail: if available { String::new() } else { without.to_owned() },
    };
    vec![
        feature(
            "overlayfs",
            filesystem("overlay"),
            "the `host` rootfs and overlay layers cannot be had",
        ),
        feature(
            "overlay_layer_fds",
            overlay_layer_fds(),
            "overlayfs is told its layers by path (Linux 6.13)",
        ),
        Feature {
            name: "user_namespaces",
            available: userns.problem.is_none(),
            detail: whose_ids(userns),
        },
        feature(
            "device_policy",
            cgroups.enforces_devices(),
            "CAP_MKNOD is not granted, and everything but /dev is mounted nodev",
        ),
        feature(
            "prepared_slots",
            cgroups.needs_forker(),
            "not needed: processes are born in their cgroup (CLONE_INTO_CGROUP)",
        ),
        feature(
            "proc_of_namespace",
            proc_of_namespace(),
            "a container in another's pid namespace shares that one's proc (Linux 6.17)",
        ),
        feature("time_namespace", own::exists("/proc/self/ns/time"), "time namespaces are refused"),
    ]
}

fn whose_ids(userns: &Userns) -> String {
    match (&userns.problem, userns.wanted) {
        (Some(problem), _) => format!("containers have the host's user namespace: {problem}"),
        (None, userns::Default::Host) => {
            "containers have the host's unless they ask for their own: contid runs with --userns host"
                .to_owned()
        }
        (None, userns::Default::Auto) => format!("each container has its own, with ids of {}", userns.pool),
    }
}

fn filesystem(name: &str) -> bool {
    let text = host::read_to_string("/proc/filesystems").unwrap_or_default();
    // A module that is not loaded yet is loaded by the first fsopen.
    text.lines().any(|l| l.split('\t').nth(1) == Some(name))
        || fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

/// Whether overlayfs takes its layers as fds: tried on a context that is never created.
pub fn overlay_layer_fds() -> bool {
    let Ok(context) = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) else { return false };
    let Ok(dir) = host::open("/") else { return false };
    rustix::mount::fsconfig_set_fd(context.as_fd(), "lowerdir+", dir.as_fd()).is_ok()
}

/// Whether a proc can be made for a pid namespace that its maker is not in (mount option `pidns`, Linux
/// 6.17): tried on a context that is never created.
pub fn proc_of_namespace() -> bool {
    let Ok(context) = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC) else { return false };
    let Ok(own) = host::open("/proc/self/ns/pid") else { return false };
    rustix::mount::fsconfig_set_fd(context.as_fd(), "pidns", own.as_fd()).is_ok()
}
