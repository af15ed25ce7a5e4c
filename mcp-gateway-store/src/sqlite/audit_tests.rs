use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mcp_gateway_core::conformance::audit_store;
use mcp_gateway_core::contract::{Key, StreamId};
use mcp_gateway_core::record::{AuditBodies, AuditEvent, Category, EventKind};
use ulid::Ulid;

use super::*;
use crate::sqlite::audit_presence::SERVER;

/// Not a cipher: it shows what goes in and that the key is bound.
struct Reversible;

impl FieldSealer for Reversible {
    fn seal(&self, key: &Key, field: &str, plain: &str) -> Result<String, StoreError> {
        Ok(STANDARD.encode(format!("{key:?}{field}|{plain}")))
    }

    fn open(&self, key: &Key, field: &str, sealed: &str) -> Result<String, StoreError> {
        let text = String::from_utf8(STANDARD.decode(sealed).unwrap()).unwrap();
        let plain = text.strip_prefix(&format!("{key:?}{field}|"));
        plain.map(str::to_owned).ok_or_else(|| StoreError::new(StoreErrorKind::Corrupt, "open"))
    }
}

fn open(dir: &tempfile::TempDir, options: SqliteAuditOptions) -> SqliteAuditStore {
    let name = format!("{:x}.db", rand::random::<u64>());
    SqliteAuditStore::open(dir.path().join(name), options).unwrap()
}

fn row(seq: u64, bodies: Option<AuditBodies>) -> AuditRow {
    let ts = Timestamp::from_microsecond(i64::try_from(seq).unwrap()).unwrap();
    let mut event = AuditEvent::new(ts, Ulid::nil(), Category::Mcp, EventKind::Exchange);
    event.bodies = bodies.map(Box::new);
    AuditRow { stream: StreamId(Ulid::nil()), seq, event }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    let fresh = || async { Arc::new(open(&dir, SqliteAuditOptions::default())) as Arc<dyn AuditStore> };
    audit_store::suite(fresh).await;
    let sealed = open(&dir, SqliteAuditOptions::default().with_bodies(Arc::new(Reversible)));
    audit_store::keeps_bodies(&sealed).await;
}

#[tokio::test]
async fn bodies_are_stored_sealed_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let unsealed = SqliteAuditOptions { bodies: true, ..SqliteAuditOptions::default() };
    let error = SqliteAuditStore::open(&path, unsealed).unwrap_err();
    assert!(matches!(error, OpenError::Unsealed { .. }), "{error}");

    let bodies = AuditBodies { request: Bytes::from_static(b"very secret"), ..AuditBodies::default() };
    let store = SqliteAuditStore::open(&path, SqliteAuditOptions::default()).unwrap();
    store.append(vec![row(1, Some(bodies.clone()))]).await.unwrap();
    drop(store);
    let options = SqliteAuditOptions::default().with_bodies(Arc::new(Reversible));
    let store = SqliteAuditStore::open(&path, options).unwrap();
    store.append(vec![row(2, Some(bodies.clone()))]).await.unwrap();
    let page = store.query(&AuditFilter::default(), None, 10).await.unwrap();
    assert_eq!(page.rows[0].event.bodies.as_deref(), Some(&bodies));
    assert_eq!(page.rows[1].event.bodies, None, "dropped: nothing sealed it");
    assert_eq!(store.prune(Timestamp::from_microsecond(3).unwrap()).await.unwrap(), 2);
    drop(store);
    let connection = Connection::open(&path).unwrap();
    let left: i64 = connection.query_row("SELECT count(*) FROM body", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "a pruned row takes its bodies along");
}

#[tokio::test]
async fn the_file_is_private_and_of_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let store = SqliteAuditStore::open(&path, SqliteAuditOptions::default()).unwrap();
    store.append(vec![row(1, None)]).await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    let second = SqliteAuditStore::open(&path, SqliteAuditOptions::default());
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(store);
    let again = SqliteAuditStore::open(&path, SqliteAuditOptions::default()).unwrap();
    assert_eq!(again.query(&AuditFilter::default(), None, 1).await.unwrap().rows.len(), 1, "rows outlive the store");
}

#[tokio::test]
async fn prunes_more_than_one_transaction_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, SqliteAuditOptions::default());
    let total = PRUNE as u64 * 2 + 10;
    store.append((1..=total).map(|seq| row(seq, None)).collect()).await.unwrap();
    let before = Timestamp::from_microsecond(i64::try_from(total).unwrap()).unwrap();
    assert_eq!(store.prune(before).await.unwrap(), total - 1);
    assert_eq!(store.query(&AuditFilter::default(), None, 10).await.unwrap().rows.len(), 1);
}

#[test]
fn nothing_is_sorted_and_nothing_else_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, SqliteAuditOptions::default());
    let connection = Connection::open(store.inner.readers.path()).unwrap();
    let cursor = AuditCursor { ts: Timestamp::UNIX_EPOCH, stream: StreamId(Ulid::nil()), seq: 1 };
    let everything = AuditFilter { from: Some(cursor.ts), to: Some(cursor.ts), ..AuditFilter::default() };
    let (rows, seconds) = ("SEARCH event USING PRIMARY KEY (ts>? AND ts<?)", "SEARCH presence USING PRIMARY KEY");
    let present = format!("{seconds} (what=? AND name=? AND second>? AND second<?); {rows}");
    for (filter, expected) in [
        (AuditFilter::default(), rows),
        (AuditFilter { server: Some("a".into()), ..everything.clone() }, &*present),
        (AuditFilter { subject: Some("a".into()), server: Some("a".into()), ..everything }, &*present),
    ] {
        for after in [None, Some(cursor)] {
            let Selection { text, values, newest_first } = Selection::of(&filter, after).unwrap();
            let sql = format!("EXPLAIN QUERY PLAN SELECT {COLUMNS} {text} {newest_first}");
            let mut statement = connection.prepare(&sql).unwrap();
            let plan = statement.query_map(rusqlite::params_from_iter(values), |row| row.get(3)).unwrap();
            assert_eq!(plan.collect::<Result<Vec<String>, _>>().unwrap().join("; "), expected);
        }
    }
}

/// Seconds in which somebody is present.
fn seconds(store: &SqliteAuditStore) -> Vec<(String, String, i64)> {
    let connection = Connection::open(store.inner.readers.path()).unwrap();
    let mut select = connection.prepare("SELECT what, name, second FROM presence ORDER BY what, name, second").unwrap();
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn rows_are_found_by_the_seconds_of_their_server() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, SqliteAuditOptions::default());
    let at = |seq: u64, micros: i64, server: &str| {
        let mut row = row(seq, None);
        row.event.ts = Timestamp::from_microsecond(micros).unwrap();
        row.event.server = Some(server.into());
        row
    };
    let entry = |name: &str, second| (SERVER.to_owned(), name.to_owned(), second);
    // In more seconds than are remembered, on both sides of their bounds and of 1970.
    let times = [-1, 0, 999_999, 1_000_000, 7_500_000, 8_000_000, 9_000_000, -1, 5];
    let all = || (1..).zip(times).map(|(seq, micros)| at(seq, micros, "a")).chain([at(99, 3_000_000, "b")]);
    store.append(all().collect()).await.unwrap();
    let a = [-1, 0, 1, 7, 8, 9].map(|second| entry("a", second));
    assert_eq!(seconds(&store), [&a[..], &[entry("b", 3)]].concat());

    let of_a = AuditFilter { server: Some("a".into()), ..AuditFilter::default() };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.query(&of_a, after, 2).await.unwrap();
        found.extend(page.rows.iter().map(|row| row.event.ts.as_microsecond()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut expected = times;
    expected.sort_unstable();
    expected.reverse();
    assert_eq!(found, expected);

    let before = Timestamp::from_microsecond(8_500_000).unwrap();
    assert_eq!(store.prune(before).await.unwrap(), 9, "all but the one in second 9");
    assert_eq!(seconds(&store), [entry("a", 8), entry("a", 9)], "the second of the bound itself may hold rows");
    store.append(all().collect()).await.unwrap();
    assert_eq!(seconds(&store).len(), 7, "what is pruned is not remembered");
    assert_eq!(store.query(&of_a, None, 100).await.unwrap().rows.len(), times.len());
}

#[tokio::test]
async fn a_batch_that_failed_is_found_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let broken = "CREATE TRIGGER broken BEFORE INSERT ON body BEGIN SELECT RAISE(FAIL, 'broken'); END";
    let sealed = open(&dir, SqliteAuditOptions::default().with_bodies(Arc::new(Reversible)));
    let connection = Connection::open(sealed.inner.readers.path()).unwrap();
    connection.execute_batch(broken).unwrap();
    let mut row = row(1, Some(AuditBodies::default()));
    row.event.server = Some("a".into());
    sealed.append(vec![row.clone()]).await.unwrap_err();
    assert_eq!(seconds(&sealed), []);
    connection.execute_batch("DROP TRIGGER broken").unwrap();
    sealed.append(vec![row]).await.unwrap();
    let of_a = AuditFilter { server: Some("a".into()), ..AuditFilter::default() };
    assert_eq!(sealed.query(&of_a, None, 10).await.unwrap().rows.len(), 1);
}

/// Does this to the tables of a signed trail, and says what a verification then finds: while the file is open, and by
/// somebody who only reads it.
async fn after(sql: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let store = SqliteAuditStore::open(&path, SqliteAuditOptions::default()).unwrap();
    audit_store::signed(&store).await;
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let reader = SqliteAuditStore::open_to_read(&path, None).unwrap();
    let report = audit_store::verified(&reader).await;
    assert_eq!(report, audit_store::verified(&store).await);
    let kind = reader.put_chain(Vec::new(), Vec::new()).await.unwrap_err().kind();
    assert_eq!(kind, StoreErrorKind::Unavailable, "a reader writes nothing");
    let said = report.faults.iter().map(|fault| fault.to_string().split_once(" row ").unwrap().1.to_owned());
    said.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_changes_the_tables_is_found_out() {
    assert_eq!(after("").await, [""; 0]);
    let changed = after("UPDATE event SET outcome = 'ok' WHERE seq = 3").await;
    assert_eq!(changed, ["3 (id 01HF7YAT000000000000000001-3-1700000003000000): the row was changed"]);
    // A filter, of what is packed.
    let packed = after("UPDATE event SET detail = CAST(detail || x'010161000100' AS BLOB) WHERE seq = 4").await;
    assert_eq!(packed, ["4 (id 01HF7YAT000000000000000001-4-1700000004000000): the row was changed"]);
    let unreadable =
        after("UPDATE event SET outcome = 'never' WHERE seq = 3; UPDATE event SET detail = x'ff' WHERE seq = 4");
    assert_eq!(unreadable.await, changed, "a row that cannot be read");
    let removed = after("DELETE FROM event WHERE seq = 5").await;
    assert_eq!(removed, ["5 (id 01HF7YAT000000000000000001-5-1700000005000000): the row is missing"]);
    let cut = after("DELETE FROM event WHERE seq > 6; DELETE FROM link WHERE seq > 6").await;
    assert_eq!(cut, ["7: the stream was cut off, it had 8 rows"]);
    let swapped =
        after("UPDATE event SET seq = seq + 99 WHERE seq IN (2, 3); UPDATE event SET seq = 104 - seq WHERE seq > 99");
    assert_eq!(swapped.await.len(), 2, "rows that change their numbers are missing where they were, and put in");
    let unsigned = after("DELETE FROM checkpoint WHERE seq = 8; DELETE FROM event WHERE seq = 7").await;
    assert_eq!(unsigned, ["7 (id 01HF7YAT000000000000000001-7-1700000007000000): the row is missing"]);
    let forged = after("UPDATE checkpoint SET signed = replace(signed, 'Ada', 'Eve') WHERE seq = 8").await;
    assert_eq!(forged, ["8: its checkpoint was not signed with a known key: it is not Ada's"]);
}

#[tokio::test]
async fn rows_of_a_file_from_before_the_chain_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.db");
    let first = Schema { name: SCHEMA.name, migrations: &SCHEMA.migrations[..1] };
    let mut connection = open_writer(&path, Durability::Process, PAGE).unwrap();
    first.migrate(&mut connection, &path).unwrap();
    let mut insert = connection
        .prepare("INSERT INTO event VALUES (1, ?1, 1, ?1, 'mcp', 'act', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'ok', 0, 0, NULL, x'00')")
        .unwrap();
    insert.execute([[1_u8; 16]]).unwrap();
    drop(insert);
    let error = SqliteAuditStore::open_to_read(&path, None).unwrap_err();
    assert!(matches!(error, OpenError::OlderSchema { found: 1, known: 2, .. }), "{error}");
    drop(connection);
    let store = SqliteAuditStore::open(&path, SqliteAuditOptions::default()).unwrap();
    audit_store::signed(&store).await;
    let report = audit_store::verified(&store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unchained), (8, 1));
}
