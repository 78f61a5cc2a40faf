//! An agent behind the system's ssh: `contictl proxy` on the other side, and nothing that listens.
//!
//! Who may log in there and read the agent's socket may call it: ssh proves who the two ends are.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IoSlice},
    path::Path,
    pin::Pin,
    process::{ExitStatus, Stdio},
    task::{Context, Poll, ready},
};

use conti_shared::endpoint::Endpoint;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    process::{ChildStdin, ChildStdout, Command},
};

use crate::{
    connect::fault::Fault,
    error::{Error, Result},
    terminal,
};

/// Another program than `ssh`.
const PROGRAM: &str = "CONTI_SSH";
/// What ssh ends with when it cannot connect.
const SSH_FAILED: i32 = 255;
/// What a shell ends with that does not find a command.
const NOT_FOUND: i32 = 127;
/// What [`LAUNCH`] ends with that does not find ssh: nothing on the other side does so.
const NO_SSH: i32 = 254;

/// Ctrl-C is for the command that runs in a session, which gets it as a signal. ssh leaves a signal
/// ignored that it was started with ignored.
#[cfg(unix)]
const LAUNCH: &str = r#"trap '' INT QUIT; command -v "$1" >/dev/null 2>&1 || exit 254; exec "$@""#;

/// A connection over the stdin and stdout of an ssh.
pub struct Ssh {
    /// `None` once this side is closed.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    end: Pin<Box<dyn Future<Output = io::Result<ExitStatus>> + Send>>,
    /// What came of it, once it has ended.
    ended: Option<Option<Fault>>,
    program: OsString,
    place: String,
}

/// Starts ssh. Whether it connects shows when the connection is used.
pub fn connect(endpoint: &Endpoint) -> Result<Ssh> {
    let Endpoint::Ssh { user, host, port, socket } = endpoint else {
        return Err(Error::Usage(format!("{endpoint}: this is no address for ssh")));
    };
    let program = env::var_os(PROGRAM).filter(|program| !program.is_empty());
    let program = program.unwrap_or_else(|| "ssh".into());
    let mut command = launch(&program);
    // It asks for passwords in the terminal, where there is one that nothing else happens in.
    if terminal::is_raw() || !terminal::stderr_is_terminal() {
        command.args(["-o", "BatchMode=yes"]);
    }
    for option in [
        // A host that went away is noticed, so that no ssh stays behind.
        "ConnectTimeout=10",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=2",
        // What a host's configuration says for sessions of people is not for this one.
        "ClearAllForwardings=yes",
        "RemoteCommand=none",
    ] {
        command.args(["-o", option]);
    }
    command.arg("-T");
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    if let Some(user) = user {
        command.args(["-l", user]);
    }
    command.args(["--", host, &remote_command(socket.as_deref())?]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let failed = |source| Error::Local { what: "cannot start ssh", source };
    let mut child = command.spawn().map_err(|error| Error::Fault {
        endpoint: endpoint.clone(),
        fault: Box::new(no_ssh(&program, &error.to_string())),
    })?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed(io::ErrorKind::BrokenPipe.into()));
    };
    #[cfg(unix)]
    {
        terminal::widen_pipe(&stdin);
        terminal::widen_pipe(&stdout);
    }
    let port = port.map(|port| format!("-p {port} ")).unwrap_or_default();
    let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
    let place = format!("{port}{user}{host}");
    let end = Box::pin(async move { child.wait().await });
    Ok(Ssh { stdin: Some(stdin), stdout, end, ended: None, program, place })
}

#[cfg(unix)]
fn launch(program: &OsStr) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", LAUNCH, "sh"]).arg(program);
    command
}

#[cfg(windows)]
fn launch(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    // A group of its own does not get ctrl-c: CREATE_NEW_PROCESS_GROUP.
    command.creation_flags(0x200);
    command
}

/// What the shell on the other side is to run.
fn remote_command(socket: Option<&Path>) -> Result<String> {
    let Some(path) = socket else { return Ok("contictl proxy".to_owned()) };
    let url = format!("unix://{}", path.display());
    let word = shlex::try_quote(&url).map_err(|error| Error::Usage(format!("{url:?}: {error}")))?;
    Ok(format!("contictl proxy --host {word}"))
}

fn no_ssh(program: &OsStr, problem: &str) -> Fault {
    Fault::NoSsh { program: program.display().to_string(), problem: problem.to_owned() }
}

impl Ssh {
    /// Waits for the end of ssh, and says what was wrong.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Fault>> {
        if self.ended.is_none() {
            let status = ready!(self.end.as_mut().poll(cx));
            self.ended = Some(match status.map(|status| (status.code(), status)) {
                Ok((Some(0), _)) => None,
                Ok((Some(SSH_FAILED), _)) => Some(Fault::SshFailed(self.place.clone())),
                Ok((Some(NOT_FOUND), _)) => Some(Fault::NoProxy),
                Ok((Some(NO_SSH), _)) => Some(no_ssh(&self.program, "there is no such program")),
                Ok((_, status)) => Some(Fault::ProxyFailed(status.to_string())),
                Err(error) => Some(Fault::ProxyFailed(error.to_string())),
            });
        }
        Poll::Ready(self.ended.clone().flatten())
    }

    /// An end that is no success explains what happened before it, so it is waited for.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Err(error)) => {
                self.stdin = None;
                let fault = ready!(self.poll_end(cx));
                Poll::Ready(Err(fault.map_or(error, io::Error::other)))
            }
            result => result,
        }
    }
}

impl AsyncRead for Ssh {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stdout).poll_read(cx, buffer))?;
        if buffer.filled().len() > before || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_end(cx)) {
            None => Poll::Ready(Ok(())),
            Some(fault) => Poll::Ready(Err(io::Error::other(fault))),
        }
    }
}

impl AsyncWrite for Ssh {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write_vectored(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stdin.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closing it is what ends a pipe.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_any_name_is_one_word_to_the_shell_on_the_other_side() {
        let line = |path: &str| remote_command(Some(Path::new(path))).unwrap();
        assert_eq!(remote_command(None).unwrap(), "contictl proxy");
        assert_eq!(line("/run/a.sock"), "contictl proxy --host unix:///run/a.sock");
        for path in ["/run/a b", "/run/$(reboot)", "/run/it's;#", "/run/\"`\\\n"] {
            let script = line(path).replace("contictl proxy", "printf '<%s>'");
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let shown = String::from_utf8(output.stdout).unwrap();
            assert_eq!(shown, format!("<--host><unix://{path}>"));
        }
    }
}
