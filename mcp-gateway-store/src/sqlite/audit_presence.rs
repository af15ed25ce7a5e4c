//! The seconds in which servers and subjects have rows.

use std::collections::HashMap;

use jiff::Timestamp;
use mcp_gateway_core::contract::AuditRow;
use rusqlite::{CachedStatement, Connection, OptionalExtension};

/// Microseconds in one.
pub(super) const SECOND: i64 = 1_000_000;
/// What the table `presence` knows of.
pub(super) const SERVER: &str = "server";
pub(super) const SUBJECT: &str = "subject";

/// Names that are remembered, of servers and of subjects.
const NAMES: usize = 8_192;
/// Seconds of each that are remembered: calls end in another order than they begin.
const SECONDS: usize = 4;

/// Remembers what it wrote, so that a row costs a statement only when it is the first of its second.
#[derive(Debug, Default)]
pub(super) struct Presence {
    servers: Names,
    subjects: Names,
}

/// The last seconds that were written for a name; which one is replaced next goes round.
type Names = HashMap<Box<str>, (usize, [i64; SECONDS])>;

/// A name in the table, to go on behind.
pub(super) type Place = (String, String);

impl Presence {
    /// Notes where the rows of a batch are. Without a commit behind it, [`forget`](Self::forget) must follow.
    pub(super) fn note(&mut self, connection: &Connection, batch: &[AuditRow]) -> rusqlite::Result<()> {
        let mut insert = connection
            .prepare_cached("INSERT INTO presence (what, name, second) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?;
        for AuditRow { event, .. } in batch {
            let second = second(event.ts);
            if let Some(server) = event.server.as_deref() {
                note(&mut self.servers, &mut insert, SERVER, server, second)?;
            }
            if let Some(actor) = &event.actor {
                note(&mut self.subjects, &mut insert, SUBJECT, &actor.subject.id, second)?;
            }
        }
        Ok(())
    }

    /// Forgets what may not be in the table.
    pub(super) fn forget(&mut self) {
        self.servers.clear();
        self.subjects.clear();
    }
}

/// The second that a time is in.
pub(super) fn second(ts: Timestamp) -> i64 {
    ts.as_microsecond().div_euclid(SECOND)
}

fn note(
    names: &mut Names,
    insert: &mut CachedStatement<'_>,
    what: &str,
    name: &str,
    second: i64,
) -> rusqlite::Result<()> {
    if let Some((next, seconds)) = names.get_mut(name) {
        if seconds.contains(&second) {
            return Ok(());
        }
        seconds[*next] = second;
        *next = (*next + 1) % SECONDS;
    } else {
        if names.len() >= NAMES {
            names.clear();
        }
        names.insert(name.into(), (1, [second; SECONDS]));
    }
    insert.execute((what, name, second)).map(drop)
}

/// Deletes the seconds before a time of up to `limit` names, and says behind which one to go on. Their rows are gone.
pub(super) fn prune(
    connection: &Connection,
    before: Timestamp,
    mut after: Place,
    limit: usize,
) -> rusqlite::Result<Option<Place>> {
    let mut next = connection
        .prepare_cached("SELECT what, name FROM presence WHERE (what, name) > (?1, ?2) ORDER BY what, name LIMIT 1")?;
    let mut delete = connection.prepare_cached("DELETE FROM presence WHERE what = ?1 AND name = ?2 AND second < ?3")?;
    for _ in 0..limit {
        let found = next.query_row((&after.0, &after.1), |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some(place) = found else { return Ok(None) };
        after = place;
        delete.execute((&after.0, &after.1, second(before)))?;
    }
    Ok(Some(after))
}
