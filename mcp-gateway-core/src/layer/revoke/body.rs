//! An answer's body that ends with its caller's right to it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{Leash, Over};
use crate::{Body, BoxError};

/// A body that breaks off when its principal is revoked, or a call outlives its credential for too long, and ends when a
/// stream's credential expires, nobody can tell, or it has to be opened anew to be filtered.
pub struct RevocableBody {
    inner: Body,
    leash: Leash,
    ended: bool,
}

impl RevocableBody {
    pub(super) fn new(inner: Body, leash: Leash) -> Self {
        Self { inner, leash, ended: false }
    }
}

impl std::fmt::Debug for RevocableBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RevocableBody(..)")
    }
}

impl http_body::Body for RevocableBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        // Asked also while frames flow: a busy stream must not outrun its revocation. A quick answer never gets here
        // twice, so it makes no watcher.
        if this.leash.over.is_some()
            && let Poll::Ready(over) = this.leash.poll(task)
        {
            return this.end(&over);
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(task) {
            return Poll::Ready(frame);
        }
        match this.leash.poll(task) {
            Poll::Ready(over) => this.end(&over),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended { SizeHint::with_exact(0) } else { self.inner.size_hint() }
    }
}

impl RevocableBody {
    fn end(&mut self, over: &Over) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.ended = true;
        // The leg to the server closes now, not when the client reads on.
        self.inner = Body::empty();
        match over {
            Over::Expired | Over::Unknown | Over::Outdated => Poll::Ready(None),
            // A call's answer that is cut off must not look whole.
            Over::Revoked | Over::TooLong => Poll::Ready(Some(Err("the credential is no longer valid".into()))),
            Over::Hidden(_) | Over::Forbidden(_) => Poll::Ready(Some(Err("a rule no longer allows this".into()))),
        }
    }
}
