//! A connection whose other end is known.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use super::{guests::GuestPlace, open::Registered};
use crate::{access::Peer, metrics::edge::Open};

/// How long a client that has connected may take to say what HTTP/2 begins with. From there on HTTP/2 itself
/// finds out whether somebody is there.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// What HTTP/2 begins with: its preface and the head of a frame, in bytes.
const BEGINNING: usize = 24 + 9;

/// Who is at the other end, as it stands in the extensions of each request.
#[derive(Debug, Clone)]
pub struct PeerInfo(pub Arc<Peer>);

/// What bytes come and go over: a socket of this machine, or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection. It is closed when its client says nothing at first, and when its client may not be
/// connected any more.
pub struct Connection {
    stream: Box<dyn Stream>,
    peer: Arc<Peer>,
    /// Until the beginning has come.
    patience: Option<Pin<Box<Sleep>>>,
    /// How many bytes of the beginning have come.
    begun: usize,
    /// Whether its client may have but little input under way: it has many connections.
    pub is_narrow: bool,
    /// Resolves when it is to be closed.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Counts it as long as it is open.
    _counted: Counted,
    /// Counts it for the metrics.
    _open: Option<Open>,
}

/// What counts a connection as long as it is open.
#[derive(Debug)]
#[allow(dead_code, reason = "held, and never looked at")]
enum Counted {
    Not,
    Registered(Registered),
    Guest(GuestPlace),
}

impl Connection {
    /// One that stays as long as its client likes.
    pub fn new(stream: impl Stream + 'static, peer: Arc<Peer>) -> Connection {
        let patience = Some(Box::pin(sleep(FIRST_WORD)));
        Connection {
            stream: Box::new(stream),
            peer,
            patience,
            begun: 0,
            is_narrow: false,
            cut: None,
            _counted: Counted::Not,
            _open: None,
        }
    }

    /// The same, counted as open.
    pub fn counted(stream: impl Stream + 'static, peer: Arc<Peer>, open: Open) -> Connection {
        Connection { _open: Some(open), ..Connection::new(stream, peer) }
    }

    /// One that can be cut off.
    pub fn registered(
        stream: impl Stream + 'static,
        peer: Arc<Peer>,
        open: Open,
        registered: Registered,
    ) -> Connection {
        let mut connection = Connection::counted(stream, peer, open);
        connection.cut = Some(Box::pin(registered.cut()));
        connection.is_narrow = registered.is_further;
        connection._counted = Counted::Registered(registered);
        connection
    }

    /// One of somebody who wants to join, and has this long to do so.
    pub fn guest(
        stream: impl Stream + 'static,
        peer: Arc<Peer>,
        place: GuestPlace,
        stay: Duration,
    ) -> Connection {
        let mut connection = Connection::new(stream, peer);
        connection.cut = Some(Box::pin(sleep(stay)));
        connection._counted = Counted::Guest(place);
        connection
    }

    /// An error once the connection is to be closed. What waits for it is woken then.
    fn still_open(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let cut = self.cut.as_mut().is_some_and(|cut| cut.as_mut().poll(context).is_ready());
        if cut {
            // It must not be asked again.
            self.cut = Some(Box::pin(std::future::ready(())));
            let problem = "its client may not be connected any more";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, problem));
        }
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        PeerInfo(self.peer.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.still_open(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(patience) = &mut self.patience {
            if read.is_pending() {
                ready!(patience.as_mut().poll(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.begun += buffer.filled().len() - before;
            if self.begun >= BEGINNING {
                self.patience = None;
            }
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
        self.still_open(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.still_open(context)?;
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
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
    };

    use super::*;
    use crate::access::Identity;

    fn connection(stream: UnixStream) -> Connection {
        let identity = Identity::Local { uid: 0, gid: 0, pid: None };
        let peer = Arc::new(Peer { identity, address: "unix".into() });
        Connection::new(stream, peer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_let_go() {
        let (_silent, server) = UnixStream::pair().unwrap();
        let error = connection(server).read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut server = connection(server);
        let mut beginning = [b'x'; BEGINNING];
        client.write_all(&beginning).await.unwrap();
        server.read_exact(&mut beginning).await.unwrap();
        assert!(server.patience.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_begins_and_does_not_go_on_is_let_go() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(&[b'x'; BEGINNING - 1]).await.unwrap();
        let error = connection(server).read_exact(&mut [0; BEGINNING]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
