//! `contictl ls`

use std::ffi::OsString;

use clap::Args;
use conti_proto::v1::{FileEntry, FileType, ListDirectoryRequest};
use serde_json::{Value, json};

use crate::{
    error::Result,
    flags::{target::Target, value::bytes_of},
    output::{self, Format, text},
    verb::Context,
};

/// List a directory of a target
#[derive(Debug, Args)]
pub struct Ls {
    /// In the order of the filesystem, without sorting by name
    #[arg(short = 'U', long)]
    unsorted: bool,
    /// CONTAINER, pid:PID or host
    target: Target,
    /// A directory, or a single file
    #[arg(default_value = "/")]
    path: OsString,
}

impl Ls {
    /// Asks, and shows what is found.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let request =
            ListDirectoryRequest { target: Some(self.target.into()), path: bytes_of(self.path) };
        let mut client = context.connect().await?.files();
        let mut stream = client.list_directory(request).await?.into_inner();
        let mut entries = Vec::new();
        while let Some(part) = stream.message().await? {
            entries.extend(part.entries);
        }
        if !self.unsorted {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
        }
        match context.format {
            Format::Json => {
                output::json(&Value::from(entries.iter().map(object).collect::<Vec<_>>()))?;
            }
            Format::Table => {
                let header = ["MODE", "LINKS", "UID", "GID", "SIZE", "MODIFIED", "NAME"];
                output::table(header, entries.iter().map(row).collect())?;
            }
        }
        Ok(0)
    }
}

fn row(entry: &FileEntry) -> [String; 7] {
    let size = match entry.r#type() {
        FileType::BlockDevice | FileType::CharacterDevice => {
            format!("{}, {}", entry.device_major, entry.device_minor)
        }
        _ => entry.size_bytes.to_string(),
    };
    let mut name = text::bytes(&entry.name);
    if entry.r#type() == FileType::Symlink {
        name.push_str(&format!(" -> {}", text::bytes(&entry.link_target)));
    }
    [
        mode(entry),
        entry.links.to_string(),
        entry.uid.to_string(),
        entry.gid.to_string(),
        size,
        text::date(entry.modify_time.as_ref()),
        name,
    ]
}

/// Type and permissions as ls(1) writes them.
fn mode(entry: &FileEntry) -> String {
    let kind = match entry.r#type() {
        FileType::Unspecified => '?',
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::BlockDevice => 'b',
        FileType::CharacterDevice => 'c',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    };
    let mut text = String::from(kind);
    // For owner, group and others: the bit that changes how execution looks, and its letter.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (entry.mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, false) => letter.to_ascii_uppercase(),
            (true, true) => letter,
        });
    }
    text
}

fn object(entry: &FileEntry) -> Value {
    let link = entry.r#type() == FileType::Symlink;
    let device = matches!(entry.r#type(), FileType::BlockDevice | FileType::CharacterDevice);
    let object = json!({
        "name": null,
        "type": text::enum_name(entry.r#type().as_str_name(), "FILE_TYPE_"),
        "mode": format!("{:04o}", entry.mode),
        "links": entry.links,
        "uid": entry.uid,
        "gid": entry.gid,
        "size_bytes": entry.size_bytes,
        "allocated_bytes": entry.allocated_bytes,
        "modify_time": text::rfc3339(entry.modify_time.as_ref()),
        "inode": entry.inode,
        "link_target": null,
        "device": device.then(|| format!("{}:{}", entry.device_major, entry.device_minor)),
    });
    let target = link.then_some(("link_target", &entry.link_target[..]));
    output::json::with_names(object, [("name", &entry.name[..])].into_iter().chain(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_those_of_ls() {
        let mode = |kind: FileType, mode| {
            super::mode(&FileEntry { r#type: kind.into(), mode, ..FileEntry::default() })
        };
        assert_eq!(mode(FileType::Regular, 0o644), "-rw-r--r--");
        assert_eq!(mode(FileType::Regular, 0o6755), "-rwsr-sr-x");
        assert_eq!(mode(FileType::Regular, 0o4600), "-rwS------");
        assert_eq!(mode(FileType::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(mode(FileType::Directory, 0o1770), "drwxrwx--T");
        assert_eq!(mode(FileType::Symlink, 0o777), "lrwxrwxrwx");
    }
}
