//! Legacy sessions, sealed: the gateway keeps no table of them.

mod events;
mod future;
mod sealed;

use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use self::events::TaggedBody;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use self::events::check;
pub use self::future::SessionFuture;
use crate::Body;
use crate::context::{Agreed, McpContext, SessionFacts};
use crate::contract::Incarnation;
use crate::record::Principal;
use crate::refusal::Refusal;
use crate::seal::EventIds;
use crate::wire::sse::is_event_stream;
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
    /// Seals an upstream's session id, with what client and server agreed on.
    ///
    /// # Errors
    /// [`SessionError`] when the upstream's id is not one, or there is no key.
    fn seal(
        &self,
        upstream_id: &str,
        incarnation: &Incarnation,
        agreed: Agreed,
        server: &str,
        principal: &Principal,
    ) -> Result<HeaderValue, SessionError>;

    /// Opens what a client sent. `None` for everything that was not sealed for this server and principal, or is too
    /// old.
    fn open(&self, sealed: &HeaderValue, server: &str, principal: &Principal) -> Option<SessionFacts>;

    /// What tags the ids of events in a session that was sealed or has opened; asked for answers that are streams, and
    /// for requests that resume one. `None` when its key is gone: its streams cannot be resumed then.
    fn event_ids(&self, sealed: &HeaderValue) -> Option<EventIds>;
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
///
/// A server may look events up by their id alone, across its sessions. So ids of events in a session leave with a
/// [tag](EventIds), and one that comes back is a 400 unless it has the tag of this session; the server sees its own id.
/// Every other byte of a stream stays, and streams outside sessions stay as they are.
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
        self.resume(headers, &session.sealed)?;
        cx.set_session(session).map_err(Refusal::fact_set)
    }

    /// Gives the server its own event id back.
    fn resume(&self, headers: &mut HeaderMap, sealed: &HeaderValue) -> Result<(), Refusal> {
        let mut ids = headers.get_all(LAST_EVENT_ID).iter();
        let issued = match (ids.next(), ids.next()) {
            (None, _) => return Ok(()),
            (Some(issued), None) => issued,
            (Some(_), Some(_)) => return Err(not_issued_here()),
        };
        // A client that was told to forget its place.
        if issued.is_empty() {
            headers.remove(LAST_EVENT_ID);
            return Ok(());
        }
        let ids = self.0.event_ids(sealed).ok_or_else(not_issued_here)?;
        let own = ids.open(issued.as_bytes()).ok_or_else(not_issued_here)?;
        let own = HeaderValue::from_bytes(own).map_err(|_| not_issued_here())?;
        headers.insert(LAST_EVENT_ID, own);
        Ok(())
    }

    /// Tags the ids of a stream in a session, also of the one that begins with this answer.
    fn tag(&self, response: Response<Body>, cx: &McpContext) -> Response<Body> {
        let headers = response.headers();
        if !is_event_stream(headers) || headers.contains_key(CONTENT_ENCODING) {
            return response;
        }
        let sealed = cx.session().map(|session| &session.sealed).or_else(|| headers.get(MCP_SESSION_ID));
        match sealed.and_then(|sealed| self.0.event_ids(sealed)) {
            Some(ids) => response.map(|body| Body::new(TaggedBody::new(body, ids))),
            None => response,
        }
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
        let agreed = Agreed {
            version: cx.negotiated().copied(),
            elicitation: cx.message().map(|message| message.elicitation).unwrap_or_default(),
        };
        let sealed = upstream.and_then(|id| self.0.seal(id, &endpoint.incarnation, agreed, &route.id, principal));
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

/// Not 404, upon which a client would give up its session.
fn not_issued_here() -> Refusal {
    let public = "The Last-Event-ID was not issued in this session. Open the stream without it.";
    Refusal::new(StatusCode::BAD_REQUEST, public)
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

impl<S, B> Service<Request<B>> for SessionService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = SessionFuture<S::Future>;

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

#[cfg(test)]
mod tests;
