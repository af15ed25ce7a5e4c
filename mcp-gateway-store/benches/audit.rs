//! What the audit trail costs: CPU time of the whole process, per call or event, on one core.
//!
//! `cargo bench -p mcp-gateway-store --features sqlite --bench audit`

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use mcp_gateway_core::contract::{
    AuditCursor, AuditFilter, AuditPage, AuditRow, AuditSink, AuditStore, StoreError, StreamId, SystemClock, Usage,
    UsageWindow,
};
use mcp_gateway_core::record::{ActorFacts, ActorKind, AuditEvent, Category, EventKind, Outcome, Subject, TenantId};
use mcp_gateway_store::spool::{Durability, Spool, SpoolKey, SpoolOptions};
use mcp_gateway_store::sqlite::{self, SqliteAuditOptions, SqliteAuditStore};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use ulid::Ulid;

const CALLERS: u64 = 16;
/// Different users; each has a place of its own in an index.
static SUBJECTS: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| number("SUBJECTS", 100));

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let mut one = CpuSet::new();
    one.set(0);
    sched_setaffinity(None, &one).unwrap();
    let calls = number("CALLS", 200_000);
    let dir = tempfile::tempdir_in(std::env::var("DIR").unwrap_or_else(|_| ".".into())).unwrap();
    println!("{calls} calls from {CALLERS} callers, {} users, on one core; CPU of the whole process\n", *SUBJECTS);

    println!("an intent and an end through the spool, into a store that takes everything for nothing:");
    for (name, inline, durability) in [
        ("written by the callers", true, Durability::Process),
        ("written by the thread", false, Durability::Process),
        ("written by the thread, fsync", false, Durability::Fsync),
    ] {
        let calls = if durability == Durability::Fsync { calls / 10 } else { calls };
        let path = dir.path().join(name);
        let measured = spooled(&path, inline, durability, Arc::new(Nowhere), calls);
        println!("  {name:30} {measured}");
    }

    println!("\nrows into SQLite, batches of 512:");
    for (rows, durability) in [
        (1, sqlite::Durability::Process),
        (16, sqlite::Durability::Process),
        (64, sqlite::Durability::Process),
        (256, sqlite::Durability::Process),
        (64, sqlite::Durability::Power),
    ] {
        let mut options = SqliteAuditOptions::default().with_durability(durability);
        options.statement_rows = rows;
        let store = SqliteAuditStore::open(dir.path().join(format!("{rows}{durability:?}.db")), options).unwrap();
        let measured = inserted(&store, calls);
        println!("  {rows:3} a statement, {durability:<20?} {measured}");
    }

    println!("\na call and its row, spool and SQLite together:");
    for (name, inline) in [("written by the callers", true), ("written by the thread", false)] {
        let store = SqliteAuditStore::open(dir.path().join(format!("{inline}.db")), SqliteAuditOptions::default());
        let path = dir.path().join(format!("both {inline}"));
        let measured = spooled(&path, inline, Durability::Process, Arc::new(store.unwrap()), calls);
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
                numbers.map(|n| (event(n, EventKind::Intent), event(n, EventKind::Exchange))).collect()
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

fn inserted(store: &SqliteAuditStore, rows: u64) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = StreamId(Ulid::generate());
    let all: Vec<_> = (1..=rows).map(|seq| AuditRow { stream, seq, event: event(seq, EventKind::Exchange) }).collect();
    let mut batches: Vec<Vec<_>> = all.chunks(512).map(<[_]>::to_vec).collect();
    drop(all);
    let (began, cpu) = (Instant::now(), cpu_time());
    runtime.block_on(async {
        for batch in &mut batches {
            store.append(std::mem::take(batch)).await.unwrap();
        }
    });
    let (took, cpu) = (began.elapsed(), cpu_time() - cpu);
    Measured { count: rows, cpu, answered: took, stored: took, inline: 0 }
}

fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap()
}

/// An event as a call of a tool makes it.
fn event(n: u64, kind: EventKind) -> AuditEvent {
    let ts = Timestamp::from_microsecond(1_800_000_000_000_000 + i64::try_from(n).unwrap() * 50).unwrap();
    let mut event = AuditEvent::new(ts, Ulid::from_parts(1_800_000_000_000, rand::random()), Category::Mcp, kind);
    let user = n % *SUBJECTS;
    event.request_id = Ulid::from_parts(1_800_000_000_000, u128::from(n) << 16);
    event.actor = Some(ActorFacts {
        subject: Subject { tenant: TenantId::default(), issuer: Arc::from("local"), id: format!("user-{user}").into() },
        kind: ActorKind::ApiKey,
        id: format!("01JCKEY{user:019}").into(),
        name: Some(Arc::from("laptop")),
    });
    event.address = Some([192, 0, 2, 7].into());
    event.user_agent = Some("node".into());
    event.client_name = Some("claude-code".into());
    event.client_version = Some("2.1.0".into());
    event.server = Some(format!("server-{}", n % 20).into());
    event.era = Some("legacy".into());
    event.protocol_version = Some("2025-11-25".into());
    event.http_method = Some("POST".into());
    event.method = Some("tools/call".into());
    event.target = Some(format!("tool-{}", n % 100).into());
    event.rpc_id = Some(n.to_string().into());
    event.session = Some("9f86d081884c7d65".into());
    event.rule = Some(Arc::from("default"));
    event.trace_id = Some(format!("{n:032x}").into());
    event.bytes_in = 1_024;
    if kind != EventKind::Intent {
        event.outcome = Outcome::Ok;
        event.status = 200;
        event.bytes_out = 1_024;
        event.upstream_us = Some(700);
        event.first_byte_us = Some(740);
        event.total_us = 900;
    }
    event
}

struct Nowhere;

#[async_trait]
impl AuditStore for Nowhere {
    async fn append(&self, _: Vec<AuditRow>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn query(&self, _: &AuditFilter, _: Option<AuditCursor>, _: usize) -> Result<AuditPage, StoreError> {
        Ok(AuditPage { rows: Vec::new(), next: None })
    }

    async fn usage(&self, _: &UsageWindow) -> Result<Usage, StoreError> {
        Ok(Usage::default())
    }

    async fn prune(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }
}
