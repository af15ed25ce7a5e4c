use std::time::Duration;

use mcp_gateway_core::conformance::ManualClock;
use mcp_gateway_core::contract::{StoreLimits, SystemClock};
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::record::TenantId;
use mcp_gateway_core::seal::Sealer;

use super::*;
use crate::api_key::KeyText;

struct World {
    clock: Arc<ManualClock>,
    last_used: Arc<LastUsed>,
    keys: ApiKeys,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
        let tenant = TenantId::default();
        let last_used = Arc::new(LastUsed::new(Resources::new(store.clone(), sealer.clone(), tenant.clone())));
        let keys = ApiKeys::new(Resources::new(store, sealer, tenant), last_used.clone(), clock.clone());
        Self { clock, last_used, keys }
    }

    async fn written(&self, id: &str) -> Option<(Timestamp, Revision)> {
        let stored = self.last_used.uses().get(id).await.unwrap();
        stored.map(|stored| (stored.value.last_used_at, stored.revision))
    }
}

fn ada() -> Principal {
    Principal::new("local", "ada")
}

fn owner() -> Principal {
    Principal::new("local", "owner").with_roles(Roles::OWNER)
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked() {
    let world = World::new().await;
    let created = world.keys.create(&ada(), NewKey::named("laptop")).await.unwrap();
    let text = KeyText::parse(created.key.expose().as_bytes()).unwrap();
    assert_eq!(text.id(), &*created.id);
    assert_eq!((&created.record.subject, created.record.owner), (&ada().subject, false));

    let info = world.keys.get(&created.id).await.unwrap().unwrap();
    assert_eq!((&info.record, info.revision, info.last_used_at), (&created.record, created.revision, None));
    let secret = &created.key.expose()[33..76];
    assert!(!format!("{:?}{created:?}", info.record).contains(secret), "the secret is kept nowhere");

    let second = world.keys.create(&owner(), NewKey::named("server")).await.unwrap();
    assert!(second.record.owner);
    let (page, next) = world.keys.list(None, None, 1).await.unwrap();
    let (rest, end) = world.keys.list(None, next.as_deref(), 1).await.unwrap();
    let mut ids = [page[0].id.clone(), rest[0].id.clone()];
    ids.sort();
    let mut expected = [created.id.clone(), second.id];
    expected.sort();
    assert_eq!(ids, expected);
    // Whether an exactly full last page knows that it is the last is the store's business.
    assert!(end.is_none() || world.keys.list(None, end.as_deref(), 1).await.unwrap().0.is_empty());

    assert!(world.keys.revoke(&created.id).await.unwrap().unwrap() > created.revision);
    assert!(world.keys.get(&created.id).await.unwrap().is_none());
    assert!(world.keys.revoke(&created.id).await.unwrap().is_none());
    for strange in ["", "a/b", "ä", &"a".repeat(300)] {
        assert!(world.keys.get(strange).await.unwrap().is_none());
        assert!(world.keys.revoke(strange).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn only_an_owner_speaks_for_others() {
    let world = World::new().await;
    let for_bob = || NewKey { subject: Some(Subject::local("bob")), ..NewKey::named("x") };
    assert!(matches!(world.keys.create(&ada(), for_bob()).await, Err(ApiKeyError::Forbidden)));
    let created = world.keys.create(&owner(), for_bob()).await.unwrap();
    assert_eq!(created.record.subject, Subject::local("bob"));
    assert!(!created.record.owner, "an owner's key for somebody else is no owner's key");
    let own = NewKey { subject: Some(ada().subject), ..NewKey::named("x") };
    assert!(world.keys.create(&ada(), own).await.is_ok());
}

#[tokio::test]
async fn every_field_is_checked_at_its_edge() {
    let world = World::new().await;
    let now = world.clock.now();
    let new = || NewKey::named("x");
    let servers = |count: usize| (0..count).map(|number| format!("s{number}")).collect::<Vec<_>>();
    let subject = |id: &str| Some(Subject::local(id));
    let good = [
        NewKey { name: "n".repeat(ApiKeyLimits::NAME), ..new() },
        NewKey { rate: Some(Rate { limit: 1, seconds: ApiKeyLimits::RATE_SECONDS }), ..new() },
        NewKey { servers: servers(ApiKeyLimits::SERVERS), ..new() },
        NewKey { expires_at: Some(now + Duration::from_secs(1)), ..new() },
        NewKey { subject: subject(&"i".repeat(ApiKeyLimits::SUBJECT - 5)), ..new() },
    ];
    for new in good {
        world.keys.create(&owner(), new).await.unwrap();
    }
    let bad = [
        ("name", NewKey { name: " ".into(), ..new() }),
        ("rate", NewKey { rate: Some(Rate { limit: 0, seconds: 60 }), ..new() }),
        ("rate", NewKey { rate: Some(Rate { limit: 1, seconds: 0 }), ..new() }),
        ("rate", NewKey { rate: Some(Rate { limit: 1, seconds: ApiKeyLimits::RATE_SECONDS + 1 }), ..new() }),
        ("name", NewKey { name: "n".repeat(ApiKeyLimits::NAME + 1), ..new() }),
        ("name", NewKey { name: "a\nb".into(), ..new() }),
        ("servers", NewKey { servers: vec![], ..new() }),
        ("servers", NewKey { servers: servers(ApiKeyLimits::SERVERS + 1), ..new() }),
        ("servers", NewKey { servers: vec!["*".into(), "time".into()], ..new() }),
        ("servers", NewKey { servers: vec!["Time".into()], ..new() }),
        ("scopes", NewKey { scopes: vec![], ..new() }),
        ("expiresAt", NewKey { expires_at: Some(now), ..new() }),
        ("subject", NewKey { subject: subject(""), ..new() }),
        ("subject", NewKey { subject: subject(&"i".repeat(ApiKeyLimits::SUBJECT - 4)), ..new() }),
        (
            "subject",
            NewKey { subject: Some(Subject { tenant: TenantId::new("acme"), ..Subject::local("ada") }), ..new() },
        ),
    ];
    for (field, new) in bad {
        match world.keys.create(&owner(), new.clone()).await {
            Err(ApiKeyError::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{new:?}: {other:?}"),
        }
    }
    let twice =
        NewKey { scopes: vec![Scope::Mcp, Scope::Mcp], servers: vec!["b".into(), "a".into(), "b".into()], ..new() };
    let record = world.keys.create(&owner(), twice).await.unwrap().record;
    assert_eq!((record.scopes, record.servers), (vec![Scope::Mcp], vec!["a".to_owned(), "b".to_owned()]));
}

#[tokio::test]
async fn uses_are_seen_at_once_and_written_in_batches() {
    let world = World::new().await;
    let created = world.keys.create(&ada(), NewKey::named("x")).await.unwrap();
    let id: Arc<str> = created.id.clone().into();
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    let after = |seconds: u64| start + Duration::from_secs(seconds);
    for second in [0, 5, 3] {
        world.last_used.touch(&id, after(second));
    }
    assert_eq!(world.keys.get(&id).await.unwrap().unwrap().last_used_at, Some(after(5)));
    assert!(world.written(&id).await.is_none(), "nothing is written before its time");
    world.last_used.flush().await.unwrap();
    let (at, revision) = world.written(&id).await.unwrap();
    assert_eq!(at, after(5));
    world.last_used.flush().await.unwrap();
    assert_eq!(world.written(&id).await.unwrap().1, revision, "an unused key is not written again");
    assert_eq!(world.keys.get(&id).await.unwrap().unwrap().revision, created.revision, "the key's ETag stays");

    // More than a batch; and the first, long unused by then, is no longer in memory but still known.
    let many: Vec<Arc<str>> = (0..StoreLimits::WRITES + 1).map(|number| format!("k{number}").into()).collect();
    many.iter().for_each(|id| world.last_used.touch(id, after(7_200)));
    world.last_used.flush().await.unwrap();
    assert!(world.last_used.seen(&id).is_none());
    assert_eq!(world.keys.get(&id).await.unwrap().unwrap().last_used_at, Some(after(5)));
    for id in many {
        assert_eq!(world.written(&id).await.unwrap().0, after(7_200));
    }
    world.keys.revoke(&id).await.unwrap();
    assert!(world.written(&id).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_key_is_written_at_most_once_a_minute() {
    let world = World::new().await;
    let task = {
        let last_used = world.last_used.clone();
        tokio::spawn(async move { last_used.run().await })
    };
    let id: Arc<str> = "k".into();
    let start = Timestamp::from_second(1_800_000_000).unwrap();
    let mut revisions = std::collections::BTreeSet::new();
    for second in 0..180_u64 {
        world.last_used.touch(&id, start + Duration::from_secs(second));
        tokio::time::sleep(Duration::from_secs(1)).await;
        revisions.extend(world.written(&id).await.map(|(_, revision)| revision));
    }
    assert!((2..=3).contains(&revisions.len()), "{} writes in three minutes", revisions.len());
    task.abort();
}

#[tokio::test]
async fn no_key_is_good_for_longer_than_permitted() {
    let world = World::new().await;
    let longest = Duration::from_secs(30 * 24 * 3_600);
    let keys = world.keys.clone().ending_within(Some(longest));
    let latest = world.clock.now().saturating_add(longest).unwrap();
    let ending = |end| NewKey { expires_at: end, ..NewKey::named("k") };
    for end in [Some(latest), None] {
        assert_eq!(keys.create(&ada(), ending(end)).await.unwrap().record.expires_at, Some(latest));
    }
    let later = latest.saturating_add(Duration::from_secs(1)).ok();
    let refused = keys.create(&ada(), ending(later)).await;
    assert!(matches!(refused, Err(ApiKeyError::Invalid { field: "expiresAt", .. })));
    assert_eq!(world.keys.create(&ada(), ending(later)).await.unwrap().record.expires_at, later);
}

#[tokio::test]
async fn one_subjects_keys_are_listed_apart() {
    let world = World::new().await;
    let mine = world.keys.create(&ada(), NewKey::named("mine")).await.unwrap();
    world.keys.create(&owner(), NewKey::named("another's")).await.unwrap();
    let (page, next) = world.keys.list(Some(&ada().subject), None, 10).await.unwrap();
    assert_eq!((page.len(), &page[0].id, next), (1, &mine.id, None));
}
