//! Sealing of single fields.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};

use super::DataKey;
use super::aead::{RandomNonceCipher, associated, random_secret};
use super::follow::{Follower, Refresh, follow};
use crate::BoxError;
use crate::contract::{
    Clock, Key, KeyContext, KeyManagement, KeyManagementError, Query, ResourceStore, Revision, StoreError,
    StoreErrorKind, When, Write,
};
use crate::record::{FieldSealer, Resource, TenantId};

const PURPOSE: &str = "resource";
const VERSION: &str = "v1";

/// Encrypts single fields of records by envelope: AES-256-GCM under data keys, which a [`KeyManagement`] wraps and the
/// store keeps beside the records.
///
/// The ciphertext is bound to tenant, kind, id and field of its record and to the data key. It reads
/// `v1.{key id}.{base64url}`. Data keys are loaded once and followed: no seal or open asks the key management.
///
/// [`open`](Self::open) makes the first data key of the default tenant; another tenant's is made by
/// [`prepare`](Self::prepare).
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_core::contract::{Key, Kind, SystemClock};
/// use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
/// use mcp_gateway_core::record::{FieldSealer as _, TenantId};
/// use mcp_gateway_core::seal::Sealer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let clock = Arc::new(SystemClock);
/// let store = Arc::new(MemoryStore::new(clock.clone()));
/// let sealer = Sealer::open(store, Arc::new(MemoryKeys::new()), clock).await.unwrap();
///
/// let key = |id| Key::new(TenantId::default(), Kind::logged("entry"), id);
/// let sealed = sealer.seal(&key("github"), "/token", "secret").unwrap();
/// assert_eq!(sealer.open(&key("github"), "/token", &sealed).unwrap(), "secret");
/// assert!(sealer.open(&key("gitlab"), "/token", &sealed).is_err(), "it is bound to its record");
/// # });
/// ```
pub struct Sealer {
    shared: Arc<Shared>,
    _follower: Follower,
}

/// How data keys are used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SealerOptions {
    /// How long a new data key waits before it seals, so that every replica can open what it seals; 10 s.
    pub activation_delay: Duration,
    /// After how long [`Sealer::rotate_if_due`] makes a new one; 90 days.
    pub rotate_after: Duration,
    /// After how many seals of this process it does; 2²⁰.
    pub rotate_after_uses: u64,
    /// After how many seals of this process a key seals nothing any more; 2²⁸. Random nonces of 96 bits bear 2³² in
    /// all (NIST SP 800-38D §8.3), and replicas and restarts share a key.
    pub max_uses: u64,
}

impl Default for SealerOptions {
    fn default() -> Self {
        Self {
            activation_delay: Duration::from_secs(10),
            rotate_after: Duration::from_secs(90 * 24 * 3_600),
            rotate_after_uses: 1 << 20,
            max_uses: 1 << 28,
        }
    }
}

/// Why data keys could not be loaded or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The store failed.
    #[error("the data keys cannot be read or written")]
    Store(#[from] StoreError),
    /// The key management failed; a master key that is not known means that the key file or provider was exchanged.
    #[error("a data key cannot be wrapped or unwrapped")]
    Keys(#[from] KeyManagementError),
}

struct Shared {
    store: Arc<dyn ResourceStore>,
    kms: Arc<dyn KeyManagement>,
    clock: Arc<dyn Clock>,
    options: SealerOptions,
    keys: ArcSwap<BTreeMap<TenantId, BTreeMap<u32, Arc<Held>>>>,
    refreshing: tokio::sync::Mutex<()>,
}

/// A data key that is ready for use.
struct Held {
    cipher: RandomNonceCipher,
    created_at: Timestamp,
    not_before: Timestamp,
    uses: AtomicU64,
}

impl Sealer {
    /// Loads the data keys, makes the first one if there is none, and follows later ones in a task of its own.
    ///
    /// Must be called inside a tokio runtime. The task ends with the value.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn open(
        store: Arc<dyn ResourceStore>,
        kms: Arc<dyn KeyManagement>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, SealError> {
        Self::open_with(store, kms, clock, SealerOptions::default()).await
    }

    /// [`open`](Self::open) with options.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn open_with(
        store: Arc<dyn ResourceStore>,
        kms: Arc<dyn KeyManagement>,
        clock: Arc<dyn Clock>,
        options: SealerOptions,
    ) -> Result<Arc<Self>, SealError> {
        let (keys, refreshing) = (ArcSwap::default(), tokio::sync::Mutex::default());
        let shared = Arc::new(Shared { store, kms, clock, options, keys, refreshing });
        let revision = shared.load().await?;
        let follower = follow(&shared, Arc::clone(&shared.store), DataKey::KIND, revision);
        let sealer = Arc::new(Self { shared, _follower: follower });
        sealer.prepare(&TenantId::default()).await?;
        Ok(sealer)
    }

    /// Makes the first data key of a tenant unless it has one.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn prepare(&self, tenant: &TenantId) -> Result<(), SealError> {
        if self.shared.keys.load().contains_key(tenant) {
            return Ok(());
        }
        // With nothing sealed yet there is nobody to wait for.
        self.shared.make(tenant, 1, Duration::ZERO).await
    }

    /// Makes a new data key for each tenant whose newest is old or much used; call it now and then.
    ///
    /// What older keys sealed stays readable.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn rotate_if_due(&self) -> Result<(), SealError> {
        let options = &self.shared.options;
        let now = self.shared.clock.now();
        let rotate_after = SignedDuration::try_from(options.rotate_after).unwrap_or(SignedDuration::MAX);
        let due: Vec<_> = self
            .shared
            .keys
            .load()
            .iter()
            .filter_map(|(tenant, keys)| {
                let (id, newest) = keys.last_key_value()?;
                let old = now.duration_since(newest.created_at) >= rotate_after;
                let used = newest.uses.load(Ordering::Relaxed) >= options.rotate_after_uses;
                (old || used).then(|| (tenant.clone(), id.saturating_add(1)))
            })
            .collect();
        for (tenant, id) in due {
            self.shared.make(&tenant, id, options.activation_delay).await?;
        }
        Ok(())
    }

    /// Reads the data keys now, not only when the feed names them.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn refresh(&self) -> Result<(), SealError> {
        self.shared.load().await.map(drop)
    }
}

impl FieldSealer for Sealer {
    fn seal(&self, key: &Key, field: &str, plain: &str) -> Result<String, StoreError> {
        let unavailable = |why: &'static str| StoreError::new(StoreErrorKind::Unavailable, "seal").because(why);
        let keys = self.shared.keys.load();
        let now = self.shared.clock.now();
        let tenant = keys.get(&key.tenant).ok_or_else(|| unavailable("the tenant has no data key yet"))?;
        // The newest that every replica has; with all of them new, the oldest.
        let usable = tenant.iter().rev().find(|(_, held)| held.not_before <= now).or_else(|| tenant.first_key_value());
        let (id, held) = usable.ok_or_else(|| unavailable("the tenant has no data key yet"))?;
        if held.uses.fetch_add(1, Ordering::Relaxed) >= self.shared.options.max_uses {
            return Err(unavailable("the data key is used up and no newer one has been made"));
        }
        let sealed = held.cipher.seal(plain.as_bytes(), &aad(key, field, *id));
        let sealed = sealed.ok_or_else(|| StoreError::new(StoreErrorKind::TooLarge, "seal"))?;
        Ok(format!("{VERSION}.{id}.{}", URL_SAFE_NO_PAD.encode(sealed)))
    }

    fn open(&self, key: &Key, field: &str, sealed: &str) -> Result<String, StoreError> {
        let corrupt = |why: &'static str| StoreError::new(StoreErrorKind::Corrupt, "open").because(why);
        let mut parts = sealed.splitn(3, '.');
        let (Some(VERSION), Some(id), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(corrupt("a field that should be sealed is not"));
        };
        let id: u32 = id.parse().map_err(|_| corrupt("a sealed field names no data key"))?;
        let keys = self.shared.keys.load();
        let held = keys.get(&key.tenant).and_then(|tenant| tenant.get(&id));
        let unknown = || {
            StoreError::new(StoreErrorKind::Unavailable, "open").because("a field's data key is not known, or not yet")
        };
        let held = held.ok_or_else(unknown)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| corrupt("a sealed field is not base64url"))?;
        let plain = held.cipher.open(&bytes, &aad(key, field, id));
        let plain = plain.ok_or_else(|| corrupt("a sealed field does not belong to this record"))?;
        std::str::from_utf8(&plain).map(str::to_owned).map_err(|_| corrupt("a sealed field is not text"))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.shared.keys.load();
        f.debug_struct("Sealer").field("tenants", &keys.len()).finish_non_exhaustive()
    }
}

fn aad(key: &Key, field: &str, id: u32) -> Vec<u8> {
    let id = id.to_string();
    associated("mcp-gateway field v1", &[key.tenant.as_str(), key.kind.name, &key.id, field, &id])
}

fn context(tenant: &TenantId) -> KeyContext {
    KeyContext { tenant: tenant.clone(), purpose: PURPOSE }
}

impl Shared {
    /// Reads every data key and unwraps those that are not held yet.
    async fn load(&self) -> Result<Revision, SealError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let mut query = Query::all(DataKey::KIND);
        let mut as_of = None;
        let mut keys = BTreeMap::clone(&self.keys.load());
        loop {
            let page = self.store.list(&query).await?;
            // The first page's: what is committed while paging comes again by the feed.
            as_of.get_or_insert(page.as_of);
            for record in page.records {
                let corrupt = || StoreError::new(StoreErrorKind::Corrupt, "data keys");
                let id: u32 = record.key.id.parse().map_err(|_| corrupt())?;
                let tenant = record.key.tenant;
                if keys.get(&tenant).is_some_and(|held| held.contains_key(&id)) {
                    continue;
                }
                let key: DataKey = serde_json::from_slice(&record.value).map_err(|error| corrupt().because(error))?;
                let secret = self.kms.unwrap(&key.wrapped, &context(&tenant)).await?;
                let secret: &[u8; 32] = secret.as_slice().try_into().map_err(|_| KeyManagementError::Mismatch)?;
                let held = Held {
                    cipher: RandomNonceCipher::new(secret),
                    created_at: key.created_at,
                    not_before: key.not_before,
                    uses: AtomicU64::new(0),
                };
                keys.entry(tenant).or_default().insert(id, Arc::new(held));
            }
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        self.keys.store(Arc::new(keys));
        Ok(as_of.unwrap_or_default())
    }

    async fn make(&self, tenant: &TenantId, id: u32, delay: Duration) -> Result<(), SealError> {
        let wrapped = self.kms.wrap(&random_secret()[..], &context(tenant)).await?;
        let now = self.clock.now();
        let not_before = now.saturating_add(delay).unwrap_or(now);
        let value = serde_json::to_vec(&DataKey { wrapped, created_at: now, not_before });
        let value = value.map_err(|error| StoreError::new(StoreErrorKind::Invalid, "data keys").because(error))?;
        let key = Key::new(tenant.clone(), DataKey::KIND, id.to_string());
        let put = Write::Put { key, value: value.into(), index: Vec::new(), ttl: None, when: When::Absent };
        match self.store.commit(vec![put]).await {
            Ok(_) => {}
            // Another replica was first: its key is as good.
            Err(error) if error.kind() == StoreErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
        self.load().await.map(drop)
    }
}

#[async_trait]
impl Refresh for Shared {
    async fn refresh(&self) -> Result<Revision, BoxError> {
        self.load().await.map_err(Into::into)
    }
}

#[cfg(test)]
#[path = "sealer_tests.rs"]
mod tests;
