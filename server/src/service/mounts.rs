//! The mounts of what is alive.

use std::sync::Arc;

use conti_proto::v1::{
    FilesystemUsage, ListMountsRequest, ListMountsResponse, MountInfo,
    mount_service_server::MountService,
};
use conti_runtime::inspect::question::{Mount, Usage};
use tonic::{Request, Response, Status};

use super::{
    convert::{Field, target::target},
    parts::{self, PartStream, Parts},
    status::{self, valid},
    stopping::Stopping,
};
use crate::engine::{
    Engine,
    mounts::{self, Filter},
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
        let ListMountsRequest { target: of, fs_types, sources, points, skip_usage } =
            request.into_inner();
        let of = valid(|v| target(v, Field::root("target"), of))?;
        let bytes = |list: Vec<prost::bytes::Bytes>| list.into_iter().map(Into::into).collect();
        let filter = Filter { fs_types, sources: bytes(sources), points: bytes(points) };
        let found = self.engine.mounts(&of, filter, !skip_usage).await.map_err(status::of)?;
        Ok(Response::new(parts::stream(found, self.stopping.clone())))
    }
}

impl Parts for mounts::Mounts {
    type Message = ListMountsResponse;

    async fn next(&mut self) -> Result<Option<ListMountsResponse>, Status> {
        let Some(batch) = self.more().await.map_err(status::of)? else { return Ok(None) };
        Ok(Some(ListMountsResponse { mounts: batch.into_iter().map(message).collect() }))
    }
}

fn message(mount: Mount) -> MountInfo {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    MountInfo {
        id: mount.id,
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
