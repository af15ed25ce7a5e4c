//! Access policies, and dry runs.

use axum::body::Body;
use http::StatusCode;
use jiff::SignedDuration;
use mcp_gateway_core::contract::{AuditRow, AuditStore as _, StreamId, When, Write};
use mcp_gateway_core::policy::AccessPolicy;
use mcp_gateway_core::record::{
    ActorFacts, ActorKind, AuditEvent, Category, EventKind, Resources, Roles, Scope, Subject, TenantId, User, UserState,
};
use serde_json::{Value, json};

use super::world::{Answer, World, owners};

fn rules() -> Value {
    json!([
        { "effect": "allow", "subjects": [{ "group": "ops" }], "targets": [{ "server": "shared" }] },
        { "effect": "deny", "subjects": ["everyone"], "targets": [{ "server": "shared", "tools": ["delete_*"] }] },
    ])
}

async fn send(world: &World, method: &str, path: &str, tag: Option<&str>, body: &Value) -> Answer {
    let mut request = owners(method, path).header("content-type", "application/json");
    if let Some(tag) = tag {
        request = request.header("if-match", tag);
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    world.ask(request.body(body).unwrap()).await
}

#[tokio::test]
async fn a_policy_lives_from_post_to_delete() {
    let world = World::with_servers().await;
    let first = world.get("/api/v1/policies").await;
    assert_eq!(first.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(first.body["items"][0]["id"], "default");
    let new = json!({ "id": "ops", "name": "Ops", "rules": rules() });
    let made = world.post("/api/v1/policies", &new).await;
    assert_eq!(
        (made.status, &made.headers["location"]),
        (StatusCode::CREATED, &"/api/v1/policies/ops".parse().unwrap())
    );
    assert_eq!((&made.body["rules"], &made.body["enabled"]), (&rules(), &json!(true)));
    assert_eq!(world.recorded().last().unwrap().target.as_deref(), Some("ops"));
    assert_eq!(world.post("/api/v1/policies", &new).await.status, StatusCode::CONFLICT);

    let path = "/api/v1/policies/ops";
    let read = world.get(path).await;
    let tag = read.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!((&read.body, read.headers["etag"].clone()), (&made.body, made.headers["etag"].clone()));
    let off = json!({ "name": "Ops", "enabled": false, "rules": rules() });
    assert_eq!(send(&world, "PUT", path, Some("\"1\""), &off).await.status, StatusCode::PRECONDITION_FAILED);
    let replaced = send(&world, "PUT", path, Some(&tag), &off).await;
    assert_eq!((replaced.status, &replaced.body["enabled"]), (StatusCode::OK, &json!(false)));
    assert_eq!(send(&world, "PUT", path, Some(&tag), &off).await.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(send(&world, "DELETE", path, Some(&tag), &Value::Null).await.status, StatusCode::PRECONDITION_FAILED);
    let tag = replaced.headers["etag"].to_str().unwrap();
    assert_eq!(send(&world, "DELETE", path, Some(tag), &Value::Null).await.status, StatusCode::NO_CONTENT);
    for method in ["GET", "PUT", "DELETE"] {
        let body = if method == "PUT" { &off } else { &Value::Null };
        assert_eq!(send(&world, method, path, None, body).await.status, StatusCode::NOT_FOUND, "{method}");
    }
    let unnamed = world.post("/api/v1/policies", &json!({ "name": "x", "rules": [] })).await;
    assert_eq!(unnamed.status, StatusCode::CREATED);
    let page = world.get("/api/v1/policies?limit=1").await;
    let next = page.body["next_cursor"].as_str().unwrap();
    let rest = world.get(&format!("/api/v1/policies?limit=1&cursor={next}")).await;
    assert_ne!(rest.body["items"][0]["id"], page.body["items"][0]["id"]);
    assert_eq!(rest.body["next_cursor"], Value::Null);
}

#[tokio::test]
async fn what_is_wrong_with_a_policy_is_named() {
    let world = World::new().await;
    let rule =
        |subjects: Value, targets: Value| json!([{ "effect": "allow", "subjects": subjects, "targets": targets }]);
    for (id, rules, field) in [
        ("Ops", json!([]), "id"),
        ("evaluate", json!([]), "id"),
        ("replay", json!([]), "id"),
        ("a", json!([{ "effect": "permit", "subjects": ["everyone"], "targets": [{}] }]), "rules[0].effect"),
        ("a", rule(json!([{ "role": "king" }]), json!([{}])), "rules[0].subjects[0].role"),
        ("a", rule(json!(["everybody"]), json!([{}])), "rules[0].subjects[0]"),
        ("a", rule(json!(["everyone"]), json!([{ "tool": ["x"] }])), "rules[0].targets[0].tool"),
        ("a", rule(json!([]), json!([{}])), "rules[0].subjects"),
        ("a", rule(json!(["everyone"]), json!([{ "tools": [""] }])), "rules[0].targets[0].tools[0]"),
    ] {
        let answer = world.post("/api/v1/policies", &json!({ "id": id, "name": "p", "rules": rules })).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{rules}");
        assert_eq!(answer.body["data"]["field"], field, "{}", answer.body);
    }
}

#[tokio::test]
async fn only_a_person_changes_rules() {
    let world = World::new().await;
    let (_, key) = world.key(&[Scope::ApiRead, Scope::ApiWrite], true).await;
    assert_eq!(world.with_key(&key, "GET", "/api/v1/policies").await.status, StatusCode::OK);
    assert_eq!(world.with_key(&key, "DELETE", "/api/v1/policies/default").await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.get("/api/v1/policies/default").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_dry_run_names_the_rule() {
    let world = World::with_servers().await;
    let (key, _) = world.key(&[Scope::Mcp], true).await;
    let user = User {
        name: "Ada".to_owned(),
        email: None,
        roles: Roles::BASIC,
        groups: vec!["ops".to_owned()],
        state: UserState::Active,
        epoch: 0,
        created_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let users = Resources::<User>::new(world.app.resources.clone(), world.app.sealer.clone(), TenantId::default());
    world.app.snapshots.wait_for(users.save("ada", &user, When::Any).await.unwrap()).await;
    let eve = User { groups: Vec::new(), ..user };
    world.app.snapshots.wait_for(users.save("eve", &eve, When::Any).await.unwrap()).await;
    let client = world.post("/api/v1/oauth/clients", &json!({ "name": "CI", "secret": true })).await;
    let client = client.body["id"].as_str().unwrap_or_else(|| panic!("{}", client.body)).to_owned();
    let ada = json!({ "user": "ada" });
    let asks = async |subject: &Value, more: Value| {
        let mut body = json!({ "subject": subject, "server": "shared" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = world.post("/api/v1/policies/evaluate", &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        format!("{} {}", answer.body["allow"], answer.body["rule"].as_str().unwrap())
    };
    let call = |name: &str| json!({ "method": "tools/call", "name": name });
    assert_eq!(asks(&ada, json!({})).await, "true default/0");
    world.post("/api/v1/policies", &json!({ "id": "ops", "name": "Ops", "rules": rules() })).await;
    assert_eq!(
        send(&world, "DELETE", "/api/v1/policies/default", None, &Value::Null).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(asks(&ada, json!({})).await, "true ops/0");
    assert_eq!(asks(&ada, call("list")).await, "true ops/0");
    assert_eq!(asks(&ada, call("delete_all")).await, "false ops/1");
    assert_eq!(asks(&json!({ "user": "eve" }), call("list")).await, "false no-rule");
    assert_eq!(asks(&json!({ "apiKey": key }), call("list")).await, "false no-rule");
    assert_eq!(asks(&ada, json!({ "method": "x/y" })).await, "false unruled-method");
    let machine = json!({ "client": client });
    assert_eq!(asks(&machine, call("list")).await, "false no-rule");
    let ci = json!([{ "effect": "allow", "subjects": [machine], "targets": [{ "server": "shared" }] }]);
    world.post("/api/v1/policies", &json!({ "id": "ci", "name": "CI", "rules": ci })).await;
    assert_eq!(asks(&machine, call("list")).await, "true ci/0");
    let denied = world
        .post(
            "/api/v1/policies/evaluate",
            &json!({ "subject": ada, "server": "shared", "method": "tools/call", "name": "delete_all" }),
        )
        .await;
    assert_eq!((&denied.body["policy"], &denied.body["index"]), (&json!("ops"), &json!(1)));
    for (body, field) in [
        (json!({ "subject": { "apiKey": "nobody" }, "server": "shared" }), "subject.apiKey"),
        (json!({ "subject": { "user": "nobody" }, "server": "shared" }), "subject.user"),
        (json!({ "subject": { "client": "nobody" }, "server": "shared" }), "subject.client"),
        (json!({ "subject": ada, "server": "nowhere" }), "server"),
        (json!({ "subject": { "group": "ops" }, "server": "shared" }), "subject"),
        (json!({ "subject": ada, "server": "shared", "name": "x" }), "method"),
    ] {
        let answer = world.post("/api/v1/policies/evaluate", &body).await;
        assert_eq!((answer.status, &answer.body["data"]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)));
    }
}

#[tokio::test]
async fn a_draft_is_tried_on_what_happened() {
    let world = World::with_servers().await;
    let now = jiff::Timestamp::now();
    let call = |seq: u64, who: &str, method: &'static str, target: &str| {
        let mut event = AuditEvent::new(now, ulid::Ulid::from_parts(0, seq.into()), Category::Mcp, EventKind::Exchange);
        event.actor =
            Some(ActorFacts { subject: Subject::local(who), kind: ActorKind::Client, id: "laptop".into(), name: None });
        (event.server, event.method, event.target) = (Some("shared".into()), Some(method.into()), Some(target.into()));
        AuditRow { stream: StreamId(ulid::Ulid::nil()), seq, event }
    };
    let rows = vec![
        call(1, "ada", "tools/call", "delete_x"),
        call(2, "ada", "tools/call", "delete_x"),
        call(3, "ada", "tools/call", "list"),
        call(4, "eve", "tools/call", "list"),
        call(5, "eve", "completion/complete", "x"),
        call(6, "ada", "tools/call", &format!("delete_{}", "x".repeat(501))),
        call(7, "ada", "tools/call", &format!("delete_{}", "x".repeat(502))),
    ];
    world.audit.append(rows).await.unwrap();
    let (from, to) = (now - SignedDuration::from_secs(60), now + SignedDuration::from_secs(60));
    let replay = async |policy: Value| {
        let body = json!({ "from": from, "to": to, "policy": policy });
        world.post("/api/v1/policies/replay", &body).await
    };
    let deny = json!([{ "effect": "deny", "subjects": ["everyone"], "targets": [{ "tools": ["delete_*"] }] }]);
    let beside = replay(json!({ "name": "less", "rules": deny })).await;
    assert_eq!(
        (beside.status, &beside.body["examined"], &beside.body["undecided"]),
        (StatusCode::OK, &json!(7), &json!(2))
    );
    let changes = beside.body["changes"]["items"].as_array().unwrap();
    assert_eq!(changes.len(), 2, "{}", beside.body);
    assert_eq!((&changes[0]["calls"], &changes[0]["target"]), (&json!(2), &json!("delete_x")));
    assert_eq!(changes[0]["before"], json!({ "allow": true, "rule": "default/0" }));
    assert_eq!(changes[0]["after"], json!({ "allow": false, "rule": "draft/0" }));

    let allow = json!([{ "effect": "allow", "subjects": [{ "user": "ada" }], "targets": [{}] }]);
    let instead = replay(json!({ "id": "default", "name": "ada", "rules": allow })).await;
    let changes = instead.body["changes"]["items"].as_array().unwrap();
    assert_eq!((changes.len(), &changes[0]["subject"]["id"]), (1, &json!("eve")), "{}", instead.body);
    assert_eq!(replay(json!({ "name": "same", "rules": [] })).await.body["changes"]["items"], json!([]));
    let wrong = json!([{ "effect": "deny", "subjects": [], "targets": [{}] }]);
    assert_eq!(replay(json!({ "name": "x", "rules": wrong })).await.body["data"]["field"], "policy.rules[0].subjects");
    let reserved = replay(json!({ "id": "replay", "name": "x", "rules": [] })).await;
    assert_eq!(
        (reserved.status, &reserved.body["data"]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("policy.id"))
    );
    // Nothing came into force.
    assert_eq!(world.get("/api/v1/policies").await.body["items"].as_array().unwrap().len(), 1);
    // Nobody can say what one that cannot be read would let.
    let policies =
        Resources::<AccessPolicy>::new(world.app.resources.clone(), world.app.sealer.clone(), TenantId::default());
    let value = bytes::Bytes::from_static(br#"{"name":"bad","rules":[],"fromALaterVersion":true}"#);
    let write = Write::Put { key: policies.key("bad"), value, index: Vec::new(), ttl: None, when: When::Any };
    world.app.resources.commit(vec![write]).await.unwrap();
    assert_eq!(replay(json!({ "name": "same", "rules": [] })).await.status, StatusCode::CONFLICT);
    // It is in no list, and can be replaced and deleted all the same.
    assert_eq!(world.get("/api/v1/policies").await.body["items"].as_array().unwrap().len(), 1);
    let path = "/api/v1/policies/bad";
    let good = json!({ "name": "good", "rules": [] });
    assert_eq!(send(&world, "PUT", path, None, &good).await.status, StatusCode::OK);
    assert_eq!(send(&world, "DELETE", path, None, &Value::Null).await.status, StatusCode::NO_CONTENT);
}
