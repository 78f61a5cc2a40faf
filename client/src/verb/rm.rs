//! `contictl rm`

use clap::Args;
use conti_proto::v1::DeleteContainerRequest;

use crate::{
    error::Result,
    verb::{Context, for_each},
};

/// Delete containers with all that was written in them
#[derive(Debug, Args)]
pub struct Rm {
    /// Kill those that run first
    #[arg(short, long)]
    force: bool,
    /// Containers that are not there are no failure
    #[arg(long)]
    allow_missing: bool,
    /// Containers, by id, prefix or name
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Rm {
    /// Deletes them.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let connection = context.connect().await?;
        for_each(&self.containers, async |container| {
            let request = DeleteContainerRequest {
                container: container.to_owned(),
                force: self.force,
                allow_missing: self.allow_missing,
            };
            connection.containers().delete_container(request).await?;
            Ok(())
        })
        .await
    }
}
