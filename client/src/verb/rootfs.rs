//! `contictl rootfs`

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use clap::{Args, Subcommand};
use conti_proto::v1::{BuildRootfsRequest, ExportRootfsRequest};
use serde_json::json;

use crate::{
    error::{Error, Result},
    output::{self, Format, text},
    verb::Context,
};

/// Build root filesystems
#[derive(Debug, Args)]
pub struct Rootfs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build one from programs of the agent's host, with the libraries that they load
    ///
    /// `contictl run --rootfs dir:DIR` works on it.
    Build(Build),
}

#[derive(Debug, Args)]
struct Build {
    /// The programs, by name or absolute path
    #[arg(long, required = true, value_delimiter = ',', value_name = "PROGRAM,…")]
    from_host: Vec<String>,
    /// A directory on the agent's host; or a file of this machine that ends in .tar; or - for a
    /// tar archive on stdout
    #[arg(long, value_name = "DIR|FILE.tar|-")]
    out: String,
}

impl Rootfs {
    /// Builds it, and shows what is in it.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let Verb::Build(Build { from_host, out }) = self.verb;
        if out == "-" {
            archive(context, from_host, output::raw).await?;
        } else if out.ends_with(".tar") {
            write_file(context, from_host, Path::new(&out)).await?;
        } else {
            build(context, from_host, out).await?;
        }
        Ok(0)
    }
}

async fn build(context: &Context, programs: Vec<String>, directory: String) -> Result<()> {
    let mut client = context.connect().await?.rootfs();
    let request = BuildRootfsRequest { programs, directory };
    let built = client.build_rootfs(request).await?.into_inner();
    match context.format {
        Format::Json => output::json(&json!({
            "programs": built.programs.iter().map(|program| json!({
                "name": program.name,
                "path": program.path,
                "libraries": program.libraries,
            })).collect::<Vec<_>>(),
            "files": built.files,
            "size_bytes": built.size_bytes,
        })),
        Format::Table => {
            let rows = built.programs.iter().map(|program| {
                let libraries = program.libraries.len().to_string();
                [program.name.clone(), program.path.clone(), libraries]
            });
            output::table(["PROGRAM", "PATH", "LIBRARIES"], rows.collect())?;
            output::note(&format!("{} files, {}", built.files, text::size(built.size_bytes)));
            Ok(())
        }
    }
}

/// Writes an archive, which gets its name when it is complete.
async fn write_file(context: &Context, programs: Vec<String>, path: &Path) -> Result<()> {
    let failed = |source| Error::Local { what: "cannot write the archive", source };
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let mut file = File::create(&unfinished).map_err(failed)?;
    let mut written = archive(context, programs, |data| file.write_all(data).map_err(failed)).await;
    if written.is_ok() {
        written = fs::rename(&unfinished, path).map_err(failed);
    }
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

async fn archive(
    context: &Context,
    programs: Vec<String>,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut client = context.connect().await?.rootfs();
    let mut stream = client.export_rootfs(ExportRootfsRequest { programs }).await?.into_inner();
    while let Some(part) = stream.message().await? {
        write(&part.data)?;
    }
    Ok(())
}
