//! The append-only trail.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::StoreError;
use crate::record::{AuditEvent, Category, Outcome, TenantId};
use crate::trail::{Checkpoint, Link};

/// Keeps the audit trail: appended by the spool's writer, queried by the admin API.
///
/// `append` is called in batches of up to some thousand rows by one writer per process; never on the path of a call.
/// Dropping a future of `append` leaves the outcome unknown; the writer appends the same batch again.
#[async_trait]
pub trait AuditStore: Send + Sync + 'static {
    /// Appends rows, and with each its [link](Link::of) in the same transaction. Idempotent on `(ts, stream, seq)`: a row
    /// that is there already is left as it is, and so is its link.
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
    ///
    /// Links stay, except those up to the last checkpoint of their stream that has only rows that are gone, and the
    /// checkpoints before that one: from it on, what is left can still be verified. Of the signed
    /// [retention marks](crate::trail::MARKS) the last one stays.
    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// Reads the links of all streams in the order of `(stream, seq)`, each with its event if that is there. At most
    /// 1,000; for whoever verifies, copies or exports, not for queries.
    async fn chain(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<ChainRow>, StoreError>;

    /// Streams that have rows without a link, in order. Reads the whole trail.
    async fn unlinked(&self) -> Result<Vec<Unlinked>, StoreError>;

    /// Reads checkpoints in the order of `(stream, seq)`, at most 1,000.
    async fn checkpoints(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<Checkpoint>, StoreError>;

    /// Adds links of rows that are gone; one that is there is left as it is. Adds checkpoints; one that is there already
    /// is replaced, since it was signed again, but a [mark](crate::trail::MARKS) is left as it is.
    async fn put_chain(&self, links: Vec<Link>, checkpoints: Vec<Checkpoint>) -> Result<(), StoreError>;
}

/// A link with its event.
#[derive(Debug, Clone)]
pub struct ChainRow {
    /// The link.
    pub link: Link,
    /// The event of the same stream, number and time.
    pub event: Option<AuditEvent>,
    /// Whether there is one that cannot be read: no program wrote it like this.
    pub unreadable: bool,
}

/// A stream with rows that have no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unlinked {
    /// The stream.
    pub stream: StreamId,
    /// How many they are.
    pub rows: u64,
    /// The number of the first.
    pub seq: u64,
    /// Its time.
    pub ts: Timestamp,
    /// The latest time of all.
    pub newest: Timestamp,
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
