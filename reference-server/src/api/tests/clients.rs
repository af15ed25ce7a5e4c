//! Clients and signing keys.

use axum::body::Body;
use http::{Request, StatusCode};
use mcp_gateway_auth::api_key::NewKey;
use mcp_gateway_auth::server::OAuthClient;
use mcp_gateway_core::contract::{KeyRing as _, When};
use mcp_gateway_core::record::{Category, EventKind, Principal, Rate, Resources, Roles, Scope, Subject, TenantId};
use serde_json::json;
use tower::ServiceExt as _;

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

/// A key makes clients by which people agree to something, and none that has anything without: it would outlive the key.
#[tokio::test]
async fn a_key_makes_no_client_that_acts_for_itself() {
    let world = World::new().await;
    let (_, key) = world.key(&[Scope::ApiRead, Scope::ApiWrite], true).await;
    let cb = json!(["https://a.example/cb"]);
    let jwt = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    for (new, by_key) in [
        (json!({ "name": "x", "secret": true, "redirect_uris": cb }), StatusCode::CREATED),
        (json!({ "name": "x", "secret": true }), StatusCode::FORBIDDEN),
        (
            json!({ "name": "x", "secret": true, "redirect_uris": cb, "grant_types": ["authorization_code", "client_credentials"] }),
            StatusCode::FORBIDDEN,
        ),
        (json!({ "name": "x", "secret": true, "grant_types": [jwt] }), StatusCode::FORBIDDEN),
        (json!({ "name": "x", "secret": true, "redirect_uris": cb, "resource_server": "far" }), StatusCode::FORBIDDEN),
    ] {
        let request = Request::post("/api/v1/oauth/clients")
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json");
        let answer = world.ask(request.body(Body::from(new.to_string())).unwrap()).await;
        assert_eq!(answer.status, by_key, "{new}: {}", answer.body);
        let in_person = world.post("/api/v1/oauth/clients", &new).await.status;
        assert_ne!(in_person, StatusCode::FORBIDDEN, "{new}");
    }
}

/// An approval is for what was looked at; a key may do it, for whoever keeps clients by a program.
#[tokio::test]
async fn a_client_is_approved_as_it_was_shown() {
    let world = World::new().await;
    let (_, key) = world.key(&[Scope::ApiRead, Scope::ApiWrite], true).await;
    let waits: OAuthClient = serde_json::from_value(json!({
        "knownBy": "registration", "redirectUris": ["https://startup.example/cb"], "authentication": "none",
        "grants": ["authorization_code"], "createdAt": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    let kept =
        Resources::<OAuthClient>::new(world.app.resources.clone(), world.app.sealer.clone(), TenantId::default());
    kept.save("waits", &waits, When::Any).await.unwrap();
    let path = "/api/v1/oauth/clients/waits";
    let shown = world.with_key(&key, "GET", path).await;
    assert_eq!(shown.body["state"], "pending");
    let approve = async |tag: &http::HeaderValue| {
        let request = Request::post(format!("{path}/approve")).header("authorization", format!("Bearer {key}"));
        world.ask(request.header("if-match", tag).body(Body::empty()).unwrap()).await
    };
    let elsewhere = OAuthClient { redirect_uris: vec!["https://evil.example/cb".into()], ..waits.clone() };
    kept.save("waits", &elsewhere, When::Any).await.unwrap();
    assert_eq!(approve(&shown.headers["etag"]).await.status, StatusCode::PRECONDITION_FAILED);
    let now = world.with_key(&key, "GET", path).await;
    assert_eq!(now.body["state"], "pending");
    assert_eq!(approve(&now.headers["etag"]).await.body["state"], "usable");
}

#[tokio::test]
async fn guesses_at_a_clients_secret_are_counted_not_listed() {
    let world = World::new().await;
    let made = world.post("/api/v1/oauth/clients", &json!({ "name": "CI", "secret": true })).await;
    let id = made.body["id"].as_str().unwrap();
    world.recorded();
    let router = crate::oauth::router(&world.app);
    for n in 0..20 {
        let id = if n % 2 == 0 { id } else { "made-up" };
        let form = format!("grant_type=client_credentials&client_id={id}&client_secret=guess-{n}");
        let request = Request::post("/token")
            .header("content-type", "application/x-www-form-urlencoded")
            .extension(mcp_gateway_core::context::PeerAddr("192.0.2.1:1".parse().unwrap()))
            .body(Body::from(form))
            .unwrap();
        assert_eq!(router.clone().oneshot(request).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    assert!(world.recorded().is_empty(), "no row of its own");
    world.app.strangers.flush(&*world.app.audit_sink, world.app.clock.now()).await;
    let rows = world.recorded();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].category, rows[0].kind), (Category::Auth, EventKind::RefusedMany));
    assert_eq!((rows[0].status, rows[0].messages), (401, 20));
}

#[tokio::test]
async fn a_key_has_its_rate_here_too() {
    let world = World::new().await;
    let owner = Principal::new(Subject::LOCAL, "owner").with_roles(Roles::OWNER);
    let mut new = NewKey::named("slow");
    new.scopes = vec![Scope::ApiRead];
    new.rate = Some(Rate { limit: 2, seconds: 60 });
    let key = world.app.keys.create(&owner, new).await.unwrap();
    world.app.snapshots.wait_for(key.revision).await;
    for status in [200, 200, 429] {
        let answer = world.with_key(key.key.expose(), "GET", "/api/v1/me").await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.body);
        assert_eq!(answer.headers.contains_key("retry-after"), status == 429);
    }
}

#[tokio::test]
async fn signing_keys_turn_and_are_replaced() {
    let world = World::new().await;
    let keys = world.app.oauth.as_ref().unwrap().keys.clone();
    let count =
        || serde_json::from_str::<serde_json::Value>(&keys.document()).unwrap()["keys"].as_array().unwrap().len();
    assert_eq!(count(), 1);
    let (first, of_servers) = (keys.document(), world.app.upstream_keys.document());
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
    assert_ne!(world.app.upstream_keys.document(), of_servers);
}
