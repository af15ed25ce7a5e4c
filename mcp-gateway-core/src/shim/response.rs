//! What of an answer reaches the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::Sleep;

use super::forward::ForwardOptions;
use crate::context::{McpContext, MessageKind};
use crate::egress::Exchange;
use crate::layer::peek::is_utf8;
use crate::record::Route;
use crate::refusal::{Refusal, harden};
use crate::wire::method::Method;
use crate::{Body, BoxError};

/// Turns an upstream's answer into ours.
///
/// Status: every class stays what it is, except 401, 403 and 407 (a client would start to authenticate against what
/// the server says, instead of us) and redirects: 502. Headers: an allow list, since a server shares our origin.
/// Bodies: JSON and event streams; any other success is a 502, any other error keeps its status without its body.
pub(super) async fn admit(
    mut response: Response<Body>,
    cx: &McpContext,
    route: &Route,
) -> Result<Response<Body>, Refusal> {
    let status = response.status();
    if matches!(status.as_u16(), 401 | 403 | 407) {
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "The server does not accept the gateway's credentials.")
            .because(format!("{}: upstream answered {status}", route.id)));
    }
    if status.is_redirection() {
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "The server answered with a redirect.")
            .because(format!("{}: upstream answered {status}", route.id)));
    }
    let media_type = media_type(response.headers());
    // What nobody here can read, nobody here could have judged; and some readers believe what a server says of it.
    if media_type == Some(MediaType::Events) && !is_plain(response.headers()) {
        let public = "The server's event stream is encoded or not UTF-8.";
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, public).because(route.id.to_string()));
    }
    // An answer without a length may be empty all the same: only its first frame tells.
    let has_body = media_type.is_none() && !ends_at_once(response.body_mut()).await;
    if media_type.is_none() && !has_body {
        *response.body_mut() = Body::empty();
    }
    if has_body {
        if status.is_success() {
            return Err(Refusal::new(
                StatusCode::BAD_GATEWAY,
                "The server's answer is neither JSON nor an event stream.",
            ));
        }
        let public = status.canonical_reason().unwrap_or("The server answered with an error.");
        let refusal = Refusal::new(status, public);
        return Ok(filter(refusal.into_mcp(Some(cx)), route));
    }
    Ok(filter(response, route))
}

/// Whether a body that nobody will read holds no byte.
async fn ends_at_once(body: &mut Body) -> bool {
    loop {
        match body.frame().await {
            None => return true,
            Some(Ok(frame)) if frame.data_ref().is_none_or(Bytes::is_empty) => {}
            Some(_) => return false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MediaType {
    Json,
    Events,
}

fn media_type(headers: &HeaderMap) -> Option<MediaType> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    // As nearly every server writes it.
    if value.eq_ignore_ascii_case("application/json") {
        return Some(MediaType::Json);
    }
    let essence = value.split(';').next()?.trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Some(MediaType::Json)
    } else if essence.eq_ignore_ascii_case("text/event-stream") {
        Some(MediaType::Events)
    } else {
        None
    }
}

/// Whether a text is neither encoded nor, by what is said of it, other than UTF-8.
fn is_plain(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    !headers.contains_key(CONTENT_ENCODING) && content_type.is_some_and(is_utf8)
}

fn filter(mut response: Response<Body>, route: &Route) -> Response<Body> {
    static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
    let headers = response.headers_mut();
    let kept = |name: &HeaderName| {
        *name == CONTENT_TYPE
            || *name == CACHE_CONTROL
            || *name == RETRY_AFTER
            || *name == CONTENT_LANGUAGE
            || *name == CONTENT_ENCODING
            || *name == http::header::ALLOW
            || *name == X_ACCEL_BUFFERING
            || name.as_str().starts_with("mcp-")
            || route.response_headers.contains(name)
    };
    // One reader takes the first of two types, another the last: there is one, the one that was judged.
    if headers.len() != headers.keys_len()
        && let Some(judged) = headers.get(CONTENT_TYPE).cloned()
    {
        headers.insert(CONTENT_TYPE, judged);
    }
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| !kept(name)).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
    harden(headers);
    let cached = private(headers).unwrap_or(HeaderValue::from_static("no-store"));
    headers.insert(CACHE_CONTROL, cached);
    response
}

/// What the server says of caches, for its caller's alone: rules may tell callers apart. `None` where it says nothing, or
/// what lets shared caches keep an answer to somebody who is authenticated (RFC 9111 §3.5).
fn private(headers: &HeaderMap) -> Option<HeaderValue> {
    let said: Option<Vec<&str>> = headers.get_all(CACHE_CONTROL).iter().map(|value| value.to_str().ok()).collect();
    let said = said?.join(", ").to_ascii_lowercase();
    let says = |directive| said.contains(directive);
    if said.is_empty() || says("public") || says("s-maxage") || says("must-revalidate") {
        None
    } else if says("private") || says("no-store") {
        HeaderValue::try_from(said).ok()
    } else {
        HeaderValue::try_from(format!("private, {said}")).ok()
    }
}

/// What becomes of an answer in which nothing comes for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// It is a stream of events that may come or not: it ends.
    Ends(Duration),
    /// The answer to a call is missing: it breaks off.
    Fails(Duration),
}

impl Silence {
    pub(super) fn of(headers: &HeaderMap, cx: &McpContext, options: &ForwardOptions) -> Self {
        let waits_for_events = cx.message().is_none_or(|message| {
            let listens = message.method.as_deref() == Some(Method::SubscriptionsListen.as_str());
            message.kind == MessageKind::None || listens
        });
        if waits_for_events && media_type(headers) == Some(MediaType::Events) {
            Self::Ends(options.stream_idle)
        } else {
            Self::Fails(options.head_timeout)
        }
    }

    fn time(self) -> Duration {
        match self {
            Self::Ends(time) | Self::Fails(time) => time,
        }
    }
}

/// An answer's body from a server: ends when nothing comes for too long, and keeps the exchange's permits.
pub struct UpstreamBody {
    inner: Body,
    silence: Silence,
    sleep: Option<Pin<Box<Sleep>>>,
    _cx: McpContext,
    _exchange: Option<Exchange>,
}

impl UpstreamBody {
    pub(super) fn new(inner: Body, silence: Silence, cx: McpContext, exchange: Option<Exchange>) -> Self {
        Self { inner, silence, sleep: None, _cx: cx, _exchange: exchange }
    }
}

impl std::fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamBody").field("silence", &self.silence).finish_non_exhaustive()
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(task) {
            Poll::Ready(frame) => {
                // A stream that is quiet most of the time keeps its timer; the usual answer never makes one.
                if let Some(sleep) = &mut this.sleep {
                    sleep.as_mut().reset(tokio::time::Instant::now() + this.silence.time());
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let time = this.silence.time();
                let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
                ready!(std::future::Future::poll(sleep.as_mut(), task));
                match this.silence {
                    Silence::Ends(_) => {
                        // The leg to the server, too.
                        this.inner = Body::empty();
                        Poll::Ready(None)
                    }
                    Silence::Fails(_) => Poll::Ready(Some(Err("the server sent nothing for too long".into()))),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Where a 307 or 308 leads, if it stays at the same origin: followed once, with the same method and body.
pub(super) fn same_origin_redirect<B>(response: &Response<B>, from: &http::Uri) -> Option<http::Uri> {
    if !matches!(response.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT) {
        return None;
    }
    let location = response.headers().get(http::header::LOCATION)?.to_str().ok()?;
    let location: http::Uri = location.parse().ok()?;
    match location.authority() {
        // A path alone. What begins with `//` names another host, which the parser takes for a path.
        None if location.path().starts_with('/') && !location.path().starts_with("//") => {
            let mut parts = from.clone().into_parts();
            parts.path_and_query = location.path_and_query().cloned();
            http::Uri::from_parts(parts).ok()
        }
        Some(authority) => {
            let same = location.scheme() == from.scheme() && from.authority() == Some(authority);
            same.then_some(location)
        }
        None => None,
    }
}

#[cfg(test)]
mod tests;
