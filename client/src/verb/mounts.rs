//! `contictl mounts`

use std::ffi::OsString;

use clap::Args;
use conti_proto::v1::{FilesystemUsage, ListMountsRequest, MadeMount, MountInfo};
use serde_json::{Value, json as object_of};

use crate::{
    error::Result,
    flags::{target::Target, value::bytes_of},
    output::{self, Format, json, text, tree},
    verb::Context,
};

/// Show the mounts that a target sees, and how full they are
#[derive(Debug, Args)]
pub struct Mounts {
    /// As a list instead of a tree
    #[arg(short, long)]
    list: bool,
    /// Only those of a type of filesystem
    #[arg(short, long = "type", value_name = "TYPE")]
    fs_type: Vec<String>,
    /// Only those of a source
    #[arg(short, long, value_name = "SOURCE")]
    source: Vec<OsString>,
    /// Only those at a path
    #[arg(short, long, value_name = "PATH")]
    point: Vec<OsString>,
    /// Do not ask how full they are: a filesystem that hangs would hold the answer
    #[arg(long)]
    no_usage: bool,
    /// CONTAINER, pid:PID or host
    target: Target,
}

impl Mounts {
    /// Asks, and shows what is found.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let bytes = |list: Vec<OsString>| list.into_iter().map(bytes_of).collect();
        let filtered =
            !(self.fs_type.is_empty() && self.source.is_empty() && self.point.is_empty());
        let request = ListMountsRequest {
            target: Some(self.target.into()),
            fs_types: self.fs_type,
            sources: bytes(self.source),
            points: bytes(self.point),
            skip_usage: self.no_usage,
        };
        let mut client = context.connect().await?.mounts();
        let mut stream = client.list_mounts(request).await?.into_inner();
        let mut mounts = Vec::new();
        while let Some(part) = stream.message().await? {
            mounts.extend(part.mounts);
        }
        if context.format == Format::Json {
            output::json(&Value::from(mounts.iter().map(object).collect::<Vec<_>>()))?;
            return Ok(0);
        }
        // A tree with holes would only look like one.
        let rows = if self.list || filtered {
            mounts.iter().map(|mount| row(String::new(), mount)).collect()
        } else {
            tree(&mounts)
        };
        let header = [
            "TARGET",
            "SOURCE",
            "TYPE",
            "SIZE",
            "USED",
            "AVAIL",
            "USE%",
            "PROPAGATION",
            "OPTIONS",
            "MADE",
        ];
        output::table(header, rows)?;
        Ok(0)
    }
}

/// All mounts, each below the one that it lies on.
pub(super) fn tree(mounts: &[MountInfo]) -> Vec<[String; 10]> {
    let rows = tree::rows(mounts, |mount| mount.id, |mount| Some(mount.parent_id), "");
    rows.into_iter().map(|(branch, mount)| row(branch, mount)).collect()
}

fn row(branch: String, mount: &MountInfo) -> [String; 10] {
    let usage = mount.usage.filter(|usage| usage.size_bytes > 0);
    let size = |part: fn(&FilesystemUsage) -> u64| {
        usage.as_ref().map_or("-".to_owned(), |usage| text::size(part(usage)))
    };
    let mut source = text::bytes(&mount.source);
    if mount.root.as_ref() != b"/" {
        source.push_str(&format!("[{}]", text::bytes(&mount.root)));
    }
    [
        branch + &text::bytes(&mount.point),
        source,
        mount.fs_type.clone(),
        size(|usage| usage.size_bytes),
        size(|usage| usage.used_bytes),
        size(|usage| usage.available_bytes),
        usage.as_ref().map_or("-".to_owned(), percent),
        propagation(mount),
        mount.options.clone(),
        mount.made.as_ref().map_or("-".to_owned(), made),
    ]
}

/// What is used of what can be used, rounded up, as df(1) has it.
fn percent(usage: &FilesystemUsage) -> String {
    let usable = u128::from(usage.used_bytes) + u128::from(usage.available_bytes);
    match (u128::from(usage.used_bytes) * 100).checked_div(usable) {
        None => "-".to_owned(),
        Some(_) => format!("{}%", (u128::from(usage.used_bytes) * 100).div_ceil(usable)),
    }
}

/// When a mount was made by Conti, and its id.
fn made(made: &MadeMount) -> String {
    format!("{} {}", made.id, text::age(made.create_time.as_ref()))
}

/// How mounts made below it later are passed on.
fn propagation(mount: &MountInfo) -> String {
    let mut words = Vec::new();
    if mount.peer_group != 0 {
        words.push(format!("shared:{}", mount.peer_group));
    }
    if mount.master_group != 0 {
        words.push(format!("slave:{}", mount.master_group));
    }
    if mount.unbindable {
        words.push("unbindable".to_owned());
    }
    if words.is_empty() {
        words.push("private".to_owned());
    }
    if mount.hidden {
        words.push("hidden".to_owned());
    }
    words.join(",")
}

fn object(mount: &MountInfo) -> Value {
    let some = |number: u64| Some(number).filter(|&number| number != 0);
    let object = object_of!({
        "id": mount.id,
        "parent_id": mount.parent_id,
        "point": null,
        "source": null,
        "fs_type": mount.fs_type,
        "options": mount.options,
        "fs_options": null,
        "root": null,
        "device": format!("{}:{}", mount.device_major, mount.device_minor),
        "peer_group": some(mount.peer_group),
        "master_group": some(mount.master_group),
        "propagate_from": some(mount.propagate_from),
        "unbindable": mount.unbindable,
        "hidden": mount.hidden,
        "made": mount.made.as_ref().map(json::made_mount),
        "usage": mount.usage.map(|usage| object_of!({
            "size_bytes": usage.size_bytes,
            "used_bytes": usage.used_bytes,
            "available_bytes": usage.available_bytes,
            "inodes": usage.inodes,
            "inodes_used": usage.inodes_used,
        })),
    });
    let names = [
        ("point", &mount.point),
        ("source", &mount.source),
        ("fs_options", &mount.fs_options),
        ("root", &mount.root),
    ];
    json::with_names(object, names.map(|(key, name)| (key, &name[..])))
}
