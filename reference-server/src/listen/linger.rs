//! Closes a connection so that the last answer arrives.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a connection that we close is read on.
const TIME: Duration = Duration::from_secs(1);
/// How many bytes are read and dropped in that time.
const BYTES: usize = 8 << 20;

/// A socket that, once shut down, reads on for a moment and drops what comes (RFC 9112 §9.6).
///
/// A client that is still sending a body which we have refused would otherwise meet a reset, and lose the answer that
/// says why.
pub(super) struct Linger<S> {
    inner: S,
    end: Option<End>,
}

struct End {
    time: Pin<Box<Sleep>>,
    left: usize,
}

impl<S> Linger<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, end: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linger<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.end.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        let end = this.end.get_or_insert_with(|| End { time: Box::pin(tokio::time::sleep(TIME)), left: BYTES });
        let mut dropped = [0; 8 << 10];
        while end.left > 0 && end.time.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut dropped);
            // The peer has closed, or is gone: either way there is nothing to wait for.
            if ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer)).is_err() || buffer.filled().is_empty() {
                break;
            }
            end.left = end.left.saturating_sub(buffer.filled().len());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_client_that_still_sends_gets_the_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = client.into_split();
        let sending = tokio::spawn(async move {
            for _ in 0..64 {
                write.write_all(&[0; 64 << 10]).await?;
            }
            Ok::<_, io::Error>(())
        });
        let mut server = Linger::new(server);
        server.write_all(b"413").await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        let mut answer = String::new();
        read.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "413");
        sending.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_has_closed_is_not_waited_for() {
        let (client, server) = tokio::io::duplex(64);
        drop(client);
        let began = tokio::time::Instant::now();
        Linger::new(server).shutdown().await.unwrap();
        assert!(began.elapsed() < TIME / 2);
    }
}
