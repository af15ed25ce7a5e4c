//! The answers of a bridge.

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use mcp_gateway_core::Body;
use mcp_gateway_core::wire::rpc;
use serde_json::Value;

use super::stream::StreamBody;

/// What a client can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepts {
    pub(super) json: bool,
    pub(super) events: bool,
}

impl Accepts {
    /// Reads `Accept` (RFC 9110 §12.5.1). Without one, everything is accepted.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut accepts = Self { json: false, events: false };
        let mut any = false;
        for value in headers.get_all(ACCEPT) {
            for item in value.to_str().unwrap_or_default().split(',') {
                let mut parts = item.split(';').map(str::trim);
                let media = parts.next().unwrap_or_default().to_ascii_lowercase();
                any |= !media.is_empty();
                let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
                if refused {
                    continue;
                }
                accepts.json |= matches!(media.as_str(), "application/json" | "application/*" | "*/*");
                accepts.events |= matches!(media.as_str(), "text/event-stream" | "text/*" | "*/*");
            }
        }
        if any { accepts } else { Self { json: true, events: true } }
    }
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON-RPC error.
pub(super) fn error(
    status: StatusCode,
    id: Option<&[u8]>,
    code: i64,
    message: &str,
    data: Option<&Value>,
) -> Response<Body> {
    json(status, rpc::error_body(id, code, message, data))
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An event stream.
pub(super) fn events(body: StreamBody) -> Response<Body> {
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A request whose body could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    TooLarge,
    Broken,
}

/// Reads a body up to a limit. One that came in one piece is not copied.
pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, ReadError> {
    let mut body = Limited::new(body, limit);
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() { ReadError::TooLarge } else { ReadError::Broken }
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}
