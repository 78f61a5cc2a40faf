//! `contictl mount`

use clap::Args;
use conti_proto::v1::{CreateMountRequest, Mount};

use crate::{
    error::Result,
    flags::{
        mount::{mount, volume},
        target::Target,
    },
    output::{self, Format, json, text},
    verb::{Context, missing},
};

/// Mount something into a target that is alive
///
/// The path in the target must be there and must not be a symbolic link; what is there is hidden as long as
/// the mount lasts.
#[derive(Debug, Args)]
pub struct MountVerb {
    /// The source is a path of this container and not of the agent's host
    #[arg(long, value_name = "CONTAINER")]
    from: Option<String>,
    /// Ids of the source appear as the same ids inside the target's user namespace
    #[arg(long)]
    idmapped: bool,
    /// Make the last part of the path where it is missing
    #[arg(long)]
    mkdir: bool,
    /// Do all but the mount itself
    #[arg(long)]
    dry_run: bool,
    /// CONTAINER, pid:PID or host
    target: Target,
    /// What and where: SRC:DST[:ro,...] as with run -v, or type=...,dst=... as with run --mount. ro holds for
    /// what is mounted below SRC too
    #[arg(value_name = "MOUNT", value_parser = specification)]
    mount: Mount,
}

fn specification(text: &str) -> Result<Mount, String> {
    if text.starts_with('/') { volume(text) } else { mount(text) }
}

impl MountVerb {
    /// Mounts it, and prints its id.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let request = CreateMountRequest {
            target: Some(self.target.into()),
            mount: Some(self.mount),
            source_container: self.from.unwrap_or_default(),
            idmapped: self.idmapped,
            create_point: self.mkdir,
            dry_run: self.dry_run,
        };
        // Not repeated where the answer is lost: a second one would lie on the first.
        let mut client = context.connect().await?.mounts();
        let response = client.create_mount(request).await?.into_inner();
        let made = response.mount.ok_or_else(|| missing("the mount"))?;
        match context.format {
            Format::Json => output::json(&json::made_mount(&made))?,
            Format::Table if self.dry_run => output::note("it would be mounted"),
            Format::Table => output::line(&text::plain(&made.id))?,
        }
        Ok(0)
    }
}
