//! `contictl umount`

use std::ffi::OsString;

use clap::{ArgGroup, Args};
use conti_proto::v1::{DeleteMountRequest, MountPoint, delete_mount_request::Which};

use crate::{
    error::{Error, Result},
    flags::{target::Target, value::bytes_of},
    output,
    verb::Context,
};

/// Unmount something in a target that is alive
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["id", "target"])))]
pub struct Umount {
    /// A mount that was made by `contictl mount`, by its id
    #[arg(long, conflicts_with = "point")]
    id: Option<String>,
    /// Hide it now, and let it go when nobody uses it any more
    #[arg(short, long)]
    lazy: bool,
    /// Do all but the unmount itself
    #[arg(long)]
    dry_run: bool,
    /// CONTAINER, pid:PID or host
    #[arg(requires = "point")]
    target: Option<Target>,
    /// Where it is mounted: the mount on top goes
    #[arg(value_name = "PATH")]
    point: Option<OsString>,
}

impl Umount {
    /// Unmounts it.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let which = match (self.id, self.target, self.point) {
            (Some(id), ..) => Which::Id(id),
            (None, Some(target), Some(point)) => {
                Which::Point(MountPoint { target: Some(target.into()), point: bytes_of(point) })
            }
            _ => return Err(Error::Usage("give TARGET and PATH, or --id".to_owned())),
        };
        let request =
            DeleteMountRequest { which: Some(which), lazy: self.lazy, dry_run: self.dry_run };
        context.connect().await?.mounts().delete_mount(request).await?;
        if self.dry_run {
            output::note("it would be unmounted");
        }
        Ok(0)
    }
}
