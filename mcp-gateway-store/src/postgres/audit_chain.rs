//! Links and checkpoints of the trail.

use mcp_gateway_core::contract::{AuditRow, ChainRow, StoreError, StreamId, Unlinked};
use mcp_gateway_core::trail::{Checkpoint, Link};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use ulid::Ulid;

use super::audit_row::COLUMNS;
use super::database::Statement;
use super::resource::corrupt;
use super::types::{Id, Time};

/// Links, column by column.
#[derive(Default)]
pub(super) struct LinkColumns {
    stream: Vec<Id>,
    seq: Vec<i64>,
    ts: Vec<Time>,
    digest: Vec<Vec<u8>>,
    bodies: Vec<Option<Vec<u8>>>,
}

impl LinkColumns {
    pub(super) fn new(links: &[Link]) -> Self {
        let mut columns = Self::default();
        for link in links {
            columns.stream.push(Id(link.stream.0));
            columns.seq.push(link.seq.cast_signed());
            columns.ts.push(Time(link.ts));
            columns.digest.push(link.digest.to_vec());
            columns.bodies.push(link.bodies.map(|bodies| bodies.to_vec()));
        }
        columns
    }

    /// Inserts those that are not there yet.
    pub(super) fn statement(&self) -> Statement<'_> {
        sqlx::query(INSERT_LINKS)
            .bind(&self.stream)
            .bind(&self.seq)
            .bind(&self.ts)
            .bind(&self.digest)
            .bind(&self.bodies)
    }
}

const INSERT_LINKS: &str = "INSERT INTO mcp_gateway.link (stream, seq, ts, digest, bodies)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bytea[], $5::bytea[]) ON CONFLICT DO NOTHING";

pub(super) const INSERT_CHECKPOINTS: &str = "INSERT INTO mcp_gateway.checkpoint (stream, seq, newest, signed)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::text[])
    ON CONFLICT (stream, seq) DO UPDATE SET newest = excluded.newest, signed = excluded.signed
    WHERE checkpoint.stream <> '00000000-0000-0000-0000-000000000000'";

pub(super) const CHECKPOINTS: &str = "SELECT stream, seq, newest, signed FROM mcp_gateway.checkpoint
    WHERE (stream, seq) > ($1, $2) ORDER BY stream, seq LIMIT $3";

pub(super) const LINKS: &str = "SELECT stream, seq, ts, digest, bodies FROM mcp_gateway.link
    WHERE (stream, seq) > ($1, $2) ORDER BY stream, seq LIMIT $3";

/// The first of each stream, with how many there are.
pub(super) const UNLINKED: &str =
    "SELECT DISTINCT ON (e.stream) e.stream, e.seq, e.ts, count(*) OVER (PARTITION BY e.stream),
        max(e.ts) OVER (PARTITION BY e.stream)
    FROM mcp_gateway.event e
    WHERE NOT EXISTS (SELECT FROM mcp_gateway.link l WHERE l.stream = e.stream AND l.seq = e.seq AND l.ts = e.ts)
    ORDER BY e.stream, e.seq";

/// The events of links. The first and the last time tell the planner which partitions.
pub(super) fn events() -> String {
    let columns: Vec<_> = COLUMNS.split(", ").map(|column| format!("e.{column}")).collect();
    format!(
        "SELECT {} FROM unnest($1::timestamptz[], $2::uuid[], $3::bigint[]) w(ts, stream, seq)
         JOIN mcp_gateway.event e USING (ts, stream, seq) WHERE e.ts >= $4 AND e.ts <= $5",
        columns.join(", ")
    )
}

/// Where to go on: nothing has the number 0 but the first mark, which is the first of all.
pub(super) fn place(after: Option<(StreamId, u64)>) -> (Id, i64) {
    after.map_or((Id(Ulid::nil()), -1), |(stream, seq)| (Id(stream.0), seq.cast_signed()))
}

pub(super) fn link(row: &PgRow) -> Result<Link, StoreError> {
    let read = || -> Result<Link, sqlx::Error> {
        Ok(Link {
            stream: StreamId(row.try_get::<Id, _>(0)?.0),
            seq: row.try_get::<i64, _>(1)?.cast_unsigned(),
            ts: row.try_get::<Time, _>(2)?.0,
            digest: bytes(row.try_get(3)?)?,
            bodies: row.try_get::<Option<&[u8]>, _>(4)?.map(bytes).transpose()?,
        })
    };
    read().map_err(|error| corrupt("chain", error))
}

fn bytes(bytes: &[u8]) -> Result<[u8; 32], sqlx::Error> {
    bytes.try_into().map_err(|error: std::array::TryFromSliceError| sqlx::Error::Decode(error.into()))
}

/// Links with the events that were found, and with those that cannot be read.
pub(super) fn join(links: Vec<Link>, mut rows: Vec<AuditRow>, unreadable: &[(StreamId, u64)]) -> Vec<ChainRow> {
    rows.sort_by_key(|row| (row.stream, row.seq));
    let mut rows = rows.into_iter().peekable();
    let join = |link: Link| {
        let row = rows.next_if(|row| (row.stream, row.seq) == (link.stream, link.seq));
        let unreadable = unreadable.contains(&(link.stream, link.seq));
        ChainRow { link, event: row.map(|row| row.event), unreadable }
    };
    links.into_iter().map(join).collect()
}

pub(super) fn checkpoint(row: &PgRow) -> Result<Checkpoint, StoreError> {
    let read = || -> Result<Checkpoint, sqlx::Error> {
        Ok(Checkpoint {
            stream: StreamId(row.try_get::<Id, _>(0)?.0),
            seq: row.try_get::<i64, _>(1)?.cast_unsigned(),
            newest: row.try_get::<Time, _>(2)?.0,
            signed: row.try_get(3)?,
        })
    };
    read().map_err(|error| corrupt("checkpoints", error))
}

pub(super) fn unlinked(row: &PgRow) -> Result<Unlinked, StoreError> {
    let read = || -> Result<Unlinked, sqlx::Error> {
        Ok(Unlinked {
            stream: StreamId(row.try_get::<Id, _>(0)?.0),
            seq: row.try_get::<i64, _>(1)?.cast_unsigned(),
            ts: row.try_get::<Time, _>(2)?.0,
            rows: row.try_get::<i64, _>(3)?.cast_unsigned(),
            newest: row.try_get::<Time, _>(4)?.0,
        })
    };
    read().map_err(|error| corrupt("unlinked", error))
}
