//! What a call with a key costs in allocations. One test, one thread: the counter is the process's.

use std::collections::HashMap;
use std::sync::Arc;

use mcp_gateway_auth::api_key::{ApiKeyAuthenticator, KeyDirectory, LastUsed, NewKeyText};
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{Authenticator as _, Clock as _, Resource, SystemClock};
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{ApiKey, Resources, Scope, Subject, TenantId};
use mcp_gateway_core::seal::Sealer;
use mcp_gateway_core::snapshot::KeyFacts;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

struct Directory(HashMap<Box<str>, Arc<KeyFacts>>);

impl KeyDirectory for Directory {
    fn key(&self, id: &str) -> Option<Arc<KeyFacts>> {
        self.0.get(id).cloned()
    }

    fn refuses(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_warm_key_allocates_nothing() {
    let clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
    let last_used = Arc::new(LastUsed::new(Resources::new(store, sealer, TenantId::default())));

    let key = NewKeyText::generate();
    let record = ApiKey {
        name: "laptop".into(),
        secret_sha256: key.secret_sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        subject: Subject::local("ada"),
        owner: false,
        scopes: vec![Scope::Mcp],
        servers: vec!["*".into()],
        created_at: clock.now(),
        expires_at: None,
        rate: None,
    };
    let facts = KeyFacts::new(&TenantId::default(), &key.id, &record).unwrap();
    let directory = Directory(HashMap::from([(key.id.clone(), Arc::new(facts))]));
    let authenticator = ApiKeyAuthenticator::new(Arc::new(directory), clock).with_last_used(last_used);

    let request = http::Request::get("/").header("authorization", format!("Bearer {}", key.text.expose()));
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let resource = Resource { url: "https://g/mcp-connect/x".into(), metadata: None, server: Some("x".into()) };
    let call = || match authenticator.authenticate(&parts, &resource) {
        MaybeReady::Ready(Ok(Some(principal))) => principal,
        other => panic!("{other:?}"),
    };
    for _ in 0..100 {
        drop(call());
    }

    let _profiler = dhat::Profiler::builder().testing().build();
    let before = dhat::HeapStats::get().total_blocks;
    for _ in 0..1_000 {
        drop(call());
    }
    let allocated = dhat::HeapStats::get().total_blocks - before;
    assert_eq!(allocated, 0, "allocations in 1,000 calls");
}
