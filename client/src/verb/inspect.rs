//! `contictl inspect`

use clap::Args;
use conti_proto::v1::{GetContainerRequest, GetSessionRequest};
use serde_json::Value;

use crate::{
    error::Result,
    output,
    verb::{Context, missing},
};

/// Show all there is to know about containers, as JSON
#[derive(Debug, Args)]
pub struct Inspect {
    /// The arguments are ids of sessions
    #[arg(long)]
    session: bool,
    /// Containers, by id, prefix or name
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Inspect {
    /// Shows an object for one, an array for several.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let connection = context.connect().await?;
        let mut values = Vec::new();
        for name in self.containers {
            values.push(if self.session {
                let request = GetSessionRequest { session_id: name };
                let response = connection.sessions().get_session(request).await?.into_inner();
                output::json::session(&response.session.ok_or_else(|| missing("the session"))?)
            } else {
                let request = GetContainerRequest { container: name };
                let response = connection.containers().get_container(request).await?.into_inner();
                let container = response.container.ok_or_else(|| missing("the container"))?;
                output::json::container(&container)
            });
        }
        match values.len() {
            1 => output::json(&values.remove(0))?,
            _ => output::json(&Value::from(values))?,
        }
        Ok(0)
    }
}
