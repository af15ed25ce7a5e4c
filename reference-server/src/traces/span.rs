//! From the event that ends an exchange to its spans.
//!
//! Names follow OpenTelemetry's semantic conventions for MCP and HTTP. Arguments, results, credentials, addresses and URIs
//! of resources, which may hold secrets, are in no span; the audit trail knows more, by `mcp_gateway.request.id`.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use mcp_gateway_core::record::{AuditEvent, Outcome, SpanFacts};
use mcp_gateway_core::wire::method::{Method, OTHER};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// Makes spans.
pub(super) struct Spans {
    scope: InstrumentationScope,
}

/// JSON-RPC's error code of a refused or failed exchange, else the status: what `error.type` says.
fn error_type(event: &AuditEvent) -> Option<Value> {
    let code = || event.rpc_code.map(|code| Value::from(code.to_string()));
    Some(match event.outcome {
        Outcome::Ok => return None,
        Outcome::ToolError => "tool_error".into(),
        Outcome::RpcError | Outcome::Denied => code().unwrap_or_else(|| event.status.to_string().into()),
        Outcome::HttpError => event.status.to_string().into(),
        outcome => outcome.as_str().into(),
    })
}

impl Spans {
    pub(super) fn new() -> Self {
        let scope = InstrumentationScope::builder("mcp-gateway").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { scope }
    }

    /// The exchange, and the call of its server if there was one; `None` when its trace is not recorded.
    pub(super) fn of(&self, event: &AuditEvent) -> Option<(SpanData, Option<SpanData>)> {
        let facts = event.span?;
        // A name that no revision of the protocol has would be the caller's choice.
        let method = event.method.as_deref().map(|method| Method::parse(method).map_or(OTHER, Method::as_str));
        let name = method.or(event.http_method.as_deref().map(known_http)).unwrap_or(OTHER);
        let start: SystemTime = event.ts.into();
        let end = start + Duration::from_micros(event.total_us);
        let error = error_type(event);
        // Who asked for what may not be is the one to look into it.
        let status = match event.outcome {
            Outcome::Ok | Outcome::Denied | Outcome::Disconnected => Status::Unset,
            _ => Status::error(""),
        };
        let common = || {
            let mut attributes = Vec::with_capacity(12);
            let mut add = |name: &'static str, value: Option<Value>| {
                attributes.extend(value.map(|value| KeyValue::new(name, value)));
            };
            add("mcp.method.name", method.map(Value::from));
            add("mcp.protocol.version", event.protocol_version.as_deref().map(text));
            add("http.request.method", event.http_method.as_deref().map(|method| known_http(method).into()));
            add("mcp_gateway.server.id", event.server.as_deref().map(text));
            add("error.type", error.clone());
            match method {
                Some("tools/call") => add("gen_ai.tool.name", event.target.as_deref().map(text)),
                Some("prompts/get") => add("gen_ai.prompt.name", event.target.as_deref().map(text)),
                _ => {}
            }
            attributes
        };
        let mut exchange = self.span(facts, facts.span_id, facts.parent, SpanKind::Server, name, (start, end));
        exchange.parent_span_is_remote = facts.parent.is_some();
        exchange.attributes = common();
        exchange.attributes.push(KeyValue::new("mcp_gateway.request.id", event.request_id.to_string()));
        if event.status > 0 {
            exchange.attributes.push(KeyValue::new("http.response.status_code", i64::from(event.status)));
        }
        if let Some(code) = event.rpc_code {
            exchange.attributes.push(KeyValue::new("rpc.response.status_code", code.to_string()));
        }
        exchange.status = status.clone();
        let call = facts.called_us.map(|called| {
            let start = start + Duration::from_micros(called);
            let mut call = self.span(facts, facts.call_id, Some(facts.span_id), SpanKind::Client, name, (start, end));
            call.attributes = common();
            call.status = status;
            call
        });
        Some((exchange, call))
    }

    fn span(
        &self,
        facts: SpanFacts,
        id: [u8; 8],
        parent: Option<[u8; 8]>,
        kind: SpanKind,
        name: &'static str,
        (start_time, end_time): (SystemTime, SystemTime),
    ) -> SpanData {
        let (trace, id) = (TraceId::from_bytes(facts.trace_id), SpanId::from_bytes(id));
        SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from_bytes),
            parent_span_is_remote: false,
            span_kind: kind,
            name: Cow::Borrowed(name),
            start_time,
            end_time,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn text(text: &str) -> Value {
    text.to_owned().into()
}

fn known_http(method: &str) -> &'static str {
    match method {
        "POST" => "POST",
        "GET" => "GET",
        "DELETE" => "DELETE",
        // As the conventions have it.
        _ => "_OTHER",
    }
}
