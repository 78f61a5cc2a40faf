//! `contictl version`

use clap::Args;
use conti_proto::v1::{Agent, GetAgentRequest};
use serde_json::json;

use crate::{
    error::Result,
    output::{self, Format, text},
    verb::{Context, missing},
};

/// Show the version of this client and, where it can be reached, of the agent
#[derive(Debug, Args)]
pub struct Version {}

impl Version {
    /// Shows them. An agent that cannot be reached is no failure.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let client = env!("CARGO_PKG_VERSION");
        let agent = agent(context).await;
        match context.format {
            Format::Json => output::json(&json!({
                "client": { "version": client },
                "agent": agent.as_ref().ok().map(|agent| json!({
                    "version": agent.version,
                    "instance_id": agent.instance_id,
                })),
                "agent_error": agent.as_ref().err().map(ToString::to_string),
            }))?,
            Format::Table => {
                let agent = match agent {
                    Ok(agent) => agent.version,
                    Err(error) => format!("not reached: {error}"),
                };
                let agent = text::plain(&agent);
                output::print(&format!("contictl {client}\ncontid   {agent}\n"))?;
            }
        }
        Ok(0)
    }
}

async fn agent(context: &Context) -> Result<Agent> {
    let mut client = context.connect().await?.agent();
    let response = client.get_agent(GetAgentRequest {}).await?.into_inner();
    response.agent.ok_or_else(|| missing("its description"))
}
