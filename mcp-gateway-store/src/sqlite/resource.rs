//! A [`ResourceStore`] in a SQLite file.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use mcp_gateway_core::contract::{
    Class, Clock, FeedStream, Key, Kind, Page, Query, Record, ResourceStore, Revision, StoreError, StoreErrorKind,
    StoreLimits, SystemClock, Write,
};
use tokio::sync::{Semaphore, oneshot, watch};

use super::connection::{PAGE, open_writer};
use super::lock::FileLock;
use super::migrate::Schema;
use super::resource_feed::Watcher;
use super::resource_reader::Readers;
use super::resource_writer::{Position, Request, Writer};
use super::{Durability, OpenError};

/// Commits that may wait for the writer; more callers wait for their turn.
const WAITING: usize = 1024;

pub(super) const SCHEMA: Schema = Schema {
    name: "resources",
    migrations: &["
        CREATE TABLE state (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            revision INTEGER NOT NULL,
            -- The change log holds everything after this revision.
            compacted INTEGER NOT NULL
        ) STRICT;
        INSERT INTO state VALUES (1, 0, 0);

        CREATE TABLE record (
            row INTEGER PRIMARY KEY,
            kind TEXT NOT NULL,
            tenant TEXT NOT NULL,
            id TEXT NOT NULL,
            revision INTEGER NOT NULL,
            -- Microseconds since 1970 on the store's clock; NULL for never.
            expires_at INTEGER,
            value BLOB NOT NULL,
            UNIQUE (kind, tenant, id)
        ) STRICT;
        CREATE INDEX record_by_expiry ON record (expires_at) WHERE expires_at IS NOT NULL;

        CREATE TABLE term (
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            value TEXT NOT NULL,
            tenant TEXT NOT NULL,
            id TEXT NOT NULL,
            record INTEGER NOT NULL REFERENCES record (row) ON DELETE CASCADE,
            PRIMARY KEY (kind, name, value, tenant, id)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX term_by_record ON term (record);

        CREATE TABLE change (
            -- The revision times 256, plus the position in the batch.
            place INTEGER PRIMARY KEY,
            -- When it was committed, microseconds since 1970 on the store's clock.
            at INTEGER NOT NULL,
            kind TEXT NOT NULL,
            tenant TEXT NOT NULL,
            id TEXT NOT NULL,
            -- NULL for a delete.
            value BLOB
        ) STRICT;
    "],
};

/// Keeps records in a SQLite file, for one process.
///
/// One thread writes; commits that wait at the same time share a transaction, and with it an `fsync`. Reads run on
/// tokio's blocking threads, on connections of their own, and do not wait for the writer. Clones share the file; it is
/// closed when the last clone is dropped, which waits for commits that are under way.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

/// How a [`SqliteStore`] works.
#[derive(Clone)]
#[non_exhaustive]
pub struct SqliteOptions {
    /// What a commit that has returned survives.
    pub durability: Durability,
    /// Commits that the change log remembers; 1,000,000 by default.
    pub log_commits: u64,
    /// How long the change log remembers a commit; one hour by default. Whatever either bound excludes is forgotten.
    pub log_age: Duration,
    /// Connections that read at the same time; 4 by default.
    pub readers: usize,
    /// Decides when records expire; the machine's by default.
    pub clock: Arc<dyn Clock>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            log_commits: 1_000_000,
            log_age: Duration::from_secs(3600),
            readers: 4,
            clock: Arc::new(SystemClock),
        }
    }
}

impl SqliteOptions {
    /// The same with this durability.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The same, remembering at most about this many commits.
    #[must_use]
    pub fn with_log_commits(mut self, commits: u64) -> Self {
        self.log_commits = commits;
        self
    }

    /// The same, remembering a commit for about this long.
    #[must_use]
    pub fn with_log_age(mut self, age: Duration) -> Self {
        self.log_age = age;
        self
    }

    /// The same on this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl std::fmt::Debug for SqliteOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteOptions")
            .field("durability", &self.durability)
            .field("log_commits", &self.log_commits)
            .field("log_age", &self.log_age)
            .field("readers", &self.readers)
            .finish_non_exhaustive()
    }
}

struct Inner {
    clock: Arc<dyn Clock>,
    readers: Arc<Readers>,
    turns: Arc<Semaphore>,
    /// `None` only while the last clone is being dropped.
    requests: Option<mpsc::Sender<Request>>,
    position: watch::Receiver<Position>,
    writer: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens a file, creating it where there is none, and brings its schema up to date. Blocks: called once, at start.
    ///
    /// # Errors
    /// [`OpenError`] names the file and says what to do.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let lock = FileLock::acquire(path)?;
        let mut connection = open_writer(path, options.durability, PAGE)?;
        SCHEMA.migrate(&mut connection, path)?;
        let readers = Arc::new(Readers::new(path.to_owned(), options.readers.max(1)));
        let clock = Arc::clone(&options.clock);
        let (writer, position) = Writer::new(connection, options, lock)
            .map_err(|error| OpenError::Database { path: path.to_owned(), source: error.into() })?;
        let (requests, queue) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        let inner = Inner {
            clock,
            readers,
            turns: Arc::new(Semaphore::new(WAITING)),
            requests: Some(requests),
            position,
            writer: Some(writer),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.inner.readers.path()).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer ends when nobody can ask any more; the lock is free when it has.
        drop(self.requests.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(file = %self.readers.path().display(), "the SQLite writer thread panicked");
        }
    }
}

#[async_trait]
impl ResourceStore for SqliteStore {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        if keys.len() > StoreLimits::PAGE {
            return Err(StoreError::new(StoreErrorKind::TooLarge, "get").because("more than 1,000 keys"));
        }
        let (keys, now) = (keys.to_vec(), micros(&*self.inner.clock));
        self.inner.readers.get(keys, now).await
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        match query.limit {
            0 => return Err(StoreError::new(StoreErrorKind::Invalid, "list").because("a page of no records")),
            1..=StoreLimits::PAGE => {}
            _ => {
                return Err(StoreError::new(StoreErrorKind::TooLarge, "list").because("more than 1,000 records a page"));
            }
        }
        self.inner.readers.list(query.clone(), micros(&*self.inner.clock)).await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        StoreLimits::check(&writes)?;
        let gone = || StoreError::new(StoreErrorKind::Unavailable, "commit").because("the SQLite writer has ended");
        let turn = Arc::clone(&self.inner.turns).acquire_owned().await.map_err(|_| gone())?;
        let (reply, answer) = oneshot::channel();
        let requests = self.inner.requests.as_ref().ok_or_else(gone)?;
        requests.send(Request { writes, reply, _turn: turn }).map_err(|_| gone())?;
        // The writer took it and went away without an answer.
        answer.await.unwrap_or_else(|_| Err(StoreError::new(StoreErrorKind::Unknown, "commit")))
    }

    async fn watch(&self, kinds: &[Kind], after: Revision) -> Result<FeedStream, StoreError> {
        if kinds.iter().any(|kind| kind.class == Class::Quiet) {
            return Err(StoreError::new(StoreErrorKind::Invalid, "watch").because("a quiet kind cannot be watched"));
        }
        let watcher = Watcher::new(&self.inner.readers, self.inner.position.clone(), kinds, after);
        watcher.start().await
    }
}

/// The time of day in the unit of the file.
pub(super) fn micros(clock: &dyn Clock) -> i64 {
    clock.now().as_microsecond()
}

#[cfg(test)]
#[path = "resource_tests.rs"]
mod tests;
