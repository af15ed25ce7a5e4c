//! A [`ResourceStore`] in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;

use crate::contract::{
    Change, Class, Clock, Cursor, Feed, FeedStream, Key, Kind, Page, Query, Record, ResourceStore, Revision,
    StoreError, StoreErrorKind, StoreLimits, When, Write,
};
use crate::record::TenantId;

/// How often a watcher hears that nothing happened.
const BOOKMARK_EVERY: Duration = Duration::from_millis(250);
/// Commits that a watcher takes from the log at a time.
const CHUNK: usize = 256;
/// Expired records that a commit removes beside its own work.
const SWEEP: usize = 64;

/// Keeps records in this process's memory; they end with it.
///
/// One lock guards everything and is held for one operation at a time, never across an await. Clones share the records.
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_core::contract::{Key, Kind, ResourceStore, SystemClock, When, Write};
/// use mcp_gateway_core::memory::MemoryStore;
/// use mcp_gateway_core::record::TenantId;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let store = MemoryStore::new(Arc::new(SystemClock));
/// let key = Key::new(TenantId::default(), Kind::logged("note"), "one");
/// let put = Write::Put { key: key.clone(), value: "hello".into(), index: vec![], ttl: None, when: When::Absent };
/// let revision = store.commit(vec![put]).await.unwrap();
/// assert_eq!(store.get(&[key]).await.unwrap()[0].as_ref().unwrap().revision, revision);
/// # });
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// The bounds of a [`MemoryStore`]'s change log: it forgets a commit that either bound excludes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MemoryStoreOptions {
    /// Commits to remember; 1,000,000 by default.
    pub log_commits: usize,
    /// How long to remember a commit; one hour by default.
    pub log_age: Duration,
}

impl Default for MemoryStoreOptions {
    fn default() -> Self {
        Self { log_commits: 1_000_000, log_age: Duration::from_secs(3600) }
    }
}

impl MemoryStoreOptions {
    /// The same, remembering at most this many commits.
    #[must_use]
    pub fn with_log_commits(mut self, commits: usize) -> Self {
        self.log_commits = commits;
        self
    }

    /// The same, remembering a commit for this long.
    #[must_use]
    pub fn with_log_age(mut self, age: Duration) -> Self {
        self.log_age = age;
        self
    }
}

impl MemoryStore {
    /// An empty store; `clock` decides when records expire.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_options(clock, MemoryStoreOptions::default())
    }

    /// An empty store with other bounds of its change log.
    #[must_use]
    pub fn with_options(clock: Arc<dyn Clock>, options: MemoryStoreOptions) -> Self {
        let shared = Shared { clock, options, state: Mutex::default(), logged: watch::Sender::new(Revision(0)) };
        Self { shared: Arc::new(shared) }
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("revision", &self.shared.lock().revision).finish_non_exhaustive()
    }
}

#[async_trait]
impl ResourceStore for MemoryStore {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        if keys.len() > StoreLimits::PAGE {
            return Err(StoreError::new(StoreErrorKind::TooLarge, "get").because("more than 1,000 keys"));
        }
        let now = self.shared.clock.monotonic();
        let state = self.shared.lock();
        Ok(keys.iter().map(|key| state.live(key, now).map(|held| held.record(key.clone()))).collect())
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        match query.limit {
            0 => return Err(StoreError::new(StoreErrorKind::Invalid, "list").because("a page of no records")),
            1..=StoreLimits::PAGE => {}
            _ => {
                return Err(StoreError::new(StoreErrorKind::TooLarge, "list").because("more than 1,000 records a page"));
            }
        }
        let now = self.shared.clock.monotonic();
        Ok(self.shared.lock().list(query, now))
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        StoreLimits::check(&writes)?;
        let now = self.shared.clock.monotonic();
        let mut state = self.shared.lock();
        let before = state.logged();
        let revision = state.commit(writes, now)?;
        state.trim(&self.shared.options, now);
        let logged = state.logged();
        drop(state);
        if logged > before {
            // Another commit may have overtaken this one on the way here.
            self.shared.logged.send_if_modified(|seen| {
                let newer = logged > *seen;
                *seen = logged.max(*seen);
                newer
            });
        }
        Ok(revision)
    }

    async fn watch(&self, kinds: &[Kind], after: Revision) -> Result<FeedStream, StoreError> {
        if kinds.iter().any(|kind| kind.class == Class::Quiet) {
            return Err(StoreError::new(StoreErrorKind::Invalid, "watch").because("a quiet kind cannot be watched"));
        }
        let mut watcher = Watcher {
            shared: Arc::clone(&self.shared),
            kinds: kinds.iter().map(|kind| kind.name).collect(),
            position: after,
            ready: VecDeque::new(),
            wake: self.shared.logged.subscribe(),
            bookmark_at: tokio::time::Instant::now(),
        };
        watcher.fill()?;
        Ok(Box::pin(stream::unfold(Some(watcher), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(feed) => Some((Ok(feed), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }
}

struct Shared {
    clock: Arc<dyn Clock>,
    options: MemoryStoreOptions,
    state: Mutex<State>,
    /// The last revision in the log, for watchers to wait on.
    logged: watch::Sender<Revision>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics between the first and the last change of a batch.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A record's place within its kind; the order of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    tenant: TenantId,
    id: Box<str>,
}

impl Place {
    fn of(key: &Key) -> Self {
        Self { tenant: key.tenant.clone(), id: key.id.clone() }
    }
}

struct Held {
    revision: Revision,
    value: Bytes,
    terms: Vec<(&'static str, Box<str>)>,
    expires: Option<Instant>,
}

impl Held {
    fn record(&self, key: Key) -> Record {
        Record { key, revision: self.revision, value: self.value.clone() }
    }

    fn live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|at| now < at)
    }
}

/// A commit, reduced to logged kinds.
struct Logged {
    revision: Revision,
    at: Instant,
    changes: Vec<Change>,
}

/// The places under one value of one index.
type Terms = BTreeMap<(&'static str, Box<str>), BTreeSet<Place>>;

#[derive(Default)]
struct Table {
    records: BTreeMap<Place, Held>,
    terms: Terms,
}

#[derive(Default)]
struct State {
    revision: Revision,
    tables: HashMap<&'static str, Table>,
    /// Soonest first.
    expiries: BTreeSet<(Instant, &'static str, Place)>,
    log: VecDeque<Arc<Logged>>,
    /// The log holds everything after this.
    compacted: Revision,
}

impl State {
    /// The last revision that concerns watchers.
    fn logged(&self) -> Revision {
        self.log.back().map_or(self.compacted, |last| last.revision)
    }

    fn live(&self, key: &Key, now: Instant) -> Option<&Held> {
        let held = self.tables.get(key.kind.name)?.records.get(&Place::of(key))?;
        held.live(now).then_some(held)
    }

    fn list(&self, query: &Query, now: Instant) -> Page {
        let mut page = Page { records: Vec::new(), as_of: self.revision, next: None };
        let Some(table) = self.tables.get(query.kind.name) else { return page };
        let start = match (&query.after, &query.tenant) {
            (Some(after), tenant) if tenant.as_ref().is_none_or(|tenant| after.tenant >= *tenant) => {
                Bound::Excluded(Place { tenant: after.tenant.clone(), id: after.id.clone() })
            }
            (_, Some(tenant)) => Bound::Included(Place { tenant: tenant.clone(), id: "".into() }),
            (_, None) => Bound::Unbounded,
        };
        let range = (start, Bound::Unbounded);
        let mut take = |place: &Place, held: &Held| {
            if query.tenant.as_ref().is_some_and(|tenant| place.tenant != *tenant) {
                return false;
            }
            if held.live(now) {
                if page.records.len() == query.limit {
                    page.next = page
                        .records
                        .last()
                        .map(|last| Cursor { tenant: last.key.tenant.clone(), id: last.key.id.clone() });
                    return false;
                }
                page.records.push(held.record(Key::new(place.tenant.clone(), query.kind, place.id.clone())));
            }
            true
        };
        if let Some(term) = &query.term {
            let Some(places) = table.terms.get(&(term.name, term.value.clone())) else { return page };
            for place in places.range(range) {
                if let Some(held) = table.records.get(place)
                    && !take(place, held)
                {
                    break;
                }
            }
        } else {
            for (place, held) in table.records.range(range) {
                if !take(place, held) {
                    break;
                }
            }
        }
        page
    }

    fn commit(&mut self, writes: Vec<Write>, now: Instant) -> Result<Revision, StoreError> {
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
            match write {
                Write::Put { key, value, index, ttl, .. } => {
                    self.remove(key.kind.name, &Place::of(&key));
                    let held = Held {
                        revision: self.revision,
                        value: value.clone(),
                        terms: index.into_iter().map(|term| (term.name, term.value)).collect(),
                        // A time beyond what the clock can count is never.
                        expires: ttl.and_then(|ttl| now.checked_add(ttl)),
                    };
                    self.insert(key.kind.name, Place::of(&key), held);
                    if key.kind.class == Class::Logged {
                        changes.push(Change { key, value: Some(value) });
                    }
                }
                Write::Delete { key, .. } => {
                    let removed = self.remove(key.kind.name, &Place::of(&key));
                    if removed.is_some_and(|held| held.live(now)) && key.kind.class == Class::Logged {
                        changes.push(Change { key, value: None });
                    }
                }
                Write::Check { .. } => {}
            }
        }
        if !changes.is_empty() {
            self.log.push_back(Arc::new(Logged { revision: self.revision, at: now, changes }));
        }
        self.sweep(now);
        Ok(self.revision)
    }

    fn insert(&mut self, kind: &'static str, place: Place, held: Held) {
        if let Some(at) = held.expires {
            self.expiries.insert((at, kind, place.clone()));
        }
        let table = self.tables.entry(kind).or_default();
        for term in &held.terms {
            table.terms.entry(term.clone()).or_default().insert(place.clone());
        }
        table.records.insert(place, held);
    }

    fn remove(&mut self, kind: &'static str, place: &Place) -> Option<Held> {
        let table = self.tables.get_mut(kind)?;
        let held = table.records.remove(place)?;
        for term in &held.terms {
            if let Some(places) = table.terms.get_mut(term) {
                places.remove(place);
                if places.is_empty() {
                    table.terms.remove(term);
                }
            }
        }
        if let Some(at) = held.expires {
            self.expiries.remove(&(at, kind, place.clone()));
        }
        Some(held)
    }

    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP {
            match self.expiries.first() {
                Some((at, ..)) if *at <= now => {}
                _ => return,
            }
            if let Some((_, kind, place)) = self.expiries.pop_first() {
                self.remove(kind, &place);
            }
        }
    }

    fn trim(&mut self, options: &MemoryStoreOptions, now: Instant) {
        while let Some(first) = self.log.front() {
            if self.log.len() <= options.log_commits && now.saturating_duration_since(first.at) <= options.log_age {
                return;
            }
            self.compacted = first.revision;
            self.log.pop_front();
        }
    }
}

/// One consumer of the feed. Everything it needs is in here: dropping it ends the watch.
struct Watcher {
    shared: Arc<Shared>,
    kinds: Vec<&'static str>,
    /// Everything up to here is in `ready` or was handed out.
    position: Revision,
    ready: VecDeque<Feed>,
    wake: watch::Receiver<Revision>,
    bookmark_at: tokio::time::Instant,
}

impl Watcher {
    async fn next(&mut self) -> Result<Feed, StoreError> {
        loop {
            if self.ready.is_empty() {
                self.fill()?;
            }
            if let Some(feed) = self.ready.pop_front() {
                return Ok(feed);
            }
            if tokio::time::Instant::now() >= self.bookmark_at {
                self.bookmark_at = tokio::time::Instant::now() + BOOKMARK_EVERY;
                return Ok(Feed::Bookmark(self.position));
            }
            tokio::select! {
                // The sender lives in `shared`.
                _ = self.wake.changed() => {}
                () = tokio::time::sleep_until(self.bookmark_at) => {}
            }
        }
    }

    /// Takes what the log has, and moves on to where the log is read to.
    fn fill(&mut self) -> Result<(), StoreError> {
        self.wake.mark_unchanged();
        let (chunk, revision) = {
            let state = self.shared.lock();
            if self.position < state.compacted || self.position > state.revision {
                return Err(StoreError::new(StoreErrorKind::Compacted, "watch"));
            }
            let start = state.log.partition_point(|logged| logged.revision <= self.position);
            let chunk: Vec<_> = state.log.range(start..).take(CHUNK).map(Arc::clone).collect();
            let revision = match chunk.last() {
                Some(last) if start + chunk.len() < state.log.len() => last.revision,
                _ => state.revision,
            };
            (chunk, revision)
        };
        for logged in chunk {
            let changes: Vec<_> =
                logged.changes.iter().filter(|change| self.kinds.contains(&change.key.kind.name)).cloned().collect();
            if !changes.is_empty() {
                self.ready.push_back(Feed::Commit { revision: logged.revision, changes });
            }
        }
        self.position = revision;
        // Under a steady flow of commits there would be no bookmark otherwise.
        if !self.ready.is_empty() && tokio::time::Instant::now() >= self.bookmark_at {
            self.bookmark_at = tokio::time::Instant::now() + BOOKMARK_EVERY;
            self.ready.push_back(Feed::Bookmark(self.position));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::ManualClock;
    use crate::conformance::resource_store::{Bench, Setup};

    async fn bench(setup: Setup) -> Bench {
        let clock = Arc::new(ManualClock::default());
        let mut options = MemoryStoreOptions::default();
        if let Some(commits) = setup.log_commits {
            options = options.with_log_commits(commits);
        }
        Bench::new(Arc::new(MemoryStore::with_options(clock.clone(), options)), clock)
    }

    crate::resource_store_suite!(bench);

    fn put(id: &str, ttl: Option<Duration>) -> Vec<Write> {
        let key = Key::new(TenantId::default(), Kind::logged("thing"), id);
        vec![Write::Put { key, value: "x".into(), index: Vec::new(), ttl, when: When::Any }]
    }

    #[tokio::test]
    async fn the_log_forgets_by_age() {
        let clock = Arc::new(ManualClock::default());
        let options = MemoryStoreOptions::default().with_log_age(Duration::from_secs(60));
        let store = MemoryStore::with_options(clock.clone(), options);
        store.commit(put("a", None)).await.unwrap();
        clock.advance(Duration::from_secs(60));
        store.commit(put("b", None)).await.unwrap();
        assert!(store.watch(&[Kind::logged("thing")], Revision(0)).await.is_ok());
        clock.advance(Duration::from_secs(1));
        store.commit(put("c", None)).await.unwrap();
        let error = store.watch(&[Kind::logged("thing")], Revision(0)).await.err().unwrap();
        assert_eq!(error.kind(), StoreErrorKind::Compacted);
        assert!(store.watch(&[Kind::logged("thing")], Revision(1)).await.is_ok());
    }

    #[tokio::test]
    async fn expired_records_free_their_space() {
        let clock = Arc::new(ManualClock::default());
        let store = MemoryStore::new(clock.clone());
        for n in 0..SWEEP {
            store.commit(put(&n.to_string(), Some(Duration::from_secs(1)))).await.unwrap();
        }
        clock.advance(Duration::from_secs(1));
        store.commit(put("last", None)).await.unwrap();
        let state = store.shared.lock();
        assert_eq!(state.tables["thing"].records.len(), 1);
        assert!(state.expiries.is_empty());
    }
}
