//! The keys that sign our own tokens.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{
    Clock, KeyRing, KeyRingError, Kind, Query, Revision, Signer, StoreError, StoreErrorKind, VerifyingKey, When, Write,
};
use mcp_gateway_core::record::{Resource, Resources, Secret};
use mcp_gateway_core::seal::follow::{Follower, Refresh, follow};
use mcp_gateway_core::{BoxError, MaybeReady};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::key::{Jwk, PublicKey};
use super::{TokenLimits, jws};

/// Rounds that are tried when another replica rotates at the same time.
const ATTEMPTS: usize = 3;

/// A ring of signing keys as it is kept: one record, whose id is the ring's name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SigningKeyRing {
    /// Oldest first, at most [`SigningKeys::KEYS`].
    pub keys: Vec<SigningKeyRecord>,
}

/// A key of the ring.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SigningKeyRecord {
    /// The thumbprint of the public key (RFC 7638).
    pub id: String,
    /// PKCS #8, base64url; sealed at rest.
    pub private: Secret,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it first signs: by then every replica has it, and every reader of the published keys.
    pub not_before: Timestamp,
}

impl Resource for SigningKeyRing {
    const KIND: Kind = Kind::logged("signing-key-ring");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &["/keys/*/private"];
}

/// How a ring turns.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SigningKeyOptions {
    /// The ring's name. Tokens of different kinds that must never stand in for one another have rings of their own.
    pub name: String,
    /// How long a new key is published before it signs; 10 minutes.
    pub publish_ahead: Duration,
    /// How old the newest key is when the next one is [due](SigningKeys::rotate_if_due); 30 days.
    pub rotate_after: Duration,
    /// How long a key is kept after it signed last: the longest life of a token and the tolerance of clocks.
    pub keep: Duration,
}

impl Default for SigningKeyOptions {
    fn default() -> Self {
        Self {
            name: "access".to_owned(),
            publish_ahead: Duration::from_secs(600),
            rotate_after: Duration::from_secs(30 * 24 * 3_600),
            keep: TokenLimits::LIFETIME.saturating_add(TokenLimits::CLOCK_SKEW),
        }
    }
}

/// Why a ring did not turn, or could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningKeyError {
    /// Every key of a full ring may still be needed.
    #[error("the oldest signing key is needed until {until}; only an emergency rotation drops it earlier")]
    TooSoon {
        /// When it can be dropped.
        until: Timestamp,
    },
    /// The store or the sealing of its fields failed.
    #[error("the signing keys cannot be read or written")]
    Store(#[from] StoreError),
    /// A key could not be made.
    #[error("a signing key cannot be made")]
    Random,
}

/// The keys that sign tokens, in memory and in step with the store: ES256 (RFC 7518 §3.4).
///
/// A key is published before it signs and kept until the last token that it signed has ended, so a rotation is noticed
/// by nobody. Signing and verifying read one atomic pointer.
pub struct SigningKeys {
    shared: Arc<Shared>,
    _follower: Follower,
}

struct Shared {
    ring: Resources<SigningKeyRing>,
    clock: Arc<dyn Clock>,
    options: SigningKeyOptions,
    held: ArcSwap<Held>,
    refreshing: tokio::sync::Mutex<()>,
}

/// What is held in memory.
#[derive(Default)]
struct Held {
    /// Oldest first.
    keys: Vec<Arc<SigningKey>>,
    document: Arc<str>,
}

struct SigningKey {
    id: Arc<str>,
    not_before: Timestamp,
    pair: EcdsaKeyPair,
    public: Arc<PublicKey>,
    jwk: Jwk,
}

impl SigningKeys {
    /// Keys of a ring.
    pub const KEYS: usize = 6;

    /// Loads the ring, makes its first key if there is none, and follows it in a task of its own, which ends with the
    /// value. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`SigningKeyError`].
    pub async fn open(
        ring: Resources<SigningKeyRing>,
        clock: Arc<dyn Clock>,
        options: SigningKeyOptions,
    ) -> Result<Arc<Self>, SigningKeyError> {
        let (held, refreshing) = (ArcSwap::default(), tokio::sync::Mutex::default());
        let shared = Arc::new(Shared { ring, clock, options, held, refreshing });
        let mut revision = shared.load().await?;
        if shared.held.load().keys.is_empty() {
            // With no token signed yet there is nobody to wait for. A replica that was faster is as good.
            let first = SigningKeyRing { keys: vec![shared.new_key(Duration::ZERO)?] };
            match shared.ring.save(&shared.options.name, &first, When::Absent).await {
                Err(error) if error.kind() != StoreErrorKind::Conflict => return Err(error.into()),
                _ => revision = shared.load().await?,
            }
        }
        let follower = follow(&shared, Arc::clone(shared.ring.store()), SigningKeyRing::KIND, revision);
        Ok(Arc::new(Self { shared, _follower: follower }))
    }

    /// Adds a key, which signs after [`publish_ahead`](SigningKeyOptions::publish_ahead), and drops those whose last
    /// token has ended.
    ///
    /// # Errors
    /// [`SigningKeyError::TooSoon`] when the ring is full of keys that are still needed.
    pub async fn rotate(&self) -> Result<(), SigningKeyError> {
        let shared = &self.shared;
        shared.turn(None, |old| shared.with_next(old).map(Some)).await.map(drop)
    }

    /// [`rotate`](Self::rotate), if the newest key is old enough; says whether it turned. Call it now and then, at one of
    /// several replicas: with the `fence` of its [term](mcp_gateway_core::lease::Term::fence), nothing is written once
    /// another one has taken over.
    ///
    /// # Errors
    /// [`SigningKeyError`].
    pub async fn rotate_if_due(&self, fence: Option<Write>) -> Result<bool, SigningKeyError> {
        let shared = &self.shared;
        let age = SignedDuration::try_from(shared.options.rotate_after).unwrap_or(SignedDuration::MAX);
        let turned = shared.turn(fence, |old| {
            // Of the ring as it is kept: another replica may have turned it a moment ago.
            let now = shared.clock.now();
            let due = old.last().is_none_or(|newest| now.duration_since(newest.created_at) >= age);
            if due { shared.with_next(old).map(Some) } else { Ok(None) }
        });
        turned.await
    }

    /// Replaces every key at once, after one may have leaked: every token that was signed until now is worthless.
    ///
    /// # Errors
    /// [`SigningKeyError`].
    pub async fn rotate_now(&self) -> Result<(), SigningKeyError> {
        let shared = &self.shared;
        shared.turn(None, |_| Ok(Some(vec![shared.new_key(Duration::ZERO)?]))).await.map(drop)
    }

    /// Reads the ring now, not only when the feed names it.
    ///
    /// # Errors
    /// [`SigningKeyError::Store`].
    pub async fn refresh(&self) -> Result<(), SigningKeyError> {
        self.shared.load().await.map(drop)
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.shared.held.load();
        let ids: Vec<_> = held.keys.iter().map(|key| &key.id).collect();
        f.debug_struct("SigningKeys").field("name", &self.shared.options.name).field("keys", &ids).finish()
    }
}

impl Signer for SigningKeys {
    fn sign(&self, typ: &'static str, claims: &[u8]) -> MaybeReady<Result<String, KeyRingError>> {
        let failed = |why: &'static str| KeyRingError { issuer: "this gateway".into(), source: why.into() };
        let held = self.shared.held.load();
        let now = self.shared.clock.now();
        let current = held.keys.iter().rev().find(|key| key.not_before <= now).or_else(|| held.keys.first());
        let Some(key) = current else { return Err(failed("there is no signing key")).into() };
        let header = serde_json::json!({ "typ": typ, "alg": key.public.algorithm(), "kid": key.id });
        let sign = |message: &[u8]| key.pair.sign(&SystemRandom::new(), message).map(|made| made.as_ref().to_vec());
        jws::compact(&header, claims, sign).map_err(|_| failed("the signing key cannot sign")).into()
    }
}

impl KeyRing for SigningKeys {
    fn key(&self, id: &str) -> MaybeReady<Result<Option<Arc<dyn VerifyingKey>>, KeyRingError>> {
        let held = self.shared.held.load();
        let key = held.keys.iter().find(|key| &*key.id == id);
        Ok(key.map(|key| Arc::clone(&key.public) as Arc<dyn VerifyingKey>)).into()
    }

    fn document(&self) -> Arc<str> {
        Arc::clone(&self.shared.held.load().document)
    }
}

impl Shared {
    async fn load(&self) -> Result<Revision, SigningKeyError> {
        let _one_at_a_time = self.refreshing.lock().await;
        // Read before the ring: what is committed in between comes again by the feed.
        let page = Query { limit: 1, ..Query::all(SigningKeyRing::KIND) };
        let as_of = self.ring.store().list(&page).await?.as_of;
        let stored = self.ring.get(&self.options.name).await?;
        let mut keys = Vec::new();
        let before = self.held.load();
        for record in stored.map(|stored| stored.value.keys).unwrap_or_default() {
            let held = before.keys.iter().find(|held| *held.id == *record.id).cloned();
            keys.push(match held {
                Some(held) => held,
                None => Arc::new(SigningKey::read(&record)?),
            });
        }
        let set: Vec<_> = keys.iter().map(|key| &key.jwk).collect();
        let document = serde_json::json!({ "keys": set }).to_string().into();
        self.held.store(Arc::new(Held { keys, document }));
        Ok(as_of)
    }

    fn new_key(&self, delay: Duration) -> Result<SigningKeyRecord, SigningKeyError> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let pkcs8 = pkcs8.map_err(|_| SigningKeyError::Random)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref());
        let jwk = jwk_of(&pair.map_err(|_| SigningKeyError::Random)?);
        let now = self.clock.now();
        Ok(SigningKeyRecord {
            id: jwk.kid.unwrap_or_default(),
            private: Secret::new(URL_SAFE_NO_PAD.encode(pkcs8.as_ref())),
            created_at: now,
            not_before: now.saturating_add(delay).unwrap_or(now),
        })
    }

    /// The ring with its next key, and without those whose last token has ended.
    fn with_next(&self, old: Vec<SigningKeyRecord>) -> Result<Vec<SigningKeyRecord>, SigningKeyError> {
        let mut keys = self.still_needed(old);
        if keys.len() >= SigningKeys::KEYS {
            return Err(SigningKeyError::TooSoon { until: self.needed_until(&keys[1]) });
        }
        keys.push(self.new_key(self.options.publish_ahead)?);
        Ok(keys)
    }

    /// Writes what `change` makes of the ring, again if another replica was faster; says whether it made anything.
    async fn turn(
        &self,
        fence: Option<Write>,
        change: impl Fn(Vec<SigningKeyRecord>) -> Result<Option<Vec<SigningKeyRecord>>, SigningKeyError>,
    ) -> Result<bool, SigningKeyError> {
        let mut turned = true;
        for attempt in 1.. {
            let stored = self.ring.get(&self.options.name).await?;
            let when = stored.as_ref().map_or(When::Absent, |stored| When::At(stored.revision));
            let keys = change(stored.map(|stored| stored.value.keys).unwrap_or_default())?;
            let Some(keys) = keys else {
                turned = false;
                break;
            };
            let put = self.ring.put(&self.options.name, &SigningKeyRing { keys }, None, when)?;
            match self.ring.store().commit([put].into_iter().chain(fence.clone()).collect()).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        self.load().await?;
        Ok(turned)
    }

    /// Without those whose successor has signed everything for as long as a token lives.
    fn still_needed(&self, keys: Vec<SigningKeyRecord>) -> Vec<SigningKeyRecord> {
        let now = self.clock.now();
        let ends: Vec<_> = keys.iter().skip(1).map(|next| Some(self.needed_until(next))).chain([None]).collect();
        let needed = keys.into_iter().zip(ends).filter(|(_, until)| until.is_none_or(|until| now < until));
        needed.map(|(key, _)| key).collect()
    }

    /// How long the key before this one is needed.
    fn needed_until(&self, successor: &SigningKeyRecord) -> Timestamp {
        successor.not_before.saturating_add(self.options.keep).unwrap_or(Timestamp::MAX)
    }
}

impl SigningKey {
    fn read(record: &SigningKeyRecord) -> Result<Self, StoreError> {
        let corrupt = || StoreError::new(StoreErrorKind::Corrupt, "signing keys");
        let pkcs8 =
            Zeroizing::new(URL_SAFE_NO_PAD.decode(record.private.expose()).map_err(|error| corrupt().because(error))?);
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
        let pair = pair.map_err(|error| corrupt().because(error))?;
        let jwk = jwk_of(&pair);
        let public = PublicKey::new(&jwk).filter(|key| key.id() == Some(&*record.id));
        let public = public.ok_or_else(|| corrupt().because("a key is not the one its id names"))?;
        let not_before = record.not_before;
        Ok(Self { id: record.id.as_str().into(), not_before, pair, public: Arc::new(public), jwk })
    }
}

/// The public part, named by its thumbprint (RFC 7638 §3).
fn jwk_of(pair: &EcdsaKeyPair) -> Jwk {
    // Uncompressed (SEC 1 §2.3.3): 4, x, y.
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let thumbprint = Sha256::digest(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#));
    Jwk {
        kty: "EC".to_owned(),
        kid: Some(URL_SAFE_NO_PAD.encode(thumbprint)),
        usage: Some("sig".to_owned()),
        alg: Some("ES256".to_owned()),
        crv: Some("P-256".to_owned()),
        x: Some(x),
        y: Some(y),
        ..Jwk::default()
    }
}

#[async_trait]
impl Refresh for Shared {
    async fn refresh(&self) -> Result<Revision, BoxError> {
        self.load().await.map_err(Into::into)
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
