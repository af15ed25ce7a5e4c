//! What a call with a remembered token costs in allocations. One test, one thread: the counter is the process's.

use std::sync::Arc;

use mcp_gateway_auth::token::{
    NewToken, Person, SigningKeyOptions, SigningKeys, Standing, TokenAuthenticator, TokenIssuer,
};
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{Authenticator as _, Clock as _, SystemClock};
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{Dependence, Mount, Resources, Roles, Subject, TenantId};
use mcp_gateway_core::seal::Sealer;
use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Everybody has the role that most people have.
struct WithRole(Snapshots);

impl Standing for WithRole {
    fn ended(&self, dependence: &Dependence) -> bool {
        self.0.ended(dependence)
    }

    fn refuses(&self) -> bool {
        Standing::refuses(&self.0)
    }

    fn person(&self, _: &Subject) -> Option<Person> {
        Some(Person { roles: Roles::BASIC, ..Person::default() })
    }
}

#[tokio::test]
async fn a_remembered_token_allocates_nothing() {
    let clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
    let options = SnapshotOptions::new(sealer.clone(), Arc::new(|_: &_| unreachable!("there is no entry")));
    // Not driven: nothing changes, and nobody else allocates.
    let (snapshots, _driver) = Snapshots::follow(store.clone(), options).await.unwrap();
    let standing = Arc::new(WithRole(snapshots));
    let ring = Resources::new(store, sealer, TenantId::default());
    let keys = SigningKeys::open(ring, clock.clone(), SigningKeyOptions::default()).await.unwrap();
    let resource = Mount::new("https://gateway.example", "/mcp-connect").unwrap().resource("github");
    let issuer = TokenIssuer::new("https://gateway.example", keys.clone(), clock.clone());
    let new = NewToken {
        subject: &Subject::local("ada"),
        client_id: "laptop",
        resource: &resource,
        scope: "mcp",
        epoch: clock.now(),
        person_epoch: 0,
        grant: Some("grant"),
        session: Some("session"),
    };
    let token = issuer.issue(&new).await.unwrap().token;
    let authenticator = TokenAuthenticator::builder(standing, clock).own("https://gateway.example", keys).build();

    let request = http::Request::get("/").header("authorization", format!("Bearer {}", token.expose()));
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let first = authenticator.authenticate(&parts, &resource).await.unwrap().unwrap();
    assert_eq!(first.roles, Roles::BASIC);
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
    drop(std::hint::black_box(Box::new(allocated)));
    assert_eq!(allocated, 0, "allocations in 1,000 calls");
    assert!(dhat::HeapStats::get().total_blocks > before, "the counter counts");
}
