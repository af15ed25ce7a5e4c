//! Between audit events and table rows.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::{AuditRow, StreamId};
use mcp_gateway_core::record::{
    ActorFacts, ActorKind, AuditBodies, AuditEvent, ChangeFact, FilterFact, Label, Subject, TenantId,
};
use mcp_gateway_core::trail::Link;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::database::Statement;
use super::types::{Id, Time, escape, unescape};

/// The columns, in the order of [`Columns`] and [`read`].
pub(super) const COLUMNS: &str = "ts, stream, seq, request_id, category, kind, tenant, issuer, subject, actor, server, \
                                  method, target, outcome, status, total_us, trace_id, detail";

/// Text that is borrowed when it is written.
type Text<'a> = Cow<'a, str>;

/// What is neither searched nor counted. Its names are part of what is stored.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Detail<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    actor_kind: Option<ActorKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor_name: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_version: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    era: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_id: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded: Option<Text<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    request_mutated: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    response_mutated: bool,
    #[serde(skip_serializing_if = "<[FilterFact]>::is_empty")]
    filters: Cow<'a, [FilterFact]>,
    #[serde(skip_serializing_if = "<[ChangeFact]>::is_empty")]
    changes: Cow<'a, [ChangeFact]>,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "is_zero")]
    messages: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_us: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn text(text: Option<&str>) -> Option<Text<'_>> {
    text.map(Text::Borrowed)
}

impl<'a> Detail<'a> {
    fn of(event: &'a AuditEvent) -> Self {
        let actor = event.actor.as_ref();
        Self {
            actor_kind: actor.map(|actor| actor.kind),
            actor_name: text(actor.and_then(|actor| actor.name.as_deref())),
            address: event.address,
            user_agent: text(event.user_agent.as_deref()),
            client: text(event.client_name.as_deref()),
            client_version: text(event.client_version.as_deref()),
            era: text(event.era.as_deref()),
            protocol: text(event.protocol_version.as_deref()),
            http: text(event.http_method.as_deref()),
            rpc_id: text(event.rpc_id.as_deref()),
            session: text(event.session.as_deref()),
            rpc_code: event.rpc_code,
            error: text(event.error.as_deref()),
            rule: text(event.rule.as_deref()),
            forwarded: text(event.forwarded_target.as_deref()),
            request_mutated: event.request_mutated,
            response_mutated: event.response_mutated,
            filters: Cow::Borrowed(&event.filters),
            changes: Cow::Borrowed(&event.changes),
            bytes_in: event.bytes_in,
            bytes_out: event.bytes_out,
            messages: event.messages,
            upstream_us: event.upstream_us,
            first_byte_us: event.first_byte_us,
        }
    }
}

/// Rows, column by column: one statement takes them all.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) ts: Vec<Time>,
    pub(super) stream: Vec<Id>,
    pub(super) seq: Vec<i64>,
    request_id: Vec<Id>,
    category: Vec<&'a str>,
    kind: Vec<&'a str>,
    texts: [Vec<Option<Text<'a>>>; 8],
    outcome: Vec<&'a str>,
    status: Vec<i32>,
    total_us: Vec<i64>,
    detail: Vec<String>,
    digest: Vec<Vec<u8>>,
    bodies: Vec<Option<Vec<u8>>>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(rows: &'a [AuditRow]) -> Result<Self, serde_json::Error> {
        let mut columns = Self::default();
        for row in rows {
            let event = &row.event;
            let actor = event.actor.as_ref();
            columns.ts.push(Time(event.ts));
            columns.stream.push(Id(row.stream.0));
            columns.seq.push(row.seq.cast_signed());
            columns.request_id.push(Id(event.request_id));
            columns.category.push(event.category.as_str());
            columns.kind.push(event.kind.as_str());
            let texts = [
                actor.map(|actor| actor.subject.tenant.as_str()),
                actor.map(|actor| &*actor.subject.issuer),
                actor.map(|actor| &*actor.subject.id),
                actor.map(|actor| &*actor.id),
                event.server.as_deref(),
                event.method.as_deref(),
                event.target.as_deref(),
                event.trace_id.as_deref(),
            ];
            for (column, text) in columns.texts.iter_mut().zip(texts) {
                column.push(text.map(escape));
            }
            columns.outcome.push(event.outcome.as_str());
            columns.status.push(event.status.into());
            columns.total_us.push(event.total_us.cast_signed());
            columns.detail.push(serde_json::to_string(&Detail::of(event))?);
            let link = Link::of(row);
            columns.digest.push(link.digest.to_vec());
            columns.bodies.push(link.bodies.map(|bodies| bodies.to_vec()));
        }
        Ok(columns)
    }

    /// Inserts the rows and the links that are not there yet.
    pub(super) fn statement(&self) -> Statement<'_> {
        let [tenant, issuer, subject, actor, server, method, target, trace_id] = &self.texts;
        sqlx::query(INSERT)
            .bind(&self.ts)
            .bind(&self.stream)
            .bind(&self.seq)
            .bind(&self.request_id)
            .bind(&self.category)
            .bind(&self.kind)
            .bind(tenant)
            .bind(issuer)
            .bind(subject)
            .bind(actor)
            .bind(server)
            .bind(method)
            .bind(target)
            .bind(&self.outcome)
            .bind(&self.status)
            .bind(&self.total_us)
            .bind(trace_id)
            .bind(&self.detail)
            .bind(&self.digest)
            .bind(&self.bodies)
    }
}

const INSERT: &str = "WITH new AS (
    SELECT * FROM unnest($1::timestamptz[], $2::uuid[], $3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::text[], \
    $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::integer[], \
    $16::bigint[], $17::text[], $18::text[], $19::bytea[], $20::bytea[]) AS new (ts, stream, seq, request_id, category, \
    kind, tenant, issuer, subject, actor, server, method, target, outcome, status, total_us, trace_id, detail, digest, \
    bodies)
), linked AS (
    INSERT INTO mcp_gateway.link (stream, seq, ts, digest, bodies)
    SELECT stream, seq, ts, digest, bodies FROM new ON CONFLICT DO NOTHING
)
INSERT INTO mcp_gateway.event (ts, stream, seq, request_id, category, kind, tenant, issuer, subject, actor, server, \
    method, target, outcome, status, total_us, trace_id, detail) \
    SELECT ts, stream, seq, request_id, category, kind, tenant, issuer, subject, actor, server, method, target, outcome, \
    status, total_us, trace_id, detail FROM new ON CONFLICT DO NOTHING";

/// The stream and the number of a row, whatever else is in it.
pub(super) fn place(row: &PgRow) -> Result<(StreamId, u64), sqlx::Error> {
    Ok((StreamId(row.try_get::<Id, _>(1)?.0), row.try_get::<i64, _>(2)?.cast_unsigned()))
}

/// Reads a row; bodies are added by the caller.
pub(super) fn read(row: &PgRow) -> Result<AuditRow, sqlx::Error> {
    let detail: Detail<'_> = serde_json::from_str(row.try_get(17)?).map_err(corrupt)?;
    let boxed = |text: Option<Text<'_>>| text.map(|text| Arc::<str>::from(&*text));
    let label = |text: Option<Text<'_>>| text.map(|text| Label::from(text.into_owned()));
    let column = |number: usize| -> Result<Option<Text<'_>>, sqlx::Error> {
        Ok(row.try_get::<Option<&str>, _>(number)?.map(unescape))
    };
    let shared = |number: usize| Ok::<_, sqlx::Error>(column(number)?.map(|text| Arc::<str>::from(&*text)));
    let actor = match (shared(6)?, shared(7)?, shared(8)?, shared(9)?, detail.actor_kind) {
        (Some(tenant), Some(issuer), Some(subject), Some(id), Some(kind)) => Some(ActorFacts {
            subject: Subject { tenant: TenantId::new(tenant), issuer, id: subject },
            kind,
            id,
            name: detail.actor_name.map(|name| Arc::from(&*name)),
        }),
        _ => None,
    };
    let event = AuditEvent {
        ts: row.try_get::<Time, _>(0)?.0,
        request_id: row.try_get::<Id, _>(3)?.0,
        category: parse(row.try_get(4)?)?,
        kind: parse(row.try_get(5)?)?,
        actor,
        address: detail.address,
        user_agent: boxed(detail.user_agent),
        client_name: boxed(detail.client),
        client_version: boxed(detail.client_version),
        server: shared(10)?,
        era: label(detail.era),
        protocol_version: label(detail.protocol),
        http_method: label(detail.http),
        method: label(column(11)?),
        target: boxed(column(12)?),
        rpc_id: boxed(detail.rpc_id),
        session: boxed(detail.session),
        outcome: parse(row.try_get(13)?)?,
        status: u16::try_from(row.try_get::<i32, _>(14)?).map_err(corrupt)?,
        rpc_code: detail.rpc_code,
        error: detail.error.map(|text| Box::from(&*text)),
        rule: detail.rule.map(|rule| Arc::from(&*rule)),
        forwarded_target: boxed(detail.forwarded),
        request_mutated: detail.request_mutated,
        response_mutated: detail.response_mutated,
        filters: detail.filters.into_owned(),
        changes: detail.changes.into_owned(),
        bytes_in: detail.bytes_in,
        bytes_out: detail.bytes_out,
        messages: detail.messages,
        upstream_us: detail.upstream_us,
        first_byte_us: detail.first_byte_us,
        total_us: row.try_get::<i64, _>(15)?.cast_unsigned(),
        trace_id: boxed(column(16)?),
        span: None,
        bodies: None,
    };
    Ok(AuditRow { stream: StreamId(row.try_get::<Id, _>(1)?.0), seq: row.try_get::<i64, _>(2)?.cast_unsigned(), event })
}

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

/// What was sealed.
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

fn parse<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, sqlx::Error> {
    let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
    T::deserialize(text).map_err(corrupt)
}

fn corrupt(error: impl Into<BoxError>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
