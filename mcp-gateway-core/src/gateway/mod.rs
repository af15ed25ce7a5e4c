//! The gateway: authenticates, finds the server, makes sure that it runs, and hands the request to its shim.

mod builder;
mod proxy;

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

pub use self::builder::{Built, GatewayBuilder, GatewayOptions, Parts};
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

type Stack = ContextService<
    RefusalsService<
        Gated<HostLayer, CorsService<Gated<AdmitLayer, Gated<AuthenticateLayer, Gated<CallerLimitLayer, Inner>>>>>,
    >,
>;
type Inner = RevokeService<Gated<ResolveLayer, SessionService<Gated<DeployLayer, Proxy>>>>;

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
    type Future = <Stack as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<B>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.call(request)
    }
}
