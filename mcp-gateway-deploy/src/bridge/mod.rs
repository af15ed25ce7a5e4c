//! The stdio bridge: a server on standard input and output, spoken to over streamable HTTP.
//!
//! Both eras of MCP pass through untranslated. A client of the legacy era (revisions up to 2025-11-25, which open with
//! `initialize`) gets a session with a child of its own, and streams that it can resume. Clients of the modern era
//! (2026-07-28, stateless) share one child; ids and progress tokens are replaced on the way in and restored on the
//! way out, so that callers cannot meet. Apart from these ids the bytes stay what they were.
//!
//! What a child says reaches exactly one stream of one client, or nobody: messages that cannot be attributed are
//! dropped and counted.

mod calls;
mod child;
mod legacy;
mod modern;
mod options;
mod probe;
mod respond;
mod shared;
mod spawn;
mod splice;
mod stream;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method as HttpMethod, Request, Response, StatusCode};
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{Upstream, UpstreamError, UpstreamErrorKind};
use mcp_gateway_core::wire::method::Method;
use mcp_gateway_core::wire::version::{Claim, Era, MCP_PROTOCOL_VERSION, ProtocolVersion, claimed_era};
use mcp_gateway_core::wire::{Fault, Kind, Limits, Message, peek, rpc};
use mcp_gateway_core::{Body, BoxFuture};
use tokio::time::Instant;

use self::child::Child;
use self::legacy::{SESSION, Sessions};
use self::modern::Caller;
pub use self::options::BridgeOptions;
use self::respond::ReadError;
use self::shared::{Ready, Shared};
pub use self::spawn::{ChildControl, Epitaph, Purpose, Spawned, Spawner};

/// Serves one stdio server over streamable HTTP.
///
/// It is a cheap handle; children are started when a call needs them. Origin and Host are checked by whoever serves it.
/// Dropping the last handle, or [`Bridge::shutdown`], ends every child.
#[derive(Clone)]
pub struct Bridge(Arc<Inner>);

struct Inner {
    spawner: Arc<dyn Spawner>,
    options: Arc<BridgeOptions>,
    sessions: Sessions,
    shared: Shared,
    dropped: Arc<AtomicU64>,
}

/// What a bridge is doing.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct BridgeUsage {
    /// Legacy sessions, each with its child.
    pub sessions: usize,
    /// Requests in flight whose clients wait for the answer.
    pub calls: usize,
    /// When a message last passed in either direction, or a client left; `None` when neither has happened.
    pub last_use: Option<Instant>,
    /// Messages of children that belonged to nobody.
    pub dropped: u64,
}

impl Bridge {
    /// A bridge to the server that `spawner` starts.
    pub fn new(spawner: Arc<dyn Spawner>, options: BridgeOptions) -> Self {
        let options = Arc::new(options);
        let dropped = Arc::new(AtomicU64::new(0));
        Self(Arc::new(Inner {
            sessions: Sessions::new(Arc::clone(&options), Arc::clone(&dropped)),
            shared: Shared::new(Arc::clone(&spawner), Arc::clone(&options), Arc::clone(&dropped)),
            spawner,
            options,
            dropped,
        }))
    }

    /// Starts a child, unless one runs, and finds out which era it speaks.
    ///
    /// Callers at the same time share one start; dropping the future leaves it running.
    ///
    /// # Errors
    /// When the child cannot be started, ends, or does not answer within [`BridgeOptions::start_timeout`].
    pub async fn start(&self) -> Result<Era, UpstreamError> {
        match self.0.shared.ready(Purpose::default()).await? {
            Ready::Modern(_) => Ok(Era::Modern),
            Ready::Legacy => Ok(Era::Legacy),
        }
    }

    /// What it is doing.
    #[must_use]
    pub fn usage(&self) -> BridgeUsage {
        let (sessions, calls, last) = self.0.sessions.usage();
        let (shared_calls, shared_last) = self.0.shared.usage();
        BridgeUsage {
            sessions,
            calls: calls + shared_calls,
            last_use: last.max(shared_last),
            dropped: self.0.dropped.load(Ordering::Relaxed),
        }
    }

    /// Ends every child, for good: sessions and calls in flight end with them, and later ones are refused as
    /// [`Unavailable`](UpstreamErrorKind::Unavailable).
    pub fn shutdown(&self) {
        self.0.sessions.end_all();
        self.0.shared.end();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sessions.end_all();
        self.shared.end();
    }
}

impl Upstream for Bridge {
    fn call(&self, request: Request<Body>) -> BoxFuture<Result<Response<Body>, UpstreamError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.call(request).await })
    }
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl Inner {
    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, UpstreamError> {
        match *request.method() {
            HttpMethod::POST => self.post(request).await,
            // A cursor and a session mean nothing in the modern era, which has neither GET nor DELETE.
            HttpMethod::GET if !claims_modern(&request) => Ok(self.sessions.listen(request.headers())),
            HttpMethod::DELETE if !claims_modern(&request) => Ok(self.sessions.delete(request.headers())),
            _ => {
                let mut response = respond::empty(StatusCode::METHOD_NOT_ALLOWED);
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
                Ok(response)
            }
        }
    }

    async fn post(&self, request: Request<Body>) -> Result<Response<Body>, UpstreamError> {
        let (parts, body) = request.into_parts();
        if parts.headers.get(CONTENT_TYPE).is_some_and(|value| !is_json(value)) {
            let text = "Unsupported Media Type: Content-Type must be application/json";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Ok(respond::error(status, None, rpc::code::INVALID_REQUEST, text, None));
        }
        let body = match respond::read(body, self.options.max_body).await {
            Ok(body) => body,
            Err(ReadError::TooLarge) => {
                let text = "Invalid Request: the message is too large";
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return Ok(respond::error(status, None, rpc::code::INVALID_REQUEST, text, None));
            }
            Err(ReadError::Broken) => {
                return Err(UpstreamError::new(UpstreamErrorKind::Broken, "The request's body broke off."));
            }
        };
        let limits = Limits {
            max_bytes: self.options.max_body,
            max_depth: Limits::DEEPEST,
            max_id: self.options.max_id,
            ..Limits::default()
        };
        let message = match peek(&body, &limits) {
            Ok(message) => message,
            Err(error) => {
                if error.fault() == Fault::NoTarget
                    && let Some(id) = modern::removed(&parts.headers, &body)
                {
                    let (status, code) = (StatusCode::NOT_FOUND, rpc::code::METHOD_NOT_FOUND);
                    return Ok(respond::error(status, Some(id), code, "Method not found", None));
                }
                return Ok(respond::error(StatusCode::BAD_REQUEST, None, error.code(), error.message(), None));
            }
        };
        let id = message.id.map(mcp_gateway_core::wire::Id::raw);
        let claim = match claimed_era(&parts.headers) {
            Ok(claim) => claim,
            Err(error) => {
                let (status, code) = (StatusCode::BAD_REQUEST, rpc::code::HEADER_MISMATCH);
                return Ok(respond::error(status, id, code, &format!("Header mismatch: {error}"), None));
            }
        };
        let context = McpContext::of(&parts.extensions);
        let principal = context.and_then(McpContext::principal);
        let subject = principal.map(|principal| principal.subject.clone());

        if is_modern(&parts.headers, claim, &message) {
            if let Some(refusal) = modern::check(&parts.headers, &message) {
                return Ok(refusal);
            }
            let purpose = Purpose { session: false, subject: subject.clone() };
            let hub = match self.shared.ready(purpose).await? {
                Ready::Modern(hub) => hub,
                Ready::Legacy => return Ok(not_modern(id)),
            };
            let actor = principal.map(|principal| Arc::clone(&principal.actor.id));
            let caller = Caller { subject, actor };
            return modern::post(&hub, &self.options, caller, &parts.headers, body.clone(), &message).await;
        }
        if message.kind == Kind::Request
            && message.method() == Method::Initialize.as_str()
            && !parts.headers.contains_key(SESSION)
        {
            let opening = self.sessions.reserve()?;
            let opens = async {
                let child = match self.shared.take_unused() {
                    Some(child) => child,
                    None => {
                        let spawned = self.spawner.spawn(Purpose { session: true, subject }).await?;
                        Child::new(spawned, self.options.write_queue, self.options.max_line)
                    }
                };
                self.sessions.initialize(child, opening, &parts.headers, body.clone(), &message).await
            };
            // A session whose opening is dropped leaves no child.
            return tokio::select! {
                biased;
                () = self.sessions.until_end() => Err(stopped()),
                opened = opens => opened,
            };
        }
        self.sessions.post(&parts.headers, claim, body.clone(), &message).await
    }
}

/// A request that comes when the bridge was stopped starts nothing: nobody would end what it starts.
fn stopped() -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::Unavailable, STOPPED)
}

const STOPPED: &str = "The server was stopped.";

/// What a caller reads in the place of an answer when the child has ended.
const ENDED: &str = "The server ended before it answered";

fn broken(why: Option<Arc<str>>) -> UpstreamError {
    let error = UpstreamError::new(UpstreamErrorKind::Broken, ENDED);
    match why {
        Some(why) => error.with_detail(&*why),
        None => error,
    }
}

/// Tells a child that nobody waits for its answer to a request any more.
fn cancellation(id: &[u8]) -> Bytes {
    let (head, tail) = (
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"#,
        r#","reason":"The client disconnected"}}"#,
    );
    [head.as_bytes(), id, tail.as_bytes()].concat().into()
}

/// A server with handshake, asked without one, answers like this over HTTP; clients of both eras then fall back.
fn not_modern(id: Option<&[u8]>) -> Response<Body> {
    respond::error(StatusCode::BAD_REQUEST, id, -32000, "Bad Request: Server not initialized", None)
}

fn is_json(value: &HeaderValue) -> bool {
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json")
}

/// The body decides; where it says nothing, the header does. `initialize` exists only before 2026-07-28.
fn is_modern(headers: &http::HeaderMap, claim: Claim, message: &Message<'_>) -> bool {
    if message.method.as_deref() == Some(Method::Initialize.as_str()) {
        return claim.is_modern();
    }
    message.meta().is_some_and(|meta| meta.protocol_version.is_some()) || claims(headers, claim)
}

fn claims_modern(request: &Request<Body>) -> bool {
    claimed_era(request.headers()).is_ok_and(|claim| claims(request.headers(), claim))
}

/// Revisions are dates, so their order is that of their text.
fn claims(headers: &http::HeaderMap, claim: Claim) -> bool {
    match claim {
        Claim::Absent => false,
        Claim::Known(version) => version.era() == Era::Modern,
        Claim::Unknown => headers
            .get(MCP_PROTOCOL_VERSION)
            .is_some_and(|value| value.as_bytes() >= ProtocolVersion::V20260728.as_str().as_bytes()),
    }
}
