//! What HTTP/2 runs over, and what is remembered of its failure.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::connect::fault::Fault;

/// How long a peer that takes nothing more may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bytes in both directions.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Why a transport failed, where it said so.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<OnceLock<Fault>>);

impl Seen {
    /// The first fault.
    pub fn fault(&self) -> Option<Fault> {
        self.0.get().cloned()
    }

    fn note(&self, error: &io::Error) {
        if let Some(fault) = Fault::of(error) {
            let _ = self.0.set(fault);
        }
    }
}

/// A transport whose failure is remembered: HTTP/2 keeps of an error no more than its text.
pub struct Watched {
    inner: Box<dyn Transport>,
    seen: Seen,
    /// Until when the last words of a peer are waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    /// Watches a transport.
    pub fn new(inner: Box<dyn Transport>) -> (Watched, Seen) {
        let seen = Seen::default();
        (Watched { inner, seen: seen.clone(), patience: None }, seen)
    }

    /// Where a peer refused and closed, what it said before waits to be read, while what is written now
    /// only fails: it is heard before the failure is told.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(error)) = &result {
            self.seen.note(error);
            if self.seen.fault().is_none() {
                ready!(self.poll_last_words(cx));
            }
        }
        result
    }

    /// Reads what is left, up to the end of the connection.
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffer = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(said)) => {
                    self.seen.note(&said);
                    return Poll::Ready(());
                }
                Poll::Pending => break,
            }
        }
        // Whether there is something shows only a little later.
        self.patience.get_or_insert_with(|| Box::pin(sleep(LAST_WORDS))).as_mut().poll(cx)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &read {
            self.seen.note(error);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, data);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, data);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.written(cx, flushed.map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
