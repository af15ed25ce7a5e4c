use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mcp_gateway_core::conformance::audit_store;
use mcp_gateway_core::contract::{Key, StreamId};
use mcp_gateway_core::record::{AuditBodies, AuditEvent, Category, EventKind};

use super::*;

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
    let many = SqliteAuditOptions { statement_rows: 64, ..SqliteAuditOptions::default() };
    audit_store::suite(|| async { Arc::new(open(&dir, many.clone())) as Arc<dyn AuditStore> }).await;
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
fn lists_and_counts_use_the_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, SqliteAuditOptions::default());
    let connection = Connection::open(store.inner.readers.path()).unwrap();
    let plan = |filter: AuditFilter| {
        let conditions = Conditions::of(&filter).unwrap();
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT {COLUMNS} FROM event WHERE {} ORDER BY ts DESC, stream DESC, seq DESC",
            conditions.text
        );
        let mut statement = connection.prepare(&sql).unwrap();
        let plan: Vec<String> = statement
            .query_map(rusqlite::params_from_iter(conditions.values), |row| row.get(3))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        plan.join("; ")
    };
    let by_server = plan(AuditFilter { server: Some("a".into()), ..AuditFilter::default() });
    assert!(by_server.contains("event_server") && !by_server.contains("TEMP B-TREE"), "{by_server}");
    let by_subject = plan(AuditFilter { subject: Some("a".into()), ..AuditFilter::default() });
    assert!(by_subject.contains("event_subject") && !by_subject.contains("TEMP B-TREE"), "{by_subject}");
    let all = plan(AuditFilter::default());
    assert!(!all.contains("TEMP B-TREE"), "{all}");
}
