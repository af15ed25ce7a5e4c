//! Records what ended before a shim took it.

mod future;
mod strangers;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

pub use self::future::RefusalsFuture;
pub use self::strangers::Strangers;
use crate::context::McpContext;
use crate::contract::{AuditSink, Clock};

/// Records refusals of the gateway itself: outermost behind the context layer.
///
/// A request that a shim has taken is recorded there, under the same id, and not here. Refusals of callers that nobody
/// knows are counted per address, status and minute in a bounded table of their own, and written as one event each:
/// a flood of strangers never fills the audit spool.
#[derive(Clone)]
pub struct RefusalsLayer(Arc<Shared>);

struct Shared {
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    strangers: Arc<Strangers>,
}

impl RefusalsLayer {
    /// Records to this sink; strangers are counted in `strangers`.
    pub fn new(sink: Arc<dyn AuditSink>, clock: Arc<dyn Clock>, strangers: Arc<Strangers>) -> Self {
        Self(Arc::new(Shared { sink, clock, strangers }))
    }
}

impl std::fmt::Debug for RefusalsLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RefusalsLayer(..)")
    }
}

impl<S> Layer<S> for RefusalsLayer {
    type Service = RefusalsService<S>;

    fn layer(&self, inner: S) -> RefusalsService<S> {
        RefusalsService { layer: self.clone(), inner }
    }
}

/// The service of a [`RefusalsLayer`].
#[derive(Debug, Clone)]
pub struct RefusalsService<S> {
    layer: RefusalsLayer,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for RefusalsService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = RefusalsFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let cx = McpContext::of(request.extensions()).cloned();
        let method: Method = request.method().clone();
        RefusalsFuture::new(self.inner.call(request), self.layer.clone(), cx, method)
    }
}
