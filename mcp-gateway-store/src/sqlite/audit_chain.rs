//! Links and checkpoints of the trail.

use jiff::Timestamp;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::{AuditRow, ChainRow, StreamId, Unlinked};
use mcp_gateway_core::record::FieldSealer;
use mcp_gateway_core::trail::{Checkpoint, Link, MARKS};
use rusqlite::types::Type;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Transaction};
use ulid::Ulid;

use super::audit_row::{self, COLUMNS, number};
use super::audit_writer::open_body;
use super::resource_reader::ReadError;

const INSERT_LINK: &str =
    "INSERT INTO link (stream, seq, ts, digest, bodies) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";

/// Inserts links, one after the other.
pub(super) struct Links<'a>(CachedStatement<'a>);

impl<'a> Links<'a> {
    pub(super) fn prepare(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached(INSERT_LINK).map(Self)
    }

    /// A link that is there already stays.
    pub(super) fn insert(&mut self, link: &Link) -> rusqlite::Result<()> {
        let (stream, ts) = (link.stream.0.to_bytes(), link.ts.as_microsecond());
        self.0.execute((stream, number(link.seq), ts, link.digest, link.bodies)).map(drop)
    }
}

pub(super) fn put(transaction: &Transaction<'_>, links: &[Link], checkpoints: &[Checkpoint]) -> rusqlite::Result<()> {
    let mut insert = Links::prepare(transaction)?;
    links.iter().try_for_each(|link| insert.insert(link))?;
    let mut insert = transaction.prepare_cached(
        "INSERT INTO checkpoint (stream, seq, newest, signed) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET newest = excluded.newest, signed = excluded.signed
         WHERE stream <> zeroblob(16)",
    )?;
    for checkpoint in checkpoints {
        let (stream, newest) = (checkpoint.stream.0.to_bytes(), checkpoint.newest.as_microsecond());
        insert.execute((stream, number(checkpoint.seq), newest, &checkpoint.signed))?;
    }
    Ok(())
}

/// Where to go on: nothing has the number 0 but the first mark, which is the first of all.
fn place(after: Option<(StreamId, u64)>) -> ([u8; 16], i64) {
    after.map_or(([0; 16], -1), |(stream, seq)| (stream.0.to_bytes(), number(seq)))
}

pub(super) fn read(
    connection: &Connection,
    after: Option<(StreamId, u64)>,
    limit: usize,
    sealer: Option<&dyn FieldSealer>,
) -> Result<Vec<ChainRow>, ReadError> {
    let (stream, seq) = place(after);
    let mut links = connection.prepare_cached(
        "SELECT stream, seq, ts, digest, bodies FROM link WHERE (stream, seq) > (?1, ?2) ORDER BY stream, seq LIMIT ?3",
    )?;
    let mut event =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM event WHERE (ts, stream, seq) = (?1, ?2, ?3)"))?;
    let mut rows = Vec::new();
    for link in links.query_map((stream, seq, limit), link)? {
        let link = link?;
        let key = (link.ts.as_microsecond(), link.stream.0.to_bytes(), number(link.seq));
        let (mut found, unreadable) = match event.query_row(key, audit_row::read).optional() {
            Err(error) if is_of_a_value(&error) => (None, true),
            found => (found?, false),
        };
        if let Some((row, sealer)) = found.as_mut().zip(sealer).filter(|_| link.bodies.is_some()) {
            read_bodies(connection, row, sealer)?;
        }
        rows.push(ChainRow { link, event: found.map(|row| row.event), unreadable });
    }
    Ok(rows)
}

/// Whether a row was found and has something that no program writes.
fn is_of_a_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..))
}

/// Adds the bodies that were captured with a row.
pub(super) fn read_bodies(
    connection: &Connection,
    row: &mut AuditRow,
    sealer: &dyn FieldSealer,
) -> Result<(), ReadError> {
    let mut select = connection.prepare_cached("SELECT sealed FROM body WHERE (ts, stream, seq) = (?1, ?2, ?3)")?;
    let key = (row.event.ts.as_microsecond(), row.stream.0.to_bytes(), number(row.seq));
    let mut found = select.query(key)?;
    if let Some(body) = found.next()? {
        row.event.bodies = open_body(sealer, row, body.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?);
    }
    Ok(())
}

pub(super) fn checkpoints(
    connection: &Connection,
    after: Option<(StreamId, u64)>,
    limit: usize,
) -> Result<Vec<Checkpoint>, ReadError> {
    let (stream, seq) = place(after);
    let mut select = connection.prepare_cached(
        "SELECT stream, seq, newest, signed FROM checkpoint WHERE (stream, seq) > (?1, ?2) ORDER BY stream, seq LIMIT ?3",
    )?;
    let read = |row: &Row<'_>| {
        let stream = StreamId(Ulid::from_bytes(row.get(0)?));
        Ok(Checkpoint {
            stream,
            seq: row.get::<_, i64>(1)?.cast_unsigned(),
            newest: time(row, 2)?,
            signed: row.get(3)?,
        })
    };
    Ok(select.query_map((stream, seq, limit), read)?.collect::<Result<_, _>>()?)
}

pub(super) fn unlinked(connection: &Connection) -> Result<Vec<Unlinked>, ReadError> {
    let mut select = connection.prepare_cached(
        "WITH lone AS (SELECT e.stream, e.seq, e.ts FROM event e
             WHERE NOT EXISTS (SELECT 1 FROM link l WHERE l.stream = e.stream AND l.seq = e.seq AND l.ts = e.ts))
         -- `ts` is that of the row with the smallest number.
         SELECT f.stream, f.rows, f.seq, f.ts, n.newest
         FROM (SELECT stream, count(*) AS rows, min(seq) AS seq, ts FROM lone GROUP BY stream) f
         JOIN (SELECT stream, max(ts) AS newest FROM lone GROUP BY stream) n USING (stream) ORDER BY f.stream",
    )?;
    let read = |row: &Row<'_>| {
        let stream = StreamId(Ulid::from_bytes(row.get(0)?));
        let count = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        Ok(Unlinked { stream, rows: count(1)?, seq: count(2)?, ts: time(row, 3)?, newest: time(row, 4)? })
    };
    Ok(select.query_map((), read)?.collect::<Result<_, _>>()?)
}

/// The links up to the last checkpoint of which all rows are gone, at most `limit`, and when there are none left, the
/// checkpoints before it and all marks but the first and the last. Says how many links.
pub(super) fn prune(transaction: &Transaction<'_>, before: Timestamp, limit: usize) -> rusqlite::Result<u64> {
    const ANCHORS: &str =
        "(SELECT stream, max(seq) AS seq FROM checkpoint WHERE newest < ?1 AND stream <> ?2 GROUP BY stream)";
    let (before, marks) = (before.as_microsecond(), MARKS.0.to_bytes());
    let links = format!(
        "DELETE FROM link WHERE (stream, seq) IN (SELECT l.stream, l.seq FROM {ANCHORS} a
         JOIN link l ON l.stream = a.stream AND l.seq <= a.seq LIMIT ?3)"
    );
    let removed = transaction.prepare_cached(&links)?.execute((before, marks, limit))?;
    if removed == 0 {
        let checkpoints = format!(
            "DELETE FROM checkpoint WHERE (stream, seq) IN (SELECT c.stream, c.seq FROM {ANCHORS} a
             JOIN checkpoint c ON c.stream = a.stream AND c.seq < a.seq)"
        );
        transaction.prepare_cached(&checkpoints)?.execute((before, marks))?;
        transaction
            .prepare_cached(
                "DELETE FROM checkpoint WHERE stream = ?1 AND seq > 0
                 AND seq < (SELECT max(seq) FROM checkpoint WHERE stream = ?1)",
            )?
            .execute([marks])?;
    }
    Ok(removed as u64)
}

fn link(row: &Row<'_>) -> rusqlite::Result<Link> {
    Ok(Link {
        stream: StreamId(Ulid::from_bytes(row.get(0)?)),
        seq: row.get::<_, i64>(1)?.cast_unsigned(),
        ts: time(row, 2)?,
        digest: row.get(3)?,
        bodies: row.get(4)?,
    })
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(row.get(column)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, BoxError::from(error)))
}
