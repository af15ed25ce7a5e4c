//! The append-only trail.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoreError;
use crate::record::{AuditEvent, Category, Outcome, TenantId};

/// Keeps the audit trail: appended by the spool's writer, queried by the admin API.
///
/// `append` is called in batches of up to some thousand rows by one writer per process; never on the path of a call.
/// Dropping a future of `append` leaves the outcome unknown; the writer appends the same batch again.
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// Appends rows. Idempotent on `(ts, stream, seq)`: a row that is there already is left as it is.
    async fn append(&self, batch: Vec<AuditRow>) -> Result<(), StoreError>;

    /// Reads rows, newest first.
    async fn query(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> Result<AuditPage, StoreError>;

    /// Counts calls in a window.
    async fn usage(&self, window: &UsageWindow) -> Result<Usage, StoreError>;

    /// Deletes rows before a time and says how many. A store that deletes whole days (UTC) keeps the one that the time is in.
    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError>;
}

/// One writer's life: a new one each time a process opens its spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub ulid::Ulid);

/// An event with its place in the trail.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// The writer's life.
    pub stream: StreamId,
    /// From 1, without a gap among the rows of a stream.
    pub seq: u64,
    /// What happened.
    pub event: AuditEvent,
}

/// Which rows to read; every field that is set must match.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// One tenant.
    pub tenant: Option<TenantId>,
    /// At or after.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
    /// Of this category.
    pub category: Option<Category>,
    /// On this server.
    pub server: Option<String>,
    /// By this subject's id.
    pub subject: Option<String>,
    /// With this key or client.
    pub actor: Option<String>,
    /// Of this method (`tools/call`) or admin action.
    pub method: Option<String>,
    /// On this tool, prompt or resource.
    pub target: Option<String>,
    /// With this outcome.
    pub outcome: Option<Outcome>,
    /// Of this request.
    pub request_id: Option<String>,
    /// Of this trace.
    pub trace_id: Option<String>,
}

/// The position after a row, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditCursor {
    /// Its time.
    pub ts: Timestamp,
    /// Its stream.
    pub stream: StreamId,
    /// Its number.
    pub seq: u64,
}

/// One page of the trail.
#[derive(Debug, Clone)]
pub struct AuditPage {
    /// Newest first.
    pub rows: Vec<AuditRow>,
    /// Where the next page begins; `None` when this was the last.
    pub next: Option<AuditCursor>,
}

/// What to count.
#[derive(Debug, Clone)]
pub struct UsageWindow {
    /// One tenant.
    pub tenant: Option<TenantId>,
    /// At or after.
    pub from: Timestamp,
    /// Before.
    pub to: Timestamp,
    /// Only this server.
    pub server: Option<String>,
}

/// Counts of a window.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// One row per server, method and target, in that order.
    pub rows: Vec<UsageRow>,
}

/// Counts of one server, method and target.
#[derive(Debug, Clone)]
pub struct UsageRow {
    /// The server's id.
    pub server: String,
    /// The method.
    pub method: String,
    /// The tool, prompt or resource, if the method names one.
    pub target: Option<String>,
    /// All exchanges.
    pub calls: u64,
    /// Those whose outcome is not `ok`.
    pub errors: u64,
    /// Different subjects.
    pub subjects: u64,
    /// The mean total time.
    pub mean: Duration,
}
