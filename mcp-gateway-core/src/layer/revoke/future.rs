//! The future of the revoke service.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::{Leash, Over, RevocableBody};
use crate::Body;
use crate::layer::authorize::refuse;
use crate::layer::resolve::no_such_server;
use crate::refusal::Refusal;

pin_project! {
    /// The future of a [`RevokeService`](super::RevokeService).
    pub struct RevokeFuture<F> {
        #[pin]
        inner: F,
        leash: Option<Leash>,
    }
}

impl<F> RevokeFuture<F> {
    pub(super) fn new(inner: F, leash: Option<Leash>) -> Self {
        Self { inner, leash }
    }
}

impl<F> std::fmt::Debug for RevokeFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RevokeFuture(..)")
    }
}

impl<F, E> Future for RevokeFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(response) = this.inner.poll(task)? {
            return Poll::Ready(Ok(match this.leash.take() {
                Some(leash) if !http_body::Body::is_end_stream(response.body()) => {
                    response.map(|body| Body::new(RevocableBody::new(body, leash)))
                }
                _ => response,
            }));
        }
        let Some(leash) = this.leash else { return Poll::Pending };
        let over = ready!(leash.poll(task));
        let cx = &leash.cx;
        let refusal = match over {
            // Not 401, upon which clients log in anew.
            Over::Unknown => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "Credentials cannot be checked now.").retry_after(5)
            }
            Over::Outdated => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "Rules have changed: open the stream again.")
                    .retry_after(1)
            }
            // Nor here: another token would not help. It is as if there were no such server.
            Over::Hidden(_) => return Poll::Ready(Ok(no_such_server().into_mcp(None))),
            // Or no such tool.
            Over::Forbidden(decision) => match cx.message() {
                Some(message) => return Poll::Ready(Ok(refuse(&decision, message).into_mcp(Some(cx)))),
                None => no_such_server(),
            },
            Over::Revoked | Over::Expired | Over::TooLong => {
                Refusal::new(StatusCode::UNAUTHORIZED, "The credential is no longer valid.")
            }
        };
        Poll::Ready(Ok(refusal.into_mcp(None)))
    }
}
