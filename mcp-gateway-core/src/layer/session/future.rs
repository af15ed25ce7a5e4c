//! The future of the session service.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use pin_project_lite::pin_project;

use super::SessionLayer;
use crate::context::McpContext;

pin_project! {
    /// The future of a [`SessionService`](super::SessionService).
    pub struct SessionFuture<F, R> {
        #[pin]
        state: State<F, R>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F, R> {
        Refused {
            response: Option<Response<R>>,
        },
        Inner {
            #[pin]
            inner: F,
            layer: SessionLayer,
            cx: McpContext,
        },
    }
}

impl<F, R> SessionFuture<F, R> {
    pub(super) fn refused(response: Response<R>) -> Self {
        Self { state: State::Refused { response: Some(response) } }
    }

    pub(super) fn inner(inner: F, layer: SessionLayer, cx: McpContext) -> Self {
        Self { state: State::Inner { inner, layer, cx } }
    }
}

impl<F, R> std::fmt::Debug for SessionFuture<F, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionFuture(..)")
    }
}

impl<F, R, E> Future for SessionFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: From<Bytes>,
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
                    Ok(()) => response,
                    Err(refusal) => refusal.into_mcp(Some(cx)),
                }))
            }
        }
    }
}
