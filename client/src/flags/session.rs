//! What happens to the streams of a session, and how this client streams them.

use std::time::Duration;

use clap::Args;
use conti_proto::v1::{DisconnectPolicy, SessionPolicy};

use crate::{
    flags::value::{duration, duration_message},
    stream::{Options, detach::Keys},
};

/// What the agent does with the streams of a session.
#[derive(Debug, Clone, Default, Args)]
pub struct PolicyFlags {
    /// What happens when the client that streams it is gone: kill, hangup, keep[=TIME] or detach
    ///
    /// By default, what a client streams from its start ends with that client: with a terminal it is kept for
    /// 60s, over a network for --reconnect-timeout, else it is killed. What is started without a client (-d, or
    /// create and start), or was left with the detach keys, goes on, whoever attaches and goes. What is given
    /// here holds for each client that attaches.
    #[arg(long, value_name = "POLICY", value_parser = disconnect)]
    disconnect: Option<(DisconnectPolicy, Option<Duration>)>,
    /// Kill the command after this time, e.g. 10s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<Duration>,
    /// How long output is read on after the command has ended while others still hold it
    #[arg(long, value_name = "TIME", value_parser = duration)]
    drain: Option<Duration>,
    /// Have the agent record it; `contictl sessions replay` shows it again
    #[arg(long)]
    record: bool,
}

fn disconnect(text: &str) -> Result<(DisconnectPolicy, Option<Duration>), String> {
    match text.split_once('=') {
        Some(("keep", time)) => Ok((DisconnectPolicy::Keep, Some(duration(time)?))),
        None => match text {
            "kill" => Ok((DisconnectPolicy::Kill, None)),
            "hangup" | "hang-up" => Ok((DisconnectPolicy::HangUp, None)),
            "keep" => Ok((DisconnectPolicy::Keep, None)),
            "detach" => Ok((DisconnectPolicy::Detach, None)),
            _ => Err("write kill, hangup, keep, keep=60s or detach".to_owned()),
        },
        _ => Err("only keep takes a time, e.g. keep=60s".to_owned()),
    }
}

impl PolicyFlags {
    /// The policy; None where the agent's defaults will do.
    pub fn policy(&self) -> Option<SessionPolicy> {
        let (disconnect, keep) = self.disconnect.unwrap_or_default();
        let policy = SessionPolicy {
            disconnect_policy: disconnect.into(),
            disconnect_timeout: keep.map(duration_message),
            drain_timeout: self.drain.map(duration_message),
            deadline: self.deadline.map(duration_message),
            record: self.record,
        };
        (policy != SessionPolicy::default()).then_some(policy)
    }
}

/// How this client streams a session.
#[derive(Debug, Clone, Args)]
pub struct StreamFlags {
    /// The keys that leave the session running and return, or none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: Keys,
    /// How long to try to resume after the connection broke off; 0 for not at all
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    reconnect_timeout: Duration,
}

impl StreamFlags {
    /// The options of the stream.
    pub fn options(&self, stdin: bool) -> Options {
        Options {
            stdin,
            detach_keys: self.detach_keys.clone(),
            reconnect_timeout: self.reconnect_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disconnect_policies_are_written_in_one_word() {
        assert_eq!(disconnect("kill"), Ok((DisconnectPolicy::Kill, None)));
        assert_eq!(
            disconnect("keep=5s"),
            Ok((DisconnectPolicy::Keep, Some(Duration::from_secs(5))))
        );
        for text in ["", "kill=5s", "keep=", "stay"] {
            assert!(disconnect(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn defaults_are_left_to_the_agent() {
        assert_eq!(PolicyFlags::default().policy(), None);
        let flags = PolicyFlags { drain: Some(Duration::ZERO), ..PolicyFlags::default() };
        assert_eq!(flags.policy().unwrap().drain_timeout, Some(prost_types::Duration::default()));
    }
}
