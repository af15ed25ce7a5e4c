//! Connections that read, on tokio's blocking threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mcp_gateway_core::contract::{
    Change, Cursor, Feed, Key, Kind, Page, Query, Record, Revision, StoreError, StoreErrorKind,
};
use mcp_gateway_core::record::TenantId;
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::Semaphore;

use super::connection::open_reader;
use super::error::store_error;
use super::resource_writer::PLACES;

/// Changes that are read from the log at a time, and the bytes in them.
const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// A bounded set of connections, opened when they are first needed.
pub(super) struct Readers {
    path: PathBuf,
    free: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

/// What the log has after a position.
pub(super) struct LogChunk {
    pub(super) commits: Vec<Feed>,
    /// The log is read up to here.
    pub(super) position: Revision,
}

impl Readers {
    pub(super) fn new(path: PathBuf, count: usize) -> Self {
        Self { path, free: Arc::new(Semaphore::new(count)), idle: Mutex::new(Vec::with_capacity(count)) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in one read transaction: it sees one state of the store.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        op: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let unavailable =
            |error: mcp_gateway_core::BoxError| StoreError::new(StoreErrorKind::Unavailable, op).because(error);
        let permit = Arc::clone(&self.free).acquire_owned().await.map_err(|error| unavailable(error.into()))?;
        let this = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let idle = this.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = idle.map_or_else(|| open_reader(&this.path), Ok)?;
            let transaction = connection.transaction()?;
            let result = work(&transaction)?;
            transaction.finish()?;
            // One that failed is closed instead.
            this.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok(result)
        });
        match done.await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(ReadError::Store(error))) => Err(error),
            Ok(Err(ReadError::Sqlite(error))) => Err(store_error(op, error)),
            Err(error) => Err(unavailable(error.into())),
        }
    }

    pub(super) async fn get(self: &Arc<Self>, keys: Vec<Key>, now: i64) -> Result<Vec<Option<Record>>, StoreError> {
        self.run("get", move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT revision, value FROM record
                 WHERE kind = ?1 AND tenant = ?2 AND id = ?3 AND (expires_at IS NULL OR expires_at > ?4)",
            )?;
            let mut records = Vec::with_capacity(keys.len());
            for key in keys {
                let found = select
                    .query_row((key.kind.name, key.tenant.as_str(), &*key.id, now), |row| {
                        Ok((Revision(row.get(0)?), bytes(row, 1)?))
                    })
                    .optional()?;
                records.push(found.map(|(revision, value)| Record { key, revision, value }));
            }
            Ok(records)
        })
        .await
    }

    pub(super) async fn list(self: &Arc<Self>, query: Query, now: i64) -> Result<Page, StoreError> {
        self.run("list", move |connection| {
            let (as_of, _) = state(connection)?;
            let mut page = Page { records: Vec::new(), as_of, next: None };
            let (name, value) = query.term.as_ref().map_or(("", ""), |term| (term.name, &*term.value));
            let (mut tenant, mut id) = query.after.as_ref().map_or(("", ""), |at| (at.tenant.as_str(), &*at.id));
            if let Some(only) = &query.tenant {
                match tenant.cmp(only.as_str()) {
                    std::cmp::Ordering::Less => (tenant, id) = (only.as_str(), ""),
                    std::cmp::Ordering::Equal => {}
                    std::cmp::Ordering::Greater => return Ok(page),
                }
            }
            // One more than asked for: it says whether there is a next page.
            let limit = query.limit + 1;
            let sql = match (query.tenant.is_some(), query.term.is_some()) {
                (true, false) => BY_TENANT,
                (false, false) => BY_KIND,
                (true, true) => BY_TENANT_AND_TERM,
                (false, true) => BY_TERM,
            };
            let mut select = connection.prepare_cached(sql)?;
            let mut rows = match query.term {
                None => select.query((query.kind.name, tenant, id, now, limit))?,
                Some(_) => select.query((query.kind.name, tenant, id, now, limit, name, value))?,
            };
            while let Some(row) = rows.next()? {
                if page.records.len() == query.limit {
                    page.next = page
                        .records
                        .last()
                        .map(|last| Cursor { tenant: last.key.tenant.clone(), id: last.key.id.clone() });
                    break;
                }
                // Most pages are of one tenant: share its name.
                let tenant = match page.records.last() {
                    Some(last) if last.key.tenant.as_str() == text(row, 0)? => last.key.tenant.clone(),
                    _ => TenantId::new(text(row, 0)?),
                };
                let key = Key::new(tenant, query.kind, text(row, 1)?);
                page.records.push(Record { key, revision: Revision(row.get(2)?), value: bytes(row, 3)? });
            }
            Ok(page)
        })
        .await
    }

    /// Reads whole commits after a position, reduced to some kinds.
    pub(super) async fn log(self: &Arc<Self>, kinds: Arc<[Kind]>, after: Revision) -> Result<LogChunk, StoreError> {
        self.run("watch", move |connection| {
            let (revision, compacted) = state(connection)?;
            if after < compacted || after > revision {
                return Err(ReadError::Store(StoreError::new(StoreErrorKind::Compacted, "watch")));
            }
            let mut select = connection
                .prepare_cached("SELECT place, kind, tenant, id, value FROM change WHERE place >= ?1 ORDER BY place")?;
            let mut rows = select.query([(after.0 + 1) * PLACES])?;
            let mut chunk = LogChunk { commits: Vec::new(), position: revision };
            let (mut read, mut size, mut last) = (0, 0, after);
            while let Some(row) = rows.next()? {
                let at = Revision(row.get::<_, u64>(0)? / PLACES);
                if at > last && (read >= CHUNK || size >= CHUNK_BYTES) {
                    chunk.position = last;
                    break;
                }
                (read, last) = (read + 1, at);
                let name = text(row, 1)?;
                let Some(kind) = kinds.iter().find(|kind| kind.name == name) else { continue };
                let value = match row.get_ref(4)? {
                    rusqlite::types::ValueRef::Null => None,
                    _ => Some(bytes(row, 4)?),
                };
                size += value.as_ref().map_or(0, Bytes::len);
                let change = Change { key: Key::new(TenantId::new(text(row, 2)?), *kind, text(row, 3)?), value };
                match chunk.commits.last_mut() {
                    Some(Feed::Commit { revision, changes }) if *revision == at => changes.push(change),
                    _ => chunk.commits.push(Feed::Commit { revision: at, changes: vec![change] }),
                }
            }
            Ok(chunk)
        })
        .await
    }
}

const BY_TENANT: &str = "SELECT tenant, id, revision, value FROM record
    WHERE kind = ?1 AND tenant = ?2 AND id > ?3 AND (expires_at IS NULL OR expires_at > ?4)
    ORDER BY tenant, id LIMIT ?5";
const BY_KIND: &str = "SELECT tenant, id, revision, value FROM record
    WHERE kind = ?1 AND (tenant, id) > (?2, ?3) AND (expires_at IS NULL OR expires_at > ?4)
    ORDER BY tenant, id LIMIT ?5";
const BY_TENANT_AND_TERM: &str = "SELECT term.tenant, term.id, record.revision, record.value
    FROM term CROSS JOIN record ON record.row = term.record
    WHERE term.kind = ?1 AND term.name = ?6 AND term.value = ?7 AND term.tenant = ?2 AND term.id > ?3
        AND (record.expires_at IS NULL OR record.expires_at > ?4)
    ORDER BY term.tenant, term.id LIMIT ?5";
const BY_TERM: &str = "SELECT term.tenant, term.id, record.revision, record.value
    FROM term CROSS JOIN record ON record.row = term.record
    WHERE term.kind = ?1 AND term.name = ?6 AND term.value = ?7 AND (term.tenant, term.id) > (?2, ?3)
        AND (record.expires_at IS NULL OR record.expires_at > ?4)
    ORDER BY term.tenant, term.id LIMIT ?5";

/// Why a read failed.
pub(super) enum ReadError {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The revision, and where the log begins.
fn state(connection: &Connection) -> rusqlite::Result<(Revision, Revision)> {
    connection
        .prepare_cached("SELECT revision, compacted FROM state")?
        .query_row([], |row| Ok((Revision(row.get(0)?), Revision(row.get(1)?))))
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<&'r str> {
    Ok(row.get_ref(column)?.as_str()?)
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
}
