//! `contictl attach`

use clap::Args;
use conti_proto::v1::{AttachSession, StreamOpen, stream_open};
use conti_shared::{name::check_id, reason::Reason};

use crate::{error::Result, flags::session::StreamFlags, stream::stream, verb::Context};

/// Attach to the main process of a container, or to another session
///
/// What was started without a client (`run -d`, `create` and `start`, `exec -d`) goes on when this one is gone,
/// however it goes, unless --disconnect was given there. SIGINT (ctrl-c) and SIGTERM go to the command, and the end
/// of stdin closes its input, if it has one; SIGHUP ends this client alone. --view passes nothing on.
#[derive(Debug, Args)]
pub struct Attach {
    /// The argument is the id of a session
    #[arg(long)]
    session: bool,
    /// Only look: pass on neither stdin nor signals, and delay nothing
    #[arg(long)]
    view: bool,
    /// Do not pass stdin on
    #[arg(long)]
    no_stdin: bool,
    /// Begin at this byte of the output instead of the oldest that is kept
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    #[command(flatten)]
    stream: StreamFlags,
    /// A container, by id, prefix or name, or a session, by id
    #[arg(value_name = "CONTAINER")]
    name: String,
}

impl Attach {
    /// Streams what is there and what comes.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let result = self.attach(context, self.session).await;
        // The id of a session says what it is when no container has it.
        match result {
            Err(error)
                if !self.session
                    && error.reason() == Some(Reason::ContainerNotFound)
                    && check_id(&self.name).is_ok() =>
            {
                match self.attach(context, true).await {
                    Err(e) if e.reason() == Some(Reason::SessionNotFound) => Err(error),
                    result => result,
                }
            }
            result => result,
        }
    }

    async fn attach(&self, context: &Context, session: bool) -> Result<u8> {
        let (session_id, container) = if session {
            (self.name.clone(), String::new())
        } else {
            (String::new(), self.name.clone())
        };
        let attach =
            AttachSession { session_id, container, output_offset: self.from, view_only: self.view };
        let open = StreamOpen {
            open: Some(stream_open::Open::Attach(attach)),
            request_id: String::new(),
            output_window: 0,
        };
        stream(&context.destination()?, open, self.stream.options(!self.no_stdin)).await
    }
}
