//! All records of a database, for moving them.

use async_trait::async_trait;
use mcp_gateway_core::contract::{StoreError, StoreErrorKind};
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::database::greet;
use super::error::store_error;
use super::migrate::SCHEMA;
use super::resource::bytes;
use super::types::{escape, unescape};
use super::{PostgresError, PostgresOptions};
use crate::transfer::{Place, RawRecords, StoredRecord};

/// A database that no server uses while this lives, and none can begin to.
#[derive(Debug)]
pub struct PostgresRecords {
    connection: PgConnection,
}

impl PostgresRecords {
    /// Connects, and shuts servers out.
    ///
    /// # Errors
    /// [`PostgresError::InUse`] while a server runs on it, [`PostgresError::OlderSchema`] before it is migrated,
    /// [`PostgresError::HalfFilled`] when a copy into it was not completed.
    pub async fn open(options: &PostgresOptions) -> Result<Self, PostgresError> {
        let mut connection = greet(options).await?;
        SCHEMA.check(&mut connection, options).await?;
        // Ends with the connection.
        let free: bool = sqlx::query("SELECT pg_try_advisory_lock(1835233383, -4)")
            .fetch_one(&mut connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|error| PostgresError::Database { place: options.place(), source: error.into() })?;
        if !free {
            return Err(PostgresError::InUse { place: options.place() });
        }
        let filling: bool = sqlx::query("SELECT filling FROM mcp_gateway.state")
            .fetch_one(&mut connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(|error| PostgresError::Database { place: options.place(), source: error.into() })?;
        if filling {
            return Err(PostgresError::HalfFilled { place: options.place() });
        }
        Ok(Self { connection })
    }
}

#[async_trait]
impl RawRecords for PostgresRecords {
    async fn revision(&mut self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT mcp_gateway.revision_now()").fetch_one(&mut self.connection).await;
        let number = row.and_then(|row| row.try_get::<i64, _>(0)).map_err(|error| failed("read", error))?;
        Ok(number.cast_unsigned())
    }

    async fn read(&mut self, after: Option<&Place>, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        let (kind, tenant, id) = after.map_or(("", "", ""), |place| (&place.kind, &place.tenant, &place.id));
        let rows = sqlx::query(READ)
            .bind(kind)
            .bind(escape(tenant))
            .bind(escape(id))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut self.connection)
            .await;
        rows.and_then(|rows| rows.iter().map(record).collect()).map_err(|error| failed("read", error))
    }

    async fn write(&mut self, records: Vec<StoredRecord>) -> Result<(), StoreError> {
        let column = |part: fn(&StoredRecord) -> &str| records.iter().map(|record| escape(part(record))).collect();
        let kinds: Vec<_> = column(|record| &record.place.kind);
        let tenants: Vec<_> = column(|record| &record.place.tenant);
        let ids: Vec<_> = column(|record| &record.place.id);
        let revisions: Vec<_> = records.iter().map(|record| record.revision.cast_signed()).collect();
        let ends: Vec<_> = records.iter().map(|record| record.expires_at).collect();
        let values: Vec<_> = records.iter().map(|record| &*record.value).collect();
        let (mut numbers, mut names, mut terms) = (Vec::new(), Vec::new(), Vec::new());
        for (number, record) in (1_i32..).zip(&records) {
            for (name, value) in &record.terms {
                numbers.push(number);
                names.push(escape(name));
                terms.push(escape(value));
            }
        }
        let written = sqlx::query(WRITE)
            .bind(kinds)
            .bind(tenants)
            .bind(ids)
            .bind(revisions)
            .bind(ends)
            .bind(values)
            .bind(numbers)
            .bind(names)
            .bind(terms)
            .execute(&mut self.connection)
            .await;
        written.map(|_| ()).map_err(|error| failed("write", error))
    }

    async fn begin(&mut self, revision: u64) -> Result<(), StoreError> {
        let begun = sqlx::query(
            "WITH moved AS (UPDATE mcp_gateway.state SET logged = $1, compacted = $1, filling = true)
             SELECT setval('mcp_gateway.revision', $1)",
        );
        let begun = begun.bind(revision.cast_signed()).execute(&mut self.connection).await;
        begun.map(|_| ()).map_err(|error| failed("write", error))
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        let done = sqlx::query("UPDATE mcp_gateway.state SET filling = false").execute(&mut self.connection).await;
        done.map(|_| ()).map_err(|error| failed("write", error))
    }

    async fn close(self: Box<Self>) {
        // The server notices that the connection has ended in any case.
        let _ = self.connection.close().await;
    }
}

const READ: &str = "SELECT r.kind, r.tenant, r.id, r.revision, r.expires_at, r.value,
        ARRAY(SELECT t.name FROM mcp_gateway.term t WHERE t.kind = r.kind AND t.tenant = r.tenant AND t.id = r.id
              ORDER BY t.name, t.value) AS names,
        ARRAY(SELECT t.value FROM mcp_gateway.term t WHERE t.kind = r.kind AND t.tenant = r.tenant AND t.id = r.id
              ORDER BY t.name, t.value) AS terms
    FROM mcp_gateway.record r WHERE (r.kind, r.tenant, r.id) > ($1, $2, $3) ORDER BY r.kind, r.tenant, r.id LIMIT $4";
const WRITE: &str = "WITH listed AS (
        INSERT INTO mcp_gateway.term (kind, name, value, tenant, id)
        SELECT ($1::text[])[t.n], t.name, t.value, ($2::text[])[t.n], ($3::text[])[t.n]
        FROM unnest($7::integer[], $8::text[], $9::text[]) t(n, name, value)
    )
    INSERT INTO mcp_gateway.record (kind, tenant, id, revision, expires_at, value)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])";

fn record(row: &PgRow) -> Result<StoredRecord, sqlx::Error> {
    let text = |column: usize| row.try_get::<&str, _>(column).map(|text| unescape(text).into_owned());
    let list = |column: usize| row.try_get::<Vec<String>, _>(column);
    let terms = list(6)?.into_iter().zip(list(7)?);
    Ok(StoredRecord {
        place: Place { kind: text(0)?, tenant: text(1)?, id: text(2)? },
        revision: row.try_get::<i64, _>(3)?.cast_unsigned(),
        expires_at: row.try_get(4)?,
        value: bytes(row, 5)?,
        terms: terms.map(|(name, value)| (unescape(&name).into_owned(), unescape(&value).into_owned())).collect(),
    })
}

fn failed(op: &'static str, error: sqlx::Error) -> StoreError {
    store_error(op, error, StoreErrorKind::Unknown)
}
