//! `/api/v1/audit-events` and `/api/v1/usage`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{AuditCursor, AuditFilter, AuditRow, StreamId, UsageWindow};
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::{ActorKind, Category, ChangeFact, FilterFact, Outcome};
use mcp_gateway_core::refusal::Refusal;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::{IntoParams, ToSchema};

use super::answer::{Page, Problem, bad_cursor, plain};
use super::bodies::Place;
use super::extract::{Parameters, page_limit};
use super::operation::AUDITORS;
use super::servers::SubjectView;
use crate::app::App;

/// How long a reader waits for the newest events to come from the spool.
const FLUSH: Duration = Duration::from_secs(2);
/// Bytes of a filter's text.
const FILTER: usize = 512;
/// The longest window of usage.
const WINDOW: SignedDuration = SignedDuration::from_hours(24 * 366);

/// Which events; every one that is given must match.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventParameters {
    /// At or after this time (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// `mcp`, `auth`, `admin` or `system`.
    #[param(value_type = Option<String>)]
    category: Option<Category>,
    /// The server's id.
    server: Option<String>,
    /// The id of the subject.
    subject: Option<String>,
    /// The id of the key or client.
    actor: Option<String>,
    /// The MCP method (`tools/call`) or the action (`api-key.create`).
    method: Option<String>,
    /// The tool, prompt, resource, or object of an action.
    target: Option<String>,
    /// `ok`, `tool_error`, `rpc_error`, `http_error`, `denied`, `upstream_failed`, `disconnected`, `opaque` or
    /// `unknown`.
    #[param(value_type = Option<String>)]
    outcome: Option<Outcome>,
    /// The id of the request.
    #[param(value_type = Option<String>)]
    request_id: Option<Ulid>,
    /// The W3C trace id.
    trace_id: Option<String>,
    /// Items of a page, 1 to 1,000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next_cursor` of the page before, with the same filters.
    cursor: Option<String>,
}

/// A row of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "01JD4Z0000000000000000000A-17-1795176000000123",
    "ts": "2026-11-20T12:00:00.000123Z",
    "request_id": "01JD4Z0000000000000000000Z",
    "category": "mcp",
    "kind": "exchange",
    "actor": {
        "subject": { "issuer": "local", "id": "ada" },
        "kind": "api_key",
        "id": "7GQ2M4VX1C8N5T0K",
        "name": "laptop"
    },
    "address": "192.0.2.7",
    "user_agent": "claude-code/2.1",
    "client_name": "claude-code",
    "client_version": "2.1.0",
    "server": "everything",
    "era": "legacy",
    "protocol_version": "2025-11-25",
    "http_method": "POST",
    "method": "tools/call",
    "target": "echo",
    "forwarded_target": null,
    "request_mutated": false,
    "response_mutated": false,
    "filters": [{ "filter": "no-secrets", "verdict": "replaced", "messages": 1, "found": ["jwt"] }],
    "changes": [],
    "rpc_id": "3",
    "session": null,
    "outcome": "ok",
    "status": 200,
    "rpc_code": null,
    "error": null,
    "rule": null,
    "bytes_in": 118,
    "bytes_out": 96,
    "messages": 0,
    "upstream_us": 840,
    "first_byte_us": 861,
    "total_us": 870,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "captured": false
}))]
pub(super) struct EventView {
    /// Its place in the trail: the writer's life, the number in it, and the time in microseconds.
    id: String,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    ts: Timestamp,
    /// The request; rows of one request share it.
    request_id: String,
    /// `mcp`, `auth`, `admin` or `system`.
    category: String,
    /// `exchange`, `notification`, `server_request`, `opened`, `closed`, `resumed`, `refused`, `refused_many` or `act`.
    kind: String,
    /// Who, with which credential, as far as known.
    actor: Option<ActorView>,
    /// The caller's address, after trusted proxies.
    #[schema(value_type = Option<String>)]
    address: Option<IpAddr>,
    /// The client's `User-Agent`.
    user_agent: Option<String>,
    /// The name that the client gave itself.
    client_name: Option<String>,
    /// The version that the client gave itself.
    client_version: Option<String>,
    /// The server's id.
    server: Option<String>,
    /// `legacy` or `modern`.
    era: Option<String>,
    /// The MCP version, as claimed.
    protocol_version: Option<String>,
    /// The HTTP method.
    http_method: Option<String>,
    /// The MCP method, or the action.
    method: Option<String>,
    /// The tool, prompt, resource, or object of the action.
    target: Option<String>,
    /// The tool, prompt or resource that a filter put in its place.
    forwarded_target: Option<String>,
    /// Whether a filter changed the request.
    request_mutated: bool,
    /// Whether a filter changed or withheld the answer, or, of a stream, a message of it up to this row.
    response_mutated: bool,
    /// What filters said of its messages.
    filters: Vec<FilterFactView>,
    /// Which records an act changed, at most 16.
    changes: Vec<ChangeFactView>,
    /// The JSON-RPC id as it was sent.
    rpc_id: Option<String>,
    /// A keyed hash of the session id.
    session: Option<String>,
    /// How it ended.
    outcome: String,
    /// The HTTP status that the caller saw; 0 when there was none.
    status: u16,
    /// The JSON-RPC error code.
    rpc_code: Option<i64>,
    /// What went wrong.
    error: Option<String>,
    /// The rule that decided.
    rule: Option<String>,
    /// Bytes of the request's body.
    bytes_in: u64,
    /// Bytes of the answer's body.
    bytes_out: u64,
    /// Messages of the stream without a row of their own, or refusals that the row counts.
    messages: u32,
    /// Microseconds to the head of the server's answer.
    upstream_us: Option<u64>,
    /// Microseconds to the first byte of the answer.
    first_byte_us: Option<u64>,
    /// Microseconds to the last byte of the answer.
    total_us: u64,
    /// The W3C trace id.
    trace_id: Option<String>,
    /// Whether bodies and headers were captured: `GET …/{id}/bodies` reads them.
    captured: bool,
}

/// What a filter said of messages of an exchange.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FilterFactView {
    /// The filter's id.
    filter: String,
    /// `passed`, `flagged`, `replaced`, `refused`, `failed` or `failed_open`.
    verdict: String,
    /// Of how many messages.
    messages: u32,
    /// What it found in them.
    found: Vec<String>,
}

impl FilterFactView {
    fn of(fact: FilterFact) -> Self {
        Self {
            filter: fact.filter.to_string(),
            verdict: fact.verdict.as_str().to_owned(),
            messages: fact.messages,
            found: fact.found.into_iter().map(Into::into).collect(),
        }
    }
}

/// A record that an act changed. Digests are SHA-256 of the record as it is kept, its secrets sealed, in hexadecimal: equal
/// ones are the same version.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangeFactView {
    /// Its kind.
    kind: String,
    /// Its id.
    id: String,
    /// What it was; `null` if it was made.
    before: Option<String>,
    /// What it became; `null` if it was removed.
    after: Option<String>,
}

impl ChangeFactView {
    fn of(fact: ChangeFact) -> Self {
        let ChangeFact { kind, id, before, after } = fact;
        Self { kind: kind.into(), id: id.to_string(), before: before.map(Into::into), after: after.map(Into::into) }
    }
}

/// Who did it, with which credential.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ActorView {
    /// Whose rights.
    subject: SubjectView,
    /// `api_key`, `client`, `bootstrap` or `custom`.
    #[schema(value_type = String)]
    kind: ActorKind,
    /// The id of the key or client.
    id: String,
    /// Its name.
    name: Option<String>,
}

impl From<AuditRow> for EventView {
    fn from(row: AuditRow) -> Self {
        let id = Place::of(&row).to_string();
        let event = row.event;
        let text = |text: Option<Arc<str>>| text.map(|text| text.to_string());
        Self {
            id,
            ts: event.ts,
            request_id: event.request_id.to_string(),
            category: event.category.as_str().to_owned(),
            kind: event.kind.as_str().to_owned(),
            actor: event.actor.map(|actor| ActorView {
                subject: SubjectView::of(&actor.subject),
                kind: actor.kind,
                id: actor.id.to_string(),
                name: actor.name.map(|name| name.to_string()),
            }),
            address: event.address,
            user_agent: text(event.user_agent),
            client_name: text(event.client_name),
            client_version: text(event.client_version),
            server: text(event.server),
            era: event.era.map(Into::into),
            protocol_version: event.protocol_version.map(Into::into),
            http_method: event.http_method.map(Into::into),
            method: event.method.map(Into::into),
            target: text(event.target),
            forwarded_target: text(event.forwarded_target),
            request_mutated: event.request_mutated,
            response_mutated: event.response_mutated,
            filters: event.filters.into_iter().map(FilterFactView::of).collect(),
            changes: event.changes.into_iter().map(ChangeFactView::of).collect(),
            rpc_id: text(event.rpc_id),
            session: text(event.session),
            outcome: event.outcome.as_str().to_owned(),
            status: event.status,
            rpc_code: event.rpc_code,
            error: event.error.map(Into::into),
            rule: text(event.rule),
            bytes_in: event.bytes_in,
            bytes_out: event.bytes_out,
            messages: event.messages,
            upstream_us: event.upstream_us,
            first_byte_us: event.first_byte_us,
            total_us: event.total_us,
            trace_id: text(event.trace_id),
            captured: event.bodies.is_some(),
        }
    }
}

/// Reads the audit trail, newest first: who is neither admin nor auditor, of what they did themselves. Reading it is
/// itself recorded.
///
/// Text that callers and servers chose is as it was sent, JSON-escaped: escape it again where it is shown.
#[utoipa::path(get, path = "/api/v1/audit-events", tag = "audit", params(EventParameters),
    responses((status = 200, description = "A page of rows.", body = Page<EventView>)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(mut what): Parameters<EventParameters>,
) -> Result<Response, Problem> {
    let limit = page_limit(what.limit)?;
    let sees_all = AUDITORS.iter().any(|role| caller.0.roles.with_included().contains(*role));
    if !sees_all {
        what.subject = Some(caller.0.subject.id.to_string());
    }
    let after = what.cursor.as_deref().map(cursor_in).transpose()?;
    let (filter, newest) = (what.filter()?, after.is_none());
    if newest {
        // So that a caller sees what happened before the request; the store may be away.
        let _ = tokio::time::timeout(FLUSH, app.audit_sink.flush()).await;
    }
    let page = app.audit_store.query(&filter, after, limit).await?;
    // Somebody of another issuer may have the same id there.
    let may_see =
        |row: &AuditRow| sees_all || row.event.actor.as_ref().is_some_and(|actor| actor.subject == caller.0.subject);
    let items = page.rows.into_iter().filter(may_see).map(EventView::from).collect();
    plain(StatusCode::OK, &Page::<EventView> { items, next_cursor: page.next.map(|next| cursor_of(&next)) })
}

impl EventParameters {
    fn filter(self) -> Result<AuditFilter, Problem> {
        let texts = [
            ("server", &self.server),
            ("subject", &self.subject),
            ("actor", &self.actor),
            ("method", &self.method),
            ("target", &self.target),
            ("trace_id", &self.trace_id),
        ];
        if let Some((field, _)) = texts.iter().find(|(_, text)| text.as_ref().is_some_and(|text| text.len() > FILTER)) {
            return Err(wrong(field, "is longer than 512 bytes"));
        }
        Ok(AuditFilter {
            tenant: None,
            from: self.from,
            to: self.to,
            category: self.category,
            server: self.server,
            subject: self.subject,
            actor: self.actor,
            method: self.method,
            target: self.target,
            outcome: self.outcome,
            request_id: self.request_id.map(|id| id.to_string()),
            trace_id: self.trace_id,
        })
    }
}

fn wrong(field: &str, problem: &str) -> Problem {
    Refusal::new(StatusCode::BAD_REQUEST, format!("`{field}` {problem}."))
        .with_data(serde_json::json!({ "field": field }))
        .into()
}

/// Version, time in nanoseconds, stream and number, big-endian.
pub(super) fn cursor_of(cursor: &AuditCursor) -> String {
    let mut bytes = [0; 41];
    bytes[0] = 1;
    bytes[1..17].copy_from_slice(&cursor.ts.as_nanosecond().to_be_bytes());
    bytes[17..33].copy_from_slice(&cursor.stream.0.to_bytes());
    bytes[33..].copy_from_slice(&cursor.seq.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn cursor_in(text: &str) -> Result<AuditCursor, Problem> {
    let read = || {
        let bytes: [u8; 41] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (version, rest) = bytes.split_first()?;
        let (ts, rest) = rest.split_first_chunk()?;
        let (stream, seq) = rest.split_first_chunk()?;
        let ts = Timestamp::from_nanosecond(i128::from_be_bytes(*ts)).ok().filter(|_| *version == 1)?;
        let seq = u64::from_be_bytes(seq.try_into().ok()?);
        Some(AuditCursor { ts, stream: StreamId(Ulid::from_bytes(*stream)), seq })
    };
    read().ok_or_else(bad_cursor)
}

/// Which window of usage.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageParameters {
    /// At or after this time (RFC 3339); a day before `to` by default.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before this time; now by default.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Only this server.
    server: Option<String>,
}

/// Calls in a window.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "from": "2026-11-19T12:00:00Z",
    "to": "2026-11-20T12:00:00Z",
    "rows": [{
        "server": "everything",
        "method": "tools/call",
        "target": "echo",
        "calls": 12,
        "errors": 1,
        "subjects": 2,
        "mean_us": 930
    }]
}))]
pub(super) struct UsageView {
    /// The beginning of the window.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// Its end, exclusive.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// One row for each server, method and target, in that order.
    rows: Vec<UsageRowView>,
}

/// Calls of one server, method and target.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UsageRowView {
    /// The server's id.
    server: String,
    /// The method.
    method: String,
    /// The tool, prompt or resource, if the method names one.
    target: Option<String>,
    /// All calls.
    calls: u64,
    /// Those whose outcome is not `ok`.
    errors: u64,
    /// Different subjects.
    subjects: u64,
    /// Microseconds that a call took on average.
    mean_us: u64,
}

/// Counts calls in a window, by server, method and target.
#[utoipa::path(get, path = "/api/v1/usage", tag = "audit", params(UsageParameters),
    responses((status = 200, description = "The counts.", body = UsageView)))]
pub(super) async fn usage(
    State(app): State<Arc<App>>,
    Parameters(what): Parameters<UsageParameters>,
) -> Result<Response, Problem> {
    let to = what.to.unwrap_or_else(|| app.clock.now());
    let from = what.from.unwrap_or_else(|| to.saturating_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN));
    if from >= to {
        return Err(wrong("from", "must be before `to`"));
    }
    if to.duration_since(from) > WINDOW {
        return Err(wrong("from", "must be at most 366 days before `to`"));
    }
    let window = UsageWindow { tenant: None, from, to, server: what.server };
    let counted = app.audit_store.usage(&window).await?;
    let rows = counted.rows.into_iter().map(|row| UsageRowView {
        server: row.server,
        method: row.method,
        target: row.target,
        calls: row.calls,
        errors: row.errors,
        subjects: row.subjects,
        mean_us: u64::try_from(row.mean.as_micros()).unwrap_or(u64::MAX),
    });
    plain(StatusCode::OK, &UsageView { from, to, rows: rows.collect() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_come_back(seconds in -9_999_999_999_i64..200_000_000_000, nanos in 0_i32..1_000_000_000, stream: u128, seq: u64) {
            let ts = Timestamp::new(seconds, nanos).unwrap();
            let cursor = AuditCursor { ts, stream: StreamId(Ulid(stream)), seq };
            prop_assert_eq!(cursor_in(&cursor_of(&cursor)).unwrap(), cursor);
        }

        #[test]
        fn no_text_panics(text: String, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = cursor_in(&text);
            let _ = cursor_in(&URL_SAFE_NO_PAD.encode(bytes));
        }
    }
}
