//! When keys were used last.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::Map;
use mcp_gateway_core::contract::{Kind, StoreError, StoreLimits, When};
use mcp_gateway_core::record::{Resource, Resources};
use serde::{Deserialize, Serialize};

/// When a key was used last. Its id is the key's.
///
/// A record of its own, and of a quiet kind: on the key's record, each use would change the key's ETag and wake every
/// replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyUse {
    /// Whole seconds; up to a minute behind.
    pub last_used_at: Timestamp,
}

impl Resource for ApiKeyUse {
    const KIND: Kind = Kind::quiet("api-key-use");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

const SHARDS: usize = 16;
/// Never.
const NONE: i64 = i64::MIN;

/// Remembers uses in memory and writes each key's last one at most once a minute.
///
/// A use costs a shared lock of one of 16 shards and a store to an atomic; only the first use of a key in a while locks
/// its shard for itself. Only keys that were accepted come here, so there are never more than there are keys.
pub struct LastUsed {
    uses: Resources<ApiKeyUse>,
    shards: [RwLock<Map<Arc<str>, Use>>; SHARDS],
}

struct Use {
    at: AtomicI64,
    written: AtomicI64,
}

impl LastUsed {
    /// How often uses are written.
    pub const INTERVAL: Duration = Duration::from_secs(60);
    /// How long an unused key is remembered in memory.
    const FORGET_AFTER: i64 = 3_600;

    /// Uses that are kept here.
    #[must_use]
    pub fn new(uses: Resources<ApiKeyUse>) -> Self {
        Self { uses, shards: Default::default() }
    }

    /// Notes that a key was used. Never waits for the store.
    pub fn touch(&self, id: &Arc<str>, now: Timestamp) {
        let now = now.as_second();
        let shard = self.shard(id);
        let known = shard.read().unwrap_or_else(PoisonError::into_inner).get(id).map(|entry| {
            // Written only when it changes, so that busy keys do not fight for the cache line.
            if entry.at.load(Ordering::Relaxed) < now {
                entry.at.fetch_max(now, Ordering::Relaxed);
            }
        });
        if known.is_none() {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let entry = shard.entry(Arc::clone(id)).or_insert_with(|| Use { at: NONE.into(), written: NONE.into() });
            entry.at.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// The last use that this process knows of.
    #[must_use]
    pub fn seen(&self, id: &str) -> Option<Timestamp> {
        let shard = self.shard(id).read().unwrap_or_else(PoisonError::into_inner);
        let at = shard.get(id)?.at.load(Ordering::Relaxed);
        Timestamp::from_second(at).ok()
    }

    /// Writes every use that is not written yet, and forgets keys that were not used for an hour.
    ///
    /// Call it once more before the process ends.
    ///
    /// # Errors
    /// As [`ResourceStore::commit`](mcp_gateway_core::contract::ResourceStore::commit); what is not written stays.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let mut pending = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            pending.extend(shard.iter().filter_map(|(id, entry)| {
                let at = entry.at.load(Ordering::Relaxed);
                (at > entry.written.load(Ordering::Relaxed)).then(|| (Arc::clone(id), at))
            }));
        }
        for batch in pending.chunks(StoreLimits::WRITES) {
            let mut writes = Vec::with_capacity(batch.len());
            for (id, at) in batch {
                let last_used_at = Timestamp::from_second(*at).unwrap_or_default();
                writes.push(self.uses.put(id, &ApiKeyUse { last_used_at }, None, When::Any)?);
            }
            self.uses.store().commit(writes).await?;
            for (id, at) in batch {
                if let Some(entry) = self.shard(id).read().unwrap_or_else(PoisonError::into_inner).get(id) {
                    entry.written.fetch_max(*at, Ordering::Relaxed);
                }
            }
        }
        if let Some(newest) = pending.iter().map(|(_, at)| *at).max() {
            for shard in &self.shards {
                shard.write().unwrap_or_else(PoisonError::into_inner).retain(|_, entry| {
                    let at = entry.at.load(Ordering::Relaxed);
                    at > entry.written.load(Ordering::Relaxed) || at.saturating_add(Self::FORGET_AFTER) > newest
                });
            }
        }
        Ok(())
    }

    /// Writes once each [`INTERVAL`](Self::INTERVAL), for ever; a failure is logged and made good by the next time.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(Self::INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if let Err(error) = self.flush().await {
                tracing::warn!(%error, "when API keys were used cannot be written");
            }
        }
    }

    pub(super) fn uses(&self) -> &Resources<ApiKeyUse> {
        &self.uses
    }

    /// Forgets a key that was revoked.
    pub(super) fn forget(&self, id: &str) {
        self.shard(id).write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn shard(&self, id: &str) -> &RwLock<Map<Arc<str>, Use>> {
        // Ids are random to their last character.
        &self.shards[id.bytes().next_back().map_or(0, usize::from) % SHARDS]
    }
}

impl fmt::Debug for LastUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastUsed").finish_non_exhaustive()
    }
}
