//! Stateless revisions: one child, shared by all callers of the bridge.

mod hub;
mod params;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::{UpstreamError, UpstreamErrorKind};
use mcp_gateway_core::wire::method::{Method, is_known};
use mcp_gateway_core::wire::version::{Claim, Era, claimed_era};
use mcp_gateway_core::wire::{Id, Kind, Message, mirror, rpc};
use serde::Deserialize;
use serde_json::value::RawValue;

pub(super) use self::hub::{Caller, Hub};
use super::broken;
use super::calls::NotTaken;
use super::options::BridgeOptions;
use super::respond::{self, Accepts};
use super::stream::{End, Pace};

/// What is refused before a child hears of it: headers that contradict the body, and a request without its `_meta`.
pub(super) fn check(headers: &HeaderMap, message: &Message<'_>) -> Option<Response<Body>> {
    let id = message.id.map(Id::raw);
    if message.kind == Kind::Response {
        let text = "Invalid Request: servers send no requests in this revision, so clients send no responses";
        return Some(respond::error(StatusCode::BAD_REQUEST, id, rpc::code::INVALID_REQUEST, text, None));
    }
    if let Err(error) = mirror::check(headers, message) {
        let data = error.data();
        return Some(respond::error(StatusCode::BAD_REQUEST, id, error.code(), &error.to_string(), data.as_ref()));
    }
    if message.kind == Kind::Request && !message.meta().is_some_and(|meta| meta.client_capabilities) {
        let text = "Invalid params: request _meta is missing or has a malformed required field: \
                    io.modelcontextprotocol/clientCapabilities";
        return Some(respond::error(StatusCode::BAD_REQUEST, id, rpc::code::INVALID_PARAMS, text, None));
    }
    None
}

/// The id of a request whose method this revision no longer has, in a message that lacks the method's target.
///
/// Such a method does not exist any more, so what its parameters lacked does not matter.
pub(super) fn removed<'a>(headers: &HeaderMap, body: &'a [u8]) -> Option<&'a [u8]> {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
        #[serde(borrow)]
        method: Cow<'a, str>,
    }
    let request: Request<'a> = serde_json::from_slice(body).ok()?;
    let modern = claimed_era(headers).is_ok_and(Claim::is_modern);
    (modern && !is_known(Era::Modern, &request.method)).then(|| request.id.get().as_bytes())
}

/// Answers one message through the shared child.
pub(super) async fn post(
    hub: &Arc<Hub>,
    options: &BridgeOptions,
    caller: Caller,
    headers: &HeaderMap,
    body: Bytes,
    message: &Message<'_>,
) -> Result<Response<Body>, UpstreamError> {
    if message.kind == Kind::Notification {
        if let Some(line) = hub.notification(&caller, &body, message)
            && hub.send(line).await.is_err()
        {
            return Err(broken(None));
        }
        return Ok(respond::empty(StatusCode::ACCEPTED));
    }
    let accepts = Accepts::of(headers);
    if !accepts.json && !accepts.events {
        let text = "Not Acceptable: Client must accept application/json or text/event-stream";
        let id = message.id.map(Id::raw);
        return Ok(respond::error(StatusCode::NOT_ACCEPTABLE, id, rpc::code::INVALID_REQUEST, text, None));
    }
    if message.method() == Method::ToolsCall.as_str()
        && let Err(params::Mismatch(header)) = hub.mirrors().check(headers, message)
    {
        let text = format!("Header mismatch: {header} does not match the body");
        let data = serde_json::json!({ "header": header.as_str() });
        let (status, code) = (StatusCode::BAD_REQUEST, rpc::code::HEADER_MISMATCH);
        return Ok(respond::error(status, message.id.map(Id::raw), code, &text, Some(&data)));
    }
    let listens = message.method() == Method::SubscriptionsListen.as_str();
    let asked = listens || message.meta().is_some_and(|meta| meta.progress_token.is_some() || meta.log_level);
    let streams = accepts.events && (asked || !accepts.json);

    let (line, call) = hub.open(caller, &body, message, !accepts.events).map_err(|reason| match reason {
        // Their ids are ours, so none is in use.
        NotTaken::Full | NotTaken::IdInUse => {
            let public = "The server has as many requests in flight as it may have. Try again later.";
            UpstreamError::new(UpstreamErrorKind::Exhausted, public)
        }
        NotTaken::Ended(why) => broken(why),
    })?;
    let stream = Arc::clone(call.stream());
    // Its client waits from here on, until it hangs up.
    let events = stream.attach(None, Pace { retry: options.retry, keep_alive: options.keep_alive });
    if hub.send(line).await.is_err() {
        // It no longer reads, whether or not it has ended; its end ends the stream.
        hub.end();
    }
    if streams {
        let _ = tokio::time::timeout(options.head_delay, stream.ready(0)).await;
    } else {
        stream.ready(0).await;
    }
    match stream.end() {
        End::Failed(why) => return Err(broken(why)),
        // Nothing came before it, so it can still be a plain answer with its own status.
        End::Error(code) if let Some(message) = stream.only() => return Ok(respond::json(status(code), message)),
        End::Done if !streams => {
            if let Some(message) = stream.only() {
                return Ok(respond::json(StatusCode::OK, message));
            }
        }
        _ => {}
    }
    Ok(respond::events(events.guarded(call)))
}

/// The HTTP status of a JSON-RPC error, as the specification of 2026-07-28 pairs them.
fn status(code: i64) -> StatusCode {
    match code {
        rpc::code::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        rpc::code::PARSE_ERROR
        | rpc::code::INVALID_REQUEST
        | rpc::code::HEADER_MISMATCH
        | rpc::code::MISSING_CLIENT_CAPABILITY
        | rpc::code::UNSUPPORTED_PROTOCOL_VERSION => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}
