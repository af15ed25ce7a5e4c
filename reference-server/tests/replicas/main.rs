//! Two gateways over one store: what one replica began, any other goes on with.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's helpers fail like the test, and it prints what it measures"
)]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "the upstream of these gateways")]

mod replicas;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use mcp_gateway_auth::user::{Asserted, IdentityKey};
use mcp_gateway_core::conformance::{FlakyStore, ManualClock};
use mcp_gateway_core::contract::{ResourceStore, SystemClock};
use mcp_gateway_core::memory::MemoryStore;
use mcp_gateway_core::record::{Principal, Roles, UserState};
#[cfg(feature = "postgres")]
use mcp_gateway_store::postgres::{self, Contract, PostgresOptions, PostgresStore};
use mcp_gateway_store::sqlite::{SqliteOptions, SqliteStore};
#[cfg(feature = "postgres")]
use mcp_gateway_test_postgres::Cluster;

use self::replicas::{Replicas, SECRET, newest_session_key, until};

/// Runs a test over each store that is shared within one process.
macro_rules! over_each_store {
    ($($name:ident => $test:ident;)+) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn over_memory() {
                $test(Arc::new(MemoryStore::new(Arc::new(SystemClock)))).await;
            }

            #[tokio::test]
            async fn over_sqlite() {
                let dir = tempfile::tempdir().unwrap();
                let store = SqliteStore::open(&dir.path().join("gateway.db"), SqliteOptions::default()).unwrap();
                $test(Arc::new(store)).await;
            }

            #[cfg(feature = "postgres")]
            #[tokio::test]
            async fn over_postgres() {
                let options = PostgresOptions::parse(&Cluster::shared().database()).unwrap();
                postgres::migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
                $test(Arc::new(PostgresStore::open(options).await.unwrap())).await;
            }
        }
    )+};
}

over_each_store! {
    a_session_of_one_replica_is_used_and_resumed_on_the_other => sessions;
    a_revoked_key_stops_on_both => revocation;
    a_token_of_a_disabled_person_stops_on_both => disabling;
    session_keys_turn_under_load => rotation;
}

async fn sessions(store: Arc<dyn ResourceStore>) {
    let replicas = Replicas::start(store).await;
    let [a, b] = &replicas.both;
    let (ada, bob) = (a.key("ada").await, b.key("bob").await);
    replicas.have(&[&ada, &bob]).await;

    let session = a.initialize(&ada.text).await;
    let answer = b.call(&ada.text, Some(&session)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.session.as_deref(), Some(&*session), "the client reads the same id from every replica");
    assert_eq!(replicas.upstream_sessions(), ["upstream-1"], "the server saw one session");

    // A stream that broke off is resumed on the other replica, and goes through its filters, too.
    let broken = a.interrupted(&ada.text, &session).await;
    let last = broken.last_event.expect("the event had an id");
    let resumed = b.resume(&ada.text, &session, &last).await;
    assert_eq!(resumed.status, StatusCode::OK, "{}", resumed.body);
    assert!(resumed.body.contains("after 7/3"), "the server got its own id: {}", resumed.body);
    assert!(!resumed.body.contains(SECRET), "the filter was passed by: {}", resumed.body);

    // Neither goes to anybody else's hands, on either replica.
    let before = replicas.requests();
    for replica in [a, b] {
        assert_eq!(replica.resume(&bob.text, &session, &last).await.status, StatusCode::NOT_FOUND);
        assert_eq!(replica.call(&bob.text, Some(&session)).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(replicas.requests(), before, "a foreign session reached the server");
}

async fn revocation(store: Arc<dyn ResourceStore>) {
    let replicas = Replicas::start(store).await;
    let [a, b] = &replicas.both;
    let (ada, bob) = (a.key("ada").await, a.key("bob").await);
    replicas.have(&[&ada, &bob]).await;
    let session = a.initialize(&ada.text).await;
    for replica in [a, b] {
        assert_eq!(replica.call(&ada.text, Some(&session)).await.status, StatusCode::OK);
    }

    let revision = b.keys.revoke(&ada.id).await.unwrap().expect("the key was there");
    // Causality, not time: who has applied the revocation refuses.
    for replica in [a, b] {
        replica.snapshots.wait_for(revision).await;
        assert_eq!(replica.call(&ada.text, Some(&session)).await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(replica.call(&bob.text, None).await.status, StatusCode::OK, "others go on");
    }
}

async fn disabling(store: Arc<dyn ResourceStore>) {
    let replicas = Replicas::start(store).await;
    let [a, b] = &replicas.both;
    let (mut people, mut tokens) = (Vec::new(), Vec::new());
    for name in ["ada", "bob"] {
        let asserted = Asserted::new(IdentityKey::new("https://idp.example", name), name);
        let person = a.users.sign_in(&asserted).await.unwrap();
        for replica in [a, b] {
            replica.snapshots.wait_for(person.revision).await;
        }
        tokens.push(a.token(&person.id).await);
        people.push(person.id);
    }
    // One replica has made the tokens; each remembers them.
    for (replica, token) in [(a, &tokens[0]), (b, &tokens[0]), (a, &tokens[1]), (b, &tokens[1])] {
        assert_eq!(replica.call(token, None).await.status, StatusCode::OK);
    }
    let owner = Principal::new("local", "owner").with_roles(Roles::OWNER);
    let begun = std::time::Instant::now();
    let revision = b.users.set_state(&owner, &people[0], UserState::Disabled, None).await.unwrap();
    for replica in [a, b] {
        replica.snapshots.wait_for(revision).await;
        assert_eq!(replica.call(&tokens[0], None).await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(replica.call(&tokens[1], None).await.status, StatusCode::OK, "others go on");
    }
    println!("from the act to the refusal on both: {:?}", begun.elapsed());
}

/// The ring turns while both replicas serve, one of which does not hear of it for a while. No client notices.
async fn rotation(store: Arc<dyn ResourceStore>) {
    let cut_off = FlakyStore::new(Arc::clone(&store));
    let clock = Arc::new(ManualClock::default());
    let replicas = Arc::new(Replicas::with([Arc::clone(&store), cut_off.clone()], clock.clone()).await);
    let [a, b] = &replicas.both;
    let key = a.key("ada").await;
    replicas.have(&[&key]).await;

    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|client| {
            let (replicas, stop, calls) = (Arc::clone(&replicas), Arc::clone(&stop), Arc::clone(&calls));
            let key = key.text.clone();
            tokio::spawn(async move {
                let mut oldest = None;
                while !stop.load(Ordering::SeqCst) {
                    // A session of each replica is used on the other; the very first one to the end.
                    let (mine, other) = (&replicas.both[client % 2], &replicas.both[1 - client % 2]);
                    let session = mine.initialize(&key).await;
                    for session in [&session, oldest.get_or_insert_with(|| session.clone())] {
                        let answer = other.call(&key, Some(session)).await;
                        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
                        calls.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    let more_calls = async || {
        let enough = calls.load(Ordering::SeqCst) + 40;
        until("calls went on", || {
            calls.load(Ordering::SeqCst) >= enough || load.iter().any(tokio::task::JoinHandle::is_finished)
        })
        .await;
    };

    more_calls().await;
    let first = a.ring.sealing_key().unwrap().id();
    cut_off.silence();
    a.ring.rotate().await.unwrap();
    clock.advance(Duration::from_secs(9));
    assert_eq!(a.ring.sealing_key().unwrap().id(), first, "the other replica may not have the new key yet");
    more_calls().await;
    cut_off.restore();
    // Ten seconds are for this.
    let newest = newest_session_key(&*store).await;
    until("the other replica had the new key", || b.ring.key(newest).is_some()).await;
    clock.advance(Duration::from_secs(2));
    for replica in [a, b] {
        assert_eq!(replica.ring.sealing_key().unwrap().id(), newest, "the new key seals");
    }
    more_calls().await;
    stop.store(true, Ordering::SeqCst);
    for one in load {
        one.await.expect("every call was answered with 200");
    }
}
