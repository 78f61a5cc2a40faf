//! `contictl cat`

use std::ffi::OsString;

use clap::Args;
use conti_proto::v1::ReadFileRequest;

use crate::{
    error::{Error, Result},
    flags::{target::Target, value::bytes_of},
    output,
    verb::Context,
};

/// How much one call reads, in bytes.
const PIECE: u64 = 64 << 20;

/// Write regular files of a target to stdout
#[derive(Debug, Args)]
pub struct Cat {
    /// Where to begin, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// How much of each at most, in bytes; all of it where this is not given
    #[arg(long, value_name = "BYTES")]
    limit: Option<u64>,
    /// CONTAINER, pid:PID or host
    target: Target,
    /// The files
    #[arg(required = true)]
    path: Vec<OsString>,
}

impl Cat {
    /// Reads, and writes what is read.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let mut client = context.connect().await?.files();
        for path in &self.path {
            let mut at = self.offset;
            let end = at.saturating_add(self.limit.unwrap_or(u64::MAX));
            loop {
                let request = ReadFileRequest {
                    target: Some(self.target.clone().into()),
                    path: bytes_of(path.clone()),
                    offset: at,
                    limit_bytes: (end - at).min(PIECE),
                };
                // 0 would stand for the default.
                if request.limit_bytes == 0 {
                    break;
                }
                let (before, wanted) = (at, request.limit_bytes);
                let mut stream = client.read_file(request).await?.into_inner();
                while let Some(part) = stream.message().await? {
                    output::raw(&part.data)?;
                    at += part.data.len() as u64;
                }
                if at - before > wanted {
                    return Err(Error::Stream(
                        "the agent sent more of a file than was asked for".to_owned(),
                    ));
                }
                if at - before < wanted {
                    break;
                }
            }
        }
        Ok(0)
    }
}
