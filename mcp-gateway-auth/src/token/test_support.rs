//! What the tests of tokens share.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::conformance::ManualClock;
use mcp_gateway_core::contract::{Clock, KeyRing, KeyRingError, Resource, Signer, VerifyingKey};
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{Dependence, Mount, Resources, Revoked, Roles, Subject, TenantId};
use mcp_gateway_core::seal::Sealer;

use super::{
    NewToken, Person, SigningKeyOptions, SigningKeys, Standing, TokenAuthenticator, TokenIssuer, TokenOptions,
};

pub(crate) const ISSUER: &str = "https://gateway.example";

/// Standing that a test decides.
#[derive(Default)]
pub(crate) struct Scripted {
    pub(crate) ended: Mutex<HashMap<Box<str>, Option<Timestamp>>>,
    pub(crate) cut_off: Mutex<bool>,
    pub(crate) roles: Mutex<HashMap<Arc<str>, Roles>>,
    pub(crate) gone: Mutex<HashSet<Arc<str>>>,
    pub(crate) epoch: Mutex<u64>,
}

impl Scripted {
    pub(crate) fn end(&self, what: Revoked<'_>) {
        self.ended.lock().unwrap().insert(what.id(), None);
    }
}

impl Standing for Scripted {
    fn ended(&self, dependence: &Dependence) -> bool {
        let ended = self.ended.lock().unwrap();
        let ends = |before: &Option<Timestamp>| before.is_none_or(|before| dependence.epoch <= before);
        dependence.on.iter().any(|id| ended.get(id).is_some_and(ends))
    }

    fn refuses(&self) -> bool {
        *self.cut_off.lock().unwrap()
    }

    fn person(&self, subject: &Subject) -> Option<Person> {
        if self.gone.lock().unwrap().contains(&subject.id) {
            return None;
        }
        let roles = self.roles.lock().unwrap().get(&subject.id).copied().unwrap_or(Roles::NONE);
        Some(Person { roles, epoch: *self.epoch.lock().unwrap() })
    }
}

/// A ring that counts the signatures that are checked.
pub(crate) struct Counting {
    pub(crate) ring: Arc<dyn KeyRing>,
    pub(crate) checked: Arc<AtomicUsize>,
}

struct CountingKey(Arc<dyn VerifyingKey>, Arc<AtomicUsize>);

impl VerifyingKey for CountingKey {
    fn algorithm(&self) -> &'static str {
        self.0.algorithm()
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.verify(message, signature)
    }
}

impl KeyRing for Counting {
    fn key(&self, id: &str) -> MaybeReady<Result<Option<Arc<dyn VerifyingKey>>, KeyRingError>> {
        let MaybeReady::Ready(key) = self.ring.key(id) else { panic!("our own keys are in memory") };
        let counted = |key| Arc::new(CountingKey(key, Arc::clone(&self.checked))) as Arc<dyn VerifyingKey>;
        key.map(|key| key.map(counted)).into()
    }

    fn document(&self) -> Arc<str> {
        self.ring.document()
    }
}

/// An issuer, its keys, and an authenticator that accepts its tokens.
pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) keys: Arc<SigningKeys>,
    pub(crate) issuer: TokenIssuer,
    pub(crate) standing: Arc<Scripted>,
    pub(crate) checked: Arc<AtomicUsize>,
    pub(crate) authenticator: TokenAuthenticator,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(TokenOptions::default()).await
    }

    pub(crate) async fn with(options: TokenOptions) -> Self {
        let clock = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
        let ring = Resources::new(store.clone(), sealer.clone(), TenantId::default());
        let keys = SigningKeys::open(ring, clock.clone(), SigningKeyOptions::default()).await.unwrap();
        let issuer = TokenIssuer::new(ISSUER, keys.clone(), clock.clone());
        let (standing, checked) = (Arc::new(Scripted::default()), Arc::new(AtomicUsize::new(0)));
        let counting = Counting { ring: keys.clone(), checked: checked.clone() };
        let authenticator = TokenAuthenticator::builder(standing.clone(), clock.clone())
            .own(ISSUER, Arc::new(counting))
            .options(options)
            .build();
        Self { clock, store, sealer, keys, issuer, standing, checked, authenticator }
    }

    pub(crate) fn ring<T: mcp_gateway_core::record::Resource>(&self) -> Resources<T> {
        Resources::new(self.store.clone(), self.sealer.clone(), TenantId::default())
    }

    /// A token of Ada's for a server.
    pub(crate) async fn token(&self, server: &str) -> String {
        let subject = Subject::local("ada");
        let new = NewToken {
            subject: &subject,
            client_id: "laptop",
            resource: &resource(server),
            scope: "mcp openid",
            epoch: self.clock.now(),
            person_epoch: *self.standing.epoch.lock().unwrap(),
            grant: Some("grant-1"),
            session: Some("session-1"),
        };
        self.issuer.issue(&new).await.unwrap().token.expose().to_owned()
    }

    /// Signs any claims with the ring's key.
    pub(crate) async fn signed(&self, typ: &'static str, claims: &serde_json::Value) -> String {
        self.keys.sign(typ, claims.to_string().as_bytes()).await.unwrap()
    }

    pub(crate) fn checked(&self) -> usize {
        self.checked.load(Ordering::SeqCst)
    }
}

pub(crate) fn resource(server: &str) -> Resource {
    Mount::new(ISSUER, "/mcp-connect").unwrap().resource(server)
}
