//! Listening, and who may connect.
//!
//! The one place that authorises: the socket is 0600 in a directory of 0700, and whoever connects
//! must be root or the user of the agent (SO_PEERCRED). All methods are for these and nobody else.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use rustix::{
    fs::Mode,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, UdsConnectInfo};
use tracing::warn;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;
/// How long accepting rests when the host is out of files or memory.
const REST: Duration = Duration::from_millis(100);
/// How long a client that has connected may say nothing.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// A socket of the agent.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: the file is removed at the end only while it is still ours.
    file: (u64, u64),
}

impl Socket {
    /// Makes a socket at `path`, in the place of one that nobody answers on. Needs a runtime.
    pub fn open(path: &Path) -> Result<Socket, Error> {
        let at = |what: &'static str| {
            move |source: io::Error| Error::Io { what, path: path.to_owned(), source }
        };
        if let Some(parent) = path.parent() {
            let mut dir = DirBuilder::new();
            dir.recursive(true).mode(0o700).create(parent).map_err(at("make the directory of"))?;
        }
        let listener = match bound(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                clear(path)?;
                bound(path)
            }
            other => other,
        };
        let listener = listener.map_err(at("make"))?;
        let listener = UnixListener::from_std(listener).map_err(at("watch"))?;
        let metadata = fs::symlink_metadata(path).map_err(at("look at"))?;
        let file = (metadata.dev(), metadata.ino());
        Ok(Socket { listener, path: path.to_owned(), file })
    }

    /// The connections of clients that may call, as they come. Never ends.
    pub fn connections(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        stream::unfold(self, |socket| async move {
            let connection = socket.accept().await;
            Some((Ok(connection), socket))
        })
    }

    async fn accept(&self) -> Connection {
        let own = rustix::process::geteuid().as_raw();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == 0 || peer.uid() == own => {
                        return Connection::new(stream);
                    }
                    Ok(peer) => {
                        warn!(
                            uid = peer.uid(),
                            pid = peer.pid(),
                            "refused a connection: only root and the agent's own user may call"
                        );
                    }
                    Err(error) => warn!(%error, "refused a connection: its user is not known"),
                },
                // Of one connection only: it is gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // Without a rest this would turn at full speed until a file is closed.
                Err(error) => {
                    warn!(%error, "cannot accept connections; trying again");
                    sleep(REST).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |m: fs::Metadata| (m.dev(), m.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // Where it cannot be removed the next agent finds that nobody answers on it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The connections of several sockets.
pub fn all(sockets: Vec<Socket>) -> impl Stream<Item = io::Result<Connection>> + Send {
    stream::select_all(sockets.into_iter().map(|socket| socket.connections().boxed()))
}

fn bound(path: &Path) -> io::Result<StdListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it has a name: there is no moment at which others could connect.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    listen(&fd, BACKLOG)?;
    Ok(StdListener::from(fd))
}

/// Removes a socket that nobody answers on.
fn clear(path: &Path) -> Result<(), Error> {
    let at = |what| move |source: io::Error| Error::Io { what, path: path.to_owned(), source };
    let kind = fs::symlink_metadata(path).map_err(at("look at"))?.file_type();
    if !kind.is_socket() {
        return Err(Error::NoSocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(at("remove the stale"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(Error::Answered(path.to_owned())),
    }
}

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a step.
    #[error("cannot {what} the socket {}: {source}; choose another with --listen", path.display())]
    Io {
        /// The step.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("somebody answers on the socket {}: is an agent running? Stop it, or choose another with --listen", .0.display())]
    Answered(PathBuf),
    /// Something else is there.
    #[error("{} is there and is no socket; remove it, or choose another with --listen", .0.display())]
    NoSocket(PathBuf),
}

/// A connection that is closed when its client says nothing at first.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Until the first byte has come.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(stream: UnixStream) -> Connection {
        Connection { stream, patience: Some(Box::pin(sleep(FIRST_WORD))) }
    }
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(patience) = &mut self.patience {
            if read.is_pending() {
                ready!(patience.as_mut().poll(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.patience = None;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn the_socket_and_its_directory_are_for_the_owner_only_and_go_with_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/contid.sock");
        let socket = Socket::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contid.sock");
        drop(StdListener::bind(&path).unwrap());
        let socket = Socket::open(&path).unwrap();
        assert!(matches!(Socket::open(&path), Err(Error::Answered(_))));
        drop(socket);
        fs::write(&path, "not a socket").unwrap();
        assert!(matches!(Socket::open(&path), Err(Error::NoSocket(_))));
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contid.sock");
        let first = Socket::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Socket::open(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_let_go() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (_silent, server) = UnixStream::pair().unwrap();
        let error = Connection::new(server).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut server = Connection::new(server);
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        assert!(server.patience.is_none());
    }
}
