use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::conformance::{FlakyStore, ManualClock};
use crate::contract::{Key, Kind, Query, Resource as Audience, When, Write};
use crate::memory::{MemoryStore, MemoryStoreOptions};
use crate::record::{ApiKey, Resource, Resources, RouteTarget, Scope, ServerList, Subject};

/// Seals by marking. `away` makes it fail as if its key could not be had.
#[derive(Default)]
struct Marker {
    away: std::sync::atomic::AtomicBool,
}

impl FieldSealer for Marker {
    fn seal(&self, key: &Key, field: &str, plain: &str) -> Result<String, StoreError> {
        Ok(format!("sealed:{}:{field}:{plain}", key.id))
    }

    fn open(&self, key: &Key, field: &str, sealed: &str) -> Result<String, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "open"));
        }
        let prefix = format!("sealed:{}:{field}:", key.id);
        let plain = sealed.strip_prefix(&prefix).ok_or_else(|| StoreError::new(StoreErrorKind::Corrupt, "open"))?;
        Ok(plain.to_owned())
    }
}

/// A remote server; its description says which version it is, and `broken` does not compile.
fn compile(entry: &Entry) -> Result<Route, EntryError> {
    if entry.description.as_deref() == Some("broken") {
        let problem = "it says that it is broken".to_owned();
        return Err(EntryError { place: "here".to_owned(), field: None, problem, id: Some(entry.entry_key.clone()) });
    }
    let id: Arc<str> = entry.entry_key.as_str().into();
    Ok(Route {
        resource: Audience {
            url: format!("https://gw.example/mcp-connect/{id}").into(),
            metadata: None,
            server: Some(Arc::clone(&id)),
        },
        id,
        name: entry.description.as_deref().unwrap_or_default().into(),
        target: RouteTarget::Remote {
            url: "https://up.example/mcp".parse().unwrap(),
            headers: Arc::new([]),
            auth: None,
            incarnation: crate::contract::Incarnation("a~1".into()),
        },
        sub_paths: Arc::new([]),
        query_parameters: Arc::new([]),
        response_headers: Arc::new([]),
        server_requests: crate::record::ServerRequests::default(),
    })
}

pub(super) fn options() -> SnapshotOptions {
    SnapshotOptions::new(Arc::new(Marker::default()), Arc::new(compile))
}

fn entry(id: &str, version: &str) -> Entry {
    serde_json::from_value(json!({
        "entryKey": id, "name": id, "description": version, "runtime": "remote",
        "remoteConfig": {
            "fixedURL": "https://up.example/mcp", "headers": [{ "key": "Authorization", "value": "secret" }]
        },
    }))
    .unwrap()
}

pub(super) fn api_key(name: &str, servers: &[&str]) -> ApiKey {
    ApiKey {
        name: name.to_owned(),
        secret_sha256: "0f".repeat(32),
        subject: Subject::local("ada"),
        owner: false,
        scopes: vec![Scope::Mcp],
        servers: servers.iter().map(|server| (*server).to_owned()).collect(),
        created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        expires_at: None,
        rate: None,
    }
}

struct Writer {
    store: Arc<dyn ResourceStore>,
    entries: Resources<Entry>,
    keys: Resources<ApiKey>,
}

impl Writer {
    fn new(store: Arc<dyn ResourceStore>) -> Self {
        let sealer: Arc<dyn FieldSealer> = Arc::new(Marker::default());
        Self {
            entries: Resources::new(Arc::clone(&store), Arc::clone(&sealer), TenantId::default()),
            keys: Resources::new(Arc::clone(&store), sealer, TenantId::default()),
            store,
        }
    }

    async fn save_entry(&self, id: &str, version: &str) -> Revision {
        self.entries.save(id, &entry(id, version), When::Any).await.unwrap()
    }

    async fn save_key(&self, id: &str) -> Revision {
        self.keys.save(id, &api_key(id, &["*"]), When::Any).await.unwrap()
    }
}

pub(super) fn memory() -> Arc<dyn ResourceStore> {
    Arc::new(MemoryStore::new(Arc::new(SystemClock)))
}

pub(super) async fn following(store: Arc<dyn ResourceStore>, options: SnapshotOptions) -> Snapshots {
    let (snapshots, driver) = Snapshots::follow(store, options).await.unwrap();
    tokio::spawn(driver);
    snapshots
}

async fn reaches(snapshots: &Snapshots, revision: Revision) {
    tokio::time::timeout(Duration::from_secs(60), snapshots.wait_for(revision)).await.expect("the revision is applied");
}

/// Everything that is in a snapshot, comparable.
fn content(snapshots: &Snapshots) -> impl PartialEq + std::fmt::Debug {
    let snapshot = snapshots.load();
    let entries: BTreeMap<_, _> = snapshot.entries.iter().map(|(id, one)| (id.clone(), Entry::clone(one))).collect();
    let routes: BTreeMap<_, _> = snapshot.routes.iter().map(|(id, one)| (id.clone(), one.name.clone())).collect();
    let keys: BTreeMap<_, _> = snapshot.keys.iter().map(|(id, one)| (id.clone(), KeyFacts::clone(one))).collect();
    (entries, routes, keys)
}

#[tokio::test(start_paused = true)]
async fn a_deleted_key_is_gone_once_the_commit_is_applied() {
    let writer = Writer::new(memory());
    writer.save_key("k1").await;
    // Two gateways over one store.
    let gateways = [following(writer.store.clone(), options()).await, following(writer.store.clone(), options()).await];
    for gateway in &gateways {
        let facts = gateway.load().key("k1").cloned().unwrap();
        assert_eq!((&*facts.id, facts.secret_sha256), ("k1", [0x0f; 32]));
        assert_eq!(facts.principal.servers, ServerList::All);
        assert_eq!(facts.principal.subject, Subject::local("ada"));
    }
    for round in 0..20 {
        let id = format!("key-{round}");
        let made = writer.save_key(&id).await;
        for gateway in &gateways {
            reaches(gateway, made).await;
            assert!(gateway.load().key(&id).is_some());
        }
        let deleted = writer.keys.delete(&id, When::At(made)).await.unwrap();
        for gateway in &gateways {
            reaches(gateway, deleted).await;
            assert!(gateway.load().key(&id).is_none(), "a deleted key is still there");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn routes_follow_their_entries() {
    let writer = Writer::new(memory());
    let snapshots = following(writer.store.clone(), options()).await;
    let principal = Principal::new("https://login.example", "ada");
    assert!(snapshots.resolve("a", &principal).await.unwrap().is_none());
    reaches(&snapshots, writer.save_entry("a", "one").await).await;
    let route = snapshots.resolve("a", &principal).await.unwrap().unwrap();
    assert_eq!((&*route.id, &*route.name), ("a", "one"));
    let secret = snapshots.load().entries["a"].remote_config.as_ref().unwrap().headers[0].value.clone();
    assert_eq!(secret.expose(), "secret", "sealed fields are opened");
    reaches(&snapshots, writer.save_entry("a", "two").await).await;
    assert_eq!(&*snapshots.load().routes["a"].name, "two");
    reaches(&snapshots, writer.entries.delete("a", When::Any).await.unwrap()).await;
    assert!(snapshots.load().routes.is_empty() && snapshots.load().entries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_no_longer_compiles_is_served_as_before() {
    let writer = Writer::new(memory());
    let flaky = FlakyStore::new(writer.store.clone());
    let snapshots = following(flaky.clone(), options()).await;
    writer.save_entry("never", "broken").await;
    writer.save_entry("once", "good").await;
    reaches(&snapshots, writer.save_entry("once", "broken").await).await;
    let served =
        || snapshots.load().routes.iter().map(|(id, r)| (id.to_string(), r.name.to_string())).collect::<Vec<_>>();
    assert_eq!(served(), [("once".to_owned(), "good".to_owned())]);
    assert_eq!(snapshots.load().entries["once"].description.as_deref(), Some("good"));
    // Reading everything again does not lose it.
    flaky.cut();
    flaky.compact_watches(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    flaky.restore();
    reaches(&snapshots, writer.save_entry("other", "good").await).await;
    assert_eq!(served().len(), 2);
    reaches(&snapshots, writer.save_entry("once", "better").await).await;
    assert_eq!(&*snapshots.load().routes["once"].name, "better");
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_read_are_left_out() {
    let writer = Writer::new(memory());
    writer.save_key("good").await;
    let raw = |kind: Kind, id: &str| Write::Put {
        key: Key::new(TenantId::default(), kind, id),
        value: "{\"not\": \"it\"}".into(),
        index: Vec::new(),
        ttl: None,
        when: When::Any,
    };
    writer.store.commit(vec![raw(Entry::KIND, "e"), raw(ApiKey::KIND, "k")]).await.unwrap();
    let foreign = ApiKey {
        subject: Subject { tenant: TenantId::new("other"), ..Subject::local("eve") },
        ..api_key("foreign", &["*"])
    };
    writer.keys.save("foreign", &foreign, When::Any).await.unwrap();
    let short = ApiKey { secret_sha256: "0f".repeat(31), ..api_key("short", &["*"]) };
    writer.keys.save("short", &short, When::Any).await.unwrap();
    let wrong = ApiKey { secret_sha256: "+f".repeat(32), ..api_key("wrong", &["*"]) };
    writer.keys.save("wrong", &wrong, When::Any).await.unwrap();

    let snapshots = following(writer.store.clone(), options()).await;
    assert_eq!(snapshots.load().keys.keys().map(|id| &**id).collect::<Vec<_>>(), ["good"]);
    assert!(snapshots.load().routes.is_empty());
    // A key that becomes unreadable stops working: it may have been restricted.
    let revision = writer.store.commit(vec![raw(ApiKey::KIND, "good")]).await.unwrap();
    reaches(&snapshots, revision).await;
    assert!(snapshots.load().key("good").is_none());
}

#[tokio::test(start_paused = true)]
async fn other_tenants_are_not_in_it() {
    let writer = Writer::new(memory());
    let elsewhere: Resources<ApiKey> =
        Resources::new(writer.store.clone(), Arc::new(Marker::default()), TenantId::new("other"));
    let theirs =
        ApiKey { subject: Subject { tenant: TenantId::new("other"), ..Subject::local("eve") }, ..api_key("x", &[]) };
    elsewhere.save("k", &theirs, When::Any).await.unwrap();
    let snapshots = following(writer.store.clone(), options()).await;
    assert!(snapshots.load().key("k").is_none(), "listed");
    reaches(&snapshots, elsewhere.save("k2", &theirs, When::Any).await.unwrap()).await;
    assert!(snapshots.load().key("k2").is_none(), "watched");
    reaches(&snapshots, writer.save_key("k").await).await;
    reaches(&snapshots, elsewhere.delete("k", When::Any).await.unwrap()).await;
    assert!(snapshots.load().key("k").is_some(), "another tenant's delete removed it");
    let other = following(writer.store.clone(), SnapshotOptions { tenant: TenantId::new("other"), ..options() }).await;
    assert_eq!(other.load().keys.keys().map(|id| &**id).collect::<Vec<_>>(), ["k2"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_away_is_caught_up_with() {
    let writer = Writer::new(memory());
    let flaky = FlakyStore::new(writer.store.clone());
    let snapshots = following(flaky.clone(), options()).await;
    reaches(&snapshots, writer.save_key("before").await).await;
    for silent in [false, true] {
        if silent {
            flaky.silence();
        } else {
            flaky.cut();
        }
        let deleted = writer.keys.delete("before", When::Any).await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(*snapshots.applied().borrow() < deleted);
        assert!(snapshots.load().key("before").is_some(), "it goes on from what it has");
        assert!(snapshots.is_stale() && !snapshots.refuses());
        flaky.restore();
        reaches(&snapshots, deleted).await;
        assert!(snapshots.load().key("before").is_none());
        assert!(!snapshots.is_stale());
        reaches(&snapshots, writer.save_key("before").await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_was_compacted_is_listed_again() {
    let options_of_log = MemoryStoreOptions::default().with_log_commits(4);
    let writer = Writer::new(Arc::new(MemoryStore::with_options(Arc::new(SystemClock), options_of_log)));
    let flaky = FlakyStore::new(writer.store.clone());
    let snapshots = following(flaky.clone(), options()).await;
    reaches(&snapshots, writer.save_key("old").await).await;
    flaky.cut();
    flaky.fail_lists(2);
    writer.keys.delete("old", When::Any).await.unwrap();
    for n in 0..20 {
        writer.save_key(&format!("new-{n}")).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let last = writer.save_entry("e", "one").await;
    flaky.restore();
    reaches(&snapshots, last).await;
    assert!(snapshots.load().key("old").is_none(), "a delete that the log had forgotten");
    assert_eq!(snapshots.load().keys.len(), 20);
    assert_eq!(snapshots.load().routes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_back_is_followed() {
    let writer = Writer::new(memory());
    let snapshots = following(writer.store.clone(), options()).await;
    reaches(&snapshots, writer.save_key("k").await).await;
    drop(snapshots);

    // A store with fewer commits takes the place of the first.
    struct Swapped(std::sync::Mutex<Arc<dyn ResourceStore>>);
    impl Swapped {
        fn now(&self) -> Arc<dyn ResourceStore> {
            self.0.lock().unwrap().clone()
        }
    }
    #[async_trait::async_trait]
    impl ResourceStore for Swapped {
        async fn get(&self, keys: &[Key]) -> Result<Vec<Option<crate::contract::Record>>, StoreError> {
            self.now().get(keys).await
        }
        async fn list(&self, query: &Query) -> Result<crate::contract::Page, StoreError> {
            self.now().list(query).await
        }
        async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
            self.now().commit(writes).await
        }
        async fn watch(&self, kinds: &[Kind], after: Revision) -> Result<crate::contract::FeedStream, StoreError> {
            self.now().watch(kinds, after).await
        }
    }
    for n in 0..10 {
        writer.save_key(&format!("k{n}")).await;
    }
    let swapped = Arc::new(Swapped(std::sync::Mutex::new(writer.store.clone())));
    let flaky = FlakyStore::new(swapped.clone());
    let snapshots = following(flaky.clone(), options()).await;
    let backup = Writer::new(memory());
    let revision = backup.save_key("only").await;
    flaky.cut();
    *swapped.0.lock().unwrap() = backup.store.clone();
    tokio::time::sleep(Duration::from_secs(1)).await;
    flaky.restore();
    let mut applied = snapshots.applied();
    applied.wait_for(|applied| *applied == revision).await.unwrap();
    assert_eq!(snapshots.load().keys.keys().map(|id| &**id).collect::<Vec<_>>(), ["only"]);
}

#[tokio::test]
async fn without_a_first_snapshot_there_is_no_start() {
    let flaky = FlakyStore::new(memory());
    flaky.cut();
    let error = Snapshots::follow(flaky.clone(), options()).await.err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    flaky.restore();
    flaky.compact_watches(2);
    assert!(Snapshots::follow(flaky.clone(), options()).await.is_ok(), "the third attempt");
    flaky.compact_watches(3);
    assert_eq!(Snapshots::follow(flaky, options()).await.err().unwrap().kind(), StoreErrorKind::Compacted);
}

#[tokio::test(start_paused = true)]
async fn staleness_is_the_time_since_the_store_was_heard() {
    let clock = Arc::new(ManualClock::default());
    let flaky = FlakyStore::new(memory());
    let snapshots = following(
        flaky.clone(),
        SnapshotOptions { clock: clock.clone(), max_staleness: Duration::from_secs(60), ..options() },
    )
    .await;
    let principal = Principal::new("https://login.example", "ada");
    flaky.silence();
    tokio::time::sleep(Duration::from_secs(1)).await;
    clock.advance(Snapshots::STALE_AFTER);
    assert_eq!(snapshots.staleness(), Duration::from_secs(1));
    assert!(!snapshots.is_stale(), "at the edge");
    clock.advance(Duration::from_nanos(1));
    assert!(snapshots.is_stale() && !snapshots.refuses(), "over the first edge");
    clock.advance(Duration::from_secs(59) - Duration::from_nanos(1));
    assert!(!snapshots.refuses(), "at the second edge");
    assert!(snapshots.resolve("a", &principal).await.is_ok());
    clock.advance(Duration::from_nanos(1));
    assert!(snapshots.refuses(), "over the second edge");
    assert!(snapshots.resolve("a", &principal).await.is_err());
    // A bookmark is enough.
    flaky.restore();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!snapshots.is_stale() && !snapshots.refuses());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_change_learns_that_the_snapshot_refuses() {
    let clock = Arc::new(ManualClock::default());
    let flaky = FlakyStore::new(memory());
    let options = SnapshotOptions { clock: clock.clone(), max_staleness: Duration::from_secs(60), ..options() };
    let snapshots = following(flaky.clone(), options).await;
    let mut swapped = snapshots.swapped();
    for _ in 0..2 {
        flaky.silence();
        tokio::time::sleep(Duration::from_secs(1)).await;
        clock.advance(Duration::from_secs(60));
        swapped.mark_unchanged();
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert!(!swapped.has_changed().unwrap() && !snapshots.refuses(), "at the edge");
        clock.advance(Duration::from_millis(2));
        tokio::time::timeout(Duration::from_secs(2), swapped.changed()).await.expect("it is told").unwrap();
        assert!(snapshots.refuses());
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(!swapped.has_changed().unwrap(), "once is enough");
        flaky.restore();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!snapshots.refuses());
    }
}

#[tokio::test(start_paused = true)]
async fn entries_whose_key_was_away_are_read_again() {
    let writer = Writer::new(memory());
    writer.save_entry("a", "one").await;
    let sealer = Arc::new(Marker::default());
    sealer.away.store(true, Ordering::SeqCst);
    let snapshots = following(writer.store.clone(), SnapshotOptions { sealer: sealer.clone(), ..options() }).await;
    assert!(snapshots.load().routes.is_empty());
    sealer.away.store(false, Ordering::SeqCst);
    let mut swapped = snapshots.swapped();
    tokio::time::timeout(Duration::from_secs(60), swapped.changed()).await.expect("it is read again").unwrap();
    assert_eq!(snapshots.load().routes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn changes_are_gathered_and_untouched_kinds_are_shared() {
    let writer = Writer::new(memory());
    writer.save_entry("a", "one").await;
    let snapshots = following(writer.store.clone(), options()).await;
    let before = snapshots.load().clone();
    let swaps = tokio::spawn({
        let mut swapped = snapshots.swapped();
        async move {
            let mut times = Vec::new();
            loop {
                swapped.changed().await.unwrap();
                times.push((tokio::time::Instant::now(), *swapped.borrow_and_update()));
                if times.last().is_some_and(|(_, revision)| *revision >= Revision(201)) {
                    return times;
                }
            }
        }
    });
    let mut last = Revision(0);
    for n in 0..200 {
        last = writer.save_key(&format!("k{n}")).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(last, Revision(201));
    reaches(&snapshots, last).await;
    let times = swaps.await.unwrap();
    assert!(times.len() <= 12, "200 ms of changes made {} snapshots", times.len());
    for pair in times.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= Duration::from_millis(20), "two snapshots within 20 ms");
    }
    let after = snapshots.load();
    assert!(Arc::ptr_eq(&before.routes, &after.routes) && Arc::ptr_eq(&before.entries, &after.entries));
    assert_eq!((before.keys.len(), after.keys.len()), (0, 200), "a snapshot in use does not change");
}

#[tokio::test(start_paused = true)]
async fn the_driver_ends_with_the_last_handle() {
    let (snapshots, driver) = Snapshots::follow(memory(), options()).await.unwrap();
    let driver = tokio::spawn(driver);
    let clone = snapshots.clone();
    drop(snapshots);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!driver.is_finished());
    drop(clone);
    tokio::time::timeout(Duration::from_secs(5), driver).await.expect("the driver ends").unwrap();
}

#[tokio::test]
async fn ten_thousand_entries_and_keys_are_read() {
    let writer = Writer::new(memory());
    for start in (0..10_000).step_by(100) {
        let mut writes = Vec::new();
        for n in start..start + 100 {
            let id = format!("e{n}");
            writes.push(writer.entries.put(&id, &entry(&id, "one"), None, When::Absent).unwrap());
            writes.push(writer.keys.put(&format!("k{n}"), &api_key("k", &[&id]), None, When::Absent).unwrap());
        }
        writer.store.commit(writes).await.unwrap();
    }
    let snapshots = following(writer.store.clone(), options()).await;
    let snapshot = snapshots.load().clone();
    assert_eq!((snapshot.routes.len(), snapshot.entries.len(), snapshot.keys.len()), (10_000, 10_000, 10_000));
    assert_eq!(snapshot.revision, Revision(100));
    let facts = snapshot.key("k9999").unwrap();
    assert!(facts.principal.servers.contains("e9999") && !facts.principal.servers.contains("e1"));
    reaches(&snapshots, writer.keys.delete("k9999", When::Any).await.unwrap()).await;
    assert!(snapshots.load().key("k9999").is_none());
    let (old, new) = (&snapshot, snapshots.load());
    assert!(Arc::ptr_eq(&old.routes, &new.routes), "a change of keys copies no routes");
}

#[derive(Debug, Clone)]
enum Op {
    SaveEntry(u8, u8),
    DeleteEntry(u8),
    SaveKey(u8, u8),
    DeleteKey(u8),
    Cut,
    Compact,
    Restore,
    Wait(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6u8, 0..9u8).prop_map(|(id, version)| Op::SaveEntry(id, version)),
        2 => (0..6u8).prop_map(Op::DeleteEntry),
        4 => (0..6u8, 0..9u8).prop_map(|(id, version)| Op::SaveKey(id, version)),
        2 => (0..6u8).prop_map(Op::DeleteKey),
        1 => Just(Op::Cut),
        1 => Just(Op::Compact),
        2 => Just(Op::Restore),
        2 => (0..200u8).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn following_leads_where_reading_leads(batches in prop::collection::vec(prop::collection::vec(op(), 1..5), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let log = MemoryStoreOptions::default().with_log_commits(6);
            let writer = Writer::new(Arc::new(MemoryStore::with_options(Arc::new(SystemClock), log)));
            let flaky = FlakyStore::new(writer.store.clone());
            let snapshots = following(flaky.clone(), options()).await;
            for batch in batches {
                let mut writes: Vec<Write> = Vec::new();
                for op in batch {
                    match op {
                        Op::SaveEntry(id, version) => {
                            let id = format!("e{id}");
                            let entry = entry(&id, &version.to_string());
                            writes.push(writer.entries.put(&id, &entry, None, When::Any).unwrap());
                        }
                        Op::SaveKey(id, version) => {
                            let key = api_key(&version.to_string(), &["a"]);
                            writes.push(writer.keys.put(&format!("k{id}"), &key, None, When::Any).unwrap());
                        }
                        Op::DeleteEntry(id) => {
                            writes.push(Write::Delete { key: writer.entries.key(&format!("e{id}")), when: When::Any });
                        }
                        Op::DeleteKey(id) => {
                            writes.push(Write::Delete { key: writer.keys.key(&format!("k{id}")), when: When::Any });
                        }
                        Op::Cut => flaky.cut(),
                        Op::Compact => flaky.compact_watches(1),
                        Op::Restore => flaky.restore(),
                        Op::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis.into())).await,
                    }
                }
                let mut seen = std::collections::HashSet::new();
                writes.retain(|write| seen.insert(write.key().clone()));
                writer.store.commit(writes).await.unwrap();
            }
            flaky.restore();
            let last = writer.store.list(&Query::all(Entry::KIND)).await.unwrap().as_of;
            reaches(&snapshots, last).await;
            let fresh = following(writer.store.clone(), options()).await;
            assert_eq!(content(&snapshots), content(&fresh));
        });
    }
}
