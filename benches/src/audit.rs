//! Audit events to measure with.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use mcp_gateway_core::contract::{
    AuditCursor, AuditFilter, AuditPage, AuditRow, AuditStore, ChainRow, StoreError, StreamId, Unlinked, Usage,
    UsageWindow,
};
use mcp_gateway_core::record::{ActorFacts, ActorKind, AuditEvent, Category, EventKind, Outcome, Subject, TenantId};
use mcp_gateway_core::trail::{Checkpoint, Link};
use ulid::Ulid;

/// The event of call `n` of a tool, by one of so many users.
#[must_use]
pub fn event(n: u64, users: u64, kind: EventKind) -> AuditEvent {
    // 20,000 a second.
    let micros = i64::try_from(n).map_or(0, |n| n * 50);
    let ts = Timestamp::from_microsecond(1_800_000_000_000_000 + micros).unwrap_or(Timestamp::UNIX_EPOCH);
    let id = Ulid::from_parts(1_800_000_000_000, u128::from(n) << 16);
    let mut event = AuditEvent::new(ts, id, Category::Mcp, kind);
    let user = n % users;
    event.actor = Some(ActorFacts {
        subject: Subject { tenant: TenantId::default(), issuer: Arc::from("local"), id: format!("user-{user}").into() },
        kind: ActorKind::ApiKey,
        id: format!("01JCKEY{user:019}").into(),
        name: Some(Arc::from("laptop")),
    });
    event.address = Some([192, 0, 2, 7].into());
    event.user_agent = Some("node".into());
    event.client_name = Some("claude-code".into());
    event.client_version = Some("2.1.0".into());
    event.server = Some(format!("server-{}", n % 20).into());
    event.era = Some("legacy".into());
    event.protocol_version = Some("2025-11-25".into());
    event.http_method = Some("POST".into());
    event.method = Some("tools/call".into());
    event.target = Some(format!("tool-{}", n % 100).into());
    event.rpc_id = Some(n.to_string().into());
    event.session = Some("9f86d081884c7d65".into());
    event.rule = Some(Arc::from("default"));
    event.trace_id = Some(format!("{n:032x}").into());
    event.bytes_in = 1_024;
    if kind != EventKind::Intent {
        event.outcome = Outcome::Ok;
        event.status = 200;
        event.bytes_out = 1_024;
        event.upstream_us = Some(700);
        event.first_byte_us = Some(740);
        event.total_us = 900;
    }
    event
}

/// An audit store that takes everything for nothing.
#[derive(Debug)]
pub struct Nowhere;

#[async_trait]
impl AuditStore for Nowhere {
    async fn append(&self, _: Vec<AuditRow>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn query(&self, _: &AuditFilter, _: Option<AuditCursor>, _: usize) -> Result<AuditPage, StoreError> {
        Ok(AuditPage { rows: Vec::new(), next: None })
    }

    async fn usage(&self, _: &UsageWindow) -> Result<Usage, StoreError> {
        Ok(Usage::default())
    }

    async fn prune(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn chain(&self, _: Option<(StreamId, u64)>, _: usize) -> Result<Vec<ChainRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn unlinked(&self) -> Result<Vec<Unlinked>, StoreError> {
        Ok(Vec::new())
    }

    async fn checkpoints(&self, _: Option<(StreamId, u64)>, _: usize) -> Result<Vec<Checkpoint>, StoreError> {
        Ok(Vec::new())
    }

    async fn put_chain(&self, _: Vec<Link>, _: Vec<Checkpoint>) -> Result<(), StoreError> {
        Ok(())
    }
}
