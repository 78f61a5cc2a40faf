//! The processes of a target.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use conti_runtime::{
    inspect::question::{Answer, Process, Question, Whose},
    protocol::ProcessId,
};
use tokio::time::{Instant, sleep_until};

use super::{
    Engine,
    error::Result,
    inspect::Inspection,
    scope::Scope,
    session::store::ContainerRef,
    spec::{Namespace, Target},
    users::Users,
};

/// A clock tick in nanoseconds: USER_HZ is 100 on all architectures but Alpha (times(2)).
const TICK: u64 = 10_000_000;

/// Processes at one moment.
#[derive(Debug)]
pub struct Processes {
    inspection: Inspection,
    containers: HashMap<String, ContainerRef>,
    users: Users,
    boot: u64,
    real: u64,
    /// What each had taken at a moment before.
    before: Option<Before>,
    now: Before,
}

/// The CPU time in nanoseconds that each process had taken at one moment.
#[derive(Debug, Default)]
struct Before {
    boot: u64,
    taken: HashMap<ProcessId, u64>,
}

/// A process, and what follows from when it was looked at.
#[derive(Debug)]
pub struct ProcessInfo {
    /// What the kernel says of it.
    pub process: Process,
    /// The name of its user on the host; empty: none.
    pub user: String,
    /// How much of one CPU it takes.
    pub cpu: f64,
    /// CPU time in user mode.
    pub user_time: Duration,
    /// CPU time in the kernel.
    pub system_time: Duration,
    /// When it was started.
    pub start_time: SystemTime,
    /// The container in whose cgroup it is.
    pub container: Option<ContainerRef>,
}

/// Processes, again and again.
#[derive(Debug)]
pub struct Watch {
    engine: Arc<Engine>,
    scope: Scope,
    target: Target,
    interval: Duration,
    next: Instant,
    current: Option<Processes>,
    before: Option<Before>,
}

impl Engine {
    /// Finds the processes of a target, with those of their containers that a scope sees.
    pub async fn processes(&self, scope: &Scope, target: &Target) -> Result<Processes> {
        self.processes_since(scope, target, None).await
    }

    /// Finds the processes of a target again and again.
    pub async fn watch_processes(
        self: &Arc<Self>,
        scope: Scope,
        target: Target,
        interval: Duration,
    ) -> Result<Watch> {
        let next = Instant::now() + interval;
        // What cannot be found is told before anything else.
        let current = Some(self.processes(&scope, &target).await?);
        Ok(Watch { engine: self.clone(), scope, target, interval, next, current, before: None })
    }

    async fn processes_since(
        &self,
        scope: &Scope,
        target: &Target,
        before: Option<Before>,
    ) -> Result<Processes> {
        let whose = self.whose(target)?;
        let agent = self.cgroups.agent_dir().to_owned();
        let inspection = self.look_into(target, &Question::Processes { whose, agent }).await?;
        let all = self.registry.containers_by_age();
        let containers = all
            .iter()
            .filter(|one| scope.sees(&one.spec.labels))
            .filter_map(|one| Some((one.cgroup_name()?, one.reference())))
            .collect();
        let (users, now) = (Users::of_host(), Before::default());
        Ok(Processes { inspection, containers, users, boot: 0, real: 0, before, now })
    }

    fn whose(&self, target: &Target) -> Result<Whose> {
        Ok(match target {
            Target::Host => Whose::default(),
            Target::Process { .. } => Whose {
                member: Some(self.process_of(target, "look into")?),
                by_namespace: true,
                group: None,
            },
            Target::Container(id) => {
                let container = self.registry.container(id)?;
                Whose {
                    member: Some(container.running_process("look into")?),
                    by_namespace: container.spec.namespaces.pid == Namespace::Private,
                    group: container.cgroup_name(),
                }
            }
        })
    }
}

impl Processes {
    /// The next ones. `None`: that was all.
    pub async fn more(&mut self) -> Result<Option<Vec<ProcessInfo>>> {
        while let Some(answers) = self.inspection.next().await? {
            let found: Vec<_> =
                answers.into_iter().filter_map(|answer| self.about(answer)).collect();
            if !found.is_empty() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn about(&mut self, answer: Answer) -> Option<ProcessInfo> {
        let process = match answer {
            Answer::Process(process) => process,
            Answer::Moment { boot, real } => {
                (self.boot, self.real, self.now.boot) = (boot, real, boot);
                return None;
            }
            _ => return None,
        };
        let taken = process.user_ticks.saturating_add(process.system_ticks).saturating_mul(TICK);
        self.now.taken.insert(process.id, taken);
        let started = process.id.start_ticks.saturating_mul(TICK);
        // Since the moment before, where it was there already; since its start otherwise.
        let (since, already) = self
            .before
            .as_ref()
            .and_then(|before| Some((before.boot, *before.taken.get(&process.id)?)))
            .unwrap_or((started, 0));
        let (took, passed) = (taken.saturating_sub(already), self.boot.saturating_sub(since));
        let age = Duration::from_nanos(self.boot.saturating_sub(started));
        let time = |ticks: u64| Duration::from_nanos(ticks.saturating_mul(TICK));
        Some(ProcessInfo {
            user: self.users.name(process.uid),
            cpu: if passed == 0 { 0.0 } else { took as f64 / passed as f64 },
            user_time: time(process.user_ticks),
            system_time: time(process.system_ticks),
            start_time: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.real) - age,
            container: self.containers.get(&process.group).cloned(),
            process,
        })
    }
}

impl Watch {
    /// The next ones, and whether they are the last of their moment.
    pub async fn more(&mut self) -> Result<(Vec<ProcessInfo>, bool)> {
        let mut current = match self.current.take() {
            Some(current) => current,
            None => {
                sleep_until(self.next).await;
                // Late is not made up for: a slow reader gets fewer.
                self.next = Instant::now() + self.interval;
                self.engine.processes_since(&self.scope, &self.target, self.before.take()).await?
            }
        };
        match current.more().await? {
            Some(found) => {
                self.current = Some(current);
                Ok((found, false))
            }
            None => {
                self.before = Some(current.now);
                Ok((Vec::new(), true))
            }
        }
    }
}
