//! The last step of the gateway: hands the request to the shim.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use tower_service::Service;

use crate::context::McpContext;
use crate::contract::{Upstream, UpstreamError};
use crate::refusal::Refusal;
use crate::{Body, BoxFuture};

/// Calls the shim.
#[derive(Clone)]
pub struct Proxy(Arc<dyn Upstream>);

impl Proxy {
    /// Hands requests to this shim.
    pub fn new(shim: Arc<dyn Upstream>) -> Self {
        Self(shim)
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxy(..)")
    }
}

impl Service<Request<Body>> for Proxy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ProxyFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ProxyFuture {
        let cx = McpContext::of(request.extensions()).cloned();
        ProxyFuture { answer: self.0.call(request), cx }
    }
}

/// The future of a [`Proxy`].
pub struct ProxyFuture {
    answer: BoxFuture<Result<Response<Body>, UpstreamError>>,
    cx: Option<McpContext>,
}

impl std::fmt::Debug for ProxyFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProxyFuture(..)")
    }
}

impl Future for ProxyFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.as_mut().poll(task).map(|answer| {
            Ok(answer.unwrap_or_else(|error| {
                Refusal::new(StatusCode::BAD_GATEWAY, error.public.clone()).because(error).into_mcp(self.cx.as_ref())
            }))
        })
    }
}
