//! Records each exchange before its answer has left.

mod body;
mod event;
mod future;
mod intent;
mod recorder;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http::{HeaderName, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

pub use self::body::AuditBody;
pub(crate) use self::event::{event_of, micros};
pub use self::future::AuditFuture;
pub use self::intent::IntentLayer;
use self::recorder::Recorder;
pub(crate) use self::recorder::label;
use crate::Body;
use crate::context::McpContext;
use crate::contract::{AuditSink, Authorizer, Clock, SystemClock};
use crate::refusal::Refusal;

/// Records one event per exchange, notification and server request.
///
/// Outermost in the shim: it sees refusals of every layer inside, and the answer as it leaves. The last data frame of
/// a JSON answer, the SSE event that carries the response, and the head of an empty answer are held back until the
/// event is recorded; everything else passes at once. Streams get an event when they open and one when they end.
///
/// It reads every event once, so it is also where the requests of a server are withheld: those that an authorizer
/// [denies](Self::with_authorizer), and, since revision 2026-07-28 has none, all of a server of that revision. Their rows
/// have the outcome `denied`; the server is not told.
///
/// [`IntentLayer`], innermost, records that a call is about to be forwarded.
#[derive(Clone)]
pub struct AuditLayer(Arc<Auditor>);

/// What happens when the sink cannot take an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// Calls are refused (503), and an answer whose event cannot be recorded is cut off: nothing happens unrecorded.
    #[default]
    Refuse,
    /// Calls go on, and the events that are missing are counted.
    Count,
}

/// How an [`AuditLayer`] records.
#[derive(Clone)]
pub struct AuditOptions {
    /// `audit.on_full`.
    pub on_full: OnFull,
    /// `audit.bodies`: whether bodies and headers are captured. Off unless the store seals them.
    pub bodies: bool,
    /// `audit.body_limit`: how many bytes of each body.
    pub body_limit: usize,
    /// Headers whose values are never captured, beside those that carry credentials.
    pub redact: Vec<HeaderName>,
    /// `limits.event_bytes`: the largest event of a stream that can be read.
    pub max_event: usize,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Default for AuditOptions {
    /// Refuse when full, no bodies, 64 KiB, 16 MiB an event.
    fn default() -> Self {
        Self {
            on_full: OnFull::default(),
            bodies: false,
            body_limit: 64 << 10,
            redact: Vec::new(),
            max_event: 16 << 20,
            clock: Arc::new(SystemClock),
        }
    }
}

impl std::fmt::Debug for AuditOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditOptions")
            .field("on_full", &self.on_full)
            .field("bodies", &self.bodies)
            .field("body_limit", &self.body_limit)
            .field("max_event", &self.max_event)
            .finish_non_exhaustive()
    }
}

/// What the audit layers share.
pub(crate) struct Auditor {
    sink: Arc<dyn AuditSink>,
    authorizer: Option<Arc<dyn Authorizer>>,
    options: AuditOptions,
    lost: AtomicU64,
}

impl AuditLayer {
    /// Records to this sink.
    pub fn new(sink: Arc<dyn AuditSink>, options: AuditOptions) -> Self {
        Self(Arc::new(Auditor { sink, authorizer: None, options, lost: AtomicU64::new(0) }))
    }

    /// Records to this sink, and asks this authorizer about the requests that servers send on their streams.
    pub fn with_authorizer(sink: Arc<dyn AuditSink>, authorizer: Arc<dyn Authorizer>, options: AuditOptions) -> Self {
        Self(Arc::new(Auditor { sink, authorizer: Some(authorizer), options, lost: AtomicU64::new(0) }))
    }

    /// The layer that records intents, to stand innermost.
    #[must_use]
    pub fn intent(&self) -> IntentLayer {
        IntentLayer::new(Arc::clone(&self.0))
    }

    /// Events that could not be recorded.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for AuditLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLayer").field("on_full", &self.0.options.on_full).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = AuditService<S>;

    fn layer(&self, inner: S) -> AuditService<S> {
        AuditService { auditor: Arc::clone(&self.0), inner }
    }
}

/// The service of an [`AuditLayer`].
#[derive(Clone)]
pub struct AuditService<S> {
    auditor: Arc<Auditor>,
    inner: S,
}

impl<S: std::fmt::Debug> std::fmt::Debug for AuditService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for AuditService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = AuditFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(cx) = McpContext::of(request.extensions()).cloned() else {
            return AuditFuture::refused(Refusal::layer_absent("context", "ContextLayer").into_mcp(None));
        };
        cx.take();
        let recorder = Recorder::begin(Arc::clone(&self.auditor), cx, &request);
        AuditFuture::inner(self.inner.call(request), recorder)
    }
}

#[cfg(test)]
mod tests;
