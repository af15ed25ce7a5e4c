//! What is signed of the rows that go through.

use mcp_gateway_core::conformance::audit_store::{Ada, verified};
use mcp_gateway_core::trail::{FaultKind, MARKS, sign_beginning};

use super::*;
use crate::spool::Checkpoints;

fn signing(dir: &TempDir) -> SpoolOptions {
    SpoolOptions { checkpoints: Checkpoints::by(Arc::new(Ada)), ..options(dir.path()) }
}

async fn begin(store: &Gate) {
    let mark = sign_beginning(&Ada, Timestamp::UNIX_EPOCH).await.unwrap();
    store.put_chain(Vec::new(), vec![mark]).await.unwrap();
}

/// The numbers up to which streams are signed.
async fn signed(store: &Gate) -> Vec<u64> {
    let checkpoints = store.checkpoints(None, 1_000).await.unwrap();
    checkpoints.iter().filter(|checkpoint| checkpoint.stream != MARKS).map(|checkpoint| checkpoint.seq).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_signed_after_so_many_and_at_the_end() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Gate::new(false));
    begin(&store).await;
    let (spool, driver) = open(SpoolOptions { checkpoint_rows: 3, batch_rows: 2, ..signing(&dir) }, &store);
    for n in 1..=7 {
        spool.record(exchange(n)).await.unwrap();
        spool.flush().await;
    }
    drop(spool);
    driver.close().await;
    assert_eq!(signed(&store).await, [0, 3, 6, 8], "the beginning and the end, too");
    let report = verified(&*store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unsigned, report.unchained), (7, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_signed_after_a_while() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Gate::new(false));
    let after = Duration::from_millis(50);
    let (spool, driver) = open(SpoolOptions { checkpoint_after: after, ..signing(&dir) }, &store);
    spool.record(exchange(1)).await.unwrap();
    let begun = Instant::now();
    while signed(&store).await.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing is signed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(signed(&store).await, [0, 1]);
    drop(spool);
    driver.close().await;
    assert_eq!(signed(&store).await, [0, 1, 2], "what is signed is not signed again, but for the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_leaves_is_chained_and_signed_by_the_next() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Gate::new(false));
    begin(&store).await;
    let (spool, driver) = open(SpoolOptions { segment_bytes: 4_096, ..signing(&dir) }, &store);
    for n in 1..=100 {
        spool.record(exchange(n)).await.unwrap();
    }
    // Segments whose rows are in the store are gone.
    spool.flush().await;
    let stream = spool.stream();
    store.away(true);
    for n in 101..=110 {
        spool.record(exchange(n)).await.unwrap();
    }
    spool.record(event(111, EventKind::Intent)).await.unwrap();
    crash(spool, driver, &store).await;
    let unsigned = verified(&*store).await;
    assert!(unsigned.is_sound(), "{:?}", unsigned.faults);
    assert_eq!((unsigned.verified, unsigned.unsigned), (0, 100), "nothing was signed before the end");
    let (spool, driver) = open(signing(&dir), &store);
    spool.flush().await;
    drop(spool);
    driver.close().await;
    let report = verified(&*store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unsigned), (111, 0), "the call whose end nobody saw is the last row");
    assert_eq!(signed(&store).await, [0, 112]);

    // What was there is no longer what went on to be signed: nothing covers for it.
    let other = MemoryAuditStore::new();
    let mut rows = rows(&*store).await;
    rows.retain(|row| (row.stream, row.seq) != (stream, 50));
    other.append(rows).await.unwrap();
    other.put_chain(Vec::new(), store.checkpoints(None, 1_000).await.unwrap()).await.unwrap();
    let report = verified(&other).await;
    assert_eq!(report.faults[0].kind, FaultKind::Gap { upto: 50 }, "{:?}", report.faults);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_is_imported_is_signed() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Gate::new(true));
    begin(&store).await;
    let (spool, driver) = open(signing(&dir), &store);
    for n in 1..=5 {
        spool.record(exchange(n)).await.unwrap();
    }
    crash(spool, driver, &store).await;
    let stream = streams(&dir).remove(0);
    import(&stream, &key(), &*store, &Checkpoints::by(Arc::new(Ada))).await.unwrap();
    let report = verified(&*store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unsigned), (5, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_says_is_no_reason_to_sign() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Gate::new(false));
    begin(&store).await;
    let (spool, driver) = open(SpoolOptions { segment_bytes: 4_096, ..signing(&dir) }, &store);
    for n in 1..=100 {
        spool.record(exchange(n)).await.unwrap();
    }
    spool.flush().await;
    store.away(true);
    spool.record(exchange(101)).await.unwrap();
    crash(spool, driver, &store).await;
    let stream = streams(&dir).remove(0);
    std::fs::write(stream.join("chain"), b"something else").unwrap();
    import(&stream, &key(), &*store, &Checkpoints::by(Arc::new(Ada))).await.unwrap();
    let report = verified(&*store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unsigned), (0, 101), "its rows are there, and nobody vouches for them");
    assert_eq!(signed(&store).await, [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_lost_its_end_with_the_power_goes_on_behind_what_the_store_has() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Gate::new(false));
    begin(&store).await;
    let (spool, driver) = open(SpoolOptions { checkpoint_rows: 2, ..signing(&dir) }, &store);
    spool.record(event(9, EventKind::Intent)).await.unwrap();
    for n in 1..=5 {
        spool.record(exchange(n)).await.unwrap();
        spool.flush().await;
    }
    crash(spool, driver, &store).await;
    let stream = streams(&dir).remove(0);
    let segment = directory::segment_path(&stream, 1);
    let whole = std::fs::read(&segment).unwrap();
    // Equal events make equal blocks: the last three are lost.
    assert_eq!(rows(&*store).await.len(), 5);
    let row = (whole.len() - segment::HEAD) / 6;
    std::fs::write(&segment, &whole[..whole.len() - 3 * row]).unwrap();
    let imported = import(&stream, &key(), &*store, &Checkpoints::by(Arc::new(Ada))).await.unwrap();
    assert_eq!(imported.unknown, 1);
    let report = verified(&*store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unsigned), (6, 0), "the call whose end nobody saw is the last row");
}
