//! One connection.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::dispatch::Connected;
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
#[derive(Clone)]
pub(super) struct Protocols {
    h1: http1::Builder,
    h2: http2::Builder<TokioExecutor>,
    head_timeout: Duration,
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
        Self { h1, h2, head_timeout: options.head_timeout }
    }

    /// Serves a connection in the clear, by the protocol that it begins with.
    pub(super) async fn serve_plain(self, socket: TcpStream, peer: SocketAddr, dispatch: Dispatch) {
        match self.in_time(begins_http2(&socket), &dispatch).await {
            Some(Ok(true)) => self.serve_h2(TokioIo::new(socket), peer, dispatch).await,
            Some(Ok(false)) => self.serve_h1(TokioIo::new(Linger::new(socket)), peer, dispatch).await,
            Some(Err(error)) => tracing::debug!(%peer, %error, "a connection ended before its first byte"),
            None => tracing::debug!(%peer, "a connection said nothing in time"),
        }
    }

    /// Serves a connection with TLS, by the protocol that was negotiated.
    pub(super) async fn serve_tls(
        self,
        acceptor: TlsAcceptor,
        socket: TcpStream,
        peer: SocketAddr,
        dispatch: Dispatch,
    ) {
        match self.in_time(acceptor.accept(Linger::new(socket)), &dispatch).await {
            Some(Ok(stream)) => {
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    self.serve_h2(TokioIo::new(stream), peer, dispatch).await;
                } else {
                    self.serve_h1(TokioIo::new(stream), peer, dispatch).await;
                }
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

    async fn serve_h1<I>(&self, io: I, peer: SocketAddr, dispatch: Dispatch)
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let drain = dispatch.drain().clone();
        let service = dispatch.to(peer);
        let greeted = self.greeted(&service);
        let mut connection = pin!(self.h1.serve_connection(io, service));
        let mut greeted = pin!(greeted);
        let (mut draining, mut waiting) = (false, true);
        let ended = loop {
            tokio::select! {
                biased;
                () = drain.cut.cancelled() => return,
                ended = connection.as_mut() => break ended,
                () = drain.begun.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                in_time = &mut greeted, if waiting => {
                    waiting = false;
                    if !in_time {
                        return tracing::debug!(%peer, "the head of a request did not come in time");
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection broke");
        }
    }

    async fn serve_h2<I>(&self, io: I, peer: SocketAddr, dispatch: Dispatch)
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let drain = dispatch.drain().clone();
        let service = dispatch.to(peer);
        let mut greeted = Box::pin(self.greeted(&service));
        // Rare beside HTTP/1.1, and large: not a part of every connection's task.
        let mut connection = Box::pin(self.h2.serve_connection(io, service));
        let (mut draining, mut waiting) = (false, true);
        let ended = loop {
            tokio::select! {
                biased;
                () = drain.cut.cancelled() => return,
                ended = connection.as_mut() => break ended,
                () = drain.begun.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                in_time = &mut greeted, if waiting => {
                    waiting = false;
                    if !in_time {
                        return tracing::debug!(%peer, "no request came in time");
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection broke");
        }
    }

    /// Whether the first request comes in time.
    fn greeted(&self, service: &Connected) -> impl Future<Output = bool> + use<> {
        let (greeted, head_timeout) = (std::sync::Arc::clone(&service.greeted), self.head_timeout);
        async move {
            tokio::time::sleep(head_timeout).await;
            greeted.load(Ordering::Relaxed)
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
