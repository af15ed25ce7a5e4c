//! The ring of session keys.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::KeyInit;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::SealError;
use super::aead::{Secret256, derive, random_secret};
use super::follow::{Follower, Refresh, follow};
use crate::BoxError;
use crate::contract::{
    Clock, Key, KeyContext, KeyManagement, KeyManagementError, Kind, Query, Record, ResourceStore, Revision,
    StoreError, StoreErrorKind, When, Write,
};
use crate::record::{Resource, TenantId};

const PURPOSE: &str = "session";
const ID: &str = "sessions";
/// Rounds that are tried when another replica rotates at the same time.
const ATTEMPTS: usize = 3;

/// The ring as it is kept: one record for the whole gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionKeyRingRecord {
    /// Oldest first, at most [`SessionKeyRing::KEYS`].
    pub keys: Vec<SessionKeyRecord>,
}

/// A key of the ring, under the master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionKeyRecord {
    /// Random; part of every session id that the key seals.
    pub id: u32,
    /// The key itself; only the key management can open it.
    pub wrapped: crate::contract::WrappedKey,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it first seals: by then every replica has it.
    pub not_before: Timestamp,
}

impl Resource for SessionKeyRingRecord {
    const KIND: Kind = Kind::logged("session-key-ring");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

/// The keys that seal legacy sessions, in memory and in step with the store.
///
/// Sealing takes the newest key that every replica has; opening takes any. Reading the ring is one atomic load.
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_core::contract::SystemClock;
/// use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
/// use mcp_gateway_core::seal::{RingOptions, RotateError, SessionKeyRing};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let clock = Arc::new(SystemClock);
/// let store = Arc::new(MemoryStore::new(clock.clone()));
/// let ring = SessionKeyRing::open(store, Arc::new(MemoryKeys::new()), clock, RingOptions::default()).await.unwrap();
///
/// let first = ring.sealing_key().unwrap().id();
/// ring.rotate().await.unwrap();
/// assert_eq!(ring.sealing_key().unwrap().id(), first, "the new key waits until every replica has it");
/// ring.rotate_now().await.unwrap();
/// assert!(ring.key(first).is_none(), "an emergency ends every session");
/// # });
/// ```
pub struct SessionKeyRing {
    shared: Arc<Shared>,
    _follower: Follower,
}

/// How the ring turns.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RingOptions {
    /// How long a new key waits before it seals; 10 s.
    pub activation_delay: Duration,
    /// How long a session lives at most, and so how long a retired key opens; `sessions.max_age`, 30 days. A new key is
    /// [due](SessionKeyRing::rotate_if_due) after half of it.
    pub max_age: Duration,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self { activation_delay: Duration::from_secs(10), max_age: Duration::from_secs(30 * 24 * 3_600) }
    }
}

impl RingOptions {
    /// The same with this longest life of a session.
    #[must_use]
    pub fn with_max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }
}

/// A key of the ring, ready for use.
pub struct RingKey {
    id: u32,
    not_before: Timestamp,
    pub(super) cipher: Aes256GcmSiv,
    pub(super) hash_key: Secret256,
    pub(super) event_key: Secret256,
}

impl RingKey {
    /// Part of every session id that it seals.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// When it first seals.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    pub(super) fn new(id: u32, not_before: Timestamp, secret: &[u8; 32]) -> Self {
        let cipher = Aes256GcmSiv::new((&*derive(secret, "mcp-gateway session seal v1")).into());
        let hash_key = derive(secret, "mcp-gateway session hash v1");
        let event_key = derive(secret, "mcp-gateway session events v1");
        Self { id, not_before, cipher, hash_key, event_key }
    }
}

impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingKey").field("id", &self.id).field("not_before", &self.not_before).finish_non_exhaustive()
    }
}

/// Why the ring did not turn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The oldest of three keys still opens living sessions.
    #[error("the oldest session key is needed until {until}; only an emergency rotation drops it earlier")]
    TooSoon {
        /// When it can be dropped.
        until: Timestamp,
    },
    /// The store or key management failed.
    #[error(transparent)]
    Failed(#[from] SealError),
}

impl From<StoreError> for RotateError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

struct Shared {
    store: Arc<dyn ResourceStore>,
    kms: Arc<dyn KeyManagement>,
    clock: Arc<dyn Clock>,
    options: RingOptions,
    /// Oldest first.
    keys: ArcSwap<Vec<Arc<RingKey>>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl SessionKeyRing {
    /// Keys of a ring: the one that seals, the one before it, and one on its way in or out.
    pub const KEYS: usize = 3;

    /// Loads the ring, makes its first key if there is none, and follows it in a task of its own.
    ///
    /// Must be called inside a tokio runtime. The task ends with the value.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn open(
        store: Arc<dyn ResourceStore>,
        kms: Arc<dyn KeyManagement>,
        clock: Arc<dyn Clock>,
        options: RingOptions,
    ) -> Result<Arc<Self>, SealError> {
        let (keys, refreshing) = (ArcSwap::default(), tokio::sync::Mutex::default());
        let shared = Arc::new(Shared { store, kms, clock, options, keys, refreshing });
        let mut revision = shared.load().await?;
        if shared.keys.load().is_empty() {
            // With no session sealed yet there is nobody to wait for. A replica that was faster is as good.
            let first = SessionKeyRingRecord { keys: vec![shared.new_key(Duration::ZERO).await?] };
            match shared.put(&first, When::Absent, None).await {
                Err(error) if error.kind() != StoreErrorKind::Conflict => return Err(error.into()),
                _ => revision = shared.load().await?,
            }
        }
        let follower = follow(&shared, Arc::clone(&shared.store), SessionKeyRingRecord::KIND, revision);
        Ok(Arc::new(Self { shared, _follower: follower }))
    }

    /// The key that seals now: the newest whose time has come.
    #[must_use]
    pub fn sealing_key(&self) -> Option<Arc<RingKey>> {
        let keys = self.shared.keys.load();
        let now = self.shared.clock.now();
        keys.iter().rev().find(|key| key.not_before <= now).or_else(|| keys.first()).cloned()
    }

    /// The key of this id.
    #[must_use]
    pub fn key(&self, id: u32) -> Option<Arc<RingKey>> {
        self.shared.keys.load().iter().find(|key| key.id == id).cloned()
    }

    /// Adds a key, which seals after the activation delay; drops those that open no living session any more.
    ///
    /// # Errors
    /// [`RotateError::TooSoon`] when all three keys are still needed.
    pub async fn rotate(&self) -> Result<(), RotateError> {
        let shared = &self.shared;
        shared.turn(None, |old| async { shared.with_next(old).await.map(Some) }).await.map(drop)
    }

    /// [`rotate`](Self::rotate), if the newest key is older than half of the longest life of a session.
    ///
    /// Returns whether it turned. Call it now and then, at one of several replicas: with the `fence` of its
    /// [term](crate::lease::Term::fence), nothing is written once another one has taken over.
    ///
    /// # Errors
    /// [`RotateError::Failed`].
    pub async fn rotate_if_due(&self, fence: Option<Write>) -> Result<bool, RotateError> {
        let shared = &self.shared;
        let half = signed(shared.options.max_age / 2);
        let turned = shared.turn(fence, |old: Vec<SessionKeyRecord>| async move {
            // Of the ring as it is kept: another replica may have turned it a moment ago.
            let now = shared.clock.now();
            let due = old.last().is_none_or(|newest| now.duration_since(newest.created_at) >= half);
            if due { shared.with_next(old).await.map(Some) } else { Ok(None) }
        });
        match turned.await {
            Err(RotateError::TooSoon { .. }) => Ok(false),
            turned => turned,
        }
    }

    /// Replaces every key at once, after a key may have leaked: every client has to initialize again.
    ///
    /// # Errors
    /// [`RotateError::Failed`].
    pub async fn rotate_now(&self) -> Result<(), RotateError> {
        let shared = &self.shared;
        shared.turn(None, |_| async { Ok(Some(vec![shared.new_key(Duration::ZERO).await?])) }).await.map(drop)
    }

    /// Reads the ring now, not only when the feed names it.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn refresh(&self) -> Result<(), SealError> {
        self.shared.load().await.map(drop)
    }

    /// The longest life of a session.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        self.shared.options.max_age
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}

impl fmt::Debug for SessionKeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKeyRing").field("keys", &self.shared.keys.load()).finish_non_exhaustive()
    }
}

impl Shared {
    /// The ring belongs to no tenant: sessions carry theirs in what they are bound to.
    fn key() -> Key {
        Key::new(TenantId::default(), SessionKeyRingRecord::KIND, ID)
    }

    fn context() -> KeyContext {
        KeyContext { tenant: TenantId::default(), purpose: PURPOSE }
    }

    async fn load(&self) -> Result<Revision, SealError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let page = self.store.list(&Query::all(SessionKeyRingRecord::KIND)).await?;
        let record = page.records.iter().find(|record| record.key == Self::key());
        let mut keys = Vec::new();
        for key in record.map(decode).transpose()?.unwrap_or_default().keys {
            let held = self.keys.load().iter().find(|held| held.id == key.id).cloned();
            keys.push(match held {
                Some(held) => held,
                None => {
                    let secret = self.kms.unwrap(&key.wrapped, &Self::context()).await?;
                    let secret: &[u8; 32] = secret.as_slice().try_into().map_err(|_| KeyManagementError::Mismatch)?;
                    Arc::new(RingKey::new(key.id, key.not_before, secret))
                }
            });
        }
        self.keys.store(Arc::new(keys));
        Ok(page.as_of)
    }

    async fn new_key(&self, delay: Duration) -> Result<SessionKeyRecord, SealError> {
        let wrapped = self.kms.wrap(&random_secret()[..], &Self::context()).await?;
        let now = self.clock.now();
        let not_before = now.saturating_add(delay).unwrap_or(now);
        Ok(SessionKeyRecord { id: rand::random(), wrapped, created_at: now, not_before })
    }

    /// The ring with its next key, and without those that no session needs any more.
    async fn with_next(&self, old: Vec<SessionKeyRecord>) -> Result<Vec<SessionKeyRecord>, RotateError> {
        let mut keys = self.still_needed(old);
        if keys.len() >= SessionKeyRing::KEYS {
            return Err(RotateError::TooSoon { until: self.needed_until(&keys[1]) });
        }
        keys.push(self.new_key(self.options.activation_delay).await?);
        Ok(keys)
    }

    /// Writes what `change` makes of the ring, again if another replica was faster; nothing when it makes nothing of it. Says
    /// whether it turned.
    async fn turn<F>(
        &self,
        fence: Option<Write>,
        change: impl Fn(Vec<SessionKeyRecord>) -> F,
    ) -> Result<bool, RotateError>
    where
        F: Future<Output = Result<Option<Vec<SessionKeyRecord>>, RotateError>>,
    {
        let mut turned = false;
        for attempt in 1.. {
            let record = self.store.get(&[Self::key()]).await?.into_iter().next().flatten();
            let when = record.as_ref().map_or(When::Absent, |record| When::At(record.revision));
            let old = record.as_ref().map(decode).transpose()?.unwrap_or_default();
            let Some(keys) = change(old.keys).await? else { break };
            match self.put(&SessionKeyRingRecord { keys }, when, fence.clone()).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {}
                other => {
                    other?;
                    turned = true;
                    break;
                }
            }
        }
        self.load().await?;
        Ok(turned)
    }

    async fn put(&self, ring: &SessionKeyRingRecord, when: When, fence: Option<Write>) -> Result<Revision, StoreError> {
        let value = serde_json::to_vec(ring)
            .map_err(|error| StoreError::new(StoreErrorKind::Invalid, "session keys").because(error))?;
        let put = Write::Put { key: Self::key(), value: value.into(), index: Vec::new(), ttl: None, when };
        self.store.commit([put].into_iter().chain(fence).collect()).await
    }

    /// Without those whose successor has sealed everything for as long as a session lives.
    fn still_needed(&self, keys: Vec<SessionKeyRecord>) -> Vec<SessionKeyRecord> {
        let now = self.clock.now();
        let successors: Vec<_> = keys.iter().skip(1).map(|next| Some(self.needed_until(next))).chain([None]).collect();
        let needed = keys.into_iter().zip(successors).filter(|(_, until)| until.is_none_or(|until| now < until));
        needed.map(|(key, _)| key).collect()
    }

    /// How long the key before this one is needed.
    fn needed_until(&self, successor: &SessionKeyRecord) -> Timestamp {
        successor.not_before.saturating_add(self.options.max_age).unwrap_or(Timestamp::MAX)
    }
}

#[async_trait]
impl Refresh for Shared {
    async fn refresh(&self) -> Result<Revision, BoxError> {
        self.load().await.map_err(Into::into)
    }
}

fn decode(record: &Record) -> Result<SessionKeyRingRecord, StoreError> {
    serde_json::from_slice(&record.value)
        .map_err(|error| StoreError::new(StoreErrorKind::Corrupt, "session keys").because(error))
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
