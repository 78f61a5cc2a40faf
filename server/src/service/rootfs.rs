//! Root filesystems from programs of the host.

use std::sync::Arc;

use conti_proto::v1::{
    BuildRootfsRequest, BuildRootfsResponse, ExportRootfsRequest, ExportRootfsResponse,
    RootfsProgram, rootfs_service_server::RootfsService,
};
use tonic::{Request, Response, Status};

use super::{
    convert::{Field, Violations, text},
    parts::{self, PartStream, Parts},
    status::{self, valid},
    stopping::Stopping,
};
use crate::engine::{
    Engine,
    rootfs::{Archive, BuiltProgram},
};

/// How many programs one root filesystem may have.
const PROGRAMS_MAX: usize = 1000;

/// Serves `conti.v1.RootfsService`.
#[derive(Debug)]
pub struct Rootfs {
    engine: Arc<Engine>,
    stopping: Stopping,
}

impl Rootfs {
    /// Serves an engine until the agent stops.
    pub fn new(engine: Arc<Engine>, stopping: Stopping) -> Rootfs {
        Rootfs { engine, stopping }
    }
}

#[tonic::async_trait]
impl RootfsService for Rootfs {
    type ExportRootfsStream = PartStream<ExportRootfsResponse>;

    async fn build_rootfs(
        &self,
        request: Request<BuildRootfsRequest>,
    ) -> Result<Response<BuildRootfsResponse>, Status> {
        let BuildRootfsRequest { programs, directory } = request.into_inner();
        valid(|v| {
            check(v, &programs);
            text::absolute_path(v, Field::root("directory"), &directory);
        })?;
        let work = self.engine.build_rootfs(programs, directory.into());
        let built = self.stopping.or(work).await?.map_err(status::of)?;
        Ok(Response::new(BuildRootfsResponse {
            programs: built.programs.into_iter().map(program).collect(),
            files: built.files,
            size_bytes: built.bytes,
        }))
    }

    async fn export_rootfs(
        &self,
        request: Request<ExportRootfsRequest>,
    ) -> Result<Response<Self::ExportRootfsStream>, Status> {
        let programs = request.into_inner().programs;
        valid(|v| check(v, &programs))?;
        let archive = self.engine.export_rootfs(programs).await.map_err(status::of)?;
        Ok(Response::new(parts::stream(archive, self.stopping.clone())))
    }
}

impl Parts for Archive {
    type Message = ExportRootfsResponse;

    async fn next(&mut self) -> Result<Option<ExportRootfsResponse>, Status> {
        let data = Archive::next(self).await.map_err(status::of)?;
        Ok(data.map(|data| ExportRootfsResponse { data }))
    }
}

fn check(v: &mut Violations, programs: &[String]) {
    let at = Field::root("programs");
    if programs.is_empty() || programs.len() > PROGRAMS_MAX {
        v.add(at, format_args!("are {}, they must be 1 to {PROGRAMS_MAX}", programs.len()));
    }
    for (index, program) in programs.iter().enumerate() {
        let at = at.index(index);
        if program.starts_with('/') {
            text::absolute_path(v, at, program);
        } else if program.is_empty() || program.contains(['/', '\0']) {
            v.add(at, "is neither a name nor an absolute path");
        }
    }
}

fn program(built: BuiltProgram) -> RootfsProgram {
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    RootfsProgram {
        name: built.name,
        path: text(built.path),
        libraries: built.libraries.into_iter().map(text).collect(),
    }
}
