use axum::body::Body;
use http::{Request, StatusCode};
use mcp_gateway_core::contract::{AuditFull, Runtime as _, WorkloadId, WorkloadState};
use mcp_gateway_core::layer::audit::OnFull;
use mcp_gateway_core::record::{ActorKind, Category, EventKind, Outcome, Scope, Subject};
use serde_json::json;

use super::world::{World, owners};
use crate::api::{BODY_LIMIT, OPERATIONS, Recorded};
use crate::config::Config;

#[tokio::test]
async fn a_key_is_made_read_and_revoked_at_once() {
    let world = World::new().await;
    let body = json!({
        "name": "laptop", "servers": ["far", "own"], "scopes": ["mcp", "api:read"], "expires_at": "2999-01-01T00:00:00Z",
    });
    let made = world.post("/api/v1/api-keys", &body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let id = made.body["id"].as_str().unwrap();
    let key = made.body["key"].as_str().unwrap();
    let location = format!("/api/v1/api-keys/{id}");
    assert_eq!(made.headers["location"], location.as_str());
    assert_eq!(made.body["subject"], json!({ "issuer": "local", "id": "owner" }));

    // Good at once, with the caller's own rights.
    assert_eq!(world.with_key(key, "GET", "/api/v1/servers").await.status, StatusCode::OK);
    let read = world.get(&location).await;
    assert_eq!(read.headers["etag"], made.headers["etag"]);
    assert!(read.body["last_used_at"].is_string(), "{}", read.body);
    assert!(!read.body.to_string().contains(&key[33..]) && read.body.get("key").is_none());
    let listed = world.get("/api/v1/api-keys?limit=1").await;
    assert_eq!(listed.body["items"], json!([read.body]));

    let revoke = |tag: &str| owners("DELETE", &location).header("if-match", tag).body(Body::empty()).unwrap();
    assert_eq!(world.ask(revoke("\"0\"")).await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(world.with_key(key, "GET", "/api/v1/servers").await.status, StatusCode::OK);
    let tag = read.headers["etag"].to_str().unwrap();
    assert_eq!(world.ask(revoke(tag)).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.with_key(key, "GET", "/api/v1/servers").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.ask(revoke(tag)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get(&location).await.status, StatusCode::NOT_FOUND);
    for odd in ["x%00", "%ff", "a.b", &"x".repeat(300)] {
        let answer = world.get(&format!("/api/v1/api-keys/{odd}")).await;
        assert!(answer.status.is_client_error(), "{odd}: {}", answer.status);
    }

    let acts: Vec<_> = world.recorded().into_iter().filter(|event| event.kind == EventKind::Act).collect();
    let named = |action: &str, outcome| {
        acts.iter().any(|act| {
            act.method.as_deref() == Some(action) && act.outcome == outcome && act.target.as_deref() == Some(id)
        })
    };
    assert!(named("api-key.create", Outcome::Ok), "{acts:#?}");
    assert!(named("api-key.revoke", Outcome::Denied) && named("api-key.revoke", Outcome::Ok));
    assert!(!format!("{acts:?}").contains(&key[33..]), "the key is not in the trail");
}

#[tokio::test]
async fn an_owner_makes_keys_for_others_and_pages_see_each_once() {
    let world = World::new().await;
    let mut made = std::collections::BTreeSet::new();
    for n in 0..7 {
        let body = json!({ "name": format!("k{n}"), "servers": ["*"], "subject": "ada" });
        let answer = world.post("/api/v1/api-keys", &body).await;
        assert_eq!(answer.body["subject"]["id"], "ada");
        assert_eq!((&answer.body["owner"], &answer.body["scopes"]), (&json!(false), &json!(["mcp"])));
        made.insert(answer.body["id"].as_str().unwrap().to_owned());
    }
    let (mut seen, mut path) = (Vec::new(), "/api/v1/api-keys?limit=3".to_owned());
    loop {
        let page = world.get(&path).await.body;
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/api-keys?limit=3&cursor={next}");
    }
    assert!(seen.is_sorted() && seen.len() == 7);
    assert_eq!(seen.into_iter().collect::<std::collections::BTreeSet<_>>(), made);
}

#[tokio::test]
async fn bodies_are_read_strictly() {
    let world = World::new().await;
    let ok = json!({ "name": "x", "servers": ["*"] }).to_string();
    let padded = |size: usize| format!("{ok}{}", " ".repeat(size - ok.len()));
    let json = "application/json";
    let cases = [
        (json, ok.clone(), 201, ""),
        ("Application/JSON; charset=utf-8", ok.clone(), 201, ""),
        ("text/plain", ok.clone(), 415, ""),
        ("application/x-www-form-urlencoded", "name=x".into(), 415, ""),
        ("", ok.clone(), 415, ""),
        (json, padded(BODY_LIMIT), 201, ""),
        (json, padded(BODY_LIMIT + 1), 413, ""),
        (json, String::new(), 400, ""),
        (json, "{".into(), 400, ""),
        (json, format!("{ok} {{}}"), 400, ""),
        (json, r#"{"name":"x","servers":["*"],"admin":true}"#.into(), 422, "admin"),
        (json, r#"{"name":"x","servers":["*"],"a\u001b":1}"#.into(), 422, r"a\u{1b}"),
        (json, r#"{"name":"x","name":"y","servers":["*"]}"#.into(), 422, "name"),
        (json, r#"{"name":"x"}"#.into(), 422, "servers"),
        (json, r#"{"name":"x","servers":"*"}"#.into(), 422, "servers"),
        (json, r#"{"name":"x","servers":["*",7]}"#.into(), 422, "servers[1]"),
        (json, r#"{"name":"x","servers":[]}"#.into(), 422, "servers"),
        (json, r#"{"name":"","servers":["*"]}"#.into(), 422, "name"),
        (json, r#"{"name":"x","servers":["*"],"scopes":[]}"#.into(), 422, "scopes"),
        (json, r#"{"name":"x","servers":["*"],"scopes":["root"]}"#.into(), 422, "scopes[0]"),
        (json, r#"{"name":"x","servers":["*"],"subject":"a b"}"#.into(), 422, "subject"),
        (json, r#"{"name":"x","servers":["*"],"expires_at":"2000-01-01T00:00:00Z"}"#.into(), 422, "expires_at"),
        (json, r#"{"name":"x","servers":["*"],"expires_at":"soon"}"#.into(), 422, "expires_at"),
    ];
    for (kind, body, status, field) in cases {
        let what = format!("{kind} {}", &body[..body.len().min(80)]);
        let mut request = owners("POST", "/api/v1/api-keys");
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let answer = world.ask(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.body);
        if !field.is_empty() {
            assert_eq!(answer.body["data"]["field"], field, "{what}: {}", answer.body);
        }
        assert!(!answer.body.to_string().contains('\u{1b}'));
    }
    // What needs no body takes none.
    for (path, kind, body, status) in [
        ("/api/v1/servers/far/stop", json, "{}", 404),
        ("/api/v1/servers/far/stop", json, r#"{"force":true}"#, 422),
        ("/api/v1/servers/far/stop", "text/plain", "{}", 415),
    ] {
        let request = owners("POST", path).header("content-type", kind).body(Body::from(body)).unwrap();
        assert_eq!(world.ask(request).await.status.as_u16(), status, "{body}");
    }
}

#[tokio::test]
async fn workloads_are_stopped_and_started_again() {
    let world = World::with_servers().await;
    let (ada, bob) = (Subject::local("ada"), Subject::local("bob"));
    let of_ada = world.runs("own", Some(ada), WorkloadState::Running, None);
    let of_bob = world.runs("own", Some(bob), WorkloadState::Failed, Some("a\nb\u{1b}"));
    world.runs("shared", None, WorkloadState::Running, None);

    let stopped = world.post(&format!("/api/v1/servers/own/stop?workload={of_ada}"), &json!({})).await;
    assert_eq!(stopped.status, StatusCode::OK);
    let state = |body: &serde_json::Value, id: &str| {
        let all = body["workloads"].as_array().unwrap();
        all.iter().find(|one| one["id"] == id).unwrap()["state"].clone()
    };
    assert_eq!((state(&stopped.body, &of_ada), state(&stopped.body, &of_bob)), (json!("stopped"), json!("failed")));
    assert_eq!(stopped.body["last_error"], "a\nb\\u{1b}");
    // One server's operations do not reach another's workloads.
    let foreign = world.post("/api/v1/servers/own/stop?workload=shared", &json!({})).await;
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    assert_eq!(world.get("/api/v1/servers/shared").await.body["state"], "running");

    let restarted = world.post("/api/v1/servers/own/restart", &json!({})).await;
    assert_eq!(restarted.status, StatusCode::ACCEPTED);
    tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while world.runtime.ensured().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let mut ensured: Vec<_> = world.runtime.ensured().iter().map(ToString::to_string).collect();
    ensured.sort();
    let mut wanted = [of_ada, of_bob];
    wanted.sort();
    assert_eq!(ensured, wanted);

    // A shared server that never ran is started, too.
    let shared = WorkloadId("shared".into());
    world.runtime.stop(&shared).await.unwrap();
    assert!(world.runtime.remove(&shared).await.unwrap());
    assert_eq!(world.post("/api/v1/servers/shared/restart", &json!({})).await.status, StatusCode::ACCEPTED);
    for act in ["stop", "restart"] {
        assert_eq!(world.post(&format!("/api/v1/servers/far/{act}"), &json!({})).await.status, StatusCode::CONFLICT);
        assert_eq!(world.post(&format!("/api/v1/servers/no/{act}"), &json!({})).await.status, StatusCode::NOT_FOUND);
    }
    let acts = world.recorded();
    let restart = acts.iter().find(|act| {
        act.kind == EventKind::Act && act.method.as_deref() == Some("server.restart") && act.outcome == Outcome::Ok
    });
    let restart = restart.unwrap();
    assert_eq!((restart.server.as_deref(), restart.target.as_deref(), restart.status), (Some("own"), Some("own"), 202));
    assert!(acts.iter().all(|act| act.server.as_deref() != Some("no")), "only servers that exist are named");
}

#[tokio::test]
async fn a_runtime_that_is_away_is_said() {
    let world = World::with_servers().await;
    world.runtime.cut_off(Some(World::away()));
    let answer = world.post("/api/v1/servers/shared/stop", &json!({})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.body["data"]["detail"], "a\\u{1b}b");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(world.get("/api/v1/servers/shared").await.body["state"], "unknown");
    assert_eq!(world.get("/api/v1/servers/far").await.body["state"], "remote");
}

#[tokio::test]
async fn nothing_is_done_that_cannot_be_recorded() {
    let mut config = Config::default();
    config.audit.on_full = OnFull::Refuse;
    let world = World::with(config).await;
    let (id, key) = world.key(&[Scope::ApiRead, Scope::ApiWrite], true).await;
    let before = world.recorded().len();
    world.sink.refuse(Some(AuditFull::Space));
    let path = format!("/api/v1/api-keys/{id}");
    assert_eq!(world.with_key(&key, "DELETE", &path).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let answer = world.post("/api/v1/api-keys", &json!({ "name": "x", "servers": ["*"] })).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.get("/api/v1/audit-events").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        world.get("/api/v1/api-keys").await.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "the bootstrap token's use"
    );
    let keys = world.with_key(&key, "GET", "/api/v1/api-keys").await;
    assert_eq!(keys.body["items"].as_array().unwrap().len(), 1, "nothing was made or revoked: {}", keys.body);

    world.sink.refuse(None);
    assert_eq!(world.with_key(&key, "DELETE", &path).await.status, StatusCode::NO_CONTENT);
    let recorded = world.recorded();
    let kinds: Vec<_> = recorded.iter().map(|event| event.kind).collect();
    assert_eq!((before, &kinds[..]), (0, &[EventKind::Intent, EventKind::Act][..]));
    assert_eq!(recorded[0].request_id, recorded[1].request_id);

    let mut config = Config::default();
    config.audit.on_full = OnFull::Count;
    let world = World::with(config).await;
    world.sink.refuse(Some(AuditFull::Space));
    let answer = world.post("/api/v1/api-keys", &json!({ "name": "x", "servers": ["*"] })).await;
    assert_eq!(answer.status, StatusCode::CREATED);
}

#[tokio::test]
async fn every_use_of_the_bootstrap_token_is_recorded() {
    let world = World::with_servers().await;
    let (_, key) = world.key(&[Scope::ApiRead], true).await;
    let reads: Vec<_> = OPERATIONS.iter().filter(|operation| operation.recorded == Recorded::No).collect();
    assert!(!reads.is_empty());
    for operation in reads {
        let path = operation.path.replace("{id}", "shared");
        let _ = world.recorded();
        world.with_key(&key, "GET", &path).await;
        assert_eq!(world.recorded().len(), 0, "{operation:?}");
        world.get(&path).await;
        let recorded = world.recorded();
        let actor = recorded.first().and_then(|event| event.actor.as_ref()).map(|actor| actor.kind);
        assert_eq!((recorded.len(), actor), (1, Some(ActorKind::Bootstrap)), "{operation:?}");
        assert_eq!(recorded[0].method.as_deref(), Some(operation.action));
    }
}

#[tokio::test]
async fn session_keys_are_replaced_by_an_owner() {
    let world = World::new().await;
    let before = world.app.session_keys.sealing_key().unwrap().id();
    let (_, admin) = world.key(&[Scope::ApiRead, Scope::ApiWrite], false).await;
    let path = "/api/v1/session-keys/replace";
    assert_eq!(world.with_key(&admin, "POST", path).await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.app.session_keys.sealing_key().unwrap().id(), before);
    assert_eq!(world.post(path, &json!({})).await.status, StatusCode::NO_CONTENT);
    assert_ne!(world.app.session_keys.sealing_key().unwrap().id(), before);
    assert!(world.app.session_keys.key(before).is_none(), "the old key opens nothing any more");
    world.store.cut();
    assert_eq!(world.post(path, &json!({})).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_write_ends_although_its_caller_hangs_up() {
    let world = World::new().await;
    let body = json!({ "name": "x", "servers": ["*"] }).to_string();
    let request = owners("POST", "/api/v1/api-keys").header("content-type", "application/json");
    // The trail stalls: the caller leaves while the intent waits, and after it.
    let mut sent = Box::pin(world.send(request.body(Body::from(body)).unwrap()));
    let mut polls = 0;
    while world.sink.events().is_empty() {
        polls += 1;
        assert!(polls < 1_000);
        assert!(futures_util::poll!(&mut sent).is_pending());
    }
    drop(sent);
    let made = async {
        while !world.sink.events().iter().any(|event| event.kind == EventKind::Act && event.outcome == Outcome::Ok) {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), made).await.unwrap();
    assert_eq!(world.app.keys.list(None, None, 10).await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_store_that_is_away_is_503() {
    let world = World::with_servers().await;
    world.store.cut();
    for path in ["/api/v1/entries", "/api/v1/entries/far", "/api/v1/api-keys"] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    // Servers are in memory.
    assert_eq!(world.get("/api/v1/servers").await.status, StatusCode::OK);
    let request = Request::builder().uri("/api/v1/entries").body(Body::empty()).unwrap();
    assert_eq!(world.ask(request).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn refusals_of_strangers_are_in_the_trail_and_those_of_the_known_once() {
    let world = World::new().await;
    for _ in 0..3 {
        assert_eq!(world.with_key("wrong", "GET", "/api/v1/api-keys").await.status, StatusCode::UNAUTHORIZED);
    }
    let (_, key) = world.key(&[Scope::Mcp], true).await;
    assert_eq!(world.with_key(&key, "GET", "/api/v1/api-keys").await.status, StatusCode::FORBIDDEN);
    world.recorded();
    world.app.strangers.flush(&*world.app.audit_sink, world.app.clock.now()).await;
    let rows = world.recorded();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].category, rows[0].kind), (Category::Admin, EventKind::RefusedMany));
    assert_eq!((rows[0].status, rows[0].messages, rows[0].outcome), (401, 3, Outcome::Denied));
}
