//! Point reads that are too many for the snapshot.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::watch;

use super::Snapshots;
use super::follow::answer;
use crate::contract::{Clock, Feed, FeedStream, Key, Kind, Query, ResourceStore, Revision, StoreError, StoreErrorKind};

/// Between two attempts to reach the store.
const RETRY: Duration = Duration::from_millis(250);
/// A feed that says nothing for so long is asked for again.
const SILENCE: Duration = Duration::from_secs(2);

/// A bounded cache of values that are read from records, filled on a miss and emptied by the feed.
///
/// A fill that was overtaken is not kept: when the feed names the key between the beginning of the read and its end,
/// what was read may be old, and no later change would remove it. Nor is anything kept while the feed is
/// [stale](Snapshots::STALE_AFTER). Absence is cached under the same rules.
///
/// Expiry is no change, so a value with a time to live carries its end in itself. Clones share the cache.
pub struct Cache<V> {
    shared: Arc<Shared<V>>,
}

struct Shared<V> {
    clock: Arc<dyn Clock>,
    state: Mutex<State<V>>,
    applied: watch::Sender<Revision>,
}

struct State<V> {
    half: usize,
    /// Two generations: what is used moves to the young one; when that is full, the old one is forgotten.
    young: HashMap<Key, Option<V>>,
    old: HashMap<Key, Option<V>>,
    /// Reads that are under way: how many of a key, and how often the feed named it meanwhile.
    filling: HashMap<Key, Filling>,
    heard: Instant,
}

#[derive(Default)]
struct Filling {
    readers: usize,
    named: u64,
}

impl<V: Clone + Send + Sync + 'static> Cache<V> {
    /// An empty cache of at most `capacity` records of `kinds` (all of them logged), and the future that keeps it
    /// honest, to be spawned. It ends when every handle is dropped.
    ///
    /// # Errors
    /// Whatever the store's `list` and `watch` fail with.
    pub async fn follow(
        store: Arc<dyn ResourceStore>,
        kinds: Vec<Kind>,
        capacity: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), StoreError> {
        let (position, feed) = watch_from_now(&*store, &kinds).await?;
        let state = State {
            half: (capacity / 2).max(1),
            young: HashMap::new(),
            old: HashMap::new(),
            filling: HashMap::new(),
            heard: clock.monotonic(),
        };
        let (applied, _) = watch::channel(position);
        let shared = Arc::new(Shared { clock, state: Mutex::new(state), applied });
        let driver = drive(Arc::clone(&shared), store, kinds, position, feed);
        Ok((Self { shared }, driver))
    }

    /// The value of a key, read by `read` on a miss. `None` is an answer too: there is no such record.
    ///
    /// Callers of one key that miss at the same time each read. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// Those of `read`; nothing is kept then.
    pub async fn get_or_read<E>(
        &self,
        key: &Key,
        read: impl Future<Output = Result<Option<V>, E>>,
    ) -> Result<Option<V>, E> {
        let fill = {
            let mut state = self.shared.lock();
            if let Some(value) = state.get(key) {
                return Ok(value);
            }
            let filling = state.filling.entry(key.clone()).or_default();
            filling.readers += 1;
            Fill { shared: &self.shared, key, named: filling.named }
        };
        let value = read.await?;
        let mut state = self.shared.lock();
        let fresh = state.filling.get(key).is_some_and(|filling| filling.named == fill.named);
        if fresh && !self.shared.is_stale(&state) {
            state.insert(key.clone(), value.clone());
        }
        drop(state);
        drop(fill);
        Ok(value)
    }

    /// What is held of a key, without a read: `Some(None)` is an absence that is known.
    #[must_use]
    pub fn peek(&self, key: &Key) -> Option<Option<V>> {
        self.shared.lock().get(key)
    }

    /// Whether the store was not heard from for longer than [`Snapshots::STALE_AFTER`]: what is held may be old.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.shared.is_stale(&self.shared.lock())
    }

    /// Waits until everything up to a revision is applied: nothing older is in memory then. For ever when the driver is
    /// gone or the store is away.
    pub async fn wait_for(&self, revision: Revision) {
        // The sender is in `shared`, which `self` keeps.
        let _ = self.shared.applied.subscribe().wait_for(|applied| *applied >= revision).await;
    }

    /// How many records it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        let state = self.shared.lock();
        state.young.len() + state.old.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<V> std::fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

/// A read that is under way; dropping it ends it.
struct Fill<'a, V> {
    shared: &'a Shared<V>,
    key: &'a Key,
    named: u64,
}

impl<V> Drop for Fill<'_, V> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(filling) = state.filling.get_mut(self.key) {
            filling.readers -= 1;
            if filling.readers == 0 {
                state.filling.remove(self.key);
            }
        }
    }
}

impl<V> Shared<V> {
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stale(&self, state: &State<V>) -> bool {
        self.clock.monotonic().saturating_duration_since(state.heard) > Snapshots::STALE_AFTER
    }

    fn hear(&self, feed: Feed) -> Revision {
        let mut state = self.lock();
        state.heard = self.clock.monotonic();
        let revision = match feed {
            Feed::Commit { revision, changes } => {
                for change in changes {
                    state.forget(&change.key);
                }
                revision
            }
            Feed::Bookmark(revision) => revision,
        };
        drop(state);
        self.apply(revision);
        revision
    }

    fn apply(&self, revision: Revision) {
        self.applied.send_if_modified(|applied| {
            let is_later = *applied < revision;
            *applied = revision.max(*applied);
            is_later
        });
    }

    /// Changes may have been missed: nothing that is held or being read is good any more.
    fn forget_all(&self) {
        let mut state = self.lock();
        state.young.clear();
        state.old.clear();
        for filling in state.filling.values_mut() {
            filling.named += 1;
        }
    }
}

impl<V> State<V> {
    fn insert(&mut self, key: Key, value: Option<V>) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn forget(&mut self, key: &Key) {
        self.young.remove(key);
        self.old.remove(key);
        if let Some(filling) = self.filling.get_mut(key) {
            filling.named += 1;
        }
    }
}

impl<V: Clone> State<V> {
    fn get(&mut self, key: &Key) -> Option<Option<V>> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.insert(key.clone(), value.clone());
        Some(value)
    }
}

async fn watch_from_now(store: &dyn ResourceStore, kinds: &[Kind]) -> Result<(Revision, FeedStream), StoreError> {
    let kind = *kinds.first().ok_or_else(|| StoreError::new(StoreErrorKind::Invalid, "watch").because("no kind"))?;
    let position = answer("list", store.list(&Query { limit: 1, ..Query::all(kind) })).await?.as_of;
    Ok((position, answer("watch", store.watch(kinds, position)).await?))
}

async fn drive<V>(
    shared: Arc<Shared<V>>,
    store: Arc<dyn ResourceStore>,
    kinds: Vec<Kind>,
    mut position: Revision,
    mut feed: FeedStream,
) {
    loop {
        let mut compacted = loop {
            if Arc::strong_count(&shared) == 1 {
                return;
            }
            match tokio::time::timeout(SILENCE, feed.next()).await {
                Ok(Some(Ok(item))) => position = position.max(shared.hear(item)),
                Ok(Some(Err(error))) => break error.kind() == StoreErrorKind::Compacted,
                Ok(None) | Err(_) => break false,
            }
        };
        feed = loop {
            if Arc::strong_count(&shared) == 1 {
                return;
            }
            let again = if compacted {
                watch_from_now(&*store, &kinds).await
            } else {
                answer("watch", store.watch(&kinds, position)).await.map(|feed| (position, feed))
            };
            match again {
                Ok((from, feed)) => {
                    if compacted {
                        // Only now: what was read between would have been missed too.
                        shared.forget_all();
                        shared.apply(from);
                        position = from;
                    }
                    break feed;
                }
                Err(error) => {
                    compacted |= error.kind() == StoreErrorKind::Compacted;
                    tracing::warn!(%error, "the feed of a cache failed; asking again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
