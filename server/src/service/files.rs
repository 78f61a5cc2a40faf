//! The files of a target.

use std::sync::Arc;

use conti_proto::v1::{
    DirectoryUsage, FileEntry, FileType, ListDirectoryRequest, ListDirectoryResponse,
    MeasureUsageRequest, MeasureUsageResponse, ReadFileRequest, ReadFileResponse, UsageProgress,
    file_service_server::FileService,
};
use conti_runtime::inspect::question::{Entry, Held};
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    call::Call,
    convert::{
        Field,
        target::{path, target},
    },
    parts::{self, PartStream, Parts},
    status::{self, valid},
    stopping::Stopping,
};
use crate::engine::{
    Engine,
    files::{Content, Files as Found, Measured},
};

/// How much of a file is read where nothing was said, in bytes.
const READ_DEFAULT: u64 = 1 << 20;
/// How much of a file is read at most, in bytes.
const READ_MAX: u64 = 64 << 20;
/// How many paths are measured at once.
const PATHS_MAX: usize = 64;
/// How many of the largest are told.
const TOP_MAX: u32 = 1000;

/// Serves `conti.v1.FileService`.
#[derive(Debug)]
pub struct Files {
    engine: Arc<Engine>,
    stopping: Stopping,
}

impl Files {
    /// Serves an engine until the agent stops.
    pub fn new(engine: Arc<Engine>, stopping: Stopping) -> Files {
        Files { engine, stopping }
    }
}

#[tonic::async_trait]
impl FileService for Files {
    type ListDirectoryStream = PartStream<ListDirectoryResponse>;
    type ReadFileStream = PartStream<ReadFileResponse>;
    type MeasureUsageStream = PartStream<MeasureUsageResponse>;

    async fn list_directory(
        &self,
        request: Request<ListDirectoryRequest>,
    ) -> Result<Response<Self::ListDirectoryStream>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let (of, at) = valid(|v| {
            let asked = if request.path.is_empty() { b"/".to_vec() } else { request.path.into() };
            (target(v, Field::root("target"), request.target), path(v, Field::root("path"), asked))
        })?;
        let of = call.target(&self.engine, of).await?;
        let found = self.engine.list_directory(&of, at).await.map_err(status::of)?;
        parts::checked(found, (call, of), &self.engine, self.stopping.clone())
    }

    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let limit = if request.limit_bytes == 0 { READ_DEFAULT } else { request.limit_bytes };
        let (of, at) = valid(|v| {
            if limit > READ_MAX {
                v.add(Field::root("limit_bytes"), format_args!("is {limit}, at most {READ_MAX}"));
            }
            if request.offset > i64::MAX as u64 {
                v.add(Field::root("offset"), "is larger than any file");
            }
            let of = target(v, Field::root("target"), request.target);
            (of, path(v, Field::root("path"), request.path.into()))
        })?;
        let of = call.target(&self.engine, of).await?;
        let found = self.engine.read_file(&of, at, request.offset, limit).await;
        let found = found.map_err(status::of)?;
        parts::checked(found, (call, of), &self.engine, self.stopping.clone())
    }

    async fn measure_usage(
        &self,
        request: Request<MeasureUsageRequest>,
    ) -> Result<Response<Self::MeasureUsageStream>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let (of, paths) = valid(|v| {
            let root = Field::root("paths");
            if request.paths.is_empty() || request.paths.len() > PATHS_MAX {
                let count = request.paths.len();
                v.add(root, format_args!("are {count}, they must be 1 to {PATHS_MAX}"));
            }
            if request.top > TOP_MAX {
                v.add(Field::root("top"), format_args!("is {}, at most {TOP_MAX}", request.top));
            }
            let paths = request.paths.into_iter().enumerate();
            let paths = paths.map(|(index, one)| path(v, root.index(index), one.into())).collect();
            (target(v, Field::root("target"), request.target), paths)
        })?;
        let of = call.target(&self.engine, of).await?;
        let (depth, top) = (request.max_depth, request.top);
        let found = self.engine.measure_usage(&of, paths, request.one_file_system, depth, top);
        let found = found.await.map_err(status::of)?;
        parts::checked(found, (call, of), &self.engine, self.stopping.clone())
    }
}

impl Parts for Found<Entry> {
    type Message = ListDirectoryResponse;

    async fn next(&mut self) -> Result<Option<ListDirectoryResponse>, Status> {
        let batch = self.more().await.map_err(status::of)?;
        Ok(batch
            .map(|batch| ListDirectoryResponse { entries: batch.into_iter().map(entry).collect() }))
    }
}

impl Parts for Found<Content> {
    type Message = ReadFileResponse;

    async fn next(&mut self) -> Result<Option<ReadFileResponse>, Status> {
        let batch = self.more().await.map_err(status::of)?;
        Ok(batch.map(|batch| {
            let mut message = ReadFileResponse::default();
            let mut data = Vec::new();
            for part in batch {
                match part {
                    Content::Size(size) => message.size_bytes = size,
                    Content::Data(bytes) => data.extend(bytes),
                }
            }
            message.data = data.into();
            message
        }))
    }
}

impl Parts for Found<Measured> {
    type Message = MeasureUsageResponse;

    async fn next(&mut self) -> Result<Option<MeasureUsageResponse>, Status> {
        let batch = self.more().await.map_err(status::of)?;
        Ok(batch.map(|batch| {
            let mut message = MeasureUsageResponse::default();
            for part in batch {
                match part {
                    Measured::Progress(seen, allocated_bytes) => {
                        message.progress = Some(UsageProgress { seen, allocated_bytes });
                    }
                    Measured::Held(one) => message.results.push(held(one)),
                }
            }
            message
        }))
    }
}

fn held(held: Held) -> DirectoryUsage {
    DirectoryUsage {
        path: held.path.into(),
        depth: held.depth,
        allocated_bytes: held.allocated,
        apparent_bytes: held.apparent,
        files: held.files,
        directories: held.directories,
        unreadable: held.unreadable,
        top: held.top,
    }
}

fn entry(entry: Entry) -> FileEntry {
    let mode = u32::from(entry.mode);
    // The type of a file in the bits of its mode, inode(7).
    let kind = match mode & 0o170_000 {
        0o100_000 => FileType::Regular,
        0o040_000 => FileType::Directory,
        0o120_000 => FileType::Symlink,
        0o060_000 => FileType::BlockDevice,
        0o020_000 => FileType::CharacterDevice,
        0o010_000 => FileType::Fifo,
        0o140_000 => FileType::Socket,
        _ => FileType::Unspecified,
    };
    let (seconds, nanos) = entry.modified;
    FileEntry {
        name: entry.name.into(),
        r#type: kind.into(),
        mode: mode & 0o7777,
        links: entry.links,
        uid: entry.uid,
        gid: entry.gid,
        size_bytes: entry.size,
        allocated_bytes: entry.allocated,
        // Below 1,000,000,000.
        modify_time: Some(Timestamp { seconds, nanos: nanos as i32 }),
        inode: entry.inode,
        link_target: entry.target.into(),
        device_major: entry.device.0,
        device_minor: entry.device.1,
    }
}
