//! Streams that wait for events, served without the HTTP/1.1 machinery that brought their request.
//!
//! Such a stream is silent for hours, and hyper would keep its buffers, its state and its map of headers all the while:
//! a third of what an idle stream costs. As nothing follows it on its connection, the socket is ours from the head of
//! the answer on: it is written to until the stream ends, and then closed.

use std::future::poll_fn;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderValue, Response};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use mcp_gateway_core::{Body, BoxError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Where a connection's service leaves the answer with which the connection goes on.
#[derive(Debug, Default)]
pub(super) struct Handover {
    left: AtomicBool,
    /// Bytes of an earlier answer are on their way; they go first.
    unsent: AtomicBool,
    answer: Mutex<Option<Response<Body>>>,
}

impl Handover {
    pub(super) fn leave(&self, answer: Response<Body>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.left.store(true, Ordering::Release);
    }

    /// The answer, once nothing has to go before it. Asked whenever the connection has been polled.
    pub(super) fn take(&self) -> Option<Response<Body>> {
        if !self.left.load(Ordering::Acquire) || self.unsent.load(Ordering::Relaxed) {
            return None;
        }
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A socket that notes whether all that was written to it has gone.
pub(super) struct Noted<I> {
    inner: I,
    handover: Arc<Handover>,
}

impl<I> Noted<I> {
    pub(super) fn new(inner: I, handover: Arc<Handover>) -> Self {
        Self { inner, handover }
    }

    pub(super) fn into_inner(self) -> I {
        self.inner
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Noted<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Noted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.handover.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    /// hyper flushes when it has written all that it holds.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.handover.unsent.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.handover.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Sends an answer, its body frame by frame as it comes, until it or the client ends.
///
/// # Errors
/// When the answer or the socket fails; the answer is then cut off without its last chunk, so that no client takes it
/// for whole.
pub(super) async fn stream<I>(socket: &mut I, head: Vec<u8>, body: &mut Body) -> Result<(), BoxError>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    socket.write_all(&head).await?;
    drop(head);
    socket.flush().await?;
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            closed = closed(socket) => return Ok(closed?),
        };
        let Some(frame) = frame else { break };
        // Trailers say nothing in MCP.
        let Ok(data) = frame?.into_data() else { continue };
        if !data.is_empty() {
            socket.write_all_buf(&mut chunk(data)).await?;
            socket.flush().await?;
        }
    }
    socket.write_all(b"0\r\n\r\n").await?;
    Ok(socket.shutdown().await?)
}

/// The head of an answer in chunks that is the last of its connection (RFC 9112 §2, §6.1, §9.6).
pub(super) fn encoded(mut head: Parts) -> Vec<u8> {
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let now = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(now) = HeaderValue::try_from(now) {
        head.headers.entry(DATE).or_insert(now);
    }
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", head.status.as_str()).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes
}

/// One chunk (RFC 9112 §7.1).
fn chunk(data: Bytes) -> impl bytes::Buf {
    let mut size = Vec::with_capacity(18);
    // Writing to memory does not fail.
    let _ = write!(size, "{:x}\r\n", data.len());
    io::Cursor::new(size).chain(data).chain(&b"\r\n"[..])
}

/// Ready when the client is gone. What it still sends is not read by anybody: it has been told that the connection
/// closes.
async fn closed<I: AsyncRead + Unpin>(socket: &mut I) -> io::Result<()> {
    poll_fn(|cx| {
        loop {
            let mut dropped = [0; 256];
            let mut buffer = ReadBuf::new(&mut dropped);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn answer(frames: Vec<Result<&'static [u8], BoxError>>) -> Response<Body> {
        let frames = frames.into_iter().map(|frame| frame.map(|data| Frame::data(Bytes::from_static(data))));
        let mut answer = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
        answer.headers_mut().insert("x-a", HeaderValue::from_static("1"));
        answer
    }

    async fn serve<I: AsyncRead + AsyncWrite + Unpin>(mut socket: I, answer: Response<Body>) -> Result<(), BoxError> {
        let (head, mut body) = answer.into_parts();
        stream(&mut socket, encoded(head), &mut body).await
    }

    async fn sent(answer: Response<Body>) -> (Result<(), BoxError>, String) {
        let (server, mut client) = tokio::io::duplex(1 << 10);
        let served = tokio::spawn(serve(server, answer));
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        (served.await.unwrap(), text)
    }

    #[tokio::test]
    async fn frames_become_chunks_and_the_end_the_last_one() {
        let (served, text) = sent(answer(vec![Ok(b"data: 1\n\n"), Ok(b""), Ok(b"0123456789abcdef")])).await;
        served.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nx-a: 1\r\n"), "{head}");
        assert!(head.contains("\r\ntransfer-encoding: chunked\r\nconnection: close\r\ndate: "), "{head}");
        let date = head.rsplit_once("date: ").unwrap().1;
        assert!(date.ends_with(" GMT") && date.len() == "Sun, 06 Nov 1994 08:49:37 GMT".len(), "{date}");
        assert_eq!(body, "9\r\ndata: 1\n\n\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n");
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_has_no_last_chunk() {
        let (served, text) = sent(answer(vec![Ok(b"x"), Err("gone".into())])).await;
        assert!(served.is_err());
        assert!(text.ends_with("\r\n\r\n1\r\nx\r\n"), "{text}");
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_the_stream_and_what_it_says_does_not() {
        let (server, mut client) = tokio::io::duplex(1 << 10);
        let silent = Body::new(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()));
        let mut served = tokio::spawn(serve(server, Response::new(silent)));
        client.write_all(&[b'x'; 2_000]).await.unwrap();
        assert!(futures_util::poll!(&mut served).is_pending());
        drop(client);
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_answer_waits_for_what_was_written_before_it() {
        let handover = Arc::new(Handover::default());
        let (server, mut client) = tokio::io::duplex(4);
        let mut socket = Noted::new(server, Arc::clone(&handover));
        handover.leave(answer(Vec::new()));
        let mut writing = Box::pin(async {
            socket.write_all(b"before").await.unwrap();
            socket.flush().await.unwrap();
        });
        assert!(futures_util::poll!(&mut writing).is_pending());
        assert!(handover.take().is_none());
        client.read_exact(&mut [0; 4]).await.unwrap();
        writing.await;
        assert!(handover.take().is_some());
        assert!(handover.take().is_none());
    }
}
