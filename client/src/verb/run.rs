//! `contictl run`

use clap::Args;
use conti_proto::v1::{CreateContainerRequest, RunContainer, StreamOpen, stream_open};

use crate::{
    error::Result,
    flags::{container::ContainerFlags, session::StreamFlags},
    stream::stream,
    verb::{Context, missing, repeatable, request_id},
};

/// Run a command in a new container
#[derive(Debug, Args)]
pub struct Run {
    /// Leave it running and print the container's id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    container: ContainerFlags,
    #[command(flatten)]
    stream: StreamFlags,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Run {
    /// Creates, starts and streams in one call; with `-d` creates and starts.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let options = self.stream.options(self.container.process.interactive);
        let spec = self.container.spec(self.command)?;
        if self.detach {
            let request =
                CreateContainerRequest { spec: Some(spec), request_id: request_id(), start: true };
            let response = repeatable(context, async |connection| {
                connection.containers().create_container(request.clone()).await
            })
            .await?;
            let container =
                response.into_inner().container.ok_or_else(|| missing("the container"))?;
            context.show_container(&container)?;
            return Ok(0);
        }
        let open = StreamOpen {
            open: Some(stream_open::Open::Run(RunContainer { spec: Some(spec) })),
            request_id: request_id(),
            output_window: 0,
        };
        stream(&context.destination()?, open, options).await
    }
}
