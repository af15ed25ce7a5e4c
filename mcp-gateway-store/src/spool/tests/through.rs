//! What goes in comes out.

use mcp_gateway_core::conformance::audit_sink::{self, Fixture};

use super::*;

fn fixture(change: impl FnOnce(&mut SpoolOptions)) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let mut options = options(dir.path());
    change(&mut options);
    let (spool, driver) = open(options, &store);
    Fixture { sink: Arc::new(spool), store, guard: Box::new((driver, dir)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_written_by_the_callers() {
    audit_sink::suite(|| async { fixture(|_| ()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_written_by_the_thread() {
    audit_sink::suite(|| async { fixture(|options| options.inline_writes = false) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_on_small_segments_and_without_memory() {
    let small = |options: &mut SpoolOptions| {
        options.segment_bytes = 4 << 10;
        options.memory_rows = 3;
    };
    audit_sink::suite(|| async { fixture(small) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_with_fsync() {
    audit_sink::suite(|| async { fixture(|options| options.durability = Durability::Fsync) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_waiting_for_the_store() {
    audit_sink::suite(|| async { fixture(|options| options.durability = Durability::Store) }).await;
}

#[tokio::test]
async fn waiting_for_the_store_means_in_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let mut options = options(dir.path());
    options.durability = Durability::Store;
    options.stall_timeout = Duration::from_millis(300);
    let (spool, driver) = open(options, &store);
    for n in 1..20 {
        spool.record(exchange(n)).await.unwrap();
        assert_eq!(rows(&*store).await.len() as u64, n, "in the store when it is ready, without a flush");
    }
    store.away(true);
    assert_eq!(spool.record(exchange(20)).await, Err(AuditFull::Stalled));
    store.away(false);
    spool.flush().await;
    spool.flush().await;
    assert_eq!(rows(&*store).await.len(), 20, "it was spooled all the same");
    assert_eq!(spool.stats().waiting, 0);
    driver.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_events_arrive_once_and_in_order() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 12_500;
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(true);
    let mut options = options(dir.path());
    options.segment_bytes = 256 << 10;
    options.memory_rows = 1_000;
    let (spool, driver) = open(options, &store);
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (spool, store) = (spool.clone(), Arc::clone(&store));
            tokio::spawn(async move {
                for n in 0..EACH {
                    // Away, back, away again while events come in.
                    if writer == 0 && n.is_multiple_of(2_500) {
                        store.away((n / 2_500) % 2 == 0);
                    }
                    let n = writer * EACH + n;
                    spool.record(event(n, EventKind::Intent)).await.unwrap();
                    spool.record(exchange(n)).await.unwrap();
                    if n.is_multiple_of(64) {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    store.away(false);
    let stats = spool.stats();
    assert_eq!((stats.recorded, stats.open_intents), (2 * WRITERS * EACH, 0));
    // The first flush may meet the end of a failing attempt.
    while spool.stats().backlog > 0 {
        spool.flush().await;
    }
    let rows = rows(&*store).await;
    assert_eq!(rows.len() as u64, WRITERS * EACH);
    assert!(rows.iter().zip(1..).all(|(row, seq)| row.seq == seq), "numbered without a gap");
    let mut ids: Vec<_> = rows.iter().map(|row| id(&row.event)).collect();
    for writer in 0..WRITERS {
        let of_writer = ids.iter().filter(|id| **id / EACH == writer);
        assert!(of_writer.is_sorted(), "each caller's events in its order");
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, WRITERS * EACH, "each once");
    let stats = spool.stats();
    assert_eq!(stats.store_lag, Duration::ZERO);
    assert!(stats.bytes < 512 << 10, "old segments are gone: {}", stats.bytes);
    drop(spool);
    driver.close().await;
    assert_eq!(streams(&dir), Vec::<std::path::PathBuf>::new(), "nothing is left to replay");
}

#[tokio::test]
async fn memory_is_bounded_while_the_store_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(true);
    let mut options = options(dir.path());
    options.memory_rows = 100;
    options.memory_bytes = 5_000;
    let (spool, driver) = open(options, &store);
    for n in 0..5_000 {
        spool.record(exchange(n)).await.unwrap();
        let (rows, bytes) = spool.inner.backlog.in_memory();
        assert!(rows <= 100 && bytes <= 5_000, "{rows} rows, {bytes} bytes");
    }
    assert!(spool.stats().store_lag > Duration::ZERO);
    store.away(false);
    while spool.stats().backlog > 0 {
        spool.flush().await;
    }
    assert_eq!(rows(&*store).await.len(), 5_000);
    assert_eq!(spool.inner.backlog.in_memory(), (0, 0));
    driver.close().await;
}

#[test]
fn works_without_a_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let (spool, driver) = open(options(dir.path()), &store);
    let recorded = spool.record(exchange(1));
    assert!(matches!(recorded, MaybeReady::Ready(Ok(Seq(1)))), "written by the caller: {recorded:?}");
    drop(spool);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(driver.close());
    assert_eq!(runtime.block_on(rows(&*store)).len(), 1);
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_into_sqlite() {
    use crate::sqlite::{SqliteAuditOptions, SqliteAuditStore};
    audit_sink::suite(|| async {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteAuditStore::open(dir.path().join("audit.db"), SqliteAuditOptions::default()).unwrap();
        let store: Arc<dyn AuditStore> = Arc::new(store);
        let (spool, driver) =
            Spool::open(options(&dir.path().join("spool")), Arc::clone(&store), Arc::new(SystemClock)).unwrap();
        Fixture { sink: Arc::new(spool), store, guard: Box::new((driver, dir)) }
    })
    .await;
}
