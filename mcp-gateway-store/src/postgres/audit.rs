//! The audit trail in Postgres, a partition a day.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use mcp_gateway_core::contract::{
    AuditCursor, AuditFilter, AuditPage, AuditRow, AuditStore, ChainRow, Key, Kind, StoreError, StoreErrorKind,
    StoreLimits, StreamId, Unlinked, Usage, UsageRow, UsageWindow,
};
use mcp_gateway_core::record::{AuditBodies, FieldSealer, TenantId};
use mcp_gateway_core::trail::{Checkpoint, Link};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::Instant;
use ulid::Ulid;

use super::audit_chain::{self, LinkColumns};
use super::audit_row::{self, COLUMNS, Columns};
use super::database::{Database, Statement, greet};
use super::migrate::SCHEMA;
use super::resource::corrupt;
use super::types::{Id, Time, escape, unescape};
use super::{PostgresError, PostgresOptions};

/// Plans of lists depend on the filter, so they are made for each.
const SETTINGS: &str = "SET plan_cache_mode = force_custom_plan; SET jit = off; SET lock_timeout = '10s'";
/// Housekeeping may take long, but must not make others wait long for a lock.
const HOUSEKEEPING: &str = "SET statement_timeout = '10min'; SET jit = off; SET lock_timeout = '500ms'";
/// Attempts at removing a day while somebody reads it, and the pause between them.
const DROP_ATTEMPTS: u32 = 3;
const DROP_PAUSE: Duration = Duration::from_millis(500);
/// How long a copy that failed is not asked again.
const COPY_PAUSE: Duration = Duration::from_secs(30);
/// Rows in one statement.
const STATEMENT_ROWS: usize = 2_000;
/// Days whose partitions are known to be there; a trail that is imported may bring many.
const DAYS: usize = 1_000;

/// Keeps the audit trail in Postgres, for any number of processes.
///
/// Tables are partitioned by day: removing old events removes whole tables. Clones share the connections.
#[derive(Clone)]
pub struct PostgresAuditStore {
    inner: Arc<Inner>,
}

/// How a [`PostgresAuditStore`] works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostgresAuditOptions {
    /// Where it is, and how it is talked to.
    pub primary: PostgresOptions,
    /// A copy that follows the primary: queries go there, and see what it has by then. While it fails, they go to the
    /// primary.
    pub replica: Option<PostgresOptions>,
    /// Whether events come with captured bodies. They are stored only sealed: with this on, opening without a sealer
    /// is an error. Off, bodies that come all the same are dropped.
    pub bodies: bool,
    /// Days that are not over for so long, on the server's clock, are kept whatever [`AuditStore::prune`] is asked for: a
    /// process whose clock is wrong removes nothing too early. None by default.
    pub retention: Duration,
    /// Seals captured bodies.
    sealer: Sealer,
}

#[derive(Clone, Default)]
struct Sealer(Option<Arc<dyn FieldSealer>>);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "(..)" } else { "none" })
    }
}

impl PostgresAuditOptions {
    /// A trail in this database.
    #[must_use]
    pub fn new(primary: PostgresOptions) -> Self {
        Self { primary, replica: None, bodies: false, retention: Duration::ZERO, sealer: Sealer::default() }
    }

    /// The same with queries on a copy.
    #[must_use]
    pub fn reading_from(mut self, replica: PostgresOptions) -> Self {
        self.replica = Some(replica);
        self
    }

    /// The same, keeping every day for at least so long on the server's clock.
    #[must_use]
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// The same, opening bodies with this sealer.
    #[must_use]
    pub fn with_sealer(mut self, sealer: Arc<dyn FieldSealer>) -> Self {
        self.sealer = Sealer(Some(sealer));
        self
    }

    /// The same with captured bodies, sealed by this.
    #[must_use]
    pub fn with_bodies(mut self, sealer: Arc<dyn FieldSealer>) -> Self {
        self.bodies = true;
        self.with_sealer(sealer)
    }
}

struct Inner {
    primary: Database,
    copy: Option<ReadCopy>,
    housekeeping: Database,
    options: PostgresAuditOptions,
    days: Mutex<BTreeSet<Date>>,
}

/// A copy to read from, and when it may be asked again after it failed.
struct ReadCopy {
    database: Database,
    place: String,
    rest: Mutex<Option<Instant>>,
}

impl ReadCopy {
    fn new(options: &PostgresOptions) -> Self {
        let database = Database::new(options, options.connections, SETTINGS);
        Self { database, place: options.place(), rest: Mutex::default() }
    }

    fn failed(&self, error: &dyn std::fmt::Display) {
        tracing::warn!(database = self.place, %error, "the copy cannot be read from; the primary is asked meanwhile");
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + COPY_PAUSE);
    }

    fn is_ready(&self) -> bool {
        let until = *self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_none_or(|until| Instant::now() >= until)
    }
}

impl PostgresAuditStore {
    /// Connects, and checks that the tables are those that this program knows.
    ///
    /// # Errors
    /// [`PostgresError`] names the database and says what to do; [`PostgresError::Unsealed`] when bodies would be
    /// captured and nothing seals them.
    pub async fn open(options: PostgresAuditOptions) -> Result<Self, PostgresError> {
        if options.bodies && options.sealer.0.is_none() {
            return Err(PostgresError::Unsealed { place: options.primary.place() });
        }
        let check = async |options: &PostgresOptions| SCHEMA.check(&mut greet(options).await?, options).await;
        check(&options.primary).await?;
        let copy = options.replica.as_ref().map(ReadCopy::new);
        if let (Some(copy), Some(replica)) = (&copy, &options.replica)
            && let Err(error) = check(replica).await
        {
            copy.failed(&error);
        }
        let primary = Database::new(&options.primary, options.primary.connections, SETTINGS);
        let housekeeping = Database::new(&options.primary, 1, HOUSEKEEPING);
        Ok(Self { inner: Arc::new(Inner { primary, copy, housekeeping, options, days: Mutex::default() }) })
    }

    /// Reads from the copy, or where there is none that answers, from the primary.
    async fn read<'q>(
        &self,
        op: &'static str,
        statement: impl Fn() -> Statement<'q>,
    ) -> Result<Vec<PgRow>, StoreError> {
        if let Some(copy) = self.inner.copy.as_ref().filter(|copy| copy.is_ready()) {
            match copy.database.read(op, statement()).await {
                Ok(rows) => return Ok(rows),
                Err(error) => copy.failed(&error),
            }
        }
        self.inner.primary.read(op, statement()).await
    }

    /// Makes the partitions of the days that these rows are of.
    async fn make_days(&self, rows: &[AuditRow]) -> Result<(), StoreError> {
        let days: BTreeSet<Date> = rows.iter().map(|row| row.event.ts.to_zoned(TimeZone::UTC).date()).collect();
        let known = || self.inner.days.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<Date> = days.difference(&known()).copied().collect();
        for day in missing {
            let text = day.to_string();
            let make = || sqlx::query("SELECT mcp_gateway.make_day($1::text::date)").bind(&text);
            self.inner.primary.write("append", StoreErrorKind::Unavailable, make).await?;
            let mut known = known();
            if known.len() >= DAYS {
                known.clear();
            }
            known.insert(day);
        }
        Ok(())
    }

    /// One statement for events, one for bodies before them: an event that is there has its bodies.
    async fn insert(&self, rows: &[AuditRow]) -> Result<(), StoreError> {
        let invalid = |error| StoreError::new(StoreErrorKind::Invalid, "append").because(error);
        let (mut keys, mut sealed) = ((Vec::new(), Vec::new(), Vec::new()), Vec::new());
        for (row, bodies) in rows.iter().filter_map(|row| Some((row, row.event.bodies.as_deref()?))) {
            let Some(sealer) = self.inner.options.sealer.0.as_deref().filter(|_| self.inner.options.bodies) else {
                tracing::warn!("captured bodies are dropped: the audit store was opened without a sealer");
                break;
            };
            let text = audit_row::write_bodies(bodies).map_err(invalid)?;
            sealed.push(sealer.seal(&body_key(row), "/bodies", &text)?);
            keys.0.push(Time(row.event.ts));
            keys.1.push(Id(row.stream.0));
            keys.2.push(row.seq.cast_signed());
        }
        if !sealed.is_empty() {
            let statement = || sqlx::query(INSERT_BODIES).bind(&keys.0).bind(&keys.1).bind(&keys.2).bind(&sealed);
            self.inner.primary.write("append", StoreErrorKind::Unknown, statement).await?;
        }
        let columns = Columns::new(rows).map_err(invalid)?;
        self.inner.primary.write("append", StoreErrorKind::Unknown, || columns.statement()).await.map(|_| ())
    }
}

impl std::fmt::Debug for PostgresAuditStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresAuditStore").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

#[async_trait]
impl AuditStore for PostgresAuditStore {
    async fn append(&self, batch: Vec<AuditRow>) -> Result<(), StoreError> {
        for rows in batch.chunks(STATEMENT_ROWS) {
            self.make_days(rows).await?;
            let Err(error) = self.insert(rows).await else { continue };
            // Somebody else may have removed a day meanwhile that is written to again: an old spool is imported.
            self.inner.days.lock().unwrap_or_else(PoisonError::into_inner).clear();
            if error.kind() != StoreErrorKind::Unavailable || !error.to_string().contains("no partition") {
                return Err(error);
            }
            self.make_days(rows).await?;
            self.insert(rows).await?;
        }
        Ok(())
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
        let Some(mut conditions) = Conditions::of(filter) else {
            return Ok(AuditPage { rows: Vec::new(), next: None });
        };
        if let Some(cursor) = after {
            let (ts, stream, seq) = (Time(cursor.ts), Id(cursor.stream.0), cursor.seq.cast_signed());
            // The first one tells the planner which partitions.
            conditions.add("ts <=", Value::Time(ts));
            conditions.add("(ts, stream, seq) <", Value::Cursor(ts, stream, seq));
        }
        let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let sql = format!(
            "SELECT {COLUMNS} FROM mcp_gateway.event WHERE {} ORDER BY ts DESC, stream DESC, seq DESC LIMIT {more}",
            conditions.text
        );
        let rows = self.read("query", || conditions.statement(&sql)).await?;
        let mut page = AuditPage { rows: Vec::with_capacity(rows.len().min(limit)), next: None };
        for row in rows.iter().take(limit) {
            page.rows.push(audit_row::read(row).map_err(|error| corrupt("query", error))?);
        }
        if rows.len() > limit {
            let last = page.rows.last();
            page.next = last.map(|row| AuditCursor { ts: row.event.ts, stream: row.stream, seq: row.seq });
        }
        self.open_bodies(&mut page.rows).await?;
        Ok(page)
    }

    async fn usage(&self, window: &UsageWindow) -> Result<Usage, StoreError> {
        let filter = AuditFilter {
            tenant: window.tenant.clone(),
            from: Some(window.from),
            to: Some(window.to),
            server: window.server.clone(),
            ..AuditFilter::default()
        };
        let Some(conditions) = Conditions::of(&filter) else { return Ok(Usage::default()) };
        let sql = format!(
            "SELECT server, method, target, count(*), count(*) FILTER (WHERE outcome <> 'ok'),
                    count(DISTINCT (tenant, issuer, subject)) FILTER (WHERE subject IS NOT NULL),
                    floor(avg(total_us))::bigint
             FROM mcp_gateway.event
             WHERE {} AND kind = 'exchange' AND server IS NOT NULL AND method IS NOT NULL
             GROUP BY server, method, target ORDER BY server, method, target NULLS FIRST",
            conditions.text
        );
        let rows = self.read("usage", || conditions.statement(&sql)).await?;
        let rows = rows.iter().map(usage_row).collect::<Result<_, _>>().map_err(|error| corrupt("usage", error))?;
        Ok(Usage { rows })
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let keep = i64::try_from(self.inner.options.retention.as_micros()).unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
        let old = sqlx::query("SELECT day::text FROM mcp_gateway.old_days($1, $2) day").bind(Time(before)).bind(keep);
        let mut pruned = 0;
        // A transaction each: nobody who appends waits for more than one.
        for row in self.inner.housekeeping.work("prune", old).await? {
            let day = row.try_get(0).map_err(|error| corrupt("prune", error))?;
            let Some(events) = self.drop_day(day).await? else { break };
            pruned += events;
        }
        let links = sqlx::query("SELECT mcp_gateway.prune_chain($1)").bind(Time(before));
        self.inner.housekeeping.work("prune", links).await?;
        Ok(pruned)
    }

    async fn chain(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<ChainRow>, StoreError> {
        let (stream, seq) = audit_chain::place(after);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // Of the primary: what goes on from them must not miss the last ones.
        let links = || sqlx::query(audit_chain::LINKS).bind(stream).bind(seq).bind(limit);
        let links: Vec<Link> =
            self.inner.primary.read("chain", links()).await?.iter().map(audit_chain::link).collect::<Result<_, _>>()?;
        let times: Vec<_> = links.iter().map(|link| Time(link.ts)).collect();
        let streams: Vec<_> = links.iter().map(|link| Id(link.stream.0)).collect();
        let numbers: Vec<_> = links.iter().map(|link| link.seq.cast_signed()).collect();
        let oldest = links.iter().map(|link| link.ts).min().unwrap_or_default();
        let newest = links.iter().map(|link| link.ts).max().unwrap_or_default();
        let sql = audit_chain::events();
        let events = || {
            // Only fixed text is in it.
            let statement = sqlx::query(AssertSqlSafe(sql.clone())).bind(&times).bind(&streams).bind(&numbers);
            statement.bind(Time(oldest)).bind(Time(newest))
        };
        let (mut rows, mut unreadable): (Vec<AuditRow>, _) = (Vec::new(), Vec::new());
        for found in self.inner.primary.read("chain", events()).await? {
            match audit_row::read(&found) {
                Ok(row) => rows.push(row),
                Err(_) => unreadable.push(audit_row::place(&found).map_err(|error| corrupt("chain", error))?),
            }
        }
        self.open_bodies(&mut rows).await?;
        Ok(audit_chain::join(links, rows, &unreadable))
    }

    async fn unlinked(&self) -> Result<Vec<Unlinked>, StoreError> {
        // It reads everything, which takes longer than a query may.
        let rows = self.inner.housekeeping.work("unlinked", sqlx::query(audit_chain::UNLINKED)).await?;
        rows.iter().map(audit_chain::unlinked).collect()
    }

    async fn checkpoints(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<Checkpoint>, StoreError> {
        let (stream, seq) = audit_chain::place(after);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let statement = || sqlx::query(audit_chain::CHECKPOINTS).bind(stream).bind(seq).bind(limit);
        self.inner.primary.read("checkpoints", statement()).await?.iter().map(audit_chain::checkpoint).collect()
    }

    async fn put_chain(&self, links: Vec<Link>, checkpoints: Vec<Checkpoint>) -> Result<(), StoreError> {
        if !links.is_empty() {
            let columns = LinkColumns::new(&links);
            self.inner.primary.write("put chain", StoreErrorKind::Unknown, || columns.statement()).await?;
        }
        let streams: Vec<_> = checkpoints.iter().map(|checkpoint| Id(checkpoint.stream.0)).collect();
        let numbers: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.seq.cast_signed()).collect();
        let newest: Vec<_> = checkpoints.iter().map(|checkpoint| Time(checkpoint.newest)).collect();
        let signed: Vec<_> = checkpoints.iter().map(|checkpoint| checkpoint.signed.as_str()).collect();
        let statement = || {
            let statement = sqlx::query(audit_chain::INSERT_CHECKPOINTS).bind(&streams).bind(&numbers);
            statement.bind(&newest).bind(&signed)
        };
        self.inner.primary.write("put chain", StoreErrorKind::Unknown, statement).await.map(|_| ())
    }
}

impl PostgresAuditStore {
    /// Removes a day and says how many events it had; `None` when another process is at it.
    async fn drop_day(&self, day: &str) -> Result<Option<u64>, StoreError> {
        let mut attempt = 1;
        let rows = loop {
            let statement = sqlx::query("SELECT mcp_gateway.drop_day($1::text::date)").bind(day);
            match self.inner.housekeeping.work("prune", statement).await {
                // Somebody reads it; whoever appends goes first.
                Err(_) if attempt < DROP_ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(DROP_PAUSE).await;
                }
                done => break done?,
            }
        };
        let events = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| row.try_get::<Option<i64>, _>(0));
        events.map(|events| events.map(i64::cast_unsigned)).map_err(|error| corrupt("prune", error))
    }

    /// Adds the bodies that were captured with these rows.
    async fn open_bodies(&self, rows: &mut [AuditRow]) -> Result<(), StoreError> {
        let Some(sealer) = self.inner.options.sealer.0.as_deref().filter(|_| !rows.is_empty()) else { return Ok(()) };
        let times: Vec<_> = rows.iter().map(|row| Time(row.event.ts)).collect();
        let streams: Vec<_> = rows.iter().map(|row| Id(row.stream.0)).collect();
        let numbers: Vec<_> = rows.iter().map(|row| row.seq.cast_signed()).collect();
        let newest = rows.iter().map(|row| row.event.ts).max().unwrap_or_default();
        let oldest = rows.iter().map(|row| row.event.ts).min().unwrap_or_default();
        let statement = || {
            let statement = sqlx::query(BODIES).bind(&times).bind(&streams).bind(&numbers);
            statement.bind(Time(oldest)).bind(Time(newest))
        };
        for found in self.read("query", statement).await? {
            let get = || -> Result<(i64, String), sqlx::Error> { Ok((found.try_get(0)?, found.try_get(1)?)) };
            let (number, sealed) = get().map_err(|error| corrupt("query", error))?;
            let row = usize::try_from(number - 1).ok().and_then(|number| rows.get_mut(number));
            if let Some(row) = row {
                row.event.bodies = open_body(sealer, row, &sealed);
            }
        }
        Ok(())
    }
}

const INSERT_BODIES: &str = "INSERT INTO mcp_gateway.body (ts, stream, seq, sealed)
    SELECT * FROM unnest($1::timestamptz[], $2::uuid[], $3::bigint[], $4::text[]) ON CONFLICT DO NOTHING";
const BODIES: &str = "SELECT w.n, b.sealed
    FROM unnest($1::timestamptz[], $2::uuid[], $3::bigint[]) WITH ORDINALITY w(ts, stream, seq, n)
    JOIN mcp_gateway.body b USING (ts, stream, seq)
    WHERE b.ts >= $4 AND b.ts <= $5";

/// A `WHERE` clause: fixed text, values bound.
struct Conditions {
    text: String,
    values: Vec<Value>,
    /// Placeholders so far.
    bound: usize,
}

enum Value {
    Text(String),
    Time(Time),
    Id(Id),
    Cursor(Time, Id, i64),
}

impl Conditions {
    /// `None` when nothing can match.
    fn of(filter: &AuditFilter) -> Option<Self> {
        let mut conditions = Self { text: "true".to_owned(), values: Vec::new(), bound: 0 };
        let mut add = |text: &str, value: Option<Value>| {
            if let Some(value) = value {
                conditions.add(text, value);
            }
        };
        let text = |text: &Option<String>| text.as_deref().map(|text| Value::Text(escape(text).into_owned()));
        let word = |word: &str| Value::Text(word.to_owned());
        add("ts >=", filter.from.map(|time| Value::Time(Time(time))));
        add("ts <", filter.to.map(|time| Value::Time(Time(time))));
        add("server =", text(&filter.server));
        add("subject =", text(&filter.subject));
        add("tenant =", filter.tenant.as_ref().map(|tenant| Value::Text(escape(tenant.as_str()).into_owned())));
        add("category =", filter.category.map(|category| word(category.as_str())));
        add("actor =", text(&filter.actor));
        add("method =", text(&filter.method));
        add("target =", text(&filter.target));
        add("outcome =", filter.outcome.map(|outcome| word(outcome.as_str())));
        add("trace_id =", text(&filter.trace_id));
        if let Some(id) = &filter.request_id {
            add("request_id =", Some(Value::Id(Id(Ulid::from_string(id).ok()?))));
        }
        Some(conditions)
    }

    fn add(&mut self, text: &str, value: Value) {
        let mut next = || {
            self.bound += 1;
            format!("${}", self.bound)
        };
        let placeholder = match &value {
            Value::Cursor(..) => format!("({}, {}, {})", next(), next(), next()),
            _ => next(),
        };
        self.text = format!("{} AND {text} {placeholder}", self.text);
        self.values.push(value);
    }

    fn statement(&self, sql: &str) -> Statement<'_> {
        // Only fixed text and placeholders are in it.
        let mut statement = sqlx::query(AssertSqlSafe(sql.to_owned()));
        for value in &self.values {
            statement = match value {
                Value::Text(text) => statement.bind(text),
                Value::Time(time) => statement.bind(*time),
                Value::Id(id) => statement.bind(*id),
                Value::Cursor(time, id, number) => statement.bind(*time).bind(*id).bind(*number),
            };
        }
        statement
    }
}

fn usage_row(row: &PgRow) -> Result<UsageRow, sqlx::Error> {
    let count = |column: usize| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
    Ok(UsageRow {
        server: unescape(row.try_get(0)?).into_owned(),
        method: unescape(row.try_get(1)?).into_owned(),
        target: row.try_get::<Option<&str>, _>(2)?.map(|text| unescape(text).into_owned()),
        calls: count(3)?,
        errors: count(4)?,
        subjects: count(5)?,
        mean: Duration::from_micros(count(6)?),
    })
}

/// What bodies are bound to; the same in every store, so that a trail can move.
fn body_key(row: &AuditRow) -> Key {
    let tenant = row.event.actor.as_ref().map_or_else(TenantId::default, |actor| actor.subject.tenant.clone());
    let id = format!("{}/{}/{}", row.event.ts.as_microsecond(), row.stream.0, row.seq);
    Key::new(tenant, Kind::quiet("audit-body"), id)
}

/// Opens what was sealed for a row; `None` when its key is gone: the row stays readable.
fn open_body(sealer: &dyn FieldSealer, row: &AuditRow, sealed: &str) -> Option<Box<AuditBodies>> {
    let opened = sealer.open(&body_key(row), "/bodies", sealed).map_err(mcp_gateway_core::BoxError::from);
    match opened.and_then(|text| audit_row::read_bodies(&text)) {
        Ok(bodies) => Some(Box::new(bodies)),
        Err(error) => {
            tracing::warn!(%error, stream = %row.stream.0, seq = row.seq, "the bodies of an audit row do not open");
            None
        }
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
