//! `contictl wait`

use clap::Args;
use conti_proto::v1::{SessionEnd, WaitContainerRequest, WaitSessionRequest};

use crate::{
    error::{Result, is_broken},
    output::{self, Format},
    stream::outcome::outcome,
    verb::{Context, for_each, missing},
};

/// Wait until containers have stopped, and print the exit codes of their commands
///
/// With one container the exit code is also that of contictl.
#[derive(Debug, Args)]
pub struct Wait {
    /// The arguments are ids of sessions
    #[arg(long)]
    session: bool,
    /// Containers, by id, prefix or name
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Wait {
    /// Waits for them, one after the other.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let mut only = 0;
        let code = for_each(&self.containers, async |name| {
            let end = self.wait(context, name).await?;
            let (code, note) = outcome(&end);
            if let Some(note) = note {
                output::note(&note);
            }
            only = code;
            match context.format {
                Format::Table => output::line(&code.to_string()),
                Format::Json => output::json(&output::json::end(&end)),
            }
        })
        .await?;
        Ok(if self.containers.len() == 1 { only } else { code })
    }

    async fn wait(&self, context: &Context, name: &str) -> Result<SessionEnd> {
        // A wait may last longer than an agent does: one that was started again knows the end.
        loop {
            let connection = context.connect().await?;
            let end = if self.session {
                let request = WaitSessionRequest { session_id: name.to_owned() };
                connection.sessions().wait_session(request).await.map(|r| r.into_inner().end)
            } else {
                let request = WaitContainerRequest { container: name.to_owned() };
                connection.containers().wait_container(request).await.map(|r| r.into_inner().end)
            };
            match end {
                Ok(end) => return end.ok_or_else(|| missing("the end")),
                Err(status) if is_broken(&status) => {
                    output::note("the connection broke off; connecting again");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}
