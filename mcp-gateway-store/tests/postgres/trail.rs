//! The audit trail: partitions, bodies, indexes, a copy to read from.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_gateway_core::conformance::audit_store;
use mcp_gateway_core::contract::{AuditFilter, AuditRow, AuditStore, StreamId};
use mcp_gateway_core::record::{AuditBodies, AuditEvent, Category, EventKind, FieldSealer};
use mcp_gateway_core::trail::sign_retention;
use mcp_gateway_store::postgres::{PostgresAuditOptions, PostgresAuditStore, PostgresError};
use mcp_gateway_store::sqlite::{SqliteAuditOptions, SqliteAuditStore};
use mcp_gateway_store::transfer::copy_events;
use ulid::Ulid;

use super::*;

/// Turned around: enough to see that what is stored is not what was captured.
struct Reversible;

impl FieldSealer for Reversible {
    fn seal(&self, _: &Key, _: &str, plain: &str) -> Result<String, StoreError> {
        Ok(plain.chars().rev().collect())
    }

    fn open(&self, _: &Key, _: &str, sealed: &str) -> Result<String, StoreError> {
        Ok(sealed.chars().rev().collect())
    }
}

fn row(time: &str, seq: u64) -> AuditRow {
    let ts: Timestamp = time.parse().unwrap();
    let event = AuditEvent::new(ts, Ulid::from_parts(1, u128::from(seq)), Category::Mcp, EventKind::Exchange);
    AuditRow { stream: StreamId(Ulid::from_parts(1, 1)), seq, event }
}

async fn trail(options: &PostgresOptions) -> PostgresAuditStore {
    PostgresAuditStore::open(PostgresAuditOptions::new(options.clone())).await.unwrap()
}

fn partitions(cluster: &Cluster, database: &str) -> String {
    cluster.sql(
        database,
        "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relname ~ '^(event|body)_[0-9]*$' AND relkind = 'r'",
    )
}

#[tokio::test]
async fn old_days_go_as_a_whole() {
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let store = trail(&options).await;
    let times = ["2024-11-18T23:59:59.999999Z", "2024-11-19T00:00:00Z", "2024-11-20T06:00:00Z", "2024-11-20T18:00:00Z"];
    store.append((1..).zip(times).map(|(seq, time)| row(time, seq)).collect()).await.unwrap();
    let before = partitions(cluster, &database);
    assert_eq!(before, "body_20241118 body_20241119 body_20241120 event_20241118 event_20241119 event_20241120");
    assert_eq!(store.prune("2024-11-20T12:00:00Z".parse().unwrap()).await.unwrap(), 2);
    assert_eq!(partitions(cluster, &database), "body_20241120 event_20241120", "a day stays until it is over");
    // What comes late, from a spool that was saved, has a day again: even though this process thought it was there.
    store.append(vec![row(times[0], 1)]).await.unwrap();
    let rows = store.query(&AuditFilter::default(), None, 10).await.unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [4, 3, 1]);
}

#[tokio::test]
async fn a_clock_that_is_ahead_removes_nothing_too_early() {
    let (options, _) = fresh(Cluster::shared()).await;
    let day = Duration::from_secs(24 * 3_600);
    let store = PostgresAuditStore::open(PostgresAuditOptions::new(options).with_retention(day * 30)).await.unwrap();
    let now = Timestamp::now();
    let times = [now - day * 40, now - day * 29, now];
    store.append((1..).zip(times).map(|(seq, time)| row(&time.to_string(), seq)).collect()).await.unwrap();
    assert_eq!(store.prune(now + day * 3_650).await.unwrap(), 1);
}

/// While somebody reads a day that is to be removed, the days before it are gone already and events are appended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_days_does_not_stop_those_who_append() {
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let store = trail(&options).await;
    let times = ["2024-11-18T12:00:00Z", "2024-11-19T12:00:00Z", "2024-11-20T12:00:00Z"];
    store.append((1..).zip(times).map(|(seq, time)| row(time, seq)).collect()).await.unwrap();
    let reader = std::thread::spawn({
        let database = database.clone();
        move || cluster.psql(&database, "SELECT pg_sleep(30) FROM mcp_gateway.event_20241119")
    });
    let count = |sql: &str| cluster.sql(&database, sql);
    let begun = std::time::Instant::now();
    while count("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()")
        == "0"
    {
        assert!(begun.elapsed() < PATIENCE);
    }
    let before: Timestamp = times[2].parse().unwrap();
    let pruning = tokio::spawn({
        let store = store.clone();
        async move { store.prune(before).await }
    });
    while partitions(cluster, &database).contains("event_20241118") {
        assert!(begun.elapsed() < PATIENCE, "the first day waits for the second");
    }
    store.append(vec![row(times[2], 4)]).await.unwrap();
    assert!(!pruning.is_finished(), "it waits for the reader");
    let error = pruning.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("lock timeout"), "{error}");
    count(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
    );
    reader.join().unwrap();
    assert_eq!(store.prune(before).await.unwrap(), 1);
    assert_eq!(partitions(cluster, &database), "body_20241120 event_20241120");
}

#[tokio::test]
async fn bodies_are_stored_sealed_or_not_at_all() {
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let mut unsealed = PostgresAuditOptions::new(options.clone());
    unsealed.bodies = true;
    let error = PostgresAuditStore::open(unsealed).await.unwrap_err();
    assert!(matches!(error, PostgresError::Unsealed { .. }), "{error}");

    let mut captured = row("2026-11-20T06:00:00Z", 1);
    let request = bytes::Bytes::from_static(b"very secret");
    captured.event.bodies = Some(Box::new(AuditBodies { request, ..AuditBodies::default() }));
    trail(&options).await.append(vec![captured]).await.unwrap();
    assert_eq!(cluster.sql(&database, "SELECT count(*) FROM mcp_gateway.body"), "0", "dropped: nothing sealed it");

    let (options, _) = fresh(cluster).await;
    let sealing = PostgresAuditOptions::new(options).with_bodies(Arc::new(Reversible));
    audit_store::keeps_bodies(&PostgresAuditStore::open(sealing).await.unwrap()).await;
}

#[tokio::test]
async fn lists_read_an_index_and_only_the_days_that_they_are_about() {
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let store = trail(&options).await;
    let days = ["2026-11-18T12:00:00Z", "2026-11-19T12:00:00Z", "2026-11-20T12:00:00Z"];
    store.append((1..).zip(days).map(|(seq, time)| row(time, seq)).collect()).await.unwrap();
    // One of a hundred subjects, one of ten servers.
    cluster.sql(
        &database,
        "INSERT INTO mcp_gateway.event (ts, stream, seq, request_id, category, kind, subject, server, outcome, status,
             total_us, detail)
         SELECT '2026-11-19Z'::timestamptz + n * interval '2 s', lpad(to_hex(n), 32, '0')::uuid, n,
             lpad(to_hex(n), 32, '0')::uuid, 'mcp', 'exchange', 'subject-' || n % 100, 'server-' || n % 10, 'ok', 200, 1, '{}'
         FROM generate_series(1, 40000) n;
         ANALYZE mcp_gateway.event",
    );
    let plan = |condition: &str| {
        let order = "ORDER BY ts DESC, stream DESC, seq DESC LIMIT 1001";
        cluster.sql(&database, &format!("EXPLAIN SELECT * FROM mcp_gateway.event WHERE {condition} {order}"))
    };
    let day = "ts >= '2026-11-19' AND ts < '2026-11-20'";
    let by_subject = plan(&format!("subject = 'subject-7' AND {day}"));
    assert!(by_subject.contains("event_20261119_subject_ts_idx"), "{by_subject}");
    assert!(!by_subject.contains("event_20261118") && !by_subject.contains("event_20261120"), "{by_subject}");
    let by_server = plan(&format!("server = 'server-7' AND {day}"));
    assert!(by_server.contains("event_20261119_server_ts_idx"), "{by_server}");
    let all = plan("true");
    assert!(all.contains("event_20261119_pkey") && !all.contains("Sort"), "{all}");
}

#[tokio::test]
async fn a_copy_is_read_from_while_the_database_is_written_to() {
    let cluster = Cluster::shared();
    let (options, _) = fresh(cluster).await;
    // For which queries go where, a second database does as well as one that follows the first.
    let (copy, _) = fresh(cluster).await;
    trail(&copy).await.append(vec![row("2026-11-20T06:00:00Z", 7)]).await.unwrap();
    let split = PostgresAuditOptions::new(options.clone()).reading_from(copy);
    let store = PostgresAuditStore::open(split).await.unwrap();
    store.append(vec![row("2026-11-20T06:00:00Z", 8)]).await.unwrap();
    let seen = |rows: &[AuditRow]| rows.iter().map(|row| row.seq).collect::<Vec<_>>();
    assert_eq!(seen(&store.query(&AuditFilter::default(), None, 10).await.unwrap().rows), [7]);
    assert_eq!(seen(&trail(&options).await.query(&AuditFilter::default(), None, 10).await.unwrap().rows), [8]);
}

#[tokio::test]
async fn without_the_copy_the_database_is_read_from() {
    let cluster = Cluster::shared();
    let (options, _) = fresh(cluster).await;
    // A copy that is not there, and one that has none of the tables yet.
    for copy in ["postgres://127.0.0.1:1/gateway", &cluster.database()] {
        let copy = PostgresOptions::parse(copy).unwrap();
        let split = PostgresAuditOptions::new(options.clone()).reading_from(copy);
        let store = PostgresAuditStore::open(split).await.unwrap();
        store.append(vec![row("2026-11-20T06:00:00Z", 8)]).await.unwrap();
        assert_eq!(store.query(&AuditFilter::default(), None, 10).await.unwrap().rows.len(), 1);
    }
    // One that goes away later.
    let (copy, database) = fresh(cluster).await;
    let store = PostgresAuditStore::open(PostgresAuditOptions::new(options).reading_from(copy)).await.unwrap();
    assert_eq!(store.query(&AuditFilter::default(), None, 10).await.unwrap().rows.len(), 0, "the copy's");
    cluster.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
    assert_eq!(store.query(&AuditFilter::default(), None, 10).await.unwrap().rows.len(), 1);
}

/// Does this to the tables of a signed trail, and says what a verification then finds.
async fn after(sql: &str) -> Vec<String> {
    let (options, database) = fresh(Cluster::shared()).await;
    let store = trail(&options).await;
    audit_store::signed(&store).await;
    if !sql.is_empty() {
        Cluster::shared().sql(&database, sql);
    }
    let report = audit_store::verified(&store).await;
    report.faults.iter().map(|fault| fault.to_string().split_once(" row ").unwrap().1.to_owned()).collect()
}

#[tokio::test]
async fn whoever_changes_the_tables_is_found_out() {
    assert_eq!(after("").await, [""; 0]);
    let changed = after("UPDATE mcp_gateway.event SET outcome = 'ok' WHERE seq = 3").await;
    assert_eq!(changed, ["3 (id 01HF7YAT000000000000000001-3-1700000003000000): the row was changed"]);
    let removed = after("DELETE FROM mcp_gateway.event WHERE seq = 5").await;
    assert_eq!(removed, ["5 (id 01HF7YAT000000000000000001-5-1700000005000000): the row is missing"]);
    let cut = after("DELETE FROM mcp_gateway.event WHERE seq > 6; DELETE FROM mcp_gateway.link WHERE seq > 6").await;
    assert_eq!(cut, ["7: the stream was cut off, it had 8 rows"]);
    let day = after("DROP TABLE mcp_gateway.event_20231114").await;
    assert_eq!(day, ["1 (id 01HF7YAT000000000000000001-1-1700000001000000): the row is missing"], "a whole day");
    let relinked = after(
        "UPDATE mcp_gateway.event SET outcome = 'ok' WHERE seq = 6; UPDATE mcp_gateway.link SET digest = sha256('x') WHERE seq = 6",
    );
    assert_eq!(relinked.await, ["6 (id 01HF7YAT000000000000000001-6-1700000006000000): the row was changed"]);
    let swapped = after(
        "UPDATE mcp_gateway.link a SET digest = b.digest, ts = b.ts FROM mcp_gateway.link b
             WHERE a.seq IN (6, 7) AND b.seq = 13 - a.seq;
         UPDATE mcp_gateway.event SET seq = 13 - seq + 100 WHERE seq IN (6, 7);
         UPDATE mcp_gateway.event SET seq = seq - 100 WHERE seq > 99",
    );
    assert_eq!(swapped.await, ["5: rows 5 to 8 are not those that were signed"], "two rows with their links");
}

#[tokio::test]
async fn a_program_of_the_version_before_writes_rows_without_links() {
    let (options, database) = fresh(Cluster::shared()).await;
    let store = trail(&options).await;
    store.append(vec![row("2023-11-15T00:00:00Z", 1)]).await.unwrap();
    Cluster::shared().sql(
        &database,
        "INSERT INTO mcp_gateway.event
         SELECT ts, gen_random_uuid(), seq, request_id, category, kind, tenant, issuer, subject, actor, server, method, target,
             outcome, status, total_us, trace_id, detail FROM mcp_gateway.event",
    );
    let unlinked = store.unlinked().await.unwrap();
    assert_eq!(unlinked.iter().map(|of| (of.rows, of.seq)).collect::<Vec<_>>(), [(1, 1)]);
}

#[tokio::test]
async fn a_trail_that_moves_goes_on_verifying() {
    let folder = tempfile::tempdir().unwrap();
    let from = SqliteAuditStore::open(folder.path().join("audit.db"), SqliteAuditOptions::default()).unwrap();
    audit_store::signed(&from).await;
    // Some of it is gone for its age: links without rows move too.
    let before = Timestamp::from_second(1_700_000_007).unwrap();
    let mark = sign_retention(&audit_store::Ada, before, before).await.unwrap();
    from.put_chain(Vec::new(), vec![mark]).await.unwrap();
    from.prune(before).await.unwrap();
    let (options, _) = fresh(Cluster::shared()).await;
    let to = trail(&options).await;
    copy_events(&from, &to).await.unwrap();
    let report = audit_store::verified(&to).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.removed, report.unsigned), (2, 2, 1));
    assert_eq!(report, audit_store::verified(&from).await);
}
