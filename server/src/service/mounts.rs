//! The mounts of what is alive.

use std::sync::Arc;

use conti_proto::v1::{
    CreateMountRequest, CreateMountResponse, DeleteMountRequest, DeleteMountResponse,
    FilesystemUsage, ListMountsRequest, ListMountsResponse, MadeMount, MountInfo, ProcessId,
    delete_mount_request::Which as Asked, mount_service_server::MountService,
};
use conti_runtime::inspect::question::{Mount, Usage};
use tonic::{Request, Response, Status};

use super::{
    call::Call,
    convert::{
        Field, info, mounts as mounts_of,
        target::{self, target},
        text,
    },
    parts::{self, PartStream, Parts},
    status::{self, valid},
    stopping::Stopping,
};
use crate::access::{Caller, Identity, reached};
use crate::engine::{
    Engine,
    mounts::{
        self, Filter,
        live::{Wanted, Which},
        made::Made,
    },
    spec::MountSource,
    surroundings::Surroundings,
};

/// Serves `conti.v1.MountService`.
#[derive(Debug)]
pub struct Mounts {
    engine: Arc<Engine>,
    stopping: Stopping,
}

impl Mounts {
    /// Serves an engine until the agent stops.
    pub fn new(engine: Arc<Engine>, stopping: Stopping) -> Mounts {
        Mounts { engine, stopping }
    }
}

#[tonic::async_trait]
impl MountService for Mounts {
    type ListMountsStream = PartStream<ListMountsResponse>;

    async fn list_mounts(
        &self,
        request: Request<ListMountsRequest>,
    ) -> Result<Response<Self::ListMountsStream>, Status> {
        let call = Call::of(&request)?;
        let ListMountsRequest { target: of, fs_types, sources, points, skip_usage } =
            request.into_inner();
        let of = valid(|v| target(v, Field::root("target"), of))?;
        let of = call.target(&self.engine, of).await?;
        let bytes = |list: Vec<prost::bytes::Bytes>| list.into_iter().map(Into::into).collect();
        let filter = Filter { fs_types, sources: bytes(sources), points: bytes(points) };
        let found = self.engine.mounts(&of, filter, !skip_usage).await.map_err(status::of)?;
        parts::checked(found, (call, of), &self.engine, self.stopping.clone())
    }

    async fn create_mount(
        &self,
        request: Request<CreateMountRequest>,
    ) -> Result<Response<CreateMountResponse>, Status> {
        let call = Call::of(&request)?;
        let made_by = made_by(&call.caller);
        let message = request.into_inner();
        let mut wanted = valid(|v| {
            let source = message.source_container;
            if !source.is_empty() {
                text::container_key(v, Field::root("source_container"), &source);
            }
            let mount = mounts_of::live_mount(v, Field::root("mount"), message.mount);
            if message.idmapped && !matches!(mount.source, MountSource::Bind { .. }) {
                v.add(Field::root("idmapped"), "is for bind mounts only");
            }
            Wanted {
                target: target(v, Field::root("target"), message.target),
                mount,
                source_container: Some(source).filter(|source| !source.is_empty()),
                idmapped: message.idmapped,
                create_point: message.create_point,
                dry_run: message.dry_run,
                made_by,
                within: None,
            }
        })?;
        if let Some(key) = &mut wanted.source_container {
            *key = call.enter(&self.engine, key).await?.id.clone();
        }
        wanted.within = call.mount(&wanted.mount, wanted.source_container.is_some())?;
        wanted.target = call.target(&self.engine, wanted.target).await?;
        let may_have = {
            let (engine, grants, is_admin) =
                (self.engine.clone(), call.caller.grants.clone(), call.is_admin());
            move |all: &Surroundings| {
                let check = |one| reached::reached(one, &grants, engine.userns()).is_ok();
                is_admin || all.as_ref().is_some_and(|all| all.iter().all(check))
            }
        };
        let made = self.engine.create_mount(wanted, may_have).await.map_err(status::of)?;
        Ok(Response::new(CreateMountResponse { mount: Some(made_message(&made)) }))
    }

    async fn delete_mount(
        &self,
        request: Request<DeleteMountRequest>,
    ) -> Result<Response<DeleteMountResponse>, Status> {
        let call = Call::of(&request)?;
        let DeleteMountRequest { which, lazy, dry_run } = request.into_inner();
        let which = valid(|v| match which {
            None => {
                v.add(Field::root("which"), "is missing: give `id` or `point`");
                Which::Id(String::new())
            }
            Some(Asked::Id(id)) => {
                text::mount_key(v, Field::root("id"), &id);
                Which::Id(id)
            }
            Some(Asked::Point(point)) => {
                let at = Field::root("point");
                let path = target::path(v, at.name("point"), point.point.into());
                Which::Point(target(v, at.name("target"), point.target), path)
            }
        })?;
        let which = call.unmount(&self.engine, which).await?;
        self.engine.delete_mount(which, lazy, dry_run).await.map_err(status::of)?;
        Ok(Response::new(DeleteMountResponse {}))
    }
}

/// Who calls, as a record of a mount tells it.
fn made_by(caller: &Caller) -> String {
    match &caller.peer.identity {
        Identity::Local { uid, pid: Some(pid), .. } => format!("uid {uid}, pid {pid}"),
        Identity::Local { uid, pid: None, .. } => format!("uid {uid}"),
        _ => format!("{} at {}", caller.name(), caller.peer.address),
    }
}

fn made_message(made: &Made) -> MadeMount {
    MadeMount {
        id: made.id.clone(),
        mount: Some(mounts_of::mount_back(made.mount.clone())),
        container_id: made.container_id.clone().unwrap_or_default(),
        process: Some(ProcessId {
            pid: u32::try_from(made.process.pid).unwrap_or(0),
            start_ticks: made.process.start_ticks,
        }),
        mount_id: made.mount_id.id,
        made_by: made.made_by.clone(),
        create_time: Some(info::timestamp(made.create_time)),
        source_container_id: made.source_container_id.clone().unwrap_or_default(),
    }
}

impl Parts for mounts::Mounts {
    type Message = ListMountsResponse;

    async fn next(&mut self) -> Result<Option<ListMountsResponse>, Status> {
        let Some(batch) = self.more().await.map_err(status::of)? else { return Ok(None) };
        Ok(Some(ListMountsResponse { mounts: batch.into_iter().map(message).collect() }))
    }
}

fn message((mount, made): (Mount, Option<Arc<Made>>)) -> MountInfo {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    MountInfo {
        id: mount.id.id,
        parent_id: mount.parent,
        point: mount.point.into(),
        source: mount.source.into(),
        fs_type: text(&mount.fs_type),
        options: text(&mount.options),
        fs_options: mount.fs_options.into(),
        root: mount.root.into(),
        device_major: mount.device.0,
        device_minor: mount.device.1,
        peer_group: mount.shared.unwrap_or(0),
        master_group: mount.master.unwrap_or(0),
        propagate_from: mount.propagate_from.unwrap_or(0),
        unbindable: mount.unbindable,
        hidden: mount.hidden,
        usage: mount.usage.map(usage),
        made: made.map(|made| made_message(&made)),
    }
}

fn usage(usage: Usage) -> FilesystemUsage {
    FilesystemUsage {
        size_bytes: usage.size,
        used_bytes: usage.size.saturating_sub(usage.free),
        available_bytes: usage.available,
        inodes: usage.inodes,
        inodes_used: usage.inodes.saturating_sub(usage.inodes_free),
    }
}
