//! The audit trail in a SQLite file of its own.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use mcp_gateway_core::contract::{
    AuditCursor, AuditFilter, AuditPage, AuditRow, AuditStore, ChainRow, StoreError, StoreErrorKind, StoreLimits,
    StreamId, Unlinked, Usage, UsageRow, UsageWindow,
};
use mcp_gateway_core::record::FieldSealer;
use mcp_gateway_core::trail::{Checkpoint, Link};
use rusqlite::Connection;
use rusqlite::types::Value;
use tokio::sync::oneshot;

use super::audit_chain;
use super::audit_presence::Place;
use super::audit_query::Selection;
use super::audit_row::{self, COLUMNS};
use super::audit_writer::{Request, Writer};
use super::connection::{open_reader, open_writer};
use super::lock::FileLock;
use super::migrate::Schema;
use super::resource_reader::{ReadError, Readers};
use super::{Durability, OpenError};

/// Requests that may wait for the writer. The spool's drain has one at a time.
const WAITING: usize = 64;
/// Bytes of a page: twice SQLite's default, as rows are longer than those of most tables. A commit writes whole pages.
const PAGE: u32 = 8_192;
/// Pages in the write-ahead log before they are moved to the file: 32 MiB, so that a page that changes with every batch
/// is moved once for many batches.
const CHECKPOINT_PAGES: u32 = 4_096;
/// Rows that a prune deletes in one transaction, so that appends get their turn in between.
const PRUNE: usize = 2_000;

const SCHEMA: Schema =
    Schema { name: "audit-trail", migrations: &[include_str!("audit.sql"), include_str!("chain.sql")] };

/// Keeps the audit trail in a SQLite file of its own, for one process.
///
/// One thread of low priority writes, a batch in a transaction. Reads run on tokio's blocking threads, on connections of
/// their own. Clones share the file; it is closed when the last one is dropped.
#[derive(Clone)]
pub struct SqliteAuditStore {
    inner: Arc<Inner>,
}

/// How a [`SqliteAuditStore`] works.
#[derive(Clone)]
#[non_exhaustive]
pub struct SqliteAuditOptions {
    /// What a batch that was appended survives.
    pub durability: Durability,
    /// Whether events come with captured bodies. They are stored only sealed: with this on, opening without a sealer
    /// is an error. Off, bodies that come all the same are dropped.
    pub bodies: bool,
    /// Seals captured bodies.
    pub sealer: Option<Arc<dyn FieldSealer>>,
    /// Connections that read at the same time; 2 by default.
    pub readers: usize,
    /// After so much work in a batch the writer rests, so that calls never wait behind a whole batch; 200 us by default.
    pub work: Duration,
    /// How long it rests; 400 us by default, which leaves it a third of a core.
    pub rest: Duration,
}

impl Default for SqliteAuditOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            bodies: false,
            sealer: None,
            readers: 2,
            work: Duration::from_micros(200),
            rest: Duration::from_micros(400),
        }
    }
}

impl SqliteAuditOptions {
    /// The same with this durability.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The same with captured bodies, sealed by this.
    #[must_use]
    pub fn with_bodies(mut self, sealer: Arc<dyn FieldSealer>) -> Self {
        self.bodies = true;
        self.sealer = Some(sealer);
        self
    }
}

impl std::fmt::Debug for SqliteAuditOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteAuditOptions")
            .field("durability", &self.durability)
            .field("bodies", &self.bodies)
            .field("readers", &self.readers)
            .finish_non_exhaustive()
    }
}

struct Inner {
    readers: Arc<Readers>,
    sealer: Option<Arc<dyn FieldSealer>>,
    turns: Arc<tokio::sync::Semaphore>,
    /// `None` while the last clone is being dropped, and of a trail that is only read.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl SqliteAuditStore {
    /// Opens a file, creating it where there is none, and brings its schema up to date. Blocks: called once, at start.
    ///
    /// # Errors
    /// [`OpenError`] names the file and says what to do; [`OpenError::Unsealed`] when bodies would be captured and
    /// nothing seals them.
    pub fn open(path: impl AsRef<Path>, options: SqliteAuditOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        if options.bodies && options.sealer.is_none() {
            return Err(OpenError::Unsealed { path: path.to_owned() });
        }
        let lock = FileLock::acquire(path)?;
        let mut connection = open_writer(path, options.durability, PAGE)?;
        SCHEMA.migrate(&mut connection, path)?;
        connection
            .pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
            .map_err(|error| OpenError::Database { path: path.to_owned(), source: error.into() })?;
        let readers = Arc::new(Readers::new(path.to_owned(), options.readers.max(1)));
        let sealer = options.sealer.clone();
        let writer = Writer::new(connection, options, lock);
        let (requests, queue) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("audit-sqlite".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        let inner = Inner {
            readers,
            sealer,
            turns: Arc::new(tokio::sync::Semaphore::new(WAITING)),
            requests: Some(requests),
            writer: Some(writer),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens a file that a server may have open, to read and verify: it neither makes, locks nor migrates anything, and what
    /// would write is [`Unavailable`](StoreErrorKind::Unavailable).
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_to_read(path: impl AsRef<Path>, sealer: Option<Arc<dyn FieldSealer>>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let database = |error: rusqlite::Error| OpenError::Database { path: path.to_owned(), source: error.into() };
        SCHEMA.check(&open_reader(path).map_err(database)?, path)?;
        let readers = Arc::new(Readers::new(path.to_owned(), 1));
        let turns = Arc::new(tokio::sync::Semaphore::new(WAITING));
        Ok(Self { inner: Arc::new(Inner { readers, sealer, turns, requests: None, writer: None }) })
    }

    async fn write<T>(
        &self,
        op: &'static str,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::new(StoreErrorKind::Unavailable, op).because("the SQLite writer has ended");
        let _turn = self.inner.turns.acquire().await.map_err(|_| gone())?;
        let (reply, answer) = oneshot::channel();
        let requests = self.inner.requests.as_ref().ok_or_else(gone)?;
        requests.send(request(reply)).map_err(|_| gone())?;
        // The writer took it and went away without an answer.
        answer.await.unwrap_or_else(|_| Err(StoreError::new(StoreErrorKind::Unknown, op)))
    }
}

impl std::fmt::Debug for SqliteAuditStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteAuditStore").field("path", &self.inner.readers.path()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer ends when nobody can ask any more; the lock is free when it has.
        drop(self.requests.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(file = %self.readers.path().display(), "the SQLite audit writer panicked");
        }
    }
}

#[async_trait]
impl AuditStore for SqliteAuditStore {
    async fn append(&self, batch: Vec<AuditRow>) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write("append", |reply| Request::Append { batch, reply }).await
    }

    async fn query(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> Result<AuditPage, StoreError> {
        match limit {
            0 => return Err(StoreError::new(StoreErrorKind::Invalid, "query").because("a page of no rows")),
            1..=StoreLimits::PAGE => {}
            _ => return Err(StoreError::new(StoreErrorKind::TooLarge, "query").because("more than 1,000 rows a page")),
        }
        let Some(selection) = Selection::of(filter, after) else {
            return Ok(AuditPage { rows: Vec::new(), next: None });
        };
        let sealer = self.inner.sealer.clone();
        self.inner.readers.run("query", move |connection| page(connection, selection, limit, sealer.as_deref())).await
    }

    async fn usage(&self, window: &UsageWindow) -> Result<Usage, StoreError> {
        let filter = AuditFilter {
            tenant: window.tenant.clone(),
            from: Some(window.from),
            to: Some(window.to),
            server: window.server.clone(),
            ..AuditFilter::default()
        };
        let Some(selection) = Selection::of(&filter, None) else { return Ok(Usage::default()) };
        self.inner.readers.run("usage", move |connection| usage(connection, &selection)).await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut pruned = 0;
        loop {
            let some = self.write("prune", |reply| Request::Prune { before, limit: PRUNE, reply }).await?;
            pruned += some;
            if some < PRUNE as u64 {
                break;
            }
        }
        let mut after = Some(Place::default());
        while let Some(place) = after {
            after = self
                .write("prune", |reply| Request::PrunePresence { before, after: place, limit: PRUNE, reply })
                .await?;
        }
        while self.write("prune", |reply| Request::PruneChain { before, limit: PRUNE, reply }).await? > 0 {}
        Ok(pruned)
    }

    async fn chain(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<ChainRow>, StoreError> {
        let sealer = self.inner.sealer.clone();
        let read = move |connection: &Connection| audit_chain::read(connection, after, limit, sealer.as_deref());
        self.inner.readers.run("chain", read).await
    }

    async fn unlinked(&self) -> Result<Vec<Unlinked>, StoreError> {
        self.inner.readers.run("unlinked", audit_chain::unlinked).await
    }

    async fn checkpoints(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<Checkpoint>, StoreError> {
        let read = move |connection: &Connection| audit_chain::checkpoints(connection, after, limit);
        self.inner.readers.run("checkpoints", read).await
    }

    async fn put_chain(&self, links: Vec<Link>, checkpoints: Vec<Checkpoint>) -> Result<(), StoreError> {
        self.write("put chain", |reply| Request::Chain { links, checkpoints, reply }).await
    }
}

fn page(
    connection: &Connection,
    selection: Selection,
    limit: usize,
    sealer: Option<&dyn FieldSealer>,
) -> Result<AuditPage, ReadError> {
    let Selection { text, mut values, newest_first } = selection;
    let sql = format!("SELECT {COLUMNS} {text} {newest_first} LIMIT ?");
    values.push(Value::Integer(i64::try_from(limit + 1).unwrap_or(i64::MAX)));
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows: Vec<AuditRow> =
        select.query_map(rusqlite::params_from_iter(values), audit_row::read)?.collect::<Result<_, _>>()?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    if let Some(sealer) = sealer {
        for row in &mut rows {
            audit_chain::read_bodies(connection, row, sealer)?;
        }
    }
    let next =
        rows.last().filter(|_| more).map(|row| AuditCursor { ts: row.event.ts, stream: row.stream, seq: row.seq });
    Ok(AuditPage { rows, next })
}

fn usage(connection: &Connection, selection: &Selection) -> Result<Usage, ReadError> {
    let sql = format!(
        "SELECT server, method, target, count(*), sum(outcome <> 'ok'),
                count(DISTINCT length(tenant) || ':' || tenant || length(issuer) || ':' || issuer || subject),
                CAST(avg(total_us) AS INTEGER)
         {} AND kind = 'exchange' AND server IS NOT NULL AND method IS NOT NULL
         GROUP BY server, method, target ORDER BY server, method, target",
        selection.text
    );
    let mut select = connection.prepare_cached(&sql)?;
    let rows = select
        .query_map(rusqlite::params_from_iter(&selection.values), |row| {
            Ok(UsageRow {
                server: row.get(0)?,
                method: row.get(1)?,
                target: row.get(2)?,
                calls: row.get::<_, i64>(3)?.cast_unsigned(),
                errors: row.get::<_, i64>(4)?.cast_unsigned(),
                subjects: row.get::<_, i64>(5)?.cast_unsigned(),
                mean: Duration::from_micros(row.get::<_, i64>(6)?.cast_unsigned()),
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(Usage { rows })
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
