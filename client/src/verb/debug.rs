//! `contictl debug`

use std::str::FromStr;

use clap::Args;
use conti_proto::v1::{
    DebugTarget, HostTools, SessionSpec, SessionTarget, debug_target, session_target,
};

use crate::{
    error::Result,
    flags::{
        process::NearFlags,
        session::{PolicyFlags, StreamFlags},
        target::Target,
    },
    verb::{Context, exec::start_detached},
};

/// Run a command with tools of your own in a target that may have none
///
/// The command is in the target's namespaces and sees its files at /target. /usr, /bin, /sbin, /lib* and /etc
/// are those of the tools, and no variable or file of the target tells them what to load or to read. They are not
/// in the target's mounts; as long as the command runs, the target's root reaches by /proc what it may read and
/// write of them, and a command with no more capabilities than it has. Paths, that of --workdir too, are those of
/// the tools: /data of the target is /target/data.
#[derive(Debug, Args)]
pub struct Debug {
    /// Whose the tools are: host, or dir:PATH for a root directory of the agent's host
    #[arg(long, value_name = "host|dir:PATH", default_value = "host")]
    tools: Tools,
    /// Leave it running and print the session's id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    process: NearFlags,
    #[command(flatten)]
    policy: PolicyFlags,
    #[command(flatten)]
    stream: StreamFlags,
    /// CONTAINER, pid:PID or host
    target: Target,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", default_value = "sh")]
    command: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tools(debug_target::Tools);

impl FromStr for Tools {
    type Err = String;

    fn from_str(text: &str) -> Result<Tools, String> {
        match text.split_once(':') {
            None if text == "host" => Ok(Tools(debug_target::Tools::Host(HostTools {}))),
            Some(("dir", path)) if !path.is_empty() => {
                Ok(Tools(debug_target::Tools::Directory(path.to_owned())))
            }
            _ => Err("write host or dir:PATH".to_owned()),
        }
    }
}

impl Debug {
    /// Starts and streams in one call; with `-d` only starts.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let stdin = self.process.stdin() && !self.detach;
        let target = DebugTarget { target: Some(self.target.into()), tools: Some(self.tools.0) };
        let spec = SessionSpec {
            target: Some(SessionTarget { target: Some(session_target::Target::Debug(target)) }),
            process: Some(self.process.process(self.command, stdin)?),
            policy: self.policy.policy(),
        };
        if self.detach {
            return start_detached(context, spec).await;
        }
        context.stream_session(spec, self.stream.options(stdin)).await
    }
}
