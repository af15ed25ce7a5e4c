//! The gateway: authenticates, finds the server, makes sure that it runs, and hands the request to its shim.

mod builder;
mod metadata;
mod proxy;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

pub use self::builder::{Built, GatewayBuilder, GatewayOptions, Parts};
pub use self::metadata::ResourceMetadata;
pub use self::proxy::{Proxy, ProxyFuture};
use crate::layer::Gated;
use crate::layer::admit::AdmitLayer;
use crate::layer::authenticate::AuthenticateLayer;
use crate::layer::context::ContextService;
use crate::layer::cors::CorsService;
use crate::layer::deploy::DeployLayer;
use crate::layer::host::HostLayer;
use crate::layer::limit::CallerLimitLayer;
use crate::layer::refusals::RefusalsService;
use crate::layer::resolve::ResolveLayer;
use crate::layer::revoke::RevokeService;
use crate::layer::session::SessionService;
use crate::{Body, BoxError};

/// The whole data plane, in the right order.
///
/// ```text
/// context → audit (refusals) → host → cors → admit → limit (address), authenticate → limit (principal)
///         → revoke → resolve → session → deploy → proxy → shim
/// ```
///
/// A [`tower` service](tower_service) for requests with any body. Put it into a router as a fallback service, or under
/// its mount with [`nested`](GatewayBuilder::nested).
#[derive(Debug, Clone)]
pub struct Gateway(Stack);

type Stack = ContextService<RefusalsService<Gated<HostLayer, CorsService<Admitted>>>>;

/// A part of the stack as a service without type parameters. The compiler proves it once; a nest of generic services
/// it proves anew for each level around it, several times a level, so that time and memory grow by powers.
macro_rules! segment {
    ($(#[$doc:meta])* $name:ident($stack:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        struct $name($stack);

        impl Service<Request<Body>> for $name {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = <$stack as Service<Request<Body>>>::Future;

            fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Service::<Request<Body>>::poll_ready(&mut self.0, cx)
            }

            fn call(&mut self, request: Request<Body>) -> Self::Future {
                self.0.call(request)
            }
        }
    };
}

segment! {
    /// Behind the checks that know no caller.
    Admitted(Gated<AdmitLayer, Gated<AuthenticateLayer, Gated<CallerLimitLayer, Known>>>)
}
segment! {
    /// Behind the caller's identity and budgets.
    Known(RevokeService<Gated<ResolveLayer, SessionService<Gated<DeployLayer, Proxy>>>>)
}

impl Gateway {
    /// A gateway of these parts.
    #[must_use]
    pub fn builder(parts: Parts) -> GatewayBuilder {
        GatewayBuilder::new(parts)
    }
}

impl<B> Service<Request<B>> for Gateway
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = GatewayFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<B>) -> GatewayFuture {
        GatewayFuture { inner: self.0.call(request.map(Body::new)) }
    }
}

pin_project! {
    /// The future of a [`Gateway`].
    pub struct GatewayFuture {
        #[pin]
        inner: <Stack as Service<Request<Body>>>::Future,
    }
}

impl std::fmt::Debug for GatewayFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GatewayFuture(..)")
    }
}

impl Future for GatewayFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}
