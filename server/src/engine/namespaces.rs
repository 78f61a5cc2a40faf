//! The namespaces of the host, and whose they are.

use std::{collections::HashMap, sync::Arc};

use conti_runtime::{
    inspect::{
        process,
        question::{Answer, Namespace, Question},
    },
    plan::NsType,
};

use super::{
    Engine, container::Container, error::Result, inspect::Inspection, scope::Scope,
    session::store::ContainerRef, spec::Target, users::Users,
};

/// Namespaces as they are found.
#[derive(Debug)]
pub struct Namespaces {
    inspection: Inspection,
    types: Vec<NsType>,
    containers: HashMap<u64, Vec<ContainerRef>>,
    host: Vec<u64>,
    users: Users,
}

/// A namespace, and whose it is.
#[derive(Debug)]
pub struct NamespaceInfo {
    /// What the kernel says of it.
    pub namespace: Namespace,
    /// The running containers whose main process is in it; none where it is the host's.
    pub containers: Vec<ContainerRef>,
    /// Whether the agent is in it.
    pub host: bool,
}

impl Engine {
    /// Finds namespaces: of the host or of a target, of these types or of all, with those of their containers that
    /// a scope sees.
    pub async fn namespaces(
        &self,
        scope: &Scope,
        target: Option<&Target>,
        types: Vec<NsType>,
    ) -> Result<Namespaces> {
        let of = target.map(|target| self.process_of(target, "look into")).transpose()?;
        let question = Question::Namespaces { of };
        let inspection = self.look_into(target.unwrap_or(&Target::Host), &question).await?;
        let host: Vec<u64> = inodes(std::process::id() as i32).collect();
        let mut containers: HashMap<u64, Vec<ContainerRef>> = HashMap::new();
        let all = self.registry.containers_by_age();
        for container in all.iter().filter(|one| scope.sees(&one.spec.labels)) {
            for inode in of_container(container).filter(|inode| !host.contains(inode)) {
                containers.entry(inode).or_default().push(container.reference());
            }
        }
        Ok(Namespaces { inspection, types, containers, host, users: Users::of_host() })
    }
}

impl Namespaces {
    /// The next ones. `None`: that was all.
    pub async fn more(&mut self) -> Result<Option<Vec<NamespaceInfo>>> {
        while let Some(answers) = self.inspection.next().await? {
            let wanted: Vec<NamespaceInfo> =
                answers.into_iter().filter_map(|answer| self.about(answer)).collect();
            if !wanted.is_empty() {
                return Ok(Some(wanted));
            }
        }
        Ok(None)
    }

    /// The users of the host.
    pub fn users(&self) -> &Users {
        &self.users
    }

    fn about(&self, answer: Answer) -> Option<NamespaceInfo> {
        let Answer::Namespace(namespace) = answer else { return None };
        if !self.types.is_empty() && !self.types.contains(&namespace.kind) {
            return None;
        }
        let containers = self.containers.get(&namespace.inode).cloned().unwrap_or_default();
        let host = self.host.contains(&namespace.inode);
        Some(NamespaceInfo { namespace, containers, host })
    }
}

fn of_container(container: &Arc<Container>) -> impl Iterator<Item = u64> + use<> {
    container.process().into_iter().flat_map(|process| inodes(process.pid))
}

/// The inode numbers of the namespaces of a process; none where it is gone.
fn inodes(pid: i32) -> impl Iterator<Item = u64> {
    let links = process::directory(pid).ok().and_then(|dir| process::namespaces(dir).ok());
    let all = NsType::ALL.into_iter();
    all.filter_map(move |kind| process::namespace_of(links.as_ref()?, kind.file_name()))
}
