//! The shim: what stands in front of each server and decides by what the message says.

mod credential;
mod forward;
mod headers;
mod initialize;
mod response;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

pub use self::forward::{Forward, ForwardFuture, ForwardOptions};
pub use self::response::UpstreamBody;
use crate::contract::{AuditSink, Authorizer, Clock, Filter, RateLimiter, SystemClock, Upstream, UpstreamError};
use crate::filter::ServerRequestFilter;
use crate::layer::Gated;
use crate::layer::audit::{AuditLayer, AuditOptions, AuditService, IntentLayer};
use crate::layer::authorize::{AuthorizeLayer, KeyServers};
use crate::layer::context::{ContextLayer, ContextService};
use crate::layer::filter::{FilterLayer, FilterOptions, FilterService};
use crate::layer::limit::{Rate, TargetLimitLayer};
use crate::layer::peek::{PeekLayer, PeekOptions, PeekService};
use crate::{Body, BoxFuture};

/// The whole stack of a shim, in the right order.
///
/// ```text
/// context → audit → peek → limit (server, tool) → authorize → filter → intent → forward
/// ```
///
/// The same stack stands inline in a gateway, or inside somebody else's service. It reads `principal`, `route` and
/// `endpoint` from the context and refuses when one is missing.
#[derive(Clone)]
pub struct Shim(Stack);

type Stack = ContextService<
    AuditService<
        PeekService<Gated<TargetLimitLayer, Gated<AuthorizeLayer, FilterService<Gated<IntentLayer, Forward>>>>>,
    >,
>;

/// Puts a [`Shim`] together.
#[derive(Clone)]
pub struct ShimBuilder {
    sink: Arc<dyn AuditSink>,
    authorizer: Arc<dyn Authorizer>,
    limiter: Arc<dyn RateLimiter>,
    clock: Arc<dyn Clock>,
    audit: AuditOptions,
    peek: PeekOptions,
    server_rate: Option<Rate>,
    tool_rate: Option<Rate>,
    filters: Vec<Arc<dyn Filter>>,
    filter: FilterOptions,
    forward: Forward,
}

impl Shim {
    /// A shim that records here. Everything else has a default: [`KeyServers`] decides, nothing is limited.
    pub fn builder(sink: Arc<dyn AuditSink>) -> ShimBuilder {
        ShimBuilder {
            sink,
            authorizer: Arc::new(KeyServers),
            limiter: crate::memory::MemoryRateLimiter::new(SystemClock, 100_000),
            clock: Arc::new(SystemClock),
            audit: AuditOptions::default(),
            peek: PeekOptions::default(),
            server_rate: None,
            tool_rate: None,
            filters: Vec::new(),
            filter: FilterOptions::default(),
            forward: Forward::new(ForwardOptions::default()),
        }
    }
}

impl ShimBuilder {
    /// Decides what callers may do.
    #[must_use]
    pub fn authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizer = authorizer;
        self
    }

    /// Keeps the budgets, of which `None` means no limit.
    #[must_use]
    pub fn limits(mut self, limiter: Arc<dyn RateLimiter>, server: Option<Rate>, tool: Option<Rate>) -> Self {
        (self.limiter, self.server_rate, self.tool_rate) = (limiter, server, tool);
        self
    }

    /// How exchanges are recorded.
    #[must_use]
    pub fn audit(mut self, options: AuditOptions) -> Self {
        self.clock = Arc::clone(&options.clock);
        self.audit = options;
        self
    }

    /// How messages are read.
    #[must_use]
    pub fn peek(mut self, options: PeekOptions) -> Self {
        self.peek = options;
        self
    }

    /// Inspects and changes messages, in this order.
    #[must_use]
    pub fn filters(mut self, filters: Vec<Arc<dyn Filter>>, options: FilterOptions) -> Self {
        (self.filters, self.filter) = (filters, options);
        self
    }

    /// How servers are called.
    #[must_use]
    pub fn forward(mut self, options: ForwardOptions) -> Self {
        self.forward = Forward::new(options);
        self
    }

    /// The stack.
    #[must_use]
    pub fn build(self) -> Shim {
        let audit = AuditLayer::with_authorizer(self.sink, Arc::clone(&self.authorizer), self.audit);
        // Innermost: what is about to be forwarded is in the trail before it is.
        let stack = audit.intent().layer(self.forward);
        // Sees only what is allowed; what it changes is asked about again.
        let mut filters: Vec<Arc<dyn Filter>> = vec![Arc::new(ServerRequestFilter)];
        filters.extend(self.filters);
        let stack = FilterLayer::new(filters, Arc::clone(&self.authorizer), self.filter).layer(stack);
        // By the message: the gateway has only granted that the server may be reached.
        let stack = AuthorizeLayer::new(self.authorizer).layer(stack);
        // Behind the peek, because the tool is in the body.
        let stack = TargetLimitLayer::new(self.limiter, self.server_rate, self.tool_rate).layer(stack);
        // What readers could understand differently goes no further.
        let stack = PeekLayer::new(self.peek).layer(stack);
        // Sees every refusal inside and the answer as it leaves.
        let stack = audit.layer(stack);
        // Does nothing inline, where the gateway has begun the context.
        Shim(ContextLayer::with(self.clock, Vec::new()).layer(stack))
    }
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shim(..)")
    }
}

impl std::fmt::Debug for ShimBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShimBuilder").finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for Shim {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Stack as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

impl Upstream for Shim {
    fn call(&self, request: Request<Body>) -> BoxFuture<Result<Response<Body>, UpstreamError>> {
        let answer = self.0.clone().call(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(response),
                Err(never) => match never {},
            }
        })
    }
}

#[cfg(test)]
mod tests;
