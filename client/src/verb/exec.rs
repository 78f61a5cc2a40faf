//! `contictl exec`

use clap::Args;
use conti_proto::v1::{SessionSpec, SessionTarget, StartSessionRequest, session_target};

use crate::{
    error::Result,
    flags::{
        process::ProcessFlags,
        session::{PolicyFlags, StreamFlags},
    },
    output::{self, Format},
    verb::{Context, missing, repeatable, request_id},
};

/// Run a command in a container that runs
#[derive(Debug, Args)]
pub struct Exec {
    /// Leave it running and print the session's id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    process: ProcessFlags,
    #[command(flatten)]
    policy: PolicyFlags,
    #[command(flatten)]
    stream: StreamFlags,
    /// The container, by id, prefix or name
    container: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Exec {
    /// Starts and streams in one call; with `-d` only starts.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let options = self.stream.options(self.process.interactive);
        let spec = SessionSpec {
            target: Some(SessionTarget {
                target: Some(session_target::Target::Container(self.container)),
            }),
            process: Some(self.process.process(self.command)?),
            policy: self.policy.policy(),
        };
        if !self.detach {
            return context.stream_session(spec, options).await;
        }
        start_detached(context, spec).await
    }
}

/// Starts a session without a client and prints its id.
pub async fn start_detached(context: &Context, spec: SessionSpec) -> Result<u8> {
    let request = StartSessionRequest { spec: Some(spec), request_id: request_id() };
    let response = repeatable(context, async |connection| {
        connection.sessions().start_session(request.clone()).await
    })
    .await?;
    let session = response.into_inner().session.ok_or_else(|| missing("the session"))?;
    match context.format {
        Format::Table => output::line(&output::text::plain(&session.id))?,
        Format::Json => output::json(&output::json::session(&session))?,
    }
    Ok(0)
}
