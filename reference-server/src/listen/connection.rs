//! One connection.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mcp_gateway_core::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::dispatch::Connected;
use super::end::{self, End};
use super::handover::{self, Noted};
use super::linger::Linger;
use super::{Dispatch, ListenerOptions};

/// What an HTTP/2 connection begins with (RFC 9113 §3.4); no HTTP/1.1 method that is answered here begins like this.
const PREFACE: &[u8] = b"PRI ";

/// The smallest that hyper takes: an idle stream keeps no more.
const H1_BUFFER: usize = 8 << 10;
/// One stream may have so much on its way to us before it is read.
const H2_WINDOW: u32 = 256 << 10;
/// All streams of a connection together.
const H2_CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of answers that one stream buffers.
const H2_SEND_BUFFER: usize = 64 << 10;
/// Streams that a peer has reset and that are still being cleared away (rapid reset, CVE-2023-44487).
const H2_PENDING_RESETS: usize = 20;
/// A peer that does not answer a ping in this time is gone.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The protocol builders of a listener.
pub(super) struct Protocols {
    h1: http1::Builder,
    h2: http2::Builder<TokioExecutor>,
    head_timeout: Duration,
    keep_alive: Duration,
}

impl Protocols {
    pub(super) fn new(options: &ListenerOptions) -> Self {
        let mut h1 = http1::Builder::new();
        h1.timer(TokioTimer::new())
            // Also ends connections on which nothing comes.
            .header_read_timeout(options.keep_alive)
            .max_headers(options.header_count)
            // The head must fit, plus its first line.
            .max_buf_size(H1_BUFFER.max(options.header_bytes.saturating_add(8 << 10)))
            .half_close(false);
        let mut h2 = http2::Builder::new(TokioExecutor::new());
        h2.timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(options.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(options.streams_per_connection)
            .max_pending_accept_reset_streams(H2_PENDING_RESETS)
            .initial_stream_window_size(H2_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_send_buf_size(H2_SEND_BUFFER)
            .keep_alive_interval(options.keep_alive)
            .keep_alive_timeout(H2_PING_TIMEOUT);
        Self { h1, h2, head_timeout: options.head_timeout, keep_alive: options.keep_alive }
    }

    /// Serves a connection in the clear, by the protocol that it begins with.
    pub(super) async fn serve_plain(self: Arc<Self>, socket: TcpStream, peer: SocketAddr, dispatch: Dispatch) {
        match Box::pin(self.in_time(begins_http2(&socket), &dispatch)).await {
            Some(Ok(is_http2)) => self.serve(Linger::new(socket), is_http2, peer, dispatch).await,
            Some(Err(error)) => tracing::debug!(%peer, %error, "a connection ended before its first byte"),
            None => tracing::debug!(%peer, "a connection said nothing in time"),
        }
    }

    /// Serves a connection with TLS, by the protocol that was negotiated.
    pub(super) async fn serve_tls(
        self: Arc<Self>,
        acceptor: TlsAcceptor,
        socket: TcpStream,
        peer: SocketAddr,
        dispatch: Dispatch,
    ) {
        match Box::pin(self.in_time(acceptor.accept(Linger::new(socket)), &dispatch)).await {
            Some(Ok(stream)) => {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.serve(stream, is_http2, peer, dispatch).await;
            }
            Some(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            None => tracing::debug!(%peer, "a TLS handshake took too long"),
        }
    }

    /// What comes before the first request: within the time for it, and before the drain begins.
    async fn in_time<T>(&self, begin: impl Future<Output = T>, dispatch: &Dispatch) -> Option<T> {
        tokio::select! {
            () = dispatch.drain().begun.cancelled() => None,
            begun = timeout(self.head_timeout, begin) => begun.ok(),
        }
    }

    /// Each stage is in a box of its own, so that an idle stream keeps the memory of no stage before it.
    async fn serve<I>(&self, io: I, is_http2: bool, peer: SocketAddr, dispatch: Dispatch)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if is_http2 {
            return Box::pin(self.serve_h2(io, peer, dispatch)).await;
        }
        let drain = dispatch.drain().clone();
        if let Some((socket, answer)) = Box::pin(self.serve_h1(io, peer, dispatch)).await {
            let (head, body) = answer.into_parts();
            Box::pin(end::of_stream(socket, handover::encoded(head), body, peer, drain)).await;
        }
    }

    async fn serve_h2<I>(&self, io: I, peer: SocketAddr, dispatch: Dispatch)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = dispatch.to(peer, true);
        let end = self.end(peer, &dispatch, &service, Some(self.keep_alive));
        let connection = pin!(self.h2.serve_connection(TokioIo::new(io), service));
        end.of(connection, || None::<Infallible>).await;
    }

    /// Returns a socket that goes on with a stream alone.
    async fn serve_h1<I>(&self, io: I, peer: SocketAddr, dispatch: Dispatch) -> Option<(I, Response<Body>)>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = dispatch.to(peer, false);
        // HTTP/1.1's own code measures how long it waits for a further request.
        let end = self.end(peer, &dispatch, &service, None);
        let handover = Arc::clone(&service.handover);
        let io = TokioIo::new(Noted::new(io, Arc::clone(&handover)));
        let mut connection = self.h1.serve_connection(io, service);
        let answer = end.of(Pin::new(&mut connection), || handover.take()).await?;
        Some((connection.into_parts().io.into_inner().into_inner(), answer))
    }

    fn end(&self, peer: SocketAddr, dispatch: &Dispatch, service: &Connected, keep_alive: Option<Duration>) -> End {
        End {
            peer,
            drain: dispatch.drain().clone(),
            activity: Arc::clone(&service.activity),
            head_timeout: self.head_timeout,
            keep_alive,
        }
    }
}

/// Looks at the first bytes without taking them.
async fn begins_http2(socket: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let count = socket.peek(&mut first).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if first[..count] != PREFACE[..count] {
            return Ok(false);
        }
        if count == PREFACE.len() {
            return Ok(true);
        }
        // A part of the preface: the rest is on its way, and peeking again would return at once.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
