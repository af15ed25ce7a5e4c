//! A [`ResourceStore`] in Postgres.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mcp_gateway_core::contract::{
    Class, Cursor, FeedStream, Key, Kind, Page, Query, Record, ResourceStore, Revision, StoreError, StoreErrorKind,
    StoreLimits, Write,
};
use mcp_gateway_core::record::TenantId;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::database::{Database, greet};
use super::error::store_error;
use super::migrate::SCHEMA;
use super::resource_batch::{self, Batch, revision};
use super::resource_feed::{self, Hub, Watcher};
use super::types::{escape, unescape};
use super::{PostgresError, PostgresOptions};

/// Every statement of this store reads few rows by an index; a plan that was made while a table was small must not hold
/// when it has grown. Whoever waits for a lock longer than this waits for a server that hangs.
const SETTINGS: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
                        SET enable_bitmapscan = off; SET jit = off; SET lock_timeout = '10s'";

/// Keeps records in Postgres, for any number of processes.
///
/// Times to live are on the server's clock. Clones share the connections, which are closed when the last one is dropped.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    options: PostgresOptions,
    hub: Hub,
}

impl PostgresStore {
    /// Connects, and checks that the tables are those that this program knows.
    ///
    /// # Errors
    /// [`PostgresError`] names the database and says what to do.
    pub async fn open(options: PostgresOptions) -> Result<Self, PostgresError> {
        let mut connection = greet(&options).await?;
        SCHEMA.check(&mut connection, &options).await?;
        drop(connection);
        let database = Database::new(&options, options.connections, SETTINGS);
        let hub = Hub::start(&options, &database).await?;
        Ok(Self { inner: Arc::new(Inner { database, options, hub }) })
    }

    /// Removes expired records and old changes every 2 s, for ever, for a store that was opened
    /// [without](PostgresOptions::without_sweep) doing so by itself. Of several processes on a database one sweeps at a
    /// time: each sweep is a transaction with a lock of its own.
    pub async fn sweep(&self) {
        resource_feed::sweep(&self.inner.database, self.inner.options.log_age).await;
    }
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

#[async_trait]
impl ResourceStore for PostgresStore {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        if keys.len() > StoreLimits::PAGE {
            return Err(StoreError::new(StoreErrorKind::TooLarge, "get").because("more than 1,000 keys"));
        }
        let mut records = vec![None; keys.len()];
        if keys.is_empty() {
            return Ok(records);
        }
        let (kinds, tenants, ids) = resource_batch::columns(keys);
        let statement = sqlx::query(GET).bind(kinds).bind(tenants).bind(ids);
        for row in self.inner.database.read("get", statement).await? {
            let place = || -> Result<_, sqlx::Error> {
                let number = usize::try_from(row.try_get::<i64, _>(0)? - 1).unwrap_or(usize::MAX);
                Ok((number, revision(row.try_get(1)?), bytes(&row, 2)?))
            };
            let (number, revision, value) = place().map_err(|error| corrupt("get", error))?;
            if let (Some(record), Some(key)) = (records.get_mut(number), keys.get(number)) {
                *record = Some(Record { key: key.clone(), revision, value });
            }
        }
        Ok(records)
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        match query.limit {
            0 => return Err(StoreError::new(StoreErrorKind::Invalid, "list").because("a page of no records")),
            1..=StoreLimits::PAGE => {}
            _ => {
                return Err(StoreError::new(StoreErrorKind::TooLarge, "list").because("more than 1,000 records a page"));
            }
        }
        // Before the records are read: all that it covers is in what is read later.
        let as_of = self.inner.hub.now(&self.inner.database, "list").await?;
        let mut page = Page { records: Vec::new(), as_of, next: None };
        let (mut tenant, mut id) = query.after.as_ref().map_or(("", ""), |at| (at.tenant.as_str(), &*at.id));
        if let Some(only) = &query.tenant {
            match tenant.cmp(only.as_str()) {
                std::cmp::Ordering::Less => (tenant, id) = (only.as_str(), ""),
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => return Ok(page),
            }
        }
        let sql = match (query.tenant.is_some(), query.term.is_some()) {
            (true, false) => BY_TENANT,
            (false, false) => BY_KIND,
            (true, true) => BY_TENANT_AND_TERM,
            (false, true) => BY_TERM,
        };
        // One more than asked for: it says whether there is a next page.
        let limit = i64::try_from(query.limit + 1).unwrap_or(i64::MAX);
        let mut statement = sqlx::query(sql).bind(query.kind.name).bind(escape(tenant)).bind(escape(id)).bind(limit);
        if let Some(term) = &query.term {
            statement = statement.bind(term.name).bind(escape(&term.value));
        }
        let rows = self.inner.database.read("list", statement).await?;
        if let Some(row) = rows.first() {
            // What was committed meanwhile is in the same snapshot as this.
            let logged = row.try_get(4).map(revision).map_err(|error| corrupt("list", error))?;
            page.as_of = page.as_of.max(logged);
        }
        for row in rows.iter().take(query.limit) {
            let last = page.records.last().map(|last: &Record| &last.key.tenant);
            let record = record(row, query.kind, last).map_err(|error| corrupt("list", error))?;
            page.records.push(record);
        }
        if rows.len() > query.limit {
            let last = page.records.last().map(|last| &last.key);
            page.next = last.map(|key| Cursor { tenant: key.tenant.clone(), id: key.id.clone() });
        }
        Ok(page)
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        StoreLimits::check(&writes)?;
        let batch = Batch::new(&writes);
        let log_commits = i64::try_from(self.inner.options.log_commits).unwrap_or(i64::MAX);
        let statement = || batch.statement(log_commits);
        let rows = self.inner.database.write("commit", StoreErrorKind::Unknown, statement).await?;
        resource_batch::answer(&writes, &rows)
    }

    async fn watch(&self, kinds: &[Kind], after: Revision) -> Result<FeedStream, StoreError> {
        if kinds.iter().any(|kind| kind.class == Class::Quiet) {
            return Err(StoreError::new(StoreErrorKind::Invalid, "watch").because("a quiet kind cannot be watched"));
        }
        Watcher::start(self.inner.database.clone(), &self.inner.hub, kinds, after).await
    }
}

const GET: &str = "SELECT w.n, r.revision, r.value
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY w(kind, tenant, id, n)
    JOIN mcp_gateway.record r ON r.kind = w.kind AND r.tenant = w.tenant AND r.id = w.id
    WHERE r.expires_at IS NULL OR r.expires_at > (SELECT mcp_gateway.now_us())";
const BY_TENANT: &str =
    "SELECT tenant, id, revision, value, (SELECT logged FROM mcp_gateway.state) FROM mcp_gateway.record
    WHERE kind = $1 AND tenant = $2 AND id > $3 AND (expires_at IS NULL OR expires_at > (SELECT mcp_gateway.now_us()))
    ORDER BY tenant, id LIMIT $4";
const BY_KIND: &str =
    "SELECT tenant, id, revision, value, (SELECT logged FROM mcp_gateway.state) FROM mcp_gateway.record
    WHERE kind = $1 AND (tenant, id) > ($2, $3)
        AND (expires_at IS NULL OR expires_at > (SELECT mcp_gateway.now_us()))
    ORDER BY tenant, id LIMIT $4";
const BY_TENANT_AND_TERM: &str = "SELECT r.tenant, r.id, r.revision, r.value, (SELECT logged FROM mcp_gateway.state)
    FROM mcp_gateway.term t JOIN mcp_gateway.record r USING (kind, tenant, id)
    WHERE t.kind = $1 AND t.name = $5 AND t.value = $6 AND t.tenant = $2 AND t.id > $3
        AND (r.expires_at IS NULL OR r.expires_at > (SELECT mcp_gateway.now_us()))
    ORDER BY t.tenant, t.id LIMIT $4";
const BY_TERM: &str = "SELECT r.tenant, r.id, r.revision, r.value, (SELECT logged FROM mcp_gateway.state)
    FROM mcp_gateway.term t JOIN mcp_gateway.record r USING (kind, tenant, id)
    WHERE t.kind = $1 AND t.name = $5 AND t.value = $6 AND (t.tenant, t.id) > ($2, $3)
        AND (r.expires_at IS NULL OR r.expires_at > (SELECT mcp_gateway.now_us()))
    ORDER BY t.tenant, t.id LIMIT $4";

/// A row of a list. Most pages are of one tenant, whose name is shared.
fn record(row: &PgRow, kind: Kind, last: Option<&TenantId>) -> Result<Record, sqlx::Error> {
    let tenant = unescape(row.try_get(0)?);
    let tenant = last.filter(|last| last.as_str() == tenant).cloned().unwrap_or_else(|| TenantId::new(&*tenant));
    let key = Key::new(tenant, kind, &*unescape(row.try_get(1)?));
    Ok(Record { key, revision: revision(row.try_get(2)?), value: bytes(row, 3)? })
}

pub(super) fn bytes(row: &PgRow, column: usize) -> Result<Bytes, sqlx::Error> {
    row.try_get::<&[u8], _>(column).map(Bytes::copy_from_slice)
}

pub(super) fn corrupt(op: &'static str, error: sqlx::Error) -> StoreError {
    store_error(op, error, StoreErrorKind::Corrupt)
}

#[cfg(test)]
#[path = "resource_tests.rs"]
mod tests;
