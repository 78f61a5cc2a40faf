//! `contictl create`

use clap::Args;
use conti_proto::v1::CreateContainerRequest;

use crate::{
    error::Result,
    flags::container::ContainerFlags,
    verb::{Context, missing, repeatable, request_id},
};

/// Create a container without starting its command, and print its id
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    container: ContainerFlags,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Create {
    /// Creates the container.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let spec = Some(self.container.spec(self.command)?);
        let request = CreateContainerRequest { spec, request_id: request_id(), start: false };
        let response = repeatable(context, async |connection| {
            connection.containers().create_container(request.clone()).await
        })
        .await?;
        let container = response.into_inner().container.ok_or_else(|| missing("the container"))?;
        context.show_container(&container)?;
        Ok(0)
    }
}
