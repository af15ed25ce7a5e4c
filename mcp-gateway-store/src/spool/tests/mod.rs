mod chain;
mod crash;
mod edges;
mod format;
mod replay;
mod through;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use mcp_gateway_core::contract::{
    AuditCursor, AuditFilter, AuditPage, AuditRow, AuditStore, ChainRow, StoreError, StoreErrorKind, SystemClock,
    Unlinked, Usage, UsageWindow,
};
use mcp_gateway_core::memory::MemoryAuditStore;
use mcp_gateway_core::record::{Category, EventKind, Outcome};
use mcp_gateway_core::trail::{Checkpoint, Link};
use tempfile::TempDir;

use super::*;

/// A store that can be away.
#[derive(Debug)]
struct Gate {
    rows: MemoryAuditStore,
    away: AtomicBool,
    /// After so many more batches it goes away.
    batches: AtomicUsize,
}

impl Gate {
    fn new(away: bool) -> Arc<Self> {
        let rows = MemoryAuditStore::with_limit(1_000_000);
        Arc::new(Self { rows, away: AtomicBool::new(away), batches: AtomicUsize::new(usize::MAX) })
    }

    fn away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }
}

#[async_trait]
impl AuditStore for Gate {
    async fn append(&self, batch: Vec<AuditRow>) -> Result<(), StoreError> {
        let left = self.batches.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_err() || self.away.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "append").because("away"));
        }
        self.rows.append(batch).await
    }

    async fn query(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> Result<AuditPage, StoreError> {
        self.rows.query(filter, after, limit).await
    }

    async fn usage(&self, window: &UsageWindow) -> Result<Usage, StoreError> {
        self.rows.usage(window).await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.rows.prune(before).await
    }

    async fn chain(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<ChainRow>, StoreError> {
        self.rows.chain(after, limit).await
    }

    async fn unlinked(&self) -> Result<Vec<Unlinked>, StoreError> {
        self.rows.unlinked().await
    }

    async fn checkpoints(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<Checkpoint>, StoreError> {
        self.rows.checkpoints(after, limit).await
    }

    async fn put_chain(&self, links: Vec<Link>, checkpoints: Vec<Checkpoint>) -> Result<(), StoreError> {
        self.rows.put_chain(links, checkpoints).await
    }
}

fn key() -> SpoolKey {
    SpoolKey::new(&[1; 32])
}

fn options(dir: &Path) -> SpoolOptions {
    SpoolOptions::new(dir, key())
}

fn open(options: SpoolOptions, store: &Arc<Gate>) -> (Spool, SpoolDriver) {
    Spool::open(options, Arc::clone(store) as Arc<dyn AuditStore>, Arc::new(SystemClock)).unwrap()
}

fn event(n: u64, kind: EventKind) -> AuditEvent {
    let ts = Timestamp::from_microsecond(1_700_000_000_000_000 + i64::try_from(n).unwrap()).unwrap();
    let mut event = AuditEvent::new(ts, Ulid::from_parts(1, n.into()), Category::Mcp, kind);
    event.method = Some("tools/call".into());
    event.target = Some("echo".into());
    if kind != EventKind::Intent {
        event.outcome = Outcome::Ok;
    }
    event
}

fn exchange(n: u64) -> AuditEvent {
    event(n, EventKind::Exchange)
}

fn id(event: &AuditEvent) -> u64 {
    u64::try_from(event.request_id.random()).unwrap()
}

/// Every row, by stream and number.
async fn rows(store: &dyn AuditStore) -> Vec<AuditRow> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = store.query(&AuditFilter::default(), after, 1_000).await.unwrap();
        rows.extend(page.rows);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    rows.sort_by_key(|row| (row.stream, row.seq));
    rows
}

/// The directories of streams, without the root's other files.
fn streams(root: &TempDir) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(root.path()).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

/// Ends a spool as a crash would: what it has written stays, whatever the store took.
async fn crash(spool: Spool, driver: SpoolDriver, store: &Gate) {
    store.away(true);
    drop(spool);
    driver.close().await;
    store.away(false);
}
