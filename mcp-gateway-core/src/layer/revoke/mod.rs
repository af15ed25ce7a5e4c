//! Ends what a caller has open when the caller may no longer call.

mod body;
mod future;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use jiff::Timestamp;
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::RevocableBody;
pub use self::future::RevokeFuture;
use super::admit::is_stream;
use crate::context::McpContext;
use crate::contract::{Clock, Revision};
use crate::{Body, BoxFuture};

/// Cuts calls and streams of a principal that has been revoked, and ends streams whose credential has expired.
///
/// Required fact: `principal`. What is open asks again once per change of the snapshot, not per event. A call that is
/// under way when its credential expires may finish; a GET or listen stream ends.
#[derive(Clone)]
pub struct RevokeLayer(Arc<Watcher>);

struct Watcher {
    stands: Arc<dyn Fn(&McpContext) -> bool + Send + Sync>,
    changes: watch::Receiver<Revision>,
    clock: Arc<dyn Clock>,
}

impl RevokeLayer {
    /// Asks `stands` about each open exchange, its principal and its route, whenever `changes` does.
    pub fn new(
        stands: Arc<dyn Fn(&McpContext) -> bool + Send + Sync>,
        changes: watch::Receiver<Revision>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Watcher { stands, changes, clock }))
    }
}

impl std::fmt::Debug for RevokeLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RevokeLayer(..)")
    }
}

impl Watcher {
    /// Ready when the principal is revoked, or at `until`.
    fn over(self: &Arc<Self>, cx: McpContext, until: Option<Timestamp>) -> BoxFuture<Over> {
        let watcher = Arc::clone(self);
        Box::pin(async move {
            let mut changes = watcher.changes.clone();
            let revoked = async {
                while (watcher.stands)(&cx) {
                    // The snapshot is gone: nobody can say any more whether the principal stands.
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            };
            let Some(until) = until else {
                revoked.await;
                return Over::Revoked;
            };
            let left = until.duration_since(watcher.clock.now());
            let left = std::time::Duration::try_from(left).unwrap_or_default();
            tokio::select! {
                () = revoked => Over::Revoked,
                () = tokio::time::sleep(left) => Over::Expired,
            }
        })
    }
}

/// Why an exchange ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Revoked,
    Expired,
}

impl<S> Layer<S> for RevokeLayer {
    type Service = RevokeService<S>;

    fn layer(&self, inner: S) -> RevokeService<S> {
        RevokeService { watcher: Some(Arc::clone(&self.0)), inner }
    }
}

/// The service of a [`RevokeLayer`].
#[derive(Clone)]
pub struct RevokeService<S> {
    watcher: Option<Arc<Watcher>>,
    inner: S,
}

impl<S> RevokeService<S> {
    /// A service that never cuts anything: for stacks whose callers cannot be revoked.
    pub(crate) fn never(inner: S) -> Self {
        Self { watcher: None, inner }
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for RevokeService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevokeService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for RevokeService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = RevokeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let leash = self.watcher.as_ref().and_then(|watcher| {
            let cx = McpContext::of(request.extensions())?.clone();
            // Compared with the body by the peek before a stream can open.
            let until = cx.principal()?.expires_at.filter(|_| is_stream(request.method(), request.headers()));
            Some(Leash { watcher: Arc::clone(watcher), cx, until, over: None })
        });
        RevokeFuture::new(self.inner.call(request), leash)
    }
}

/// Waits for the end of a principal; made when an exchange has to be waited for, so that a quick one pays nothing.
struct Leash {
    watcher: Arc<Watcher>,
    cx: McpContext,
    until: Option<Timestamp>,
    over: Option<BoxFuture<Over>>,
}

impl Leash {
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Over> {
        let Self { watcher, cx, until, over } = self;
        let over = over.get_or_insert_with(|| watcher.over(cx.clone(), *until));
        over.as_mut().poll(task)
    }
}

#[cfg(test)]
mod tests;
