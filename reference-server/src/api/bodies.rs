//! `/api/v1/audit-events/{id}/bodies`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{AuditFilter, AuditRow, StoreLimits, StreamId};
use mcp_gateway_core::refusal::Refusal;
use serde::Serialize;
use ulid::Ulid;
use utoipa::ToSchema;

use super::answer::{Problem, ProblemDetails, plain};
use crate::app::App;

/// What an event captured of its exchange.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "01JD4Z0000000000000000000A-17-1795176000000123",
    "request": {
        "headers": [["accept", "application/json, text/event-stream"]],
        "text": "{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\"}}",
        "base64": null,
        "bytes": 73,
    },
    "response": { "headers": [["content-type", "application/json"]], "text": "", "base64": null, "bytes": 0 }
}))]
pub(super) struct BodiesView {
    /// The event.
    id: String,
    /// What the client sent.
    request: CapturedView,
    /// What the client was answered.
    response: CapturedView,
}

/// One direction: the first `audit.body_limit` bytes, and the headers without credentials.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CapturedView {
    /// Names and values, in the order of the message.
    #[schema(value_type = Vec<Vec<String>>)]
    headers: Vec<(Box<str>, Box<str>)>,
    /// The captured bytes, when they are UTF-8.
    text: Option<String>,
    /// The captured bytes in base64, when they are not.
    base64: Option<String>,
    /// Bytes of the whole body: more than were captured when it was longer than the limit.
    bytes: u64,
}

impl CapturedView {
    fn new(headers: Vec<(Box<str>, Box<str>)>, body: &[u8], bytes: u64) -> Self {
        let text = str::from_utf8(body).ok().map(str::to_owned);
        let base64 = text.is_none().then(|| STANDARD.encode(body));
        Self { headers, text, base64, bytes }
    }
}

/// Reads the captured bodies and headers of an event. The look is itself recorded.
#[utoipa::path(get, path = "/api/v1/audit-events/{id}/bodies", tag = "audit",
    params(("id" = String, Path, description = "The event's id.")),
    responses((status = 200, description = "What was captured.", body = BodiesView), (status = 404, description = "There is no such event, or nothing was captured of it.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn read(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let absent = || Refusal::new(StatusCode::NOT_FOUND, "There is no such event.");
    let place = Place::parse(&id).ok_or_else(absent)?;
    let event = place.find(&app).await?.ok_or_else(absent)?.event;
    let captured = event.bodies.ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, "Nothing was captured of this event: `audit.bodies` says whether it is.")
    })?;
    let view = BodiesView {
        id,
        request: CapturedView::new(captured.request_headers, &captured.request, event.bytes_in),
        response: CapturedView::new(captured.response_headers, &captured.response, event.bytes_out),
    };
    plain(StatusCode::OK, &view)
}

/// Where an event is in the trail. Its text is the event's id: stream, number, and microseconds since 1970, by which
/// the row is found without reading others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    stream: StreamId,
    seq: u64,
    micros: i64,
}

impl Place {
    pub(super) fn of(row: &AuditRow) -> Self {
        Self { stream: row.stream, seq: row.seq, micros: row.event.ts.as_microsecond() }
    }

    fn parse(text: &str) -> Option<Self> {
        let (stream, rest) = text.split_once('-')?;
        let (seq, micros) = rest.split_once('-')?;
        let stream = StreamId(Ulid::from_string(stream).ok()?);
        Some(Self { stream, seq: seq.parse().ok()?, micros: micros.parse().ok()? })
    }

    async fn find(self, app: &App) -> Result<Option<AuditRow>, Problem> {
        let Ok(from) = Timestamp::from_microsecond(self.micros) else { return Ok(None) };
        let to = from.checked_add(SignedDuration::from_micros(1)).ok();
        let filter = AuditFilter { from: Some(from), to, ..AuditFilter::default() };
        let mut after = None;
        loop {
            let page = app.audit_store.query(&filter, after, StoreLimits::PAGE).await?;
            let found = page.rows.into_iter().find(|row| row.stream == self.stream && row.seq == self.seq);
            if found.is_some() || page.next.is_none() {
                return Ok(found);
            }
            after = page.next;
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.stream.0, self.seq, self.micros)
    }
}
