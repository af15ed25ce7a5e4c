//! JSON-RPC bodies.

use bytes::Bytes;

/// An error body.
pub fn error_body(id: Option<&[u8]>, code: i64, message: &str, data: Option<&serde_json::Value>) -> Bytes {
    let _ = (id, code, message, data);
    Bytes::new()
}
