//! A client of either era.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use mcp_gateway_core::record::Principal;
use serde_json::{Value, json};

use super::super::*;

/// A client of one of the eras.
pub(super) struct Client {
    pub(super) bridge: Bridge,
    pub(super) session: Option<String>,
    pub(super) principal: Option<Principal>,
    /// It reads one JSON object and no events.
    pub(super) json: bool,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) session: Option<String>,
    pub(super) events: bool,
    pub(super) body: Body,
}

impl Answer {
    pub(super) async fn json(self) -> Value {
        assert!(!self.events);
        serde_json::from_slice(&self.body.collect().await.unwrap().to_bytes()).unwrap()
    }

    /// All events: the cursor and the message of each.
    pub(super) async fn all(mut self) -> Vec<(String, Value)> {
        assert!(self.events);
        let mut all = Vec::new();
        while let Some(event) = next(&mut self.body).await {
            all.push(event);
        }
        all
    }
}

/// The next event, with `Null` for the priming event.
pub(super) async fn next(body: &mut Body) -> Option<(String, Value)> {
    let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("an event in time")?;
    let bytes = frame.unwrap().into_data().unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let data = field("data: ").unwrap();
    Some((field("id: ").unwrap_or_default(), serde_json::from_str(&data).unwrap_or(Value::Null)))
}

impl Client {
    pub(super) fn modern(bridge: &Bridge) -> Self {
        Self { bridge: bridge.clone(), session: None, principal: None, json: false }
    }

    pub(super) async fn legacy(bridge: &Bridge) -> Self {
        let mut client = Self::modern(bridge);
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let answer = client.send("POST", &[], Some(&message)).await.unwrap();
        assert_eq!(answer.status, 200);
        client.session = answer.session.clone();
        assert!(client.session.is_some());
        client
    }

    pub(super) async fn send(
        &self,
        method: &str,
        headers: &[(&str, &str)],
        message: Option<&Value>,
    ) -> Result<Answer, UpstreamError> {
        let accept = if self.json { "application/json" } else { "application/json, text/event-stream" };
        let mut request = Request::builder().method(method).uri("/").header("accept", accept);
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = message.map(|message| Bytes::from(message.to_string())).unwrap_or_default();
        let mut request = request.header("content-type", "application/json").body(Body::from(body)).unwrap();
        if let Some(principal) = &self.principal {
            let context = McpContext::new(&mcp_gateway_core::contract::SystemClock);
            context.set_principal(Arc::new(principal.clone())).unwrap();
            request.extensions_mut().insert(context);
        }
        let response = self.bridge.call(request).await?;
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        Ok(Answer {
            status: response.status().as_u16(),
            session: header("mcp-session-id"),
            events: header("content-type").is_some_and(|media| media == "text/event-stream"),
            body: response.into_body(),
        })
    }

    /// Calls a tool with a progress token equal to the id.
    pub(super) async fn call(&self, id: Value, tool: &str, arguments: Value) -> Result<Answer, UpstreamError> {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments, "_meta": {"progressToken": id}}});
        if self.session.is_some() {
            return self.send("POST", &[], Some(&message)).await;
        }
        self.modern_call(message, tool).await
    }

    pub(super) async fn modern_call(&self, mut message: Value, name: &str) -> Result<Answer, UpstreamError> {
        message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
        message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
        let method = message["method"].as_str().unwrap().to_owned();
        let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method.as_str())];
        if !name.is_empty() {
            headers.push(("mcp-name", name));
        }
        self.send("POST", &headers, Some(&message)).await
    }
}
