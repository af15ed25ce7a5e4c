use mcp_gateway_core::contract::Query;

use super::*;
use crate::testing::World;

fn user() -> SessionUser {
    SessionUser { id: "ada".into(), epoch: 3 }
}

fn sessions(world: &World) -> Sessions {
    let options = SessionOptions::lasting(Duration::from_secs(600), Duration::from_secs(3_600));
    Sessions::new(world.of(), world.clock.clone(), options)
}

#[tokio::test]
async fn the_token_is_kept_as_a_hash_alone_and_never_the_same() {
    let world = World::new().await;
    let sessions = sessions(&world);
    let begun = sessions.begin(&user(), "local").await.unwrap();
    assert_ne!(begun.token, sessions.begin(&user(), "local").await.unwrap().token);
    let found = sessions.find(begun.token.expose()).await.unwrap().unwrap();
    assert_eq!((&*found.id, &*found.value.user, found.value.epoch), (&*begun.id, "ada", 3));
    assert!(sessions.find(&begun.id).await.unwrap().is_none(), "the id of the record opens nothing");
    let kept = world.store.list(&Query::all(Session::KIND)).await.unwrap();
    assert!(!format!("{kept:?}").contains(begun.token.expose()));
}

#[tokio::test]
async fn a_session_ends_when_idle_and_in_the_end() {
    let world = World::new().await;
    let sessions = sessions(&world);
    let begun = sessions.begin(&user(), "local").await.unwrap();
    let find = async || sessions.find(begun.token.expose()).await.unwrap();
    let seconds = |n| world.clock.advance(Duration::from_secs(n));
    // Used now and then, it lasts to its end, and not a second longer.
    for _ in 0..6 {
        seconds(599);
        assert!(find().await.is_some());
    }
    seconds(5);
    assert!(find().await.is_some());
    seconds(1);
    assert!(find().await.is_none());

    let idle = sessions.begin(&user(), "local").await.unwrap();
    seconds(599);
    assert!(sessions.find(idle.token.expose()).await.unwrap().is_some());
    seconds(600);
    assert!(sessions.find(idle.token.expose()).await.unwrap().is_none());
}

#[tokio::test]
async fn uses_are_noted_at_most_once_a_minute() {
    let world = World::new().await;
    let sessions = sessions(&world);
    let begun = sessions.begin(&user(), "local").await.unwrap();
    let revision = async || sessions.find(begun.token.expose()).await.unwrap().unwrap().revision;
    let first = revision().await;
    world.clock.advance(Duration::from_secs(59));
    assert_eq!(revision().await, first);
    world.clock.advance(Duration::from_secs(1));
    assert_ne!(revision().await, first);
}

#[tokio::test]
async fn sessions_are_ended_one_by_one_and_all_of_a_user() {
    let world = World::new().await;
    let sessions = sessions(&world);
    let mut begun = Vec::new();
    for id in ["ada", "ada", "bob"] {
        begun.push(sessions.begin(&SessionUser { id: id.into(), epoch: 0 }, "local").await.unwrap());
    }
    let live = async || {
        let mut live = Vec::new();
        for one in &begun {
            live.push(sessions.find(one.token.expose()).await.unwrap().is_some());
        }
        live
    };
    sessions.end(begun[0].token.expose()).await.unwrap();
    assert_eq!(live().await, [false, true, true]);
    sessions.end_all("ada").await.unwrap();
    assert_eq!(live().await, [false, false, true]);
}
