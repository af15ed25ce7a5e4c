//! A resource store of your own: the least that keeps the contract, and its suite shows that it does.
//!
//! ```sh
//! cargo run -p mcp-gateway-examples --bin own_resource_store
//! cargo test -p mcp-gateway-examples --test own_resource_store
//! ```
//!
//! One sorted map and a log of commits behind one lock. Lists are scans, which is fine for some thousand records; a
//! database does the same three things: check every precondition, write the batch, append to the log, in one
//! transaction whose order is the order of revisions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use mcp_gateway_core::contract::{
    Change, Class, Clock, Cursor, Feed, FeedStream, IndexTerm, Key, Kind, Page, Query, Record, ResourceStore, Revision,
    StoreError, StoreErrorKind, StoreLimits, SystemClock, When, Write,
};
use mcp_gateway_core::record::TenantId;
use tokio::sync::watch;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let store = SmallStore::new(Arc::new(SystemClock), 1_000_000);
    let note = Kind::logged("note");
    let mut feed = store.watch(&[note], Revision(0)).await?;
    let key = Key::new(TenantId::default(), note, "greeting");
    store.commit(vec![Write::Put { key, value: "hello".into(), index: vec![], ttl: None, when: When::Absent }]).await?;
    while let Some(item) = feed.next().await {
        if let Feed::Commit { revision, changes } = item? {
            print(&format!("revision {revision}: {changes:?}"));
            break;
        }
    }
    Ok(())
}

/// How often a watcher hears that nothing happened; the contract says at least every 250 ms.
const BOOKMARK_EVERY: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub(crate) struct SmallStore(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    /// Commits that the log remembers.
    log_commits: usize,
    state: Mutex<State>,
    /// The last revision, for watchers to wait on.
    last: watch::Sender<Revision>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    /// Sorted by kind, tenant and id: a list is a walk.
    records: BTreeMap<(&'static str, TenantId, Box<str>), Held>,
    log: VecDeque<(Revision, Vec<Change>)>,
    /// The log holds everything after this.
    compacted: Revision,
}

struct Held {
    key: Key,
    revision: Revision,
    value: Bytes,
    index: Vec<IndexTerm>,
    expires: Option<Instant>,
}

impl SmallStore {
    pub(crate) fn new(clock: Arc<dyn Clock>, log_commits: usize) -> Self {
        let (state, last) = (Mutex::default(), watch::Sender::new(Revision(0)));
        Self(Arc::new(Shared { clock, log_commits, state, last }))
    }
}

#[async_trait]
impl ResourceStore for SmallStore {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        if keys.len() > StoreLimits::PAGE {
            return Err(StoreError::new(StoreErrorKind::TooLarge, "get").because("more than 1,000 keys"));
        }
        let now = self.0.clock.monotonic();
        let state = self.0.lock();
        Ok(keys.iter().map(|key| state.live(key, now).map(Held::record)).collect())
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        match query.limit {
            1..=StoreLimits::PAGE => {}
            0 => return Err(StoreError::new(StoreErrorKind::Invalid, "list").because("a page of no records")),
            _ => return Err(StoreError::new(StoreErrorKind::TooLarge, "list").because("more than 1,000 records")),
        }
        let now = self.0.clock.monotonic();
        let state = self.0.lock();
        let after = query.after.as_ref().map(|cursor| (&cursor.tenant, &*cursor.id));
        let matches = state.records.iter().filter(|((kind, tenant, id), held)| {
            *kind == query.kind.name
                && query.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
                && after.is_none_or(|after| (tenant, &**id) > after)
                && query.term.as_ref().is_none_or(|term| held.index.contains(term))
                && held.live(now)
        });
        // One more than asked for tells whether there is a next page.
        let mut records: Vec<Record> = matches.take(query.limit + 1).map(|(_, held)| held.record()).collect();
        let more = records.len() > query.limit;
        records.truncate(query.limit);
        let last = records.last().filter(|_| more).map(|record| &record.key);
        let next = last.map(|key| Cursor { tenant: key.tenant.clone(), id: key.id.clone() });
        Ok(Page { records, as_of: state.revision, next })
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        StoreLimits::check(&writes)?;
        let now = self.0.clock.monotonic();
        let mut state = self.0.lock();
        let revision = state.commit(writes, now)?;
        while state.log.len() > self.0.log_commits
            && let Some((dropped, _)) = state.log.pop_front()
        {
            state.compacted = dropped;
        }
        // Under the lock, so that watchers hear of revisions in their order.
        self.0.last.send_replace(revision);
        Ok(revision)
    }

    async fn watch(&self, kinds: &[Kind], after: Revision) -> Result<FeedStream, StoreError> {
        if kinds.iter().any(|kind| kind.class == Class::Quiet) {
            return Err(StoreError::new(StoreErrorKind::Invalid, "watch").because("a quiet kind cannot be watched"));
        }
        let watcher = Watcher {
            shared: Arc::clone(&self.0),
            kinds: kinds.iter().map(|kind| kind.name).collect(),
            position: after,
            wake: self.0.last.subscribe(),
            bookmark_at: tokio::time::Instant::now(),
        };
        Ok(Box::pin(stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(feed) => Some((Ok(feed), Some(watcher))),
                // The last item: whoever gets it lists again.
                Err(error) => Some((Err(error), None)),
            }
        })))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|at| now < at)
    }

    fn record(&self) -> Record {
        Record { key: self.key.clone(), revision: self.revision, value: self.value.clone() }
    }
}

fn place(key: &Key) -> (&'static str, TenantId, Box<str>) {
    (key.kind.name, key.tenant.clone(), key.id.clone())
}

impl State {
    fn live(&self, key: &Key, now: Instant) -> Option<&Held> {
        self.records.get(&place(key)).filter(|held| held.live(now))
    }

    fn commit(&mut self, writes: Vec<Write>, now: Instant) -> Result<Revision, StoreError> {
        // All preconditions before the first write: the batch is all or nothing.
        for write in &writes {
            let current = self.live(write.key(), now).map(|held| held.revision);
            let holds = match write.when() {
                When::Any => true,
                When::Absent => current.is_none(),
                When::At(revision) => current == Some(revision),
            };
            if !holds {
                return Err(StoreError::conflicting(write.key().clone(), current));
            }
        }
        if writes.iter().all(|write| matches!(write, Write::Check { .. })) {
            return Ok(self.revision);
        }
        self.revision = Revision(self.revision.0 + 1);
        let mut changes = Vec::new();
        for write in writes {
            let (key, value) = match write {
                Write::Put { key, value, index, ttl, .. } => {
                    // A time beyond what the clock can count is never.
                    let expires = ttl.and_then(|ttl| now.checked_add(ttl));
                    let held = Held { key: key.clone(), revision: self.revision, value: value.clone(), index, expires };
                    self.records.insert(place(&key), held);
                    (key, Some(value))
                }
                Write::Delete { key, .. } => match self.records.remove(&place(&key)) {
                    Some(held) if held.live(now) => (key, None),
                    _ => continue,
                },
                Write::Check { .. } => continue,
            };
            if key.kind.class == Class::Logged {
                changes.push(Change { key, value });
            }
        }
        if !changes.is_empty() {
            self.log.push_back((self.revision, changes));
        }
        self.records.retain(|_, held| held.live(now));
        Ok(self.revision)
    }
}

/// One consumer of the feed; dropping it ends the watch.
struct Watcher {
    shared: Arc<Shared>,
    kinds: Vec<&'static str>,
    /// Everything up to here was handed out.
    position: Revision,
    wake: watch::Receiver<Revision>,
    bookmark_at: tokio::time::Instant,
}

impl Watcher {
    async fn next(&mut self) -> Result<Feed, StoreError> {
        loop {
            self.wake.mark_unchanged();
            // First, so that a steady flow of commits does not hold the bookmarks up.
            if tokio::time::Instant::now() >= self.bookmark_at {
                self.reach(&self.shared.lock())?;
                self.bookmark_at = tokio::time::Instant::now() + BOOKMARK_EVERY;
                return Ok(Feed::Bookmark(self.position));
            }
            if let Some(feed) = self.advance()? {
                return Ok(feed);
            }
            tokio::select! {
                // The sender lives in `shared`.
                _ = self.wake.changed() => {}
                () = tokio::time::sleep_until(self.bookmark_at) => {}
            }
        }
    }

    /// Whether the log still has what comes after this position, and the store ever had the position itself.
    fn reach(&self, state: &State) -> Result<(), StoreError> {
        let reaches = (state.compacted..=state.revision).contains(&self.position);
        if reaches { Ok(()) } else { Err(StoreError::new(StoreErrorKind::Compacted, "watch")) }
    }

    /// Moves on to the next commit that concerns this consumer, or to the end of the log.
    fn advance(&mut self) -> Result<Option<Feed>, StoreError> {
        let state = self.shared.lock();
        self.reach(&state)?;
        let start = state.log.partition_point(|(revision, _)| *revision <= self.position);
        for (revision, changes) in state.log.range(start..) {
            self.position = *revision;
            let wanted: Vec<Change> =
                changes.iter().filter(|change| self.kinds.contains(&change.key.kind.name)).cloned().collect();
            if !wanted.is_empty() {
                return Ok(Some(Feed::Commit { revision: *revision, changes: wanted }));
            }
        }
        self.position = state.revision;
        Ok(None)
    }
}

#[allow(clippy::print_stdout, reason = "an example that talks to the person who started it")]
fn print(text: &str) {
    println!("{text}");
}
