//! Messages of both eras.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::http::Call;
use super::{Gateway, Key};

/// The last legacy revision.
pub(crate) const LEGACY: &str = "2025-11-25";
/// The first modern one.
pub(crate) const MODERN: &str = "2026-07-28";

/// A JSON-RPC request.
pub(crate) fn request(id: impl Into<Value>, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params })
}

pub(crate) fn initialize() -> Value {
    request(
        0,
        "initialize",
        &json!({
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": { "name": "system-tests", "version": "1" },
        }),
    )
}

/// `tools/call` of the legacy era.
pub(crate) fn tool(id: impl Into<Value>, name: &str, arguments: &Value) -> Value {
    request(id, "tools/call", &json!({ "name": name, "arguments": arguments }))
}

/// The members that each modern request has in `_meta`.
pub(crate) fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "system-tests", "version": "1" },
    })
}

/// A modern request with its metadata.
pub(crate) fn modern_request(id: impl Into<Value>, method: &str, mut params: Value) -> Value {
    let own = params["_meta"].take();
    params["_meta"] = meta();
    if let (Value::Object(own), Some(meta)) = (own, params["_meta"].as_object_mut()) {
        meta.extend(own);
    }
    request(id, method, &params)
}

/// Where a server is mounted.
pub(crate) fn path(server: &str) -> String {
    format!("/mcp-connect/{server}")
}

/// A POST as every client sends it, without a session or version.
pub(crate) fn post(server: &str, key: &Key, body: impl Into<bytes::Bytes>) -> Call {
    Call::post(&path(server), body)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .bearer(&key.secret)
}

/// A modern POST with the headers that mirror its body.
pub(crate) fn modern(server: &str, key: &Key, message: &Value) -> Call {
    let call = post(server, key, message.to_string()).header("mcp-protocol-version", MODERN);
    let call = call.header("mcp-method", message["method"].as_str().expect("a request has a method"));
    let params = &message["params"];
    match params["name"].as_str().or_else(|| params["uri"].as_str()) {
        Some(name) => call.header("mcp-name", name),
        None => call,
    }
}

/// A modern call of a tool.
pub(crate) fn modern_tool(server: &str, key: &Key, id: impl Into<Value>, name: &str, arguments: &Value) -> Call {
    modern(server, key, &modern_request(id, "tools/call", json!({ "name": name, "arguments": arguments })))
}

/// A legacy session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: String,
    server: String,
    key: Key,
}

impl Session {
    /// Initializes, and says so.
    pub(crate) async fn open(gateway: &Gateway, server: &str, key: &Key) -> Self {
        Self::open_at(gateway.address, server, key).await
    }

    /// The same at this address.
    pub(crate) async fn open_at(address: SocketAddr, server: &str, key: &Key) -> Self {
        let answer = post(server, key, initialize().to_string()).send(address).await.expect(200);
        let session =
            Self { id: answer.header("mcp-session-id").to_owned(), server: server.to_owned(), key: key.clone() };
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        session.post(&initialized).send(address).await.expect(202);
        session
    }

    fn with(&self, call: Call) -> Call {
        call.header("mcp-session-id", &self.id).header("mcp-protocol-version", LEGACY)
    }

    pub(crate) fn post(&self, message: &Value) -> Call {
        self.with(post(&self.server, &self.key, message.to_string()))
    }

    pub(crate) fn call(&self, id: impl Into<Value>, name: &str, arguments: &Value) -> Call {
        self.post(&tool(id, name, arguments))
    }

    pub(crate) fn get(&self) -> Call {
        self.with(Call::get(&path(&self.server)).header("accept", "text/event-stream").bearer(&self.key.secret))
    }

    pub(crate) fn delete(&self) -> Call {
        self.with(Call::delete(&path(&self.server)).bearer(&self.key.secret))
    }

    /// The same session in the hands of somebody else.
    pub(crate) fn stolen_by(&self, key: &Key) -> Self {
        Self { key: key.clone(), ..self.clone() }
    }

    /// The same client with another session id.
    pub(crate) fn with_id(&self, id: impl Into<String>) -> Self {
        Self { id: id.into(), ..self.clone() }
    }
}
