//! The mounts that were made here, in memory and on disk.
//!
//! ```text
//!            begin            settle              mark               remove
//!   (none) --------> Attaching ------> There <-----------> Detaching --------> (none)
//!                        |                     (it is in use)
//!                        `--> (none): it was not attached
//! ```
//!
//! A record is written before its mount is attached and goes after it is detached, or with the processes of its
//! container. Which of these an agent that was killed in between has come to is found out at the next start, by looking
//! whether the mount is there. An inspector that goes on without its agent may attach it still: that is waited for.
//!
//! Until it is known what a mount has come to it is [`UnderWay`], and whoever must know waits for that.
//!
//! What a damaged record told is not known: the mount may be there, and may show anything. The name of the record says in
//! which container, so that one is not one that others than admins enter, until its processes have ended. That there was
//! a record is noted on the cgroup of the container as well, for one that is gone.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use conti_runtime::{beneath, inspect::question::MountId, own, protocol::ProcessId};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::look::{self, Seen};
use crate::engine::{
    cgroup::{Cgroup, Cgroups},
    error::{Error, Result},
    holdings::size,
    id, io_error,
    spec::Mount,
    store::{self, Durability},
    surroundings::Surroundings,
};

/// A mount that was made. Also the content of its record, `STATE/mounts/ID.CONTAINER.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Made {
    /// 32 hexadecimal digits. Empty where nothing was made (`dry_run`).
    pub id: String,
    /// What was asked for.
    pub mount: Mount,
    /// The container in whose mount namespace it was made.
    pub container_id: Option<String>,
    /// The container whose pid namespace the process is in, or one below, where it has a mount namespace of its own:
    /// what is mounted there is in reach of all that runs in the container (/proc/PID/root).
    #[serde(default)]
    pub beside_container_id: Option<String>,
    /// The process that the target stood for.
    pub process: ProcessId,
    /// The main process of the container, where the target was another process in it.
    #[serde(default)]
    pub main: Option<ProcessId>,
    /// The inode number of the mount namespace. 0: it is not known.
    #[serde(default)]
    pub namespace: u64,
    /// The mount as the kernel names it.
    pub mount_id: MountId,
    /// Who made it.
    pub made_by: String,
    /// When.
    pub create_time: SystemTime,
    /// The container that the source is a path of.
    pub source_container_id: Option<String>,
    /// The boot that it was made in.
    pub boot_id: String,
    /// What decides who could have made it. `None`: nothing is known, so that only an admin could.
    #[serde(default)]
    pub facts: Option<Facts>,
    /// How far it is.
    #[serde(default)]
    pub stage: Stage,
}

/// A mount as it is kept with the sessions that it reaches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// The id of its record.
    pub id: String,
    /// What was asked for.
    pub mount: Mount,
    /// Whether the source is a path of a container.
    pub of_container: bool,
    /// What decides who could have made it. `None`: nothing is known, so that only an admin could.
    pub facts: Option<Facts>,
}

/// What decides who could have made a mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The directories of the host that its maker was granted. `None`: the maker was an admin.
    pub granted: Option<Vec<PathBuf>>,
    /// Where its sources on the host lay, links followed.
    pub sources: Vec<PathBuf>,
    /// Whether it lies where the kernel shows itself, or brings such a filesystem along. `None`: it is not known, as
    /// long as it is being attached.
    pub kernel: Option<bool>,
    /// Where the source is a path of a container: that one, and all that could be seen in it. `None`: it is not known.
    #[serde(default)]
    pub from: Surroundings,
}

/// How far a mount is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// It is being attached.
    Attaching,
    /// It is in its place.
    #[default]
    There,
    /// It is being detached.
    Detaching,
}

impl Shown {
    /// Whether two of them show the same.
    pub fn is_like(&self, other: &Shown) -> bool {
        let Shown { id: _, mount, of_container, facts } = self;
        (mount, of_container, facts) == (&other.mount, &other.of_container, &other.facts)
    }
}

impl Made {
    /// What of it is kept with the sessions that it reaches.
    pub fn shown(&self) -> Shown {
        Shown {
            id: self.id.clone(),
            mount: self.mount.clone(),
            of_container: self.source_container_id.is_some(),
            facts: self.facts.clone(),
        }
    }

    /// The container in which it counts.
    pub fn counts_in(&self) -> Option<&String> {
        self.container_id.as_ref().or(self.beside_container_id.as_ref())
    }

    /// A process that is in its mount namespace still, or of which that cannot be told.
    pub fn witness(&self) -> Option<ProcessId> {
        let all = [Some(self.process), self.main];
        all.into_iter().flatten().find(|of| look::lives(*of))
    }

    /// As it is once it is in its place.
    pub fn attached(self, kernel: Option<bool>) -> Made {
        let facts = self.facts.map(|facts| Facts { kernel, ..facts });
        Made { facts, stage: Stage::There, ..self }
    }

    /// The cgroup of its container, as long as that lives.
    fn cgroup(&self, cgroups: &Cgroups) -> Option<Cgroup> {
        self.container_id.as_ref()?;
        let main = self.main.unwrap_or(self.process);
        cgroups.name_of(main.pid).map(|name| cgroups.open(&name))
    }

    fn forget_on_cgroup(&self, cgroups: &Cgroups) {
        if let Some(cgroup) = self.cgroup(cgroups) {
            cgroup.forget_mount(&self.id);
        }
    }

    /// The name of its record.
    fn file_name(&self) -> String {
        let container = self.container_id.as_deref().unwrap_or(NO_CONTAINER);
        format!("{}.{container}.json", self.id)
    }
}

/// What stands for the container in the name of the record of a mount that is in none.
const NO_CONTAINER: &str = "host";

/// A record that cannot be read, or is gone.
#[derive(Debug)]
struct Lost {
    /// Where it lies. `None`: it is gone.
    path: Option<PathBuf>,
    /// The container that it is of, as its name says. `None`: it may be any.
    container: Option<String>,
    /// The containers in which its mount may be.
    suspects: BTreeSet<String>,
}

impl Lost {
    fn of(path: PathBuf) -> Lost {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let parts = name.strip_suffix(".json").and_then(|name| name.split_once('.'));
        let container = parts.filter(|(id, _)| id::is_one(id)).map(|(_, container)| container);
        let container = container.filter(|of| *of == NO_CONTAINER || id::is_one(of));
        let container = container.map(str::to_owned);
        Lost { container, path: Some(path), suspects: BTreeSet::new() }
    }

    /// Of a container whose mount has none.
    fn in_container(id: &str) -> Lost {
        let (container, suspects) = (Some(id.to_owned()), BTreeSet::from([id.to_owned()]));
        Lost { path: None, container, suspects }
    }

    fn remove(&self) {
        if let Some(path) = &self.path
            && let Err(error) = beneath::remove(path)
        {
            tracing::warn!(%error, "the record of a mount could not be removed");
        }
    }
}

/// What was mounted here.
#[derive(Debug)]
pub struct MadeMounts {
    dir: PathBuf,
    cgroups: Arc<Cgroups>,
    all: Mutex<Vec<Arc<Made>>>,
    lost: Mutex<Vec<Lost>>,
    /// The containers of those that are under way, each as often as there are.
    under_way: Mutex<Vec<String>>,
    /// Told when one of them has ended.
    settled: watch::Sender<()>,
}

/// Held until all is known of a mount that is being made, also by the sessions that it reaches.
#[derive(Debug)]
pub struct UnderWay {
    of: Arc<MadeMounts>,
    container: Option<String>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(container) = &self.container else { return };
        let mut under_way = self.of.under_way();
        if let Some(place) = under_way.iter().position(|one| one == container) {
            under_way.swap_remove(place);
        }
        drop(under_way);
        self.of.settled.send_replace(());
    }
}

impl MadeMounts {
    /// Finds what an earlier agent has made in this boot.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed: then nothing is known.
    pub fn open(dir: PathBuf, boot_id: &str, cgroups: Arc<Cgroups>) -> io::Result<MadeMounts> {
        let (mut all, mut unsure, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for entry in own::read_dir(&dir)? {
            let path = entry?.path();
            match path.extension().and_then(|end| end.to_str()) {
                // What it was to replace is there, or its mount was not attached yet.
                Some("new") => drop(beneath::remove(&path)),
                Some("json") => match read(&path) {
                    Ok(made) if made.boot_id != boot_id && made.witness().is_none() => {
                        drop(own::remove_file(&path));
                    }
                    // Its inspector may be at it still.
                    Ok(made) if made.stage == Stage::Attaching && made.witness().is_some() => {
                        all.push(Arc::new(made));
                    }
                    Ok(made) => unsure.push(made),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "the record of a mount cannot be read: what is mounted in its container is for admins");
                        lost.push(Lost::of(path));
                    }
                },
                _ => {}
            }
        }
        for (made, seen) in look::seen_each(unsure) {
            match seen {
                Seen::There(_) => all.push(Arc::new(Made { stage: Stage::There, ..made })),
                Seen::Absent => {
                    made.forget_on_cgroup(&cgroups);
                    drop(own::remove_file(dir.join(made.file_name())));
                }
            }
        }
        all.sort_by_key(|made| made.create_time);
        Ok(MadeMounts {
            dir,
            cgroups,
            all: Mutex::new(all),
            lost: Mutex::new(lost),
            under_way: Mutex::default(),
            settled: watch::Sender::default(),
        })
    }

    fn under_way(&self) -> MutexGuard<'_, Vec<String>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has those who must know what is mounted in its container wait.
    pub fn begin_settling(self: &Arc<Self>, made: &Made) -> UnderWay {
        let container = made.counts_in().cloned();
        self.under_way().extend(container.clone());
        UnderWay { of: self.clone(), container }
    }

    /// Whether something is being mounted in one of some containers of which not all is known yet.
    pub fn is_under_way_in(&self, is_one: impl Fn(&str) -> bool) -> bool {
        let containers = self.under_way().clone();
        containers.iter().any(|container| is_one(container))
    }

    /// Changes whenever all has come to be known of a mount.
    pub fn settled(&self) -> watch::Receiver<()> {
        self.settled.subscribe()
    }

    /// Those that an earlier agent was attaching.
    pub fn left_attaching(&self) -> Vec<Arc<Made>> {
        let attaching = |made: &&Arc<Made>| made.stage == Stage::Attaching;
        self.lock().iter().filter(attaching).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Made>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> MutexGuard<'_, Vec<Lost>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, made: &Made) -> io::Result<()> {
        store::write(&self.dir, &made.file_name(), made, Durability::Boot)
    }

    /// Tells which containers there are whose processes may have been there before this agent, with their cgroups: the
    /// mounts of records that cannot be read, or are gone, are in those.
    pub fn suspect(&self, alive: impl FnOnce() -> Vec<(String, Option<Arc<Cgroup>>)>) {
        // Held meanwhile: what ends from now on is taken out again.
        let mut lost = self.lost();
        let alive = alive();
        lost.retain_mut(|one| {
            let may_be = |id: &&String| one.container.as_ref().is_none_or(|of| of == *id);
            one.suspects = alive.iter().map(|(id, _)| id).filter(may_be).cloned().collect();
            let kept = !one.suspects.is_empty();
            if !kept {
                one.remove();
            }
            kept
        });
        for (container, cgroup) in alive {
            let Some(cgroup) = cgroup else { continue };
            let made = self.of(&container);
            let told = |mount: &String| made.iter().any(|one| one.id == *mount);
            let all_told = cgroup.noted_mounts().is_some_and(|noted| noted.iter().all(told));
            // An older agent has noted nothing.
            made.iter().for_each(|one| cgroup.note_mount(&one.id));
            if !all_told && !lost.iter().any(|one| one.suspects.contains(&container)) {
                tracing::warn!(container, dir = %self.dir.display(), "the record of a mount is gone: what is mounted in its container is for admins");
                lost.push(Lost::in_container(&container));
            }
        }
    }

    /// Whether all is known of what was mounted into a container.
    pub fn are_known_in(&self, container: &str) -> bool {
        !self.lost().iter().any(|lost| lost.suspects.contains(container))
    }

    /// Those that show a part of a container in a place outside of it.
    pub fn from(&self, container: &str) -> Vec<Arc<Made>> {
        let all = self.lock();
        let is_from = |made: &&Arc<Made>| {
            made.source_container_id.as_deref() == Some(container)
                && made.container_id.as_deref() != Some(container)
        };
        all.iter().filter(is_from).cloned().collect()
    }

    /// Forgets those of a container whose processes have ended: they have gone with them.
    pub fn forget_in(&self, container: &str) {
        self.retain(|made| made.container_id.as_deref() != Some(container));
        self.lost().retain_mut(|lost| {
            let kept = !lost.suspects.remove(container) || !lost.suspects.is_empty();
            if !kept {
                lost.remove();
            }
            kept
        });
    }

    /// Adds one that is to be attached. It is not where that cannot be recorded: after a restart, nobody would
    /// know that it makes a difference who may enter the target.
    pub fn begin(&self, made: Made) -> Result<()> {
        self.prune();
        self.write(&made).map_err(io_error("cannot record a mount"))?;
        // Behind its record, and taken away before it: one without the other says that the record was lost.
        if let Some(cgroup) = made.cgroup(&self.cgroups) {
            cgroup.note_mount(&made.id);
        }
        self.lock().push(Arc::new(made));
        Ok(())
    }

    /// Notes what has come of one that was attached, in memory alone: [`MadeMounts::mark`] writes it, once all else
    /// knows as well.
    pub fn settle(&self, settled: &Made) {
        if let Some(place) = self.lock().iter_mut().find(|made| made.id == settled.id) {
            *place = Arc::new(settled.clone());
        }
    }

    /// Notes how far it is. A full disk does not keep a mount in its place: what is written is found out at the
    /// next start as well.
    pub fn mark(&self, id: &str, stage: Stage) {
        let mut all = self.lock();
        let Some(place) = all.iter_mut().find(|made| made.id == id) else { return };
        let made = Made { stage, ..Made::clone(place) };
        if let Err(error) = self.write(&made) {
            tracing::warn!(%error, mount = id, "a change of a mount's record could not be written");
        }
        *place = Arc::new(made);
    }

    /// Forgets those whose target has gone.
    fn prune(&self) {
        self.retain(|made| made.witness().is_some());
    }

    /// Forgets those of a mount namespace that are not among the mounts `there`.
    pub fn sweep(&self, namespace: u64, there: &HashSet<u64>) {
        self.retain(|made| made.namespace != namespace || there.contains(&made.mount_id.id));
    }

    fn retain(&self, kept: impl Fn(&Made) -> bool) {
        let mut all = self.lock();
        let (kept, gone): (Vec<_>, Vec<_>) = all.drain(..).partition(|made| kept(made));
        *all = kept;
        drop(all);
        gone.iter().for_each(|made| self.forget(made));
    }

    /// The last one that was made in a container at a path.
    pub fn at(&self, container: &str, point: &[u8]) -> Option<Arc<Made>> {
        let of = |made: &&Arc<Made>| {
            made.container_id.as_deref() == Some(container) && made.mount.target.as_bytes() == point
        };
        self.lock().iter().rfind(of).cloned()
    }

    /// Those that were made in a container.
    pub fn of(&self, container: &str) -> Vec<Arc<Made>> {
        let of = |made: &&Arc<Made>| made.container_id.as_deref() == Some(container);
        self.lock().iter().filter(of).cloned().collect()
    }

    /// What those in some containers make the agent hold.
    pub fn size_in(&self, is_one: impl Fn(&str) -> bool) -> usize {
        let all = self.lock().clone();
        let own = all.iter().filter(|made| made.container_id.as_deref().is_some_and(&is_one));
        own.map(|made| size(&made.shown())).sum()
    }

    /// The one with an id.
    pub fn get(&self, id: &str) -> Result<Arc<Made>> {
        let found = self.lock().iter().find(|made| made.id == id).cloned();
        found.ok_or_else(|| Error::NoSuchMount(id.to_owned()))
    }

    /// The one that the kernel names so. Of a mount that is hidden by another its number alone is told.
    pub fn named(&self, mount_id: MountId) -> Option<Arc<Made>> {
        let is = |made: &MountId| {
            made.id == mount_id.id && (mount_id.unique == 0 || made.unique == mount_id.unique)
        };
        self.lock().iter().find(|made| is(&made.mount_id)).cloned()
    }

    /// Forgets one.
    pub fn remove(&self, id: &str) {
        self.retain(|made| made.id != id);
    }

    fn forget(&self, made: &Made) {
        made.forget_on_cgroup(&self.cgroups);
        let _ = own::remove_file(self.dir.join(made.file_name()));
    }
}

/// Reads a record, and gives it the name that it has by now.
fn read(path: &Path) -> io::Result<Made> {
    let made: Made = store::read(path)?;
    let name = path.file_name().unwrap_or_default();
    let wrong =
        || io::Error::new(io::ErrorKind::InvalidData, "the record is that of another mount");
    if name.to_string_lossy().split('.').next().is_none_or(|id| id != made.id) {
        return Err(wrong());
    }
    if name != made.file_name().as_str() {
        own::rename(path, path.with_file_name(made.file_name()))?;
    }
    Ok(made)
}
