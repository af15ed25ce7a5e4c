//! Work that one replica does for all of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};
use ulid::Ulid;

use crate::contract::{Key, Kind, Record, ResourceStore, Revision, StoreError, StoreErrorKind, When, Write};
use crate::record::TenantId;

/// Who has a lease: gone when it is not renewed in time.
const LEASE: Kind = Kind::quiet("lease");
/// Who had it last: stays, and is written anew by whoever takes the lease.
const TERM: Kind = Kind::quiet("lease-term");
/// How long giving leases back may take at the end; otherwise they run out.
const FAREWELL: Duration = Duration::from_secs(1);

/// The leases of one process.
///
/// A lease is a record that lives for 10 s and is renewed every 3 s; others try to take it as often, so that work goes on
/// at another replica within 13 s of a death. Whoever cannot renew it stops before it runs out. A process that was paused
/// does not know that it is over: therefore work writes with its term's [fence](Term::fence), and what it does outside
/// the store must be harmless when it is done twice.
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_core::contract::SystemClock;
/// use mcp_gateway_core::lease::Leases;
/// use mcp_gateway_core::memory::MemoryStore;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let leases = Leases::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
/// leases.lead("reports", |term| async move { println!("one at a time: {term:?}") }).await;
/// # });
/// ```
#[derive(Clone)]
pub struct Leases(Option<Arc<Inner>>);

/// How long leases last.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LeaseOptions {
    /// A lease that is not renewed ends after this time; 10 s by default.
    pub lasts: Duration,
    /// How often a holder renews it, and others try to take it; 3 s by default.
    pub renewed_every: Duration,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self { lasts: Duration::from_secs(10), renewed_every: Duration::from_secs(3) }
    }
}

struct Inner {
    store: Arc<dyn ResourceStore>,
    options: LeaseOptions,
    /// This process's life.
    replica: Ulid,
    held: Mutex<BTreeMap<Box<str>, Revision>>,
}

/// A time in which this replica leads.
#[derive(Debug, Clone)]
pub struct Term(Option<(Key, Revision)>);

impl Term {
    /// What a batch of this work carries: it fails with a conflict once another replica has taken over.
    ///
    /// `None` where there is no other replica.
    #[must_use]
    pub fn fence(&self) -> Option<Write> {
        self.0.as_ref().map(|(key, revision)| Write::Check { key: key.clone(), when: When::At(*revision) })
    }
}

impl Leases {
    /// The leases of a process over a store that it shares with others.
    pub fn new(store: Arc<dyn ResourceStore>) -> Self {
        Self::with_options(store, LeaseOptions::default())
    }

    /// The same with other times.
    pub fn with_options(store: Arc<dyn ResourceStore>, options: LeaseOptions) -> Self {
        Self(Some(Arc::new(Inner { store, options, replica: Ulid::generate(), held: Mutex::default() })))
    }

    /// A process that has its store to itself: it leads in everything, at once.
    #[must_use]
    pub fn alone() -> Self {
        Self(None)
    }

    /// Does the work of this name (1 to 255 bytes) whenever this replica has its lease, until the work ends by itself.
    ///
    /// Work that is under way when the lease is lost is dropped, and begun anew once the lease is held again. Two calls
    /// with one name take turns like two replicas.
    pub async fn lead<F: Future<Output = ()>>(&self, name: &str, mut work: impl FnMut(Term) -> F) {
        let Some(inner) = &self.0 else { return work(Term(None)).await };
        loop {
            let began = Instant::now();
            if let Some(revision) = inner.take(name).await {
                tracing::info!(lease = name, replica = %inner.replica, "this replica leads");
                inner.held().insert(name.into(), revision);
                let term = Term(Some((key(TERM, name), revision)));
                tokio::select! {
                    // First: nothing is begun in a term that is over.
                    biased;
                    () = inner.keep(name, revision, began + inner.options.lasts) => {
                        inner.held().remove(name);
                        tracing::warn!(lease = name, replica = %inner.replica, "this replica leads no longer");
                    }
                    () = work(term) => return inner.give_back(name).await,
                }
            }
            sleep(inner.options.renewed_every).await;
        }
    }

    /// The names of the leases that this process has, in order; none of a process [alone](Self::alone).
    #[must_use]
    pub fn held(&self) -> Vec<Box<str>> {
        self.0.as_ref().map(|inner| inner.held().keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether another process has this lease now; not where there is none.
    ///
    /// # Errors
    /// As [`ResourceStore::get`].
    pub async fn is_led_elsewhere(&self, name: &str) -> Result<bool, StoreError> {
        let Some(inner) = &self.0 else { return Ok(false) };
        let lease = inner.store.get(&[key(LEASE, name)]).await?.into_iter().flatten().next();
        Ok(lease.is_some_and(|lease| !inner.is_ours(&lease)))
    }

    /// Which of these leases no process has; none of a process [alone](Self::alone).
    ///
    /// # Errors
    /// As [`ResourceStore::get`].
    pub async fn vacant<'a>(&self, names: &[&'a str]) -> Result<Vec<&'a str>, StoreError> {
        let Some(inner) = &self.0 else { return Ok(Vec::new()) };
        let keys: Vec<_> = names.iter().map(|name| key(LEASE, name)).collect();
        let found = inner.store.get(&keys).await?;
        Ok(names.iter().zip(found).filter(|(_, lease)| lease.is_none()).map(|(name, _)| *name).collect())
    }

    /// Gives back what is held, so that another replica need not wait. For the end of the process, when no work that
    /// leads is under way any more.
    pub async fn give_back(&self) {
        let Some(inner) = &self.0 else { return };
        for name in self.held() {
            inner.give_back(&name).await;
        }
    }
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").field("alone", &self.0.is_none()).field("held", &self.held()).finish()
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Revision>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ours(&self, record: &Record) -> bool {
        *record.value == *self.replica.to_string().as_bytes()
    }

    fn lease(&self, name: &str, when: When) -> Write {
        let value = Bytes::from(self.replica.to_string());
        Write::Put { key: key(LEASE, name), value, index: Vec::new(), ttl: Some(self.options.lasts), when }
    }

    /// Takes a lease that nobody has.
    async fn take(&self, name: &str) -> Option<Revision> {
        let value = Bytes::from(self.replica.to_string());
        let term = Write::Put { key: key(TERM, name), value, index: Vec::new(), ttl: None, when: When::Any };
        match self.store.commit(vec![self.lease(name, When::Absent), term]).await {
            Ok(revision) => Some(revision),
            Err(error) if error.kind() == StoreErrorKind::Conflict => None,
            // Taken all the same, perhaps: then the lease runs out, and is taken again.
            Err(error) => {
                tracing::debug!(lease = name, %error, "the lease cannot be taken");
                None
            }
        }
    }

    /// Renews a lease; returns when it is over, or may be.
    async fn keep(&self, name: &str, mut revision: Revision, mut until: Instant) {
        loop {
            tokio::select! {
                () = sleep(self.options.renewed_every) => {}
                () = tokio::time::sleep_until(until) => return,
            }
            // Renewed by a commit after this moment, it lasts at least from here.
            let began = Instant::now();
            match timeout_at(until, self.renew(name, revision)).await {
                Ok(Ok(Some(renewed))) => {
                    revision = renewed;
                    until = began + self.options.lasts;
                    self.held().insert(name.into(), revision);
                }
                // Somebody else has it, or time is up.
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(error)) => tracing::debug!(lease = name, %error, "the lease cannot be renewed yet"),
            }
        }
    }

    /// The revision of the renewed lease; `None` when it is no longer ours.
    async fn renew(&self, name: &str, revision: Revision) -> Result<Option<Revision>, StoreError> {
        let error = match self.store.commit(vec![self.lease(name, When::At(revision))]).await {
            Ok(renewed) => return Ok(Some(renewed)),
            Err(error) => error,
        };
        // What became of an earlier attempt may have been unknown, as of this one.
        match self.store.get(&[key(LEASE, name)]).await?.into_iter().flatten().next() {
            Some(record) if self.is_ours(&record) && record.revision > revision => Ok(Some(record.revision)),
            Some(record) if self.is_ours(&record) => Err(error),
            _ => Ok(None),
        }
    }

    async fn give_back(&self, name: &str) {
        let Some(revision) = self.held().remove(name) else { return };
        let delete = Write::Delete { key: key(LEASE, name), when: When::At(revision) };
        match tokio::time::timeout(FAREWELL, self.store.commit(vec![delete])).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(lease = name, %error, "the lease cannot be given back; it runs out"),
            Err(_) => tracing::debug!(lease = name, "the lease cannot be given back in time; it runs out"),
        }
    }
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(TenantId::default(), kind, name)
}

#[cfg(test)]
mod tests;
