mod acts;
mod clients;
mod filters;
mod people;
mod policies;
mod reads;
mod schema;
mod tools;
mod trail;
pub(crate) mod world;

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Request, StatusCode};
use mcp_gateway_core::record::{Category, EventKind, Outcome, Scope};
use serde_json::Value;

use self::world::{World, owners};
use super::{OPERATIONS, Recorded};

fn concrete(path: &str) -> String {
    path.replace("{id}", "shared").replace("{identity}", "shared")
}

#[test]
fn the_document_describes_exactly_the_table() {
    let document = schema::json_document();
    assert_eq!(document["openapi"], "3.1.0");
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(|method| (path.clone(), method.to_uppercase())))
        .collect();
    let table: BTreeSet<_> =
        OPERATIONS.iter().map(|operation| (operation.path.to_owned(), operation.method.to_string())).collect();
    assert_eq!(described, table);
    assert_eq!(table.len(), OPERATIONS.len(), "an operation is in the table twice");
    let actions: BTreeSet<_> = OPERATIONS.iter().map(|operation| operation.action).collect();
    assert_eq!(actions.len(), OPERATIONS.len(), "two operations share an action");
    for operation in OPERATIONS {
        let described = &document["paths"][operation.path][operation.method.as_str().to_lowercase()];
        assert_eq!(described["security"][0]["bearer"][0], operation.access.scope.as_str(), "{operation:?}");
        assert!(described["responses"]["default"].is_object(), "{operation:?}");
        assert!(described["summary"].is_string(), "{operation:?}");
        // Whatever changes something needs the scope to write, and is recorded.
        // A dry run says a lot in its body, and changes nothing.
        let dry = ["policy.evaluate", "policy.replay"].contains(&operation.action);
        let writes = operation.method != http::Method::GET && !dry;
        assert_eq!(writes, operation.access.scope == Scope::ApiWrite, "{operation:?}");
        assert_eq!(writes, operation.recorded == Recorded::Write, "{operation:?}");
    }
}

#[test]
fn examples_fit_their_schemas() {
    let schemas = schema::json_document()["components"]["schemas"].as_object().unwrap();
    let mut examples = 0;
    for (name, schema) in schemas {
        if let Some(example) = schema.get("example") {
            examples += 1;
            schema::check(schema, example, name);
            // An example that leaves a member out, or has one too many, teaches the wrong thing.
            let Some(members) = schema["properties"].as_object() else { continue };
            for member in example.as_object().unwrap().keys() {
                assert!(members.contains_key(member), "{name}.{member}");
            }
        }
    }
    assert!(examples >= 10, "{examples}");
}

#[tokio::test]
async fn every_operation_is_routed_and_nobody_else_gets_in() {
    let world = World::with_servers().await;
    for operation in OPERATIONS {
        let path = concrete(operation.path);
        let request = Request::builder().method(&operation.method).uri(&path).body(Body::empty()).unwrap();
        let answer = world.ask(request).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{operation:?}");
        assert!(answer.headers.contains_key("www-authenticate"));

        let answer = world.ask(owners(operation.method.as_str(), &path).body(Body::empty()).unwrap()).await;
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{operation:?}");
        assert!(
            answer.status != StatusCode::NOT_FOUND || answer.body["detail"] != "There is no such path.",
            "{operation:?}"
        );
    }
    for wrong in ["wrong", "mcpgw_x_y", &world.key(&[Scope::ApiRead], true).await.1[1..]] {
        assert_eq!(world.with_key(wrong, "GET", "/api/v1/servers").await.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_problems() {
    let world = World::with_servers().await;
    for path in
        ["/api", "/api/", "/api/v1/", "/api/v2/servers", "/api/v1/serverz", "/api/v1/servers/", "/api/v1/entries/x/y"]
    {
        assert_eq!(world.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
        let stranger = world.ask(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(stranger.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    for operation in OPERATIONS {
        let own: BTreeSet<_> =
            OPERATIONS.iter().filter(|one| one.path == operation.path).map(|one| one.method.as_str()).collect();
        for method in ["PUT", "PATCH", "DELETE", "POST", "OPTIONS"] {
            if own.contains(method) {
                continue;
            }
            let answer = world.ask(owners(method, &concrete(operation.path)).body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {}", operation.path);
            let allow = answer.headers["allow"].to_str().unwrap();
            let allowed: BTreeSet<_> = allow.split(',').map(str::trim).filter(|one| *one != "HEAD").collect();
            assert_eq!(allowed, own, "{}", operation.path);
        }
    }
}

#[tokio::test]
async fn scope_and_role_must_both_suffice() {
    let world = World::with_servers().await;
    let (_, reads) = world.key(&[Scope::ApiRead, Scope::Mcp], true).await;
    let (_, writes) = world.key(&[Scope::ApiWrite], true).await;
    let (_, ada) = world.key(&[Scope::ApiRead, Scope::ApiWrite], false).await;
    for operation in OPERATIONS {
        let path = concrete(operation.path);
        let method = operation.method.as_str();
        let narrow = if operation.access.scope == Scope::ApiRead { &writes } else { &reads };
        let _ = world.recorded();
        let answer = world.with_key(narrow, method, &path).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{operation:?}");
        let challenge = answer.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains("insufficient_scope") && challenge.contains(operation.access.scope.as_str()));

        let answer = world.with_key(&ada, method, &path).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{operation:?}: {}", answer.body);
        assert!(!answer.headers.contains_key("www-authenticate"), "no other scope helps");

        let recorded = world.recorded();
        assert_eq!(recorded.len(), 2, "{operation:?}");
        for event in recorded {
            assert_eq!((event.category, event.kind, event.outcome), (Category::Admin, EventKind::Act, Outcome::Denied));
            assert_eq!((event.method.as_deref(), event.status), (Some(operation.action), 403));
        }
    }
}

#[tokio::test]
async fn an_owners_key_may_do_all_but_make_keys() {
    let world = World::with_servers().await;
    let (_, key) = world.key(&[Scope::ApiRead, Scope::ApiWrite], true).await;
    for operation in OPERATIONS {
        let answer = world.with_key(&key, operation.method.as_str(), &concrete(operation.path)).await;
        assert_eq!(answer.status == StatusCode::FORBIDDEN, !operation.access.by_key, "{operation:?}: {}", answer.body);
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let world = World::with_servers().await;
    for (origin, status) in [
        ("https://gateway.example", StatusCode::OK),
        ("http://localhost:3000", StatusCode::OK),
        ("https://evil.example", StatusCode::FORBIDDEN),
        ("https://claude.ai", StatusCode::FORBIDDEN),
        ("null", StatusCode::FORBIDDEN),
    ] {
        let request = owners("POST", "/api/v1/servers/shared/stop").header("origin", origin);
        let answer = world.ask(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, status, "{origin}");
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")));
    }
}

#[tokio::test]
async fn guessing_is_bounded() {
    let mut config = crate::config::Config::default();
    config.limits.auth_failures_per_minute = 3;
    let world = World::with(config).await;
    let guess = || {
        let request = Request::get("/api/v1").header("authorization", "Bearer guess");
        let peer = mcp_gateway_core::context::PeerAddr("192.0.2.1:1".parse().unwrap());
        request.extension(peer).body(Body::empty()).unwrap()
    };
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(world.ask(guess()).await.status.as_u16());
    }
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
}

#[tokio::test]
async fn the_index_and_the_document_are_served() {
    let world = World::new().await;
    let index = world.get("/api/v1").await;
    assert_eq!(index.body["operations"]["/api/v1/api-keys"], serde_json::json!(["GET", "POST"]));
    let document = world.get("/api/v1/openapi.json").await;
    assert_eq!(&document.body, schema::json_document());
    let tag = document.headers["etag"].clone();
    let request = owners("GET", "/api/v1/openapi.json").header("if-none-match", tag).body(Body::empty()).unwrap();
    let again = world.ask(request).await;
    assert_eq!((again.status, again.body), (StatusCode::NOT_MODIFIED, Value::Null));
}
