//! One file for each verb: its flags as a struct, and what it does.

pub mod attach;
pub mod cat;
pub mod completion;
pub mod context;
pub mod create;
pub mod debug;
pub mod du;
pub mod enter;
pub mod exec;
#[cfg(test)]
mod fuzz;
pub mod info;
pub mod inspect;
pub mod invite;
pub mod join;
pub mod kill;
pub mod ls;
pub mod mount;
pub mod mounts;
pub mod net;
pub mod ns;
pub mod pki;
pub mod procs;
pub mod proxy;
pub mod ps;
pub mod replay;
pub mod rm;
pub mod rootfs;
pub mod run;
pub mod sessions;
pub mod sockets;
pub mod start;
pub mod stop;
pub mod top;
pub mod umount;
pub mod unshare;
pub mod version;
pub mod wait;
pub mod whoami;

use conti_proto::v1::{Container, SessionSpec, StreamOpen, stream_open};

use crate::{
    cli::{Cli, Verb},
    connect::{Connection, Destination, connect},
    error::{Error, Result, is_broken},
    flags::agent::AgentFlags,
    output::{self, Format},
    stream::{Options, stream},
};

/// What every verb is given.
#[derive(Debug)]
pub struct Context {
    /// Which agent.
    pub agent: AgentFlags,
    /// How data is shown.
    pub format: Format,
}

/// Does what the command line says. Returns the exit code.
pub async fn run(cli: Cli) -> Result<u8> {
    let context = Context { agent: cli.common.agent, format: cli.common.output };
    match cli.verb {
        Verb::Run(verb) => verb.run(&context).await,
        Verb::Create(verb) => verb.run(&context).await,
        Verb::Start(verb) => verb.run(&context).await,
        Verb::Stop(verb) => verb.run(&context).await,
        Verb::Kill(verb) => verb.run(&context).await,
        Verb::Rm(verb) => verb.run(&context).await,
        Verb::Ps(verb) => verb.run(&context).await,
        Verb::Inspect(verb) => verb.run(&context).await,
        Verb::Wait(verb) => verb.run(&context).await,
        Verb::Attach(verb) => verb.run(&context).await,
        Verb::Exec(verb) => verb.run(&context).await,
        Verb::Enter(verb) => verb.run(&context).await,
        Verb::Unshare(verb) => verb.run(&context).await,
        Verb::Debug(verb) => verb.run(&context).await,
        Verb::Sessions(verb) => verb.run(&context).await,
        Verb::Ns(verb) => verb.run(&context).await,
        Verb::Mounts(verb) => verb.run(&context).await,
        Verb::Mount(verb) => verb.run(&context).await,
        Verb::Umount(verb) => verb.run(&context).await,
        Verb::Procs(verb) => verb.run(&context).await,
        Verb::Top(verb) => verb.run(&context).await,
        Verb::Net(verb) => verb.run(&context).await,
        Verb::Sockets(verb) => verb.run(&context).await,
        Verb::Rootfs(verb) => verb.run(&context).await,
        Verb::Ls(verb) => verb.run(&context).await,
        Verb::Cat(verb) => verb.run(&context).await,
        Verb::Du(verb) => verb.run(&context).await,
        Verb::Info(verb) => verb.run(&context).await,
        Verb::Version(verb) => verb.run(&context).await,
        Verb::Context(verb) => verb.run(&context).await,
        Verb::Join(verb) => verb.run(&context).await,
        Verb::Invite(verb) => verb.run(&context).await,
        Verb::Pki(verb) => verb.run(&context).await,
        Verb::Whoami(verb) => verb.run(&context).await,
        Verb::Proxy(verb) => verb.run(&context),
        Verb::Completion(verb) => verb.run(),
    }
}

impl Context {
    /// Connects to the agent.
    pub async fn connect(&self) -> Result<Connection> {
        connect(&self.destination()?).await
    }

    /// Where the agent is.
    pub fn destination(&self) -> Result<Destination> {
        self.agent.destination()
    }

    /// Shows a container that was just made or changed: its id, or all of it as JSON.
    pub fn show_container(&self, container: &Container) -> Result<()> {
        output::warn(&container.warnings);
        match self.format {
            Format::Table => output::line(&output::text::plain(&container.id)),
            Format::Json => output::json(&output::json::container(container)),
        }
    }

    /// Starts a session and streams it.
    pub async fn stream_session(&self, spec: SessionSpec, options: Options) -> Result<u8> {
        let open = StreamOpen {
            open: Some(stream_open::Open::Start(spec)),
            request_id: request_id(),
            output_window: 0,
        };
        stream(&self.destination()?, open, options).await
    }
}

/// An id that makes a call safe to repeat.
pub fn request_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Makes a call that is safe to repeat; once more where the connection broke off under it.
pub async fn repeatable<T>(
    context: &Context,
    call: impl AsyncFn(Connection) -> Result<T, tonic::Status>,
) -> Result<T> {
    match call(context.connect().await?).await {
        Err(status) if is_broken(&status) => Ok(call(context.connect().await?).await?),
        result => Ok(result?),
    }
}

/// What an agent must send and did not.
pub fn missing(what: &str) -> Error {
    Error::Stream(format!("the agent answered without {what}; it does not keep to the API"))
}

/// Does something to each of several containers and says what failed for which; the others are
/// done all the same.
pub async fn for_each(
    containers: &[String],
    mut action: impl AsyncFnMut(&str) -> Result<()>,
) -> Result<u8> {
    let mut failed = None;
    for container in containers {
        if let Err(error) = action(container).await {
            if containers.len() == 1 || matches!(error, Error::OutputClosed) {
                return Err(error);
            }
            let error = error.to_string();
            // Most refusals name it.
            let named = error.contains(&format!("{container:?}"));
            output::note(&if named { error } else { format!("{container}: {error}") });
            failed = Some(Error::Reported);
        }
    }
    failed.map_or(Ok(0), Err)
}
