//! `contictl ns`

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use conti_proto::v1::{
    ListNamespacesRequest, NamespaceHolder, NamespaceInfo, NamespaceType, namespace_holder::Holder,
};
use serde_json::{Value, json};

use crate::{
    error::Result,
    flags::target::Target,
    output::{self, Format, text, tree},
    verb::Context,
};

/// Show namespaces
#[derive(Debug, Args)]
pub struct Ns {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the namespaces of the host or of a target
    Ls {
        /// Only those of a type: mnt, uts, ipc, net, pid, cgroup, user or time
        #[arg(short, long = "type", value_name = "TYPE", value_parser = kind)]
        kind: Vec<NamespaceType>,
        /// CONTAINER, pid:PID or host; without it all namespaces of the host
        target: Option<Target>,
    },
    /// Show the namespaces of a target, and who shares them
    Show {
        /// CONTAINER, pid:PID or host
        target: Target,
    },
    /// Show how the namespaces of the host are nested
    ///
    /// User and pid namespaces hang below their parent, all others below the user namespace that owns them.
    Tree {
        /// Only those of a type, and user namespaces
        #[arg(short, long = "type", value_name = "TYPE", value_parser = kind)]
        kind: Vec<NamespaceType>,
    },
}

fn kind(text: &str) -> Result<NamespaceType, String> {
    let name = if text == "mnt" { "mount" } else { text };
    NamespaceType::from_str_name(&format!("NAMESPACE_TYPE_{}", name.to_ascii_uppercase()))
        .filter(|kind| *kind != NamespaceType::Unspecified)
        .ok_or_else(|| {
            format!("{text:?} is no type: there are mnt, uts, ipc, net, pid, cgroup, user and time")
        })
}

impl Ns {
    /// Asks, and shows what is found.
    pub async fn run(self, context: &Context) -> Result<u8> {
        match self.verb {
            Verb::Ls { kind, target } => {
                let found = list(context, target, kind).await?;
                show(context, &found, |found| {
                    let header = ["NS", "TYPE", "NPROCS", "PID", "USER", "CONTAINER", "COMMAND"];
                    output::table(header, found.iter().map(row).collect())
                })
            }
            Verb::Show { target } => {
                let found = list(context, Some(target), Vec::new()).await?;
                show(context, &found, |found| {
                    let header = ["TYPE", "NS", "OWNER", "NPROCS", "SHARED WITH"];
                    output::table(header, found.iter().map(detail).collect())
                })
            }
            Verb::Tree { mut kind } => {
                if !kind.is_empty() {
                    kind.push(NamespaceType::User);
                }
                let found = list(context, None, kind).await?;
                show(context, &found, |found| output::print(&tree(found)))
            }
        }
    }
}

async fn list(
    context: &Context,
    target: Option<Target>,
    types: Vec<NamespaceType>,
) -> Result<Vec<NamespaceInfo>> {
    let request = ListNamespacesRequest {
        target: target.map(Into::into),
        types: types.into_iter().map(Into::into).collect(),
    };
    let mut client = context.connect().await?.namespaces();
    let mut stream = client.list_namespaces(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(part) = stream.message().await? {
        all.extend(part.namespaces);
    }
    Ok(all)
}

fn show(
    context: &Context,
    found: &[NamespaceInfo],
    table: impl FnOnce(&[NamespaceInfo]) -> Result<()>,
) -> Result<u8> {
    match context.format {
        Format::Json => output::json(&Value::from(found.iter().map(object).collect::<Vec<_>>()))?,
        Format::Table => table(found)?,
    }
    Ok(0)
}

/// The name of a type as /proc/PID/ns has it.
fn type_name(kind: NamespaceType) -> String {
    match kind {
        NamespaceType::Mount => "mnt".to_owned(),
        kind => text::enum_name(kind.as_str_name(), "NAMESPACE_TYPE_"),
    }
}

fn user(uid: u32, name: &str) -> String {
    if name.is_empty() { uid.to_string() } else { name.to_owned() }
}

/// Whose a namespace is.
fn whose(found: &NamespaceInfo) -> String {
    match (found.host, found.container_names.as_slice()) {
        (true, _) => "(host)".to_owned(),
        (false, []) => "-".to_owned(),
        (false, names) => names.join(","),
    }
}

fn row(found: &NamespaceInfo) -> [String; 7] {
    let lowest = found.lowest.as_ref();
    let command = match lowest {
        Some(lowest) => text::bytes(&lowest.command),
        None => held_by(found),
    };
    [
        found.inode.to_string(),
        type_name(found.r#type()),
        found.process_count.to_string(),
        text::pid(lowest.map_or(0, |lowest| lowest.pid)),
        lowest.map_or("-".to_owned(), |lowest| user(lowest.uid, &lowest.user)),
        whose(found),
        text::cut(&command),
    ]
}

/// What keeps a namespace without processes.
fn held_by(found: &NamespaceInfo) -> String {
    let all: Vec<String> = found.holders.iter().map(holder).collect();
    if all.is_empty() { "-".to_owned() } else { format!("held by {}", all.join(", ")) }
}

fn holder(holder: &NamespaceHolder) -> String {
    match &holder.holder {
        Some(Holder::Mount(mount)) => text::bytes(&mount.path),
        Some(Holder::Fd(fd)) => format!("fd {} of {}", fd.fd, fd.pid),
        Some(Holder::ForChildrenOf(pid)) => format!("children of {pid}"),
        Some(Holder::Descendant(ns)) => format!("{}:[{}]", type_name(ns.r#type()), ns.inode),
        None => "-".to_owned(),
    }
}

fn detail(found: &NamespaceInfo) -> [String; 5] {
    [
        type_name(found.r#type()),
        found.inode.to_string(),
        text::or_dash(found.owner_inode),
        found.process_count.to_string(),
        whose(found),
    ]
}

/// All namespaces, each below the one that it is nested in, or that owns it.
pub(super) fn tree(found: &[NamespaceInfo]) -> String {
    let known: BTreeSet<u64> = found.iter().map(|one| one.inode).collect();
    let above = |one: &NamespaceInfo| match one.r#type() {
        NamespaceType::Pid if known.contains(&one.parent_inode) => Some(one.parent_inode),
        _ => Some(one.owner_inode),
    };
    let rows = tree::rows(found, |one| one.inode, above, " ");
    rows.into_iter().map(|(branch, one)| format!("{branch}{}\n", text::plain(&line(one)))).collect()
}

fn line(one: &NamespaceInfo) -> String {
    let [inode, kind, count, pid, user, whose, command] = row(one);
    let processes = if count == "1" { "process" } else { "processes" };
    let who = if pid == "-" { command } else { format!("{pid} {user} {command}") };
    format!("{kind}:[{inode}]  {whose}  {count} {processes}  {who}")
}

fn object(found: &NamespaceInfo) -> Value {
    let lowest = found.lowest.as_ref().map(|lowest| {
        let object = json!({
            "pid": lowest.pid,
            "uid": lowest.uid,
            "user": lowest.user,
            "command": null,
        });
        output::json::with_names(object, [("command", &lowest.command[..])])
    });
    let owner = Some(found.owner_inode).filter(|&inode| inode != 0);
    let parent = Some(found.parent_inode).filter(|&inode| inode != 0);
    json!({
        "type": type_name(found.r#type()),
        "inode": found.inode,
        "process_count": found.process_count,
        "lowest": lowest,
        "owner_inode": owner,
        "parent_inode": parent,
        "creator_uid": found.creator_uid,
        "creator": found.creator,
        "container_ids": found.container_ids,
        "container_names": found.container_names,
        "host": found.host,
        "holders": found.holders.iter().map(holder_object).collect::<Vec<_>>(),
    })
}

fn holder_object(holder: &NamespaceHolder) -> Value {
    match &holder.holder {
        Some(Holder::Mount(mount)) => {
            let object = json!({"pid": mount.pid, "path": null});
            json!({"mount": output::json::with_names(object, [("path", &mount.path[..])])})
        }
        Some(Holder::Fd(fd)) => json!({"fd": {"pid": fd.pid, "fd": fd.fd}}),
        Some(Holder::ForChildrenOf(pid)) => json!({"for_children_of": pid}),
        Some(Holder::Descendant(ns)) => {
            json!({"descendant": {"type": type_name(ns.r#type()), "inode": ns.inode}})
        }
        None => Value::Null,
    }
}
