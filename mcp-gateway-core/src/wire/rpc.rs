//! JSON-RPC errors that the gateway answers itself.

use bytes::Bytes;
use serde_json::Value;

/// Error codes: JSON-RPC 2.0 §5.1, MCP 2026-07-28, and two of our own.
pub mod code {
    /// The body is not JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// The body is JSON, but no acceptable message.
    pub const INVALID_REQUEST: i64 = -32600;
    /// The method does not exist.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters do not fit the method.
    pub const INVALID_PARAMS: i64 = -32602;
    /// Something inside failed.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// Headers and body disagree, or a required header is missing or malformed (MCP 2026-07-28; HTTP 400).
    pub const HEADER_MISMATCH: i64 = -32020;
    /// The client did not declare a capability that the request needs (MCP 2026-07-28; HTTP 400).
    pub const MISSING_CLIENT_CAPABILITY: i64 = -32021;
    /// The server does not speak the requested revision (MCP 2026-07-28; HTTP 400).
    pub const UNSUPPORTED_PROTOCOL_VERSION: i64 = -32022;
    /// A resource does not exist (legacy revisions only).
    pub const RESOURCE_NOT_FOUND: i64 = -32002;
    /// The user must visit an address first (MCP 2025-11-25 only).
    pub const URL_ELICITATION_REQUIRED: i64 = -32042;
    /// The person has to connect an account first. Outside the range that JSON-RPC reserves.
    pub const NOT_CONNECTED: i64 = 40101;
    /// A rule refuses this prompt or resource to this caller. Outside the range that JSON-RPC reserves.
    pub const REFUSED_BY_POLICY: i64 = 40301;
}

/// Renders a JSON-RPC error response.
///
/// `id` is the raw JSON of the request's id; without one, or if it is not plain enough to be an id, it is `null`.
/// `data` is left out if `None`.
#[must_use]
pub fn error_body(id: Option<&[u8]>, code: i64, message: &str, data: Option<&Value>) -> Bytes {
    let mut body = Vec::with_capacity(64 + message.len() + id.map_or(4, <[u8]>::len));
    body.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    body.extend_from_slice(id.filter(|id| is_id(id)).unwrap_or(b"null"));
    body.extend_from_slice(br#","error":{"code":"#);
    body.extend_from_slice(code.to_string().as_bytes());
    body.extend_from_slice(br#","message":"#);
    body.extend_from_slice(Value::from(message).to_string().as_bytes());
    if let Some(data) = data {
        body.extend_from_slice(br#","data":"#);
        body.extend_from_slice(data.to_string().as_bytes());
    }
    body.extend_from_slice(b"}}");
    body.into()
}

/// Whether these bytes are one JSON string or number, so that nothing can be smuggled in as an id.
fn is_id(raw: &[u8]) -> bool {
    use serde::de::IgnoredAny;

    matches!(raw.first(), Some(b'"' | b'-' | b'0'..=b'9')) && serde_json::from_slice::<IgnoredAny>(raw).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_id_is_echoed_byte_for_byte() {
        for id in ["1", "1.0", "-0", "123456789012345678901234567890", r#""a\u0041""#, "1e5"] {
            let body = error_body(Some(id.as_bytes()), code::INVALID_REQUEST, "no", None);
            let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32600,"message":"no"}}}}"#);
            assert_eq!(body, expected.as_bytes());
        }
    }

    #[test]
    fn what_is_no_id_becomes_null() {
        for id in ["", "true", "{}", "1,\"x\":2", "\"a\",", "[1]", "\"a", "null", " 1"] {
            let body: Value = serde_json::from_slice(&error_body(Some(id.as_bytes()), -1, "no", None)).unwrap();
            assert_eq!(body["id"], Value::Null, "{id}");
        }
    }

    proptest! {
        #[test]
        fn any_message_and_data_survive(message: String, code: i64, data: Option<String>) {
            let data = data.map(|data| json!({ "why": data }));
            let body: Value = serde_json::from_slice(&error_body(None, code, &message, data.as_ref())).unwrap();
            prop_assert_eq!(&body["error"]["message"], &json!(message));
            prop_assert_eq!(body["error"]["code"].as_i64(), Some(code));
            prop_assert_eq!(body["error"].get("data"), data.as_ref());
        }
    }
}
