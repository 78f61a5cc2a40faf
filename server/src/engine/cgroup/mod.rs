//! The cgroups of containers.
//!
//! The agent makes one directory of its own below the cgroup that it was started in, in every
//! hierarchy that it uses, and in it one cgroup for each container. So containers, agent and
//! monitors are siblings, and several agents do not meet.
//!
//! - the unified hierarchy, wherever it is mounted (on hybrid hosts too): the device policy hangs
//!   on it, `cgroup.kill` ends all of it at once, and where it is alone processes are born in it
//!   (CLONE_INTO_CGROUP);
//! - version 1 hierarchies with the controllers that limits and accounts need: attaching waits for
//!   an RCU grace period, so it is done ahead of time by a forker (see `slots`), who then attaches
//!   itself to the unified hierarchy too. It holds the kernel's cgroup_mutex all that while, for
//!   which CLONE_INTO_CGROUP, mkdir and rmdir of *other* containers would wait: nothing of
//!   this is done while a client waits.

pub mod devices;
pub mod freezer;
mod noted;

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use conti_runtime::{
    beneath, host,
    inspect::process::name_and_fields,
    mountinfo::{self, unescape},
    own,
};
use devices::Rule;
use rustix::process::Pid;

use super::facts::CgroupVersion;
pub use noted::Owner;

/// The name of a forker, as the kernel knows it.
const FORKER: &[u8] = b"conti-forker";

/// The version 1 controllers that containers are placed under, where they exist.
const V1_CONTROLLERS: [&str; 5] = ["memory", "pids", "cpu", "cpuacct", "freezer"];

/// The cgroup hierarchies of the host, as far as the agent uses them.
#[derive(Debug)]
pub struct Cgroups {
    /// The agent's directory in the unified hierarchy.
    unified: Option<PathBuf>,
    /// The name of the agent's directory in each hierarchy.
    agent_dir: String,
    /// The agent's directories in version 1 hierarchies, with the controller each is used for.
    v1: Vec<(&'static str, PathBuf)>,
    /// The standard device policy, loaded once. `None`: no unified hierarchy, or no BPF.
    standard_devices: Option<OwnedFd>,
    version: CgroupVersion,
    /// Where the hierarchies are mounted, for the cgroups of other processes.
    mounted: Vec<Mounted>,
}

/// A mounted hierarchy.
#[derive(Debug)]
struct Mounted {
    /// The controller that it is used for. `None`: the unified hierarchy.
    controller: Option<&'static str>,
    point: PathBuf,
    /// Which directory of the hierarchy is seen at `point`.
    root: PathBuf,
}

impl Mounted {
    /// The directory of a process, whose /proc/PID/cgroup has this text.
    fn dir_of(&self, text: &[u8]) -> PathBuf {
        let path = own_path(text, self.controller);
        let below = path.strip_prefix(&self.root).unwrap_or(&path);
        self.point.join(below.strip_prefix("/").unwrap_or(below))
    }
}

/// The cgroups of one container.
#[derive(Debug)]
pub struct Cgroup {
    /// Its name in every hierarchy.
    pub name: String,
    unified: Option<PathBuf>,
    v1: Vec<(&'static str, PathBuf)>,
    /// How many of [`Cgroup::oom_kills`] were told as somebody's end.
    oom_told: Mutex<u64>,
}

impl Cgroups {
    /// Finds the hierarchies and makes the agent's directories, named after `tag`.
    pub fn detect(tag: &str) -> Cgroups {
        let mounts = host::read("/proc/self/mountinfo").unwrap_or_default();
        let own = host::read("/proc/self/cgroup").unwrap_or_default();
        let dir_name = format!("conti-{tag}");
        let mut unified = None;
        let mut v1: Vec<(&'static str, PathBuf)> = Vec::new();
        let mut mounted = Vec::new();
        for entry in mountinfo::Entry::all(&mounts) {
            let (root, point) = (path(unescape(entry.root)), path(unescape(entry.point)));
            match entry.fs_type {
                b"cgroup2" if unified.is_none() => {
                    unified = place(&point, &root, &own_path(&own, None), &dir_name);
                    mounted.push(Mounted { controller: None, point, root });
                }
                b"cgroup" => {
                    let options: Vec<&[u8]> = entry.fs_options.split(|b| *b == b',').collect();
                    for controller in V1_CONTROLLERS {
                        // One hierarchy may hold several controllers (cpu,cpuacct): enter it once.
                        let seen =
                            v1.iter().any(|(c, p)| *c == controller || p.starts_with(&point));
                        if options.contains(&controller.as_bytes()) && !seen {
                            let own = own_path(&own, Some(controller));
                            if let Some(dir) = place(&point, &root, &own, &dir_name) {
                                v1.push((controller, dir));
                                let controller = Some(controller);
                                let (point, root) = (point.clone(), root.clone());
                                mounted.push(Mounted { controller, point, root });
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        let version = match (&unified, v1.is_empty()) {
            (Some(_), true) => CgroupVersion::V2,
            (Some(_), false) => CgroupVersion::Hybrid,
            (None, false) => CgroupVersion::V1,
            (None, true) => CgroupVersion::None,
        };
        let standard_devices =
            unified.as_ref().and_then(|_| devices::load(&devices::STANDARD).ok());
        if let (CgroupVersion::V2, Some(dir)) = (version, &unified) {
            enable_controllers(dir);
        }
        Cgroups { unified, agent_dir: dir_name, v1, standard_devices, version, mounted }
    }

    /// The name of the agent's directory in each hierarchy.
    pub fn agent_dir(&self) -> &str {
        &self.agent_dir
    }

    /// The agent's directories in all hierarchies.
    pub fn agent_dirs(&self) -> impl Iterator<Item = &PathBuf> {
        self.unified.iter().chain(self.v1.iter().map(|(_, dir)| dir))
    }

    /// Which layout was found.
    pub fn version(&self) -> CgroupVersion {
        self.version
    }

    /// The controllers that containers are placed under.
    pub fn controllers(&self) -> Vec<String> {
        if self.v1.is_empty() {
            let file = self.unified.as_ref().map(|dir| dir.join("cgroup.controllers"));
            let text = file.and_then(|f| host::read_to_string(f).ok()).unwrap_or_default();
            return text.split_whitespace().map(str::to_owned).collect();
        }
        self.v1.iter().map(|(controller, _)| (*controller).to_owned()).collect()
    }

    /// Whether access to devices can be denied.
    pub fn enforces_devices(&self) -> bool {
        self.standard_devices.is_some()
    }

    /// Whether a process must be attached by writing to version 1 files.
    pub fn needs_forker(&self) -> bool {
        !self.v1.is_empty()
    }

    /// Makes the cgroups of a container, with the standard device policy.
    pub fn create(&self, name: &str) -> io::Result<Cgroup> {
        let cgroup = self.open(name);
        for dir in cgroup.dirs() {
            if let Err(error) = own::make_dir(dir, 0o777) {
                cgroup.remove();
                return Err(error);
            }
        }
        if let (Some(dir), Some(program)) = (&cgroup.unified, &self.standard_devices) {
            let attached = host::open(dir).and_then(|dir| {
                conti_runtime::sys::bpf::attach_cgroup_device(dir.as_fd(), program.as_fd())
            });
            if let Err(error) = attached {
                cgroup.remove();
                return Err(error);
            }
        }
        Ok(cgroup)
    }

    /// Names the cgroups of a container that were made before.
    pub fn open(&self, name: &str) -> Cgroup {
        Cgroup {
            name: name.to_owned(),
            unified: self.unified.as_ref().map(|dir| dir.join(name)),
            v1: self.v1.iter().map(|(c, dir)| (*c, dir.join(name))).collect(),
            oom_told: Mutex::default(),
        }
    }

    /// The cgroups of a process of the host: the directory that another can be born in, or the
    /// `cgroup.procs` files for a forker.
    pub fn of_process(&self, pid: i32) -> io::Result<(Option<OwnedFd>, Vec<OwnedFd>)> {
        let text = host::read(format!("/proc/{pid}/cgroup"))?;
        let (mut unified, mut procs) = (None, Vec::new());
        for mounted in &self.mounted {
            let dir = mounted.dir_of(&text);
            match mounted.controller {
                None if self.v1.is_empty() => unified = Some(host::open(dir)?.into()),
                _ => procs.push(
                    host::open_with(OpenOptions::new().write(true), dir.join("cgroup.procs"))?
                        .into(),
                ),
            }
        }
        Ok((unified, procs))
    }

    /// The name of the container's cgroups that a process is in.
    pub fn name_of(&self, pid: i32) -> Option<String> {
        let text = host::read(format!("/proc/{pid}/cgroup")).ok()?;
        let within = |dir: PathBuf| {
            let below = self.agent_dirs().find_map(|own| dir.strip_prefix(own).ok())?;
            below.components().next()?.as_os_str().to_str().map(str::to_owned)
        };
        self.mounted.iter().find_map(|mounted| within(mounted.dir_of(&text)))
    }

    /// What says that a process of the host is frozen, and with it all that is started in its cgroups.
    pub fn frozen_process(&self, pid: i32) -> io::Result<Option<PathBuf>> {
        let text = host::read(format!("/proc/{pid}/cgroup"))?;
        let frozen = |mounted: &Mounted| {
            let dir = mounted.dir_of(&text);
            match mounted.controller {
                Some(_) => freezer::frozen_v1(&dir),
                None => freezer::frozen_v2(&dir),
            }
        };
        Ok(self.mounted.iter().find_map(frozen))
    }

    /// The same of version 1, which holds also what was killed.
    pub fn holds_killed(&self, pid: i32) -> io::Result<Option<PathBuf>> {
        let text = host::read(format!("/proc/{pid}/cgroup"))?;
        let mut version_1 = self.mounted.iter().filter(|mounted| mounted.controller.is_some());
        Ok(version_1.find_map(|mounted| freezer::frozen_v1(&mounted.dir_of(&text))))
    }

    /// The names of all cgroups that are there, in any hierarchy.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .unified
            .iter()
            .chain(self.v1.iter().map(|(_, dir)| dir))
            .filter_map(|dir| own::read_dir(dir).ok())
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Removes the agent's own directories, where no container is left in them.
    pub fn remove_if_empty(&self) {
        for dir in self.agent_dirs() {
            let _ = own::remove_dir(dir);
        }
    }
}

impl Cgroup {
    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        self.unified.iter().chain(self.v1.iter().map(|(_, dir)| dir))
    }

    /// The directory that a process can be born in (CLONE_INTO_CGROUP). `None`: it must be born by a
    /// forker that is attached to `procs_files`.
    pub fn birth_fd(&self) -> io::Result<Option<OwnedFd>> {
        let alone = self.unified.as_ref().filter(|_| self.v1.is_empty());
        alone.map(|dir| host::open(dir).map(OwnedFd::from)).transpose()
    }

    /// The `cgroup.procs` files for a forker; none where it needs no forker.
    pub fn procs_files(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |dir: &PathBuf| {
            host::open_with(OpenOptions::new().write(true), dir.join("cgroup.procs"))
        };
        if self.v1.is_empty() {
            return Ok(Vec::new());
        }
        self.dirs().map(|dir| open(dir).map(OwnedFd::from)).collect()
    }

    /// Replaces the device policy: `rules`, or everything where `None`.
    pub fn set_devices(&self, rules: Option<&[Rule]>) -> io::Result<()> {
        let Some(dir) = &self.unified else { return Ok(()) };
        let any =
            |block| Rule { block, major: None, minor: None, read: true, write: true, mknod: true };
        let all = [any(false), any(true)];
        let program = devices::load(rules.unwrap_or(&all))?;
        conti_runtime::sys::bpf::attach_cgroup_device(host::open(dir)?.as_fd(), program.as_fd())
    }

    /// Whether the out-of-memory killer has ended a process of it that was not told yet: such an end
    /// is told once. Ask only for a process that SIGKILL has ended.
    pub fn take_oom_kill(&self) -> bool {
        let mut told = self.oom_told.lock().unwrap_or_else(PoisonError::into_inner);
        let new = self.oom_kills() > *told;
        *told += u64::from(new);
        new
    }

    /// How many processes of it the out-of-memory killer has ended.
    fn oom_kills(&self) -> u64 {
        let file = match (&self.unified, self.v1.iter().find(|(c, _)| *c == "memory")) {
            (_, Some((_, dir))) => dir.join("memory.oom_control"),
            (Some(dir), None) => dir.join("memory.events"),
            (None, None) => return 0,
        };
        let text = host::read_to_string(file).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    /// The processes in it, and in those below it, without forkers that wait for the next one.
    ///
    /// # Errors
    ///
    /// They cannot be listed, as for want of files: there may be any.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let mut all = Vec::new();
        for dir in self.dirs() {
            for dir in tree(dir)? {
                all.extend(pids_in(&dir)?);
            }
        }
        all.sort_by_key(|pid| pid.as_raw_pid());
        all.dedup();
        Ok(all.iter().copied().filter(|pid| counts(*pid, &all)).collect())
    }

    /// Whether no process is in it.
    pub fn is_empty(&self) -> bool {
        self.processes().is_ok_and(|all| all.is_empty())
    }

    /// Sends SIGKILL to everything in it, and thaws it: what is frozen cannot die.
    pub fn kill(&self) {
        let at_once = |dir: &PathBuf| write_to(&dir.join("cgroup.kill"), "1").is_ok();
        if !self.unified.as_ref().is_some_and(at_once) {
            self.kill_one_by_one();
        }
        self.thaw();
    }

    /// Version 1 alone: freezes, so that a fork bomb cannot outrun us, and kills.
    fn kill_one_by_one(&self) {
        if let Some(dir) = self.freezer() {
            let _ = write_to(&dir.join("freezer.state"), "FROZEN");
        }
        let Some((_, dir)) = self.v1.first() else { return };
        let all = tree(dir).into_iter().flatten();
        for pid in all.flat_map(|dir| pids_in(&dir).unwrap_or_default()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Removes the cgroups, with those that were made below them. What is busy is tried again for
    /// a short while: a killed process leaves its cgroup only when it is reaped.
    pub fn remove(&self) -> bool {
        let mut all = true;
        for dir in self.dirs() {
            let mut removed = false;
            for attempt in 0..12 {
                removed = remove_tree(dir);
                if removed {
                    break;
                }
                thread::sleep(Duration::from_micros(200 << attempt.min(8)));
            }
            all &= removed;
        }
        all
    }
}

/// The path of a process in a hierarchy, from /proc/PID/cgroup. `None`: the unified one. Names of cgroups are
/// bytes.
fn own_path(text: &[u8], controller: Option<&str>) -> PathBuf {
    let found = text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let fits = match controller {
            None => controllers.is_empty(),
            Some(c) => controllers.split(|byte| *byte == b',').any(|have| have == c.as_bytes()),
        };
        fits.then_some(path)
    });
    path(found.unwrap_or(b"/").to_owned())
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// Makes the agent's directory below its own cgroup, as seen through a mount of the hierarchy.
fn place(mount: &Path, root: &Path, own: &Path, name: &str) -> Option<PathBuf> {
    let below = own.strip_prefix(root).unwrap_or(Path::new(""));
    let below = below.strip_prefix("/").unwrap_or(below);
    let mut base = mount.join(below);
    // systemd delegates a unit's cgroup; an agent that moved itself to a leaf stays beside it.
    if base.file_name().is_some_and(|leaf| leaf == "conti-agent") {
        base.pop();
    }
    let dir = base.join(name);
    // Nobody else is to have it open: the agent locks it. Root of a container with ids of its own goes through it when
    // it mounts its cgroup2 (kernfs_node_dentry in the kernel's fs/kernfs/mount.c).
    match own::make_dir(&dir, 0o711) {
        Ok(()) => Some(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Some(dir),
        Err(_) => None,
    }
}

/// Version 2 alone: passes the controllers down to the containers. A cgroup with processes of its
/// own may not do so (except for the root), so the agent first moves to a leaf beside them.
fn enable_controllers(dir: &Path) {
    let Some(parent) = dir.parent() else { return };
    let enable = |dir: &Path| {
        for controller in ["cpu", "memory", "pids", "io"] {
            let _ = write_to(&dir.join("cgroup.subtree_control"), &format!("+{controller}"));
        }
    };
    if own::exists(parent.join("cgroup.type")) {
        let leaf = parent.join("conti-agent");
        if own::make_dir(&leaf, 0o777).is_ok() || own::is_dir(&leaf) {
            let _ = write_to(&leaf.join("cgroup.procs"), "0");
        }
    }
    enable(parent);
    enable(dir);
}

fn write_to(file: &Path, text: &str) -> io::Result<()> {
    host::open_with(OpenOptions::new().write(true), file)?.write_all(text.as_bytes())
}

/// Whether one of the processes in a cgroup is there, and no forker that waits. Any process may have the name of a
/// forker, but none of a container has a parent outside with which it shares its mounts.
fn counts(pid: Pid, all: &[Pid]) -> bool {
    let stat = match host::read_line(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) => return !is_gone(&error),
    };
    let Some((FORKER, fields)) = name_and_fields(&stat) else { return true };
    let parent = fields.get(1).and_then(|field| str::from_utf8(field).ok()?.parse().ok());
    let Some(parent) = parent.and_then(Pid::from_raw).filter(|parent| !all.contains(parent)) else {
        return true;
    };
    let mounts = |pid: Pid| own::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    mounts(pid).is_none_or(|own| mounts(parent) != Some(own))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV))
}

fn pids_in(dir: &Path) -> io::Result<Vec<Pid>> {
    let text = match host::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => text,
        // The cgroup has gone meanwhile, and with it all that was in there.
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let pids = text.lines().filter_map(|line| line.parse().ok());
    Ok(pids.filter_map(Pid::from_raw).collect())
}

/// A cgroup with all cgroups below it, each after the one that it lies in.
fn tree(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(dir) = all.get(next) {
        let below = match own::read_dir(dir) {
            Ok(below) => below.collect::<io::Result<Vec<_>>>()?,
            Err(error) if is_gone(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        let below = below.into_iter().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
        let below: Vec<PathBuf> = below.map(|entry| entry.path()).collect();
        all.extend(below);
        next += 1;
    }
    Ok(all)
}

/// Removes a cgroup with the cgroups below it. True where it is gone.
fn remove_tree(dir: &Path) -> bool {
    beneath::remove_cgroup(dir).is_ok()
}
