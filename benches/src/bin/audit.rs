//! What the audit trail costs: CPU time of the whole process, per call or event, on one core.
//!
//! `CALLS=200000 SUBJECTS=100 DIR=. cargo run --release -p mcp-gateway-benches --bin audit`

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp_gateway_benches::audit::{Nowhere, event};
use mcp_gateway_core::contract::{AuditRow, AuditSink, AuditStore, StreamId, SystemClock};
use mcp_gateway_core::record::EventKind;
use mcp_gateway_store::spool::{Durability, Spool, SpoolKey, SpoolOptions};
use mcp_gateway_store::sqlite::{self, SqliteAuditOptions, SqliteAuditStore};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use ulid::Ulid;

const CALLERS: u64 = 16;
/// Rows that the spool hands to the store at once.
const BATCH: u64 = 1_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).unwrap();
    let (calls, users) = (number("CALLS", 200_000), number("SUBJECTS", 100));
    let dir = tempfile::tempdir_in(std::env::var("DIR").unwrap_or_else(|_| ".".into())).unwrap();
    println!("{calls} calls from {CALLERS} callers, {users} users, on one core; CPU of the whole process\n");

    println!("an intent and an end through the spool, into a store that takes everything for nothing:");
    for (name, inline, durability) in [
        ("written by the callers", true, Durability::Process),
        ("written by the thread", false, Durability::Process),
        ("written by the thread, fsync", false, Durability::Fsync),
    ] {
        let calls = if durability == Durability::Fsync { calls / 10 } else { calls };
        let path = dir.path().join(name);
        let measured = spooled(&path, inline, durability, Arc::new(Nowhere), calls, users);
        println!("  {name:30} {measured}");
    }

    println!("\nrows into SQLite, batches of 1,000:");
    for durability in [sqlite::Durability::Process, sqlite::Durability::Power] {
        let options = SqliteAuditOptions::default().with_durability(durability);
        let store = SqliteAuditStore::open(dir.path().join(format!("{durability:?}.db")), options).unwrap();
        println!("  {:30} {}", format!("{durability:?}"), inserted(&store, calls, users));
    }

    println!("\na call and its row, spool and SQLite together:");
    for (name, inline) in [("written by the callers", true), ("written by the thread", false)] {
        let store = SqliteAuditStore::open(dir.path().join(format!("{inline}.db")), SqliteAuditOptions::default());
        let path = dir.path().join(format!("both {inline}"));
        let measured = spooled(&path, inline, Durability::Process, Arc::new(store.unwrap()), calls, users);
        println!("  {name:30} {measured}");
    }
}

struct Measured {
    count: u64,
    cpu: Duration,
    /// Until every caller had its answers, and until the store had every row.
    answered: Duration,
    stored: Duration,
    inline: u64,
}

impl std::fmt::Display for Measured {
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.count as f64;
        write!(
            f,
            "{:6.2} us CPU each, {:7.0}/s answered, {:7.0}/s stored, {:3.0} % inline",
            self.cpu.as_secs_f64() * 1e6 / count,
            count / self.answered.as_secs_f64(),
            count / self.stored.as_secs_f64(),
            self.inline as f64 * 50.0 / count,
        )
    }
}

fn spooled(
    path: &std::path::Path,
    inline: bool,
    durability: Durability,
    store: Arc<dyn AuditStore>,
    calls: u64,
    users: u64,
) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = SpoolOptions::new(path, SpoolKey::new(&[1; 32]));
        options.inline_writes = inline;
        options.durability = durability;
        let (spool, driver) = Spool::open(options, store, Arc::new(SystemClock)).unwrap();
        // Events are made beforehand: making them is the audit layer's cost.
        let work: Vec<Vec<_>> = (0..CALLERS)
            .map(|caller| {
                let numbers = (0..calls / CALLERS).map(move |n| n * CALLERS + caller);
                numbers.map(|n| (event(n, users, EventKind::Intent), event(n, users, EventKind::Exchange))).collect()
            })
            .collect();
        let (began, cpu) = (Instant::now(), cpu_time());
        let tasks: Vec<_> = work
            .into_iter()
            .map(|calls| {
                let spool = spool.clone();
                tokio::spawn(async move {
                    for (intent, end) in calls {
                        spool.record(intent).await.unwrap();
                        tokio::task::yield_now().await;
                        spool.record(end).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let answered = began.elapsed();
        spool.flush().await;
        let (stored, cpu) = (began.elapsed(), cpu_time() - cpu);
        let inline = spool.stats().recorded_inline;
        drop(spool);
        driver.close().await;
        Measured { count: calls, cpu, answered, stored, inline }
    })
}

fn inserted(store: &SqliteAuditStore, rows: u64, users: u64) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = StreamId(Ulid::generate());
    let row = |seq| AuditRow { stream, seq, event: event(seq, users, EventKind::Exchange) };
    let batches: Vec<Vec<_>> = (0..rows / BATCH).map(|n| (n * BATCH..(n + 1) * BATCH).map(row).collect()).collect();
    let (began, cpu) = (Instant::now(), cpu_time());
    runtime.block_on(async {
        for batch in batches {
            store.append(batch).await.unwrap();
        }
    });
    let (took, cpu) = (began.elapsed(), cpu_time() - cpu);
    Measured { count: rows, cpu, answered: took, stored: took, inline: 0 }
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap()
}
