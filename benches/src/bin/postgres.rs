//! What a Postgres on this machine takes in a second: commits, and rows of the audit trail.
//!
//! `SECONDS=10 ROWS=100000 cargo run --release -p mcp-gateway-benches --bin postgres`. `DATABASE` names a database; not set,
//! a private server is started, which does not wait for the disk: commits are then quicker than they would be.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use mcp_gateway_benches::audit::event;
use mcp_gateway_core::contract::{AuditFilter, AuditRow, AuditStore, Key, Kind, ResourceStore, StreamId, When, Write};
use mcp_gateway_core::record::{EventKind, TenantId};
use mcp_gateway_store::postgres::{
    Contract, PostgresAuditOptions, PostgresAuditStore, PostgresOptions, PostgresStore, migrate,
};
use mcp_gateway_test_postgres::Cluster;
use ulid::Ulid;

const WRITERS: u64 = 16;
const SUBJECTS: u64 = 100;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() {
    let url = std::env::var("DATABASE").unwrap_or_else(|_| Cluster::shared().database());
    let options = PostgresOptions::parse(&url).unwrap().with_connections(16);
    migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
    let store = PostgresStore::open(options.clone()).await.unwrap();
    let time = Duration::from_secs(number("SECONDS", 10));
    for (name, kind) in [("quiet", Kind::quiet("bench-quiet")), ("logged", Kind::logged("bench-logged"))] {
        println!("commits of one {name} record, {WRITERS} writers: {:.0}/s", commits(&store, kind, time).await);
    }
    let trail = PostgresAuditStore::open(PostgresAuditOptions::new(options)).await.unwrap();
    for (writers, batch) in [(1, 512), (1, 2_000), (2, 2_000)] {
        let rows = rows(&trail, writers, batch, number("ROWS", 100_000)).await;
        println!("rows into the audit trail, {writers} writers, batches of {batch}: {rows:.0}/s");
    }
    let begun = Instant::now();
    let filter = AuditFilter { subject: Some("user-7".to_owned()), ..AuditFilter::default() };
    let found = trail.query(&filter, None, 100).await.unwrap().rows.len();
    println!("{found} rows of one user: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
}

/// Commits in a second.
async fn commits(store: &PostgresStore, kind: Kind, time: Duration) -> f64 {
    let begun = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut done = 0_u32;
                while begun.elapsed() < time {
                    let key = Key::new(TenantId::default(), kind, format!("{writer}-{}", done % 1_000));
                    let value = vec![b'x'; 300].into();
                    let write = Write::Put { key, value, index: Vec::new(), ttl: None, when: When::Any };
                    store.commit(vec![write]).await.unwrap();
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for writer in writers {
        done += writer.await.unwrap();
    }
    f64::from(done) / begun.elapsed().as_secs_f64()
}

/// Rows in a second.
async fn rows(trail: &PostgresAuditStore, writers: u64, batch: u64, rows: u64) -> f64 {
    let begun = Instant::now();
    let writers: Vec<_> = (0..writers)
        .map(|_| {
            let trail = trail.clone();
            tokio::spawn(async move {
                let stream = StreamId(Ulid::generate());
                for first in (0..rows).step_by(usize::try_from(batch).unwrap()) {
                    let batch = (first..first + batch).map(|seq| AuditRow {
                        stream,
                        seq: seq + 1,
                        event: event(seq, SUBJECTS, EventKind::Exchange),
                    });
                    trail.append(batch.collect()).await.unwrap();
                }
            })
        })
        .collect();
    let count = f64::from(u32::try_from(rows).unwrap()) * f64::from(u32::try_from(writers.len()).unwrap());
    for writer in writers {
        writer.await.unwrap();
    }
    count / begun.elapsed().as_secs_f64()
}
