//! `contictl sessions`

use clap::{Args, Subcommand};
use conti_proto::v1::{ListSessionsRequest, Session, SessionState};
use serde_json::Value;

use crate::{
    connect::PAGE_SIZE,
    error::Result,
    output::{self, Format, text},
    verb::{
        Context,
        replay::{Recordings, Replay},
    },
};

/// List sessions: every command that was started, with its streams
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Sessions {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only those in a state: created, running or ended
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Vec<SessionState>,
    /// Only their ids
    #[arg(short, long)]
    quiet: bool,
    /// Only those of a container, by id, prefix or name
    container: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Replay(Replay),
    Recordings(Recordings),
}

fn state(text: &str) -> Result<SessionState, String> {
    let name = format!("SESSION_STATE_{}", text.to_ascii_uppercase());
    SessionState::from_str_name(&name)
        .filter(|state| *state != SessionState::Unspecified)
        .ok_or_else(|| format!("{text:?} is no state: there are created, running and ended"))
}

impl Sessions {
    /// Lists them, or does what was asked with what was recorded of them.
    pub async fn run(self, context: &Context) -> Result<u8> {
        match self.verb {
            Some(Verb::Replay(replay)) => return replay.run(context).await,
            Some(Verb::Recordings(recordings)) => return recordings.run(context).await,
            None => {}
        }
        let mut client = context.connect().await?.sessions();
        let mut sessions = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListSessionsRequest {
                container: self.container.clone().unwrap_or_default(),
                states: self.state.iter().map(|state| i32::from(*state)).collect(),
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = client.list_sessions(request).await?.into_inner();
            sessions.extend(page.sessions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        show(&sessions, self.quiet, context.format)?;
        Ok(0)
    }
}

fn show(sessions: &[Session], quiet: bool, format: Format) -> Result<()> {
    match (format, quiet) {
        (Format::Json, false) => {
            let all: Vec<Value> = sessions.iter().map(output::json::session).collect();
            output::json(&Value::from(all))
        }
        (Format::Json, true) => {
            let ids: Vec<&str> = sessions.iter().map(|s| s.id.as_str()).collect();
            output::json(&Value::from(ids))
        }
        (Format::Table, true) => {
            let ids: String = sessions.iter().map(|s| text::plain(&s.id) + "\n").collect();
            output::print(&ids)
        }
        (Format::Table, false) => output::table(
            ["SESSION", "CONTAINER", "KIND", "STATE", "PID", "STARTED", "END", "COMMAND"],
            sessions.iter().map(row).collect(),
        ),
    }
}

fn row(session: &Session) -> [String; 8] {
    let kind = match (session.main, session.container_id.is_empty()) {
        (true, _) => "main",
        // Its record cannot be read.
        (false, true) if session.argv.is_empty() => "-",
        (false, false) => "exec",
        (false, true) => "enter",
    };
    [
        // Whole: a session is named by nothing shorter.
        session.id.clone(),
        text::known(text::short_id(&session.container_id)),
        kind.to_owned(),
        output::json::session_state(session.state()),
        text::pid(session.pid),
        text::age(session.start_time.as_ref()),
        text::end(session.end.as_ref()),
        text::known(text::command(&session.argv)),
    ]
}
