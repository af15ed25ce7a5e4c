//! Bringing the store in line with a source.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::compile;
use crate::contract::{
    CatalogError, CatalogSource, EntryError, Fetched, IndexTerm, StoreError, StoreErrorKind, StoreLimits, When, Write,
};
use crate::record::{Entry, EntryOrigin, Mount, Resources, Stored};

/// Rounds that are tried when others write the same entries at the same time.
const ATTEMPTS: usize = 5;

/// Writes what a source holds into the store: only what changed, each write against the revision that was read.
///
/// An entry is removed only when its source was read and no longer has it. One that became bad (it cannot be read or
/// [compiled](compile())) stays as it was; and while something in the source is so broken that nobody can say which
/// entries it held, nothing is removed at all. An id that another source or the admin API holds is left to it.
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_core::catalog::{StarterSource, Sync};
/// use mcp_gateway_core::contract::SystemClock;
/// use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
/// use mcp_gateway_core::record::{Mount, Resources, TenantId};
/// use mcp_gateway_core::seal::Sealer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let clock = Arc::new(SystemClock);
/// let store = Arc::new(MemoryStore::new(clock.clone()));
/// let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock).await.unwrap();
/// let entries = Resources::new(store, sealer, TenantId::default());
/// let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
///
/// let mut sync = Sync::new(Arc::new(StarterSource), entries, mount);
/// let report = sync.run_once().await.unwrap().unwrap();
/// assert_eq!(report.added, ["everything", "memory", "time"]);
/// assert!(sync.run_once().await.unwrap().is_none(), "nothing has changed since");
/// # });
/// ```
pub struct Sync {
    source: Arc<dyn CatalogSource>,
    entries: Resources<Entry>,
    mount: Mount,
    fence: Option<Write>,
    version: Option<String>,
}

/// What one synchronisation did. Ids in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Entries that are new.
    pub added: Vec<String>,
    /// Entries that were replaced.
    pub changed: Vec<String>,
    /// Entries that were removed.
    pub removed: Vec<String>,
    /// Entries that are missing or bad in the source and go on being served as they were.
    pub kept: Vec<String>,
    /// What is wrong in the source.
    pub errors: Vec<EntryError>,
}

/// Nothing, or only a part, was written; the next run tries again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] CatalogError),
    /// The store failed.
    #[error("the catalog cannot be written")]
    Store(#[from] StoreError),
}

impl Sync {
    /// A synchronisation of this source into these entries. The mount is what entries are compiled for.
    pub fn new(source: Arc<dyn CatalogSource>, entries: Resources<Entry>, mount: Mount) -> Self {
        Self { source, entries, mount, fence: None, version: None }
    }

    /// The same, where each batch carries this check: the [fence](crate::lease::Term::fence) of who synchronises.
    #[must_use]
    pub fn fenced(mut self, fence: Option<Write>) -> Self {
        self.fence = fence;
        self
    }

    /// Reads the source and writes what changed; `None` when the source has not changed since the last time.
    ///
    /// Dropping the future leaves a part of the batches written; the next run writes the rest.
    ///
    /// # Errors
    /// [`SyncError`]; the source will be read again.
    pub async fn run_once(&mut self) -> Result<Option<SyncReport>, SyncError> {
        let Fetched::Snapshot { version, entries } = self.source.fetch(self.version.as_deref()).await? else {
            return Ok(None);
        };
        let mut wanted = BTreeMap::new();
        let mut errors = Vec::new();
        for entry in entries {
            match entry.and_then(|entry| self.accept(entry)) {
                Ok(entry) => {
                    wanted.insert(entry.entry_key.clone(), entry);
                }
                Err(error) => errors.push(error),
            }
        }
        let mut attempt = 1;
        let mut report = SyncReport::default();
        loop {
            match self.write(&wanted, &errors, &mut report).await {
                Ok(()) => break,
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
        for ids in [&mut report.added, &mut report.changed, &mut report.removed] {
            ids.sort();
        }
        self.version = Some(version);
        Ok(Some(report))
    }

    /// Runs for ever, once each `interval`, and tells `observe` about every change and every new failure.
    ///
    /// Dropping the future ends it.
    pub async fn run(mut self, interval: Duration, mut observe: impl FnMut(Result<&SyncReport, &SyncError>) + Send) {
        let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = None;
        loop {
            ticks.tick().await;
            match self.run_once().await {
                Ok(Some(report)) => {
                    failing = None;
                    observe(Ok(&report));
                }
                Ok(None) => failing = None,
                Err(error) => {
                    // A failure that lasts is one failure, not one each interval.
                    let text = error.to_string();
                    if failing.as_ref() != Some(&text) {
                        observe(Err(&error));
                        failing = Some(text);
                    }
                }
            }
        }
    }

    /// Marks where an entry comes from and checks that it can be served.
    fn accept(&self, mut entry: Entry) -> Result<Entry, EntryError> {
        let name = self.source.name();
        if entry.origin.as_ref().and_then(EntryOrigin::source) != Some(name) {
            entry.origin = Some(EntryOrigin::Source { source: name.to_owned() });
        }
        compile(&entry, &self.mount)?;
        Ok(entry)
    }

    async fn write(
        &self,
        wanted: &BTreeMap<String, Entry>,
        errors: &[EntryError],
        report: &mut SyncReport,
    ) -> Result<(), StoreError> {
        report.errors = errors.to_vec();
        report.kept.clear();
        let name = self.source.name();
        let mut held = by_source(&self.entries, name).await?;
        // Ids that are new to this source may belong to somebody else.
        let strange: Vec<&str> = wanted.keys().filter(|id| !held.contains_key(*id)).map(String::as_str).collect();
        let mut taken = BTreeSet::new();
        for ids in strange.chunks(StoreLimits::PAGE) {
            for entry in self.entries.get_many(ids.iter().copied()).await?.into_iter().flatten() {
                if entry.value.origin.as_ref().and_then(EntryOrigin::source) == Some(name) {
                    held.insert(entry.id.to_string(), entry);
                } else {
                    taken.insert(entry.id.to_string());
                }
            }
        }

        let mut batch = Batch::new(self.fence.clone());
        for (id, entry) in wanted {
            let old = held.get(id);
            if taken.contains(id) {
                report.errors.push(self.refused(entry, "is already the id of an entry of another source"));
            } else if old.is_none_or(|old| old.value != *entry) {
                let when = old.map_or(When::Absent, |old| When::At(old.revision));
                let write = self.entries.put(id, entry, None, when)?;
                if size(&write) > StoreLimits::RECORD {
                    report.errors.push(self.refused(entry, "is an entry that is too large to be kept"));
                    continue;
                }
                let done = if old.is_some() { Done::Changed } else { Done::Added };
                batch.push(&self.entries, write, (done, id.clone()), report).await?;
            }
        }
        let bad: BTreeSet<&str> = errors.iter().filter_map(|error| error.id.as_deref()).collect();
        let blind = errors.iter().any(|error| error.id.is_none());
        for (id, old) in held.iter().filter(|(id, _)| !wanted.contains_key(*id)) {
            if blind || bad.contains(id.as_str()) {
                report.kept.push(id.clone());
                continue;
            }
            let write = Write::Delete { key: self.entries.key(id), when: When::At(old.revision) };
            batch.push(&self.entries, write, (Done::Removed, id.clone()), report).await?;
        }
        batch.flush(&self.entries, report).await
    }

    fn refused(&self, entry: &Entry, problem: &str) -> EntryError {
        let place = match &entry.origin {
            Some(EntryOrigin::File { path, .. }) => path.display().to_string(),
            _ => format!("source {}", self.source.name()),
        };
        let id = entry.entry_key.clone();
        EntryError { place, field: Some("entryKey".into()), problem: format!("\"{id}\" {problem}"), id: Some(id) }
    }
}

impl std::fmt::Debug for Sync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sync").field("source", &self.source.name()).finish_non_exhaustive()
    }
}

/// Removes the entries of every source that is not named: those of a source that was taken out of the configuration.
///
/// Entries without a source, made through the admin API, stay. Each batch carries the fence, if there is one. Returns the
/// ids that were removed.
///
/// # Errors
/// As [`ResourceStore::commit`](crate::contract::ResourceStore::commit).
pub async fn retain_sources(
    entries: &Resources<Entry>,
    sources: &[&str],
    fence: Option<Write>,
) -> Result<Vec<String>, StoreError> {
    let mut report = SyncReport::default();
    let mut batch = Batch::new(fence);
    let mut after = None;
    loop {
        let (page, next) = entries.list(None, after.as_deref(), StoreLimits::PAGE).await?;
        for entry in page {
            let gone =
                entry.value.origin.as_ref().and_then(EntryOrigin::source).is_some_and(|name| !sources.contains(&name));
            if gone {
                let write = Write::Delete { key: entries.key(&entry.id), when: When::At(entry.revision) };
                batch.push(entries, write, (Done::Removed, entry.id.into()), &mut report).await?;
            }
        }
        after = next;
        if after.is_none() {
            break;
        }
    }
    batch.flush(entries, &mut report).await?;
    Ok(report.removed)
}

async fn by_source(entries: &Resources<Entry>, name: &str) -> Result<BTreeMap<String, Stored<Entry>>, StoreError> {
    let mut held = BTreeMap::new();
    let mut after = None;
    loop {
        let term = IndexTerm { name: Entry::BY_SOURCE, value: name.into() };
        let (page, next) = entries.list(Some(term), after.as_deref(), StoreLimits::PAGE).await?;
        held.extend(page.into_iter().map(|entry| (entry.id.to_string(), entry)));
        after = next;
        if after.is_none() {
            return Ok(held);
        }
    }
}

/// Writes that wait for their commit, within the bounds of a batch.
struct Batch {
    fence: Option<Write>,
    writes: Vec<Write>,
    done: Vec<(Done, String)>,
    bytes: usize,
}

enum Done {
    Added,
    Changed,
    Removed,
}

impl Batch {
    fn new(fence: Option<Write>) -> Self {
        Self { fence, writes: Vec::new(), done: Vec::new(), bytes: 0 }
    }

    async fn push(
        &mut self,
        entries: &Resources<Entry>,
        write: Write,
        done: (Done, String),
        report: &mut SyncReport,
    ) -> Result<(), StoreError> {
        // Room for ids and tenants beside the values.
        let bytes = size(&write) + 2 * StoreLimits::ID;
        // The fence is one of them.
        let most = StoreLimits::WRITES - usize::from(self.fence.is_some());
        if self.writes.len() == most || self.bytes + bytes > StoreLimits::BATCH {
            self.flush(entries, report).await?;
        }
        self.bytes += bytes;
        self.writes.push(write);
        self.done.push(done);
        Ok(())
    }

    async fn flush(&mut self, entries: &Resources<Entry>, report: &mut SyncReport) -> Result<(), StoreError> {
        if self.writes.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        self.writes.extend(self.fence.clone());
        entries.store().commit(std::mem::take(&mut self.writes)).await?;
        for (done, id) in self.done.drain(..) {
            match done {
                Done::Added => report.added.push(id),
                Done::Changed => report.changed.push(id),
                Done::Removed => report.removed.push(id),
            }
        }
        Ok(())
    }
}

fn size(write: &Write) -> usize {
    match write {
        Write::Put { value, .. } => value.len(),
        Write::Delete { .. } | Write::Check { .. } => 0,
    }
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
