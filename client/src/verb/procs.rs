//! `contictl procs`

use clap::Args;
use conti_proto::v1::{ListProcessesRequest, ProcessInfo};
use serde_json::Value;

use crate::{
    error::Result,
    flags::target::Target,
    output::{self, Format, processes},
    verb::Context,
};

/// Show the processes of a target
#[derive(Debug, Args)]
pub struct Procs {
    /// Below their parents
    #[arg(long)]
    tree: bool,
    /// CONTAINER, pid:PID or host
    target: Target,
}

impl Procs {
    /// Asks, and shows what is found.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let request = ListProcessesRequest { target: Some(self.target.into()) };
        let mut client = context.connect().await?.processes();
        let mut stream = client.list_processes(request).await?.into_inner();
        let mut found: Vec<ProcessInfo> = Vec::new();
        while let Some(part) = stream.message().await? {
            found.extend(part.processes);
        }
        found.sort_by_key(|process| process.pid);
        if context.format == Format::Json {
            output::json(&Value::from(found.iter().map(processes::object).collect::<Vec<_>>()))?;
        } else {
            let rows = if self.tree { processes::tree(&found) } else { processes::list(&found) };
            output::table(processes::HEADER, rows)?;
        }
        Ok(0)
    }
}
