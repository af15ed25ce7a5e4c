//! Begins the context of a request.

mod forwarded;

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{HeaderMap, HeaderName, Request};
use ipnet::IpNet;
use tower_layer::Layer;
use tower_service::Service;

use crate::context::{McpContext, PeerAddr, Sampling, TraceContext};
use crate::contract::{Clock, SystemClock};
use crate::record::TenantId;
use crate::wire::method::Method;
use crate::wire::mirror::MCP_METHOD;

/// Puts an [`McpContext`] on each request: id, start time, caller's address, W3C trace.
///
/// A request that has a context already (a shim inside a gateway) passes untouched. Headers by which somebody could
/// claim another address or identity (`Forwarded`, `X-Forwarded-*`, `X-Real-IP` and its like, `Mcp-Gateway-*`) are read only from
/// trusted proxies and never travel on.
#[derive(Clone)]
pub struct ContextLayer(Arc<Options>);

#[derive(Clone)]
struct Options {
    clock: Arc<dyn Clock>,
    trusted_proxies: Vec<IpNet>,
    tenants: Option<Tenants>,
    sampling: Sampling,
}

/// Which tenant a request is for, by its host as a rule; `None` when it is nobody's. Asked before the caller is known:
/// a caller of another tenant is a stranger (401).
pub type Tenants = Arc<dyn Fn(&Parts) -> Option<TenantId> + Send + Sync>;

impl ContextLayer {
    /// Uses the machine's clock and trusts no proxy.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Arc::new(SystemClock), Vec::new())
    }

    /// Uses this clock and believes what these proxies say about the caller's address.
    #[must_use]
    pub fn with(clock: Arc<dyn Clock>, trusted_proxies: Vec<IpNet>) -> Self {
        Self(Arc::new(Options { clock, trusted_proxies, tenants: None, sampling: Sampling::default() }))
    }

    /// How many of the traces that begin here are recorded; without this, none.
    #[must_use]
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        Arc::make_mut(&mut self.0).sampling = sampling;
        self
    }

    /// Tells tenants apart. Without this, every request is for the tenant `default`.
    #[must_use]
    pub fn tenants(self, tenants: Tenants) -> Self {
        Self(Arc::new(Options { tenants: Some(tenants), ..Options::clone(&self.0) }))
    }

    fn begin<B>(&self, mut request: Request<B>) -> Request<B> {
        let peer = peer(&request);
        if McpContext::of(request.extensions()).is_none() {
            let cx = McpContext::new(&*self.0.clock);
            // Facts of a context made in this line cannot be set already.
            if let Some(peer) = peer {
                let _ = cx.set_address(forwarded::caller(peer, request.headers(), &self.0.trusted_proxies));
            }
            let _ = cx.set_trace(TraceContext::of(request.headers(), self.0.sampling));
            if request.headers().get(MCP_METHOD).is_some_and(|method| method == Method::Discover.as_str()) {
                cx.note_probe();
            }
            request.extensions_mut().insert(cx.clone());
            strip(request.headers_mut());
            if let Some(tenants) = &self.0.tenants {
                let (parts, body) = request.into_parts();
                let _ = cx.set_tenant(tenants(&parts));
                request = Request::from_parts(parts, body);
            }
        }
        request
    }
}

impl Default for ContextLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ContextLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContextLayer").field("trusted_proxies", &self.0.trusted_proxies).finish_non_exhaustive()
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = ContextService<S>;

    fn layer(&self, inner: S) -> ContextService<S> {
        ContextService { layer: self.clone(), inner }
    }
}

/// The service of a [`ContextLayer`].
#[derive(Debug, Clone)]
pub struct ContextService<S> {
    layer: ContextLayer,
    inner: S,
}

impl<S, B> Service<Request<B>> for ContextService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        self.inner.call(self.layer.begin(request))
    }
}

fn peer<B>(request: &Request<B>) -> Option<IpAddr> {
    if let Some(PeerAddr(address)) = request.extensions().get() {
        return Some(address.ip().to_canonical());
    }
    #[cfg(feature = "axum")]
    if let Some(axum::extract::ConnectInfo(address)) =
        request.extensions().get::<axum::extract::ConnectInfo<std::net::SocketAddr>>()
    {
        return Some(address.ip().to_canonical());
    }
    None
}

/// Where proxies and content networks put addresses, beside `X-Forwarded-*`.
const OF_PROXIES: &[&str] = &[
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "true-client-ip",
    "fastly-client-ip",
];

/// Removes what a caller could use to speak in somebody else's name. The usual request has none of it.
fn strip(headers: &mut HeaderMap) {
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            OF_PROXIES.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("mcp-gateway-")
        })
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use tower::ServiceExt;

    use super::*;

    async fn seen(layer: ContextLayer, request: Request<()>) -> Request<()> {
        let inner = tower::service_fn(|request: Request<()>| async move { Ok::<_, Infallible>(request) });
        layer.layer(inner).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_stranger_cannot_claim_an_address_and_a_trusted_proxy_can() {
        let request = |peer: &str| {
            Request::builder()
                .header("x-forwarded-for", "203.0.113.9")
                .header("mcp-gateway-subject", "root")
                .extension(PeerAddr(SocketAddr::new(peer.parse().unwrap(), 1)))
                .body(())
                .unwrap()
        };
        let layer = ContextLayer::with(Arc::new(SystemClock), vec!["10.0.0.0/8".parse().unwrap()]);
        for (peer, address) in [("192.0.2.1", "192.0.2.1"), ("10.1.2.3", "203.0.113.9")] {
            let seen = seen(layer.clone(), request(peer)).await;
            assert_eq!(McpContext::of(seen.extensions()).unwrap().address().unwrap().to_string(), address);
            assert!(seen.headers().is_empty(), "{:?}", seen.headers());
        }
    }

    #[tokio::test]
    async fn a_context_is_begun_once() {
        let first = seen(ContextLayer::new(), Request::new(())).await;
        let id = McpContext::of(first.extensions()).unwrap().request_id();
        let second = seen(ContextLayer::new(), first).await;
        assert_eq!(McpContext::of(second.extensions()).unwrap().request_id(), id);
    }
}
