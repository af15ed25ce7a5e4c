//! How connections end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use mcp_gateway_core::{Body, BoxError};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// The steps in which a server's connections end.
///
/// First nothing new is accepted and each connection closes after the answer that it is busy with; then streams that
/// wait for events end, as a server ends them; at last what is left is cut.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// Nothing new is accepted.
    pub begun: CancellationToken,
    /// Streams end.
    pub streams: CancellationToken,
    /// Connections are cut.
    pub cut: CancellationToken,
    /// Every connection.
    pub connections: TaskTracker,
}

/// A body that ends when streams are to end.
pub(super) struct StreamBody {
    inner: Body,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    over: bool,
}

impl StreamBody {
    pub(super) fn new(inner: Body, drain: &Drain) -> Self {
        Self { inner, end: Box::pin(drain.streams.clone().cancelled_owned()), over: false }
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        // What is there already goes out first.
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if self.end.as_mut().poll(cx).is_ready() {
            self.over = true;
            // Tells the server, and the audit trail, that the stream is over.
            self.inner = Body::empty();
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
