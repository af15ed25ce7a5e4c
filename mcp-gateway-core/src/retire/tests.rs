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
        let retirement = Retirement::new(snapshots.clone(), entries.clone(), runtime.clone()).forget_after(FORGET);
        tokio::spawn(retirement.run());
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
    world.save_user("ada", UserState::Disabled).await;
    let delete = Write::Delete { key: world.users.key("eve"), when: When::Any };
    world.snapshots.wait_for(world.users.store().commit(vec![delete]).await.unwrap()).await;
    assert_eq!((world.state(&adas).await, world.state(&eves).await), (STOPPED, STOPPED));
    tokio::time::sleep(2 * FORGET).await;
    assert_eq!((world.state(&adas).await, world.state(&eves).await), (STOPPED, None), "one may be enabled again");
    // One that starts all the same, by a call that was let in before, is stopped as well.
    world.start("own", "ada").await;
    assert_eq!(world.state(&adas).await, STOPPED);
}

#[test]
fn left_over_is_what_no_server_can_have() {
    use crate::record::Route;
    let shared = Route::hosted("shared");
    let mut own = Route::hosted("own");
    if let RouteTarget::Hosted { placement, .. } = &mut own.target {
        *placement = Placement::PerSubject;
    }
    let routes = [shared, own, Route::remote("remote")].map(|route| (Arc::clone(&route.id), Arc::new(route)));
    let snapshot = Snapshot { routes: Arc::new(routes.into_iter().collect()), ..Snapshot::default() };
    for (id, left_over) in [
        ("shared", false),
        ("shared:0f", true),
        ("own", true),
        ("own:0f", false),
        ("remote", true),
        ("gone", true),
        ("gone:0f", true),
    ] {
        assert_eq!(is_left_over(&snapshot, &WorkloadId(id.into())), left_over, "{id}");
    }
}
