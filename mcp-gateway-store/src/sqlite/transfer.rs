//! All records of a file, for moving them.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use mcp_gateway_core::contract::StoreError;
use rusqlite::{Connection, TransactionBehavior};

use super::connection::{PAGE, open_writer};
use super::error::store_error;
use super::lock::FileLock;
use super::resource::SCHEMA;
use super::{Durability, OpenError};
use crate::transfer::{Place, RawRecords, StoredRecord};

/// A file that nobody else has open. Its methods block: a command of its own calls them.
#[derive(Debug)]
pub struct SqliteRecords {
    connection: Connection,
    _lock: FileLock,
}

impl SqliteRecords {
    /// Opens a file, creating it where there is none.
    ///
    /// # Errors
    /// [`OpenError::Locked`] while a server runs on it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let lock = FileLock::acquire(path)?;
        let mut connection = open_writer(path, Durability::Power, PAGE)?;
        SCHEMA.migrate(&mut connection, path)?;
        Ok(Self { connection, _lock: lock })
    }
}

#[async_trait]
impl RawRecords for SqliteRecords {
    async fn revision(&mut self) -> Result<u64, StoreError> {
        let read = self.connection.query_row("SELECT revision FROM state", [], |row| row.get(0));
        read.map_err(|error| store_error("read", error))
    }

    async fn read(&mut self, after: Option<&Place>, limit: usize) -> Result<Vec<StoredRecord>, StoreError> {
        read(&self.connection, after, limit).map_err(|error| store_error("read", error))
    }

    async fn write(&mut self, records: Vec<StoredRecord>) -> Result<(), StoreError> {
        write(&mut self.connection, &records).map_err(|error| store_error("write", error))
    }

    async fn begin(&mut self, revision: u64) -> Result<(), StoreError> {
        let done = self.connection.execute("UPDATE state SET revision = ?1, compacted = ?1", [revision]);
        done.map(|_| ()).map_err(|error| store_error("write", error))
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(self: Box<Self>) {}
}

fn read(connection: &Connection, after: Option<&Place>, limit: usize) -> rusqlite::Result<Vec<StoredRecord>> {
    let mut select = connection.prepare_cached(
        "SELECT kind, tenant, id, revision, expires_at, value, row FROM record
         WHERE (kind, tenant, id) > (?1, ?2, ?3) ORDER BY kind, tenant, id LIMIT ?4",
    )?;
    let mut terms = connection.prepare_cached("SELECT name, value FROM term WHERE record = ?1 ORDER BY name, value")?;
    let (kind, tenant, id) = after.map_or(("", "", ""), |place| (&place.kind, &place.tenant, &place.id));
    let mut rows = select.query((kind, tenant, id, limit))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(StoredRecord {
            place: Place { kind: row.get(0)?, tenant: row.get(1)?, id: row.get(2)? },
            revision: row.get(3)?,
            expires_at: row.get(4)?,
            value: Bytes::from(row.get::<_, Vec<u8>>(5)?),
            terms: terms
                .query_map([row.get::<_, i64>(6)?], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?,
        });
    }
    Ok(records)
}

fn write(connection: &mut Connection, records: &[StoredRecord]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for record in records {
        let Place { kind, tenant, id } = &record.place;
        let row: i64 = transaction
            .prepare_cached(
                "INSERT INTO record (kind, tenant, id, revision, expires_at, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 RETURNING row",
            )?
            .query_row((kind, tenant, id, record.revision, record.expires_at, &*record.value), |row| row.get(0))?;
        for (name, value) in &record.terms {
            transaction
                .prepare_cached("INSERT INTO term VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute((kind, name, value, tenant, id, row))?;
        }
    }
    transaction.commit()
}
