//! `contictl ps`

use std::collections::BTreeMap;

use clap::Args;
use conti_proto::v1::{Container, ContainerState, ListContainersRequest};
use serde_json::Value;

use crate::{
    connect::PAGE_SIZE,
    error::{Error, Result},
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
    /// mean any of them, several labels all of them; a label without a VALUE, also `label=NAME=`, may have any
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
        let mut wanted = Vec::new();
        for filter in self.filter {
            match filter {
                Filter::Label(label) => wanted.push(label),
                Filter::State(state) => states.push(state.into()),
            }
        }
        let labels = labels(wanted)?;
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

/// All labels together. An empty value stands for any.
fn labels(wanted: Vec<Pair>) -> Result<BTreeMap<String, String>> {
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in wanted {
        let before = labels.entry(name.clone()).or_default();
        if before.is_empty() {
            *before = value;
        } else if !value.is_empty() && *before != value {
            return Err(Error::Usage(format!(
                "--filter label={name}={before} and label={name}={value} leave nothing: a container has one value \
                 for a label, and several labels mean all of them"
            )));
        }
    }
    Ok(labels)
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
        text::known(container.name.clone()),
        output::json::container_state(container.state()),
        text::pid(container.pid),
        text::age(container.create_time.as_ref()),
        text::end(container.end.as_ref()),
        text::known(process.map(|process| text::command(&process.argv)).unwrap_or_default()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_is_asked_for_twice_has_both_or_is_refused() {
        let all = |wanted: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            labels(wanted.iter().map(pair).collect())
        };
        let one = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        for wanted in [[("a", "1"), ("a", "")], [("a", ""), ("a", "1")], [("a", "1"), ("a", "1")]] {
            assert_eq!(all(&wanted).unwrap(), one, "{wanted:?}");
        }
        let refused = all(&[("a", "1"), ("a", "2")]).unwrap_err();
        assert!(refused.to_string().contains("label=a=1 and label=a=2"), "{refused}");
    }
}
