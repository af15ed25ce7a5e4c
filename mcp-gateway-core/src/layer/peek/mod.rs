//! Reads the message, strictly, and passes its bytes on unchanged.

mod future;
mod inspect;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

pub use self::future::PeekFuture;
pub(crate) use self::inspect::cut as inspect_cut;
pub use self::inspect::inspect;
pub(crate) use self::inspect::method_not_found;
use crate::context::{McpContext, MessageFacts};
use crate::refusal::Refusal;
use crate::wire::Limits;
use crate::{Body, BoxError};

/// Reads a POST's body and sets the fact `message`.
///
/// Refuses what readers could understand differently (400 -32700 or -32600), headers that contradict the body
/// (400 -32020 or -32602), a body over the limit (413), one that is not JSON (415), and one that comes too slowly
/// (408). The original bytes travel on.
#[derive(Debug, Clone)]
pub struct PeekLayer(Arc<PeekOptions>);

/// The limits of a [`PeekLayer`].
#[derive(Debug, Clone)]
pub struct PeekOptions {
    /// The limits of a message; `max_bytes` is `limits.body_bytes`.
    pub message: Limits,
    /// `limits.body_first_byte`: how long the first byte of a body may take.
    pub first_byte: Duration,
    /// `limits.body_chunk`: how long each further chunk may take.
    pub chunk: Duration,
    /// `limits.body_total`: how long the whole body may take, from when it is first asked for. A server that has to be
    /// started first takes nothing of it.
    pub total: Duration,
    /// `policy.unknown_methods`: whether methods that no revision of the message's era has are forwarded.
    pub unknown_methods: UnknownMethods,
}

/// What happens to methods that no revision of the message's era has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownMethods {
    /// They are forwarded: the server knows best. No rule can name them.
    #[default]
    Allow,
    /// They are refused with -32601.
    Deny,
}

impl Default for PeekOptions {
    /// 4 MiB, 10 s to the first byte, 30 s for each chunk, 2 min in all, unknown methods forwarded.
    fn default() -> Self {
        Self {
            message: Limits::default(),
            first_byte: Duration::from_secs(10),
            chunk: Duration::from_secs(30),
            total: Duration::from_secs(120),
            unknown_methods: UnknownMethods::default(),
        }
    }
}

impl PeekLayer {
    /// Reads with these limits.
    #[must_use]
    pub fn new(options: PeekOptions) -> Self {
        Self(Arc::new(options))
    }
}

impl Default for PeekLayer {
    fn default() -> Self {
        Self::new(PeekOptions::default())
    }
}

impl<S> Layer<S> for PeekLayer {
    type Service = PeekService<S>;

    fn layer(&self, inner: S) -> PeekService<S> {
        PeekService { options: Arc::clone(&self.0), inner }
    }
}

/// The service of a [`PeekLayer`].
#[derive(Debug, Clone)]
pub struct PeekService<S> {
    options: Arc<PeekOptions>,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for PeekService<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: From<Bytes>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = PeekFuture<B, S, S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(cx) = McpContext::of(request.extensions()).cloned() else {
            return PeekFuture::refused(Refusal::layer_absent("context", "ContextLayer"), None);
        };
        let (parts, body) = request.into_parts();
        if parts.method != Method::POST {
            return match cx.set_message(MessageFacts::none()) {
                Ok(()) => PeekFuture::inner(self.inner.call(Request::from_parts(parts, Body::empty()))),
                Err(error) => PeekFuture::refused(Refusal::fact_set(error), Some(&cx)),
            };
        }
        if !is_json(&parts) {
            let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be application/json.");
            return PeekFuture::refused(refusal, Some(&cx));
        }
        let clone = self.inner.clone();
        // The service that was polled ready is the one that is called.
        let inner = std::mem::replace(&mut self.inner, clone);
        PeekFuture::reading(body, parts, cx, Arc::clone(&self.options), inner)
    }
}

fn is_json(parts: &http::request::Parts) -> bool {
    let Some(value) = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    // As nearly every client writes it.
    if value.eq_ignore_ascii_case("application/json") {
        return true;
    }
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json") && is_utf8(value)
}

/// Whether no charset but UTF-8 is named: other readers would see another message (RFC 8259 §8.1).
pub(crate) fn is_utf8(content_type: &str) -> bool {
    content_type.split(';').skip(1).all(|parameter| match parameter.trim().split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
            charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    })
}

#[cfg(test)]
mod tests;
