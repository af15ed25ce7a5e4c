//! Tokens that were found good, remembered.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use mcp_gateway_core::contract::{AuthError, KeyRing, KeyRingError, Resource};
use mcp_gateway_core::record::{Dependence, Principal, Revoked};
use mcp_gateway_core::{BoxError, MaybeReady};
use sha2::{Digest as _, Sha256};

use super::{Standing, SubjectMap, TrustedIssuer};

/// What a good token said: claims, not a decision. Every use of it is judged anew.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    pub(crate) principal: Arc<Principal>,
    /// The one resource it was checked for.
    pub(crate) audience: Arc<str>,
    /// Under which epoch of the person it was issued; tokens of others know nothing of ours.
    pub(crate) person_epoch: Option<u64>,
    /// When it is to be forgotten: its end, or earlier for what cannot be watched.
    pub(crate) good_until: Timestamp,
    /// What signed it; opaque tokens are not signed.
    pub(crate) signed_by: Option<SignedBy>,
}

/// A key of a ring: a token is good no longer than its key is there.
#[derive(Clone)]
pub(crate) struct SignedBy {
    pub(crate) keys: Arc<dyn KeyRing>,
    pub(crate) id: Box<str>,
}

impl fmt::Debug for SignedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedBy").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Verified {
    /// Whether the key that signed it is still one of its issuer's. Waits where the keys have to be fetched.
    pub(crate) fn has_key(&self) -> MaybeReady<Result<bool, KeyRingError>> {
        let Some(SignedBy { keys, id }) = &self.signed_by else { return Ok(true).into() };
        match keys.key(id) {
            MaybeReady::Ready(key) => key.map(|key| key.is_some()).into(),
            MaybeReady::Wait(key) => MaybeReady::wait(async move { Ok(key.await?.is_some()) }),
        }
    }

    /// The same as said by somebody whose people are others here; `None`: the subject is nobody here.
    pub(crate) async fn of_people(mut self, people: &dyn SubjectMap, now: Timestamp) -> Result<Option<Self>, BoxError> {
        let Some(here) = people.subject(&self.principal.subject).await? else { return Ok(None) };
        let mut principal = Principal::clone(&self.principal);
        if let Some(dependence) = &principal.dependence {
            // What ends the person here ends it too.
            let on = dependence.on.iter().cloned().chain([Revoked::Subject(&here).id()]).collect();
            principal.dependence = Some(Arc::new(Dependence { epoch: dependence.epoch, on }));
        }
        principal.subject = here;
        self.principal = Arc::new(principal);
        let until = now.saturating_add(TrustedIssuer::REMEMBER).unwrap_or(now);
        self.good_until = self.good_until.min(until);
        Ok(Some(self))
    }

    /// Whether it is good for this resource now; that it has not ended is checked before.
    pub(crate) fn judge(&self, resource: &Resource, standing: &dyn Standing) -> Result<Arc<Principal>, AuthError> {
        if standing.refuses() {
            return Err(AuthError::Unavailable("revocations have not been heard of for too long".into()));
        }
        let fits = self.audience == resource.url
            && resource.server.as_deref().is_none_or(|server| self.principal.servers.contains(server));
        if !fits {
            return Err(AuthError::Invalid("the token is for another resource"));
        }
        if self.principal.dependence.as_deref().is_some_and(|dependence| standing.ended(dependence)) {
            return Err(AuthError::Invalid("the token, or what it depends on, was revoked"));
        }
        match standing.person(&self.principal.subject) {
            None => Err(AuthError::Invalid("the subject may not use the gateway any more")),
            Some(person) if self.person_epoch.is_some_and(|epoch| epoch != person.epoch) => {
                Err(AuthError::Invalid("everything that the subject had then was ended"))
            }
            Some(person) if person.roles == self.principal.roles => Ok(Arc::clone(&self.principal)),
            Some(person) => Ok(Arc::new(Principal::clone(&self.principal).with_roles(person.roles))),
        }
    }
}

/// The SHA-256 of a token and what it was brought for: the token itself is not kept, unless it is opaque and has to be
/// asked about again.
pub(crate) type TokenHash = [u8; 32];

pub(crate) fn hash(token: &[u8], resource: &Resource) -> TokenHash {
    // No token has a blank in it.
    Sha256::new().chain_update(token).chain_update(b" ").chain_update(resource.url.as_bytes()).finalize().into()
}

/// A bounded map by the hashes of tokens. Only what was found good is put in, so bad tokens push nothing out.
///
/// Two generations: what is used moves to the young one; when that is full, the old one is forgotten.
#[derive(Debug)]
pub(crate) struct Remembered<V> {
    shards: Box<[Mutex<Generations<V>>]>,
    half: usize,
}

#[derive(Debug)]
struct Generations<V> {
    young: HashMap<TokenHash, V, Identity>,
    old: HashMap<TokenHash, V, Identity>,
}

impl<V> Default for Generations<V> {
    fn default() -> Self {
        Self { young: HashMap::default(), old: HashMap::default() }
    }
}

const SHARDS: usize = 16;

impl<V: Clone> Remembered<V> {
    /// For at most `capacity` tokens; at least one a shard and generation.
    pub(crate) fn new(capacity: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, half: (capacity / SHARDS / 2).max(1) }
    }

    pub(crate) fn find(&self, hash: &TokenHash) -> Option<V> {
        let mut held = self.shard(hash);
        if let Some(value) = held.young.get(hash) {
            return Some(value.clone());
        }
        let value = held.old.remove(hash)?;
        held.insert(*hash, value.clone(), self.half);
        Some(value)
    }

    pub(crate) fn insert(&self, hash: TokenHash, value: V) {
        self.shard(&hash).insert(hash, value, self.half);
    }

    pub(crate) fn remove(&self, hash: &TokenHash) {
        let mut held = self.shard(hash);
        held.young.remove(hash);
        held.old.remove(hash);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let count = |shard: &Mutex<Generations<V>>| {
            let held = shard.lock().unwrap();
            held.young.len() + held.old.len()
        };
        self.shards.iter().map(count).sum()
    }

    fn shard(&self, hash: &TokenHash) -> std::sync::MutexGuard<'_, Generations<V>> {
        // The last byte: the first ones are what the maps go by.
        self.shards[usize::from(hash[31]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Generations<V> {
    fn insert(&mut self, hash: TokenHash, value: V, half: usize) {
        self.old.remove(&hash);
        if self.young.len() >= half && !self.young.contains_key(&hash) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, value);
    }
}

/// Takes a part of a SHA-256 for the hash of it: nobody chooses where a token that was found good lands.
#[derive(Debug, Clone, Default)]
struct Identity(u64);

impl std::hash::BuildHasher for Identity {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl std::hash::Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}
