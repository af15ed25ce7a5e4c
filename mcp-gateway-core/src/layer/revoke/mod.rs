//! Ends what a caller has open when the caller may no longer call.

mod body;
mod future;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::RevocableBody;
pub use self::future::RevokeFuture;
use super::admit::is_stream;
use crate::context::McpContext;
use crate::contract::{Clock, Revision};
use crate::{Body, BoxFuture};

/// Cuts calls and streams of a principal that has been revoked, and ends streams whose credential has expired or of
/// whose principal nobody can tell any more.
///
/// Required fact: `principal`. What is open asks again once per change of the snapshot, not per event. A call that is
/// under way when its credential expires, or the store has been away for too long, may finish; a GET or listen stream
/// ends.
#[derive(Clone)]
pub struct RevokeLayer(Arc<Watcher>);

/// Whether what a caller has open may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Stands,
    /// The caller was revoked, or the server removed: everything is cut.
    Revoked,
    /// The store was not heard from for longer than `auth.max_staleness`: streams end, calls may finish.
    Unknown,
}

/// Judges an exchange by its principal and its route.
pub type Stands = Arc<dyn Fn(&McpContext) -> Standing + Send + Sync>;

struct Watcher {
    stands: Stands,
    changes: watch::Receiver<Revision>,
    clock: Arc<dyn Clock>,
}

impl RevokeLayer {
    /// Asks `stands` about each open exchange whenever `changes` does.
    pub fn new(stands: Stands, changes: watch::Receiver<Revision>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Watcher { stands, changes, clock }))
    }
}

impl std::fmt::Debug for RevokeLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RevokeLayer(..)")
    }
}

impl Watcher {
    /// Ready when the exchange has to end.
    fn over(self: &Arc<Self>, cx: McpContext, stream: bool) -> BoxFuture<Over> {
        let watcher = Arc::clone(self);
        Box::pin(async move {
            let mut changes = watcher.changes.clone();
            let judged = async {
                loop {
                    match (watcher.stands)(&cx) {
                        Standing::Revoked => return Over::Revoked,
                        Standing::Unknown if stream => return Over::Unknown,
                        Standing::Unknown | Standing::Stands => {}
                    }
                    // The snapshot is gone: nobody can say any more whether the principal stands.
                    if changes.changed().await.is_err() {
                        return Over::Revoked;
                    }
                }
            };
            let until = cx.principal().and_then(|principal| principal.expires_at).filter(|_| stream);
            let Some(until) = until else { return judged.await };
            let left = until.duration_since(watcher.clock.now());
            let left = std::time::Duration::try_from(left).unwrap_or_default();
            tokio::select! {
                over = judged => over,
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
    Unknown,
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
            cx.principal()?;
            let stream = is_stream(request.method(), request.headers());
            Some(Leash { watcher: Arc::clone(watcher), cx, stream, over: None })
        });
        RevokeFuture::new(self.inner.call(request), leash)
    }
}

/// Waits for the end of a principal; made when an exchange has to be waited for, so that a quick one pays nothing.
struct Leash {
    watcher: Arc<Watcher>,
    cx: McpContext,
    stream: bool,
    over: Option<BoxFuture<Over>>,
}

impl Leash {
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Over> {
        let Self { watcher, cx, stream, over } = self;
        let over = over.get_or_insert_with(|| watcher.over(cx.clone(), *stream));
        over.as_mut().poll(task)
    }
}

#[cfg(test)]
mod tests;
