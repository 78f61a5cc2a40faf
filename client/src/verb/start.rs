//! `contictl start`

use clap::Args;
use conti_proto::v1::StartContainerRequest;

use crate::{
    error::Result,
    output::{self, Format},
    verb::{Context, for_each, missing, repeatable, request_id},
};

/// Start containers that were created or have stopped
#[derive(Debug, Args)]
pub struct Start {
    /// Containers, by id, prefix or name
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Start {
    /// Starts them.
    pub async fn run(self, context: &Context) -> Result<u8> {
        for_each(&self.containers, async |container| {
            let request =
                StartContainerRequest { container: container.to_owned(), request_id: request_id() };
            let response = repeatable(context, async |connection| {
                connection.containers().start_container(request.clone()).await
            })
            .await?;
            let container =
                response.into_inner().container.ok_or_else(|| missing("the container"))?;
            output::warn(&container.warnings);
            match context.format {
                Format::Table => Ok(()),
                Format::Json => output::json(&output::json::container(&container)),
            }
        })
        .await
    }
}
