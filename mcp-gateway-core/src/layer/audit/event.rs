//! From facts to an event.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::context::{McpContext, MessageKind};
use crate::contract::Clock;
use crate::layer::peek::inspect_cut as cut;
use crate::record::{ActorFacts, AuditEvent, Category, EventKind, SpanFacts};
use crate::wire::version::Era;

/// Everything that is known of a request now.
pub(crate) fn event_of(cx: &McpContext, kind: EventKind, clock: &dyn Clock) -> AuditEvent {
    let mut event = AuditEvent::new(cx.began_at(), cx.request_id(), Category::Mcp, kind);
    event.actor = cx.principal().map(|principal| ActorFacts {
        subject: principal.subject.clone(),
        kind: principal.actor.kind,
        id: principal.actor.id.clone(),
        name: principal.actor.name.clone(),
    });
    event.address = cx.address().copied();
    event.server = cx.route().map(|route| route.id.clone());
    event.session = cx.session().map(|session| session.hash.clone());
    event.rule = cx.cut().or_else(|| cx.rule()).cloned();
    event.trace_id = cx.trace().map(|trace| Arc::clone(trace.trace_id()));
    event.span = cx.trace().filter(|trace| trace.is_sampled() && kind != EventKind::Intent).map(|trace| SpanFacts {
        trace_id: trace.trace_id_bytes(),
        parent: trace.parent_id_bytes(),
        span_id: trace.span_id_bytes(),
        call_id: trace.call_id_bytes(),
        called_us: cx.timings().called_us(),
    });
    event.upstream_us = cx.timings().upstream_us();
    event.first_byte_us = cx.timings().first_byte_us();
    event.total_us = micros(cx, clock);
    event.forwarded_target = cx.forwarded_target().map(|target| bounded(target, 512));
    event.request_mutated = cx.is_request_mutated();
    event.response_mutated = cx.is_response_mutated();
    event.filters = cx.filters();
    if let Some(message) = cx.message().filter(|message| message.kind != MessageKind::None) {
        event.era = Some(match message.era {
            Era::Legacy => "legacy".into(),
            Era::Modern => "modern".into(),
        });
        event.protocol_version = message.version.map(|version| version.as_str().into());
        event.method = message.method.as_ref().map(|method| match method {
            Cow::Borrowed(known) => Cow::Borrowed(*known),
            Cow::Owned(other) => cut::<String>(other, 128).into(),
        });
        event.target = message.target.as_ref().map(|target| bounded(target, 512));
        event.rpc_id = message.id.as_ref().map(|id| bounded(id, 128));
        event.client_name.clone_from(&message.client_name);
        event.client_version.clone_from(&message.client_version);
        event.bytes_in = message.body.len() as u64;
    }
    event
}

/// At most `limit` bytes: the usual text is shared, not copied.
fn bounded(text: &Arc<str>, limit: usize) -> Arc<str> {
    if text.len() <= limit { Arc::clone(text) } else { cut(text, limit) }
}

/// Microseconds since the request began.
pub(crate) fn micros(cx: &McpContext, clock: &dyn Clock) -> u64 {
    let elapsed = clock.monotonic().saturating_duration_since(cx.began());
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

/// Headers for the trail: credentials and what the operator lists are redacted, each value is cut at 1 KiB.
pub(crate) fn headers_of(headers: &HeaderMap, redact: &[HeaderName]) -> Vec<(Box<str>, Box<str>)> {
    let secret = |name: &HeaderName| {
        matches!(
            name.as_str(),
            "authorization"
                | "proxy-authorization"
                | "cookie"
                | "set-cookie"
                | "x-api-key"
                | "x-auth-token"
                // The trail holds a keyed hash of the session.
                | "mcp-session-id"
        ) || redact.contains(name)
    };
    let text = |name: &HeaderName, value: &HeaderValue| {
        if value.is_sensitive() || secret(name) {
            return "[redacted]".into();
        }
        cut(&String::from_utf8_lossy(value.as_bytes()), 1_024)
    };
    headers.iter().map(|(name, value)| (name.as_str().into(), text(name, value))).collect()
}
