//! The future of the session service.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::SessionLayer;
use crate::Body;
use crate::context::McpContext;

pin_project! {
    /// The future of a [`SessionService`](super::SessionService).
    pub struct SessionFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F> {
        Refused {
            response: Option<Response<Body>>,
        },
        Inner {
            #[pin]
            inner: F,
            layer: SessionLayer,
            cx: McpContext,
        },
    }
}

impl<F> SessionFuture<F> {
    pub(super) fn refused(response: Response<Body>) -> Self {
        Self { state: State::Refused { response: Some(response) } }
    }

    pub(super) fn inner(inner: F, layer: SessionLayer, cx: McpContext) -> Self {
        Self { state: State::Inner { inner, layer, cx } }
    }
}

impl<F> std::fmt::Debug for SessionFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionFuture(..)")
    }
}

impl<F, E> Future for SessionFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            // Taken once: a future is not polled after it is ready.
            Projected::Refused { response } => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
            Projected::Inner { inner, layer, cx } => {
                let mut response = ready!(inner.poll(task))?;
                Poll::Ready(Ok(match layer.seal(response.headers_mut(), cx) {
                    Ok(()) => layer.tag(response, cx),
                    Err(refusal) => refusal.into_mcp(Some(cx)),
                }))
            }
        }
    }
}
