//! Mounts that are made in a target that is alive, and taken away again.

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc, time::SystemTime};

use conti_runtime::{
    inspect::{
        process,
        question::{Answer, MountId, Question},
    },
    plan::NsType,
    protocol::ProcessId,
    sys::mount,
};
use serde::{Deserialize, Serialize};

use crate::engine::{
    Engine,
    error::{Error, Result},
    id, io_error,
    sources::{
        bind::{self, Bind},
        requested,
    },
    spec::{Mount, MountSource, Target},
    store::{self, Durability},
};

/// A mount that is to be made.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where.
    pub target: Target,
    /// What, and at which path.
    pub mount: Mount,
    /// The container that the source is a path of.
    pub source_container: Option<String>,
    /// Whether the source's ids are those of the target's user namespace.
    pub idmapped: bool,
    /// Whether a path that is missing is made.
    pub create_point: bool,
    /// Whether all is done but the mount itself.
    pub dry_run: bool,
    /// Who asks.
    pub made_by: String,
    /// The directories of the host that sources must stay in. `None`: anywhere.
    pub within: Option<Vec<PathBuf>>,
}

/// A mount that was made. Also the content of its record, `STATE/mounts/ID.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    /// 32 hexadecimal digits. Empty with `dry_run`.
    pub id: String,
    /// What was asked for.
    pub mount: Mount,
    /// The container that it was made in.
    pub container_id: Option<String>,
    /// The process that the target stood for.
    #[serde(with = "ProcessRecord")]
    pub process: ProcessId,
    /// The mount as the kernel names it.
    pub mount_id: MountId,
    /// Who made it.
    pub made_by: String,
    /// When.
    pub create_time: SystemTime,
    /// The container that the source is a path of.
    pub source_container_id: Option<String>,
    /// The boot that it was made in.
    boot_id: String,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ProcessId")]
struct ProcessRecord {
    pid: i32,
    start_ticks: u64,
}

/// Which mount goes.
#[derive(Debug, Clone)]
pub enum Which {
    /// One that was made here.
    Id(String),
    /// The one on top at a path of a target.
    Point(Target, Vec<u8>),
}

impl Engine {
    /// Mounts something into a target.
    pub async fn create_mount(&self, wanted: Wanted) -> Result<Made> {
        let to = self.process_of(&wanted.target, "mount into")?;
        let container_id = match &wanted.target {
            Target::Container(key) => Some(self.registry.container(key)?.id.clone()),
            Target::Process { .. } | Target::Host => None,
        };
        let source_container_id = match &wanted.source_container {
            Some(key) => Some(self.registry.container(key)?.id.clone()),
            None => None,
        };
        let prepared = self.prepare(&wanted).await?;
        // Before it is there: what it shows must not have been read without that being known.
        if let Some(container) = container_id.as_ref().filter(|_| !wanted.dry_run) {
            self.note_mount(container, &wanted.mount);
        }
        if wanted.idmapped {
            map_ids(&prepared.fd, to)?;
        }
        let question = Question::Attach {
            to,
            point: wanted.mount.target.clone().into(),
            dir: prepared.dir,
            create: wanted.create_point,
            dry_run: wanted.dry_run,
        };
        let mut inspection = self.inspect(&question, &[prepared.fd]).await?;
        let mut made = None;
        while let Some(answers) = inspection.next().await? {
            made = answers.into_iter().find_map(|answer| match answer {
                Answer::Attached(id) => Some(id),
                _ => None,
            });
        }
        let mount_id = made.ok_or_else(|| {
            Error::Internal("the inspector did not say what it has mounted".to_owned())
        })?;
        let made = Made {
            id: if wanted.dry_run { String::new() } else { id::new() },
            mount: wanted.mount,
            container_id,
            process: to,
            mount_id,
            made_by: wanted.made_by,
            create_time: SystemTime::now(),
            source_container_id,
            boot_id: self.facts.boot_id.clone(),
        };
        if !wanted.dry_run {
            tracing::info!(
                mount = made.id,
                point = made.mount.target,
                pid = to.pid,
                by = made.made_by,
                "mounted"
            );
            self.made_mounts.add(made.clone());
        }
        Ok(made)
    }

    /// Makes what is to be mounted, attached nowhere yet.
    async fn prepare(&self, wanted: &Wanted) -> Result<Bind> {
        let Mount { source, read_only, .. } = wanted.mount.clone();
        // As with the mounts that a container is made with.
        let container = matches!(wanted.target, Target::Container(_));
        let nodev = container && !self.cgroups.enforces_devices();
        match (&wanted.source_container, &source) {
            (None, _) => {
                // Filesystems are made by reading devices, which takes its time.
                let within = wanted.within.clone();
                let make =
                    move || requested::make(&source, read_only, (0, 0), nodev, within.as_deref());
                tokio::task::spawn_blocking(make)
                    .await
                    .map_err(|error| Error::Internal(format!("a mount was given up: {error}")))?
            }
            (
                Some(container),
                MountSource::Bind { source, recursive, recursive_read_only, propagation },
            ) => {
                let options = bind::Options {
                    recursive: *recursive,
                    read_only,
                    recursive_read_only: *recursive_read_only,
                    nodev,
                    propagation: *propagation,
                };
                let plain = wanted.within.is_some();
                self.clone_of_container(container, source.clone(), options, plain).await
            }
            (Some(_), _) => Err(Error::Invalid {
                field: "source_container".to_owned(),
                problem: "only a bind mount has a source in a container".to_owned(),
            }),
        }
    }

    async fn clone_of_container(
        &self,
        container: &str,
        path: PathBuf,
        options: bind::Options,
        plain: bool,
    ) -> Result<Bind> {
        let of = self.registry.container(container)?.running_process("bind from")?;
        let path = path.into_os_string().into_encoded_bytes();
        let question =
            Question::Tree { of, path: path.clone(), recursive: options.recursive, plain };
        let mut inspection = self.inspect(&question, &[]).await?;
        let mut found = None;
        while let Some(answers) = inspection.next().await? {
            for answer in answers {
                if let Answer::Tree { dir } = answer {
                    found = inspection.take_fd().map(|fd| Bind { fd, dir });
                }
            }
        }
        let found =
            found.ok_or_else(|| Error::Internal("the inspector sent no mount along".to_owned()))?;
        bind::restrict(&found, options).map_err(|errno| Error::Refused {
            tried: "cannot set the attributes of a bind mount of".to_owned(),
            argument: String::from_utf8_lossy(&path).into_owned(),
            errno: errno.raw_os_error(),
        })?;
        Ok(found)
    }

    /// A mount that was made here.
    pub fn made_mount(&self, id: &str) -> Result<Arc<Made>> {
        self.made_mounts.get(id)
    }

    /// The last mount that was made here in a container at a path.
    pub fn mount_made_at(&self, container: &str, point: &[u8]) -> Option<Arc<Made>> {
        self.made_mounts.at(container, point)
    }

    /// The mounts that were made here in a container.
    pub fn mounts_made_in(&self, container: &str) -> Vec<Arc<Made>> {
        self.made_mounts.of(container)
    }

    /// Takes a mount away.
    pub async fn delete_mount(&self, which: Which, lazy: bool, dry_run: bool) -> Result<()> {
        let (from, point, only) = match &which {
            Which::Id(id) => {
                let made = self.made_mounts.get(id)?;
                (made.process, made.mount.target.clone().into(), Some(made.mount_id))
            }
            Which::Point(target, point) => {
                (self.process_of(target, "unmount from")?, point.clone(), None)
            }
        };
        let question = Question::Detach { from, point, only, lazy, dry_run };
        let mut inspection = self.inspect(&question, &[]).await?;
        while inspection.next().await?.is_some() {}
        if let (Which::Id(id), false) = (&which, dry_run) {
            self.made_mounts.remove(id);
        }
        tracing::info!(pid = from.pid, ?which, lazy, dry_run, "unmounted");
        Ok(())
    }
}

/// Has the ids of a mount be those of the user namespace of a process.
fn map_ids(mounted: &OwnedFd, of: ProcessId) -> Result<()> {
    let directory = process::directory(of.pid)?;
    let own = process::directory(std::process::id() as i32)?;
    let user = |directory: &OwnedFd| {
        process::namespace_of(process::namespaces(directory).ok()?, NsType::User.file_name())
    };
    let invalid = |problem: &str| Error::Invalid {
        field: "idmapped".to_owned(),
        problem: problem.to_owned(),
    };
    if user(&directory) == user(&own) {
        return Err(invalid("the target has no user namespace of its own"));
    }
    let file = std::fs::File::open(format!("/proc/{}/ns/user", of.pid))
        .map_err(io_error("cannot open the target's user namespace"))?;
    process::Pinned::same(of)?.still_there()?;
    use std::os::fd::AsFd as _;
    mount::set_id_map(mounted.as_fd(), file.as_fd())
        .map_err(|errno| invalid(&format!("the source's filesystem takes no id map: {errno}")))
}

/// What was mounted here, in memory and on disk.
#[derive(Debug)]
pub struct MadeMounts {
    dir: PathBuf,
    all: std::sync::Mutex<Vec<Arc<Made>>>,
}

impl MadeMounts {
    /// Finds what an earlier agent has made in this boot.
    pub fn open(dir: PathBuf, boot_id: &str) -> MadeMounts {
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut all = Vec::new();
        for path in entries.map(|entry| entry.path()).filter(|p| p.extension().is_some()) {
            match store::read::<Made>(&path) {
                Ok(made) if made.boot_id == boot_id && is_there(made.process) => {
                    all.push(Arc::new(made));
                }
                // Of another boot, of a target that has gone, or damaged: there is no such mount.
                _ => drop(std::fs::remove_file(&path)),
            }
        }
        MadeMounts { dir, all: std::sync::Mutex::new(all) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Made>>> {
        self.all.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn add(&self, made: Made) {
        self.prune();
        let name = format!("{}.json", made.id);
        if let Err(error) = store::write(&self.dir, &name, &made, Durability::Boot) {
            tracing::warn!(%error, mount = made.id, "cannot record a mount: it is not known after a restart");
        }
        self.lock().push(Arc::new(made));
    }

    /// Forgets those whose target has gone.
    fn prune(&self) {
        let mut all = self.lock();
        let (there, gone): (Vec<_>, Vec<_>) =
            all.drain(..).partition(|made| is_there(made.process));
        *all = there;
        drop(all);
        gone.iter().for_each(|made| self.forget(&made.id));
    }

    /// The last one that was made in a container at a path.
    fn at(&self, container: &str, point: &[u8]) -> Option<Arc<Made>> {
        let of = |made: &&Arc<Made>| {
            made.container_id.as_deref() == Some(container) && made.mount.target.as_bytes() == point
        };
        self.lock().iter().rfind(of).cloned()
    }

    fn of(&self, container: &str) -> Vec<Arc<Made>> {
        let of = |made: &&Arc<Made>| made.container_id.as_deref() == Some(container);
        self.lock().iter().filter(of).cloned().collect()
    }

    fn get(&self, id: &str) -> Result<Arc<Made>> {
        let found = self.lock().iter().find(|made| made.id == id).cloned();
        found.ok_or_else(|| Error::NoSuchMount(id.to_owned()))
    }

    /// The one that the kernel names so.
    pub fn named(&self, mount_id: MountId) -> Option<Arc<Made>> {
        self.lock().iter().find(|made| made.mount_id == mount_id).cloned()
    }

    fn remove(&self, id: &str) {
        self.lock().retain(|made| made.id != id);
        self.forget(id);
    }

    fn forget(&self, id: &str) {
        let _ = std::fs::remove_file(self.dir.join(format!("{id}.json")));
    }
}

fn is_there(process: ProcessId) -> bool {
    process::Pinned::same(process).is_ok()
}
