//! Refusals: a typed answer, rendered in one place.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::BoxError;
use crate::context::{McpContext, MessageFacts};
use crate::wire::rpc;
use crate::wire::version::Era;

/// A request that ends here, and what its caller is told.
///
/// Layers answer with it instead of an error: their error type stays that of the service inside. It has three
/// renderings, for MCP, OAuth and the admin API, all of them in this file.
///
/// ```
/// use http::StatusCode;
/// use mcp_gateway_core::refusal::Refusal;
///
/// let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "The server's budget is used up.").retry_after(3);
/// let response: http::Response<bytes::Bytes> = refusal.into_mcp(None);
/// assert_eq!(response.headers()["retry-after"], "3");
/// ```
#[derive(Debug)]
pub struct Refusal(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    code: i64,
    public: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
    data: Option<serde_json::Value>,
    as_tool_result: bool,
    result: Option<serde_json::Value>,
    cause: Option<BoxError>,
}

impl Refusal {
    /// A refusal with this status and public message.
    ///
    /// The JSON-RPC code is `status × 100`, outside the range that JSON-RPC and MCP reserve, so that no client takes
    /// it for an error of the protocol and changes its era.
    pub fn new(status: StatusCode, public: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            status,
            code: i64::from(status.as_u16()) * 100,
            public: public.into(),
            headers: Vec::new(),
            data: None,
            as_tool_result: false,
            result: None,
            cause: None,
        }))
    }

    /// A tool result with `isError`, so that the model reads why and can react: for a visible tool that is refused for
    /// these arguments.
    pub fn tool_result(public: impl Into<Cow<'static, str>>) -> Self {
        let mut refusal = Self::new(StatusCode::OK, public).with_code(rpc::code::REFUSED_BY_POLICY);
        refusal.0.as_tool_result = true;
        refusal
    }

    /// A JSON-RPC result that asks for something before the call can be made (`resultType: input_required`).
    #[must_use]
    pub fn input_required(public: impl Into<Cow<'static, str>>, requests: &serde_json::Value) -> Self {
        let mut refusal = Self::new(StatusCode::OK, public).with_code(rpc::code::NOT_CONNECTED);
        refusal.0.result = Some(serde_json::json!({ "resultType": "input_required", "inputRequests": requests }));
        refusal
    }

    /// 500: a layer misses a fact because another layer is absent from the stack.
    #[must_use]
    pub fn layer_absent(fact: &'static str, layer: &'static str) -> Self {
        tracing::error!(fact, layer, "a layer is absent from the stack; the request is refused");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The gateway is not set up correctly.")
    }

    /// 500: a fact was set twice because a layer is in the stack twice.
    #[must_use]
    pub fn fact_set(error: crate::context::FactSet) -> Self {
        tracing::error!(%error, "the request is refused");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The gateway is not set up correctly.")
    }

    /// The same with this JSON-RPC code.
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.0.code = code;
        self
    }

    /// The same with this `data` member of the JSON-RPC error.
    #[must_use]
    pub fn with_data(mut self, data: serde_json::Value) -> Self {
        self.0.data = Some(data);
        self
    }

    /// The same with a header more.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// The same with a `Retry-After` in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// The same with a challenge (RFC 9110 §11.6.1).
    #[must_use]
    pub fn challenge(self, value: HeaderValue) -> Self {
        self.with_header(WWW_AUTHENTICATE, value)
    }

    /// The same with a cause, which only the log sees.
    #[must_use]
    pub fn because(mut self, cause: impl Into<BoxError>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The JSON-RPC code.
    #[must_use]
    pub fn code(&self) -> i64 {
        self.0.code
    }

    /// The public message.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.0.public
    }

    /// Renders for the data plane: a JSON-RPC error with the request's id where it is known, `null` where not.
    ///
    /// A 5xx for `server/discover`, with which clients find out the server's era, is a problem document (RFC 9457).
    ///
    /// Notes the refusal in the context, and logs its cause.
    pub fn into_mcp<B: From<Bytes>>(self, cx: Option<&McpContext>) -> Response<B> {
        self.note(cx);
        // Clients of both eras (rmcp 3.8) take a JSON-RPC error for the answer of a server of the older era, whatever
        // its status, id and code are: that the server is away must not look like one.
        if self.0.status.is_server_error() && cx.is_some_and(McpContext::is_probe) {
            return self.problem(cx);
        }
        let message = cx.and_then(McpContext::message);
        let id = message.and_then(MessageFacts::id_bytes);
        let body = if self.0.as_tool_result {
            let modern = message.is_some_and(|message| message.era == Era::Modern);
            tool_result(id, &self.0.public, modern)
        } else if let Some(result) = &self.0.result {
            result_body(id, result)
        } else {
            rpc::error_body(id, self.0.code, &self.0.public, self.0.data.as_ref())
        };
        self.respond("application/json", body)
    }

    /// Renders for OAuth endpoints (RFC 6749 §5.2).
    pub fn into_oauth<B: From<Bytes>>(self, error: &str, cx: Option<&McpContext>) -> Response<B> {
        self.note(cx);
        let body = serde_json::json!({ "error": error, "error_description": self.0.public });
        self.respond("application/json", body.to_string().into())
    }

    /// Renders for the admin API: problem details (RFC 9457).
    pub fn into_problem<B: From<Bytes>>(self, cx: Option<&McpContext>) -> Response<B> {
        self.note(cx);
        self.problem(cx)
    }

    fn problem<B: From<Bytes>>(self, cx: Option<&McpContext>) -> Response<B> {
        let mut body = serde_json::json!({
            "type": "about:blank",
            "title": self.0.status.canonical_reason().unwrap_or("Error"),
            "status": self.0.status.as_u16(),
            "detail": self.0.public,
        });
        if let Some(cx) = cx {
            body["instance"] = format!("urn:ulid:{}", cx.request_id()).into();
        }
        if let Some(data) = &self.0.data {
            body["data"] = data.clone();
        }
        self.respond("application/problem+json", body.to_string().into())
    }

    fn note(&self, cx: Option<&McpContext>) {
        if let Some(cx) = cx {
            cx.note_refusal(self);
        }
        if let Some(cause) = &self.0.cause {
            let request_id = cx.map(|cx| tracing::field::display(cx.request_id()));
            tracing::warn!(status = self.0.status.as_u16(), request_id, %cause, "{}", self.0.public);
        }
    }

    fn respond<B: From<Bytes>>(self, content_type: &'static str, body: Bytes) -> Response<B> {
        let mut response = Response::new(B::from(body));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        harden(headers);
        for (name, value) in self.0.headers {
            headers.append(name, value);
        }
        response
    }
}

/// What every answer carries, whoever made it: a browser guesses no type and runs nothing, and no cache takes one caller's
/// answer for another's.
pub(crate) fn harden(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.insert(VARY, HeaderValue::from_static("Authorization"));
}

/// A tool result with `isError`.
pub(crate) fn tool_result(id: Option<&[u8]>, text: &str, modern: bool) -> Bytes {
    let mut result = serde_json::json!({ "content": [{ "type": "text", "text": text }], "isError": true });
    if modern {
        result["resultType"] = "complete".into();
    }
    result_body(id, &result)
}

fn result_body(id: Option<&[u8]>, result: &serde_json::Value) -> Bytes {
    let id = id.and_then(|id| std::str::from_utf8(id).ok()).unwrap_or("null");
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rendering_is_hardened() {
        let refusal =
            || Refusal::new(StatusCode::UNAUTHORIZED, "no").with_header(VARY, HeaderValue::from_static("Origin"));
        let renderings: [Response<Bytes>; 3] =
            [refusal().into_mcp(None), refusal().into_oauth("invalid_client", None), refusal().into_problem(None)];
        for response in renderings {
            let headers = response.headers();
            assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(headers[CONTENT_SECURITY_POLICY], "default-src 'none'; sandbox");
            assert_eq!(headers[CACHE_CONTROL], "no-store");
            assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), ["Authorization", "Origin"]);
        }
    }
}
