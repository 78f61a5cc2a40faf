//! `contictl du`

use std::{ffi::OsString, io::Write as _};

use clap::Args;
use conti_proto::v1::{DirectoryUsage, MeasureUsageRequest, UsageProgress};
use serde_json::{Value, json};

use crate::{
    error::Result,
    flags::{target::Target, value::bytes_of},
    output::{self, Format, text},
    terminal,
    verb::Context,
};

/// Measure how much directories of a target hold
#[derive(Debug, Args)]
pub struct Du {
    /// Leave out other filesystems that are mounted below
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// How many levels below each path are shown as well
    #[arg(short = 'd', long, value_name = "LEVELS", default_value_t = 0)]
    max_depth: u32,
    /// Show the largest files and directories below the paths as well
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 0)]
    top: u32,
    /// CONTAINER, pid:PID or host
    target: Target,
    /// What is measured; what several hold counts for the first
    #[arg(default_value = "/")]
    path: Vec<OsString>,
}

impl Du {
    /// Asks, and shows what is found.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let request = MeasureUsageRequest {
            target: Some(self.target.into()),
            paths: self.path.into_iter().map(bytes_of).collect(),
            one_file_system: self.one_file_system,
            max_depth: self.max_depth,
            top: self.top,
        };
        let mut client = context.connect().await?.files();
        let mut stream = client.measure_usage(request).await?.into_inner();
        let mut progress = Progress { shown: false };
        let mut results = Vec::new();
        while let Some(part) = stream.message().await? {
            if let Some(so_far) = part.progress {
                progress.show(&so_far);
            }
            results.extend(part.results);
        }
        drop(progress);
        if context.format == Format::Json {
            output::json(&Value::from(results.iter().map(object).collect::<Vec<_>>()))?;
        } else {
            let (top, asked): (Vec<_>, Vec<_>) = results.iter().partition(|one| one.top);
            let header = ["ALLOCATED", "APPARENT", "FILES", "DIRECTORIES", "PATH"];
            output::table(header, asked.into_iter().map(row).collect())?;
            if !top.is_empty() {
                output::line("")?;
                let header = ["LARGEST", "APPARENT", "FILES", "DIRECTORIES", "PATH"];
                output::table(header, top.into_iter().map(row).collect())?;
            }
        }
        let missing: u64 =
            results.iter().filter(|one| one.depth == 0).map(|one| one.unreadable).sum();
        if missing > 0 {
            output::note(&format!("{missing} directories could not be read and are not counted"));
        }
        Ok(0)
    }
}

/// How far it is: one line of the terminal, gone in the end.
struct Progress {
    shown: bool,
}

impl Progress {
    fn show(&mut self, progress: &UsageProgress) {
        if terminal::stderr_is_terminal() {
            let size = text::size(progress.allocated_bytes);
            // Nobody waits for it: a stderr that fails shows no progress.
            let _ = write!(std::io::stderr(), "\r{} files, {size}\x1b[K", progress.seen);
            self.shown = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn row(usage: &DirectoryUsage) -> [String; 5] {
    [
        text::size(usage.allocated_bytes),
        text::size(usage.apparent_bytes),
        usage.files.to_string(),
        usage.directories.to_string(),
        text::bytes(&usage.path),
    ]
}

fn object(usage: &DirectoryUsage) -> Value {
    let object = json!({
        "path": null,
        "depth": usage.depth,
        "allocated_bytes": usage.allocated_bytes,
        "apparent_bytes": usage.apparent_bytes,
        "files": usage.files,
        "directories": usage.directories,
        "unreadable": usage.unreadable,
        "top": usage.top,
    });
    output::json::with_names(object, [("path", &usage.path[..])])
}
