use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::wire::mirror::{self, MAX_NAME, MCP_METHOD, MCP_NAME, decoded_name};
use crate::wire::version::{MCP_PROTOCOL_VERSION, ProtocolVersion};
use crate::wire::{Limits, peek};

/// The bytes are a value of `Mcp-Name`; or three lines, the values of the version, of `Mcp-Method` and of `Mcp-Name`
/// (absent when empty), and a body.
pub fn mirror(data: &[u8]) {
    name(data);
    let mut parts = data.splitn(4, |&byte| byte == b'\n');
    if let (Some(version), Some(method), Some(name), Some(body)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    {
        agreement([version, method, name], body);
    }
}

/// A name is the trimmed value itself, or what its base64 stands for in exactly one way.
fn name(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(MCP_NAME, value);
    let Ok(name) = decoded_name(&headers) else { return };
    let name = name.expect("the header is there");
    let sent = std::str::from_utf8(data).expect("only visible ASCII is accepted").trim_matches([' ', '\t']);
    assert!(sent.len() <= MAX_NAME);
    if name != sent {
        assert_eq!(sent, format!("=?base64?{}?=", STANDARD.encode(name.as_bytes())));
    }
}

/// What passes says the same in its headers as another reader finds in its body.
fn agreement(values: [&[u8]; 3], body: &[u8]) {
    let mut headers = HeaderMap::new();
    for (header, value) in [MCP_PROTOCOL_VERSION, MCP_METHOD, MCP_NAME].into_iter().zip(values) {
        let Ok(value) = HeaderValue::from_bytes(value) else { return };
        if !value.is_empty() {
            headers.insert(header, value);
        }
    }
    let Ok(message) = peek(body, &Limits::default()) else { return };
    if mirror::check(&headers, &message).is_err() || super::confuses_serde(body) {
        return;
    }
    let Ok(read) = serde_json::from_slice::<Value>(body) else { return };
    let Some(method) = read["method"].as_str().filter(|_| read.get("id").is_some()) else { return };
    if method == "initialize" {
        return;
    }
    let said = |header: &HeaderName| {
        headers.get(header).map(|value| value.to_str().expect("what passes is text").trim_matches([' ', '\t']))
    };
    let version = said(&MCP_PROTOCOL_VERSION);
    let stated = read["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
    assert!(stated.is_none() || stated == version, "a version in the body that the header hides");
    if version != Some(ProtocolVersion::V20260728.as_str()) {
        return;
    }
    assert_eq!(stated, version);
    assert_eq!(said(&MCP_METHOD), Some(method));
    let target = match method {
        "tools/call" | "prompts/get" => &read["params"]["name"],
        "resources/read" => &read["params"]["uri"],
        _ => return,
    };
    assert_eq!(decoded_name(&headers).expect("what passes is readable").as_deref(), target.as_str());
}
