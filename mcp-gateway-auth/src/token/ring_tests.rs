use mcp_gateway_core::contract::ResourceStore as _;

use super::super::test_support::World;
use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn published(keys: &SigningKeys) -> Vec<String> {
    let set: serde_json::Value = serde_json::from_str(&keys.document()).unwrap();
    let id = |key: &serde_json::Value| key["kid"].as_str().unwrap().to_owned();
    set["keys"].as_array().unwrap().iter().map(id).collect()
}

async fn signer_of(keys: &SigningKeys) -> String {
    let token = keys.sign("x", b"{}").await.unwrap();
    jws::Jws::parse(token.as_bytes()).unwrap().header.kid.unwrap()
}

#[tokio::test]
async fn a_key_is_published_before_it_signs_and_kept_until_its_last_token_has_ended() {
    let world = World::new().await;
    let first = signer_of(&world.keys).await;
    world.keys.rotate().await.unwrap();
    let [old, new] = <[String; 2]>::try_from(published(&world.keys)).unwrap();
    assert_eq!(old, first);
    world.clock.advance(10 * MINUTE - Duration::from_millis(1));
    assert_eq!(signer_of(&world.keys).await, first, "readers of the document may not have the new key yet");
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(signer_of(&world.keys).await, new);

    let keep = SigningKeyOptions::default().keep;
    world.clock.advance(keep - 10 * MINUTE);
    world.keys.rotate().await.unwrap();
    assert!(published(&world.keys).contains(&first), "a token that the first key signed may still live");
    world.clock.advance(10 * MINUTE);
    world.keys.rotate().await.unwrap();
    assert!(!published(&world.keys).contains(&first));
}

#[tokio::test]
async fn a_full_ring_says_when_it_can_turn_again_and_an_emergency_does_not_wait() {
    let world = World::new().await;
    for _ in 1..SigningKeys::KEYS {
        world.keys.rotate().await.unwrap();
    }
    let SigningKeyError::TooSoon { until } = world.keys.rotate().await.unwrap_err() else { panic!("it is full") };
    let options = SigningKeyOptions::default();
    assert_eq!(until, world.clock.now() + options.publish_ahead + options.keep);
    world.keys.rotate_now().await.unwrap();
    assert_eq!(published(&world.keys), [signer_of(&world.keys).await]);
}

#[tokio::test]
async fn turns_on_its_own_after_its_time_and_not_earlier() {
    let world = World::new().await;
    world.clock.advance(SigningKeyOptions::default().rotate_after - Duration::from_millis(1));
    assert!(!world.keys.rotate_if_due(None).await.unwrap());
    world.clock.advance(Duration::from_millis(1));
    assert!(world.keys.rotate_if_due(None).await.unwrap());
    assert!(!world.keys.rotate_if_due(None).await.unwrap(), "once is enough");
}

#[tokio::test]
async fn of_several_replicas_one_turns_a_ring_that_is_due() {
    let world = World::new().await;
    let second = SigningKeys::open(world.ring(), world.clock.clone(), SigningKeyOptions::default()).await.unwrap();
    world.clock.advance(SigningKeyOptions::default().rotate_after);
    assert!(world.keys.rotate_if_due(None).await.unwrap());
    // The test's one thread has not let the second hear of it.
    assert!(!second.rotate_if_due(None).await.unwrap());
    assert_eq!(published(&second).len(), 2);
}

#[tokio::test]
async fn every_replica_has_one_ring_and_follows_it() {
    let world = World::new().await;
    let open = || SigningKeys::open(world.ring(), world.clock.clone(), SigningKeyOptions::default());
    let (second, third) = (open().await.unwrap(), open().await.unwrap());
    assert_eq!(published(&world.keys), published(&second));
    let (one, other) = tokio::join!(world.keys.rotate(), second.rotate());
    one.unwrap();
    other.unwrap();
    // The third heard of it by the feed alone.
    while published(&third).len() < 3 {
        tokio::task::yield_now().await;
    }
    world.keys.refresh().await.unwrap();
    assert_eq!(published(&world.keys), published(&third));

    let other = SigningKeyOptions { name: "upstream".into(), ..SigningKeyOptions::default() };
    let other = SigningKeys::open(world.ring(), world.clock.clone(), other).await.unwrap();
    assert!(published(&other).iter().all(|id| !published(&third).contains(id)), "a ring of its own");
}

#[tokio::test]
async fn private_keys_are_sealed_at_rest_and_published_nowhere() {
    let world = World::new().await;
    let page = world.store.list(&Query::all(SigningKeyRing::KIND)).await.unwrap();
    let kept = std::str::from_utf8(&page.records[0].value).unwrap();
    let ring = world.ring::<SigningKeyRing>().get("access").await.unwrap().unwrap().value;
    let private = ring.keys[0].private.expose();
    assert!(private.len() > 100 && !kept.contains(private), "{kept}");
    assert!(kept.contains(r#""private":"v1."#), "{kept}");
    assert!(!format!("{ring:?} {:?}", world.keys).contains(private));
    let document = world.keys.document();
    assert!(!document.contains(r#""d""#) && !document.contains(private), "{document}");
}
