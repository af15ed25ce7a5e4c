//! Counts the connections to servers.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tower_service::Service;

use crate::BoxError;

/// The connections to servers that are open now.
#[derive(Debug, Default)]
pub struct Connections {
    http1: AtomicUsize,
    http2: AtomicUsize,
    /// Exchanges that have an HTTP/1.1 connection to themselves, or wait for one.
    exchanges: AtomicUsize,
}

impl Connections {
    /// Those of HTTP/1.1.
    #[must_use]
    pub fn http1(&self) -> usize {
        self.http1.load(Ordering::Relaxed)
    }

    /// Those of HTTP/2, each of which carries any number of exchanges.
    #[must_use]
    pub fn http2(&self) -> usize {
        self.http2.load(Ordering::Relaxed)
    }

    /// Those of HTTP/1.1 that wait for an exchange.
    ///
    /// Whether an exchange is one of HTTP/2 is known with its answer's head; until then it counts as one of HTTP/1.1.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.http1().saturating_sub(self.exchanges.load(Ordering::Relaxed))
    }

    /// An exchange has a connection to itself until the guard is dropped.
    pub(crate) fn exchange(self: &Arc<Self>) -> Exchange {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        Exchange(Arc::clone(self))
    }

    fn of(&self, is_http2: bool) -> &AtomicUsize {
        if is_http2 { &self.http2 } else { &self.http1 }
    }
}

/// An exchange that has a connection to itself.
#[derive(Debug)]
pub(crate) struct Exchange(Arc<Connections>);

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.exchanges.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connector whose connections are counted.
#[derive(Debug, Clone)]
pub struct Counting<C> {
    pub(super) inner: C,
    pub(super) connections: Arc<Connections>,
}

impl<C> Service<Uri> for Counting<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Response: Connection,
    C::Future: Send + 'static,
{
    type Response = Counted<C::Response>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, connections) = (self.inner.call(uri), Arc::clone(&self.connections));
        Box::pin(async move {
            let inner = connecting.await?;
            let is_http2 = inner.connected().is_negotiated_h2();
            connections.of(is_http2).fetch_add(1, Ordering::Relaxed);
            Ok(Counted { inner, is_http2, connections })
        })
    }
}

/// A connection that is counted until it is dropped.
#[derive(Debug)]
pub struct Counted<I> {
    inner: I,
    is_http2: bool,
    connections: Arc<Connections>,
}

impl<I> Drop for Counted<I> {
    fn drop(&mut self) {
        self.connections.of(self.is_http2).fetch_sub(1, Ordering::Relaxed);
    }
}

impl<I: Connection> Connection for Counted<I> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

impl<I: Read + Unpin> Read for Counted<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: Write + Unpin> Write for Counted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }
}
