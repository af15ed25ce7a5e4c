//! The one body type of the whole stacks.
//!
//! Single layers are generic over their bodies; in the gateway and in the shim a body is this enum, so that the usual
//! cases (a buffered request, bytes off a socket) need no allocation of their own.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

use crate::egress::PlainBody;

/// Any error, boxed: what streams and foreign services fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request or response body of the gateway and of the shim.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    Lent(Lent),
    Plain(PlainBody),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// A body without a byte.
    #[must_use]
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// The whole body, if it is in memory: nothing of it has been read yet.
    #[must_use]
    pub fn bytes(&self) -> Option<Bytes> {
        match &self.0 {
            Kind::Empty => Some(Bytes::new()),
            Kind::Full(bytes) => Some(bytes.clone()),
            Kind::Incoming(_) | Kind::Lent(_) | Kind::Plain(_) | Kind::Boxed(_) => None,
        }
    }

    /// A body off a socket that goes back to its connection if it is dropped before its end.
    #[must_use]
    pub fn lent(incoming: Incoming, lender: &Arc<Unread>) -> Self {
        *lender.0.lock().unwrap_or_else(PoisonError::into_inner) = Return::Awaited;
        Self(Kind::Lent(Lent { incoming: Some(incoming), lender: Arc::clone(lender) }))
    }

    /// Wraps any body; an already erased one is not boxed again.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut slot = Some(body);
        // What is one of ours already, or comes off a socket, needs no box.
        let any = &mut slot as &mut dyn std::any::Any;
        if let Some(same) = any.downcast_mut::<Option<Body>>() {
            return same.take().unwrap_or_default();
        }
        if let Some(incoming) = any.downcast_mut::<Option<Incoming>>() {
            return incoming.take().map(Self::from).unwrap_or_default();
        }
        match slot {
            Some(body) => Self(Kind::Boxed(body.map_err(Into::into).boxed_unsync())),
            None => Self::empty(),
        }
    }
}

/// Where a connection gets back what nobody has read of a request's body.
///
/// An answer may be ready before the body has arrived: the caller is unknown, or the body too large. Until the rest is
/// read, the connection can carry no other request (RFC 9112 §9.3).
#[derive(Debug, Default)]
pub struct Unread(Mutex<Return>);

#[derive(Debug, Default)]
enum Return {
    /// Nobody waits for a body.
    #[default]
    Settled,
    Awaited,
    Unread(Incoming),
}

impl Unread {
    /// The rest of the body that was lent last, if nobody reads it any more. What comes back later is dropped.
    #[must_use]
    pub fn take(&self) -> Option<Body> {
        match std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            Return::Unread(incoming) => Some(incoming.into()),
            Return::Settled | Return::Awaited => None,
        }
    }
}

struct Lent {
    /// Until its end was read.
    incoming: Option<Incoming>,
    lender: Arc<Unread>,
}

impl Lent {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = http_body::Body::poll_frame(Pin::new(incoming), cx);
        if matches!(frame, Poll::Ready(None)) {
            self.incoming = None;
        }
        frame.map_err(Into::into)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take().filter(|incoming| !http_body::Body::is_end_stream(incoming)) else {
            return;
        };
        let mut lender = self.lender.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*lender, Return::Awaited) {
            *lender = Return::Unread(incoming);
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self(Kind::Full(bytes)) }
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self(Kind::Incoming(incoming))
    }
}

impl From<PlainBody> for Body {
    fn from(body: PlainBody) -> Self {
        Self(Kind::Plain(body))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.0 {
            Kind::Empty => "Empty",
            Kind::Full(_) => "Full",
            Kind::Incoming(_) | Kind::Lent(_) => "Incoming",
            Kind::Plain(_) => "Plain",
            Kind::Boxed(_) => "Boxed",
        };
        f.debug_tuple("Body").field(&kind).finish()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Kind::Lent(lent) => lent.poll_frame(cx),
            Kind::Plain(plain) => Pin::new(plain).poll_frame(cx),
            Kind::Boxed(boxed) => Pin::new(boxed).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Lent(lent) => lent.incoming.as_ref().is_none_or(http_body::Body::is_end_stream),
            Kind::Plain(plain) => plain.is_end_stream(),
            Kind::Boxed(boxed) => boxed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Lent(lent) => lent.incoming.as_ref().map_or(SizeHint::with_exact(0), http_body::Body::size_hint),
            Kind::Plain(plain) => plain.size_hint(),
            Kind::Boxed(boxed) => boxed.size_hint(),
        }
    }
}
