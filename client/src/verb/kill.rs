//! `contictl kill`

use clap::Args;
use conti_proto::v1::{KillContainerRequest, SignalSessionRequest};

use crate::{
    error::Result,
    flags::value::signal,
    verb::{Context, for_each},
};

/// Send a signal to the main process of containers
///
/// A frozen container is thawed to be killed; any other signal to it is refused.
#[derive(Debug, Args)]
pub struct Kill {
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL", value_parser = signal)]
    signal: String,
    /// The arguments are ids of sessions
    #[arg(long)]
    session: bool,
    /// Containers, by id, prefix or name
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Kill {
    /// Signals them.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let connection = context.connect().await?;
        for_each(&self.containers, async |name| {
            let (name, signal) = (name.to_owned(), self.signal.clone());
            if self.session {
                let request = SignalSessionRequest { session_id: name, signal };
                connection.sessions().signal_session(request).await?;
            } else {
                let request = KillContainerRequest { container: name, signal };
                connection.containers().kill_container(request).await?;
            }
            Ok(())
        })
        .await
    }
}
