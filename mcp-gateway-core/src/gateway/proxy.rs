//! The last step of the gateway: hands the request to the shim.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tower_service::Service;

use crate::contract::Upstream;
use crate::refusal::Refusal;
use crate::{Body, BoxError, BoxFuture};

/// Erases the request's body type and calls the shim.
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

impl<B> Service<Request<B>> for Proxy
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ProxyFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ProxyFuture {
        ProxyFuture(self.0.call(request.map(Body::new)))
    }
}

/// The future of a [`Proxy`].
pub struct ProxyFuture(BoxFuture<Result<Response<Body>, crate::contract::UpstreamError>>);

impl std::fmt::Debug for ProxyFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProxyFuture(..)")
    }
}

impl Future for ProxyFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(|answer| {
            Ok(answer.unwrap_or_else(|error| {
                Refusal::new(StatusCode::BAD_GATEWAY, error.public.clone()).because(error).into_mcp(None)
            }))
        })
    }
}
