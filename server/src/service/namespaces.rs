//! The namespaces of the host.

use std::sync::Arc;

use conti_proto::v1::{
    FdHolder, ListNamespacesRequest, ListNamespacesResponse, MountHolder, NamespaceHolder,
    NamespaceInfo, NamespaceRef, ProcessBrief, namespace_holder::Holder as Kind,
    namespace_service_server::NamespaceService,
};
use conti_runtime::inspect::question::{Brief, Holder};
use tonic::{Request, Response, Status};

use super::{
    call::Call,
    convert::{
        Field,
        session::{namespace_type_back, namespace_types},
        target::target,
    },
    parts::{self, PartStream, Parts},
    status::{self, valid},
    stopping::Stopping,
};
use crate::engine::{Engine, namespaces, spec::Target, users::Users};

/// Serves `conti.v1.NamespaceService`.
#[derive(Debug)]
pub struct Namespaces {
    engine: Arc<Engine>,
    stopping: Stopping,
}

impl Namespaces {
    /// Serves an engine until the agent stops.
    pub fn new(engine: Arc<Engine>, stopping: Stopping) -> Namespaces {
        Namespaces { engine, stopping }
    }
}

#[tonic::async_trait]
impl NamespaceService for Namespaces {
    type ListNamespacesStream = PartStream<ListNamespacesResponse>;

    async fn list_namespaces(
        &self,
        request: Request<ListNamespacesRequest>,
    ) -> Result<Response<Self::ListNamespacesStream>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let (of, types) = valid(|v| {
            let types = namespace_types(v, Field::root("types"), &request.types);
            let of = request.target.map(|of| target(v, Field::root("target"), Some(of)));
            (of, types)
        })?;
        let of = match of {
            Some(of) => Some(call.target(&self.engine, of).await?),
            None => {
                call.admin("target", "without a target it reaches the host")?;
                None
            }
        };
        let found = self
            .engine
            .namespaces(&call.caller.scope, of.as_ref(), types)
            .await
            .map_err(status::of)?;
        let of = of.unwrap_or(Target::Host);
        parts::checked(found, (call, of), &self.engine, self.stopping.clone())
    }
}

impl Parts for namespaces::Namespaces {
    type Message = ListNamespacesResponse;

    async fn next(&mut self) -> Result<Option<ListNamespacesResponse>, Status> {
        let Some(batch) = self.more().await.map_err(status::of)? else { return Ok(None) };
        let namespaces = batch.into_iter().map(|one| message(one, self.users())).collect();
        Ok(Some(ListNamespacesResponse { namespaces }))
    }
}

fn message(found: namespaces::NamespaceInfo, users: &Users) -> NamespaceInfo {
    let namespaces::NamespaceInfo { namespace, containers, host } = found;
    let (container_ids, container_names) =
        containers.into_iter().map(|container| (container.id, container.name)).unzip();
    NamespaceInfo {
        r#type: namespace_type_back(namespace.kind).into(),
        inode: namespace.inode,
        process_count: namespace.processes,
        lowest: namespace.lowest.map(|lowest| brief(lowest, users)),
        owner_inode: namespace.owner.unwrap_or(0),
        parent_inode: namespace.parent.unwrap_or(0),
        creator_uid: namespace.creator,
        creator: namespace.creator.map(|uid| users.name(uid)).unwrap_or_default(),
        container_ids,
        container_names,
        host,
        holders: namespace.holders.into_iter().map(holder).collect(),
    }
}

fn brief(brief: Brief, users: &Users) -> ProcessBrief {
    ProcessBrief {
        pid: number(brief.pid),
        uid: brief.uid,
        user: users.name(brief.uid),
        command: brief.command.into(),
    }
}

fn holder(holder: Holder) -> NamespaceHolder {
    let holder = match holder {
        Holder::Mount { pid, path } => {
            Kind::Mount(MountHolder { pid: number(pid), path: path.into() })
        }
        Holder::Fd { pid, fd } => Kind::Fd(FdHolder { pid: number(pid), fd: number(fd) }),
        Holder::ForChildren { pid } => Kind::ForChildrenOf(number(pid)),
        Holder::Descendant { kind, inode } => {
            Kind::Descendant(NamespaceRef { r#type: namespace_type_back(kind).into(), inode })
        }
    };
    NamespaceHolder { holder: Some(holder) }
}

/// Pids and numbers of file descriptors are never negative.
fn number(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}
