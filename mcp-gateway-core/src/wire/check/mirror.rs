use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue};

use crate::wire::mirror::{MAX_NAME, MCP_NAME, decoded_name};

/// A name is the trimmed value itself, or what its base64 stands for in exactly one way.
pub fn mirror(data: &[u8]) {
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
