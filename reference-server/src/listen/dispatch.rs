//! Which service answers: the data plane directly, everything else through the router.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::TryFutureExt as _;
use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use mcp_gateway_core::context::PeerAddr;
use mcp_gateway_core::gateway::Gateway;
use mcp_gateway_core::wire::mirror::MCP_METHOD;
use mcp_gateway_core::wire::sse::is_event_stream;
use mcp_gateway_core::{Body, BoxFuture, Unread};
use tower::ServiceExt as _;
use tower::util::Oneshot;

use super::Drain;
use super::activity::{Activity, UnderWay, UnderWayBody};
use super::drain::StreamBody;
use super::handover::Handover;
use super::unread::{self, Concluded};

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
    pub(super) fn to(&self, peer: SocketAddr, is_http2: bool) -> Connected {
        let (activity, handover, unread) = (Arc::new(Activity::new()), Arc::default(), Arc::default());
        Connected { dispatch: self.clone(), peer, is_http2, activity, handover, unread }
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
    is_http2: bool,
    pub(super) activity: Arc<Activity>,
    pub(super) handover: Arc<Handover>,
    unread: Arc<Unread>,
}

type Answer = Either<Concluded<Oneshot<Gateway, Request<Body>>>, BoxFuture<Result<Response<Body>, Infallible>>>;

impl hyper::service::Service<Request<Incoming>> for Connected {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: Request<Incoming>) -> Answer {
        let Inner { gateway, router, drain } = &*self.dispatch.0;
        self.activity.begin();
        // An HTTP/1.1 connection is busy with one request at a time, and knows by itself when it is idle.
        let under_way = self.is_http2.then(|| self.activity.enter());
        request.extensions_mut().insert(PeerAddr(self.peer));
        let waits = waits_for_events(&request);
        if waits {
            detach(request.headers_mut());
        }
        // Only HTTP/1.1 knows chunks, and gives a stream a connection of its own.
        let alone = request.version() == Version::HTTP_11;
        let expects = unread::expects(request.headers());
        // HTTP/2 ends a stream whose body nobody reads, and the connection goes on (RFC 9113 §8.1).
        let request = request.map(|body| {
            if self.is_http2 || body.is_end_stream() { body.into() } else { Body::lent(body, &self.unread) }
        });
        let answer = match gateway {
            Some((mount, gateway)) if is_below(request.uri().path(), mount) => {
                let answer = gateway.clone().oneshot(request);
                if !waits && under_way.is_none() {
                    return Either::Left(Concluded::new(answer, Arc::clone(&self.unread), expects));
                }
                Either::Left(answer)
            }
            _ => {
                let answer = router.clone().oneshot(request.map(axum::body::Body::new));
                Either::Right(answer.map_ok(|answer| answer.map(Body::new)))
            }
        };
        let answer = Concluded::new(answer, Arc::clone(&self.unread), expects);
        let (drain, handover) = (drain.clone(), Arc::clone(&self.handover));
        Either::Right(Box::pin(async move {
            let response = answer.await?;
            let is_stream = response.status() == StatusCode::OK && is_event_stream(response.headers());
            if !(waits && is_stream && !response.body().is_end_stream()) {
                return Ok(until_read(response, under_way));
            }
            let stream = response.map(|body| Body::new(StreamBody::new(body, &drain)));
            if alone {
                handover.leave(stream);
                return pending().await;
            }
            Ok(until_read(stream, under_way))
        }))
    }
}

/// Copies the values of a request that its answer outlives: whatever is kept of one would keep the buffer alive that
/// the connection was read into.
fn detach(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        if let Ok(mut copy) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            *value = copy;
        }
    }
}

/// Keeps a request under way until its answer is read.
fn until_read(response: Response<Body>, under_way: Option<UnderWay>) -> Response<Body> {
    match under_way {
        Some(under_way) => response.map(|body| Body::new(UnderWayBody::new(body, under_way))),
        None => response,
    }
}

/// Whether a path is the mount's or below it, and not that of a document about a server.
pub(crate) fn is_below(path: &str, mount: &str) -> bool {
    path.strip_prefix(mount).is_some_and(|rest| {
        rest.is_empty() || (rest.starts_with('/') && !rest.ends_with("/.well-known/openid-configuration"))
    })
}

/// Whether the answer is a stream that lasts until somebody ends it, not one that ends with an answer.
fn waits_for_events<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        || request.headers().get(MCP_METHOD).is_some_and(|method| method == "subscriptions/listen")
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
            ("/mcp-connect/a/.well-known/openid-configuration", false),
            ("/mcp-connect/a/.well-known/openid-configuration/", true),
            ("/api/v1", false),
            ("*", false),
        ] {
            assert_eq!(is_below(path, "/mcp-connect"), below, "{path}");
        }
    }
}
