//! Ends what a caller has open when the caller may no longer call.

mod body;
mod future;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::RevocableBody;
pub use self::future::RevokeFuture;
use super::admit::is_stream;
use crate::context::McpContext;
use crate::contract::{Clock, Decision, Revision};
use crate::record::Watch;
use crate::{Body, BoxFuture};

/// Cuts calls and streams of a principal that has been revoked or may not do this any more, and ends streams whose
/// credential has expired or of whose principal nobody can tell any more.
///
/// Required fact: `principal`. What is open asks again once per change of the snapshot, not per event. A call that is
/// under way when its credential expires may go on for `limits.call_max_duration`, and one when the store has been away
/// for too long may finish; a GET or listen stream ends.
#[derive(Clone)]
pub struct RevokeLayer {
    watcher: Arc<Watcher>,
    call_max: Duration,
}

/// Whether what a caller has open may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Stands,
    /// The caller was revoked, or the server removed: everything is cut.
    Revoked,
    /// This rule no longer lets the caller reach the server: everything is cut, as if there were no such server.
    Hidden(Arc<str>),
    /// The caller may not do this any more: everything is cut, and answered as any such message is from now on.
    Forbidden(Decision),
    /// Rules look further into streams than when this was opened: streams end, and are filtered when they are opened
    /// again; calls may finish.
    Outdated,
    /// The store was not heard from for longer than `auth.max_staleness`: streams end, calls may finish.
    Unknown,
}

/// Judges an exchange by its principal, its route and its message, as far as they are known.
pub type Stands = Arc<dyn Fn(&McpContext) -> Standing + Send + Sync>;

struct Watcher {
    stands: Stands,
    changes: watch::Receiver<Revision>,
    clock: Arc<dyn Clock>,
}

impl RevokeLayer {
    /// Asks `stands` about each open exchange whenever `changes` does.
    pub fn new(stands: Stands, changes: watch::Receiver<Revision>, clock: Arc<dyn Clock>) -> Self {
        let watcher = Arc::new(Watcher { stands, changes, clock });
        Self { watcher, call_max: Duration::from_secs(15 * 60) }
    }

    /// `limits.call_max_duration`: how long a call may outlive its credential; 15 min by default.
    #[must_use]
    pub fn call_max(mut self, call_max: Duration) -> Self {
        self.call_max = call_max;
        self
    }
}

impl std::fmt::Debug for RevokeLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RevokeLayer(..)")
    }
}

impl Watcher {
    /// Ready when the exchange has to end: a stream with its credential, a call so long after it.
    fn over(self: &Arc<Self>, cx: McpContext, kind: Exchange) -> BoxFuture<Over> {
        let watcher = Arc::clone(self);
        Box::pin(async move {
            let mut changes = watcher.changes.clone();
            // Only what changes after the first look is news: the watcher itself never looks.
            changes.mark_unchanged();
            let judged = async {
                loop {
                    match (watcher.stands)(&cx) {
                        Standing::Revoked => return Over::Revoked,
                        Standing::Hidden(rule) => return Over::Hidden(rule),
                        Standing::Forbidden(decision) => return Over::Forbidden(decision),
                        Standing::Outdated if kind == Exchange::Stream => return Over::Outdated,
                        Standing::Unknown if kind == Exchange::Stream => return Over::Unknown,
                        Standing::Outdated | Standing::Unknown | Standing::Stands => {}
                    }
                    // The snapshot is gone: nobody can say any more whether the principal stands.
                    if changes.changed().await.is_err() {
                        return Over::Revoked;
                    }
                }
            };
            let expires_at = cx.principal().and_then(|principal| principal.expires_at);
            let ended = cx.principal().and_then(|principal| principal.watch.as_ref()).map(Watch::over);
            let judged = async {
                let mut judged = pin!(judged);
                let Some(ended) = ended else { return judged.await };
                tokio::select! {
                    over = &mut judged => return over,
                    () = ended => {}
                }
                // An issuer knows an expired credential no more, and that cuts nobody's call.
                match kind {
                    _ if expires_at.is_none_or(|at| watcher.clock.now() < at) => Over::Revoked,
                    Exchange::Stream => Over::Expired,
                    Exchange::Call { .. } => judged.await,
                }
            };
            let Some(until) = expires_at else { return judged.await };
            let left = until.duration_since(watcher.clock.now());
            let left = Duration::try_from(left).unwrap_or_default();
            let (left, over) = match kind {
                Exchange::Stream => (left, Over::Expired),
                Exchange::Call { max } => (left.saturating_add(max), Over::TooLong),
            };
            tokio::select! {
                over = judged => over,
                () = tokio::time::sleep(left) => over,
            }
        })
    }
}

/// What is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exchange {
    /// A GET or listen stream.
    Stream,
    /// A call, which may outlive its credential for so long.
    Call { max: Duration },
}

/// Why an exchange ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Over {
    Revoked,
    Hidden(Arc<str>),
    Forbidden(Decision),
    Outdated,
    Expired,
    /// A call has outlived its credential for too long.
    TooLong,
    Unknown,
}

impl<S> Layer<S> for RevokeLayer {
    type Service = RevokeService<S>;

    fn layer(&self, inner: S) -> RevokeService<S> {
        RevokeService { layer: Some(self.clone()), inner }
    }
}

/// The service of a [`RevokeLayer`].
#[derive(Clone)]
pub struct RevokeService<S> {
    layer: Option<RevokeLayer>,
    inner: S,
}

impl<S> RevokeService<S> {
    /// A service that never cuts anything: for stacks whose callers cannot be revoked.
    pub(crate) fn never(inner: S) -> Self {
        Self { layer: None, inner }
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
        let leash = self.layer.as_ref().and_then(|layer| {
            let cx = McpContext::of(request.extensions())?.clone();
            // Compared with the body by the peek before a stream can open.
            cx.principal()?;
            let stream = is_stream(request.method(), request.headers());
            let kind = if stream { Exchange::Stream } else { Exchange::Call { max: layer.call_max } };
            Some(Leash { watcher: Arc::clone(&layer.watcher), cx, kind, over: None })
        });
        RevokeFuture::new(self.inner.call(request), leash)
    }
}

/// Waits for the end of a principal; made when an exchange has to be waited for, so that a quick one pays nothing.
struct Leash {
    watcher: Arc<Watcher>,
    cx: McpContext,
    kind: Exchange,
    over: Option<BoxFuture<Over>>,
}

impl Leash {
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Over> {
        let Self { watcher, cx, kind, over } = self;
        let over = over.get_or_insert_with(|| watcher.over(cx.clone(), *kind));
        over.as_mut().poll(task).map(|over| {
            // Before what is inside is dropped and records its end.
            if let Over::Hidden(rule) | Over::Forbidden(Decision { rule, .. }) = &over {
                let _ = cx.set_cut(Arc::clone(rule));
            }
            over
        })
    }
}

#[cfg(test)]
mod tests;
