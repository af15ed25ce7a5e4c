use axum::body::Body;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{AuditRow, AuditStore as _, StreamId};
use mcp_gateway_core::record::{
    Actor, ActorFacts, ActorKind, AuditBodies, AuditEvent, Category, EventKind, Outcome, Principal, Roles, Scope,
    Subject,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use ulid::Ulid;

use super::world::{World, owners};
use crate::api::OPERATIONS;

fn event(ts: i64, n: u128) -> AuditEvent {
    AuditEvent::new(Timestamp::from_microsecond(ts).unwrap(), Ulid(n), Category::Mcp, EventKind::Exchange)
}

fn row(stream: u128, seq: u64, event: AuditEvent) -> AuditRow {
    AuditRow { stream: StreamId(Ulid(stream)), seq, event }
}

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_filter_finds_its_row_alone() {
    let world = World::new().await;
    let mut wanted = event(2_000_000, 7);
    wanted.actor = Some(ActorFacts {
        subject: Subject::local("ada"),
        kind: ActorKind::ApiKey,
        id: "key7".into(),
        name: Some("laptop".into()),
    });
    wanted.server = Some("everything".into());
    wanted.method = Some("tools/call".into());
    wanted.target = Some("echo \u{1b}".into());
    wanted.outcome = Outcome::ToolError;
    wanted.trace_id = Some("4bf92f3577b34da6a3ce929d0e0e4736".into());
    wanted.category = Category::System;
    let others = [event(1_000_000, 1), event(3_000_000, 3)];
    world
        .audit
        .append(vec![row(1, 1, others[0].clone()), row(1, 2, wanted), row(1, 3, others[1].clone())])
        .await
        .unwrap();
    for filter in [
        "from=1970-01-01T00:00:02Z&to=1970-01-01T00:00:03Z",
        "category=system",
        "server=everything",
        "subject=ada",
        "actor=key7",
        "method=tools%2Fcall",
        "target=echo+%1b",
        "outcome=tool_error",
        "request_id=00000000000000000000000007",
        "trace_id=4bf92f3577b34da6a3ce929d0e0e4736",
    ] {
        let page = world.get(&format!("/api/v1/audit-events?{filter}")).await;
        assert_eq!(ids(&page.body), ["00000000000000000000000001-2-2000000"], "{filter}: {}", page.body);
        let found = &page.body["items"][0];
        assert_eq!(found["actor"]["subject"], json!({ "issuer": "local", "id": "ada" }));
        assert_eq!((&found["target"], &found["outcome"]), (&json!("echo \u{1b}"), &json!("tool_error")));
        assert_eq!(found["ts"], "1970-01-01T00:00:02Z");
    }
    for bad in [
        "category=x",
        "outcome=x",
        "request_id=x",
        "from=yesterday",
        &format!("target={}", "x".repeat(513)),
        "cursor=AAAA",
    ] {
        let answer = world.get(&format!("/api/v1/audit-events?{bad}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let edge = format!("/api/v1/audit-events?target={}", "x".repeat(512));
    assert_eq!(world.get(&edge).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_act_says_which_versions_it_replaced() {
    let world = World::new().await;
    let document = |server: &str| {
        let rule = json!({ "effect": "allow", "subjects": ["everyone"], "targets": [{ "server": server }] });
        json!({ "name": "p", "rules": [rule] })
    };
    let mut new = document("a");
    new["id"] = "p".into();
    assert_eq!(world.post("/api/v1/policies", &new).await.status, StatusCode::CREATED);
    assert_eq!(world.post("/api/v1/policies", &new).await.status, StatusCode::CONFLICT);
    let put = owners("PUT", "/api/v1/policies/p").header("content-type", "application/json");
    let put = world.ask(put.body(Body::from(document("b").to_string())).unwrap()).await;
    let gone = world.ask(owners("DELETE", "/api/v1/policies/p").body(Body::empty()).unwrap()).await;
    assert_eq!((put.status, gone.status), (StatusCode::OK, StatusCode::NO_CONTENT));
    let page = world.get("/api/v1/audit-events?category=admin").await.body;
    let acts = page["items"].as_array().unwrap().iter().filter(|item| item["kind"] == "act");
    let acts = acts.filter(|item| item["method"].as_str().unwrap().starts_with("policy."));
    let changes: Vec<&Value> = acts.map(|item| &item["changes"]).collect();
    let [removed, replaced, refused, made] = changes[..] else { panic!("{changes:#?}") };
    assert_eq!(refused, &json!([]));
    assert_eq!(
        (&made[0]["kind"], &made[0]["id"], &made[0]["before"]),
        (&json!("access-policy"), &json!("p"), &Value::Null)
    );
    assert_eq!(made[0]["after"].as_str().unwrap().len(), 64);
    assert_eq!((&replaced[0]["before"], &removed[0]["before"]), (&made[0]["after"], &replaced[0]["after"]));
    assert_ne!(replaced[0]["before"], replaced[0]["after"]);
    assert_eq!(removed[0]["after"], Value::Null);
}

#[tokio::test]
async fn a_look_at_the_trail_is_in_it_and_so_is_what_was_just_done() {
    let world = World::with_servers().await;
    world.post("/api/v1/servers/shared/stop", &json!({})).await;
    let page = world.get("/api/v1/audit-events?category=admin").await.body;
    let actions = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|item| item["method"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(actions(&page), ["server.stop"], "one row for the intent and its end");
    let stop = &page["items"][0];
    assert_eq!((&stop["kind"], &stop["outcome"], &stop["server"]), (&json!("act"), &json!("ok"), &json!("shared")));
    assert_eq!(stop["actor"]["kind"], "bootstrap");
    let page = world.get("/api/v1/audit-events?category=admin").await.body;
    assert_eq!(actions(&page), ["audit-event.list", "server.stop"]);
    assert_eq!(page["items"][0]["target"], "category=admin");
}

#[tokio::test]
async fn captured_bodies_are_read_by_owners_and_auditors_and_the_look_is_recorded() {
    let world = World::new().await;
    let mut captured = event(2_000_000, 7);
    (captured.bytes_in, captured.bytes_out) = (900, 3);
    captured.bodies = Some(Box::new(AuditBodies {
        salt: [1; 16],
        request: "{\"a\":\"ä\"}".into(),
        response: vec![b'x', 0xff, 0].into(),
        request_headers: vec![("accept".into(), "*/*".into())],
        response_headers: Vec::new(),
    }));
    // Another row of the same microsecond, without bodies.
    world.audit.append(vec![row(1, 1, event(2_000_000, 6)), row(1, 2, captured)]).await.unwrap();
    let path = |seq| format!("/api/v1/audit-events/{}-{seq}-2000000/bodies", Ulid(1));
    let bodies = world.get(&path(2)).await;
    let wanted = json!({
        "id": format!("{}-2-2000000", Ulid(1)),
        "request": { "headers": [["accept", "*/*"]], "text": "{\"a\":\"ä\"}", "base64": null, "bytes": 900 },
        "response": { "headers": [], "text": null, "base64": "eP8A", "bytes": 3 },
    });
    assert_eq!((bodies.status, bodies.body), (StatusCode::OK, wanted));
    let recorded = world.recorded();
    let look = recorded.last().unwrap();
    assert_eq!(look.method.as_deref(), Some("audit-event.bodies"));
    assert_eq!(look.target.as_deref(), Some(&*format!("{}-2-2000000", Ulid(1))));

    let nothing = world.get(&path(1)).await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
    assert!(nothing.body["detail"].as_str().unwrap().contains("audit.bodies"), "{}", nothing.body);
    for absent in ["x", "-", "1-2", &format!("{}-3-2000000", Ulid(1)), &format!("{}-2-{}", Ulid(1), i64::MAX)] {
        let answer = world.get(&format!("/api/v1/audit-events/{absent}/bodies")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{absent}");
    }
    let operation = OPERATIONS.iter().find(|operation| operation.action == "audit-event.bodies").unwrap();
    let session = Actor { kind: ActorKind::Session, id: "x".into(), name: None };
    let of = |roles| {
        Principal::new("local", "x").with_actor(session.clone()).with_scopes([Scope::ApiRead]).with_roles(roles)
    };
    for (roles, may) in [(Roles::OWNER, true), (Roles::AUDITOR, true), (Roles::ADMIN, false)] {
        assert_eq!(
            operation.access.check(&of(roles), jiff::Timestamp::UNIX_EPOCH, std::time::Duration::ZERO).is_ok(),
            may,
            "{roles:?}"
        );
    }
}

#[tokio::test]
async fn usage_counts_calls_in_a_window() {
    let world = World::new().await;
    let mut call = event(1_000_000, 1);
    call.server = Some("everything".into());
    call.method = Some("tools/call".into());
    call.target = Some("echo".into());
    call.outcome = Outcome::Ok;
    call.total_us = 10;
    let mut failed = call.clone();
    failed.outcome = Outcome::ToolError;
    failed.total_us = 30;
    world.audit.append(vec![row(1, 1, call), row(1, 2, failed)]).await.unwrap();
    let window = "from=1970-01-01T00:00:00Z&to=1970-01-02T00:00:00Z";
    let usage = world.get(&format!("/api/v1/usage?{window}")).await.body;
    let wanted = json!([{
        "server": "everything", "method": "tools/call", "target": "echo",
        "calls": 2, "errors": 1, "subjects": 0, "mean_us": 20,
    }]);
    assert_eq!(usage["rows"], wanted);
    assert_eq!(world.get(&format!("/api/v1/usage?{window}&server=other")).await.body["rows"], json!([]));
    for (query, status) in [
        ("", 200),
        ("?from=1970-01-01T00:00:00Z&to=1971-01-02T00:00:00Z", 200),
        ("?from=1970-01-01T00:00:00Z&to=1971-01-02T00:00:01Z", 400),
        ("?from=1970-01-01T00:00:00Z&to=1970-01-01T00:00:00Z", 400),
    ] {
        assert_eq!(world.get(&format!("/api/v1/usage{query}")).await.status.as_u16(), status, "{query}");
    }
    let defaults = world.get("/api/v1/usage").await.body;
    let time = |name: &str| defaults[name].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!(time("to").duration_since(time("from")), SignedDuration::from_hours(24));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Few times and streams, so that pages end between rows that are equal in all but the last part of the key.
    #[test]
    fn pages_see_each_row_once_and_newest_first(
        places in prop::collection::btree_set((0_i64..4, 1_u128..4, 1_u64..6), 0..40),
        limit in 1_usize..9,
        filtered: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let rows = places.iter().map(|&(ts, stream, seq)| {
                let mut event = event(ts, 0);
                if seq % 2 == 0 {
                    event.server = Some("even".into());
                }
                row(stream, seq, event)
            });
            world.audit.append(rows.collect()).await.unwrap();
            let filter = if filtered { "&server=even" } else { "" };
            let query = format!("/api/v1/audit-events?limit={limit}&category=mcp{filter}");
            let (mut seen, mut path) = (Vec::new(), query.clone());
            loop {
                let page = world.get(&path).await.body;
                let found = ids(&page);
                assert!(found.len() <= limit);
                seen.extend(found);
                let Some(next) = page["next_cursor"].as_str() else { break };
                path = format!("{query}&cursor={next}");
                // Newer rows come while somebody pages: they are in front of everything that is still to be seen.
                let newer = row(9, seen.len() as u64, event(5, 0));
                world.audit.append(vec![newer]).await.unwrap();
            }
            let wanted: Vec<String> = places
                .iter()
                .rev()
                .filter(|(_, _, seq)| !filtered || seq % 2 == 0)
                .map(|&(ts, stream, seq)| format!("{}-{seq}-{ts}", Ulid(stream)))
                .collect();
            assert_eq!(seen, wanted);
        });
    }
}
