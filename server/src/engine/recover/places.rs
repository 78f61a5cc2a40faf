//! Where what runs belongs: by the records of containers, by those of sessions, and by what is noted on cgroups. One of
//! them is enough, so that nothing is taken for gone, or for nobody's, because another one is damaged or missing.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use conti_runtime::{inspect::process as inspect, plan::IdMap};
use tracing::warn;

use super::{Found, KNOCK};
use crate::engine::{
    Engine,
    cgroup::{Cgroup, Owner},
    container::{self, Container},
    error::{Error, Result},
    id_ranges::IdRange,
    io_error,
    session::store::{ContainerRef, Record},
    spec::ContainerSpec,
};

/// The records of containers, with their directories.
pub type Containers = [(PathBuf, io::Result<container::Record>)];
/// The records of sessions, with their directories.
pub type Sessions = [(PathBuf, io::Result<Record>)];

/// The container that a session takes place in, as far as anything tells of it.
#[derive(Debug, Clone)]
pub struct Home {
    /// The container. Where nothing tells its name that is its id.
    pub container: ContainerRef,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Home {
    /// That of a container of which all is known.
    pub fn new(id: &str, spec: &ContainerSpec) -> Home {
        let container = ContainerRef { id: id.to_owned(), name: spec.name.clone() };
        Home { container, labels: spec.labels.clone() }
    }
}

/// Where what is in a cgroup belongs, by its name. `None`: nowhere, it is to end.
#[derive(Debug, Default)]
pub struct Places(HashMap<String, Option<Home>>);

impl Places {
    /// The home of what is in a cgroup, as far as it is known.
    pub fn home(&self, cgroup: &str) -> Option<Home> {
        self.0.get(cgroup).cloned().flatten()
    }

    /// The cgroups whose container is known.
    fn known(&self) -> impl Iterator<Item = (&String, &Home)> {
        self.0.iter().filter_map(|(name, home)| Some((name, home.as_ref()?)))
    }

    /// The cgroups of a container.
    fn of<'a>(&'a self, container: &'a str) -> impl Iterator<Item = &'a String> {
        self.known().filter(move |(_, home)| home.container.id == container).map(|(name, _)| name)
    }
}

impl Engine {
    /// Gathers what tells where what runs belongs.
    pub(super) fn places(&self, containers: &Containers, sessions: &Sessions) -> Places {
        let mut all = HashMap::new();
        for record in sessions.iter().filter_map(|(_, record)| record.as_ref().ok()) {
            if let (Some(cgroup), Some(container)) = (&record.cgroup, &record.container) {
                let home = Home { container: container.clone(), labels: record.labels.clone() };
                all.insert(cgroup.clone(), Some(home));
            }
        }
        for record in containers.iter().filter_map(|(_, record)| record.as_ref().ok()) {
            if let Some(cgroup) = record.cgroup.as_ref().filter(|_| self.is_of_boot(record)) {
                all.insert(cgroup.clone(), Some(Home::new(&record.id, &record.spec)));
            }
        }
        for name in self.cgroups.names() {
            match self.cgroups.open(&name).noted_owner() {
                Some(Owner::Container(id)) => {
                    all.entry(name).or_insert_with(|| {
                        let container = ContainerRef { name: id.clone(), id };
                        Some(Home { container, labels: BTreeMap::new() })
                    });
                }
                Some(Owner::Nobody) => drop(all.insert(name, None)),
                None => {}
            }
        }
        Places(all)
    }

    /// Whether what a record tells of processes means something still.
    pub(super) fn is_of_boot(&self, record: &container::Record) -> bool {
        record.boot_id == self.facts.boot_id
    }

    /// Whether processes are in a cgroup of a container.
    pub(super) fn runs(&self, places: &Places, container: &str) -> bool {
        places.of(container).any(|name| !self.cgroups.open(name).is_empty())
    }

    /// Adds to the record of a session that cannot be read where its process lives, which the kernel tells.
    pub(super) fn place(
        &self,
        record: &mut Record,
        pid: i32,
        home: impl FnOnce(&str) -> Option<Home>,
    ) {
        record.cgroup = self.cgroups.name_of(pid);
        if let (None, Some(cgroup)) = (&record.container, &record.cgroup)
            && let Some(Home { container, labels }) = home(cgroup)
        {
            (record.container, record.labels) = (Some(container), labels);
        }
    }

    /// Has a container for all that runs: one that has no other can be deleted. But for those whose removal has begun.
    pub(super) fn represent(&self, found: &[Found], places: &Places, left: &[PathBuf]) {
        let alive = found.iter().filter(|found| !matches!(found, Found::Ended(..)));
        let by_sessions = alive.filter_map(|found| {
            let record = &found.session().record;
            let role = if record.main { "is its main process" } else { "runs in it" };
            let id = record.container.as_ref()?.id.as_str();
            Some((id, format!("session {} {role}", record.id)))
        });
        let cgroups = places.known().filter(|(name, home)| {
            // Those are asked of which nothing else tells.
            self.registry.container(&home.container.id).is_err()
                && !self.cgroups.open(name).is_empty()
        });
        let by_cgroups = cgroups.map(|(name, home)| {
            (&*home.container.id, format!("processes are in its cgroup {name}"))
        });
        for (id, what) in by_sessions.chain(by_cgroups) {
            let dir = self.containers_dir.join(id);
            if self.registry.container(id).is_ok() || left.contains(&dir) {
                continue;
            }
            let problem = format!(
                "{what}, and {} does not tell of it; it can only be deleted, with what runs in it (`contictl rm -f`)",
                dir.display()
            );
            warn!(problem, "a container is set aside");
            if let Err(error) = self.registry.add_container(Arc::new(self.unknown(&dir, problem))) {
                warn!(dir = %dir.display(), %error, "a container cannot be taken over");
            }
        }
    }

    /// Gives a container of which nothing else is known the cgroup that it runs in, and the ids that it has there.
    pub(super) fn find_cgroup(&self, container: &Container, places: &Places) {
        if container.may_run_anywhere() {
            let populated = |name: &&String| !self.cgroups.open(name).is_empty();
            if let Some(name) = places.of(&container.id).find(populated) {
                container.now().cgroup = Some(Arc::new(self.cgroups.open(name)));
            }
        }
        let cgroup = {
            let now = container.now();
            let unknown = now.quarantined.is_some() && now.id_range.is_none();
            now.cgroup.clone().filter(|_| unknown)
        };
        if let Some(cgroup) = cgroup {
            container.now().id_range = self.ids_in(&cgroup);
        }
    }

    /// Takes the ids that the processes in a cgroup have.
    fn ids_in(&self, cgroup: &Cgroup) -> Option<IdRange> {
        self.ids_of(cgroup.processes().ok()?.into_iter().map(rustix::process::Pid::as_raw_pid))
    }

    /// Takes the ids that some processes have of whose container nothing else is known.
    pub(super) fn ids_of(&self, processes: impl IntoIterator<Item = i32>) -> Option<IdRange> {
        let maps = processes.into_iter().filter_map(|pid| {
            let directory = inspect::directory(pid).ok()?;
            let maps = ["uid_map", "gid_map"].map(|map| inspect::id_map(&directory, map).ok());
            Some(maps.into_iter().flatten().flatten())
        });
        self.id_ranges.claim_of(&maps.flatten().collect::<Vec<IdMap>>())
    }

    /// Whether what is left in a cgroup may be killed: nothing is, or it is that of a container of which it is known that
    /// none of it should run.
    pub(super) fn may_be_killed(&self, cgroup: &Cgroup, places: &Places, left: &[PathBuf]) -> bool {
        let over = |home: &Home| {
            let known = self.registry.container(&home.container.id);
            left.contains(&self.containers_dir.join(&home.container.id))
                || known.is_ok_and(|one| one.now().quarantined.is_none())
        };
        let is_over = |home: &Option<Home>| home.as_ref().is_none_or(over);
        cgroup.is_empty() || places.0.get(&cgroup.name).is_some_and(is_over)
    }

    /// Leaves alone what runs in a cgroup of which nobody knows whose it is, and its ids, until nothing runs there.
    pub(super) fn leave_alone(&self, cgroup: Cgroup) {
        let ids = self.ids_in(&cgroup);
        if !cgroup.is_empty() {
            warn!(
                cgroup = cgroup.name,
                "something runs in a cgroup of no container that is known: it runs on"
            );
        }
        let cgroup = Arc::new(cgroup);
        tokio::spawn(async move {
            let _until_it_is_gone = ids;
            // Mostly it is what an agent before had ready, and just dies.
            let mut pause = Duration::from_millis(10);
            loop {
                let cgroup = cgroup.clone();
                let remove = move || cgroup.is_empty() && cgroup.remove();
                // A panic is a defect; it was told where it was made.
                if tokio::task::spawn_blocking(remove).await.unwrap_or(true) {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(KNOCK);
            }
        });
    }

    /// Checks that nothing runs of which it is not known whether it is of a container whose own cgroup is not known: it
    /// would run on without its files.
    pub(in crate::engine) fn check_nothing_of(&self, container: &Container) -> Result<()> {
        if !container.may_run_anywhere() || container.now().left.is_some() {
            return Ok(());
        }
        let all = self.registry.containers();
        let known: Vec<String> = all.iter().filter_map(|one| one.cgroup_name()).collect();
        let others = self.cgroups.names().into_iter().filter(|name| !known.contains(name));
        for cgroup in others.map(|name| self.cgroups.open(&name)) {
            let own = Owner::Container(container.id.clone());
            let may_be = cgroup.noted_owner().is_none_or(|of| of == own);
            let all = cgroup.processes().map_err(io_error("cannot list a cgroup"))?;
            if let Some(pid) = all.first().filter(|_| may_be) {
                return Err(Error::Refused {
                    tried: "nothing tells whether a process is of the container that is to be removed; end it (kill \
                            -KILL, or `contictl sessions kill`) and remove the container again:"
                        .to_owned(),
                    argument: format!("process {} in cgroup {}", pid.as_raw_pid(), cgroup.name).into(),
                    errno: libc::EBUSY,
                });
            }
        }
        Ok(())
    }
}

/// The name of a session's or container's directory.
pub fn name_of(dir: &Path) -> &str {
    dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
