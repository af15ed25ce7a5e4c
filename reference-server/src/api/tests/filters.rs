//! Filters, and what they do with messages that nobody sent.

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use mcp_gateway_core::contract::{When, Write};
use mcp_gateway_core::filter::{FilterLimits, FilterSpec};
use mcp_gateway_core::record::{Resources, Scope, TenantId};
use serde_json::{Value, json};

use super::world::{Answer, World, owners};

async fn send(world: &World, method: &str, path: &str, tag: Option<&str>, body: &Value) -> Answer {
    let mut request = owners(method, path).header("content-type", "application/json");
    if let Some(tag) = tag {
        request = request.header("if-match", tag);
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    world.ask(request.body(body).unwrap()).await
}

fn kept(world: &World) -> Resources<FilterSpec> {
    Resources::new(world.app.resources.clone(), world.app.sealer.clone(), TenantId::default())
}

#[tokio::test]
async fn a_filter_lives_from_post_to_delete() {
    let world = World::with_servers().await;
    let new = json!({ "id": "cards", "name": "Cards", "check": { "kind": "pii", "action": "redact", "types": ["payment-card"] } });
    let made = world.post("/api/v1/filters", &new).await;
    assert_eq!(
        (made.status, &made.headers["location"]),
        (StatusCode::CREATED, &"/api/v1/filters/cards".parse().unwrap())
    );
    let defaults = ["enabled", "order", "fail_mode", "timeout_ms", "retries", "short_circuit", "signed"]
        .map(|name| made.body[name].clone());
    assert_eq!(defaults, [json!(true), json!(0), json!("closed"), json!(5_000), json!(0), json!(true), json!(false)]);
    assert_eq!(world.recorded().last().unwrap().target.as_deref(), Some("cards"));
    assert_eq!(world.post("/api/v1/filters", &new).await.status, StatusCode::CONFLICT);

    let path = "/api/v1/filters/cards";
    let read = world.get(path).await;
    let tag = read.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(read.body, made.body);
    let off = json!({ "name": "Cards", "enabled": false, "check": { "kind": "size", "action": "flag", "bytes": 9 } });
    assert_eq!(send(&world, "PUT", path, Some("\"1\""), &off).await.status, StatusCode::PRECONDITION_FAILED);
    let replaced = send(&world, "PUT", path, Some(&tag), &off).await;
    assert_eq!((replaced.status, &replaced.body["enabled"]), (StatusCode::OK, &json!(false)));
    assert_eq!(send(&world, "DELETE", path, Some(&tag), &Value::Null).await.status, StatusCode::PRECONDITION_FAILED);
    let tag = replaced.headers["etag"].to_str().unwrap();
    assert_eq!(send(&world, "DELETE", path, Some(tag), &Value::Null).await.status, StatusCode::NO_CONTENT);
    for (method, path, body) in [
        ("GET", path, &Value::Null),
        ("PUT", path, &off),
        ("DELETE", path, &Value::Null),
        ("POST", "/api/v1/filters/cards/test", &json!({ "direction": "request", "message": {} })),
    ] {
        assert_eq!(send(&world, method, path, None, body).await.status, StatusCode::NOT_FOUND, "{method}");
    }
    assert_eq!(world.get("/api/v1/filters").await.body["items"], json!([]));
}

#[tokio::test]
async fn what_is_wrong_with_a_filter_is_named() {
    let world = World::new().await;
    let good = json!({ "kind": "secrets", "action": "redact" });
    for (body, field) in [
        (json!({ "id": "A", "name": "x", "check": good }), "id"),
        (json!({ "name": "", "check": good }), "name"),
        (json!({ "name": "x", "check": good, "timeout_ms": 0 }), "timeout_ms"),
        (json!({ "name": "x", "check": good, "priority": 1 }), "priority"),
        (json!({ "name": "x", "check": good, "selectors": [{ "tools": ["x"] }] }), "selectors[0].tools"),
        (json!({ "name": "x", "check": good, "selectors": [{ "directions": ["up"] }] }), "selectors[0].directions[0]"),
        (
            json!({ "name": "x", "check": { "kind": "regex", "action": "flag", "patterns": [{ "name": "p", "pattern": "(" }] } }),
            "check.patterns[0].pattern",
        ),
        (json!({ "name": "x", "check": { "kind": "secrets", "action": "redact", "bytes": 1 } }), "check"),
    ] {
        let answer = world.post("/api/v1/filters", &body).await;
        assert_eq!(
            (answer.status, &answer.body["data"]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)),
            "{}",
            answer.body
        );
    }
}

#[tokio::test]
async fn a_secret_goes_in_and_never_out_and_stays_with_its_origin() {
    let world = World::new().await;
    let hook = |url: &str, secret: Option<&str>| {
        let mut check = json!({ "kind": "webhook", "url": url });
        if let Some(secret) = secret {
            check["secret"] = secret.into();
        }
        json!({ "name": "Hook", "check": check })
    };
    let mut new = hook("https://a.example/x", Some("s3cret-of-the-hook"));
    new["id"] = "hook".into();
    let made = world.post("/api/v1/filters", &new).await;
    assert_eq!((made.status, &made.body["signed"]), (StatusCode::CREATED, &json!(true)));
    assert!(!made.body.to_string().contains("s3cret"), "{}", made.body);
    let path = "/api/v1/filters/hook";
    assert!(!world.get(path).await.body.to_string().contains("s3cret"));
    assert!(!world.get("/api/v1/filters").await.body.to_string().contains("s3cret"));
    let record = world.app.resources.get(&[kept(&world).key("hook")]).await.unwrap().pop().flatten().unwrap();
    assert!(!String::from_utf8_lossy(&record.value).contains("s3cret"), "sealed where it is kept");
    for (url, secret, signed) in [
        ("https://a.example/y", None, true),
        ("https://b.example/y", None, false),
        ("https://b.example/y", Some("other"), true),
        ("https://b.example:444/y", None, false),
        ("https://b.example:444/y", Some("third"), true),
        ("https://b.example:444/y", Some(""), false),
        ("https://b.example:444/y", None, false),
    ] {
        let answer = send(&world, "PUT", path, None, &hook(url, secret)).await;
        assert_eq!((answer.status, &answer.body["signed"]), (StatusCode::OK, &json!(signed)), "{url} {secret:?}");
    }
}

#[tokio::test]
async fn only_a_person_changes_filters() {
    let world = World::new().await;
    world
        .post("/api/v1/filters", &json!({ "id": "f", "name": "f", "check": { "kind": "secrets", "action": "flag" } }))
        .await;
    let (_, key) = world.key(&[Scope::ApiRead, Scope::ApiWrite], true).await;
    assert_eq!(world.with_key(&key, "GET", "/api/v1/filters").await.status, StatusCode::OK);
    assert_eq!(world.with_key(&key, "DELETE", "/api/v1/filters/f").await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.get("/api/v1/filters/f").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_message_that_nobody_sent_is_judged() {
    let world = World::new().await;
    let new = json!({
        "id": "cards", "name": "Cards", "enabled": false,
        "selectors": [{ "servers": ["shop"], "methods": ["tools/call"], "directions": ["request"] }],
        "check": { "kind": "pii", "action": "redact" },
    });
    assert_eq!(world.post("/api/v1/filters", &new).await.status, StatusCode::CREATED);
    let message = |text: &str| json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "pay", "arguments": { "a": text } } });
    let ask = async |direction: &str, server: &str, message: Value| {
        let body = json!({ "direction": direction, "server": server, "message": message });
        world.post("/api/v1/filters/cards/test", &body).await
    };
    let judged = ask("request", "shop", message("4111 1111 1111 1111")).await;
    assert_eq!(judged.status, StatusCode::OK, "{}", judged.body);
    assert_eq!((&judged.body["selected"], &judged.body["verdict"]), (&json!(true), &json!("replaced")));
    assert_eq!(
        (&judged.body["found"], &judged.body["message"]),
        (&json!(["payment-card"]), &message("[redacted:payment-card]"))
    );
    let other = ask("response", "shop", message("nothing")).await.body;
    assert_eq!(
        (&other["selected"], &other["verdict"], &other["message"]),
        (&json!(false), &json!("passed"), &message("nothing"))
    );
    assert_eq!(ask("request", "bank", message("x")).await.body["selected"], json!(false));
    let number = ask(
        "request",
        "shop",
        json!({ "jsonrpc": "2.0", "id": 1, "method": "x", "params": { "a": 4_111_111_111_111_111_u64 } }),
    )
    .await
    .body;
    assert_eq!((&number["verdict"], &number["message"]), (&json!("refused"), &Value::Null));
    assert_eq!(number["because"], "The filter \"Cards\" refuses this: it holds payment-card.");
    let none = ask("request", "shop", json!({ "hello": 1 })).await;
    assert_eq!((none.status, &none.body["data"]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("message")));
}

#[tokio::test]
async fn one_that_cannot_be_read_hides_no_other_and_can_be_replaced() {
    let world = World::new().await;
    let value = Bytes::from_static(br#"{"name":"bad","check":{"kind":"ofALaterVersion"}}"#);
    let write = Write::Put { key: kept(&world).key("bad"), value, index: Vec::new(), ttl: None, when: When::Any };
    world.app.resources.commit(vec![write]).await.unwrap();
    let good = json!({ "name": "good", "check": { "kind": "secrets", "action": "flag" } });
    assert_eq!(world.post("/api/v1/filters", &good).await.status, StatusCode::CREATED);
    assert_eq!(world.get("/api/v1/filters").await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(send(&world, "PUT", "/api/v1/filters/bad", None, &good).await.status, StatusCode::OK);
    assert_eq!(send(&world, "DELETE", "/api/v1/filters/bad", None, &Value::Null).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn plain_http_is_for_where_a_hole_is() {
    let world = World::new().await;
    let hook = |url: &str| json!({ "name": "Hook", "check": { "kind": "webhook", "url": url } });
    let refused = world.post("/api/v1/filters", &hook("http://a.example/")).await;
    assert_eq!(
        (refused.status, &refused.body["data"]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("check.url"))
    );
    assert_eq!(world.post("/api/v1/filters", &hook("https://a.example/")).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn there_are_so_many_filters() {
    let world = World::new().await;
    let good = json!({ "name": "good", "check": { "kind": "secrets", "action": "flag" } });
    let writes = (1..FilterLimits::FILTERS).map(|number| Write::Put {
        key: kept(&world).key(&format!("f{number}")),
        value: good.to_string().into(),
        index: Vec::new(),
        ttl: None,
        when: When::Any,
    });
    world.app.resources.commit(writes.collect()).await.unwrap();
    let made = world.post("/api/v1/filters", &good).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let more = world.post("/api/v1/filters", &good).await;
    assert_eq!(more.status, StatusCode::CONFLICT, "{}", more.body);
    assert_eq!(send(&world, "DELETE", "/api/v1/filters/f1", None, &Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.post("/api/v1/filters", &good).await.status, StatusCode::CREATED);
}
