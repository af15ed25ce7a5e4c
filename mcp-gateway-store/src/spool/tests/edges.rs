//! Every bound, at its edge.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;

use mcp_gateway_core::conformance::audit_sink::{self, Fixture};

use super::writer::{END_RESERVE, EVENT_LIMIT};
use super::*;

#[tokio::test]
async fn fills_up_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(true);
    let mut options = options(dir.path());
    options.max_bytes = 256 << 10;
    let (spool, driver) = open(options, &store);
    let spool = Arc::new(spool);
    let release = {
        let store = Arc::clone(&store);
        move || {
            store.away(false);
            // The attempt that is under way may still find it away.
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    audit_sink::fills_up(Fixture::new(spool.clone(), store.clone()), release).await;
    let stats = spool.stats();
    assert!(stats.refused_space >= 2 && stats.bytes <= 256 << 10, "{stats:?}");
    for n in 0..10_000 {
        while spool.record(exchange(n)).await == Err(AuditFull::Space) {
            spool.flush().await;
        }
        assert!(spool.stats().bytes <= 256 << 10);
    }
    spool.flush().await;
    driver.close().await;
}

#[tokio::test]
async fn says_that_it_is_full_from_the_first_refusal_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(true);
    let mut options = options(dir.path());
    (options.max_bytes, options.segment_bytes) = (128 << 10, 32 << 10);
    let (spool, driver) = open(options, &store);
    let mut n = 0;
    while spool.record(event(n, EventKind::Intent)).await.is_ok() {
        assert!(!spool.stats().full, "{n}");
        n += 1;
    }
    assert!(spool.stats().full && spool.stats().bytes < 128 << 10, "{:?}", spool.stats());
    let _ = spool.record(exchange(1_000_000)).await;
    assert!(spool.stats().full, "a row may find room where a call finds none");
    for id in 0..n {
        spool.record(exchange(id)).await.unwrap();
    }
    assert!(!spool.stats().full, "what was kept for ends is free");
    while spool.record(exchange(n)).await.is_ok() {
        n += 1;
    }
    assert!(spool.stats().full);
    store.away(false);
    while spool.stats().backlog > 0 {
        spool.flush().await;
    }
    assert!(!spool.stats().full);
    spool.record(event(n, EventKind::Intent)).await.unwrap();
    driver.close().await;
}

#[test]
fn a_disk_counts_as_failing_for_a_time_and_not_once_it_has_taken_something() {
    let counters = stats::Counters::default();
    let now = std::time::Instant::now();
    assert!(!counters.is_failing(now));
    counters.failed();
    let after = std::time::Instant::now();
    assert!(counters.is_failing(now) && !counters.is_failing(after + stats::FAILING));
    counters.written();
    assert!(!counters.is_failing(after));
}

#[tokio::test]
async fn the_end_of_a_call_that_was_let_through_always_fits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(true);
    let mut options = options(dir.path());
    options.max_bytes = 128 << 10;
    let (spool, driver) = open(options, &store);
    let mut open = 0;
    while spool.record(event(open, EventKind::Intent)).await.is_ok() {
        open += 1;
    }
    assert!(open > 10);
    let mut others = 0;
    while spool.record(exchange(1_000_000 + others)).await.is_ok() {
        others += 1;
    }
    assert!(others < END_RESERVE, "what is left of the room for one more intent");
    assert!(spool.stats().bytes + open * END_RESERVE <= 128 << 10);
    for n in 0..open {
        spool.record(exchange(n)).await.unwrap();
    }
    assert!(spool.stats().bytes <= 128 << 10);
    store.away(false);
    while spool.stats().backlog > 0 {
        spool.flush().await;
    }
    assert_eq!(rows(&*store).await.len() as u64, open + others);
    driver.close().await;
}

#[tokio::test]
async fn open_intents_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let mut options = options(dir.path());
    options.max_open_intents = 3;
    let (spool, driver) = open(options, &store);
    for n in 0..3 {
        spool.record(event(n, EventKind::Intent)).await.unwrap();
    }
    assert_eq!(spool.record(event(3, EventKind::Intent)).await, Err(AuditFull::Space));
    spool.record(exchange(0)).await.unwrap();
    spool.record(event(3, EventKind::Intent)).await.unwrap();
    assert_eq!(spool.stats().open_intents, 3);
    driver.close().await;
}

#[tokio::test]
async fn an_event_over_the_limit_is_refused_and_leaves_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let (spool, driver) = open(options(dir.path()), &store);
    let sized = |bytes: usize| {
        let mut event = exchange(7);
        event.bodies = Some(Box::new(mcp_gateway_core::record::AuditBodies {
            request: vec![7; bytes].into(),
            ..Default::default()
        }));
        event
    };
    assert_eq!(spool.record(sized(EVENT_LIMIT)).await, Err(AuditFull::Failed));
    assert_eq!(spool.record(sized(EVENT_LIMIT - 200)).await, Ok(Seq(1)));
    spool.flush().await;
    let rows = rows(&*store).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].event, sized(EVENT_LIMIT - 200), "bodies come through");
    driver.close().await;
}

#[tokio::test]
async fn callers_that_wait_are_bounded_in_number_bytes_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let mut options = options(dir.path());
    options.max_waiting = 3;
    options.stall_timeout = Duration::from_millis(200);
    let (spool, driver) = open(options, &store);
    // Whoever holds the writer is the disk that stalls.
    let (locked, held) = std::sync::mpsc::channel();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let inner = Arc::clone(&spool.inner);
    let disk = std::thread::spawn(move || {
        let _writer = inner.writer.lock().unwrap();
        locked.send(()).unwrap();
        let _ = wait.recv();
    });
    held.recv().unwrap();
    let waiting: Vec<_> = (0..3).map(|n| spool.record(exchange(n))).collect();
    assert!(waiting.iter().all(|waiting| matches!(waiting, MaybeReady::Wait(_))));
    assert_eq!(spool.stats().waiting, 3);
    let more = spool.record(exchange(3));
    assert!(matches!(more, MaybeReady::Ready(Err(AuditFull::Stalled))), "the fourth does not wait: {more:?}");
    let began = Instant::now();
    for waiting in waiting {
        assert_eq!(waiting.await, Err(AuditFull::Stalled));
    }
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(spool.stats().refused_stalled >= 4);
    release.send(()).unwrap();
    disk.join().unwrap();
    spool.flush().await;
    assert_eq!(spool.stats().waiting, 0);
    // What the thread had taken when the disk stalled may be there; what it had not taken is not.
    let there = rows(&*store).await.len();
    assert!(there <= 3, "{there}");
    spool.record(exchange(9)).await.unwrap();
    spool.flush().await;
    assert_eq!(rows(&*store).await.len(), there + 1);
    driver.close().await;
}

#[tokio::test]
async fn a_caller_that_gave_up_is_not_recorded_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let mut options = options(dir.path());
    options.stall_timeout = Duration::from_millis(100);
    let (spool, driver) = open(options, &store);
    let (locked, held) = std::sync::mpsc::channel();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let inner = Arc::clone(&spool.inner);
    let disk = std::thread::spawn(move || {
        let _writer = inner.writer.lock().unwrap();
        locked.send(()).unwrap();
        let _ = wait.recv();
    });
    held.recv().unwrap();
    // The thread takes the first and hangs on it; the second stays in the queue.
    let first = spool.record(exchange(1));
    while spool.inner.queue.len() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(spool.record(exchange(2)).await, Err(AuditFull::Stalled));
    release.send(()).unwrap();
    disk.join().unwrap();
    let _ = first.await;
    spool.flush().await;
    let ids: Vec<_> = rows(&*store).await.iter().map(|row| id(&row.event)).collect();
    assert_eq!(ids, [1]);
    driver.close().await;
}

#[tokio::test]
async fn bytes_of_waiting_callers_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let mut options = options(dir.path());
    options.inline_writes = false;
    options.max_waiting_bytes = 1_023;
    let (spool, driver) = open(options, &store);
    assert_eq!(
        spool.record(exchange(1)).await,
        Err(AuditFull::Stalled),
        "an event counts as 1,024 bytes and its bodies"
    );
    assert_eq!(spool.stats().waiting, 0);
    driver.close().await;
}

#[tokio::test]
async fn a_write_that_fails_records_nothing_and_the_next_goes_on() {
    for inline in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = Gate::new(false);
        let mut options = options(dir.path());
        options.inline_writes = inline;
        let (spool, driver) = open(options, &store);
        spool.record(event(1, EventKind::Intent)).await.unwrap();
        let swap = |file| spool.inner.writer.lock().unwrap().as_mut().unwrap().swap_file(file);
        let read_only = Arc::new(File::open("/dev/null").unwrap());
        let good = swap(read_only);
        assert_eq!(spool.record(exchange(1)).await, Err(AuditFull::Failed));
        assert_eq!(spool.record(event(2, EventKind::Intent)).await, Err(AuditFull::Failed));
        assert_eq!(spool.stats().open_intents, 1, "what was open stays open, what was refused is not");
        assert!(spool.stats().last_error.is_some());
        swap(good);
        assert_eq!(spool.record(exchange(1)).await, Ok(Seq(2)));
        spool.flush().await;
        let rows = rows(&*store).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].seq, 1);
        driver.close().await;
    }
}

#[tokio::test]
async fn a_closed_spool_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(false);
    let (spool, driver) = open(options(dir.path()), &store);
    spool.record(exchange(1)).await.unwrap();
    driver.close().await;
    assert_eq!(spool.record(exchange(2)).await, Err(AuditFull::Failed));
    spool.flush().await;
    assert_eq!(rows(&*store).await.len(), 1, "closing hands over what there is");
}

#[test]
fn a_key_file_is_made_once_and_must_be_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool.key");
    let makers: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || SpoolKey::load_or_create(&path).unwrap())
        })
        .collect();
    let keys: Vec<_> = makers.into_iter().map(|maker| maker.join().unwrap()).collect();
    let sealed = |key: &SpoolKey| {
        let mut text = [0; 32];
        (key.wrap(&[0; 12], b"", &mut text), text)
    };
    assert!(keys.iter().all(|key| sealed(key) == sealed(&keys[0])), "whoever came first wins");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary files stay");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    for mode in [0o640, 0o604, 0o660] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = SpoolKey::load_or_create(&path).unwrap_err();
        assert!(matches!(error, SpoolError::KeyMode { mode: found, .. } if found == mode), "{error}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, [1; 31]).unwrap();
    assert!(matches!(SpoolKey::load_or_create(&path), Err(SpoolError::KeyLength { .. })));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nobody_holds_a_removed_segment_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = Gate::new(true);
    let mut options = options(dir.path());
    (options.segment_bytes, options.memory_rows) = (4 << 10, 5);
    let (spool, driver) = open(options, &store);
    for n in 1..100 {
        spool.record(exchange(n)).await.unwrap();
    }
    // Most are read back from disk, and later ones are not.
    store.away(false);
    spool.flush().await;
    for n in 100..200 {
        spool.record(exchange(n)).await.unwrap();
        spool.flush().await;
    }
    let held = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|file| file.ok()?.path().read_link().ok());
        let removed =
            |path: &std::path::PathBuf| path.starts_with(dir.path()) && path.to_string_lossy().ends_with("(deleted)");
        open.filter(removed).collect::<Vec<_>>()
    };
    // What was written last may still wait for its sync.
    let begun = Instant::now();
    while !held().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", held());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(spool);
    driver.close().await;
}
