//! Mounts that are made in a target that is alive, and taken away again.
//!
//! Each change is carried out by a task of its own, to its end, whoever waits for it or has gone: with the lock of
//! its mount namespace, and with its record written before and after.

use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conti_runtime::{
    inspect::{
        held_namespaces::HeldNamespaces,
        process,
        question::{Answer, Question},
    },
    plan::NsType,
    protocol::ProcessId,
};
use tokio::sync::watch;

use super::{
    lock::Lock,
    look::{Seen, mounts_of, seen},
    made::{Facts, Made, Stage, UnderWay},
};
use crate::engine::{
    Engine, carry,
    error::{Error, Result},
    fault,
    holdings::size,
    id, io_error,
    spec::{Mount, Target},
    surroundings::Surroundings,
};

/// How many mounts are made in a living container, as many as it may be made with.
const MOUNTS_MAX: usize = 256;
/// How long is waited until it is tried again to find out whether something is mounted.
const AGAIN: Duration = Duration::from_secs(1);

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
    /// The directories of the host that sources must stay in. `None`: anywhere, as an admin.
    pub within: Option<Vec<PathBuf>>,
}

/// Where a mount goes, as it was when it was looked at. Its namespaces are held: no other has their numbers meanwhile.
#[derive(Debug)]
pub(super) struct Site {
    /// A process in there.
    pub process: ProcessId,
    /// Its namespaces.
    pub held: HeldNamespaces,
    /// What root of its user namespace is here. `None`: root has no id there.
    pub root_ids: Option<(u32, u32)>,
}

/// Which mount goes.
#[derive(Debug, Clone)]
pub enum Which {
    /// One that was made here.
    Id(String),
    /// The one on top at a path of a target.
    Point(Target, Vec<u8>),
}

/// What is done with the container of a source.
const COPY: &str = "bind from";

impl Engine {
    /// Mounts something into a target. `may_have`: whether who asks may have all that can be seen in the container of
    /// the source. Somebody may mount something there between the first look and the copy of the source; this is asked
    /// when the copy is made.
    pub async fn create_mount(
        self: &Arc<Self>,
        wanted: Wanted,
        may_have: impl Fn(&Surroundings) -> bool + Send + 'static,
    ) -> Result<Made> {
        let engine = self.clone();
        let container = self.container_in(&wanted.target);
        let source =
            wanted.source_container.as_ref().and_then(|id| self.registry.container(id).ok());
        let created =
            carry::change(async move { engine.create_mount_now(wanted, may_have).await }).await;
        let mut error = match created {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        for (container, action) in [(source, COPY), (container, "mount into")] {
            if let Some(container) = container {
                error = container.explain_gone(action, error).await;
            }
        }
        Err(error)
    }

    /// Takes a mount away.
    pub async fn delete_mount(
        self: &Arc<Self>,
        which: Which,
        lazy: bool,
        dry_run: bool,
    ) -> Result<()> {
        let engine = self.clone();
        let container = match &which {
            Which::Point(target, _) => self.container_in(target),
            Which::Id(_) => None,
        };
        let deleted =
            carry::change(async move { engine.delete_mount_now(which, lazy, dry_run).await }).await;
        match (deleted, container) {
            (Err(error), Some(container)) => {
                Err(container.explain_gone("unmount from", error).await)
            }
            (deleted, _) => deleted,
        }
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

    /// Whether something is being mounted into a container, or into one that it reaches, of which not all is known yet.
    /// That changes with [`Engine::mounts_settled`].
    pub fn is_being_mounted_around(&self, container: &str) -> bool {
        let Ok(container) = self.registry.container(container) else { return false };
        self.made_mounts.is_under_way_in(|other| self.reaches(&container, other))
    }

    /// Changes whenever all has come to be known of a mount.
    pub fn mounts_settled(&self) -> watch::Receiver<()> {
        self.made_mounts.settled()
    }

    /// Whether all is known of what was mounted into a container.
    pub fn mounts_are_known_in(&self, container: &str) -> bool {
        self.made_mounts.are_known_in(container)
    }

    async fn create_mount_now(
        self: &Arc<Self>,
        wanted: Wanted,
        may_have: impl Fn(&Surroundings) -> bool,
    ) -> Result<Made> {
        let site = self.site_of(self.process_of(&wanted.target, "mount into")?)?;
        let (process, namespace) = (site.process, site.mount_namespace()?);
        let from = wanted.source_container.as_ref().map(|id| self.registry.container(id));
        let from = from.transpose()?;
        let run = from.as_ref().map(|from| from.running_process(COPY)).transpose()?;
        fault::point("create_mount.checked").await;
        let prepared = self.prepare(&wanted, &site).await?;
        fault::point("create_mount.copied").await;
        let source_container_id = from.as_ref().map(|from| from.id.clone());
        let from = match &from {
            Some(from) => {
                let all = self.all_behind(from);
                if !may_have(&all) {
                    return Err(Error::MountUnderWay(from.spec.name.clone()));
                }
                // What it has reached is forgotten at its end.
                run.map_or(Ok(()), |run| from.check_run(run, COPY))?;
                all
            }
            None => None,
        };
        // As long as it is attached nowhere it has its id already.
        let mount_id = process::mount_id(&prepared.fd)
            .map_err(|errno| io_error("cannot look at a mount")(errno.into()))?;
        let (container_id, main) = self.container_with(namespace, &wanted.target)?;
        let beside_container_id = match &container_id {
            Some(_) => None,
            None => self.container_that_sees(&site.held),
        };
        let made = Made {
            id: if wanted.dry_run { String::new() } else { id::new() },
            mount: wanted.mount,
            container_id,
            beside_container_id,
            main: main.filter(|main| *main != process),
            process,
            namespace,
            mount_id,
            made_by: wanted.made_by,
            create_time: SystemTime::now(),
            source_container_id,
            boot_id: self.facts.boot_id.clone(),
            facts: Some(Facts {
                granted: wanted.within.clone(),
                sources: prepared.sources,
                kernel: None,
                from,
            }),
            stage: Stage::Attaching,
        };
        let question = |dry_run| Question::Attach {
            to: process,
            namespace,
            point: made.mount.target.clone().into(),
            dir: prepared.dir,
            create: wanted.create_point,
            root_ids: site.root_ids,
            guarded: wanted.within.is_some(),
            dry_run,
        };
        let lock = self.mount_locks.take(namespace).await?;
        fault::point("create_mount.locked").await;
        // What would fail is noted nowhere.
        let copy = prepared.fd.try_clone().map_err(io_error("cannot duplicate a descriptor"))?;
        let rehearsed = self.ask(&question(true), vec![copy, lock.share()?]).await;
        if wanted.dry_run || rehearsed.as_ref().is_err_and(is_answer) {
            lock.release();
            return rehearsed.map(|_| made);
        }
        rehearsed?;
        if made.facts.as_ref().is_some_and(|facts| facts.granted.is_some()) {
            self.check_room_for(&made)?;
        }
        self.check_count(&made)?;
        // Before it is there: what it shows must not have been read without that being known. A session that is
        // being opened now either is told of it, or finds it among those that were made.
        let under_way = self.made_mounts.begin_settling(&made);
        self.made_mounts.begin(made.clone())?;
        fault::point("create_mount.begun").await;
        if let Err(error) = self.note(&made, true) {
            self.note_absent(&made);
            lock.release();
            return Err(error);
        }
        let attached = self.attach(&question(false), prepared.fd, &lock).await;
        self.note_attached(made, attached, lock, under_way).await
    }

    /// Checks how many mounts were made in a container.
    fn check_count(&self, made: &Made) -> Result<()> {
        let Some(container) = &made.container_id else { return Ok(()) };
        match self.made_mounts.of(container).len() < MOUNTS_MAX {
            true => Ok(()),
            false => Err(Error::Exhausted {
                what: format!(
                    "{MOUNTS_MAX} mounts were made in container {container} since it was started, which is all; unmount some"
                ),
                errno: libc::EAGAIN,
            }),
        }
    }

    /// Checks whether there is room for one more mount in a container: it counts to what is held of its maker, with each
    /// session that reaches it.
    fn check_room_for(&self, made: &Made) -> Result<()> {
        let Some(container) = &made.container_id else { return Ok(()) };
        let maker = self.registry.container(container)?.spec.maker.clone();
        let own = |id: &str| self.registry.container(id).is_ok_and(|one| one.spec.maker == maker);
        let bytes = size(&made.shown());
        let kept = self.sessions_reaching(container).saturating_mul(bytes);
        self.holdings.check(maker.as_deref(), self.made_mounts.size_in(own) + bytes + kept)
    }

    /// Has it attached: whether it is of the kernel's then.
    async fn attach(&self, question: &Question, mount: OwnedFd, lock: &Lock) -> Result<bool> {
        let answers = self.ask(question, vec![mount, lock.share()?]).await?;
        answers
            .into_iter()
            .find_map(|answer| match answer {
                Answer::Attached { kernel } => Some(kernel),
                _ => None,
            })
            .ok_or_else(|| Error::Internal("the inspector did not say what it has done".to_owned()))
    }

    /// Notes what has come of it.
    async fn note_attached(
        self: &Arc<Self>,
        made: Made,
        attached: Result<bool>,
        lock: Lock,
        under_way: UnderWay,
    ) -> Result<Made> {
        let kernel = match attached {
            Ok(kernel) => {
                lock.release();
                Some(kernel)
            }
            Err(error) => match self.look_for(&made).await {
                Seen::There(kernel) => {
                    // It was attached, and the inspector died before it said so.
                    tracing::warn!(%error, mount = made.id, "mounted, though its inspector did not say so");
                    kernel
                }
                Seen::Absent if is_answer(&error) => {
                    self.note_absent(&made);
                    lock.release();
                    return Err(error);
                }
                Seen::Absent => {
                    // Its inspector may be at it still, and has the lock as long as it is.
                    drop(lock);
                    self.find_out(Arc::new(made), under_way);
                    return Err(error);
                }
            },
        };
        Ok(self.note_there(made, kernel))
    }

    fn note_there(&self, made: Made, kernel: Option<bool>) -> Made {
        let made = made.attached(kernel);
        self.made_mounts.settle(&made);
        match self.note(&made, true) {
            // Last: an agent that was killed before finds it being attached, and notes all of it again.
            Ok(()) => self.made_mounts.mark(&made.id, Stage::There),
            // As does the next one then. Until that it is written down as one of which not all is known.
            Err(error) => tracing::warn!(%error, mount = made.id, "mounted, which is not noted"),
        }
        let (pid, by) = (made.process.pid, &made.made_by);
        tracing::info!(mount = made.id, point = made.mount.target, pid, by, "mounted");
        made
    }

    fn note_absent(&self, made: &Made) {
        self.made_mounts.remove(&made.id);
        if let Err(error) = self.note(made, false) {
            tracing::warn!(%error, mount = made.id, "not mounted, but noted so until that is written");
        }
    }

    /// Finds out what has come of the mounts that an earlier agent was attaching.
    pub(in crate::engine) fn find_out_what_was_attached(self: &Arc<Self>) {
        for made in self.made_mounts.left_attaching() {
            let under_way = self.made_mounts.begin_settling(&made);
            self.find_out(made, under_way);
        }
    }

    /// Finds out what has come of a mount of which its inspector has not said so, once that has ended.
    fn find_out(self: &Arc<Self>, made: Arc<Made>, under_way: UnderWay) {
        let engine = self.clone();
        tokio::spawn(async move {
            let _until_it_is_known = under_way;
            let lock = loop {
                match engine.mount_locks.take(made.namespace).await {
                    Ok(lock) => break lock,
                    // It has gone with its container.
                    Err(_) if engine.made_mounts.get(&made.id).is_err() => return,
                    Err(error) => {
                        tracing::warn!(%error, mount = made.id, "it is not known yet whether it is mounted");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            match engine.look_for(&made).await {
                Seen::There(kernel) => drop(engine.note_there(Made::clone(&made), kernel)),
                // It may only be hidden: what it shows counts for what runs there all the same.
                Seen::Absent => engine.made_mounts.remove(&made.id),
            }
            lock.release();
        });
    }

    /// Notes what is known of a mount with all that it reaches; `there`: whether it is there, or is to be.
    fn note(&self, made: &Made, there: bool) -> Result<()> {
        match made.counts_in() {
            Some(container) => self.note_mount(container, &made.shown(), there),
            None => Ok(()),
        }
    }

    async fn delete_mount_now(&self, which: Which, lazy: bool, dry_run: bool) -> Result<()> {
        let from = match &which {
            Which::Id(id) => {
                let made = self.made_mounts.get(id)?;
                made.witness().unwrap_or(made.process)
            }
            Which::Point(target, _) => self.process_of(target, "unmount from")?,
        };
        let site = self.site_of(from)?;
        let namespace = site.mount_namespace()?;
        let lock = self.mount_locks.take(namespace).await?;
        // Looked for again: another call may have taken it away before this one had the lock.
        let made = match &which {
            Which::Id(id) => Some(self.made_mounts.get(id)?),
            Which::Point(..) => None,
        };
        let (point, only) = match (&which, &made) {
            (Which::Point(_, point), _) => (point.clone(), None),
            (_, Some(made)) => (made.mount.target.clone().into(), Some(made.mount_id)),
            (Which::Id(id), None) => return Err(Error::NoSuchMount(id.clone())),
        };
        fault::point("delete_mount.locked").await;
        let question = Question::Detach { from, namespace, point, only, lazy, dry_run };
        if dry_run {
            let rehearsed = self.ask(&question, vec![lock.share()?]).await;
            if rehearsed.as_ref().map_or_else(is_answer, |_| true) {
                lock.release();
            }
            return rehearsed.map(drop);
        }
        if let Some(made) = &made {
            self.made_mounts.mark(&made.id, Stage::Detaching);
        }
        let detached = self.ask(&question, vec![lock.share()?]).await;
        let ended = detached.as_ref().map_or_else(is_answer, |_| true);
        fault::point("delete_mount.detached").await;
        let there = self.look(from, namespace).await;
        if let Some(there) = &there {
            self.made_mounts.sweep(namespace, there);
        }
        let result = match (detached, made) {
            (Ok(_), made) => {
                if let Some(made) = made {
                    self.made_mounts.remove(&made.id);
                }
                tracing::info!(pid = from.pid, ?which, lazy, "unmounted");
                Ok(())
            }
            (Err(error), Some(made)) => match self.made_mounts.get(&made.id) {
                Ok(_) => {
                    self.made_mounts.mark(&made.id, Stage::There);
                    Err(error)
                }
                // Its target has unmounted it itself.
                Err(gone) if is_answer(&error) => Err(gone),
                // It was detached, and the inspector died before it said so.
                Err(_) => Ok(()),
            },
            (Err(error), None) => Err(error),
        };
        if ended {
            lock.release();
        }
        result
    }

    /// Looks at where a mount goes.
    fn site_of(&self, process: ProcessId) -> Result<Site> {
        let pinned = process::Pinned::same(process)?;
        let held = HeldNamespaces::of(&pinned, &self.own_namespaces)?;
        let root_ids = process::root_ids(process.pid);
        held.still_of(&pinned)?;
        Ok(Site { process, held, root_ids })
    }

    /// Asks an inspector, and hears all that it says.
    async fn ask(&self, question: &Question, fds: Vec<OwnedFd>) -> Result<Vec<Answer>> {
        let mut inspection = self.inspect(question, &fds).await?;
        drop(fds);
        let mut all = Vec::new();
        while let Some(answers) = inspection.next().await? {
            all.extend(answers);
        }
        Ok(all)
    }

    /// The ids of the mounts that a process sees, if it is in this mount namespace.
    async fn look(&self, process: ProcessId, namespace: u64) -> Option<HashSet<u64>> {
        tokio::task::spawn_blocking(move || mounts_of(process, namespace)).await.ok().flatten()
    }

    /// Looks whether a mount is in its place.
    async fn look_for(&self, made: &Made) -> Seen {
        let made = made.clone();
        // A panic is a defect; it was told where it was made.
        tokio::task::spawn_blocking(move || seen(&made)).await.unwrap_or(Seen::There(None))
    }

    /// The container whose mount namespace a target is in, and its main process: a mount made by way of a process
    /// in it is there for all who enter it.
    pub(in crate::engine) fn container_with(
        &self,
        namespace: u64,
        target: &Target,
    ) -> Result<(Option<String>, Option<ProcessId>)> {
        if let Target::Container(id) = target {
            let container = self.registry.container(id)?;
            return Ok((Some(container.id.clone()), container.process()));
        }
        let all = self.registry.containers();
        let mut mains = all.iter().filter_map(|one| Some((one.id.clone(), one.process()?)));
        let found = mains.find(|(_, main)| mount_namespace(*main).is_ok_and(|of| of == namespace));
        Ok(found.map_or((None, None), |(id, main)| (Some(id), Some(main))))
    }
}

impl Site {
    /// The inode number of its mount namespace.
    fn mount_namespace(&self) -> Result<u64> {
        let gone = || process::gone(self.process.pid, &std::io::ErrorKind::NotFound.into()).into();
        self.held.inode(NsType::Mount).ok_or_else(gone)
    }
}

/// Whether an inspector has said so, and has ended; else it may be at work still.
fn is_answer(error: &Error) -> bool {
    matches!(error, Error::Refused { .. } | Error::TargetGone { .. })
}

/// The inode number of the mount namespace that a process is in.
fn mount_namespace(of: ProcessId) -> Result<u64> {
    let pinned = process::Pinned::same(of)?;
    let gone = |error: std::io::Error| process::gone(of.pid, &error);
    let links = process::namespaces(process::directory(of.pid)?).map_err(|e| gone(e.into()))?;
    let found = process::readable_namespace(links, NsType::Mount.file_name());
    let found = found.map_err(|errno| gone(errno.into()))?;
    pinned.still_there()?;
    found.ok_or_else(|| gone(std::io::ErrorKind::NotFound.into()).into())
}
