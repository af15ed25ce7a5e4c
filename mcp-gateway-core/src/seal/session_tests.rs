use std::sync::Mutex;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::contract::{Clock, SystemClock};
use crate::memory::{MemoryKeys, MemoryStore};
use crate::record::TenantId;
use crate::seal::{RingOptions, RotateError};

const START: i64 = 1_800_000_000;
const DAY: u64 = 24 * 3_600;

/// A clock that the test sets.
struct TestClock(Mutex<Timestamp>);

impl TestClock {
    fn pass(&self, seconds: u64) {
        let mut now = self.0.lock().unwrap();
        *now = now.saturating_add(Duration::from_secs(seconds)).unwrap();
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
            clock: Arc::new(TestClock(Mutex::new(Timestamp::from_second(START).unwrap()))),
            store: Arc::new(MemoryStore::new(Arc::new(SystemClock))),
            kms: Arc::new(MemoryKeys::new()),
        }
    }

    async fn replica(&self) -> SessionSealer {
        let (store, kms, clock) = (self.store.clone(), self.kms.clone(), self.clock.clone());
        SessionSealer::new(SessionKeyRing::open(store, kms, clock, RingOptions::default()).await.unwrap())
    }
}

fn key(secret: u8) -> RingKey {
    RingKey::new(7, Timestamp::UNIX_EPOCH, &[secret; 32])
}

fn session(upstream_id: &str) -> SessionPlain {
    SessionPlain {
        upstream_id: upstream_id.into(),
        incarnation: Incarnation("everything~1".into()),
        issued_at: Timestamp::from_second(START).unwrap(),
        flags: 0x1234,
    }
}

fn principals() -> Vec<Principal> {
    let ada = Principal::new("local", "ada");
    let mut others = vec![
        ada.clone(),
        Principal::new("local", "bob").with_actor(ada.actor.clone()),
        Principal::new("https://idp.example", "ada"),
        ada.clone().with_tenant(TenantId::new("acme")),
        // The parts are told apart: not only their concatenation counts.
        Principal::new("loca", "lada").with_actor(ada.actor.clone()),
    ];
    others.push(ada.clone().with_actor(Actor { kind: ActorKind::ApiKey, ..ada.actor.clone() }));
    others.push(ada.clone().with_actor(Actor { id: "key2".into(), ..ada.actor.clone() }));
    others
}

#[test]
fn belongs_to_one_principal_at_one_server() {
    let (key, all) = (key(1), principals());
    for (mine, owner) in all.iter().enumerate() {
        let sealed = decode(seal(&key, &session("id"), SessionOwner::new("s", owner)).unwrap().as_bytes()).unwrap();
        for (other, principal) in all.iter().enumerate() {
            let opened = open(&key, &sealed, SessionOwner::new("s", principal));
            assert_eq!(opened.is_some(), mine == other, "{owner:?} {principal:?}");
        }
        assert!(open(&key, &sealed, SessionOwner::new("t", owner)).is_none());
    }
    // A new token, other scopes, another expiry: the same principal.
    let ada = &all[0];
    let sealed = decode(seal(&key, &session("id"), SessionOwner::new("s", ada)).unwrap().as_bytes()).unwrap();
    let refreshed = ada.clone().with_scopes([]).with_expiry(Some(Timestamp::MAX));
    assert_eq!(open(&key, &sealed, SessionOwner::new("s", &refreshed)), Some(session("id")));
    assert!(open(&self::key(2), &sealed, SessionOwner::new("s", ada)).is_none());
}

#[test]
fn limits_hold_at_their_edges() {
    let (key, ada) = (key(1), Principal::new("local", "ada"));
    let owner = SessionOwner::new("s", &ada);
    let longest = SessionPlain {
        incarnation: Incarnation("i".repeat(SessionSealer::INCARNATION).into()),
        ..session(&"x".repeat(SessionSealer::UPSTREAM_ID))
    };
    let sealed = seal(&key, &longest, owner).unwrap();
    assert!(sealed.len() <= SessionSealer::LONGEST);
    assert_eq!(open(&key, &decode(sealed.as_bytes()).unwrap(), owner), Some(longest));
    assert_eq!(decode(&[b'A'; SessionSealer::LONGEST + 1]), None);
    for bad in ["", &"x".repeat(SessionSealer::UPSTREAM_ID + 1), "a b", "a\tb", "a\x7f", "ä", "\0"] {
        assert_eq!(seal(&key, &session(bad), owner), Err(SessionError::UpstreamId), "{bad:?}");
    }
    for good in ["!", "~", "a.b.c", "0"] {
        assert!(seal(&key, &session(good), owner).is_ok());
    }
    let incarnation = Incarnation("i".repeat(SessionSealer::INCARNATION + 1).into());
    let long = SessionPlain { incarnation, ..session("x") };
    assert_eq!(seal(&key, &long, owner), Err(SessionError::Incarnation));
}

#[tokio::test]
async fn any_replica_opens_and_the_same_session_reads_the_same() {
    let world = World::new();
    let (one, two) = tokio::join!(world.replica(), world.replica());
    let ada = Principal::new("local", "ada");
    let owner = SessionOwner::new("s", &ada);
    let sealed = one.seal(&session("id"), owner).unwrap();
    assert_eq!(two.seal(&session("id"), owner).unwrap(), sealed);
    let opened = two.open(sealed.as_bytes(), owner).unwrap();
    assert_eq!(opened.plain, session("id"));
    assert_eq!(one.hash(sealed.as_bytes()), Some(opened.hash.clone()));
    assert_eq!(opened.hash.len(), 32);
    assert_ne!(one.hash(one.seal(&session("other"), owner).unwrap().as_bytes()), Some(opened.hash));
    // A restart, with the key provider away at the time of the call.
    let three = world.replica().await;
    world.kms.cut_off(true);
    assert!(three.open(sealed.as_bytes(), owner).is_some());
}

#[tokio::test]
async fn the_ring_turns_without_ending_a_session() {
    let world = World::new();
    let (one, two) = (world.replica().await, world.replica().await);
    let ada = Principal::new("local", "ada");
    let owner = SessionOwner::new("s", &ada);
    let first = one.seal(&session("id"), owner).unwrap();
    one.ring.rotate().await.unwrap();
    world.clock.pass(9);
    assert_eq!(one.seal(&session("id"), owner).unwrap(), first, "the new key waits");
    world.clock.pass(1);
    let second = one.seal(&session("id"), owner).unwrap();
    assert_ne!(second, first);
    // The other replica has learnt of the key by the feed, well before it is used.
    for _ in 0..200 {
        if two.open(second.as_bytes(), owner).is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(two.open(second.as_bytes(), owner).is_some());
    assert!(two.open(first.as_bytes(), owner).is_some());

    one.ring.rotate().await.unwrap();
    let until = Timestamp::from_second(START + 10 + 30 * DAY.cast_signed()).unwrap();
    match one.ring.rotate().await {
        Err(RotateError::TooSoon { until: named }) => assert_eq!(named, until),
        other => panic!("{other:?}"),
    }
    assert!(!one.ring.rotate_if_due(None).await.unwrap());
    // When the first key seals nothing that still lives, it goes.
    world.clock.pass(30 * DAY);
    assert!(one.ring.rotate_if_due(None).await.unwrap());
    assert!(one.open(first.as_bytes(), owner).is_none());
}

#[tokio::test]
async fn old_sessions_end() {
    let world = World::new();
    let sealer = world.replica().await;
    let ada = Principal::new("local", "ada");
    let owner = SessionOwner::new("s", &ada);
    let sealed = sealer.seal(&session("id"), owner).unwrap();
    world.clock.pass(30 * DAY);
    assert!(sealer.open(sealed.as_bytes(), owner).is_some());
    world.clock.pass(1);
    assert!(sealer.open(sealed.as_bytes(), owner).is_none());
}

#[tokio::test]
async fn an_emergency_ends_every_session_at_once() {
    let world = World::new();
    let sealer = world.replica().await;
    let ada = Principal::new("local", "ada");
    let owner = SessionOwner::new("s", &ada);
    let sealed = sealer.seal(&session("id"), owner).unwrap();
    sealer.ring.rotate_now().await.unwrap();
    assert!(sealer.open(sealed.as_bytes(), owner).is_none());
    assert_eq!(sealer.hash(sealed.as_bytes()), None);
    assert!(sealer.open(sealer.seal(&session("id"), owner).unwrap().as_bytes(), owner).is_some());
}

#[tokio::test]
async fn of_several_replicas_one_turns_a_ring_that_is_due() {
    let world = World::new();
    let (one, two) = (world.replica().await, world.replica().await);
    world.clock.pass(one.ring.max_age().as_secs() / 2);
    assert!(one.ring.rotate_if_due(None).await.unwrap());
    // The test's one thread has not let the second hear of it.
    assert!(!two.ring.rotate_if_due(None).await.unwrap(), "once is enough");
}

#[tokio::test]
async fn replicas_that_turn_at_once_agree() {
    let world = World::new();
    let (one, two) = (world.replica().await, world.replica().await);
    let (a, b) = tokio::join!(one.ring.rotate(), two.ring.rotate());
    assert!(a.is_ok() && b.is_ok());
    one.ring.refresh().await.unwrap();
    world.clock.pass(10);
    assert_eq!(one.ring.sealing_key().unwrap().id(), two.ring.sealing_key().unwrap().id());
}

fn sessions() -> impl Strategy<Value = SessionPlain> {
    ("[!-~]{1,1024}", "[a-z~0-9é]{0,128}", 0..4_000_000_000_i64, any::<u16>()).prop_map(|(id, name, time, flags)| {
        SessionPlain {
            upstream_id: id.into(),
            incarnation: Incarnation(name.into()),
            issued_at: Timestamp::from_second(time).unwrap(),
            flags,
        }
    })
}

proptest! {
    #[test]
    fn every_session_comes_back(plain in sessions(), server in ".{0,32}", issuer in ".{0,32}", id in ".{0,32}") {
        let (key, principal) = (key(1), Principal::new(issuer, id));
        let owner = SessionOwner::new(&server, &principal);
        let sealed = seal(&key, &plain, owner).unwrap();
        prop_assert_eq!(&seal(&key, &plain, owner).unwrap(), &sealed);
        prop_assert!(sealed.as_bytes().iter().all(|byte| (0x21..=0x7e).contains(byte)));
        prop_assert_eq!(open(&key, &decode(sealed.as_bytes()).unwrap(), owner), Some(plain));
    }

    #[test]
    fn every_changed_bit_is_noticed(plain in sessions(), place: prop::sample::Index, bit in 0..8_u8) {
        let (key, principal) = (key(1), Principal::new("local", "ada"));
        let owner = SessionOwner::new("s", &principal);
        let mut text = seal(&key, &plain, owner).unwrap().as_bytes().to_vec();
        let place = place.index(text.len());
        text[place] ^= 1 << bit;
        let known = |bytes: &Vec<u8>| key_id(bytes) == Some(7);
        let opened = decode(&text).filter(known).and_then(|bytes| open(&key, &bytes, owner));
        prop_assert_eq!(opened, None);
    }

    #[test]
    fn cut_or_extended_text_is_noticed(plain in sessions(), place: prop::sample::Index, more in "[A-Za-z0-9_-]{1,8}") {
        let (key, principal) = (key(1), Principal::new("local", "ada"));
        let owner = SessionOwner::new("s", &principal);
        let text = seal(&key, &plain, owner).unwrap().as_bytes().to_vec();
        let cut = &text[..place.index(text.len())];
        prop_assert_eq!(decode(cut).and_then(|bytes| open(&key, &bytes, owner)), None);
        let longer = [&text[..], more.as_bytes()].concat();
        prop_assert_eq!(decode(&longer).and_then(|bytes| open(&key, &bytes, owner)), None);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_open(data: Vec<u8>) {
        check(&data);
    }

    #[test]
    fn packed_bytes_never_panic(time: i64, flags: u16, length in 0..600_u16, rest in prop::collection::vec(0x20..0x80_u8, 0..700)) {
        let head = [&time.to_be_bytes()[..], &flags.to_be_bytes(), &length.to_be_bytes()].concat();
        check(&[&head[..], &rest].concat());
    }
}
