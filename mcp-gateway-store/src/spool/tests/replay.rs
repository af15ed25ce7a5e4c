//! What a process leaves behind reaches the store, once.

use super::*;

#[tokio::test]
async fn an_intent_without_an_end_becomes_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(true);
    let (spool, driver) = open(options(dir.path()), &store);
    let stream = spool.stream();
    for n in [1, 2, 3] {
        spool.record(event(n, EventKind::Intent)).await.unwrap();
    }
    spool.record(event(2, EventKind::Opened)).await.unwrap();
    spool.record(exchange(2)).await.unwrap();
    crash(spool, driver, &store).await;
    assert_eq!(streams(&dir).len(), 1);

    let (spool, driver) = open(options(dir.path()), &store);
    spool.flush().await;
    let rows = rows(&*store).await;
    let seen: Vec<_> = rows.iter().map(|row| (row.seq, id(&row.event), row.event.kind, row.event.outcome)).collect();
    assert_eq!(
        seen,
        [
            (1, 2, EventKind::Opened, Outcome::Ok),
            (2, 2, EventKind::Exchange, Outcome::Ok),
            (3, 1, EventKind::Exchange, Outcome::Unknown),
            (4, 3, EventKind::Exchange, Outcome::Unknown),
        ]
    );
    assert!(rows.iter().all(|row| row.stream == stream), "under the number line of the process that died");
    assert_eq!(rows[2].event.target.as_deref(), Some("echo"), "with what its intent knew");
    let stats = spool.stats();
    assert_eq!((stats.replayed, stats.replayed_unknown), (4, 2));
    assert_eq!(streams(&dir).len(), 1, "only the new process's directory is left");
    driver.close().await;
}

#[tokio::test]
async fn a_replay_that_is_interrupted_anywhere_is_repeated_without_doubles() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(true);
    let mut small = options(dir.path());
    small.segment_bytes = 4 << 10;
    small.batch_rows = 7;
    let (spool, driver) = open(small.clone(), &store);
    for n in 0..100 {
        spool.record(event(n, EventKind::Intent)).await.unwrap();
        if n % 5 != 0 {
            spool.record(exchange(n)).await.unwrap();
        }
    }
    crash(spool, driver, &store).await;
    for batches in 0..15 {
        store.batches.store(batches, Ordering::SeqCst);
        let (spool, driver) = open(small.clone(), &store);
        spool.flush().await;
        drop(spool);
        driver.close().await;
    }
    store.batches.store(usize::MAX, Ordering::SeqCst);
    let (spool, driver) = open(small, &store);
    spool.flush().await;
    let rows = rows(&*store).await;
    assert_eq!(rows.len(), 100);
    assert_eq!(rows.iter().filter(|row| row.event.outcome == Outcome::Unknown).count(), 20);
    driver.close().await;
}

#[tokio::test]
async fn a_long_call_pins_no_segment_and_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let mut small = options(dir.path());
    small.segment_bytes = 4 << 10;
    let (spool, driver) = open(small.clone(), &store);
    spool.record(event(1_000_000, EventKind::Intent)).await.unwrap();
    spool.record(event(1_000_001, EventKind::Intent)).await.unwrap();
    for n in 0..2_000 {
        spool.record(exchange(n)).await.unwrap();
    }
    spool.flush().await;
    assert!(spool.stats().bytes < 16 << 10, "old segments are gone: {}", spool.stats().bytes);
    // The end comes in a later segment than the intent.
    spool.record(exchange(1_000_001)).await.unwrap();
    crash(spool, driver, &store).await;

    let (spool, driver) = open(small, &store);
    spool.flush().await;
    let rows = rows(&*store).await;
    assert_eq!(rows.len(), 2_002);
    assert!(rows.iter().zip(1..).all(|(row, seq)| row.seq == seq), "the replay goes on with the numbers");
    let unknown: Vec<_> =
        rows.iter().filter(|row| row.event.outcome == Outcome::Unknown).map(|row| id(&row.event)).collect();
    assert_eq!(unknown, [1_000_000]);
    driver.close().await;
}

#[tokio::test]
async fn a_directory_in_use_or_of_another_key_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let (one, driver_one) = open(options(dir.path()), &store);
    let (two, driver_two) = open(options(dir.path()), &store);
    one.record(exchange(1)).await.unwrap();
    two.record(exchange(2)).await.unwrap();
    two.flush().await;
    assert_eq!(streams(&dir).len(), 2, "both live");
    let in_use = import(&dir.path().join(one.stream().0.to_string()), &key(), &*store, &Checkpoints::default())
        .await
        .unwrap_err();
    assert!(matches!(in_use, SpoolError::InUse { .. }), "{in_use}");
    one.flush().await;
    drop(two);
    driver_two.close().await;
    one.record(event(3, EventKind::Intent)).await.unwrap();
    crash(one, driver_one, &store).await;

    let other = SpoolOptions::new(dir.path(), SpoolKey::new(&[2; 32]));
    let (spool, driver) = open(other, &store);
    spool.flush().await;
    assert!(spool.stats().last_error.unwrap().contains("the key does not open it"));
    drop(spool);
    driver.close().await;
    let left = streams(&dir);
    assert_eq!(left.len(), 1, "nothing is deleted that could not be read");
    let imported = import(&left[0], &key(), &*store, &Checkpoints::default()).await.unwrap();
    assert_eq!((imported.rows, imported.unknown), (2, 1));
    assert_eq!(streams(&dir).len(), 0);
    assert_eq!(rows(&*store).await.len(), 3, "one row was there already");
}

#[tokio::test]
async fn half_made_and_half_removed_directories_are_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    for end in ["new", "done"] {
        std::fs::create_dir(dir.path().join(format!("{}.{end}", Ulid::generate()))).unwrap();
    }
    std::fs::create_dir(dir.path().join(Ulid::generate().to_string())).unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    let (spool, driver) = open(options(dir.path()), &store);
    spool.flush().await;
    drop(spool);
    driver.close().await;
    assert_eq!(streams(&dir), [dir.path().join("lost+found")]);
}
