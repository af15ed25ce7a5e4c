//! The audit trail in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;
use ulid::Ulid;

use crate::MaybeReady;
use crate::contract::{
    AuditCursor, AuditFilter, AuditFull, AuditPage, AuditRow, AuditSink, AuditStore, ChainRow, Seq, StoreError,
    StoreErrorKind, StoreLimits, StreamId, Unlinked, Usage, UsageRow, UsageWindow,
};
use crate::record::{AuditEvent, EventKind, Outcome};
use crate::trail::{Checkpoint, Link, MARKS};

/// An [`AuditStore`] in memory, which forgets the oldest rows over its limit.
///
/// What it forgets is gone with its links: a verification finds it missing.
#[derive(Debug)]
pub struct MemoryAuditStore {
    limit: usize,
    state: Mutex<Trail>,
}

#[derive(Debug, Default)]
struct Trail {
    rows: BTreeMap<(Timestamp, StreamId, u64), AuditEvent>,
    links: BTreeMap<(StreamId, u64), Link>,
    checkpoints: BTreeMap<(StreamId, u64), Checkpoint>,
}

impl MemoryAuditStore {
    /// Rows that are kept by default.
    pub const LIMIT: usize = 100_000;

    /// An empty store of [`LIMIT`](Self::LIMIT) rows.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(Self::LIMIT)
    }

    /// An empty store that keeps the newest `limit` rows.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }
}

#[cfg(test)]
impl MemoryAuditStore {
    /// Puts these rows in the place of all that are there, as somebody does who writes to the tables by hand. Without
    /// links, those that are there stay.
    pub(crate) fn forge(&self, rows: Vec<AuditRow>, links: &[Link]) {
        let mut trail = lock(&self.state);
        trail.rows = rows.into_iter().map(|row| ((row.event.ts, row.stream, row.seq), row.event)).collect();
        if !links.is_empty() {
            trail.links = links.iter().map(|link| ((link.stream, link.seq), link.clone())).collect();
        }
    }
}

impl Default for MemoryAuditStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl AuditStore for MemoryAuditStore {
    async fn append(&self, batch: Vec<AuditRow>) -> Result<(), StoreError> {
        let mut trail = lock(&self.state);
        for row in batch {
            trail.links.entry((row.stream, row.seq)).or_insert_with(|| Link::of(&row));
            trail.rows.entry((row.event.ts, row.stream, row.seq)).or_insert(row.event);
        }
        while trail.rows.len() > self.limit
            && let Some(((_, stream, seq), _)) = trail.rows.pop_first()
        {
            trail.links.remove(&(stream, seq));
            let next = trail.links.range((stream, 0)..).next().map(|(key, _)| *key);
            let oldest = next.filter(|(of, _)| *of == stream).map_or(u64::MAX, |(_, seq)| seq);
            // The last one before the oldest link stays.
            let before: Vec<_> = trail.checkpoints.range((stream, 0)..(stream, oldest)).map(|(key, _)| *key).collect();
            for key in before.iter().rev().skip(1) {
                trail.checkpoints.remove(key);
            }
        }
        Ok(())
    }

    async fn query(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> Result<AuditPage, StoreError> {
        match limit {
            0 => return Err(StoreError::new(StoreErrorKind::Invalid, "query").because("a page of no rows")),
            1..=StoreLimits::PAGE => {}
            _ => return Err(StoreError::new(StoreErrorKind::TooLarge, "query").because("more than 1,000 rows a page")),
        }
        let rows = &lock(&self.state).rows;
        let newest_first = match after {
            Some(cursor) => rows.range(..(cursor.ts, cursor.stream, cursor.seq)),
            None => rows.range(..),
        };
        let mut found: Vec<AuditRow> = newest_first
            .rev()
            .filter(|(_, event)| matches(filter, event))
            .take(limit + 1)
            .map(|(&(_, stream, seq), event)| AuditRow { stream, seq, event: event.clone() })
            .collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let next =
            found.last().filter(|_| more).map(|row| AuditCursor { ts: row.event.ts, stream: row.stream, seq: row.seq });
        Ok(AuditPage { rows: found, next })
    }

    async fn usage(&self, window: &UsageWindow) -> Result<Usage, StoreError> {
        #[derive(Default)]
        struct Count<'a> {
            calls: u64,
            errors: u64,
            subjects: BTreeSet<&'a crate::record::Subject>,
            total_us: u64,
        }
        let filter = AuditFilter {
            tenant: window.tenant.clone(),
            from: Some(window.from),
            to: Some(window.to),
            server: window.server.clone(),
            ..AuditFilter::default()
        };
        let rows = &lock(&self.state).rows;
        let mut counts: BTreeMap<(&str, &str, Option<&str>), Count<'_>> = BTreeMap::new();
        for event in rows.values().filter(|event| event.kind == EventKind::Exchange && matches(&filter, event)) {
            let (Some(server), Some(method)) = (event.server.as_deref(), event.method.as_deref()) else { continue };
            let count = counts.entry((server, method, event.target.as_deref())).or_default();
            count.calls += 1;
            count.errors += u64::from(event.outcome != Outcome::Ok);
            count.subjects.extend(event.actor.as_ref().map(|actor| &actor.subject));
            count.total_us = count.total_us.saturating_add(event.total_us);
        }
        let rows = counts.into_iter().map(|((server, method, target), count)| UsageRow {
            server: server.to_owned(),
            method: method.to_owned(),
            target: target.map(str::to_owned),
            calls: count.calls,
            errors: count.errors,
            subjects: count.subjects.len() as u64,
            mean: Duration::from_micros(count.total_us / count.calls.max(1)),
        });
        Ok(Usage { rows: rows.collect() })
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut trail = lock(&self.state);
        let kept = trail.rows.split_off(&(before, StreamId(Ulid::nil()), 0));
        let pruned = std::mem::replace(&mut trail.rows, kept).len() as u64;
        let mut anchors: BTreeMap<StreamId, u64> = BTreeMap::new();
        for checkpoint in trail.checkpoints.values() {
            if checkpoint.newest < before || checkpoint.stream == MARKS {
                // In the order of their numbers: the last one stays.
                anchors.insert(checkpoint.stream, checkpoint.seq);
            }
        }
        let anchor = |stream: &StreamId| anchors.get(stream).copied().unwrap_or(0);
        trail.links.retain(|(stream, seq), _| *seq > anchor(stream));
        trail.checkpoints.retain(|(stream, seq), _| *seq >= anchor(stream) || (*stream, *seq) == (MARKS, 0));
        Ok(pruned)
    }

    async fn chain(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<ChainRow>, StoreError> {
        let trail = lock(&self.state);
        let found = trail.links.range((after.map_or(Unbounded, Excluded), Unbounded)).take(limit);
        let row = |(_, link): (&_, &Link)| {
            let event = trail.rows.get(&(link.ts, link.stream, link.seq)).cloned();
            ChainRow { link: link.clone(), event, unreadable: false }
        };
        Ok(found.map(row).collect())
    }

    async fn unlinked(&self) -> Result<Vec<Unlinked>, StoreError> {
        let trail = lock(&self.state);
        let mut found: BTreeMap<StreamId, Unlinked> = BTreeMap::new();
        for &(ts, stream, seq) in trail.rows.keys() {
            if trail.links.get(&(stream, seq)).is_none_or(|link| link.ts != ts) {
                let of_stream = found.entry(stream).or_insert(Unlinked { stream, rows: 0, seq, ts, newest: ts });
                of_stream.rows += 1;
                of_stream.newest = of_stream.newest.max(ts);
                if seq < of_stream.seq {
                    (of_stream.seq, of_stream.ts) = (seq, ts);
                }
            }
        }
        Ok(found.into_values().collect())
    }

    async fn checkpoints(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<Checkpoint>, StoreError> {
        let trail = lock(&self.state);
        let found = trail.checkpoints.range((after.map_or(Unbounded, Excluded), Unbounded));
        Ok(found.take(limit).map(|(_, checkpoint)| checkpoint.clone()).collect())
    }

    async fn put_chain(&self, links: Vec<Link>, checkpoints: Vec<Checkpoint>) -> Result<(), StoreError> {
        let mut trail = lock(&self.state);
        for link in links {
            trail.links.entry((link.stream, link.seq)).or_insert(link);
        }
        for checkpoint in checkpoints {
            let key = (checkpoint.stream, checkpoint.seq);
            if checkpoint.stream != MARKS || !trail.checkpoints.contains_key(&key) {
                trail.checkpoints.insert(key, checkpoint);
            }
        }
        Ok(())
    }
}

/// Whether an event matches every field of the filter that is set.
fn matches(filter: &AuditFilter, event: &AuditEvent) -> bool {
    fn same<T: PartialEq + ?Sized>(wanted: Option<&T>, found: Option<&T>) -> bool {
        wanted.is_none_or(|wanted| found == Some(wanted))
    }
    let actor = event.actor.as_ref();
    filter.from.is_none_or(|from| event.ts >= from)
        && filter.to.is_none_or(|to| event.ts < to)
        && same(filter.category.as_ref(), Some(&event.category))
        && same(filter.outcome.as_ref(), Some(&event.outcome))
        && same(filter.tenant.as_ref(), actor.map(|actor| &actor.subject.tenant))
        && same(filter.subject.as_deref(), actor.map(|actor| &*actor.subject.id))
        && same(filter.actor.as_deref(), actor.map(|actor| &*actor.id))
        && same(filter.server.as_deref(), event.server.as_deref())
        && same(filter.method.as_deref(), event.method.as_deref())
        && same(filter.target.as_deref(), event.target.as_deref())
        && same(filter.trace_id.as_deref(), event.trace_id.as_deref())
        && filter.request_id.as_deref().is_none_or(|id| Ulid::from_string(id).is_ok_and(|id| id == event.request_id))
}

/// An [`AuditSink`] into a bounded vector.
///
/// For tests, which look at [`events`](Self::events) and can make it full or slow, and for embedders who keep no
/// trail or want to take the events out by [`take`](Self::take). With [`with_store`](Self::with_store), a flush hands
/// finished rows to an [`AuditStore`].
///
/// ```
/// use jiff::Timestamp;
/// use mcp_gateway_core::contract::{AuditFull, AuditSink};
/// use mcp_gateway_core::memory::MemoryAuditSink;
/// use mcp_gateway_core::record::{AuditEvent, Category, EventKind};
/// use ulid::Ulid;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let sink = MemoryAuditSink::new(1);
/// let event = AuditEvent::new(Timestamp::UNIX_EPOCH, Ulid::nil(), Category::Mcp, EventKind::Exchange);
/// assert!(sink.record(event.clone()).await.is_ok());
/// assert_eq!(sink.record(event).await, Err(AuditFull::Space));
/// # });
/// ```
#[derive(Debug)]
pub struct MemoryAuditSink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    stream: StreamId,
    store: Option<StoreSlot>,
    state: Mutex<State>,
    stalled: watch::Sender<bool>,
    flushing: tokio::sync::Mutex<()>,
}

struct StoreSlot(Arc<dyn AuditStore>);

impl std::fmt::Debug for StoreSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditStore")
    }
}

#[derive(Debug, Default)]
struct State {
    events: Vec<AuditEvent>,
    refuse: Option<AuditFull>,
    last_seq: u64,
    /// How many events were taken out, ever, and how many the store has seen (or were taken before it could).
    taken: usize,
    stored: usize,
    /// The number of the last row that the store has seen.
    last_row: u64,
    /// Intents among the stored events that have no end yet.
    open: BTreeMap<Ulid, AuditEvent>,
}

impl MemoryAuditSink {
    /// A sink of at most `limit` events.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self::build(limit, None)
    }

    /// A sink of at most `limit` events, which a flush hands to `store`.
    #[must_use]
    pub fn with_store(limit: usize, store: Arc<dyn AuditStore>) -> Self {
        Self::build(limit, Some(StoreSlot(store)))
    }

    fn build(limit: usize, store: Option<StoreSlot>) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit,
                stream: StreamId(Ulid::generate()),
                store,
                state: Mutex::default(),
                stalled: watch::Sender::new(false),
                flushing: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Everything recorded and not taken, intents included, in order.
    #[must_use]
    pub fn events(&self) -> Vec<AuditEvent> {
        lock(&self.shared.state).events.clone()
    }

    /// Takes out everything recorded, which makes room for as much again. What no flush has handed to the store by
    /// then never gets there.
    #[must_use]
    pub fn take(&self) -> Vec<AuditEvent> {
        let mut state = lock(&self.shared.state);
        state.taken += state.events.len();
        state.stored = state.stored.max(state.taken);
        std::mem::take(&mut state.events)
    }

    /// From now on answers every event with this refusal; `None` ends it.
    pub fn refuse(&self, with: Option<AuditFull>) {
        lock(&self.shared.state).refuse = with;
    }

    /// From now on makes every `record` wait; `false` lets all of them go on.
    pub fn stall(&self, on: bool) {
        self.shared.stalled.send_replace(on);
    }
}

#[async_trait]
impl AuditSink for MemoryAuditSink {
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>> {
        if !*self.shared.stalled.borrow() {
            return MaybeReady::Ready(self.shared.push(event));
        }
        let shared = Arc::clone(&self.shared);
        let mut stalled = shared.stalled.subscribe();
        MaybeReady::wait(async move {
            // The sender lives in `shared`, which this future holds.
            let _ = stalled.wait_for(|stalled| !stalled).await;
            shared.push(event)
        })
    }

    async fn flush(&self) {
        self.shared.flush().await;
    }
}

impl Shared {
    fn push(&self, event: AuditEvent) -> Result<Seq, AuditFull> {
        let mut state = lock(&self.state);
        if let Some(refusal) = state.refuse {
            return Err(refusal);
        }
        if state.events.len() >= self.limit {
            return Err(AuditFull::Space);
        }
        state.events.push(event);
        state.last_seq += 1;
        Ok(Seq(state.last_seq))
    }

    async fn flush(&self) {
        let Some(StoreSlot(store)) = &self.store else { return };
        let _one_at_a_time = self.flushing.lock().await;
        let (batch, upto) = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let mut open = state.open.clone();
            let mut row = state.last_row;
            let mut batch = Vec::new();
            for event in state.events.iter().skip(state.stored - state.taken) {
                let mut event = event.clone();
                if event.kind == EventKind::Intent {
                    open.insert(event.request_id, event);
                    continue;
                }
                if event.kind.ends_intent()
                    && let Some(intent) = open.remove(&event.request_id)
                {
                    event.absorb_intent(&intent);
                }
                row += 1;
                batch.push(AuditRow { stream: self.stream, seq: row, event });
            }
            (batch, (state.taken + state.events.len(), row, open))
        };
        if store.append(batch).await.is_ok() {
            let mut state = lock(&self.state);
            state.stored = state.stored.max(upto.0);
            (state.last_row, state.open) = (upto.1, upto.2);
        }
    }
}

/// A panic while the lock was held leaves nothing half done: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
