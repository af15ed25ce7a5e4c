use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use mcp_gateway_core::conformance::ManualClock;
use mcp_gateway_core::conformance::resource_store::{Bench, Setup};
use mcp_gateway_core::contract::{When, Write};
use mcp_gateway_core::record::{ApiKey, FieldSealer, Resources, Scope, Subject, TenantId};
use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};

use super::*;

const THING: Kind = Kind::logged("thing");

async fn bench(setup: Setup) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let mut options = SqliteOptions::default().with_clock(clock.clone());
    if let Some(commits) = setup.log_commits {
        options = options.with_log_commits(commits as u64);
    }
    let store = SqliteStore::open(dir.path().join("resources.db"), options).unwrap();
    Bench::new(Arc::new(store), clock).keeping(dir)
}

mcp_gateway_core::resource_store_suite!(bench);

fn key(id: &str) -> Key {
    Key::new(TenantId::default(), THING, id)
}

fn put(id: &str, ttl: Option<Duration>) -> Vec<Write> {
    vec![Write::Put { key: key(id), value: "x".into(), index: Vec::new(), ttl, when: When::Any }]
}

#[tokio::test]
async fn a_reopened_file_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resources.db");
    let mut last = Revision(0);
    for durability in [Durability::Process, Durability::Power, Durability::Process] {
        let store = SqliteStore::open(&path, SqliteOptions::default().with_durability(durability)).unwrap();
        if last > Revision(0) {
            assert_eq!(store.get(&[key("a")]).await.unwrap()[0].as_ref().unwrap().revision, last);
            assert!(store.watch(&[THING], Revision(0)).await.is_ok(), "the log is kept");
        }
        let next = store.commit(put("a", None)).await.unwrap();
        assert_eq!(next, Revision(last.0 + 1));
        last = next;
    }
}

#[tokio::test]
async fn a_second_open_fails_and_names_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resources.db");
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    let error = SqliteStore::open(&path, SqliteOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(store);
    SqliteStore::open(&path, SqliteOptions::default()).unwrap();
}

#[tokio::test]
async fn files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resources.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
    store.commit(put("a", None)).await.unwrap();
    let mut names = Vec::new();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["resources.db", "resources.db-shm", "resources.db-wal", "resources.db.lock"]);
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = SqliteStore::open(dir.path().join("no/resources.db"), SqliteOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no/resources.db"), "{error}");
}

#[tokio::test]
async fn sweeps_free_what_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resources.db");
    let clock = Arc::new(ManualClock::default());
    let options = SqliteOptions::default().with_clock(clock.clone()).with_log_age(Duration::from_secs(60));
    let store = SqliteStore::open(&path, options).unwrap();
    let first = store.commit(put("mortal", Some(Duration::from_secs(5)))).await.unwrap();
    let second = store.commit(put("other", None)).await.unwrap();
    clock.advance(Duration::from_secs(61));
    let third = store.commit(put("late", None)).await.unwrap();

    let inside = rusqlite::Connection::open(&path).unwrap();
    let counts = || -> (i64, i64) {
        inside
            .query_row("SELECT (SELECT count(*) FROM record), (SELECT count(*) FROM change)", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap()
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while counts() != (2, 1) {
        assert!(std::time::Instant::now() < deadline, "nothing was swept: {:?}", counts());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.watch(&[THING], first).await.err().unwrap().kind(), StoreErrorKind::Compacted);
    assert!(store.watch(&[THING], second).await.is_ok(), "revision {third} is still in the log");
}

/// Not a test of its own: what the process that is killed does.
#[tokio::test]
async fn writer_that_is_killed() {
    let Ok(path) = std::env::var("SQLITE_STORE_KILL_TEST") else { return };
    let store = SqliteStore::open(path, SqliteOptions::default()).unwrap();
    for n in 0u64.. {
        let mut batch = put(&format!("{n}-a"), None);
        batch.extend(put(&format!("{n}-b"), None));
        store.commit(batch).await.unwrap();
        println!("\ncommitted {n}");
    }
}

#[tokio::test]
async fn what_was_committed_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resources.db");
    let mut last_revision = Revision(0);
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["sqlite::resource::tests::writer_that_is_killed", "--exact", "--nocapture"])
            .env("SQLITE_STORE_KILL_TEST", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let committed = |line: std::io::Result<String>| line.unwrap().strip_prefix("committed ")?.parse::<u64>().ok();
        let mut acknowledged = 0;
        for number in lines.filter_map(committed) {
            acknowledged = number;
            if number == 40 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged >= 40, "the child wrote {acknowledged}");

        let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
        let keys: Vec<_> = (0..=acknowledged).flat_map(|n| [key(&format!("{n}-a")), key(&format!("{n}-b"))]).collect();
        for keys in keys.chunks(StoreLimits::PAGE) {
            assert!(store.get(keys).await.unwrap().iter().all(Option::is_some), "a commit was lost");
        }
        // One more may be in, whole.
        let next = acknowledged + 1;
        let pair = store.get(&[key(&format!("{next}-a")), key(&format!("{next}-b"))]).await.unwrap();
        assert_eq!(pair[0].is_some(), pair[1].is_some(), "half of a batch is in");
        let revision = store.list(&Query::all(THING)).await.unwrap().as_of;
        assert!(revision.0 > last_revision.0 + acknowledged, "revisions went back");
        last_revision = revision;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_share_a_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteOptions::default().with_durability(Durability::Power);
    let store = SqliteStore::open(dir.path().join("resources.db"), options).unwrap();
    let commits: Vec<_> = (0..2000)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(put(&n.to_string(), None)).await })
        })
        .collect();
    let mut revisions = Vec::new();
    for commit in commits {
        revisions.push(commit.await.unwrap().unwrap().0);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=2000).collect::<Vec<_>>(), "each commit has a revision of its own");
}

/// Fields stay as they are: what is tested here is the feed.
struct Plain;

impl FieldSealer for Plain {
    fn seal(&self, _: &Key, _: &str, plain: &str) -> Result<String, StoreError> {
        Ok(plain.to_owned())
    }

    fn open(&self, _: &Key, _: &str, sealed: &str) -> Result<String, StoreError> {
        Ok(sealed.to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_snapshots_over_one_file_see_a_revocation_once_it_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("resources.db"), SqliteOptions::default()).unwrap();
    let store: Arc<dyn ResourceStore> = Arc::new(store);
    let sealer: Arc<dyn FieldSealer> = Arc::new(Plain);
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let options = SnapshotOptions::new(Arc::clone(&sealer), Arc::new(|_| unreachable!("there is no entry")));
        let (snapshots, driver) = Snapshots::follow(Arc::clone(&store), options).await.unwrap();
        tokio::spawn(driver);
        gateways.push(snapshots);
    }
    let keys: Resources<ApiKey> = Resources::new(Arc::clone(&store), sealer, TenantId::default());
    for round in 0..20 {
        let id = format!("key-{round}");
        let key = ApiKey {
            name: id.clone(),
            secret_sha256: "ab".repeat(32),
            subject: Subject::local("ada"),
            owner: false,
            scopes: vec![Scope::Mcp],
            servers: vec!["*".to_owned()],
            created_at: jiff::Timestamp::UNIX_EPOCH,
            expires_at: None,
            rate: None,
        };
        let made = keys.save(&id, &key, When::Absent).await.unwrap();
        for gateway in &gateways {
            gateway.wait_for(made).await;
            assert!(gateway.load().key(&id).is_some(), "a key that was made is not there");
        }
        let deleted = keys.delete(&id, When::At(made)).await.unwrap();
        for gateway in &gateways {
            gateway.wait_for(deleted).await;
            assert!(gateway.load().key(&id).is_none(), "a deleted key is still there");
        }
    }
}
