use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::contract::{Kind, SystemClock};
use crate::memory::{MemoryKeys, MemoryStore};

/// A clock that the test sets.
struct TestClock(Mutex<Timestamp>);

impl TestClock {
    fn pass(&self, time: Duration) {
        let mut now = self.0.lock().unwrap();
        *now = now.saturating_add(time).unwrap();
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic()
    }
}

struct World {
    clock: Arc<TestClock>,
    store: Arc<MemoryStore>,
    kms: Arc<MemoryKeys>,
}

impl World {
    fn new() -> Self {
        Self {
            clock: Arc::new(TestClock(Mutex::new(Timestamp::from_second(1_800_000_000).unwrap()))),
            store: Arc::new(MemoryStore::new(Arc::new(SystemClock))),
            kms: Arc::new(MemoryKeys::new()),
        }
    }

    async fn sealer(&self) -> Arc<Sealer> {
        self.with(SealerOptions::default()).await
    }

    async fn with(&self, options: SealerOptions) -> Arc<Sealer> {
        Sealer::open_with(self.store.clone(), self.kms.clone(), self.clock.clone(), options).await.unwrap()
    }
}

fn key(tenant: &str, kind: &'static str, id: &str) -> Key {
    Key::new(TenantId::new(tenant), Kind::logged(kind), id)
}

#[tokio::test]
async fn a_sealed_field_opens_in_its_place_alone() {
    let sealer = World::new().sealer().await;
    sealer.prepare(&TenantId::new("other")).await.unwrap();
    let here = key("default", "entry", "a");
    for plain in ["", "secret", "ü\0", &"x".repeat(100_000)] {
        let sealed = sealer.seal(&here, "/f", plain).unwrap();
        assert_eq!(sealer.open(&here, "/f", &sealed).unwrap(), plain);
        assert_ne!(sealer.seal(&here, "/f", plain).unwrap(), sealed, "equal secrets do not read alike");
    }
    let sealed = sealer.seal(&here, "/f", "secret").unwrap();
    let elsewhere = [
        (key("other", "entry", "a"), "/f"),
        (key("default", "server", "a"), "/f"),
        (key("default", "entry", "b"), "/f"),
        (here.clone(), "/g"),
    ];
    for (key, field) in elsewhere {
        assert_eq!(sealer.open(&key, field, &sealed).unwrap_err().kind(), StoreErrorKind::Corrupt);
    }
    assert_eq!(sealer.open(&here, "/f", "v1.2.AAAA").unwrap_err().kind(), StoreErrorKind::Unavailable);
    for bad in ["", "secret", "v1", "v1.1", "v1.1.", "v2.1.AAAA", "v1.x.AAAA", "v1.1.AAAA", "v1.1.*"] {
        assert_eq!(sealer.open(&here, "/f", bad).unwrap_err().kind(), StoreErrorKind::Corrupt, "{bad}");
    }
    let position = sealed.len() - 5;
    let mut flipped = sealed.into_bytes();
    flipped[position] = if flipped[position] == b'A' { b'B' } else { b'A' };
    assert!(sealer.open(&here, "/f", std::str::from_utf8(&flipped).unwrap()).is_err());
}

#[tokio::test]
async fn a_tenant_without_a_key_is_refused_until_prepared() {
    let sealer = World::new().sealer().await;
    let strange = key("acme", "entry", "a");
    assert_eq!(sealer.seal(&strange, "/f", "x").unwrap_err().kind(), StoreErrorKind::Unavailable);
    sealer.prepare(&TenantId::new("acme")).await.unwrap();
    assert!(sealer.seal(&strange, "/f", "x").is_ok());
}

#[tokio::test]
async fn replicas_and_restarts_share_keys() {
    let world = World::new();
    let (one, two) = tokio::join!(world.sealer(), world.sealer());
    let here = key("default", "entry", "a");
    let sealed = one.seal(&here, "/f", "x").unwrap();
    assert_eq!(two.open(&here, "/f", &sealed).unwrap(), "x");
    drop((one, two));
    assert_eq!(world.sealer().await.open(&here, "/f", &sealed).unwrap(), "x");
    let page = world.store.list(&Query::all(DataKey::KIND)).await.unwrap();
    assert_eq!(page.records.len(), 1, "both made the same first key");
    // Another master key opens nothing and says so.
    let stranger = Sealer::open(world.store.clone(), Arc::new(MemoryKeys::new()), world.clock.clone()).await;
    assert!(matches!(stranger, Err(SealError::Keys(KeyManagementError::UnknownMaster(_)))));
}

#[tokio::test]
async fn a_new_key_seals_when_everybody_has_it() {
    let world = World::new();
    let (one, two) = (world.sealer().await, world.sealer().await);
    let here = key("default", "entry", "a");
    let old = one.seal(&here, "/f", "x").unwrap();
    one.rotate_if_due().await.unwrap();
    assert!(one.seal(&here, "/f", "x").unwrap().starts_with("v1.1."), "nothing was due");

    world.clock.pass(Duration::from_secs(90 * 24 * 3_600));
    one.rotate_if_due().await.unwrap();
    one.rotate_if_due().await.unwrap();
    world.clock.pass(Duration::from_secs(9));
    assert!(one.seal(&here, "/f", "x").unwrap().starts_with("v1.1."));
    world.clock.pass(Duration::from_secs(1));
    let new = one.seal(&here, "/f", "x").unwrap();
    assert!(new.starts_with("v1.2."), "{new}");
    // The other replica learns of it by the feed.
    for _ in 0..200 {
        if two.open(&here, "/f", &new).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(two.open(&here, "/f", &new).unwrap(), "x");
    assert_eq!(two.open(&here, "/f", &old).unwrap(), "x");
}

#[tokio::test]
async fn the_uses_of_a_key_are_bounded() {
    let world = World::new();
    let options = SealerOptions { rotate_after_uses: 3, max_uses: 5, ..SealerOptions::default() };
    let sealer = world.with(options).await;
    let here = key("default", "entry", "a");
    for _ in 0..5 {
        sealer.seal(&here, "/f", "x").unwrap();
    }
    assert_eq!(sealer.seal(&here, "/f", "x").unwrap_err().kind(), StoreErrorKind::Unavailable);
    sealer.rotate_if_due().await.unwrap();
    world.clock.pass(Duration::from_secs(10));
    assert!(sealer.seal(&here, "/f", "x").unwrap().starts_with("v1.2."));
}

#[tokio::test]
async fn no_call_asks_the_key_management() {
    let world = World::new();
    let sealer = world.sealer().await;
    world.kms.cut_off(true);
    let here = key("default", "entry", "a");
    let sealed = sealer.seal(&here, "/f", "x").unwrap();
    assert_eq!(sealer.open(&here, "/f", &sealed).unwrap(), "x");
    let start = Sealer::open(world.store.clone(), world.kms.clone(), world.clock.clone()).await;
    assert!(matches!(start, Err(SealError::Keys(KeyManagementError::Unavailable(_)))));
}
