//! Counts refusals of callers that nobody knows.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use ulid::Ulid;

use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::AuditSink;
use crate::record::{AuditEvent, Category, EventKind, Outcome};

/// Refusals of strangers, per address and status, since they were last written to the trail; and what they were let do
/// (a status below 400), where that leaves no rows of its own.
#[derive(Debug)]
pub struct Strangers {
    limit: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    counts: HashMap<(Category, Option<IpAddr>, u16), Count>,
    /// Refusals whose address found no place in the table.
    others: u32,
}

#[derive(Debug)]
struct Count {
    first: Timestamp,
    last_request: Ulid,
    refusals: u32,
}

impl Strangers {
    /// A table of at most `limit` addresses (`limits.refusal_addresses`).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, table: Mutex::default() }
    }

    /// Counts a refusal or act with this status, by the data plane or whatever else the category says.
    pub fn count(&self, cx: &McpContext, category: Category, status: u16) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (category, cx.address().copied(), status);
        if !table.counts.contains_key(&key) && table.counts.len() >= self.limit {
            table.others = table.others.saturating_add(1);
            return;
        }
        let count = table.counts.entry(key).or_insert_with(|| Count {
            first: cx.began_at(),
            last_request: cx.request_id(),
            refusals: 0,
        });
        count.refusals = count.refusals.saturating_add(1);
        count.last_request = cx.request_id();
    }

    /// Writes what was counted to the trail and begins anew: once a minute, and before a stop.
    ///
    /// What the sink does not take is dropped: strangers never press on the operator's `audit.on_full`.
    pub async fn flush(&self, sink: &dyn AuditSink, now: Timestamp) {
        let Table { counts, others } = std::mem::take(&mut *self.table.lock().unwrap_or_else(PoisonError::into_inner));
        for ((category, address, status), count) in counts {
            let (kind, outcome) = match status {
                400.. => (EventKind::RefusedMany, Outcome::Denied),
                _ => (EventKind::Act, Outcome::Ok),
            };
            let mut event = AuditEvent::new(count.first, count.last_request, category, kind);
            event.outcome = outcome;
            event.address = address;
            event.status = status;
            event.messages = count.refusals;
            record(sink, event).await;
        }
        if others > 0 {
            let mut event = AuditEvent::new(now, Ulid::generate(), Category::Mcp, EventKind::RefusedMany);
            event.outcome = Outcome::Denied;
            event.messages = others;
            event.error = Some("from further addresses".into());
            record(sink, event).await;
        }
    }
}

async fn record(sink: &dyn AuditSink, event: AuditEvent) {
    let recorded = match sink.record(event) {
        MaybeReady::Ready(recorded) => recorded,
        MaybeReady::Wait(wait) => wait.await,
    };
    if let Err(error) = recorded {
        tracing::warn!(%error, "refusals of strangers are not in the audit trail");
    }
}
