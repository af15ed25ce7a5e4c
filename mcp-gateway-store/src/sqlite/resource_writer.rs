//! The thread that writes.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use mcp_gateway_core::contract::{Class, Key, Revision, StoreError, StoreErrorKind, When, Write};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::SqliteOptions;
use super::error::store_error;
use super::lock::FileLock;
use super::resource::micros;

/// Batches that share a transaction at most.
const GROUP: usize = 64;
/// How often expired records and old changes are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Rows that a sweep removes in one transaction, so that commits do not wait long.
const SWEEP_ROWS: u32 = 500;
/// Changes of a revision have places from 256 times the revision.
pub(super) const PLACES: u64 = 256;

/// A batch that waits.
pub(super) struct Request {
    pub(super) writes: Vec<Write>,
    pub(super) reply: oneshot::Sender<Result<Revision, StoreError>>,
    /// Bounds how many wait.
    pub(super) _turn: OwnedSemaphorePermit,
}

/// How far the store has come, as watchers see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// The last commit.
    pub(super) revision: Revision,
    /// The last commit that is in the change log.
    pub(super) logged: Revision,
}

/// Owns the connection that writes.
pub(super) struct Writer {
    connection: Connection,
    options: SqliteOptions,
    revision: u64,
    compacted: u64,
    position: watch::Sender<Position>,
    /// Last, so that it is let go when the connection is closed.
    _lock: FileLock,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        options: SqliteOptions,
        lock: FileLock,
    ) -> rusqlite::Result<(Self, watch::Receiver<Position>)> {
        let (revision, compacted) =
            connection.query_row("SELECT revision, compacted FROM state", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let start = Position { revision: Revision(revision), logged: Revision(revision) };
        let (position, seen) = watch::channel(start);
        Ok((Self { connection, options, revision, compacted, position, _lock: lock }, seen))
    }

    /// Works until nobody can ask any more and everything that was asked is done.
    pub(super) fn run(mut self, requests: &mpsc::Receiver<Request>) {
        let mut swept = Instant::now();
        loop {
            match requests.recv_timeout(SWEEP_EVERY) {
                Ok(first) => {
                    let mut group = vec![first];
                    group.extend(requests.try_iter().take(GROUP - 1));
                    self.answer(group);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if swept.elapsed() >= SWEEP_EVERY {
                if let Err(error) = self.sweep() {
                    tracing::warn!(%error, "expired records and old changes were not removed; the next sweep tries again");
                }
                swept = Instant::now();
            }
        }
    }

    /// Commits a group and answers each of its batches.
    fn answer(&mut self, group: Vec<Request>) {
        // Who has gone away does not want it written any more.
        let group: Vec<_> = group.into_iter().filter(|request| !request.reply.is_closed()).collect();
        let (batches, replies): (Vec<_>, Vec<_>) =
            group.into_iter().map(|request| (request.writes, (request.reply, request._turn))).unzip();
        let count = replies.len();
        let answers = match self.commit(batches) {
            Ok(answers) => answers,
            Err((kind, error)) => {
                tracing::error!(%error, "a group of commits failed");
                let text = error.to_string();
                (0..count).map(|_| Err(StoreError::new(kind, "commit").because(text.clone()))).collect()
            }
        };
        for ((reply, _turn), answer) in replies.into_iter().zip(answers) {
            // Who went away meanwhile finds out by reading.
            let _ = reply.send(answer);
        }
    }

    /// One transaction for the group. A batch whose precondition fails writes nothing, the others go on.
    fn commit(
        &mut self,
        batches: Vec<Vec<Write>>,
    ) -> Result<Vec<Result<Revision, StoreError>>, (StoreErrorKind, StoreError)> {
        let failed = |error| {
            let error = store_error("commit", error);
            (error.kind(), error)
        };
        let now = micros(&*self.options.clock);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let mut revision = self.revision;
        let mut logged = None;
        let mut answers = Vec::with_capacity(batches.len());
        for batch in batches {
            let mut applied = Batch { transaction: &transaction, revision: revision + 1, now, changes: 0 };
            match applied.apply(batch).map_err(failed)? {
                Applied::Written => {
                    revision += 1;
                    if applied.changes > 0 {
                        logged = Some(revision);
                    }
                    answers.push(Ok(Revision(revision)));
                }
                Applied::Checked => answers.push(Ok(Revision(revision))),
                Applied::Conflict(key, current) => answers.push(Err(StoreError::conflicting(key, current))),
            }
        }
        let mut compacted = self.compacted;
        if revision > self.revision {
            // Not after every commit when the log is long.
            let bound = revision.saturating_sub(self.options.log_commits);
            if bound >= compacted + (self.options.log_commits / 64).max(1) {
                compacted = forget(&transaction, bound).map_err(failed)?.unwrap_or(compacted);
            }
            transaction
                .prepare_cached("UPDATE state SET revision = ?1, compacted = ?2")
                .and_then(|mut update| update.execute((revision, compacted)))
                .map_err(failed)?;
        }
        // Only here it is open whether the disk has it.
        transaction.commit().map_err(|error| (StoreErrorKind::Unknown, store_error("commit", error)))?;
        if revision > self.revision {
            (self.revision, self.compacted) = (revision, compacted);
            self.position.send_modify(|position| {
                position.revision = Revision(revision);
                position.logged = logged.map_or(position.logged, Revision);
            });
        }
        Ok(answers)
    }

    fn sweep(&mut self) -> rusqlite::Result<()> {
        let now = micros(&*self.options.clock);
        loop {
            let removed = self
                .connection
                .prepare_cached(
                    "DELETE FROM record WHERE row IN (SELECT row FROM record WHERE expires_at <= ?1 LIMIT ?2)",
                )?
                .execute((now, SWEEP_ROWS))?;
            if removed < SWEEP_ROWS as usize {
                break;
            }
        }
        let age = i64::try_from(self.options.log_age.as_micros()).unwrap_or(i64::MAX);
        let oldest = now.saturating_sub(age);
        loop {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let last_old: Option<u64> = transaction
                .prepare_cached(
                    "SELECT max(place) FROM (SELECT place, at FROM change ORDER BY place LIMIT ?1) WHERE at < ?2",
                )?
                .query_row((SWEEP_ROWS, oldest), |row| row.get(0))?;
            let Some(place) = last_old else { return Ok(()) };
            let Some(compacted) = forget(&transaction, place / PLACES)? else { return Ok(()) };
            transaction.execute("UPDATE state SET compacted = ?1", [compacted])?;
            transaction.commit()?;
            self.compacted = compacted;
        }
    }
}

/// Removes the changes up to a revision, and says which one was the last that was there.
fn forget(transaction: &Transaction<'_>, bound: u64) -> rusqlite::Result<Option<u64>> {
    let end = (bound + 1) * PLACES;
    let last: Option<u64> = transaction
        .prepare_cached("SELECT max(place) FROM change WHERE place < ?1")?
        .query_row([end], |row| row.get(0))?;
    if last.is_some() {
        transaction.prepare_cached("DELETE FROM change WHERE place < ?1")?.execute([end])?;
    }
    Ok(last.map(|place| place / PLACES))
}

enum Applied {
    Written,
    Checked,
    Conflict(Key, Option<Revision>),
}

struct Batch<'a> {
    transaction: &'a Transaction<'a>,
    revision: u64,
    now: i64,
    changes: u64,
}

impl Batch<'_> {
    /// Every precondition is checked before anything is written: a conflict needs no way back.
    fn apply(&mut self, writes: Vec<Write>) -> rusqlite::Result<Applied> {
        for write in &writes {
            if write.when() == When::Any {
                continue;
            }
            let current = self.current(write.key())?;
            let holds = match write.when() {
                When::Any => true,
                When::Absent => current.is_none(),
                When::At(revision) => current == Some(revision),
            };
            if !holds {
                return Ok(Applied::Conflict(write.key().clone(), current));
            }
        }
        if writes.iter().all(|write| matches!(write, Write::Check { .. })) {
            return Ok(Applied::Checked);
        }
        for write in writes {
            match write {
                Write::Put { key, value, index, ttl, .. } => {
                    // A time that the clock cannot count to is never.
                    let expires_at = ttl
                        .and_then(|ttl| i64::try_from(ttl.as_micros()).ok())
                        .and_then(|ttl| self.now.checked_add(ttl));
                    let row: i64 = self
                        .transaction
                        .prepare_cached(
                            "INSERT INTO record (kind, tenant, id, revision, expires_at, value)
                             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                             ON CONFLICT (kind, tenant, id) DO UPDATE SET
                                 revision = excluded.revision, expires_at = excluded.expires_at, value = excluded.value
                             RETURNING row",
                        )?
                        .query_row(
                            (key.kind.name, key.tenant.as_str(), &*key.id, self.revision, expires_at, &*value),
                            |row| row.get(0),
                        )?;
                    self.transaction.prepare_cached("DELETE FROM term WHERE record = ?1")?.execute([row])?;
                    for term in index {
                        self.transaction
                            .prepare_cached("INSERT OR IGNORE INTO term VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                            .execute((key.kind.name, term.name, &*term.value, key.tenant.as_str(), &*key.id, row))?;
                    }
                    self.log(&key, Some(&value))?;
                }
                Write::Delete { key, .. } => {
                    let expires_at: Option<Option<i64>> = self
                        .transaction
                        .prepare_cached(
                            "DELETE FROM record WHERE kind = ?1 AND tenant = ?2 AND id = ?3 RETURNING expires_at",
                        )?
                        .query_row((key.kind.name, key.tenant.as_str(), &*key.id), |row| row.get(0))
                        .optional()?;
                    // Removing what is absent or expired is no change.
                    if expires_at.is_some_and(|at| at.is_none_or(|at| at > self.now)) {
                        self.log(&key, None)?;
                    }
                }
                Write::Check { .. } => {}
            }
        }
        Ok(Applied::Written)
    }

    fn current(&self, key: &Key) -> rusqlite::Result<Option<Revision>> {
        self.transaction
            .prepare_cached(
                "SELECT revision FROM record
                 WHERE kind = ?1 AND tenant = ?2 AND id = ?3 AND (expires_at IS NULL OR expires_at > ?4)",
            )?
            .query_row((key.kind.name, key.tenant.as_str(), &*key.id, self.now), |row| row.get(0).map(Revision))
            .optional()
    }

    fn log(&mut self, key: &Key, value: Option<&[u8]>) -> rusqlite::Result<()> {
        if key.kind.class == Class::Logged {
            let place = self.revision * PLACES + self.changes;
            self.transaction.prepare_cached("INSERT INTO change VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute((
                place,
                self.now,
                key.kind.name,
                key.tenant.as_str(),
                &*key.id,
                value,
            ))?;
            self.changes += 1;
        }
        Ok(())
    }
}
