//! The root of a container: a directory as it is, or read-only directories under private layers.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use conti_runtime::{
    beneath::{Blocked, Dir},
    plan::{Fd, Mount, MountAttrs, MountWhat, Overlay, Root},
};
use rustix::{
    fs::{FileType, fstatfs},
    io::Errno,
    mount::MountAttrFlags,
};

use super::{
    FdList,
    bind::{self, HostPath},
    failed, filesystem,
    host_view::{self, HostView},
};
use crate::engine::{
    error::{Error, Result},
    opened::Place,
    spec::Rootfs,
};

/// What a container's root needs besides its source.
#[derive(Debug)]
pub struct Request<'a> {
    /// Where the root comes from.
    pub rootfs: &'a Rootfs,
    /// The directories of the host that a root must stay in. `None`: anywhere.
    pub within: Option<&'a [PathBuf]>,
    /// The directory of the container; its private layers are made in it when they are needed.
    pub dir: &'a Path,
    /// Whether files get the ids of a user namespace, which init's parent sees to.
    pub mapped: bool,
    /// Whether the layers die with the container, so that they need not survive a crash.
    pub volatile: bool,
    /// Whether the program directories are read-only, as the root is.
    pub read_only: bool,
    /// Files of /etc to be put into the layer: name and content.
    pub etc: &'a [(&'static str, String)],
}

/// A root that is ready to be attached.
#[derive(Debug)]
pub struct Prepared {
    /// What becomes `/`.
    pub root: Root,
    /// What is mounted on it first.
    pub mounts: Vec<Mount>,
    /// Where the directory of the host lies that it is made from, if it is made from one.
    pub opened: Option<Place>,
    /// Whether the files of /etc are in the layer already.
    pub etc_written: bool,
    /// What was done otherwise than asked.
    pub warnings: Vec<String>,
}

/// Prepares a root.
pub fn prepare(
    request: &Request<'_>,
    view: &HostView,
    fds: &mut FdList,
    idmapped: &mut Vec<Fd>,
) -> Result<Prepared> {
    match request.rootfs {
        Rootfs::Dir { path, overlay: false } => {
            let options = bind::Options {
                read_only: false,
                recursive_read_only: false,
                ..bind::Options::VIEW
            };
            let path = HostPath { path, within: request.within };
            let (bound, place) = directory(path, options)?;
            let fd = fds.add(bound);
            if request.mapped {
                idmapped.push(fd);
            }
            Ok(Prepared {
                root: Root::Mount(fd),
                mounts: Vec::new(),
                opened: Some(place),
                etc_written: false,
                warnings: Vec::new(),
            })
        }
        Rootfs::Dir { path, overlay: true } => {
            let layers = Layers::open(request)?;
            let path = HostPath { path, within: request.within };
            let (root, place) = layers.lay("root", path, fds, idmapped)?;
            Ok(Prepared {
                root,
                mounts: Vec::new(),
                opened: Some(place),
                etc_written: false,
                warnings: layers.warnings,
            })
        }
        Rootfs::Host => host(request, view, fds, idmapped),
    }
}

fn host(
    request: &Request<'_>,
    view: &HostView,
    fds: &mut FdList,
    idmapped: &mut Vec<Fd>,
) -> Result<Prepared> {
    let mut layers = Layers::open(request)?;
    layers.write_etc(request.etc)?;
    let (root, _) = layers.lay("root", (&view.template).into(), fds, idmapped)?;
    let mut mounts = Vec::new();
    for program in &view.programs {
        let directory = Path::new("/").join(program);
        let what = match layers.lay(program, (&directory).into(), fds, idmapped)?.0 {
            Root::Overlay(overlay) => MountWhat::Overlay(overlay),
            Root::Mount(fd) => MountWhat::Detached { fd, dir: true },
        };
        mounts.push(Mount {
            what,
            target: format!("/{program}"),
            attrs: MountAttrs { read_only: request.read_only, ..MountAttrs::default() },
        });
        for (target, bound) in host_view::mounts_below(program) {
            let what = MountWhat::Detached { fd: fds.add(bound.fd), dir: bound.dir };
            mounts.push(Mount { what, target, attrs: MountAttrs::default() });
        }
    }
    Ok(Prepared { root, mounts, opened: None, etc_written: true, warnings: layers.warnings })
}

/// Clones the directory of a root, and tells where it lies.
fn directory(source: HostPath<'_>, options: bind::Options) -> Result<(OwnedFd, Place)> {
    let mut bound = bind::clone(source, options).map_err(|error| no_root(source.path, error))?;
    if !bound.dir {
        let path = source.path.to_string_lossy();
        return Err(failed("rootfs", CANNOT_OPEN, path, Errno::NOTDIR, MUST_BE));
    }
    Ok((bound.fd, bound.sources.pop()))
}

/// Opens the directory of a root where it is, for a layer.
fn open_directory(source: HostPath<'_>) -> Result<OwnedFd> {
    let path = source.path;
    let opened = bind::open_layer(source, "rootfs", CANNOT_OPEN);
    let opened = opened.map_err(|error| no_root(path, error))?;
    match rustix::fs::fstat(&opened).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Directory) => Ok(opened),
        _ => Err(failed("rootfs", CANNOT_OPEN, path.to_string_lossy(), Errno::NOTDIR, MUST_BE)),
    }
}

const CANNOT_OPEN: &str = "cannot open the root filesystem";
const MUST_BE: &str = "it must be a directory on the agent's host";

fn no_root(path: &Path, error: Error) -> Error {
    match error {
        // What the path leads out of says more than what it must be.
        Error::Source { errno, hint, .. } => {
            let errno = Errno::from_raw_os_error(errno);
            let hint = if [Errno::XDEV, Errno::PERM].contains(&errno) { hint } else { MUST_BE };
            failed("rootfs", CANNOT_OPEN, path.to_string_lossy(), errno, hint)
        }
        other => other,
    }
}

/// The private layers of one container.
struct Layers<'a> {
    request: &'a Request<'a>,
    /// Where they are: the container's directory, or a tmpfs where that cannot take layers.
    base: Dir,
    /// The same through a mount of its own, which gets the id map of the container's user namespace.
    mapped: Option<Dir>,
    warnings: Vec<String>,
}

const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;

/// How much a layer in memory may hold.
const MEMORY_LAYER_BYTES: u64 = 1 << 30;

impl<'a> Layers<'a> {
    fn open(request: &'a Request<'a>) -> Result<Layers<'a>> {
        let made = Dir::open(request.dir).and_then(|dir| dir.ensure_dir("layers", 0o700));
        let base = made.map_err(no_layer)?;
        let magic = fstatfs(&base).map_or(0, |stat| stat.f_type as u64);
        if magic != OVERLAYFS_SUPER_MAGIC {
            return Self::new(request, base, Vec::new());
        }
        // The kernel takes no upper layer on overlayfs: what is written is held in memory.
        let base = filesystem::tmpfs(MEMORY_LAYER_BYTES, 0o700, (0, 0), MountAttrFlags::empty())?;
        let base = Dir::held(base, "layers");
        let warning = "the agent's data directory is on overlayfs, which takes no layers: what the container \
                       writes is held in memory, at most 1 GiB, and is lost when it stops";
        Self::new(request, base, vec![warning.to_owned()])
    }

    fn new(request: &'a Request<'a>, base: Dir, warnings: Vec<String>) -> Result<Layers<'a>> {
        let mapped = match request.mapped {
            false => None,
            true => {
                let bound = bind::clone_fd(base.as_fd(), bind::Options::OWN).map_err(|errno| {
                    let hint = "check the agent's --data-dir";
                    failed("rootfs", "cannot bind", "the private layer", errno, hint)
                })?;
                Some(Dir::held(bound.fd, base.path()))
            }
        };
        Ok(Layers { request, base, mapped, warnings })
    }

    /// Puts files into the /etc of the root layer.
    ///
    /// The layer is the container's: at an earlier start it may have put anything in their place. Each file
    /// is a new one that takes the name of whatever had it; only where the container has a directory of that
    /// name, or no directory for /etc itself, it keeps that, and its files are its own affair.
    fn write_etc(&mut self, files: &[(&'static str, String)]) -> Result<()> {
        self.make_layer("root").map_err(no_layer)?;
        let upper = self.base.dir("root/upper").map_err(no_layer)?;
        let etc = match upper.ensure_dir("etc", 0o755) {
            Ok(etc) => etc,
            Err(Blocked { errno: Errno::NOTDIR | Errno::LOOP, .. }) => {
                self.warnings.push(NO_ETC.to_owned());
                return Ok(());
            }
            Err(blocked) => return Err(not_written(blocked)),
        };
        for (name, text) in files {
            match etc.replace(name, text.as_bytes(), 0o644) {
                Ok(()) => {}
                Err(Blocked { errno: Errno::ISDIR, path, .. }) => {
                    let found = path.file_name().unwrap_or_default().display();
                    let warning = format!(
                        "/etc/{found} is a directory, so that /etc/{name} was left as it is"
                    );
                    self.warnings.push(warning);
                }
                Err(blocked) => return Err(not_written(blocked)),
            }
        }
        Ok(())
    }

    /// Lays the layer `name` over the directory `lower`, and tells where that lies.
    fn lay(
        &self,
        name: &str,
        lower: HostPath<'_>,
        fds: &mut FdList,
        idmapped: &mut Vec<Fd>,
    ) -> Result<(Root, Place)> {
        let (upper, work) = self.make_layer(name).map_err(no_layer)?;
        let volatile = self.request.volatile;
        let path = lower.path;
        let lower = open_directory(lower)?;
        let place = bind::real_path(&lower);
        if self.request.mapped {
            // Layers get the id map first, and the overlay belongs to the user namespace: init makes it.
            let lower = bind::clone_fd(lower.as_fd(), bind::Options::ONE).map_err(|errno| {
                failed("rootfs", "cannot bind", path.to_string_lossy(), errno, MUST_BE)
            })?;
            let lower = fds.add(lower.fd);
            idmapped.push(lower);
            if let Some(mapped) = &self.mapped
                && name == "root"
            {
                idmapped.push(fds.add(mapped.as_fd().try_clone_to_owned().map_err(|_| {
                    let hint = "raise the agent's limit of open files";
                    failed("rootfs", "cannot use", "the private layer", Errno::MFILE, hint)
                })?));
            }
            let (upper, work) = (fds.add(upper), fds.add(work));
            return Ok((Root::Overlay(Overlay { lower, upper, work, volatile }), place));
        }
        // The directory itself, where it is: kernels before 6.15 take no detached mount as a layer.
        let mounted = filesystem::overlay(lower.as_fd(), upper.as_fd(), work.as_fd(), volatile)?;
        Ok((Root::Mount(fds.add(mounted)), place))
    }

    /// Makes `NAME/upper` and `NAME/work`, or finds them as an earlier start left them. What belongs
    /// to the container's root user there belongs to root on disk: the mount has the id map.
    fn make_layer(&self, name: &str) -> std::result::Result<(OwnedFd, OwnedFd), Blocked> {
        let layer = self.base.ensure_dir(name, 0o700)?;
        layer.ensure_dir("upper", 0o755)?;
        let work = layer.ensure_dir("work", 0o700)?;
        // Left by a `volatile` overlay, which refuses to be mounted again while this is there
        // (overlayfs.rst): its syncs were left out, but the host has not crashed since.
        if let Ok(work) = work.dir("work") {
            work.remove("incompat")?;
        }
        let view = self.mapped.as_ref().unwrap_or(&self.base).dir(name)?;
        Ok((view.dir("upper")?.into(), view.dir("work")?.into()))
    }
}

/// What a container is told that has replaced its /etc.
const NO_ETC: &str = "/etc is not a directory in the container's layer: its hostname, hosts and resolv.conf \
                      were not written";

fn no_layer(blocked: Blocked) -> Error {
    let Blocked { path, errno, .. } = blocked;
    let what = "cannot make the private layer";
    failed("rootfs", what, path.to_string_lossy(), errno, not_made(errno))
}

fn not_written(blocked: Blocked) -> Error {
    let Blocked { path, errno, .. } = blocked;
    failed("rootfs", "cannot write", path.to_string_lossy(), errno, not_made(errno))
}

/// What to do where a file cannot be made.
fn not_made(errno: Errno) -> &'static str {
    match errno {
        Errno::MFILE | Errno::NFILE => "give the agent more files (ulimit -n, LimitNOFILE)",
        Errno::NOMEM => "the host has no memory for it",
        Errno::NOSPC | Errno::DQUOT => "there is no room in the agent's --data-dir",
        _ => "check the agent's --data-dir",
    }
}
