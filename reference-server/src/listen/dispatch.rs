//! Which service answers: the data plane directly, everything else through the router.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::Either;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use mcp_gateway_core::context::PeerAddr;
use mcp_gateway_core::gateway::Gateway;
use mcp_gateway_core::{Body, BoxFuture};
use tower::ServiceExt as _;
use tower::util::Oneshot;

use super::Drain;
use super::drain::StreamBody;

/// What answers requests of one listener.
///
/// The data plane does not pass the router: a call costs one comparison of its path here, and its body stays what
/// hyper made of it.
#[derive(Clone)]
pub struct Dispatch(Arc<Inner>);

struct Inner {
    gateway: Option<(Box<str>, Gateway)>,
    router: axum::Router,
    drain: Drain,
}

impl Dispatch {
    /// The data plane at this path, and everything else.
    pub fn new(mount_path: &str, gateway: Gateway, router: axum::Router, drain: Drain) -> Self {
        Self(Arc::new(Inner { gateway: Some((mount_path.into(), gateway)), router, drain }))
    }

    /// No data plane.
    pub fn without_gateway(router: axum::Router, drain: Drain) -> Self {
        Self(Arc::new(Inner { gateway: None, router, drain }))
    }

    pub(super) fn drain(&self) -> &Drain {
        &self.0.drain
    }

    /// For one connection.
    pub(super) fn to(&self, peer: SocketAddr) -> Connected {
        Connected { dispatch: self.clone(), peer, greeted: Arc::default() }
    }
}

impl std::fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatch").field("gateway", &self.0.gateway.is_some()).finish_non_exhaustive()
    }
}

/// The service of one connection.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    dispatch: Dispatch,
    peer: SocketAddr,
    /// Whether a request has come.
    pub(super) greeted: Arc<AtomicBool>,
}

type Answer = Either<Oneshot<Gateway, Request<Incoming>>, BoxFuture<Result<Response<Body>, Infallible>>>;

impl hyper::service::Service<Request<Incoming>> for Connected {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: Request<Incoming>) -> Answer {
        let Inner { gateway, router, drain } = &*self.dispatch.0;
        self.greeted.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(PeerAddr(self.peer));
        match gateway {
            Some((mount, gateway)) if is_below(request.uri().path(), mount) => {
                let waits = waits_for_events(&request);
                let answer = gateway.clone().oneshot(request);
                if !waits {
                    return Either::Left(answer);
                }
                let drain = drain.clone();
                Either::Right(Box::pin(async move {
                    let response = answer.await?;
                    Ok(response.map(|body| Body::new(StreamBody::new(body, &drain))))
                }))
            }
            _ => {
                let answer = router.clone().oneshot(request.map(axum::body::Body::new));
                Either::Right(Box::pin(async move { Ok(answer.await?.map(Body::new)) }))
            }
        }
    }
}

/// Whether a path is the mount's or below it.
fn is_below(path: &str, mount: &str) -> bool {
    path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the answer is a stream that lasts until somebody ends it, not one that ends with an answer.
fn waits_for_events<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        || request.headers().get("mcp-method").is_some_and(|method| method == "subscriptions/listen")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_segments_belong_to_the_mount() {
        for (path, below) in [
            ("/mcp-connect", true),
            ("/mcp-connect/", true),
            ("/mcp-connect/a", true),
            ("/mcp-connected", false),
            ("/api/v1", false),
            ("*", false),
        ] {
            assert_eq!(is_below(path, "/mcp-connect"), below, "{path}");
        }
    }
}
