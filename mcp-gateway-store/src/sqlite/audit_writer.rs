//! The one thread that writes the audit trail.

use std::sync::mpsc;
use std::time::Instant;

use jiff::Timestamp;
use mcp_gateway_core::contract::{AuditRow, Key, Kind, StoreError};
use mcp_gateway_core::record::{AuditBodies, FieldSealer, TenantId};
use mcp_gateway_core::trail::{Checkpoint, Link};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::SqliteAuditOptions;
use super::audit_chain::{self, Links};
use super::audit_presence::{self, Place, Presence};
use super::audit_row::{self, bind};
use super::error::store_error;
use super::lock::FileLock;

/// The writer gives way to the threads that serve calls, yet keeps about a third of a core that they fill.
const NICE: i32 = 3;

/// What the writer is asked for.
pub(super) enum Request {
    Append {
        batch: Vec<AuditRow>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Prune {
        before: Timestamp,
        limit: usize,
        reply: oneshot::Sender<Result<u64, StoreError>>,
    },
    /// What is left of the rows that are pruned; answered with where to go on.
    PrunePresence {
        before: Timestamp,
        after: Place,
        limit: usize,
        reply: oneshot::Sender<Result<Option<Place>, StoreError>>,
    },
    /// The links of rows that were pruned.
    PruneChain {
        before: Timestamp,
        limit: usize,
        reply: oneshot::Sender<Result<u64, StoreError>>,
    },
    Chain {
        links: Vec<Link>,
        checkpoints: Vec<Checkpoint>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

/// Owns the connection that writes.
pub(super) struct Writer {
    connection: Connection,
    options: SqliteAuditOptions,
    presence: Presence,
    detail: Vec<u8>,
    warned: bool,
    _lock: FileLock,
}

impl Writer {
    pub(super) fn new(connection: Connection, options: SqliteAuditOptions, lock: FileLock) -> Self {
        Self { connection, options, presence: Presence::default(), detail: Vec::new(), warned: false, _lock: lock }
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Request>) {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
            tracing::debug!(%error, "the audit writer runs at normal priority");
        }
        while let Ok(request) = queue.recv() {
            match request {
                Request::Append { batch, reply } => {
                    let appended = self.append(&batch);
                    if appended.is_err() {
                        self.presence.forget();
                    }
                    let _ = reply.send(appended);
                }
                Request::Prune { before, limit, reply } => {
                    let done = self.prune(before, limit).map_err(|error| store_error("prune", error));
                    let _ = reply.send(done);
                }
                Request::PrunePresence { before, after, limit, reply } => {
                    let done = self.prune_presence(before, after, limit).map_err(|error| store_error("prune", error));
                    let _ = reply.send(done);
                }
                Request::PruneChain { before, limit, reply } => {
                    let done = self.transaction(|transaction| audit_chain::prune(transaction, before, limit));
                    let _ = reply.send(done.map_err(|error| store_error("prune", error)));
                }
                Request::Chain { links, checkpoints, reply } => {
                    let done = self.transaction(|transaction| audit_chain::put(transaction, &links, &checkpoints));
                    let _ = reply.send(done.map_err(|error| store_error("put chain", error)));
                }
            }
        }
        if let Err(error) = self.connection.execute_batch("PRAGMA optimize") {
            tracing::debug!(%error, "the audit trail's statistics are not up to date");
        }
    }

    fn transaction<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// One transaction a batch.
    fn append(&mut self, batch: &[AuditRow]) -> Result<(), StoreError> {
        let failed = |error| store_error("append", error);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let mut began = Instant::now();
        {
            // Once a batch: to get a statement out of the cache and back costs about as much as to bind a row. A row
            // each: a long `VALUES` list costs more CPU than a compiled statement a row.
            let mut statement = transaction.prepare_cached(INSERT).map_err(failed)?;
            let mut links = Links::prepare(&transaction).map_err(failed)?;
            for row in batch {
                bind(&mut statement, row, &mut self.detail).map_err(failed)?;
                statement.raw_execute().map_err(failed)?;
                links.insert(&Link::of(row)).map_err(failed)?;
                if began.elapsed() >= self.options.work {
                    // Yielding is not enough: the scheduler may let this thread go on until its slice of milliseconds
                    // ends, and what arrives meanwhile waits.
                    std::thread::sleep(self.options.rest);
                    began = Instant::now();
                }
            }
        }
        self.presence.note(&transaction, batch).map_err(failed)?;
        for (row, bodies) in batch.iter().filter_map(|row| Some((row, row.event.bodies.as_deref()?))) {
            let Some(sealer) = self.options.sealer.as_deref() else {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!("captured bodies are dropped: the audit store was opened without a sealer");
                }
                continue;
            };
            let sealed = seal_body(sealer, row, bodies)?;
            transaction
                .prepare_cached("INSERT OR IGNORE INTO body (ts, stream, seq, sealed) VALUES (?1, ?2, ?3, ?4)")
                .and_then(|mut insert| {
                    let stream = row.stream.0.to_bytes();
                    insert.execute((row.event.ts.as_microsecond(), stream, audit_row::number(row.seq), sealed))
                })
                .map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    /// Deletes the oldest rows before a time, at most `limit`.
    fn prune(&mut self, before: Timestamp, limit: usize) -> rusqlite::Result<u64> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = before.as_microsecond();
        let last: Option<(i64, [u8; 16], i64)> = transaction
            .prepare_cached(
                "SELECT ts, stream, seq FROM event WHERE ts < ?1 ORDER BY ts, stream, seq LIMIT 1 OFFSET ?2",
            )?
            .query_row((before, i64::try_from(limit - 1).unwrap_or(i64::MAX)), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let mut pruned = 0;
        for table in ["body", "event"] {
            pruned = match last {
                Some(last) => transaction
                    .prepare_cached(&format!("DELETE FROM {table} WHERE (ts, stream, seq) <= (?1, ?2, ?3)"))?
                    .execute(last)?,
                None => transaction.prepare_cached(&format!("DELETE FROM {table} WHERE ts < ?1"))?.execute([before])?,
            };
        }
        transaction.commit()?;
        Ok(pruned as u64)
    }

    fn prune_presence(&mut self, before: Timestamp, after: Place, limit: usize) -> rusqlite::Result<Option<Place>> {
        self.presence.forget();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let next = audit_presence::prune(&transaction, before, after, limit)?;
        transaction.commit()?;
        Ok(next)
    }
}

/// Inserts a row, or leaves one that is there as it is.
const INSERT: &str = "INSERT INTO event (ts, stream, seq, request_id, category, kind, tenant, issuer, subject, \
                          actor, server, method, target, outcome, status, total_us, trace_id, detail) \
                          VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";

const BODY: &str = "audit-body";

fn body_key(row: &AuditRow) -> Key {
    let tenant = row.event.actor.as_ref().map_or_else(TenantId::default, |actor| actor.subject.tenant.clone());
    Key::new(tenant, Kind::quiet(BODY), format!("{}/{}/{}", row.event.ts.as_microsecond(), row.stream.0, row.seq))
}

fn seal_body(sealer: &dyn FieldSealer, row: &AuditRow, bodies: &AuditBodies) -> Result<String, StoreError> {
    use mcp_gateway_core::contract::StoreErrorKind;
    let text = audit_row::write_bodies(bodies)
        .map_err(|error| StoreError::new(StoreErrorKind::Invalid, "append").because(error))?;
    sealer.seal(&body_key(row), "/bodies", &text)
}

/// Opens what was sealed for a row; `None` when its key is gone: the row stays readable.
pub(super) fn open_body(sealer: &dyn FieldSealer, row: &AuditRow, sealed: &str) -> Option<Box<AuditBodies>> {
    let opened = sealer.open(&body_key(row), "/bodies", sealed).map_err(mcp_gateway_core::BoxError::from);
    match opened.and_then(|text| audit_row::read_bodies(&text)) {
        Ok(bodies) => Some(Box::new(bodies)),
        Err(error) => {
            tracing::warn!(%error, stream = %row.stream.0, seq = row.seq, "the bodies of an audit row do not open");
            None
        }
    }
}
