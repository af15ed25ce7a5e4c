//! Which web pages may call.

mod future;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, ORIGIN, VARY,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

pub use self::future::CorsFuture;
use super::host::{is_loopback, without_port};
use crate::context::McpContext;
use crate::record::Mount;
use crate::refusal::Refusal;

/// Judges `Origin` and answers preflights (Fetch §3.2).
///
/// A request without `Origin` passes. With one, it must be the public URL's, a loopback origin (when allowed), or
/// listed; `null` and everything else is 403. A preflight carries no credential, so it is answered here, before
/// anybody is authenticated. The request headers that a page may send are those of MCP, whatever their number:
/// `Mcp-Param-*` cannot be listed beforehand, and `*` does not cover `Authorization`.
#[derive(Debug, Clone)]
pub struct CorsLayer(Arc<Origins>);

/// The web clients that are known to call MCP servers from the browser.
pub const KNOWN_WEB_CLIENTS: &[&str] = &[
    "https://claude.ai",
    "https://claude.com",
    "https://chatgpt.com",
    "https://vscode.dev",
    "https://insiders.vscode.dev",
];

#[derive(Debug)]
struct Origins {
    own: Box<str>,
    listed: Vec<Box<str>>,
    loopback: bool,
    answers: bool,
}

impl CorsLayer {
    /// Allows the public URL's origin, the listed ones, and with `loopback` those of this machine, on any port.
    pub fn new(mount: &Mount, listed: impl IntoIterator<Item = String>, loopback: bool) -> Self {
        let listed = listed.into_iter().map(Into::into).collect();
        Self(Arc::new(Origins { own: mount.origin().into(), listed, loopback, answers: true }))
    }

    /// For routes that other origins must not read at all, such as the admin API: only the own origin passes, and no
    /// CORS header is ever sent.
    #[must_use]
    pub fn same_origin_only(mount: &Mount, loopback: bool) -> Self {
        Self(Arc::new(Origins { own: mount.origin().into(), listed: Vec::new(), loopback, answers: false }))
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let of_loopback = || {
            let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            rest.is_some_and(|authority| is_loopback(without_port(authority)))
        };
        origin == &*self.0.own || self.0.listed.iter().any(|one| &**one == origin) || (self.0.loopback && of_loopback())
    }
}

/// What the response needs.
enum Answer {
    /// No `Origin`, or no CORS here.
    Plain,
    /// The page may read it.
    Readable(HeaderValue),
}

impl<S> Layer<S> for CorsLayer {
    type Service = CorsService<S>;

    fn layer(&self, inner: S) -> CorsService<S> {
        CorsService { layer: self.clone(), inner }
    }
}

/// The service of a [`CorsLayer`].
#[derive(Debug, Clone)]
pub struct CorsService<S> {
    layer: CorsLayer,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for CorsService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<Bytes>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = CorsFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let origins = &*self.layer.0;
        let origin = match request.headers().get(ORIGIN) {
            None => None,
            Some(origin) if self.layer.allows(origin) => Some(origin.clone()),
            Some(origin) => {
                let origin = String::from_utf8_lossy(origin.as_bytes());
                let origin = crate::wire::untrusted::Untrusted(&origin);
                tracing::warn!(%origin, "a request of another origin is refused; allow it by listing it in allowed_origins");
                let refusal = Refusal::new(StatusCode::FORBIDDEN, "This origin may not call the gateway.");
                let response = refusal.into_mcp(McpContext::of(request.extensions()));
                return CorsFuture::answered(response);
            }
        };
        let preflight = request.method() == Method::OPTIONS
            && origin.is_some()
            && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if preflight && origins.answers {
            let response = preflight_answer(origin, request.headers());
            return CorsFuture::answered(response);
        }
        // We have judged it; lists of servers behind do not know our clients. What is behind a route for the own origin
        // alone judges by it whether a page meant to send the request.
        if origins.answers {
            request.headers_mut().remove(ORIGIN);
        }
        let answer = match origin {
            Some(origin) if origins.answers => Answer::Readable(origin),
            _ => Answer::Plain,
        };
        CorsFuture::inner(self.inner.call(request), answer)
    }
}

fn preflight_answer<R: From<Bytes>>(origin: Option<HeaderValue>, request: &HeaderMap) -> Response<R> {
    let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let known = |name: &&str| {
        let name = name.to_ascii_lowercase();
        matches!(&*name, "authorization" | "content-type" | "accept" | "last-event-id" | "x-api-key" | "traceparent")
            || name.starts_with("mcp-")
    };
    let allowed: Vec<&str> = asked.split(',').map(str::trim).filter(known).collect();
    let mut response = Response::new(R::from(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE"));
    if let Ok(names) = HeaderValue::from_str(&allowed.join(", ")) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    headers.insert(VARY, HeaderValue::from_static("Origin, Access-Control-Request-Headers"));
    response
}

fn mark_readable(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After"),
    );
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt;

    use super::*;

    async fn call(layer: &CorsLayer, method: Method, origin: Option<&str>, asked: Option<&str>) -> Response<Bytes> {
        // Who judges anew behind a route for the own origin alone needs it; servers do not get it.
        let passed_on = origin.is_some() && !layer.0.answers;
        let inner = tower::service_fn(move |request: Request<()>| async move {
            assert_eq!(request.headers().contains_key(ORIGIN), passed_on);
            Ok::<_, Infallible>(Response::new(Bytes::from_static(b"inner")))
        });
        let mut request = Request::builder().method(method);
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        if let Some(asked) = asked {
            request =
                request.header(ACCESS_CONTROL_REQUEST_METHOD, "POST").header(ACCESS_CONTROL_REQUEST_HEADERS, asked);
        }
        layer.layer(inner).oneshot(request.body(()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn origins_are_judged() {
        let mount = Mount::new("https://gw.example", "/mcp-connect").unwrap();
        let layer = CorsLayer::new(&mount, ["https://claude.ai".to_owned()], true);
        for (origin, status) in [
            (None, 200),
            (Some("https://gw.example"), 200),
            (Some("https://claude.ai"), 200),
            (Some("http://localhost:6274"), 200),
            (Some("http://[::1]:1"), 200),
            (Some("null"), 403),
            (Some("https://evil.example"), 403),
            (Some("http://gw.example"), 403),
            (Some("http://localhost.evil.example"), 403),
        ] {
            let response = call(&layer, Method::POST, origin, None).await;
            assert_eq!(response.status().as_u16(), status, "{origin:?}");
            let readable = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).map(HeaderValue::as_bytes);
            assert_eq!(readable, origin.filter(|_| status == 200).map(str::as_bytes));
        }
    }

    #[tokio::test]
    async fn a_preflight_allows_what_mcp_needs_and_no_more() {
        let mount = Mount::new("https://gw.example", "/mcp-connect").unwrap();
        let layer = CorsLayer::new(&mount, [], true);
        let asked = "Authorization, content-type, mcp-param-region, x-evil";
        let response = call(&layer, Method::OPTIONS, Some("http://localhost:1"), Some(asked)).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_HEADERS], "Authorization, content-type, mcp-param-region");
        let api = CorsLayer::same_origin_only(&mount, false);
        let response = call(&api, Method::OPTIONS, Some("https://gw.example"), Some("authorization")).await;
        assert_eq!(response.body(), "inner");
    }
}
