//! Audit events in binary.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use jiff::Timestamp;
use mcp_gateway_core::record::{
    ActorFacts, ActorKind, AuditBodies, AuditEvent, Category, ChangeFact, EventKind, FilterFact, Outcome, Subject,
    TenantId,
};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// What is written to a segment, in postcard; it borrows both ways.
///
/// A mirror of [`AuditEvent`] of its own, because a spool outlives the program that wrote it: the order and types of
/// these fields are the file format, of the version in [`super::segment::VERSION`].
#[derive(Serialize, Deserialize)]
pub(super) enum Entry<'a> {
    /// A call is about to be forwarded. Takes a position, but no row.
    Intent(#[serde(borrow)] Event<'a>),
    /// A finished row, its intent merged into it. Takes a position and a row.
    Row(#[serde(borrow)] Event<'a>),
    /// An intent from an earlier segment that is still open, with its position there. Takes neither.
    Carried(u64, #[serde(borrow)] Event<'a>),
    /// What filters said in the exchange of the entry that follows, and belongs to it.
    Filtered(Cow<'a, [FilterFact]>),
    /// The salt of the bodies of the entry that follows.
    Salted([u8; 16]),
    /// What the act of the entry that follows changed.
    Changed(Cow<'a, [ChangeFact]>),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Event<'a> {
    ts: i64,
    request_id: [u8; 16],
    category: Category,
    kind: EventKind,
    #[serde(borrow)]
    actor: Option<Actor<'a>>,
    address: Option<IpAddr>,
    user_agent: Option<&'a str>,
    client_name: Option<&'a str>,
    client_version: Option<&'a str>,
    server: Option<&'a str>,
    era: Option<&'a str>,
    protocol_version: Option<&'a str>,
    http_method: Option<&'a str>,
    method: Option<&'a str>,
    target: Option<&'a str>,
    forwarded_target: Option<&'a str>,
    request_mutated: bool,
    response_mutated: bool,
    rpc_id: Option<&'a str>,
    session: Option<&'a str>,
    outcome: Outcome,
    status: u16,
    rpc_code: Option<i64>,
    error: Option<&'a str>,
    rule: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    messages: u32,
    upstream_us: Option<u64>,
    first_byte_us: Option<u64>,
    total_us: u64,
    trace_id: Option<&'a str>,
    #[serde(borrow)]
    bodies: Option<Bodies<'a>>,
    /// In an entry of its own, and only when there are some.
    #[serde(skip)]
    pub(super) filters: Cow<'a, [FilterFact]>,
    /// In an entry of its own, and only when there are some.
    #[serde(skip)]
    pub(super) changes: Cow<'a, [ChangeFact]>,
    /// Of its bodies; in an entry of its own, and only when there are some.
    #[serde(skip)]
    pub(super) salt: Option<[u8; 16]>,
}

#[derive(Serialize, Deserialize)]
struct Actor<'a> {
    tenant: &'a str,
    issuer: &'a str,
    subject: &'a str,
    kind: ActorKind,
    id: &'a str,
    name: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct Bodies<'a> {
    #[serde(borrow)]
    request: Raw<'a>,
    #[serde(borrow)]
    response: Raw<'a>,
    #[serde(borrow)]
    request_headers: Vec<(&'a str, &'a str)>,
    #[serde(borrow)]
    response_headers: Vec<(&'a str, &'a str)>,
}

/// Bytes that are copied as one piece.
#[derive(Deserialize)]
struct Raw<'a>(#[serde(borrow)] &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A newtype around bytes, as the derived `Deserialize` expects it.
        struct Inner<'a>(&'a [u8]);
        impl Serialize for Inner<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(self.0)
            }
        }
        serializer.serialize_newtype_struct("Raw", &Inner(self.0))
    }
}

impl<'a> Entry<'a> {
    /// The event; `None` of an entry that belongs to the one that follows.
    pub(super) fn event_mut(&mut self) -> Option<&mut Event<'a>> {
        match self {
            Self::Intent(event) | Self::Row(event) | Self::Carried(_, event) => Some(event),
            Self::Filtered(_) | Self::Salted(_) | Self::Changed(_) => None,
        }
    }
}

impl<'a> From<&'a AuditEvent> for Event<'a> {
    fn from(event: &'a AuditEvent) -> Self {
        Self {
            ts: event.ts.as_microsecond(),
            request_id: event.request_id.to_bytes(),
            category: event.category,
            kind: event.kind,
            actor: event.actor.as_ref().map(|actor| Actor {
                tenant: actor.subject.tenant.as_str(),
                issuer: &actor.subject.issuer,
                subject: &actor.subject.id,
                kind: actor.kind,
                id: &actor.id,
                name: actor.name.as_deref(),
            }),
            address: event.address,
            user_agent: event.user_agent.as_deref(),
            client_name: event.client_name.as_deref(),
            client_version: event.client_version.as_deref(),
            server: event.server.as_deref(),
            era: event.era.as_deref(),
            protocol_version: event.protocol_version.as_deref(),
            http_method: event.http_method.as_deref(),
            method: event.method.as_deref(),
            target: event.target.as_deref(),
            forwarded_target: event.forwarded_target.as_deref(),
            request_mutated: event.request_mutated,
            response_mutated: event.response_mutated,
            rpc_id: event.rpc_id.as_deref(),
            session: event.session.as_deref(),
            outcome: event.outcome,
            status: event.status,
            rpc_code: event.rpc_code,
            error: event.error.as_deref(),
            rule: event.rule.as_deref(),
            bytes_in: event.bytes_in,
            bytes_out: event.bytes_out,
            messages: event.messages,
            upstream_us: event.upstream_us,
            first_byte_us: event.first_byte_us,
            total_us: event.total_us,
            trace_id: event.trace_id.as_deref(),
            bodies: event.bodies.as_deref().map(|bodies| Bodies {
                request: Raw(&bodies.request),
                response: Raw(&bodies.response),
                request_headers: borrow(&bodies.request_headers),
                response_headers: borrow(&bodies.response_headers),
            }),
            filters: Cow::Borrowed(&event.filters),
            changes: Cow::Borrowed(&event.changes),
            salt: event.bodies.as_deref().map(|bodies| bodies.salt),
        }
    }
}

impl Event<'_> {
    /// The event; `None` when its time does not exist.
    pub(super) fn into_event(self) -> Option<AuditEvent> {
        Some(AuditEvent {
            ts: Timestamp::from_microsecond(self.ts).ok()?,
            request_id: Ulid::from_bytes(self.request_id),
            category: self.category,
            kind: self.kind,
            actor: self.actor.map(|actor| ActorFacts {
                subject: Subject {
                    tenant: TenantId::new(actor.tenant),
                    issuer: actor.issuer.into(),
                    id: actor.subject.into(),
                },
                kind: actor.kind,
                id: actor.id.into(),
                name: actor.name.map(Into::into),
            }),
            address: self.address,
            user_agent: self.user_agent.map(Into::into),
            client_name: self.client_name.map(Into::into),
            client_version: self.client_version.map(Into::into),
            server: self.server.map(Into::into),
            era: self.era.map(|text| text.to_owned().into()),
            protocol_version: self.protocol_version.map(|text| text.to_owned().into()),
            http_method: self.http_method.map(|text| text.to_owned().into()),
            method: self.method.map(|text| text.to_owned().into()),
            target: self.target.map(Into::into),
            forwarded_target: self.forwarded_target.map(Into::into),
            request_mutated: self.request_mutated,
            response_mutated: self.response_mutated,
            filters: self.filters.into_owned(),
            changes: self.changes.into_owned(),
            rpc_id: self.rpc_id.map(Into::into),
            session: self.session.map(Into::into),
            outcome: self.outcome,
            status: self.status,
            rpc_code: self.rpc_code,
            error: self.error.map(Into::into),
            rule: self.rule.map(Into::into),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            messages: self.messages,
            upstream_us: self.upstream_us,
            first_byte_us: self.first_byte_us,
            total_us: self.total_us,
            trace_id: self.trace_id.map(Into::into),
            span: None,
            bodies: self.bodies.map(|bodies| {
                Box::new(AuditBodies {
                    // None of those that an older program wrote.
                    salt: self.salt.unwrap_or_default(),
                    request: Bytes::copy_from_slice(bodies.request.0),
                    response: Bytes::copy_from_slice(bodies.response.0),
                    request_headers: own(&bodies.request_headers),
                    response_headers: own(&bodies.response_headers),
                })
            }),
        })
    }
}

fn borrow(headers: &[(Box<str>, Box<str>)]) -> Vec<(&str, &str)> {
    headers.iter().map(|(name, value)| (&**name, &**value)).collect()
}

fn own(headers: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
    headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}
