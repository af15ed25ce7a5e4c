//! What an act changed: digests of records before and after, for the audit trail.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use mcp_gateway_core::contract::{
    FeedStream, Key, Kind, Page, Query, Record, ResourceStore, Revision, StoreError, StoreErrorKind, StoreLimits, Write,
};
use mcp_gateway_core::record::ChangeFact;
use sha2::{Digest as _, Sha256};

tokio::task_local! {
    static CHANGES: Arc<Mutex<Vec<ChangeFact>>>;
}

/// Runs an act, and tells what its commits changed: the first [`ChangeFact::MOST`] records.
pub(crate) async fn witness<T>(act: impl Future<Output = T>) -> (T, Vec<ChangeFact>) {
    let changes = Arc::<Mutex<Vec<ChangeFact>>>::default();
    let done = CHANGES.scope(Arc::clone(&changes), act).await;
    let changes = std::mem::take(&mut *changes.lock().unwrap_or_else(PoisonError::into_inner));
    (done, changes)
}

/// A store that notes what acts change. What is no act passes through.
///
/// A record's state before is read before the commit. The precondition of nearly every write makes it the one that was
/// replaced; where there is none, it is one that was there a moment ago.
pub(crate) struct WitnessedStore(Arc<dyn ResourceStore>);

impl WitnessedStore {
    pub(crate) fn over(store: Arc<dyn ResourceStore>) -> Arc<dyn ResourceStore> {
        Arc::new(Self(store))
    }

    async fn noted(&self, writes: Vec<Write>, changes: &Mutex<Vec<ChangeFact>>) -> Result<Revision, StoreError> {
        let room = ChangeFact::MOST.saturating_sub(changes.lock().unwrap_or_else(PoisonError::into_inner).len());
        let (keys, after): (Vec<Key>, Vec<_>) =
            writes.iter().filter_map(written).take(room.min(StoreLimits::PAGE)).unzip();
        let before = if keys.is_empty() { Vec::new() } else { self.0.get(&keys).await? };
        let committed = self.0.commit(writes).await;
        // What may have been written is told like what was.
        if committed.as_ref().is_err_and(|error| error.kind() != StoreErrorKind::Unknown) {
            return committed;
        }
        let facts = keys.iter().zip(before).zip(after).map(|((key, before), after)| ChangeFact {
            kind: key.kind.name.into(),
            id: key.id.as_ref().into(),
            before: before.map(|record| digest(&record.value)),
            after,
        });
        // Deleting what is not there changes nothing.
        let facts = facts.filter(|fact| fact.before.is_some() || fact.after.is_some());
        changes.lock().unwrap_or_else(PoisonError::into_inner).extend(facts);
        committed
    }
}

/// Kinds that come and go with what they are for: leases, counters, codes, attempts, sessions.
const PASSING: [&str; 17] = [
    "access-policy-state",
    "api-key-use",
    "held-link",
    "known-device",
    "lease",
    "lease-term",
    "login-transaction",
    "oauth-assertion",
    "oauth-code",
    "oauth-device",
    "oauth-device-poll",
    "oauth-request",
    "oauth-user-code",
    "session",
    "upstream-connect",
    "upstream-refresh",
    "used-logout-token",
];

/// The key of a write and the digest of what it puts there, if it is to be noted.
fn written(write: &Write) -> Option<(Key, Option<Box<str>>)> {
    let (key, after) = match write {
        Write::Put { key, value, .. } => (key, Some(digest(value))),
        Write::Delete { key, .. } => (key, None),
        Write::Check { .. } => return None,
    };
    (!PASSING.contains(&key.kind.name)).then(|| (key.clone(), after))
}

/// SHA-256 of a record as it is kept, its secrets sealed.
fn digest(value: &[u8]) -> Box<str> {
    Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

#[async_trait]
impl ResourceStore for WitnessedStore {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        self.0.get(keys).await
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        self.0.list(query).await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        match CHANGES.try_with(Arc::clone) {
            Ok(changes) => self.noted(writes, &changes).await,
            Err(_) => self.0.commit(writes).await,
        }
    }

    async fn watch(&self, kinds: &[Kind], after: Revision) -> Result<FeedStream, StoreError> {
        self.0.watch(kinds, after).await
    }
}
