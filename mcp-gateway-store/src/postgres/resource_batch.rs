//! A batch of writes as the arguments of `mcp_gateway.commit_batch`.

use std::borrow::Cow;

use mcp_gateway_core::contract::{Class, Key, Revision, StoreError, StoreErrorKind, When, Write};
use sqlx::postgres::PgRow;
use sqlx::{Error, Row as _};

use super::database::Statement;
use super::error::store_error;
use super::types::escape;

/// A time to live beyond this (about 146,000 years) is for ever.
const FOR_EVER: i64 = i64::MAX / 2;

/// One element for each write, but for the terms.
#[derive(Default)]
pub(super) struct Batch<'a> {
    kinds: Vec<&'a str>,
    tenants: Vec<Cow<'a, str>>,
    ids: Vec<Cow<'a, str>>,
    ops: Vec<i16>,
    conditions: Vec<Option<i64>>,
    values: Vec<Option<&'a [u8]>>,
    ttls: Vec<Option<i64>>,
    logged: Vec<bool>,
    term_of: Vec<i32>,
    term_names: Vec<&'a str>,
    term_values: Vec<Cow<'a, str>>,
}

impl<'a> Batch<'a> {
    /// The batch is within the limits.
    pub(super) fn new(writes: &'a [Write]) -> Self {
        let mut batch = Self::default();
        for (number, write) in (1..).zip(writes) {
            let key = write.key();
            batch.kinds.push(key.kind.name);
            batch.tenants.push(escape(key.tenant.as_str()));
            batch.ids.push(escape(&key.id));
            batch.logged.push(key.kind.class == Class::Logged);
            batch.conditions.push(match write.when() {
                When::Any => None,
                When::Absent => Some(-1),
                // No record ever has a revision beyond.
                When::At(revision) => Some(i64::try_from(revision.0).unwrap_or(i64::MAX)),
            });
            let (op, value, ttl) = match write {
                Write::Put { value, index, ttl, .. } => {
                    for term in index {
                        batch.term_of.push(number);
                        batch.term_names.push(term.name);
                        batch.term_values.push(escape(&term.value));
                    }
                    let ttl = ttl.and_then(|ttl| i64::try_from(ttl.as_micros()).ok());
                    (0, Some(&**value), ttl.filter(|ttl| *ttl < FOR_EVER))
                }
                Write::Delete { .. } => (1, None, None),
                Write::Check { .. } => (2, None, None),
            };
            batch.ops.push(op);
            batch.values.push(value);
            batch.ttls.push(ttl);
        }
        batch
    }

    pub(super) fn statement(&self, log_commits: i64) -> Statement<'_> {
        sqlx::query(
            "SELECT committed, conflict, current
             FROM mcp_gateway.commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&self.kinds)
        .bind(&self.tenants)
        .bind(&self.ids)
        .bind(&self.ops)
        .bind(&self.conditions)
        .bind(&self.values)
        .bind(&self.ttls)
        .bind(&self.logged)
        .bind(&self.term_of)
        .bind(&self.term_names)
        .bind(&self.term_values)
        .bind(log_commits)
    }
}

/// What `commit_batch` answered.
pub(super) fn answer(writes: &[Write], rows: &[PgRow]) -> Result<Revision, StoreError> {
    let read = || -> Result<_, Error> {
        let row = rows.first().ok_or(Error::RowNotFound)?;
        Ok((row.try_get(0)?, row.try_get::<Option<i32>, _>(1)?, row.try_get(2)?))
    };
    let (committed, conflict, found): (Option<i64>, _, Option<i64>) =
        read().map_err(|error| store_error("commit", error, StoreErrorKind::Unknown))?;
    if let Some(number) = conflict {
        let write = usize::try_from(number - 1).ok().and_then(|number| writes.get(number));
        let key = write.map(|write| write.key().clone());
        let key =
            key.ok_or_else(|| StoreError::new(StoreErrorKind::Corrupt, "commit").because("a conflict of nothing"))?;
        return Err(StoreError::conflicting(key, found.map(revision)));
    }
    Ok(revision(committed.unwrap_or_default()))
}

/// A revision as Postgres has it: never negative.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// Keys as three arrays.
pub(super) fn columns(keys: &[Key]) -> (Vec<&str>, Vec<Cow<'_, str>>, Vec<Cow<'_, str>>) {
    let kinds = keys.iter().map(|key| key.kind.name).collect();
    let tenants = keys.iter().map(|key| escape(key.tenant.as_str())).collect();
    (kinds, tenants, keys.iter().map(|key| escape(&key.id)).collect())
}
