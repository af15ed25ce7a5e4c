//! The future of the refusals service.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Method, Response};
use pin_project_lite::pin_project;

use super::RefusalsLayer;
use crate::context::McpContext;
use crate::contract::{AuditFull, Seq};
use crate::layer::audit::{event_of, label};
use crate::layer::peek::inspect_cut as cut;
use crate::record::{Category, EventKind, Outcome};
use crate::{BoxFuture, MaybeReady};

pin_project! {
    /// The future of a [`RefusalsService`](super::RefusalsService).
    pub struct RefusalsFuture<F, R> {
        #[pin]
        inner: F,
        layer: RefusalsLayer,
        cx: Option<McpContext>,
        method: Method,
        waiting: Option<(Response<R>, BoxFuture<Result<Seq, AuditFull>>)>,
    }
}

impl<F, R> RefusalsFuture<F, R> {
    pub(super) fn new(inner: F, layer: RefusalsLayer, cx: Option<McpContext>, method: Method) -> Self {
        Self { inner, layer, cx, method, waiting: None }
    }
}

impl<F, R> std::fmt::Debug for RefusalsFuture<F, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RefusalsFuture(..)")
    }
}

impl<F, R, E> Future for RefusalsFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.waiting.is_none() {
            let response = ready!(this.inner.poll(task))?;
            let Some(cx) = this.cx.take().filter(|cx| !cx.is_taken()) else { return Poll::Ready(Ok(response)) };
            match this.layer.record(&cx, this.method, response.status().as_u16()) {
                // The caller is refused whether or not there was room to say so in the trail; the sink counts it.
                MaybeReady::Ready(_) => return Poll::Ready(Ok(response)),
                MaybeReady::Wait(wait) => *this.waiting = Some((response, wait)),
            }
        }
        let Some((_, wait)) = this.waiting else { return Poll::Pending };
        let _ = ready!(wait.as_mut().poll(task));
        // Set above, taken once: a future is not polled after it is ready.
        this.waiting.take().map_or(Poll::Pending, |(response, _)| Poll::Ready(Ok(response)))
    }
}

impl RefusalsLayer {
    fn record(&self, cx: &McpContext, method: &Method, status: u16) -> MaybeReady<Result<Seq, AuditFull>> {
        if cx.principal().is_none() && status < 400 {
            // A preflight: nothing was refused.
            return Ok(Seq(0)).into();
        }
        if cx.principal().is_none() {
            self.0.strangers.count(cx, Category::Mcp, status);
            return Ok(Seq(0)).into();
        }
        let mut event = event_of(cx, EventKind::Refused, &*self.0.clock);
        event.outcome = Outcome::Denied;
        event.status = status;
        event.http_method = Some(label(method));
        if let Some(requested) = cx.requested().filter(|_| event.server.is_none()) {
            event.target = Some(cut(&requested.id, 512));
        }
        if let Some(refusal) = cx.refusal() {
            event.rpc_code = Some(refusal.code);
            event.error = Some(cut(&refusal.message, 512));
        }
        self.0.sink.record(event)
    }
}
