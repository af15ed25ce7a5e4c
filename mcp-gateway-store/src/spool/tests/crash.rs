//! `kill -9` under load.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "SPOOL_TEST_DIR";
const MODE: &str = "SPOOL_TEST_MODE";
/// Lines that are read from the child before it is killed.
const LINES: usize = 4_000;

/// A process of its own, started and killed by the tests below: prints the id of each event once it is ready.
#[test]
#[ignore = "runs until it is killed"]
fn child_writer() {
    let (dir, mode) = (std::env::var(DIR).unwrap(), std::env::var(MODE).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut options = options(&Path::new(&dir).join("spool"));
        options.segment_bytes = 64 << 10;
        options.inline_writes = mode != "thread";
        if mode == "fsync" {
            options.durability = Durability::Fsync;
        }
        let (spool, _driver) = Spool::open(options, store(&dir), Arc::new(SystemClock)).unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let spool = spool.clone();
                tokio::spawn(async move {
                    loop {
                        let n = rand::random_range(0..u64::MAX >> 1);
                        for kind in [EventKind::Intent, EventKind::Exchange] {
                            if spool.record(event_now(n, kind)).await.is_err() {
                                // Nothing more is printed: the test that waits for lines fails.
                                std::process::exit(1);
                            }
                            // One write a line: what was printed was ready.
                            writeln!(std::io::stdout(), "id {n}").unwrap();
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        // Each runs until it fails, or until the process is killed.
        futures_util::future::join_all(tasks).await;
    });
}

fn event_now(n: u64, kind: EventKind) -> AuditEvent {
    AuditEvent { ts: Timestamp::now(), request_id: Ulid::from_parts(1, n.into()), ..event(0, kind) }
}

/// With SQLite the drain races the kill: what was answered is in the spool, in the store, or in both.
#[cfg(feature = "sqlite")]
fn store(dir: &str) -> Arc<dyn AuditStore> {
    use crate::sqlite::{SqliteAuditOptions, SqliteAuditStore};
    let path = Path::new(dir).join("audit.db");
    Arc::new(SqliteAuditStore::open(path, SqliteAuditOptions::default()).unwrap())
}

/// Without it the child's store takes nothing, so that everything must be in the spool.
#[cfg(not(feature = "sqlite"))]
fn store(_dir: &str) -> Arc<dyn AuditStore> {
    Gate::new(std::env::var(DIR).is_ok())
}

fn kill_nine(mode: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let mut ready = HashSet::new();
    for _ in 0..2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "spool::tests::crash::child_writer", "--ignored", "--nocapture"])
            .env(DIR, path)
            .env(MODE, mode)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ids = Vec::new();
        for line in &mut lines {
            ids.extend(line.unwrap().strip_prefix("id ").map(|id| id.parse::<u64>().unwrap()));
            if ids.len() >= LINES {
                break;
            }
        }
        assert!(ids.len() >= LINES, "the child died by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        // What was in the pipe was answered too; a line without an end was not written whole.
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        let whole = rest.len().saturating_sub(1);
        ids.extend(rest[..whole].iter().filter_map(|line| line.strip_prefix("id ")?.parse::<u64>().ok()));
        ready.extend(ids);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(async {
        let store = store(path);
        let (spool, driver) =
            Spool::open(options(&dir.path().join("spool")), Arc::clone(&store), Arc::new(SystemClock)).unwrap();
        spool.flush().await;
        drop(spool);
        driver.close().await;
        rows(&*store).await
    });
    let mut ids: Vec<_> = found.iter().map(|row| id(&row.event)).collect();
    ids.sort_unstable();
    assert!(ids.is_sorted_by(|a, b| a < b), "no call is there twice");
    let lost = ready.iter().filter(|id| ids.binary_search(id).is_err()).count();
    assert_eq!(lost, 0, "of {} calls that were answered", ready.len());
    let mut by_stream: Vec<_> = found.iter().map(|row| row.stream).collect();
    by_stream.dedup();
    assert_eq!(by_stream.len(), 2, "one stream a life");
    for stream in by_stream {
        let seqs = found.iter().filter(|row| row.stream == stream).map(|row| row.seq);
        assert!(seqs.zip(1..).all(|(found, expected)| found == expected), "numbered without a gap");
    }
}

#[test]
fn kill_nine_loses_nothing_that_callers_wrote() {
    kill_nine("inline");
}

#[test]
fn kill_nine_loses_nothing_that_the_thread_wrote() {
    kill_nine("thread");
}

#[test]
fn kill_nine_loses_nothing_that_was_synced() {
    kill_nine("fsync");
}
