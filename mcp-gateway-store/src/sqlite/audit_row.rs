//! Between audit events and table rows.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use jiff::Timestamp;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::{AuditRow, StreamId};
use mcp_gateway_core::record::{ActorFacts, AuditBodies, AuditEvent, Label, Subject, TenantId};
use rusqlite::types::Type;
use rusqlite::{Row, Statement};
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::audit_detail::Detail;

/// The columns, in the order of [`bind`] and [`read`].
pub(super) const COLUMNS: &str = "ts, stream, seq, request_id, category, kind, tenant, issuer, subject, actor, server, \
                                  method, target, outcome, status, total_us, trace_id, detail";
/// How many they are.
const WIDTH: usize = 18;

/// Captured bodies as they are sealed.
#[derive(Serialize, Deserialize)]
struct Bodies {
    /// None of those that were captured before there was one.
    #[serde(default)]
    salt: [u8; 16],
    request: String,
    response: String,
    request_headers: Vec<(Box<str>, Box<str>)>,
    response_headers: Vec<(Box<str>, Box<str>)>,
}

/// Binds a row to the placeholders of a statement.
pub(super) fn bind(statement: &mut Statement<'_>, row: &AuditRow, detail: &mut Vec<u8>) -> Result<(), rusqlite::Error> {
    let event = &row.event;
    let actor = event.actor.as_ref();
    Detail::write(event, detail).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let mut column = 0;
    macro_rules! next {
        ($value:expr) => {{
            column += 1;
            statement.raw_bind_parameter(column, $value)?;
        }};
    }
    next!(event.ts.as_microsecond());
    next!(row.stream.0.to_bytes().as_slice());
    next!(number(row.seq));
    next!(event.request_id.to_bytes().as_slice());
    next!(event.category.as_str());
    next!(event.kind.as_str());
    next!(actor.map(|actor| actor.subject.tenant.as_str()));
    next!(actor.map(|actor| &*actor.subject.issuer));
    next!(actor.map(|actor| &*actor.subject.id));
    next!(actor.map(|actor| &*actor.id));
    next!(event.server.as_deref());
    next!(event.method.as_deref());
    next!(event.target.as_deref());
    next!(event.outcome.as_str());
    next!(event.status);
    next!(number(event.total_us));
    next!(event.trace_id.as_deref());
    next!(detail.as_slice());
    debug_assert_eq!(column, WIDTH);
    Ok(())
}

/// Reads a row; bodies are added by the caller.
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    let detail = row.get_ref(17)?.as_blob().map_err(|error| corrupt(17, error))?;
    let detail = Detail::read(detail).map_err(|error| corrupt(17, error))?;
    let text = |text: Option<&str>| text.map(Arc::<str>::from);
    let label = |text: Option<&str>| text.map(|text| Label::from(text.to_owned()));
    let tenant: Option<Arc<str>> = row.get(6)?;
    let issuer: Option<Arc<str>> = row.get(7)?;
    let subject: Option<Arc<str>> = row.get(8)?;
    let id: Option<Arc<str>> = row.get(9)?;
    let actor = match (tenant, issuer, subject, id, detail.actor_kind) {
        (Some(tenant), Some(issuer), Some(id_of_subject), Some(id), Some(kind)) => Some(ActorFacts {
            subject: Subject { tenant: TenantId::new(tenant), issuer, id: id_of_subject },
            kind,
            id,
            name: detail.actor_name.map(Arc::from),
        }),
        _ => None,
    };
    let event = AuditEvent {
        ts: Timestamp::from_microsecond(row.get(0)?).map_err(|error| corrupt(0, error))?,
        request_id: Ulid::from_bytes(row.get(3)?),
        category: parse(row, 4)?,
        kind: parse(row, 5)?,
        actor,
        address: detail.address,
        user_agent: text(detail.user_agent),
        client_name: text(detail.client_name),
        client_version: text(detail.client_version),
        server: row.get(10)?,
        era: label(detail.era),
        protocol_version: label(detail.protocol_version),
        http_method: label(detail.http_method),
        method: row.get::<_, Option<String>>(11)?.map(Into::into),
        target: row.get(12)?,
        rpc_id: text(detail.rpc_id),
        session: text(detail.session),
        outcome: parse(row, 13)?,
        status: row.get(14)?,
        rpc_code: detail.rpc_code,
        error: detail.error.map(Box::from),
        rule: detail.rule.map(Arc::from),
        forwarded_target: text(detail.forwarded_target),
        request_mutated: detail.request_mutated,
        response_mutated: detail.response_mutated,
        filters: detail.filters,
        changes: detail.changes,
        bytes_in: detail.bytes_in,
        bytes_out: detail.bytes_out,
        messages: detail.messages,
        upstream_us: detail.upstream_us,
        first_byte_us: detail.first_byte_us,
        total_us: row.get::<_, i64>(15)?.cast_unsigned(),
        trace_id: row.get(16)?,
        span: None,
        bodies: None,
    };
    Ok(AuditRow { stream: StreamId(Ulid::from_bytes(row.get(1)?)), seq: row.get::<_, i64>(2)?.cast_unsigned(), event })
}

/// SQLite's integers are signed; the bits are kept.
pub(super) fn number(number: u64) -> i64 {
    number.cast_signed()
}

/// The text that is sealed.
pub(super) fn write_bodies(bodies: &AuditBodies) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Bodies {
        salt: bodies.salt,
        request: STANDARD_NO_PAD.encode(&bodies.request),
        response: STANDARD_NO_PAD.encode(&bodies.response),
        request_headers: bodies.request_headers.clone(),
        response_headers: bodies.response_headers.clone(),
    })
}

pub(super) fn read_bodies(text: &str) -> Result<AuditBodies, BoxError> {
    let bodies: Bodies = serde_json::from_str(text)?;
    Ok(AuditBodies {
        salt: bodies.salt,
        request: Bytes::from(STANDARD_NO_PAD.decode(bodies.request)?),
        response: Bytes::from(STANDARD_NO_PAD.decode(bodies.response)?),
        request_headers: bodies.request_headers,
        response_headers: bodies.response_headers,
    })
}

fn parse<'de, T: Deserialize<'de>>(row: &'de Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str().map_err(|error| corrupt(column, error))?;
    let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
    T::deserialize(text).map_err(|error| corrupt(column, error))
}

fn corrupt(column: usize, error: impl Into<BoxError>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}
