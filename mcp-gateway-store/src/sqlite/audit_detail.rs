//! What of an audit event is neither searched nor counted, in one column.

use std::net::IpAddr;

use mcp_gateway_core::BoxError;
use mcp_gateway_core::record::{ActorKind, AuditEvent, ChangeFact, FilterFact};
use serde::{Deserialize, Serialize};

/// The version of the form, its first byte.
const VERSION: u8 = 1;

/// The column `detail`, in postcard behind a byte with its version: bytes are what a row costs.
///
/// A mirror of [`AuditEvent`] of its own, because a trail outlives the program that wrote it: the order and types of
/// these fields are the form of [`VERSION`]. What filters said stands behind it, where they said
/// something, and behind that what an act changed.
#[derive(Serialize, Deserialize)]
pub(super) struct Detail<'a> {
    pub(super) actor_kind: Option<ActorKind>,
    pub(super) actor_name: Option<&'a str>,
    pub(super) address: Option<IpAddr>,
    pub(super) user_agent: Option<&'a str>,
    pub(super) client_name: Option<&'a str>,
    pub(super) client_version: Option<&'a str>,
    pub(super) era: Option<&'a str>,
    pub(super) protocol_version: Option<&'a str>,
    pub(super) http_method: Option<&'a str>,
    pub(super) rpc_id: Option<&'a str>,
    pub(super) session: Option<&'a str>,
    pub(super) rpc_code: Option<i64>,
    pub(super) error: Option<&'a str>,
    pub(super) rule: Option<&'a str>,
    pub(super) forwarded_target: Option<&'a str>,
    pub(super) request_mutated: bool,
    pub(super) response_mutated: bool,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) messages: u32,
    pub(super) upstream_us: Option<u64>,
    pub(super) first_byte_us: Option<u64>,
    #[serde(skip)]
    pub(super) filters: Vec<FilterFact>,
    #[serde(skip)]
    pub(super) changes: Vec<ChangeFact>,
}

impl<'a> Detail<'a> {
    /// Puts an event's detail in the place of what is in `out`.
    pub(super) fn write(event: &AuditEvent, out: &mut Vec<u8>) -> Result<(), postcard::Error> {
        let detail = Detail {
            actor_kind: event.actor.as_ref().map(|actor| actor.kind),
            actor_name: event.actor.as_ref().and_then(|actor| actor.name.as_deref()),
            address: event.address,
            user_agent: event.user_agent.as_deref(),
            client_name: event.client_name.as_deref(),
            client_version: event.client_version.as_deref(),
            era: event.era.as_deref(),
            protocol_version: event.protocol_version.as_deref(),
            http_method: event.http_method.as_deref(),
            rpc_id: event.rpc_id.as_deref(),
            session: event.session.as_deref(),
            rpc_code: event.rpc_code,
            error: event.error.as_deref(),
            rule: event.rule.as_deref(),
            forwarded_target: event.forwarded_target.as_deref(),
            request_mutated: event.request_mutated,
            response_mutated: event.response_mutated,
            bytes_in: event.bytes_in,
            bytes_out: event.bytes_out,
            messages: event.messages,
            upstream_us: event.upstream_us,
            first_byte_us: event.first_byte_us,
            filters: Vec::new(),
            changes: Vec::new(),
        };
        out.clear();
        out.push(VERSION);
        crate::append::postcard(&detail, out)?;
        if !event.filters.is_empty() || !event.changes.is_empty() {
            crate::append::postcard(&event.filters, out)?;
        }
        if event.changes.is_empty() { Ok(()) } else { crate::append::postcard(&event.changes, out) }
    }

    /// Reads what [`write`](Self::write) made.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, BoxError> {
        match bytes.split_first() {
            Some((&VERSION, detail)) => {
                let (mut detail, rest) = postcard::take_from_bytes::<Self>(detail)?;
                if !rest.is_empty() {
                    let (filters, rest) = postcard::take_from_bytes(rest)?;
                    detail.filters = filters;
                    if !rest.is_empty() {
                        detail.changes = postcard::from_bytes(rest)?;
                    }
                }
                Ok(detail)
            }
            version => {
                Err(format!("details of version {:?} are not known here", version.map(|(first, _)| first)).into())
            }
        }
    }
}
