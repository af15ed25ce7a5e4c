//! Legacy sessions, sealed: the gateway keeps no table of them.

mod future;
mod sealed;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

pub use self::future::SessionFuture;
use crate::context::{McpContext, SessionFacts};
use crate::contract::Incarnation;
use crate::record::Principal;
use crate::refusal::Refusal;
use crate::wire::version::claimed_era;

/// `Mcp-Session-Id`.
pub const MCP_SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// `Last-Event-ID`.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Seals and opens session ids.
///
/// The sealed id is bound to tenant, server and principal (subject and actor); the same session always reads the same.
/// [`SessionSealer`](crate::seal::SessionSealer) is the codec that needs no table.
pub trait SessionCodec: Send + Sync + 'static {
    /// Seals an upstream's session id.
    ///
    /// # Errors
    /// [`SessionError`] when the upstream's id is not one, or there is no key.
    fn seal(
        &self,
        upstream_id: &str,
        incarnation: &Incarnation,
        server: &str,
        principal: &Principal,
    ) -> Result<HeaderValue, SessionError>;

    /// Opens what a client sent. `None` for everything that was not sealed for this server and principal, or is too
    /// old.
    fn open(&self, sealed: &HeaderValue, server: &str, principal: &Principal) -> Option<SessionFacts>;
}

/// A session cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The upstream's id is longer than 1,024 bytes or holds other bytes than 0x21 to 0x7E.
    #[error("the server's session id is not acceptable")]
    BadUpstreamId,
    /// No key is ready.
    #[error("no session key is ready")]
    NoKey,
}

/// Opens the session of a request and seals the one of an answer. Sets the fact `session`.
///
/// Required facts: `principal`, `route`. A foreign, forged or repeated id is a 404, upon which clients initialize anew.
/// Modern requests have no sessions: their `Mcp-Session-Id` and `Last-Event-ID` are removed. Without a session nobody
/// knows to whom a `Last-Event-ID` was issued, so it is removed too.
#[derive(Clone)]
pub struct SessionLayer(Arc<dyn SessionCodec>);

impl SessionLayer {
    /// Seals with this codec.
    pub fn new(codec: Arc<dyn SessionCodec>) -> Self {
        Self(codec)
    }

    fn open(&self, headers: &mut HeaderMap, method: &Method, cx: &McpContext) -> Result<(), Refusal> {
        // What cannot be read in one way only is refused by whoever reads the body; a repeated session id is here.
        let modern = *method == Method::POST && claimed_era(headers).is_ok_and(crate::wire::version::Claim::is_modern);
        if modern {
            headers.remove(MCP_SESSION_ID);
            headers.remove(LAST_EVENT_ID);
            return Ok(());
        }
        let mut ids = headers.get_all(MCP_SESSION_ID).iter();
        let sealed = match (ids.next(), ids.next()) {
            (None, _) => {
                headers.remove(LAST_EVENT_ID);
                return Ok(());
            }
            (Some(sealed), None) => sealed,
            (Some(_), Some(_)) => return Err(no_such_session()),
        };
        let principal = cx.principal().ok_or_else(|| Refusal::layer_absent("principal", "AuthenticateLayer"))?;
        let route = cx.route().ok_or_else(|| Refusal::layer_absent("route", "ResolveLayer"))?;
        let session = self.0.open(sealed, &route.id, principal).ok_or_else(no_such_session)?;
        let upstream = HeaderValue::from_str(&session.upstream_id).map_err(|_| no_such_session())?;
        headers.insert(MCP_SESSION_ID, upstream);
        cx.set_session(session).map_err(Refusal::fact_set)
    }

    fn seal(&self, headers: &mut HeaderMap, cx: &McpContext) -> Result<(), Refusal> {
        let Some(upstream) = headers.get(MCP_SESSION_ID) else { return Ok(()) };
        if let Some(session) = cx.session() {
            // Clients overwrite their id from every answer: they get back the bytes that they sent.
            let sealed = session.sealed.clone();
            headers.insert(MCP_SESSION_ID, sealed);
            return Ok(());
        }
        let (Some(principal), Some(route), Some(endpoint)) = (cx.principal(), cx.route(), cx.endpoint()) else {
            return Err(Refusal::layer_absent(
                "principal, route or endpoint",
                "AuthenticateLayer, ResolveLayer or DeployLayer",
            ));
        };
        let upstream = upstream.to_str().map_err(|_| SessionError::BadUpstreamId);
        let sealed = upstream.and_then(|id| self.0.seal(id, &endpoint.incarnation, &route.id, principal));
        match sealed {
            Ok(sealed) => {
                headers.insert(MCP_SESSION_ID, sealed);
                Ok(())
            }
            Err(error @ SessionError::NoKey) => {
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "Sessions cannot be opened now.")
                    .retry_after(5)
                    .because(error))
            }
            Err(error) => {
                Err(Refusal::new(StatusCode::BAD_GATEWAY, "The server's session id is not acceptable.").because(error))
            }
        }
    }
}

impl std::fmt::Debug for SessionLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionLayer(..)")
    }
}

/// 404, upon which a client initializes anew.
pub(crate) fn no_such_session() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is no such session. Initialize again.")
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> SessionService<S> {
        SessionService { layer: self.clone(), inner }
    }
}

/// The service of a [`SessionLayer`].
#[derive(Debug, Clone)]
pub struct SessionService<S> {
    layer: SessionLayer,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for SessionService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<Bytes>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = SessionFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(cx) = McpContext::of(request.extensions()).cloned() else {
            let response = Refusal::layer_absent("context", "ContextLayer").into_mcp(None);
            return SessionFuture::refused(response);
        };
        let method = request.method().clone();
        match self.layer.open(request.headers_mut(), &method, &cx) {
            Ok(()) => SessionFuture::inner(self.inner.call(request), self.layer.clone(), cx),
            Err(refusal) => SessionFuture::refused(refusal.into_mcp(Some(&cx))),
        }
    }
}
