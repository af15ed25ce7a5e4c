//! What tools servers have shown, and who may approve it.

use axum::body::Body;
use http::StatusCode;
use mcp_gateway_core::contract::When;
use mcp_gateway_core::pin::ToolInventory;
use serde_json::{Value, json};

use super::world::{World, owners};

#[tokio::test]
async fn tools_are_listed_page_by_page_and_approved_as_they_were_seen() {
    let world = World::with_servers().await;
    let id = world.get("/api/v1/servers").await.body["items"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/servers/{id}/tools");
    assert_eq!(world.get("/api/v1/servers/none/tools").await.status, StatusCode::NOT_FOUND);
    let empty = world.get(&path).await.body;
    assert_eq!((&empty["items"], &empty["revision"], &empty["on_change"]), (&json!([]), &Value::Null, &json!("off")));

    let version =
        |digest: &str| json!({ "digest": digest, "since": "2026-11-20T12:00:00Z", "flags": ["encoded-text"] });
    let inventory: ToolInventory = serde_json::from_value(json!({
        "since": "2026-11-20T12:00:00Z",
        "complete": true,
        "tools": {
            "a": { "pinned": [version("1")], "changed": [] },
            "b": { "pinned": [version("2")], "changed": [version("3")], "unstable": true },
            "c": { "pinned": [], "changed": [version("4")] },
        },
    }))
    .unwrap();
    let revision = world.entries.of_kind::<ToolInventory>().save(&id, &inventory, When::Absent).await.unwrap();
    world.app.snapshots.wait_for(revision).await;
    let page = world.get(&format!("{path}?limit=2")).await;
    let states = |page: &Value| {
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| format!("{} {}", item["name"].as_str().unwrap(), item["state"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(states(&page.body), ["a pinned", "b changed"]);
    assert_eq!(page.body["items"][1]["changed"][0]["text"], Value::Null, "nobody has kept it");
    let cursor = page.body["next_cursor"].as_str().unwrap();
    let rest = world.get(&format!("{path}?limit=2&cursor={cursor}")).await;
    assert_eq!((states(&rest.body), &rest.body["next_cursor"]), (vec!["c new".to_owned()], &Value::Null));

    let approve = async |body: Value, tag: Option<&str>| {
        let mut request = owners("POST", &format!("{path}/approve")).header("content-type", "application/json");
        if let Some(tag) = tag {
            request = request.header("if-match", tag);
        }
        world.ask(request.body(Body::from(body.to_string())).unwrap()).await
    };
    assert_eq!(approve(json!({ "digests": ["3"] }), None).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(approve(json!({ "tool": "b", "digests": [] }), None).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(approve(json!({}), None).await.status, StatusCode::PRECONDITION_REQUIRED);
    let unstable = approve(json!({ "tool": "b" }), page.headers["etag"].to_str().ok()).await;
    assert_eq!(unstable.status, StatusCode::UNPROCESSABLE_ENTITY, "nobody can say which one is meant");
    let both = approve(json!({ "tool": "b", "digests": ["2", "3"] }), None).await;
    assert_eq!((both.status, &both.body["waiting"]), (StatusCode::OK, &json!(1)));
    let outdated = page.headers["etag"].to_str().unwrap();
    assert_eq!(approve(json!({}), Some(outdated)).await.status, StatusCode::PRECONDITION_FAILED);
    let tag = both.headers["etag"].to_str().unwrap();
    assert_eq!(approve(json!({}), Some(tag)).await.body["waiting"], 0);
    assert_eq!(states(&world.get(&path).await.body), ["a pinned", "b pinned", "c pinned"]);
    assert_eq!(world.get(&path).await.body["items"][1]["pinned"][0]["differs"], Value::Null, "nobody knows");

    let reset = async |tag: &str| {
        let request = owners("DELETE", &path).header("if-match", tag);
        world.ask(request.body(Body::empty()).unwrap()).await.status
    };
    let tag = world.get(&path).await.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(reset(outdated).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(reset(&tag).await, StatusCode::NO_CONTENT);
    assert_eq!(reset(&tag).await, StatusCode::NOT_FOUND);
    assert_eq!(states(&world.get(&path).await.body), Vec::<String>::new());
    let recorded = world.recorded();
    for act in ["tool.approve", "tool.reset"] {
        assert!(recorded.iter().any(|event| event.method.as_deref() == Some(act)), "{act}");
    }
}
