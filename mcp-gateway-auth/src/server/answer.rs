//! The answers of the endpoints.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, PRAGMA, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::Limited;
use serde_json::Value;

/// An error of an endpoint that programs call (RFC 6749 §5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OAuthError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) why: String,
    /// After how many seconds it is worth while to come again.
    pub(crate) retry_after: Option<u64>,
}

/// When there is something in a budget again.
pub(crate) fn seconds(limited: &Limited) -> u64 {
    limited.retry_after.as_secs().saturating_add(1)
}

impl OAuthError {
    pub(crate) fn bad(code: &'static str, why: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, why: why.into(), retry_after: None }
    }

    pub(crate) fn client(why: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, code: "invalid_client", why: why.into(), retry_after: None }
    }

    /// Logs the cause, which nobody else is told.
    pub(crate) fn unavailable(cause: impl std::fmt::Display) -> Self {
        tracing::warn!(%cause, "the authorization server cannot answer");
        let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable");
        Self { status, code, why: "Something does not answer; try again in a moment.".to_owned(), retry_after: Some(5) }
    }

    #[expect(clippy::needless_pass_by_value, reason = "errors are mapped by it")]
    pub(crate) fn too_many(limited: Limited) -> Self {
        let why = format!("Too many requests; try again in {} s.", seconds(&limited));
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "temporarily_unavailable",
            why,
            retry_after: Some(seconds(&limited)),
        }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let body = serde_json::json!({ "error": self.code, "error_description": self.why });
        let mut response = json(self.status, &body);
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"mcp-gateway\""));
        }
        if let Some(retry_after) = self.retry_after {
            headers.insert(RETRY_AFTER, retry_after.into());
        }
        response
    }
}

/// A JSON document that nobody may keep.
pub(crate) fn json(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = document(&body.to_string(), "no-store");
    *response.status_mut() = status;
    response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// A JSON document that anybody may keep for a while.
pub(crate) fn document(json: &str, cache: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::copy_from_slice(json.as_bytes())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(crate) fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// Sends the browser on. 303: a form that was posted is not posted again there (RFC 9700 §4.12).
pub(crate) fn redirect(to: &str) -> Response<Body> {
    let Ok(location) = HeaderValue::from_str(to) else { return empty(StatusCode::BAD_REQUEST) };
    let mut response = empty(StatusCode::SEE_OTHER);
    response.headers_mut().insert(LOCATION, location);
    for_browser(response)
}

/// Adds what every page must have and has not (RFC 9700 §4.16: no page of ours is ever in a frame).
pub(crate) fn for_browser(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    let needed: [(HeaderName, &'static str); 5] = [
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in needed {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Lets programs in any browser read the answer. Credentials of the browser count for nothing there.
pub(crate) fn for_any_origin(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

pub(crate) fn preflight() -> Response<Body> {
    let mut response = for_any_origin(empty(StatusCode::NO_CONTENT));
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("authorization, content-type, accept, mcp-protocol-version"),
    );
    response
}
