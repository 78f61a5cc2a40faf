//! `contictl info`

use clap::Args;
use conti_proto::v1::{Agent, GetAgentRequest};

use crate::{
    error::Result,
    output::{self, Format, text},
    verb::{Context, missing},
};

/// Show the agent, its host, and what its kernel offers
#[derive(Debug, Args)]
pub struct Info {}

impl Info {
    /// Shows them.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let mut client = context.connect().await?.agent();
        let response = client.get_agent(GetAgentRequest {}).await?.into_inner();
        let agent = response.agent.ok_or_else(|| missing("its description"))?;
        match context.format {
            Format::Json => output::json(&output::json::agent(&agent))?,
            Format::Table => {
                output::print(&facts(&agent))?;
                let features = agent.features.iter().map(|feature| {
                    let available = if feature.available { "yes" } else { "no" };
                    [feature.name.clone(), available.to_owned(), feature.detail.clone()]
                });
                output::table(["FEATURE", "AVAILABLE", "DETAIL"], features.collect())?;
            }
        }
        Ok(0)
    }
}

fn facts(agent: &Agent) -> String {
    let host = agent.host.clone().unwrap_or_default();
    let controllers = match host.cgroup_controllers.as_slice() {
        [] => "no controllers".to_owned(),
        some => some.join(" "),
    };
    let cgroup = output::json::cgroup_version(host.cgroup_version());
    let lines = [
        ("Agent", format!("contid {}, instance {}", agent.version, agent.instance_id)),
        ("Host", host.hostname.clone()),
        ("Kernel", format!("{} {}", host.kernel_release, host.architecture)),
        ("CPUs", host.cpu_count.to_string()),
        ("Memory", format!("{} MiB", host.memory_bytes >> 20)),
        ("Cgroups", format!("{cgroup} ({controllers})")),
        ("Boot", host.boot_id.clone()),
        ("State", agent.state_dir.clone()),
        ("Data", agent.data_dir.clone()),
    ];
    let lines = lines.map(|(name, value)| format!("{name:<9} {}\n", text::plain(&value)));
    lines.concat() + "\n"
}
