use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::catalog::compile;
use crate::contract::*;
use crate::memory::{MemoryKeys, MemoryRuntime, MemoryStore};
use crate::record::{Email, FieldSealer, Mount, Roles, TenantId, User, UserState};
use crate::seal::Sealer;
use crate::snapshot::SnapshotOptions;
use crate::{Body, BoxFuture};

struct Silent;

impl Upstream for Silent {
    fn call(&self, _: http::Request<Body>) -> BoxFuture<Result<http::Response<Body>, UpstreamError>> {
        Box::pin(async { Err(UpstreamError::new(UpstreamErrorKind::Broken, "It says nothing.")) })
    }
}

const FORGET: Duration = Duration::from_secs(60);

/// A gateway's catalog and people, what it runs, and who keeps both in step.
struct World {
    entries: Resources<Entry>,
    users: Resources<User>,
    snapshots: Snapshots,
    runtime: Arc<MemoryRuntime>,
}

fn entry(id: &str, user_type: &str, secret: &str) -> Entry {
    serde_json::from_value(json!({
        "entryKey": id, "name": id, "serverUserType": user_type, "runtime": "command", "command": "true",
        "env": [{ "key": "TOKEN", "value": secret }],
        "origin": { "kind": "file", "source": "here", "path": "/catalog/a.yaml" },
    }))
    .unwrap()
}

impl World {
    async fn new() -> Self {
        Self::over(|runtime| runtime).await
    }

    /// One whose runtime is reached through another.
    async fn over<R: Runtime>(through: impl FnOnce(Arc<MemoryRuntime>) -> Arc<R>) -> Self {
        let clock = Arc::new(SystemClock);
        let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(clock.clone()));
        let sealer: Arc<dyn FieldSealer> =
            Sealer::open(Arc::clone(&store), Arc::new(MemoryKeys::new()), clock).await.unwrap();
        let mount = Mount::new("https://gw.example", "/mcp-connect").unwrap();
        // One that says so cannot be compiled.
        let compile = move |entry: &Entry| match entry.description.as_deref() {
            Some("broken") => Err(EntryError {
                place: "here".to_owned(),
                field: None,
                problem: "it says that it is broken".to_owned(),
                id: Some(entry.entry_key.clone()),
            }),
            _ => compile(entry, &mount),
        };
        let options = SnapshotOptions::new(Arc::clone(&sealer), Arc::new(compile));
        let (snapshots, driver) = Snapshots::follow(Arc::clone(&store), options).await.unwrap();
        tokio::spawn(driver);
        let runtime = Arc::new(MemoryRuntime::new(Arc::new(Silent)));
        let entries = Resources::new(Arc::clone(&store), Arc::clone(&sealer), TenantId::default());
        let users = Resources::new(store, sealer, TenantId::default());
        let retirement = Retirement::new(snapshots.clone(), entries.clone(), through(runtime.clone()));
        tokio::spawn(retirement.forget_after(FORGET).run());
        Self { entries, users, snapshots, runtime }
    }

    async fn save(&self, entry: &Entry) {
        let revision = self.entries.save(&entry.entry_key, entry, When::Any).await.unwrap();
        self.snapshots.wait_for(revision).await;
    }

    async fn delete(&self, id: &str) {
        let delete = Write::Delete { key: self.entries.key(id), when: When::Any };
        self.snapshots.wait_for(self.entries.store().commit(vec![delete]).await.unwrap()).await;
    }

    async fn save_user(&self, id: &str, state: UserState) {
        let user = User {
            name: id.to_owned(),
            email: None::<Email>,
            roles: if id == "owner" { Roles::OWNER } else { Roles::NONE },
            groups: Vec::new(),
            state,
            epoch: 0,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        self.snapshots.wait_for(self.users.save(id, &user, When::Any).await.unwrap()).await;
    }

    /// Starts a server as the deploy layer does, for this person.
    async fn start(&self, server: &str, subject: &str) -> WorkloadId {
        let route = self.snapshots.load().routes.get(server).cloned().unwrap();
        let workload = route.workload(&Subject::local(subject)).unwrap();
        self.runtime.ensure(&workload).await.unwrap();
        workload.id.clone()
    }

    /// Its state once nothing is left to do; `None` when it is forgotten. Time is paused, so that it passes only then.
    async fn state(&self, id: &WorkloadId) -> Option<WorkloadState> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.runtime.observe(id).await.unwrap().map(|seen| seen.state)
    }
}

const RUNNING: Option<WorkloadState> = Some(WorkloadState::Running);
const STOPPED: Option<WorkloadState> = Some(WorkloadState::Stopped);

#[tokio::test(start_paused = true)]
async fn a_server_whose_entry_is_gone_is_stopped_at_once_and_forgotten_later() {
    let world = World::new().await;
    for id in ["gone", "back", "stays"] {
        world.save(&entry(id, "multiUser", "1")).await;
    }
    let [gone, back, stays] =
        [world.start("gone", "ada").await, world.start("back", "ada").await, world.start("stays", "ada").await];
    assert_eq!(world.state(&gone).await, RUNNING);
    world.delete("gone").await;
    world.delete("back").await;
    assert_eq!((world.state(&gone).await, world.state(&back).await), (STOPPED, STOPPED));
    world.save(&entry("back", "multiUser", "1")).await;
    tokio::time::sleep(FORGET - Duration::from_secs(1)).await;
    assert_eq!(world.state(&gone).await, STOPPED);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.state(&gone).await, None);
    assert_eq!((world.state(&back).await, world.state(&stays).await), (STOPPED, RUNNING));
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_entry_has_changed_is_stopped_and_a_bad_entry_changes_nothing() {
    let world = World::new().await;
    world.save(&entry("a", "multiUser", "1")).await;
    let id = world.start("a", "ada").await;
    // As good as it was.
    world.save(&Entry { description: Some("another text".into()), ..entry("a", "multiUser", "1") }).await;
    assert_eq!(world.state(&id).await, RUNNING);
    world.save(&Entry { description: Some("broken".into()), ..entry("a", "multiUser", "2") }).await;
    tokio::time::sleep(2 * FORGET).await;
    assert_eq!(world.state(&id).await, RUNNING);
    world.save(&entry("a", "multiUser", "2")).await;
    assert_eq!(world.state(&id).await, STOPPED);
    world.start("a", "ada").await;
    assert_eq!(world.state(&id).await, RUNNING);
    // What all callers shared is nobody's now.
    world.save(&entry("a", "singleUser", "2")).await;
    assert_eq!(world.state(&id).await, STOPPED);
    tokio::time::sleep(2 * FORGET).await;
    assert_eq!(world.state(&id).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_persons_own_server_goes_with_the_person() {
    let world = World::new().await;
    world.save(&entry("own", "singleUser", "1")).await;
    for user in ["owner", "ada", "eve"] {
        world.save_user(user, UserState::Active).await;
    }
    let (adas, eves) = (world.start("own", "ada").await, world.start("own", "eve").await);
    // Somebody whom the embedding service knows.
    let others = world.start("own", "tom").await;
    world.save_user("ada", UserState::Disabled).await;
    world.save_user("eve", UserState::Deleted).await;
    assert_eq!((world.state(&adas).await, world.state(&eves).await), (STOPPED, STOPPED));
    tokio::time::sleep(2 * FORGET).await;
    assert_eq!((world.state(&adas).await, world.state(&eves).await), (STOPPED, None), "one may be enabled again");
    assert_eq!(world.state(&others).await, RUNNING);
    // One that starts all the same, by a call that was let in before, is stopped as well.
    world.start("own", "ada").await;
    assert_eq!(world.state(&adas).await, STOPPED);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_gone_at_that_moment_is_forgotten() {
    let world = World::new().await;
    world.save(&entry("a", "multiUser", "1")).await;
    let id = world.start("a", "ada").await;
    let retirement = Retirement::new(world.snapshots.clone(), world.entries.clone(), world.runtime.clone());
    // Its entry came back while others were being removed.
    assert!(!retirement.forget(&id).await);
    assert_eq!(world.state(&id).await, RUNNING);
    world.runtime.stop(&id).await.unwrap();
    assert!(!retirement.forget(&id).await, "its files are wanted");
    world.delete("a").await;
    assert!(retirement.forget(&id).await);
    assert_eq!(world.state(&id).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_nobody_here_can_compile_is_not_gone() {
    let world = World::new().await;
    world.save(&entry("a", "multiUser", "1")).await;
    let workload = world.snapshots.load().routes["a"].workload(&Subject::local("ada")).unwrap();
    world.save(&Entry { description: Some("broken".into()), ..entry("b", "multiUser", "1") }).await;
    // As a replica of another version has started it.
    let workload = Arc::new(Workload { id: WorkloadId("b".into()), server: "b".into(), ..(*workload).clone() });
    world.runtime.ensure(&workload).await.unwrap();
    tokio::time::sleep(2 * FORGET).await;
    assert_eq!(world.state(&workload.id).await, STOPPED);
    world.delete("b").await;
    tokio::time::sleep(2 * FORGET).await;
    assert_eq!(world.state(&workload.id).await, None);
}

/// A runtime that does not stop `b-refuses`, takes for ever to remove `a-stuck`, and fails at first to remove `c-fails`,
/// of which it then knows no more.
struct Stubborn {
    inner: Arc<MemoryRuntime>,
    removals: AtomicUsize,
}

fn failure() -> RuntimeError {
    RuntimeError { kind: RuntimeErrorKind::Unavailable, public: "It does not want to.".to_owned(), detail: None }
}

#[async_trait]
impl Runtime for Stubborn {
    async fn ensure(&self, workload: &Arc<Workload>) -> Result<Deployment, RuntimeError> {
        self.inner.ensure(workload).await
    }

    async fn stop(&self, id: &WorkloadId) -> Result<(), RuntimeError> {
        if &*id.0 == "b-refuses" { Err(failure()) } else { self.inner.stop(id).await }
    }

    async fn update(&self, workload: &Arc<Workload>) -> Result<(), RuntimeError> {
        self.inner.update(workload).await
    }

    async fn remove(&self, id: &WorkloadId) -> Result<bool, RuntimeError> {
        match &*id.0 {
            "a-stuck" => std::future::pending().await,
            "c-fails" if self.removals.fetch_add(1, Ordering::Relaxed) == 0 => {
                self.inner.remove(id).await?;
                Err(failure())
            }
            _ => self.inner.remove(id).await,
        }
    }

    async fn kept(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
        self.inner.kept().await
    }

    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, RuntimeError> {
        self.inner.observe(id).await
    }

    async fn list(&self) -> Result<Vec<Observation>, RuntimeError> {
        self.inner.list().await
    }

    async fn logs(&self, id: &WorkloadId, tail: usize, follow: bool) -> Result<LogStream, RuntimeError> {
        self.inner.logs(id, tail, follow).await
    }

    fn watch(&self) -> RuntimeEventStream {
        self.inner.watch()
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_neither_for_a_removal_nor_for_another_stop() {
    let world = World::over(|inner| Arc::new(Stubborn { inner, removals: AtomicUsize::new(0) })).await;
    for id in ["a-stuck", "b-refuses", "d"] {
        world.save(&entry(id, "multiUser", "1")).await;
        world.start(id, "ada").await;
    }
    world.delete("a-stuck").await;
    tokio::time::sleep(2 * FORGET).await;
    world.delete("b-refuses").await;
    world.delete("d").await;
    let [refuses, other] = ["b-refuses", "d"].map(|id| WorkloadId(id.into()));
    assert_eq!((world.state(&refuses).await, world.state(&other).await), (RUNNING, STOPPED));
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_failed_is_tried_again() {
    let mut stubborn = None;
    let world = World::over(|inner| {
        let runtime = Arc::new(Stubborn { inner, removals: AtomicUsize::new(0) });
        stubborn = Some(runtime.clone());
        runtime
    })
    .await;
    let stubborn = stubborn.unwrap();
    world.save(&entry("c-fails", "multiUser", "1")).await;
    world.start("c-fails", "ada").await;
    world.delete("c-fails").await;
    tokio::time::sleep(FORGET + Duration::from_secs(1)).await;
    assert_eq!(stubborn.removals.load(Ordering::Relaxed), 1);
    tokio::time::sleep(3 * RETRY).await;
    assert_eq!(stubborn.removals.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn left_over_is_what_no_server_can_have() {
    let world = World::new().await;
    world.save_user("ada", UserState::Disabled).await;
    world.save_user("eve", UserState::Deleted).await;
    let shared = Route::hosted("shared");
    let mut own = Route::hosted("own");
    if let RouteTarget::Hosted { placement, .. } = &mut own.target {
        *placement = Placement::PerSubject;
    }
    let routes = [shared, own, Route::remote("remote")].map(|route| (Arc::clone(&route.id), Arc::new(route)));
    let users = Arc::clone(&world.snapshots.load().users);
    let snapshot = Snapshot { routes: Arc::new(routes.into_iter().collect()), users, ..Snapshot::default() };
    let left_over = LeftOver::new(&snapshot, TenantId::default());
    for (id, expected) in [
        ("shared", false),
        ("shared:0f", true),
        ("own", true),
        ("own:0f", false),
        ("remote", true),
        ("gone", true),
        ("gone:0f", true),
    ] {
        assert_eq!(left_over.is(&WorkloadId(id.into())), expected, "{id}");
    }
    for (user, expected) in [("ada", false), ("eve", true), ("tom", false)] {
        let id = Route::workload_id("own", &Subject::local(user));
        assert_eq!(left_over.is(&id), expected, "{user}");
    }
}
