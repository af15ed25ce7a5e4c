//! Clients and signing keys.

use axum::body::Body;
use http::StatusCode;
use mcp_gateway_core::contract::KeyRing as _;
use serde_json::json;

use super::world::{Answer, World, owners};

async fn delete(world: &World, path: &str) -> Answer {
    world.ask(owners("DELETE", path).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn clients_are_made_blocked_and_deleted() {
    let world = World::new().await;
    let body = json!({ "name": "Portal", "redirect_uris": ["https://portal.example/cb"], "secret": true });
    let made = world.post("/api/v1/oauth/clients", &body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let (id, secret) = (made.body["id"].as_str().unwrap(), made.body["client_secret"].as_str().unwrap());
    let location = format!("/api/v1/oauth/clients/{id}");
    assert_eq!(made.headers["location"], location.as_str());
    let read = world.get(&location).await;
    assert_eq!((&read.body["known_by"], &read.body["state"]), (&json!("operator"), &json!("usable")));
    assert!(!read.body.to_string().contains(secret), "shown once");
    assert_eq!(world.get("/api/v1/oauth/clients").await.body["items"], json!([read.body]));

    for (act, state) in [("block", "blocked"), ("unblock", "usable")] {
        let answer = world.post(&format!("{location}/{act}"), &json!({})).await;
        assert_eq!((answer.status, &answer.body["state"]), (StatusCode::OK, &json!(state)), "{}", answer.body);
    }
    // One that is known by its document alone.
    let document = "/api/v1/oauth/clients/https%3A%2F%2Fa.example%2Fclient.json";
    let answer = world.post(&format!("{document}/block"), &json!({})).await;
    assert_eq!(
        (&answer.body["id"], &answer.body["state"]),
        (&json!("https://a.example/client.json"), &json!("blocked"))
    );
    assert_eq!(delete(&world, document).await.status, StatusCode::CONFLICT, "it could come again");
    // One whose URL is longer than the id of a record.
    let long = format!("https://a.example/{}/client.json", "long".repeat(60));
    let path = format!("/api/v1/oauth/clients/{}", long.replace(':', "%3A").replace('/', "%2F"));
    let blocked = world.post(&format!("{path}/block"), &json!({})).await;
    assert_eq!((&blocked.body["id"], &blocked.body["state"]), (&json!(long), &json!("blocked")));
    assert_eq!(world.get(&path).await.body, blocked.body);
    for act in ["approve", "unblock"] {
        let answer = world.post(&format!("/api/v1/oauth/clients/nobody/{act}"), &json!({})).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(delete(&world, &location).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get(&location).await.status, StatusCode::NOT_FOUND);
    for (wrong, field) in [
        (json!({ "name": "" }), "name"),
        (json!({ "name": "x" }), "secret"),
        (json!({ "name": "x", "redirect_uris": ["javascript:x"] }), "redirect_uris"),
        (json!({ "name": "x", "jwks": { "keys": [] } }), "jwks"),
        (json!({ "name": "x", "grant_types": ["password"] }), "grant_types[0]"),
    ] {
        let answer = world.post("/api/v1/oauth/clients", &wrong).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.body);
        assert_eq!(answer.body["data"]["field"], field);
    }
}

#[tokio::test]
async fn signing_keys_turn_and_are_replaced() {
    let world = World::new().await;
    let keys = world.app.oauth.as_ref().unwrap().keys.clone();
    let count =
        || serde_json::from_str::<serde_json::Value>(&keys.document()).unwrap()["keys"].as_array().unwrap().len();
    assert_eq!(count(), 1);
    let first = keys.document();
    assert_eq!(world.post("/api/v1/oauth/signing-keys/rotate", &json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(count(), 2);
    for _ in 0..4 {
        world.post("/api/v1/oauth/signing-keys/rotate", &json!({})).await;
    }
    let full = world.post("/api/v1/oauth/signing-keys/rotate", &json!({})).await;
    assert_eq!(full.status, StatusCode::CONFLICT, "{}", full.body);
    assert_eq!(world.post("/api/v1/oauth/signing-keys/replace", &json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(count(), 1);
    assert_ne!(keys.document(), first);
}
