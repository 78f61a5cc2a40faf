//! `contictl ps`

use std::collections::BTreeMap;

use clap::Args;
use conti_proto::v1::{Container, ContainerState, ListContainersRequest};
use serde_json::Value;

use crate::{
    connect::PAGE_SIZE,
    error::Result,
    flags::value::{Pair, label},
    output::{self, Format, text},
    verb::Context,
};

/// List containers
#[derive(Debug, Args)]
pub struct Ps {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only their ids
    #[arg(short, long)]
    quiet: bool,
    /// Only those with a label or in a state: label=NAME[=VALUE], state=STATE, one of created, running, stopped and
    /// quarantined (something is wrong with it: `contictl inspect` says what, `contictl rm -f` removes it); several states
    /// mean any of them, several labels all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter)]
    filter: Vec<Filter>,
}

/// What a container must have.
#[derive(Debug, Clone)]
enum Filter {
    Label(Pair),
    State(ContainerState),
}

fn filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        Some(("label", text)) => label(text).map(Filter::Label),
        Some(("state", state)) => {
            let name = format!("CONTAINER_STATE_{}", state.to_ascii_uppercase());
            match ContainerState::from_str_name(&name) {
                Some(state) if state != ContainerState::Unspecified => Ok(Filter::State(state)),
                _ => Err(format!(
                    "{state:?} is no state: there are created, running, stopped and quarantined"
                )),
            }
        }
        _ => Err("write label=NAME[=VALUE] or state=STATE".to_owned()),
    }
}

impl Ps {
    /// Lists them.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let mut states: Vec<i32> = Vec::new();
        let mut labels = BTreeMap::new();
        for filter in self.filter {
            match filter {
                Filter::Label((name, value)) => drop(labels.insert(name, value)),
                Filter::State(state) => states.push(state.into()),
            }
        }
        if states.is_empty() && !self.all {
            states.push(ContainerState::Running.into());
        }
        let mut client = context.connect().await?.containers();
        let mut containers = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListContainersRequest {
                states: states.clone(),
                labels: labels.clone(),
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = client.list_containers(request).await?.into_inner();
            containers.extend(page.containers);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        show(&containers, self.quiet, context.format)?;
        Ok(0)
    }
}

fn show(containers: &[Container], quiet: bool, format: Format) -> Result<()> {
    match (format, quiet) {
        (Format::Json, false) => {
            let all: Vec<Value> = containers.iter().map(output::json::container).collect();
            output::json(&Value::from(all))
        }
        (Format::Json, true) => {
            let ids: Vec<&str> = containers.iter().map(|c| c.id.as_str()).collect();
            output::json(&Value::from(ids))
        }
        (Format::Table, true) => {
            let ids: String = containers.iter().map(|c| text::plain(&c.id) + "\n").collect();
            output::print(&ids)
        }
        (Format::Table, false) => output::table(
            ["CONTAINER", "NAME", "STATE", "PID", "CREATED", "END", "COMMAND"],
            containers.iter().map(row).collect(),
        ),
    }
}

fn row(container: &Container) -> [String; 7] {
    let process = container.spec.as_ref().and_then(|spec| spec.process.as_ref());
    [
        text::short_id(&container.id),
        container.name.clone(),
        output::json::container_state(container.state()),
        text::pid(container.pid),
        text::age(container.create_time.as_ref()),
        text::end(container.end.as_ref()),
        process.map(|process| text::command(&process.argv)).unwrap_or_default(),
    ]
}
