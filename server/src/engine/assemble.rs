//! From a container's specification to the plan of its main process: every source opened, every
//! mount in its order, every default laid down.

use std::{os::fd::OwnedFd, path::Path, sync::Arc};

use conti_runtime::{
    beneath::{Blocked, Dir},
    host,
    plan::{
        ContainerPlan, Fd, IdMap, Mount, MountAttrs, MountWhat, Namespaces, NsSource, NsType,
        Place, Plan, Process, Root, Stdio,
    },
    protocol::ProcessId,
};
use rustix::mount::MountAttrFlags;

use super::{
    cgroup::devices::{self, Rule},
    error::{Error, Result},
    facts::CgroupVersion,
    net_defaults,
    opened::Opened,
    process,
    sources::{FdList, bind, dev, devpts, filesystem, host_view::HostView, requested, rootfs},
    spec::{ContainerSpec, MountSource, Namespace, SessionIo},
};

/// Hidden in every container that is not privileged, as the major runtimes do it. Beyond these what root
/// of the host, which has the same id as root in a container with the host's ids, may read of each page of
/// memory and of the keys of all users.
const MASKED: [&str; 15] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

/// Read-only in every container that is not privileged.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a container is assembled for.
#[derive(Debug)]
pub struct Request<'a> {
    /// The container's specification.
    pub spec: &'a ContainerSpec,
    /// The session's id.
    pub session_id: &'a str,
    /// The container's directory.
    pub dir: &'a Path,
    /// Whether init stops before the command.
    pub paused: bool,
    /// The processes of the containers whose namespaces are joined, with the id maps of their
    /// user namespace.
    pub joined: &'a Joined,
    /// The host's programs.
    pub view: &'a HostView,
    /// The layout of the cgroup filesystem.
    pub cgroup_version: CgroupVersion,
    /// Whether access to devices can be denied.
    pub enforces_devices: bool,
}

/// Containers whose namespaces are joined: for each type, the main process.
#[derive(Debug, Default)]
pub struct Joined {
    /// The processes.
    pub processes: Vec<(NsType, ProcessId)>,
    /// The proc of a joined pid namespace, where none can be made anew.
    pub proc: Option<OwnedFd>,
    /// The host's ids of user 0 in a joined user namespace.
    pub owner: Option<(u32, u32)>,
}

/// A plan with all that travels with it.
#[derive(Debug)]
pub struct Assembled {
    /// The plan, without its cgroup.
    pub plan: Plan,
    /// Its fds.
    pub fds: FdList,
    /// The parts of the host that a container with ids of its own gets: what it must not be able to change.
    pub of_host: Vec<Fd>,
    /// The device policy where it is not the standard one: some rules, or everything.
    pub devices: Option<Option<Vec<Rule>>>,
    /// The root of the container's devpts.
    pub devpts: Arc<OwnedFd>,
    /// Where on the host that lies which it is made from.
    pub opened: Opened,
    /// What is done otherwise than asked.
    pub warnings: Vec<String>,
}

/// Assembles. Calls into the kernel all along, for some tenths of a millisecond, and longer where
/// a device is mounted.
pub fn assemble(request: &Request<'_>) -> Result<Assembled> {
    let spec = request.spec;
    let mut fds = FdList::default();
    let (mut idmapped, mut of_host) = (Vec::new(), Vec::new());

    let namespaces = namespaces(request, &mut fds)?;
    let (mapped, owner) = match &namespaces.user {
        NsSource::New => (true, root_owner(spec)?),
        NsSource::Join(_) => (true, request.joined.owner.unwrap_or((0, 0))),
        NsSource::Host => (false, (0, 0)),
    };

    let etc = etc_files(spec);
    let root = rootfs::prepare(
        &rootfs::Request {
            rootfs: &spec.rootfs,
            within: spec.bounds.as_ref().map(|bounds| bounds.rootfs.as_slice()),
            dir: request.dir,
            mapped,
            volatile: spec.auto_remove,
            read_only: spec.read_only_root,
            etc: &etc,
        },
        request.view,
        &mut fds,
        &mut idmapped,
    )?;

    let mut opened = Opened { rootfs: root.opened.into_iter().collect(), ..Opened::default() };
    let mut mounts = root.mounts;
    of_host.extend(mounts.iter().filter_map(|mount| match mount.what {
        MountWhat::Detached { fd, .. } => Some(fd),
        _ => None,
    }));
    if let Root::Mount(fd) = root.root {
        of_host.push(fd);
    }
    let (nodes, policy) = devices(spec, &mut opened)?;
    let devpts = Arc::new(devpts::devpts(owner, tty_group(&spec.namespaces.gid_maps, owner))?);
    standard_mounts(request, &namespaces, owner, &nodes, &devpts, &mut fds, &mut mounts)?;
    if !root.etc_written {
        let bound = bind_etc(request.dir, &etc, &mut fds, &mut mounts)?;
        // They are root's, who writes them.
        idmapped.extend(bound.into_iter().filter(|_| mapped));
    }
    let within = spec.bounds.as_ref().map(|bounds| bounds.mounts.as_slice());
    let guarded_from = within.map(|_| mounts.len() as u32);
    for (index, mount) in spec.mounts.iter().enumerate() {
        let nodev = !request.enforces_devices;
        if mapped {
            let field = format!("spec.mounts[{index}]");
            requested::check_propagation(mount, &field)?;
            requested::check_mappable(mount, &field)?;
        }
        let made = requested::make(&mount.source, mount.read_only, owner, nodev, within)?;
        opened.mounts.push(made.sources);
        let device = is_device(&made.fd)?;
        let fd = fds.add(made.fd);
        of_host.push(fd);
        // What has owners of its own keeps them on both sides. A device node is used by its mode alone, and
        // devtmpfs takes no id map.
        if mapped && !device && !matches!(mount.source, MountSource::Tmpfs { .. }) {
            idmapped.push(fd);
        }
        let what = MountWhat::Detached { fd, dir: made.dir };
        let attrs = MountAttrs::default();
        mounts.push(Mount { what, target: mount.target.clone(), attrs });
    }

    let terminal = fds.add(duplicate(&devpts)?);
    let mut process = spec.process.clone();
    process::complete(&mut process, &spec.io);
    process.create_cwd = true;
    if !request.enforces_devices {
        process::withhold_mknod(&mut process);
    }
    let is_new_net = namespaces.net == NsSource::New;
    let (masked_paths, read_only_paths) = covers(spec);
    let container = ContainerPlan {
        hostname: (namespaces.uts == NsSource::New).then(|| spec.hostname.clone()),
        domainname: (namespaces.uts == NsSource::New && !spec.domainname.is_empty())
            .then(|| spec.domainname.clone()),
        namespaces,
        uid_maps: spec.namespaces.uid_maps.clone(),
        gid_maps: spec.namespaces.gid_maps.clone(),
        idmapped,
        root: root.root,
        read_only_root: spec.read_only_root,
        mounts,
        guarded_from,
        masked_paths,
        read_only_paths,
        net_defaults: if is_new_net { net_defaults::of(spec, mapped) } else { Vec::new() },
        sysctls: spec.sysctls.clone().into_iter().collect(),
        init: spec.init,
        devpts: Some(terminal),
    };
    let plan = plan(
        request.session_id,
        Place::Container(Box::new(container)),
        process,
        &spec.io,
        terminal,
        request.paused,
    );
    let of_host = if mapped { of_host } else { Vec::new() };
    Ok(Assembled { plan, fds, of_host, devices: policy, devpts, opened, warnings: root.warnings })
}

/// What is hidden in a container, and what is read-only.
pub fn covers(spec: &ContainerSpec) -> (Vec<String>, Vec<String>) {
    match spec.process.confinement.privileged {
        true => Default::default(),
        false => (MASKED.map(str::to_owned).to_vec(), READ_ONLY.map(str::to_owned).to_vec()),
    }
}

/// Puts a plan together.
pub fn plan(
    session_id: &str,
    place: Place,
    process: Process,
    io: &SessionIo,
    devpts: conti_runtime::plan::Fd,
    paused: bool,
) -> Plan {
    let stdio = match io.terminal {
        Some(size) => Stdio::Terminal { devpts, columns: size.columns, rows: size.rows },
        None => Stdio::Pipes { stdin: io.stdin },
    };
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Plan {
        session_id: session_id.to_owned(),
        place,
        process,
        stdio,
        paused,
        deadline_ms: io.policy.deadline.map(millis),
        drain_ms: millis(io.policy.drain),
        cgroup: None,
    }
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().map_err(|error| Error::Exhausted {
        what: "cannot duplicate a file descriptor".into(),
        errno: error.raw_os_error().unwrap_or(libc::EMFILE),
    })
}

fn namespaces(request: &Request<'_>, fds: &mut FdList) -> Result<Namespaces> {
    let wanted = &request.spec.namespaces;
    let mut source = |namespace: &Namespace, kind: NsType| -> Result<NsSource> {
        Ok(match namespace {
            Namespace::Private => NsSource::New,
            // Records of agents before this choice was made.
            Namespace::Host | Namespace::Unspecified => NsSource::Host,
            Namespace::Container(_) => NsSource::Join(fds.add(namespace_of(request.joined, kind)?)),
        })
    };
    Ok(Namespaces {
        pid: source(&wanted.pid, NsType::Pid)?,
        uts: source(&wanted.uts, NsType::Uts)?,
        ipc: source(&wanted.ipc, NsType::Ipc)?,
        net: source(&wanted.net, NsType::Net)?,
        cgroup: source(&wanted.cgroup, NsType::Cgroup)?,
        user: source(&wanted.user, NsType::User)?,
        time: source(&wanted.time, NsType::Time)?,
    })
}

impl Joined {
    /// The main process of the container whose namespace of this type is joined.
    fn process(&self, kind: NsType) -> Result<ProcessId> {
        let found = self.processes.iter().find(|(have, _)| *have == kind);
        found
            .map(|(_, process)| *process)
            .ok_or_else(|| Error::Internal(format!("no process to join for {kind:?}")))
    }
}

/// Opens a namespace of a joined container.
fn namespace_of(joined: &Joined, kind: NsType) -> Result<OwnedFd> {
    let process = joined.process(kind)?;
    let pinned = process::Pinned::open(process.pid, Some(process.start_ticks))?;
    let namespace = host::open(format!("/proc/{}/ns/{}", process.pid, kind.file_name()))
        .map_err(|error| process::gone(process.pid, &error))?;
    pinned.still_there()?;
    Ok(namespace.into())
}

/// Whether a mount is one of a character device, alone.
fn is_device(mount: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(mount)
        .map_err(|errno| super::io_error("cannot look at a mount")(errno.into()))?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    Ok(kind == rustix::fs::FileType::CharacterDevice)
}

/// The host's ids of user and group 0 of a new user namespace.
fn root_owner(spec: &ContainerSpec) -> Result<(u32, u32)> {
    owner_of(&spec.namespaces).ok_or_else(|| Error::Invalid {
        field: "spec.namespaces.uid_mappings".into(),
        problem: "user 0 and group 0 of the container must be mapped: its root filesystem belongs to them".into(),
    })
}

/// The host's ids that stand for user and group 0.
pub fn owner_of(namespaces: &super::spec::Namespaces) -> Option<(u32, u32)> {
    let (users, groups) = (&namespaces.uid_maps, &namespaces.gid_maps);
    Some((IdMap::outside(users, 0)?, IdMap::outside(groups, 0)?))
}

/// Makes a devpts instance for a user namespace with these id maps; without any, for the agent's own.
pub fn devpts(uid_maps: &[IdMap], gid_maps: &[IdMap]) -> Result<OwnedFd> {
    let root = |maps| IdMap::outside(maps, 0).unwrap_or(0);
    let owner = (root(uid_maps), root(gid_maps));
    devpts::devpts(owner, tty_group(gid_maps, owner))
}

/// The host's id of the group that owns terminals. `None`: it has no id in the container.
fn tty_group(gid_maps: &[IdMap], owner: (u32, u32)) -> Option<u32> {
    let mapped = IdMap::outside(gid_maps, dev::TTY_GROUP);
    mapped.or((owner == (0, 0)).then_some(dev::TTY_GROUP))
}

/// The nodes besides the standard ones, and the policy where it is not the standard one.
type Devices = (Vec<dev::Node>, Option<Option<Vec<Rule>>>);

fn devices(spec: &ContainerSpec, opened: &mut Opened) -> Result<Devices> {
    let (mut nodes, mut rules) = (Vec::new(), Vec::new());
    for device in &spec.devices {
        let (node, rule, place) = dev::allow(device, spec.bounds.is_some())?;
        opened.devices.push(place);
        nodes.push(node);
        rules.push(rule);
    }
    if spec.process.confinement.privileged {
        nodes.extend(dev::all_of_host());
        return Ok((nodes, Some(None)));
    }
    if rules.is_empty() {
        return Ok((nodes, None));
    }
    rules.extend(devices::STANDARD);
    Ok((nodes, Some(Some(rules))))
}

fn standard_mounts(
    request: &Request<'_>,
    namespaces: &Namespaces,
    owner: (u32, u32),
    nodes: &[dev::Node],
    devpts: &OwnedFd,
    fds: &mut FdList,
    mounts: &mut Vec<Mount>,
) -> Result<()> {
    let spec = request.spec;
    let privileged = spec.process.confinement.privileged;
    let closed = MountAttrs { nosuid: true, nodev: true, noexec: true, ..MountAttrs::default() };
    let fresh = |fs: &str, target: &str, attrs| Mount {
        what: MountWhat::Fresh { fs: fs.to_owned() },
        target: target.to_owned(),
        attrs,
    };
    let mut proc = fresh("proc", "/proc", closed);
    if let Some(fd) = &request.joined.proc {
        proc.what = MountWhat::Detached { fd: fds.add(duplicate(fd)?), dir: true };
    }
    mounts.push(proc);
    let mut detached = |fd: OwnedFd, target: &str| Mount {
        what: MountWhat::Detached { fd: fds.add(fd), dir: true },
        target: target.to_owned(),
        attrs: MountAttrs::default(),
    };
    mounts.push(detached(dev::make(owner, nodes, spec.io.terminal.is_some())?, "/dev"));
    mounts.push(detached(duplicate(devpts)?, "/dev/pts"));
    let all = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mounts.push(detached(filesystem::tmpfs(64 << 20, 0o1777, owner, all)?, "/dev/shm"));
    mounts.push(fresh("mqueue", "/dev/mqueue", closed));
    if spec.io.terminal.is_some() {
        let attrs = MountAttrs::default();
        mounts.push(Mount { what: MountWhat::Console, target: "/dev/console".into(), attrs });
    }
    let sys = MountAttrs { read_only: !privileged, ..closed };
    // sysfs shows a network namespace, to the user namespace that owns it.
    match (namespaces.user, namespaces.net) {
        // The host's own is all that shows the host's network.
        (NsSource::New | NsSource::Join(_), NsSource::Host) => {
            let attrs = MountAttrs { read_only: true, recursive: true, ..closed };
            mounts.push(Mount { what: MountWhat::HostSysfs, target: "/sys".into(), attrs });
        }
        // That of another container belongs to another user namespace: nothing may show it.
        (NsSource::New, NsSource::Join(_)) => {}
        _ => {
            mounts.push(fresh("sysfs", "/sys", sys));
            if request.cgroup_version == CgroupVersion::V2 {
                mounts.push(fresh("cgroup2", "/sys/fs/cgroup", sys));
            }
        }
    }
    Ok(())
}

/// The files of /etc that are a container's own.
fn etc_files(spec: &ContainerSpec) -> Vec<(&'static str, String)> {
    let hostname = match spec.namespaces.uts {
        Namespace::Private => spec.hostname.clone(),
        _ => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    let hosts = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n127.0.1.1\t{hostname}\n"
    );
    // Names of resolvers only; without a network they are no use, and no harm.
    let resolv = host::read_to_string("/etc/resolv.conf").unwrap_or_default();
    vec![("hostname", format!("{hostname}\n")), ("hosts", hosts), ("resolv.conf", resolv)]
}

/// Binds the files over those of a root that is not written to, or over links of their names. The container can write
/// them, but not what is in their place: each start gets new ones. Returns their mounts.
fn bind_etc(
    dir: &Path,
    etc: &[(&'static str, String)],
    fds: &mut FdList,
    mounts: &mut Vec<Mount>,
) -> Result<Vec<conti_runtime::plan::Fd>> {
    let write = || {
        let dir = Dir::open(dir)?.ensure_dir("etc", 0o755)?;
        etc.iter().try_for_each(|(name, text)| dir.replace(name, text.as_bytes(), 0o644))
    };
    write().map_err(|blocked: Blocked| Error::Exhausted {
        what: format!("cannot write {}", blocked.path.display()),
        errno: blocked.errno.raw_os_error(),
    })?;
    let dir = dir.join("etc");
    let mut all = Vec::with_capacity(etc.len());
    for (name, _) in etc {
        let bound = bind::clone(&dir.join(name), bind::Options::OWN)?;
        let fd = fds.add(bound.fd);
        all.push(fd);
        let what = MountWhat::OwnFile(fd);
        mounts.push(Mount { what, target: format!("/etc/{name}"), attrs: MountAttrs::default() });
    }
    Ok(all)
}
