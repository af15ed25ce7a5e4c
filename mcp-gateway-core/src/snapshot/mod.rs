//! What every call reads: routes, keys and people in memory, kept up to date by the store's feed.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use mcp_gateway_core::contract::{EntryError, ResourceStore, StoreError};
//! # use mcp_gateway_core::record::{Entry, FieldSealer, Route};
//! # use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
//! # async fn start(
//! #     store: Arc<dyn ResourceStore>,
//! #     sealer: Arc<dyn FieldSealer>,
//! #     compile: Arc<dyn Fn(&Entry) -> Result<Route, EntryError> + Send + Sync>,
//! # ) -> Result<(), StoreError> {
//! let (snapshots, driver) = Snapshots::follow(store, SnapshotOptions::new(sealer, compile)).await?;
//! tokio::spawn(driver);
//! let route = snapshots.load().routes.get("github").cloned();
//! # Ok(()) }
//! ```

mod cache;
mod follow;
mod key;
mod people;
mod replica;
mod stale;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use cache::Cache;
pub use key::KeyFacts;
pub use people::{RolePresets, UserFacts, Vouching};

use self::follow::Driver;
use crate::contract::{
    Clock, EntryError, Resolve, ResolveError, ResourceStore, Revision, StoreError, StoreErrorKind, SystemClock,
};
use crate::filter::Filters;
use crate::pin::ToolInventory;
use crate::policy::AccessRules;
use crate::record::{Entry, FieldSealer, Principal, Revocations, Route, Subject, TenantId};
use crate::{Map, MaybeReady};

/// One tenant's servers, keys and people at one moment. Immutable: a change makes a new one that shares what did not change.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Every commit up to here is in it. Commits that concern nothing in here do not make a new snapshot:
    /// [`Snapshots::applied`] goes on without it.
    pub revision: Revision,
    /// By the id of the server; one for each entry that compiles.
    pub routes: Arc<Map<Arc<str>, Arc<Route>>>,
    /// By id; those that the routes were compiled from.
    pub entries: Arc<Map<Arc<str>, Arc<Entry>>>,
    /// By the id of the key; those whose owner may do anything, with the owner's roles of now.
    pub keys: Arc<Map<Box<str>, Arc<KeyFacts>>>,
    /// What ended before its time; looked at on every call with a token.
    pub revocations: Arc<Revocations>,
    /// By the id of the user; those who may do nothing, too.
    pub users: Arc<Map<Arc<str>, Arc<UserFacts>>>,
    /// What the access policies say. Without any, nobody may do anything.
    pub rules: Arc<AccessRules>,
    /// What filters there are.
    pub filters: Arc<Filters>,
    /// What tools servers have shown, by the server's id.
    pub tools: Arc<Map<Arc<str>, Arc<ToolInventory>>>,
    /// Whether a person has taken over, at any time since [`SnapshotOptions::owned`] was last said to be false: what
    /// was good before there were owners is good for nothing. A user who cannot be read may be an owner.
    pub owned: bool,
}

impl Snapshot {
    /// The key of this id. The caller compares the secret's hash and the expiry.
    #[must_use]
    pub fn key(&self, id: &str) -> Option<&Arc<KeyFacts>> {
        self.keys.get(id)
    }

    /// The person that a subject is; `None` for subjects of other issuers, and those that were never users. The caller
    /// looks at [`enabled`](UserFacts::enabled) and the epoch.
    #[must_use]
    pub fn user(&self, subject: &Subject) -> Option<&Arc<UserFacts>> {
        if *subject.issuer == *Subject::LOCAL { self.users.get(&*subject.id) } else { None }
    }
}

/// Compiles an entry to what the data plane needs of it.
pub type Compile = Arc<dyn Fn(&Entry) -> Result<Route, EntryError> + Send + Sync>;

/// How a snapshot is kept.
#[derive(Clone)]
pub struct SnapshotOptions {
    /// Whose records; `default` by default.
    pub tenant: TenantId,
    /// Opens the sealed fields of entries.
    pub sealer: Arc<dyn FieldSealer>,
    /// Makes routes of entries.
    pub compile: Compile,
    /// Measures staleness; the machine's by default.
    pub clock: Arc<dyn Clock>,
    /// `auth.max_staleness`: how long a gateway that hears nothing from its store goes on; 15 minutes by default.
    pub max_staleness: Duration,
    /// At most one new snapshot in this time; 20 ms by default.
    pub coalesce: Duration,
    /// Roles of people by verified e-mail address; none by default.
    pub presets: Arc<RolePresets>,
    /// Roles of the members of groups by the group's id, beside those that the group was given; none by default.
    pub group_presets: Arc<RolePresets>,
    /// Whose word counts, about groups and which addresses. Roles follow it as it is now, whatever was believed at a login;
    /// without it, which is the default, what was believed then stays so.
    pub vouching: Option<Arc<Vouching>>,
    /// Whether there has been an owner before; `false` by default.
    pub owned: bool,
}

impl SnapshotOptions {
    /// The usual options.
    #[must_use]
    pub fn new(sealer: Arc<dyn FieldSealer>, compile: Compile) -> Self {
        Self {
            tenant: TenantId::default(),
            sealer,
            compile,
            clock: Arc::new(SystemClock),
            max_staleness: Duration::from_secs(15 * 60),
            coalesce: Duration::from_millis(20),
            presets: Arc::default(),
            group_presets: Arc::default(),
            vouching: None,
            owned: false,
        }
    }
}

impl std::fmt::Debug for SnapshotOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotOptions")
            .field("tenant", &self.tenant)
            .field("max_staleness", &self.max_staleness)
            .field("coalesce", &self.coalesce)
            .finish_non_exhaustive()
    }
}

/// The current [`Snapshot`], and how current it is. A handle: clones share it.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
}

impl Snapshots {
    /// A feed that was silent for longer than this is [stale](Self::is_stale). Bookmarks come every 250 ms.
    pub const STALE_AFTER: Duration = Duration::from_secs(1);

    /// Reads everything, then returns the handle and the future that keeps it up to date, to be spawned.
    ///
    /// The driver goes on through every failure of the store: it asks again with a growing delay (50 ms to 2 s), and
    /// lists again when the feed no longer reaches back. A record that cannot be read is logged and left out; an entry
    /// that no longer compiles is served as it was before. The driver ends when every handle is dropped; without it,
    /// nothing changes any more and the snapshot grows [stale](Self::staleness).
    ///
    /// # Errors
    /// Whatever the store's `list` and `watch` fail with: without a first snapshot there is nothing to serve from.
    pub async fn follow(
        store: Arc<dyn ResourceStore>,
        options: SnapshotOptions,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), StoreError> {
        let shared = Arc::new(Shared {
            current: ArcSwap::from_pointee(Snapshot::default()),
            applied: watch::Sender::new(Revision(0)),
            swapped: watch::Sender::new(Revision(0)),
            start: options.clock.monotonic(),
            clock: Arc::clone(&options.clock),
            heard: AtomicU64::new(0),
            max_staleness: options.max_staleness,
        });
        let driver = Driver::start(store, options, Arc::clone(&shared)).await?;
        let stale = stale::announce(Arc::downgrade(&shared));
        let driver = async move {
            tokio::select! {
                () = driver.run() => {}
                () = stale => {}
            }
        };
        Ok((Self { shared }, driver))
    }

    /// The current snapshot, without a lock. The guard is for short use; to keep it, clone the `Arc` in it.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.shared.current.load()
    }

    /// The revision up to which everything is applied. Goes up with commits of every kind, and only goes back when the
    /// store itself did (a restored backup).
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Revision> {
        self.shared.applied.subscribe()
    }

    /// The revision of the current snapshot. Changes when [`load`](Self::load) returns another one, and, with the same
    /// revision, when the snapshot begins to [refuse](Self::refuses). For streams that decide again whether they may go
    /// on.
    #[must_use]
    pub fn swapped(&self) -> watch::Receiver<Revision> {
        self.shared.swapped.subscribe()
    }

    /// Waits until everything up to a revision is applied: who deletes a key waits for the revision of its commit, and
    /// no later call on this replica sees the key. For ever when the driver is gone or the store is away.
    pub async fn wait_for(&self, revision: Revision) {
        // The sender is in `shared`, which `self` keeps.
        let _ = self.applied().wait_for(|applied| *applied >= revision).await;
    }

    /// How long ago the store was heard from: a commit or a bookmark.
    #[must_use]
    pub fn staleness(&self) -> Duration {
        self.shared.staleness()
    }

    /// Whether the store was not heard from for more than a second: degraded, in `/readyz` and metrics.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.staleness() > Self::STALE_AFTER
    }

    /// Whether the store was not heard from for more than `auth.max_staleness`: a revoked key may still be in the
    /// snapshot, so calls are refused with 503 (not 401, which would start a login).
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.shared.refuses()
    }
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let applied = *self.shared.applied.borrow();
        f.debug_struct("Snapshots").field("applied", &applied).field("staleness", &self.staleness()).finish()
    }
}

impl Resolve for Snapshots {
    /// By id, for every principal of the tenant; fails once the snapshot [refuses](Snapshots::refuses).
    fn resolve(&self, id: &str, _: &Principal) -> MaybeReady<Result<Option<Arc<Route>>, ResolveError>> {
        if self.refuses() {
            let error = StoreError::new(StoreErrorKind::Unavailable, "watch").because("not heard from for too long");
            return Err(ResolveError(error.into())).into();
        }
        Ok(self.load().routes.get(id).cloned()).into()
    }
}

struct Shared {
    current: ArcSwap<Snapshot>,
    applied: watch::Sender<Revision>,
    swapped: watch::Sender<Revision>,
    clock: Arc<dyn Clock>,
    start: Instant,
    /// Nanoseconds from `start` to when the store was heard from last.
    heard: AtomicU64,
    max_staleness: Duration,
}

impl Shared {
    fn staleness(&self) -> Duration {
        let heard = Duration::from_nanos(self.heard.load(Ordering::Acquire));
        self.clock.monotonic().saturating_duration_since(self.start).saturating_sub(heard)
    }

    fn refuses(&self) -> bool {
        self.staleness() > self.max_staleness
    }

    fn hear(&self) {
        let since = self.clock.monotonic().saturating_duration_since(self.start);
        self.heard.store(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Swaps first, so that whoever sees the revision sees the snapshot.
    fn publish(&self, snapshot: Snapshot, applied: Revision) {
        let revision = snapshot.revision;
        self.current.store(Arc::new(snapshot));
        self.swapped.send_replace(revision);
        self.apply(applied);
    }

    fn apply(&self, revision: Revision) {
        self.applied.send_if_modified(|applied| std::mem::replace(applied, revision) != revision);
    }
}

#[cfg(test)]
mod people_tests;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod tests;
