//! The digest of a row, and the head of a stream.

use std::net::IpAddr;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::contract::{AuditRow, StreamId};
use crate::record::{ActorFacts, AuditBodies, AuditEvent, Category, ChangeFact, EventKind, FilterFact, Outcome};

const HEAD: &[u8] = b"mcp-gateway trail v1\0";
const BODIES: &[u8] = b"mcp-gateway trail bodies v1\0";

/// What the chain knows of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The row's stream.
    pub stream: StreamId,
    /// Its number.
    pub seq: u64,
    /// Its time, microseconds.
    pub ts: Timestamp,
    /// SHA-256 of [`canonical`].
    pub digest: [u8; 32],
    /// The commitment to its bodies, when some were captured.
    pub bodies: Option<[u8; 32]>,
}

impl Link {
    /// The link of a row. About 2 µs.
    #[must_use]
    pub fn of(row: &AuditRow) -> Self {
        let bodies = row.event.bodies.as_deref().map(commitment);
        Self { stream: row.stream, seq: row.seq, ts: row.event.ts, digest: digest(&row.event, bodies.as_ref()), bodies }
    }

    /// Whether this is the link of an event; bodies are checked if it has them.
    #[must_use]
    pub fn matches(&self, event: &AuditEvent) -> bool {
        let bodies = event.bodies.as_deref().map(commitment);
        digest(event, self.bodies.as_ref()) == self.digest
            && event.ts.as_microsecond() == self.ts.as_microsecond()
            && (bodies.is_none() || bodies == self.bodies)
    }
}

/// All links of a stream up to one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The stream.
    pub stream: StreamId,
    /// The number of the last link; how many they are.
    pub seq: u64,
    /// See the [module](super).
    pub hash: [u8; 32],
    /// The latest time of their rows.
    pub newest: Timestamp,
}

impl Head {
    /// Before the first link.
    #[must_use]
    pub fn start(stream: StreamId) -> Self {
        Self { stream, seq: 0, hash: [0; 32], newest: Timestamp::MIN }
    }

    /// Goes on by a link, which must be the next of the stream: the caller looks at its number.
    pub fn push(&mut self, link: &Link) {
        let mut hash = Sha256::new();
        hash.update(HEAD);
        hash.update(self.hash);
        hash.update(link.stream.0.to_bytes());
        hash.update(link.seq.to_be_bytes());
        hash.update(link.ts.as_microsecond().to_be_bytes());
        hash.update(link.digest);
        self.hash = hash.finalize().into();
        self.seq = link.seq;
        self.newest = self.newest.max(link.ts);
    }
}

fn digest(event: &AuditEvent, bodies: Option<&[u8; 32]>) -> [u8; 32] {
    Sha256::digest(canonical(event, bodies)).into()
}

/// The bytes that stand for an event: JSON, its members in this order, those that are not set left out. `bodies` is the
/// commitment to captured bodies.
///
/// Trails outlive programs: a member is only ever added, and left out where it has nothing to say.
///
/// # Panics
/// Never: every member is text or a number.
#[must_use]
pub fn canonical(event: &AuditEvent, bodies: Option<&[u8; 32]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(768);
    let canonical = Canonical {
        ts: event.ts.as_microsecond(),
        request_id: event.request_id,
        category: event.category,
        kind: event.kind,
        actor: event.actor.as_ref(),
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
        filters: &event.filters,
        changes: &event.changes,
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
        bodies: bodies.map(|bodies| hex(bodies)),
    };
    serde_json::to_writer(&mut out, &canonical).expect("text and numbers are JSON, and a vector takes it");
    out
}

#[derive(Serialize)]
struct Canonical<'a> {
    ts: i64,
    request_id: ulid::Ulid,
    category: Category,
    kind: EventKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a ActorFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    era: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded_target: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    request_mutated: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    response_mutated: bool,
    #[serde(skip_serializing_if = "<[FilterFact]>::is_empty")]
    filters: &'a [FilterFact],
    #[serde(skip_serializing_if = "<[ChangeFact]>::is_empty")]
    changes: &'a [ChangeFact],
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    outcome: Outcome,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    messages: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_us: Option<u64>,
    total_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bodies: Option<String>,
}

/// What binds a link to bodies, and tells nothing of them without their salt.
fn commitment(bodies: &AuditBodies) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(&bodies.salt).expect("HMAC takes keys of every length");
    mac.update(BODIES);
    let mut part = |bytes: &[u8]| {
        mac.update(&(bytes.len() as u64).to_be_bytes());
        mac.update(bytes);
    };
    part(&bodies.request);
    part(&bodies.response);
    for headers in [&bodies.request_headers, &bodies.response_headers] {
        part(&(headers.len() as u64).to_be_bytes());
        for (name, value) in headers {
            part(name.as_bytes());
            part(value.as_bytes());
        }
    }
    mac.finalize().into_bytes().into()
}

/// Lower case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Reads what [`hex`] wrote.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let text: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(bytes)
}
