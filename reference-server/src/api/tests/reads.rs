use std::time::Duration;

use axum::body::Body;
use http::StatusCode;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use mcp_gateway_core::contract::{LogLine, WorkloadId, WorkloadState};
use mcp_gateway_core::record::{Scope, Subject};
use serde_json::{Value, json};

use super::world::{World, owners};

#[tokio::test]
async fn the_catalog_is_listed_without_its_secrets() {
    let world = World::with_servers().await;
    let first = world.get("/api/v1/entries?limit=2").await;
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&first.body), ["far", "own"]);
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let second = world.get(&format!("/api/v1/entries?limit=2&cursor={cursor}")).await;
    assert_eq!((ids(&second.body), &second.body["next_cursor"]), (vec!["shared".to_owned()], &Value::Null));
    assert!(!first.body.to_string().contains("hunter2"));

    let far = world.get("/api/v1/entries/far").await;
    assert_eq!(far.body, first.body["items"][0]);
    assert_eq!(far.body["url"], "https://gateway.example/mcp-connect/far");
    assert_eq!(far.body["entry"]["remoteConfig"]["headers"][0]["hasValue"], true);
    assert_eq!(far.headers["etag"], format!("\"{}\"", far.body["revision"]).as_str());
    for (path, tag) in
        [("/api/v1/entries/far", &far.headers["etag"]), ("/api/v1/entries?limit=2", &first.headers["etag"])]
    {
        let request = owners("GET", path).header("if-none-match", tag).body(Body::empty()).unwrap();
        assert_eq!(world.ask(request).await.status, StatusCode::NOT_MODIFIED, "{path}");
    }
    for absent in ["no", "Far", "far%2F", "..%2ffar", "%00", &"x".repeat(300)] {
        let answer = world.get(&format!("/api/v1/entries/{absent}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{absent}");
    }
}

#[tokio::test]
async fn an_entry_that_is_not_served_says_why() {
    let world = World::new().await;
    world
        .put(
            json!({ "entryKey": "bad", "name": "Bad", "runtime": "remote", "remoteConfig": { "fixedURL": "ftp://x" } }),
        )
        .await;
    let bad = world.get("/api/v1/entries/bad").await.body;
    assert_eq!(bad["served"], false);
    assert!(bad["problem"].as_str().is_some_and(|problem| !problem.is_empty()), "{bad}");
    assert_eq!(world.get("/api/v1/servers/bad").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn pages_and_parameters_are_read_strictly() {
    let world = World::with_servers().await;
    for path in ["/api/v1/entries", "/api/v1/servers", "/api/v1/api-keys", "/api/v1/audit-events"] {
        for (query, status) in [
            ("limit=1", 200),
            ("limit=1000", 200),
            ("limit=0", 400),
            ("limit=1001", 400),
            ("limit=-1", 400),
            ("limit=1&limit=2", 400),
            ("cursor=%21", 400),
            ("cursor=", 400),
            ("colour=red%1b", 400),
        ] {
            let answer = world.get(&format!("{path}?{query}")).await;
            assert_eq!(answer.status.as_u16(), status, "{path}?{query}: {}", answer.body);
            if query.starts_with("colour") {
                assert!(answer.body["detail"].as_str().unwrap().contains("colour"), "{}", answer.body);
            }
        }
    }
}

#[tokio::test]
async fn servers_show_the_best_state_of_their_workloads() {
    let world = World::with_servers().await;
    let listed = world.get("/api/v1/servers").await.body;
    let states: Vec<_> = listed["items"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["remote", "idle", "idle"]);
    assert_eq!(listed["items"][1]["placement"], "per_subject");
    assert_eq!(listed["items"][1]["runtime"], "uvx");

    world.runs("own", Some(Subject::local("ada")), WorkloadState::Failed, Some("it broke"));
    world.runs("own", Some(Subject::local("bob")), WorkloadState::Running, None);
    world.runs("owner", None, WorkloadState::Running, None);
    let own = world.get("/api/v1/servers/own").await.body;
    assert_eq!((&own["state"], &own["children"], &own["restarts"]), (&json!("running"), &json!(4), &json!(6)));
    assert_eq!(own["last_error"], "it broke");
    let subjects: Vec<_> =
        own["workloads"].as_array().unwrap().iter().map(|one| one["subject"]["id"].clone()).collect();
    assert_eq!(subjects.len(), 2);
    assert!(subjects.contains(&json!("ada")) && subjects.contains(&json!("bob")));

    let (mut ids, mut path) = (Vec::new(), "/api/v1/servers?limit=1".to_owned());
    loop {
        let page = world.get(&path).await.body;
        ids.extend(page["items"].as_array().unwrap().iter().map(|one| one["id"].clone()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/servers?limit=1&cursor={next}");
    }
    assert_eq!(ids, ["far", "own", "shared"]);
}

fn line(text: &str) -> LogLine {
    LogLine { at: Timestamp::UNIX_EPOCH, child: Some(7), text: text.to_owned() }
}

#[tokio::test]
async fn logs_are_escaped_events() {
    let world = World::with_servers().await;
    let long = format!("{}\u{202e}", "é".repeat(3_000));
    world.runtime.set_log(WorkloadId("shared".into()), vec![line("old"), line("a\u{1b}[2Jb\r"), line(&long)]);
    let answer = world.get("/api/v1/servers/shared/logs?tail=2").await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let lines: Vec<Value> = answer
        .body
        .as_str()
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], json!({ "at": "1970-01-01T00:00:00Z", "child": 7, "text": "a\\u{1b}[2Jb\\r" }));
    assert_eq!(lines[1]["text"], format!("{}\\u{{202e}}", "é".repeat(3_000)));

    for (path, status) in [
        ("/api/v1/servers/shared/logs?tail=10000", 200),
        ("/api/v1/servers/shared/logs?tail=10001", 400),
        ("/api/v1/servers/shared/logs?tail=x", 400),
        ("/api/v1/servers/shared/logs?workload=own", 404),
        ("/api/v1/servers/own/logs", 404),
        ("/api/v1/servers/far/logs", 409),
        ("/api/v1/servers/no/logs", 404),
    ] {
        assert_eq!(world.get(path).await.status.as_u16(), status, "{path}");
    }
    let ada = world.runs("own", Some(Subject::local("ada")), WorkloadState::Running, None);
    assert_eq!(world.get("/api/v1/servers/own/logs").await.status, StatusCode::OK);
    world.runs("own", Some(Subject::local("bob")), WorkloadState::Running, None);
    assert_eq!(world.get("/api/v1/servers/own/logs").await.status, StatusCode::CONFLICT);
    assert_eq!(world.get(&format!("/api/v1/servers/own/logs?workload={ada}")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_log_ends_with_the_key_that_reads_it_and_with_the_server() {
    let world = World::with_servers().await;
    world.runtime.set_log(WorkloadId("shared".into()), vec![line("one")]);
    let path = "/api/v1/servers/shared/logs?follow=true";
    let follow = async |key: &str| {
        let request = http::Request::get(path).header("authorization", format!("Bearer {key}"));
        let mut body = world.send(request.body(Body::empty()).unwrap()).await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(b"data: "), "{first:?}");
        body
    };
    let (id, revoked) = world.key(&[Scope::ApiRead], true).await;
    let (_, other) = world.key(&[Scope::ApiRead], true).await;
    let mut ends = follow(&revoked).await;
    let mut stays = follow(&other).await;
    let revision = world.app.keys.revoke(&id).await.unwrap().unwrap();
    world.app.snapshots.wait_for(revision).await;
    let end = tokio::time::timeout(Duration::from_secs(20), ends.frame()).await.unwrap();
    assert!(end.is_none(), "{end:?}");
    assert!(futures_util::poll!(stays.frame()).is_pending());

    world.app.draining.cancel();
    let end = tokio::time::timeout(Duration::from_secs(20), stays.frame()).await.unwrap();
    assert!(end.is_none(), "{end:?}");
}

#[tokio::test]
async fn logs_at_once_are_bounded_and_counted_back() {
    let world = World::with_servers().await;
    world.runtime.set_log(WorkloadId("shared".into()), vec![line("one")]);
    let follow = || owners("GET", "/api/v1/servers/shared/logs?follow=true").body(Body::empty()).unwrap();
    let mut open = Vec::new();
    for _ in 0..super::super::logs::STREAMS {
        open.push(world.send(follow()).await);
    }
    assert!(open.iter().all(|response| response.status() == StatusCode::OK));
    assert_eq!(world.ask(follow()).await.status, StatusCode::SERVICE_UNAVAILABLE);
    open.pop();
    assert_eq!(world.send(follow()).await.status(), StatusCode::OK);
}
