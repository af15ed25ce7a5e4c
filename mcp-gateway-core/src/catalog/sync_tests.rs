use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::catalog::{CatalogLimits, DirectorySource, StarterSource, parse};
use crate::contract::SystemClock;
use crate::memory::{MemoryKeys, MemoryStore};
use crate::record::TenantId;
use crate::seal::Sealer;

/// A source that holds what the test says.
#[derive(Default)]
struct Scripted {
    content: Mutex<(u64, Vec<Result<Entry, EntryError>>)>,
}

impl Scripted {
    fn hold(&self, entries: impl IntoIterator<Item = Result<Entry, EntryError>>) {
        let mut content = self.content.lock().unwrap();
        *content = (content.0 + 1, entries.into_iter().collect());
    }
}

#[async_trait]
impl CatalogSource for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    async fn fetch(&self, since: Option<&str>) -> Result<Fetched, CatalogError> {
        let (version, entries) = self.content.lock().unwrap().clone();
        let version = version.to_string();
        if version == "0" {
            return Err(CatalogError { source_name: "scripted".into(), problem: "is away".into(), cause: None });
        }
        Ok(if since == Some(&version) { Fetched::Unchanged } else { Fetched::Snapshot { version, entries } })
    }
}

fn entry(id: &str, package: &str) -> Entry {
    let text = format!("{{entryKey: {id}, name: A, runtime: npx, npxConfig: {{package: {package}}}}}");
    parse(text.as_bytes(), "a.yaml").remove(0).unwrap()
}

fn broken(id: Option<&str>) -> Result<Entry, EntryError> {
    Err(EntryError { place: "a".into(), field: None, problem: "bad".into(), id: id.map(Into::into) })
}

async fn store() -> Resources<Entry> {
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), Arc::new(SystemClock)).await.unwrap();
    Resources::new(store, sealer, TenantId::default())
}

fn sync(source: Arc<dyn CatalogSource>, entries: &Resources<Entry>) -> Sync {
    Sync::new(source, entries.clone(), Mount::new("https://gateway.example", "/mcp-connect").unwrap())
}

async fn ids(entries: &Resources<Entry>) -> Vec<String> {
    entries.list(None, None, 1_000).await.unwrap().0.into_iter().map(|entry| entry.id.into()).collect()
}

#[tokio::test]
async fn writes_only_what_changed() {
    let (source, entries) = (Arc::new(Scripted::default()), store().await);
    let mut sync = sync(source.clone(), &entries);
    source.hold([Ok(entry("a", "x")), Ok(entry("b", "x")), Ok(entry("c", "x"))]);
    let report = sync.run_once().await.unwrap().unwrap();
    assert_eq!(report.added, ["a", "b", "c"]);
    let a = entries.get("a").await.unwrap().unwrap();
    assert_eq!(a.value.origin, Some(EntryOrigin::Source { source: "scripted".into() }));

    source.hold([Ok(entry("a", "x")), Ok(entry("b", "y")), Ok(entry("d", "x"))]);
    let report = sync.run_once().await.unwrap().unwrap();
    assert_eq!((report.added, report.changed, report.removed), (vec!["d".into()], vec!["b".into()], vec!["c".into()]));
    assert_eq!(entries.get("a").await.unwrap().unwrap().revision, a.revision, "an equal entry is not written again");
    assert_eq!(ids(&entries).await, ["a", "b", "d"]);
    assert!(sync.run_once().await.unwrap().is_none());

    // Another process, or this one after a restart, finds everything in place.
    let report = self::sync(source, &entries).run_once().await.unwrap().unwrap();
    assert_eq!(report, SyncReport::default());
}

#[tokio::test]
async fn what_became_bad_stays_as_it_was() {
    let (source, entries) = (Arc::new(Scripted::default()), store().await);
    let mut sync = sync(source.clone(), &entries);
    source.hold([Ok(entry("a", "x")), Ok(entry("b", "x")), Ok(entry("c", "x"))]);
    sync.run_once().await.unwrap();

    // One does not parse, one does not compile, one is gone.
    source.hold([broken(Some("a")), Ok(entry("b", "--x"))]);
    let report = sync.run_once().await.unwrap().unwrap();
    assert_eq!((report.removed, report.kept), (vec!["c".into()], vec!["a".into(), "b".into()]));
    assert_eq!(report.errors.len(), 2);
    assert_eq!(entries.get("b").await.unwrap().unwrap().value.npx_config.unwrap().package, "x");

    // Nobody knows what the broken file held: nothing is removed.
    source.hold([broken(None)]);
    let report = sync.run_once().await.unwrap().unwrap();
    assert_eq!((report.removed.len(), report.kept), (0, vec!["a".into(), "b".into()]));
    assert_eq!(ids(&entries).await, ["a", "b"]);
}

#[tokio::test]
async fn a_source_that_is_away_removes_nothing() {
    let (source, entries) = (Arc::new(Scripted::default()), store().await);
    let mut sync = sync(source.clone(), &entries);
    source.hold([Ok(entry("a", "x"))]);
    sync.run_once().await.unwrap();
    *source.content.lock().unwrap() = (0, vec![]);
    assert!(matches!(sync.run_once().await, Err(SyncError::Source(_))));
    assert_eq!(ids(&entries).await, ["a"]);
}

#[tokio::test]
async fn other_peoples_entries_are_left_to_them() {
    let (source, entries) = (Arc::new(Scripted::default()), store().await);
    let mut by_api = entry("time", "x");
    by_api.origin = Some(EntryOrigin::Api);
    entries.save("time", &by_api, When::Absent).await.unwrap();
    let report = sync(Arc::new(StarterSource), &entries).run_once().await.unwrap().unwrap();
    assert_eq!(report.added, ["everything", "memory"]);
    assert_eq!(report.errors[0].id.as_deref(), Some("time"));
    source.hold([Ok(entry("memory", "x")), Ok(entry("mine", "x"))]);
    let report = sync(source, &entries).run_once().await.unwrap().unwrap();
    assert_eq!((report.added, report.errors.len()), (vec!["mine".into()], 1));
    assert_eq!(entries.get("time").await.unwrap().unwrap().value, by_api);

    assert_eq!(retain_sources(&entries, &["scripted"], None).await.unwrap(), ["everything", "memory"]);
    assert_eq!(ids(&entries).await, ["mine", "time"]);
}

#[tokio::test]
async fn large_catalogs_are_many_batches() {
    let (source, entries) = (Arc::new(Scripted::default()), store().await);
    let mut sync = sync(source.clone(), &entries);
    let count = 2 * StoreLimits::WRITES + 1;
    source.hold((0..count).map(|number| Ok(entry(&format!("e{number}"), "x"))));
    assert_eq!(sync.run_once().await.unwrap().unwrap().added.len(), count);

    // More than a batch may hold in bytes, though few.
    let large = |number: usize| {
        let mut entry = entry(&format!("l{number:02}"), "x");
        entry.description = Some("x".repeat(CatalogLimits::ENTRY));
        Ok(entry)
    };
    source.hold((0..20).map(large));
    let report = sync.run_once().await.unwrap().unwrap();
    assert_eq!((report.added.len(), report.removed.len()), (20, count));

    let mut too_large = entry("big", "x");
    too_large.description = Some("x".repeat(StoreLimits::RECORD));
    source.hold([Ok(too_large), Ok(entry("small", "x"))]);
    let report = sync.run_once().await.unwrap().unwrap();
    assert_eq!((report.added, report.errors[0].id.as_deref()), (vec!["small".into()], Some("big")));
}

#[tokio::test]
async fn secrets_are_sealed_in_the_store() {
    let (source, entries) = (Arc::new(Scripted::default()), store().await);
    let text = "{entryKey: a, name: A, runtime: npx, npxConfig: {package: x}, env: [{key: T, value: hunter2}]}";
    source.hold(parse(text.as_bytes(), "a.yaml"));
    sync(source.clone(), &entries).run_once().await.unwrap();
    let stored = entries.store().get(&[entries.key("a")]).await.unwrap().remove(0).unwrap();
    assert!(!String::from_utf8_lossy(&stored.value).contains("hunter2"));
    assert_eq!(entries.get("a").await.unwrap().unwrap().value.env[0].value.expose(), "hunter2");
    // Sealed anew each time, yet known to be the same.
    assert_eq!(sync(source, &entries).run_once().await.unwrap().unwrap(), SyncReport::default());
}

#[tokio::test(start_paused = true)]
async fn follows_a_directory() {
    let (folder, entries) = (tempfile::tempdir().unwrap(), store().await);
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, "{entryKey: a, name: A, runtime: command, command: server}").unwrap();
    let sync = sync(Arc::new(DirectorySource::new("catalog", folder.path())), &entries);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let running = tokio::spawn(sync.run(Duration::from_secs(2), move |result| {
        let _ = tell.send(result.cloned().map_err(ToString::to_string));
    }));
    assert_eq!(told.recv().await.unwrap().unwrap().added, ["a"]);
    std::fs::write(&file, "{entryKey: a, name: B, runtime: command, command: server}").unwrap();
    assert_eq!(told.recv().await.unwrap().unwrap().changed, ["a"]);
    std::fs::write(&file, "{entryKey: a, nam").unwrap();
    let report = told.recv().await.unwrap().unwrap();
    assert_eq!((report.kept, report.errors.len()), (vec!["a".into()], 1));
    // As when its mount is lost.
    std::fs::remove_file(&file).unwrap();
    let report = told.recv().await.unwrap().unwrap();
    assert_eq!((report.kept, report.removed.len(), report.errors.len()), (vec!["a".into()], 0, 1));
    assert!(report.errors[0].to_string().contains("put a file there that holds none"), "{:?}", report.errors);
    std::fs::write(folder.path().join("none.yaml"), "[]").unwrap();
    let report = told.recv().await.unwrap().unwrap();
    assert_eq!((report.removed, report.errors.len()), (vec!["a".into()], 0));
    drop(folder);
    assert!(told.recv().await.unwrap().is_err());
    running.abort();
}
