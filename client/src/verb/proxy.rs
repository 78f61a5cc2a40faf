//! `contictl proxy`

use clap::Args;

use crate::{error::Result, verb::Context};

/// Connect stdin and stdout with the agent's socket, byte for byte: what `--host ssh://…` starts on the
/// other side
#[derive(Debug, Args)]
pub struct Proxy {}

#[cfg(unix)]
impl Proxy {
    /// Copies until one side has ended.
    pub fn run(self, context: &Context) -> Result<u8> {
        copy::run(context)
    }
}

#[cfg(not(unix))]
impl Proxy {
    /// There is nothing to connect with.
    pub fn run(self, _: &Context) -> Result<u8> {
        Err(crate::error::Error::Usage("agents do not run on this system".to_owned()))
    }
}

#[cfg(unix)]
mod copy {
    use std::{
        fs::File,
        io::{self, Read, Write},
        net::Shutdown,
        os::{
            fd::{AsFd, BorrowedFd},
            unix::net::UnixStream,
        },
        thread,
    };

    use conti_shared::endpoint::Endpoint;

    use crate::{
        error::{Error, Result},
        terminal,
        verb::Context,
    };

    /// What a wide pipe and a socket take at once.
    const BUFFER: usize = 256 << 10;

    /// Contexts are for people: this end is the agent's.
    pub fn run(context: &Context) -> Result<u8> {
        let endpoint = context.agent.local()?;
        let Endpoint::Unix(path) = &endpoint else {
            return Err(Error::Usage(format!(
                "{endpoint}: a proxy connects with a socket of this machine, unix:///PATH"
            )));
        };
        let socket = UnixStream::connect(path)
            .map_err(|source| Error::Connect { endpoint: endpoint.clone(), source })?;
        let failed = |source| Error::Local { what: "cannot copy", source };
        let (stdin, stdout) = (own(io::stdin().as_fd())?, own(io::stdout().as_fd())?);
        terminal::widen_pipe(&stdin);
        terminal::widen_pipe(&stdout);
        let to_agent = socket.try_clone().map_err(failed)?;
        // Nobody waits for it: what the agent has closed needs no more input.
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let _ = copy(&stdin, &to_agent);
                // The agent sees that nothing more comes, and may still answer.
                let _ = to_agent.shutdown(Shutdown::Write);
            })
            .map_err(failed)?;
        match copy(&socket, &stdout) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Error::OutputClosed),
            result => result.map(|()| 0).map_err(failed),
        }
    }

    fn own(fd: BorrowedFd<'_>) -> Result<File> {
        let owned = fd.try_clone_to_owned();
        owned
            .map(File::from)
            .map_err(|source| Error::Local { what: "cannot use stdin and stdout", source })
    }

    /// Copies to the end of one file; each of them may be non-blocking, as whoever made it likes.
    fn copy<R: AsFd, W: AsFd>(from: &R, to: &W) -> io::Result<()>
    where
        for<'a> &'a R: Read,
        for<'a> &'a W: Write,
    {
        let (mut reader, mut writer) = (from, to);
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) => {
                    wait(error, || terminal::wait_until_readable(from))?;
                    continue;
                }
            };
            let mut left = &buffer[..length];
            while !left.is_empty() {
                match writer.write(left) {
                    Ok(written) => left = &left[written..],
                    Err(error) => wait(error, || terminal::wait_until_writable(to))?,
                }
            }
        }
    }

    fn wait(error: io::Error, until_possible: impl FnOnce()) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => {
                until_possible();
                Ok(())
            }
            _ => Err(error),
        }
    }
}
